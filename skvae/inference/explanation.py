"""Why a row scores as it does: additive contributions of its columns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae.inference.scoring import Score, read_score
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms


def contributions(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, score: Score
) -> np.ndarray:
    """Parts of each row's score, one a column, that sum to it.

    A column's part is its own cell's plus a share of the latent term (what the score
    holds beyond the cells: the price of an unusual code). That term is shared out in
    proportion to the squared length of the step that the cell, set against the expected
    one at z = 0, makes the code take along the encoder's linear path; in equal parts
    where no cell moves it. Missing cells have no part.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        In coded units.
    """

    def reading(terms: Terms) -> tuple[Tensor]:
        cells = score.cells(terms)
        latent = score.rows(terms) - cells.sum(-1)
        return (cells + latent[:, None] * _shares(model, terms),)

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
