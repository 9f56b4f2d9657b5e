"""What the model expects in cells that are missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae._backend import generator
from skvae.inference.scoring import read
from skvae.model.latent import LatentModel, Terms

# Each pass replaces the holes by what the code of the last completion expects there;
# in the linear-Gaussian case the error falls geometrically.
_COMPLETION_PASSES = 50


def complete(model: LatentModel, coded: np.ndarray) -> np.ndarray:
    """Rows whose holes hold a first guess: the fixed point of reconstruction.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray of shape (n_rows, n_columns)
        NaN where missing.
    """
    missing = np.isnan(coded)
    filled = np.where(missing, 0.0, coded)
    for _ in range(_COMPLETION_PASSES):
        (mean,) = read(model, filled, None, lambda terms: (_cells(terms)[0],))
        filled[missing] = mean[missing]
    return filled


def conditional_mean(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray
) -> np.ndarray:
    """E[x | observed cells] of every cell, importance-weighted over the draws.

    Mattei and Frellsen, "MIWAE", ICML 2019: with w the softmax of log p(observed | z)
    + log p(z) - log q(z), the mean is the sum of w times the decoder's means.
    """

    def reading(terms: Terms) -> tuple[Tensor]:
        weight = terms.log_weight.flatten(0, 1).softmax(0)
        return (torch.einsum("lr,lrc->rc", weight, _cells(terms)),)

    (mean,) = read(
        model, coded, bank, reading, n_prior=len(bank), fill=complete(model, coded)
    )
    return mean


def conditional_draws(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, n_draws: int, seed: int
) -> np.ndarray:
    """Draws from p(x | observed cells) by sampling-importance-resampling.

    Returns
    -------
    ndarray of shape (n_draws, n_rows, n_columns)
    """
    source = generator(seed, device=model.device)

    def reading(terms: Terms) -> tuple[Tensor]:
        weight = terms.log_weight.flatten(0, 1).softmax(0)
        chosen = torch.multinomial(weight.T, n_draws, True, generator=source)
        params = tuple(_of_draws(part, chosen, terms.z) for part in terms.params)
        return (terms.model.likelihood.sample(params, source),)

    (draws,) = read(
        model, coded, bank, reading, n_prior=len(bank), fill=complete(model, coded)
    )
    return draws.swapaxes(0, 1)


def _of_draws(values: Tensor, chosen: Tensor, z: Tensor) -> Tensor:
    """What belongs to the chosen draws of each row, (rows, chosen, columns)."""
    own = values.expand(*z.shape[:3], -1).flatten(0, 1).transpose(0, 1)
    return own.gather(1, chosen[..., None].expand(-1, -1, own.shape[-1]))


def _cells(terms: Terms) -> Tensor:
    """Expected cells of each draw, (members * draws, rows, columns)."""
    return terms.model.likelihood.mean(terms.params).flatten(0, 1)
