"""What cells should have been: expected values, and rows mended by them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import mode

from skvae.inference.imputation import conditional_draws
from skvae.model.latent import LatentModel

# Draws of a cell given the others: enough for the ends of a 90 % interval.
_DRAWS = 200
_INTERVAL = np.array([0.05, 0.5, 0.95])
# Most suspicious columns of a row that are tried at each step.
_CANDIDATES = 3


def expected_cells(
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
    for column in np.flatnonzero(wanted.any(0)):
        rows = wanted[:, column]
        without = coded[rows]
        without[:, column] = np.nan
        # The same draws for every column and call: answers repeat.
        draws = conditional_draws(model, without, bank, _DRAWS, 0)[:, :, column]
        if model.likelihood.kinds[column] == "categorical":
            points[:, rows, column] = mode(draws, axis=0).mode
        else:
            points[:, rows, column] = np.quantile(
                draws, _INTERVAL, axis=0, method="nearest"
            )
    return points


def mend(
    coded: np.ndarray,
    fill: Callable[[np.ndarray], np.ndarray],
    explain: Callable[[np.ndarray], np.ndarray],
    score: Callable[[np.ndarray], np.ndarray],
    offset: float,
) -> np.ndarray:
    """Replace as few cells as make each row pass the threshold.

    Greedy: of the columns that explain a row's low score best, the one whose
    replacement raises it most is replaced by what the others make likely, until the
    row passes; then what the row can do without replacing is put back.

    Parameters
    ----------
    coded : ndarray of shape (n_rows, n_columns)
    fill : callable
        Rows with NaN to rows with their conditional means there.
    explain : callable
        Rows to the parts of their scores, (n_rows, n_columns).
    score : callable
        Rows to scores, (n_rows,).
    offset : float
        Least score that passes.

    Returns
    -------
    ndarray of bool of shape (n_rows, n_columns)
        Cells to replace by `fill`.
    """
    replaced = np.zeros(coded.shape, dtype=bool)
    current = coded.copy()
    failing = np.flatnonzero(score(coded) < offset)
    n_tried = min(_CANDIDATES, coded.shape[1])
    for _ in range(coded.shape[1]):
        if not len(failing):
            break
        parts = explain(current[failing])
        parts[replaced[failing]] = np.inf
        candidates = np.argsort(parts, axis=1, kind="stable")[:, :n_tried]
        tried = np.repeat(replaced[failing][:, None], n_tried, axis=1)
        np.put_along_axis(tried, candidates[:, :, None], True, axis=2)
        filled = _filled(coded[failing][:, None], tried, fill)
        scores = score(filled.reshape(-1, coded.shape[1])).reshape(-1, n_tried)
        best, rows = scores.argmax(1), np.arange(len(failing))
        replaced[failing], current[failing] = tried[rows, best], filled[rows, best]
        failing = failing[scores[rows, best] < offset]
    return _spared(coded, replaced, fill, score, offset)


def _spared(
    coded: np.ndarray,
    replaced: np.ndarray,
    fill: Callable[[np.ndarray], np.ndarray],
    score: Callable[[np.ndarray], np.ndarray],
    offset: float,
) -> np.ndarray:
    """The replaced cells less those without which the row passes too."""
    for column in np.flatnonzero((replaced.sum(1) > 1) @ replaced):
        rows = np.flatnonzero(replaced[:, column] & (replaced.sum(1) > 1))
        tried = replaced[rows]
        tried[:, column] = False
        passes = score(_filled(coded[rows], tried, fill)) >= offset
        replaced[rows[passes], column] = False
    return replaced


def _filled(
    coded: np.ndarray, replaced: np.ndarray, fill: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The rows with these cells replaced; cells that were missing stay so."""
    holed = np.where(replaced, np.nan, coded)
    filled = fill(holed.reshape(-1, holed.shape[-1])).reshape(holed.shape)
    return np.where(replaced, filled, holed)
