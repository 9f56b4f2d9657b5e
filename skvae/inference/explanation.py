"""Why a row scores as it does: additive contributions of its columns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae.inference.scoring import Score, read_score
from skvae.model.completion import Completion
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms


def contributions(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    score: Score,
    completion: Completion | None = None,
) -> np.ndarray:
    """Parts of each row's score, one a column, that sum to it.

    A column's part is its own cell's plus a share of the latent term (what the score
    holds beyond the cells: the price of an unusual code). That term is shared out in
    proportion to the squared length of the step that the cell, set against the expected
    one at z = 0, makes the code take along the encoder's linear path; in equal parts
    where no cell moves it. Missing cells have no part.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    bank : ndarray of shape (n_draws, n_components)
    score : Score
    completion : Completion or None
        Completes the rows before they are scored, where given, and tells which cell of
        a row fits the others least. A cell far off moves the code, and then others
        look wrong. So the other columns' parts are those of the row with that cell at
        its expected value, and what it takes from the score is its own. Missing cells
        have the part of what was put there.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        In coded units.
    """
    if completion is None:
        return _parts(model, coded, bank, score)
    observed, completed = ~np.isnan(coded), completion(coded)
    # Levels without an order lie nowhere, and far from nothing.
    asked = observed & model.likelihood.ordered
    mended, cell = completion.mended(coded, completed, asked)
    both = _parts(model, np.concatenate([completed, mended]), bank, score)
    both = both.astype(np.float64).reshape(2, *coded.shape)
    before, parts = both
    own = cell[:, None]
    taken = before.sum(axis=1, keepdims=True) - parts.sum(axis=1, keepdims=True)
    taken += np.take_along_axis(parts, own, axis=1)
    np.put_along_axis(parts, own, taken, axis=1)
    return parts


def _parts(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, score: Score
) -> np.ndarray:
    """Each cell's part of the score and its share of the latent term."""

    def reading(terms: Terms) -> tuple[Tensor]:
        cells = score.cells(terms)
        latent = score.rows(terms) - cells.sum(-1)
        # A score that is all in cells leaves nothing to share.
        if latent.any():
            cells = cells + latent[:, None] * _shares(model, terms)
        return (cells,)

    (parts,) = read_score(model, coded, bank, score, reading)
    return parts


def _shares(model: LatentModel, terms: Terms) -> Tensor:
    """Share of each column in the latent term, (n_rows, n_columns), sums to one."""
    likelihood = model.likelihood
    origin = likelihood.features_of(model.prior_mean_row())[:, None]
    away = likelihood.features(terms.x) - origin
    # The encoder's inputs are the features, then the flags of missing cells.
    path = model.params["encoder.path"][:, : away.shape[-1]]
    steps = (
        likelihood.collapse(away * along[:, None]).square() for along in path.unbind(-1)
    )
    move = sum(steps, torch.zeros_like(terms.x)).mean(0)
    if terms.observed is not None:
        move = move * terms.observed[0]
    total = move.sum(-1, keepdim=True)
    even = torch.full_like(move, 1.0 / move.shape[-1])
    return torch.where(total > 0, move / total, even)
