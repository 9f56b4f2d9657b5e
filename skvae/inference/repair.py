"""What cells should have been: expected values, and rows mended by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from scipy.stats import mode
from torch import Tensor

from skvae._backend import as_array, as_tensor
from skvae.inference.imputation import cells_drawn_alone
from skvae.inference.proposals import modes, propose
from skvae.inference.scoring import DEFENSIVE
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms

# Draws of a cell given the others: enough for the ends of a 90 % interval. The exact
# quantiles of `intervals` would be solved for in all columns while one alone is wanted.
_DRAWS = 200
_INTERVAL = np.array([0.05, 0.5, 0.95])
# Most suspicious columns of a row that are tried at each step.
_CANDIDATES = 3
# Cells that are looked at together.
_CELLS = 256


@torch.no_grad()
def points_of_cells(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """5 %, 50 % and 95 % points of cells given the other cells of their row.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray of shape (n_rows, n_columns)
    bank : ndarray of shape (n_draws, n_components)
    wanted : ndarray of bool of shape (n_rows, n_columns)
        Cells to look at; each is left out in turn, the others stay.

    Returns
    -------
    ndarray of shape (3, n_rows, n_columns)
        Coded units; NaN where not wanted. Of a category all three are the level that
        is drawn most often.
    """
    points = np.full((3, *coded.shape), np.nan)
    rows, columns = np.nonzero(wanted)
    if not len(rows):
        return points
    asked, place = np.unique(rows, return_inverse=True)
    x = as_tensor(coded[asked], model.params.flat.dtype, model.device)
    observed, x = (~x.isnan()).to(x.dtype), x.nan_to_num()
    near = [
        modes(model, *own)
        for own in zip(x.split(_CELLS), observed.split(_CELLS), strict=True)
    ]
    start = torch.cat(near, dim=1)
    for first in range(0, len(rows), _CELLS):
        part = slice(first, first + _CELLS)
        own, without = place[part], observed[place[part]]
        without[np.arange(len(own)), columns[part]] = 0.0
        terms = _terms_near(model, x[own], without, bank, start[:, own])
        found = _points(terms, columns[part])
        points[:, rows[part], columns[part]] = found
    return points


def _terms_near(
    model: LatentModel, x: Tensor, observed: Tensor, bank: np.ndarray, start: Tensor
) -> Terms:
    """Terms of rows with holes, of which the codes without these holes are known."""
    unit = as_tensor(bank, x.dtype, x.device)[None, :, None]
    n_prior = len(bank) // DEFENSIVE
    return propose(model, x, observed, unit, n_prior=n_prior, start=start)


def _points(terms: Terms, columns: np.ndarray) -> np.ndarray:
    """Points of one cell of each row, (3, n_rows)."""
    # The same draws at every call and in any company: answers repeat.
    cells = as_array(cells_drawn_alone(terms, columns, _DRAWS, 0))
    points = np.quantile(cells, _INTERVAL, axis=1, method="nearest")
    ordered = np.array(terms.likelihood.ordered)[columns]
    return np.where(ordered, points, mode(cells, axis=1).mode)


Judge: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From positions of rows (n,) and which of their cells to replace (n, n_columns)
to the parts of the scores of the rows so filled (n, n_columns), and to the scores."""


def mend(wrong: np.ndarray, judge: Judge, offset: float) -> np.ndarray:
    """Replace as few cells as make each row pass the threshold.

    Greedy: of the columns that explain a row's low score best, the one whose
    replacement raises it most is replaced by what the others make likely, until the
    row passes; then what the row can do without replacing is put back.

    Parameters
    ----------
    wrong : ndarray of bool of shape (n_rows, n_columns)
        Cells that are replaced in any case.
    judge : callable
        What rows with some of their cells replaced score, and why.
    offset : float
        Least score that passes.

    Returns
    -------
    ndarray of bool of shape (n_rows, n_columns)
        Cells to replace; all of a row that passes by no replacement.
    """
    replaced, n_columns = wrong.copy(), wrong.shape[1]
    parts, scores = judge(np.arange(len(wrong)), replaced)
    failing = np.flatnonzero(scores < offset)
    n_tried = min(_CANDIDATES, n_columns)
    for _ in range(n_columns):
        if not len(failing):
            break
        left = np.where(replaced[failing], np.inf, parts[failing])
        candidates = np.argsort(left, axis=1, kind="stable")[:, :n_tried]
        tried = np.repeat(replaced[failing][:, None], n_tried, axis=1)
        np.put_along_axis(tried, candidates[:, :, None], True, axis=2)
        tried = tried.reshape(-1, n_columns)
        of_tried, scores = judge(np.repeat(failing, n_tried), tried)
        best = scores.reshape(-1, n_tried).argmax(1) + n_tried * np.arange(len(failing))
        replaced[failing], parts[failing] = tried[best], of_tried[best]
        failing = failing[scores[best] < offset]
    return _spared(replaced, wrong, judge, offset)


def _spared(
    replaced: np.ndarray, wrong: np.ndarray, judge: Judge, offset: float
) -> np.ndarray:
    """The replaced cells less those without which the row passes too."""
    for column in range(replaced.shape[1]):
        can = replaced[:, column] & ~wrong[:, column] & (replaced.sum(1) > 1)
        rows = np.flatnonzero(can)
        if len(rows):
            tried = replaced[rows]
            tried[:, column] = False
            passes = judge(rows, tried)[1] >= offset
            replaced[rows[passes], column] = False
    return replaced
