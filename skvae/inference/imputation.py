"""What the model expects in cells that are missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae._backend import generator
from skvae.inference.donors import Donors
from skvae.inference.scoring import read_weighted
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import Params, TableLikelihood
from skvae.model.terms import Terms


def expected_cells(terms: Terms) -> Tensor:
    """E[statistic of each cell | observed cells], (n_rows, n_locations).

    Mattei and Frellsen, "MIWAE", ICML 2019: with w the softmax of log p(observed | z)
    + log p(z) - log q(z), the sum of w times the decoder's means.
    """
    cells = terms.of_draws(terms.likelihood.mean(terms.params))
    return torch.einsum("lr,lrc->rc", terms.weight, cells)


def conditional_mean(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    donors: Donors | None = None,
) -> np.ndarray:
    """E[x | observed cells] of rows with holes, of categories the likeliest.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        Rows without holes keep their values.
    """

    def reading(terms: Terms) -> tuple[Tensor]:
        return (model.likelihood.decide(expected_cells(terms)),)

    means = coded.copy()
    holed = np.isnan(coded).any(1)
    if holed.any():
        (means[holed],) = read_weighted(model, coded[holed], bank, reading, donors)
    return means


def conditional_draws(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    n_draws: int,
    seed: int,
    donors: Donors | None = None,
) -> np.ndarray:
    """Draws from p(x | observed cells) by sampling-importance-resampling.

    Returns
    -------
    ndarray of shape (n_draws, n_rows, n_columns)
        Rows without holes keep their values.
    """
    source = generator(seed, device=model.device)

    def reading(terms: Terms) -> tuple[Tensor]:
        return (drawn_cells(terms, n_draws, source),)

    draws = np.repeat(coded[None], n_draws, axis=0)
    holed = np.isnan(coded).any(1)
    if holed.any():
        (drawn,) = read_weighted(model, coded[holed], bank, reading, donors)
        draws[:, holed] = drawn.swapaxes(0, 1)
    return draws


def drawn_cells(terms: Terms, n_draws: int, source: torch.Generator) -> Tensor:
    """Cells of weighted draws of the code, (n_rows, n_draws, n_columns)."""
    location, log_scale = map(terms.of_draws, terms.params)
    params = location, log_scale
    return _drawn(terms.likelihood, terms.weight, params, n_draws, source)


def cells_drawn_alone(
    terms: Terms, columns: np.ndarray, n_draws: int, seed: int
) -> Tensor:
    """Draws of one cell of each row, (n_rows, n_draws): those of the row by itself.

    Parameters
    ----------
    terms : Terms
    columns : ndarray of int of shape (n_rows,)
        Which cell.
    n_draws, seed : int
    """
    location, log_scale = map(terms.of_draws, terms.params)
    drawn = []
    for i, column in enumerate(columns.tolist()):
        own, source = slice(i, i + 1), generator(seed, device=terms.z.device)
        params, weight = (location[:, own], log_scale[:, own]), terms.weight[:, own]
        cells = _drawn(terms.likelihood, weight, params, n_draws, source)
        drawn.append(cells[0, :, column])
    return torch.stack(drawn)


def _drawn(
    likelihood: TableLikelihood,
    weight: Tensor,
    params: Params,
    n_draws: int,
    source: torch.Generator,
) -> Tensor:
    """Cells (n_rows, n_draws, n_columns); ``params`` (all draws, n_rows, ...)."""
    chosen = torch.multinomial(weight.T, n_draws, True, generator=source)

    def of_chosen(values: Tensor) -> Tensor:
        own = values.transpose(0, 1)
        return own.gather(1, chosen[..., None].expand(-1, -1, own.shape[-1]))

    location, log_scale = params
    return likelihood.sample((of_chosen(location), of_chosen(log_scale)), source)
