"""Where the model expects each cell, given the observed cells of its row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from skvae.inference.donors import Donors
from skvae.inference.imputation import expected_cells
from skvae.inference.scoring import read_weighted
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms

# Doublings that reach any number that a cell can hold; steps that find any quantile in
# between, most of them in five to ten.
_DOUBLINGS, _STEPS = 60, 200
# Normal deviates within which a quantile is found.
_CLOSE = 1e-10


def predictive_interval(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    coverage: float,
    donors: Donors | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of each cell's predictive distribution given the observed cells.

    That distribution is the mixture of the cell's law over the weighted draws of the
    code; its quantiles are solved for, not taken from draws of cells.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    bank : ndarray of shape (n_draws, n_components)
    coverage : float
        In (0, 1): as much is left out below as above.
    donors : Donors or None

    Returns
    -------
    low, high : ndarray of shape (n_rows, n_columns)
        Of a category both are the likeliest level.
    """
    tail = 0.5 * (1.0 - coverage)

    def reading(terms: Terms) -> tuple[Tensor, Tensor]:
        likeliest = model.likelihood.decide(expected_cells(terms))
        ordered = torch.tensor(model.likelihood.ordered, device=likeliest.device)
        spread = _spread(terms, likeliest)
        low, high = (
            torch.where(ordered, _quantile(terms, likeliest, spread, level), likeliest)
            for level in (tail, 1.0 - tail)
        )
        return low, high

    low, high = read_weighted(model, coded, bank, reading, donors)
    return low, high


def _spread(terms: Terms, centre: Tensor) -> Tensor:
    """About the standard deviation of each cell, (rows, columns); of codes, one."""
    likelihood = terms.likelihood
    continuous = torch.tensor(likelihood.continuous, device=centre.device)
    location = terms.of_draws(likelihood.collapse(likelihood.mean(terms.params)))
    away = (location - centre).square()[..., continuous]
    own = terms.of_draws(likelihood.variance(terms.params))
    spread = torch.ones_like(centre)
    spread[:, continuous] = torch.einsum("lr,lrc->rc", terms.weight, away + own).sqrt()
    return spread


def _quantile(terms: Terms, centre: Tensor, spread: Tensor, level: float) -> Tensor:
    """Least cell (rows, columns) up to which that much probability lies.

    Parameters
    ----------
    terms : Terms
    centre, spread : Tensor of shape (rows, columns)
        Where most of the probability lies: what is sought is sought there first.
    level : float
    """
    likelihood = terms.likelihood
    whole = torch.tensor(likelihood.continuous, device=centre.device).logical_not()
    most = 1.0 - torch.finfo(centre.dtype).eps
    target = float(ndtri(level))
    start, width = torch.where(whole, centre, centre + target * spread), 0.2 * spread

    def beyond(x: Tensor) -> Tensor:
        # In normal deviates: of a cell that is nearly normal, nearly linear in x.
        below = terms.of_draws(likelihood.cdf(terms.params, x))
        mixed = torch.einsum("lr,lrc->rc", terms.weight, below)
        # Nothing is sought in columns without an order: it is there at once.
        mixed = torch.where(mixed.isnan(), (x >= centre).to(x.dtype), mixed)
        least = torch.finfo(mixed.dtype).tiny
        return torch.special.ndtri(mixed.clamp(least, most)) - target

    return _root(beyond, start, torch.where(whole, 1.0, width), whole)


def _root(
    beyond: Callable[[Tensor], Tensor], start: Tensor, width: Tensor, whole: Tensor
) -> Tensor:
    """Where increasing functions pass zero, elementwise.

    The secant through the ends of a bracket, of which an end that stays twice counts
    half (the Illinois rule: Dowell and Jarratt, 1971); now and then the middle.

    Parameters
    ----------
    beyond : callable
        Its value at one point for each function.
    start, width : Tensor
        A point for each function, and how far from it to look first.
    whole : Tensor
        Where to search the whole numbers only, for the first at which it is passed.
    """

    def on_grid(x: Tensor) -> Tensor:
        return torch.where(whole, x.floor(), x)

    eps = torch.finfo(start.dtype).eps
    low, high = on_grid(start - width), on_grid(start + width)
    at_low, at_high = beyond(low), beyond(high)
    for _ in range(_DOUBLINGS):
        above, under = at_low >= 0.0, at_high < 0.0
        if not bool((above | under).any()):
            break
        width = 2.0 * width
        low = torch.where(above, on_grid(start - width), low)
        high = torch.where(under, on_grid(start + width), high)
        at_low, at_high = beyond(low), beyond(high)
    last = torch.zeros_like(start)
    for step in range(_STEPS):
        least = 4.0 * eps * (1.0 + high.abs())
        open_ = high - low > torch.where(whole, torch.ones_like(least), least)
        if not bool(open_.any()):
            break
        middle = 0.5 * (low + high)
        if step % 4 < 3:
            secant = high - at_high * (high - low) / (at_high - at_low)
            middle = torch.where(whole, middle, secant.clamp(low, high))
        middle = on_grid(middle)
        at_middle = beyond(middle)
        hit = ~whole & (at_middle.abs() <= _CLOSE)
        up, down = open_ & ((at_middle < 0.0) | hit), open_ & ((at_middle >= 0.0) | hit)
        at_high = torch.where(up & (last > 0.0), 0.5 * at_high, at_high)
        at_low = torch.where(down & (last < 0.0), 0.5 * at_low, at_low)
        low, at_low = torch.where(up, middle, low), torch.where(up, at_middle, at_low)
        high = torch.where(down, middle, high)
        at_high = torch.where(down, at_middle, at_high)
        last = up.to(last.dtype) - down.to(last.dtype)
    return high
