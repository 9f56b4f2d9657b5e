"""The codes of training rows: as a score, as a prior, and where holes are filled.

Posteriors of training rows are kept, no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, as_tensor, generator, sample_positions
from skvae.inference.donors import Donors, mark_rows
from skvae.inference.scoring import ReconstructionProbability, read
from skvae.model.latent import LatentModel
from skvae.model.priors import AggregatePosterior
from skvae.model.rows import Coded
from skvae.model.terms import Terms

# Posteriors that are kept; for the score, chosen in rounds among so many.
_POSTERIORS, _CANDIDATES, _ROUNDS = 1000, 4000, 4
# Squared distance below which a code is taken to be the row's own.
_OWN = 1e-6
# Rows whose distances to all codes are computed at once: more would leave the caches.
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Aggregate(ReconstructionProbability):
    """Log density of the cells at the row's code, less a price of a strange code.

    A code is strange where it is improbable under the nearest of the training rows'
    posteriors, a sharp sign of a new kind of row: half its squared distance in standard
    deviations, up to a constant. The price is lowered, as a code is as long as the
    columns are many. A row that was trained on would find itself, and looks past its
    own code: its score is then that of a new row like it.

    Parameters
    ----------
    mean : ndarray of shape (n_members, n_codes, n_components)
        Of the posteriors of training rows.
    std : ndarray of shape (n_members, n_components)
        Typical standard deviation of such a posterior.
    """

    mean: np.ndarray
    std: np.ndarray

    has_draws: ClassVar[bool] = False
    completes: ClassVar[bool] = True
    price: ClassVar[float] = 0.3

    def rows(self, terms: Terms) -> Tensor:
        latent = -0.5 * self.squared_distance(terms.mean).mean(0)
        return super().rows(terms) + self.price * latent

    def of_members(self, members: list[int]) -> Aggregate:
        return Aggregate(self.mean[members], self.std[members])

    def squared_distance(self, z: Tensor) -> Tensor:
        """From each code to the nearest kept one, in standard deviations.

        Parameters
        ----------
        z : Tensor of shape (n_members, n_rows, n_components)

        Returns
        -------
        Tensor of shape (n_members, n_rows)
        """
        std = as_tensor(self.std, z.dtype, z.device)[:, None]
        codes = as_tensor(self.mean, z.dtype, z.device)
        centre = codes.mean(1, keepdim=True)
        codes, z = (codes - centre) / std, (z - centre) / std
        parts = [_to_nearest(part, codes) for part in z.split(_BLOCK, 1)]
        return torch.cat(parts, 1)

    @classmethod
    def of(cls, model: LatentModel, coded: Coded, seed: int) -> Aggregate:
        """Keep the posteriors of training rows that are far from one another.

        Parameters
        ----------
        model : LatentModel
        coded : ndarray of shape (n_rows, n_columns)
        seed : int
        """
        part = coded[sample_positions(len(coded), _CANDIDATES, seed)]
        mean, log_variance = _posteriors(model, part)
        std = np.exp(0.5 * log_variance.mean(1))
        units = np.concatenate(list(mean / std[:, None]), axis=1)
        return cls(mean[:, _spread(units, _POSTERIORS, seed)], std)


def _to_nearest(z: Tensor, codes: Tensor) -> Tensor:
    """Squared distances (members, rows) to the nearest code that is not the row's."""
    # Multiplied out it is one matrix product; a row's own square changes no order.
    length = codes.square().sum(-1)[:, None]
    away = torch.baddbmm(length, z, codes.mT, alpha=-2.0)
    found = away.argmin(-1, keepdim=True)
    nearest = _between(z, codes, found)
    own = nearest < _OWN
    if own.any():
        second = away.scatter_(-1, found, torch.inf).argmin(-1, keepdim=True)
        nearest = torch.where(own, _between(z, codes, second), nearest)
    return nearest


def _between(z: Tensor, codes: Tensor, found: Tensor) -> Tensor:
    picked = codes.gather(1, found.expand(-1, -1, codes.shape[-1]))
    return (z - picked).square().sum(-1)


def _spread(codes: np.ndarray, n_wanted: int, seed: int) -> np.ndarray:
    """Positions of codes (n_codes, n_components) that leave few far from all of them.

    In rounds: with a chance in proportion to the squared distance from the nearest one
    that is chosen already (Bahmani et al., "Scalable k-means++", VLDB 2012).
    """
    if len(codes) <= n_wanted:
        return np.arange(len(codes))
    source, points = generator(seed, 0, 0, 4), torch.as_tensor(codes)
    near = points.new_ones(len(points))
    chosen = torch.zeros(len(points), dtype=torch.bool)
    for _ in range(_ROUNDS):
        # The first of exponential clocks to ring are such a draw, none of them twice.
        clock = torch.empty_like(near).exponential_(generator=source)
        clock = clock / near.clamp(min=torch.finfo(near.dtype).tiny)
        clock[chosen] = torch.inf
        new = clock.topk(n_wanted // _ROUNDS, largest=False).indices
        nearer = torch.cdist(points, points[new]).amin(1).square()
        near = nearer if not chosen.any() else torch.minimum(near, nearer)
        chosen[new] = True
    return np.flatnonzero(as_array(chosen))


def _posteriors(model: LatentModel, part: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means and log-variances of coded rows, (n_members, n_rows, n_components)."""

    def reading(terms: Terms) -> tuple[Tensor, Tensor]:
        return terms.mean.transpose(0, 1), terms.log_variance.transpose(0, 1)

    codes = read(model, part, None, reading)
    return tuple(np.ascontiguousarray(code.swapaxes(0, 1)) for code in codes)


def aggregate_posterior(
    model: LatentModel, coded: Coded, seed: int
) -> AggregatePosterior:
    """The density of the codes of training rows, for `LatentModel.prior`."""
    dtype, device = model.params.flat.dtype, model.device
    part = coded[sample_positions(len(coded), _POSTERIORS, seed)]
    mean, log_variance = (
        as_tensor(codes, dtype, device) for codes in _posteriors(model, part)
    )
    return AggregatePosterior(mean, log_variance)


def learn_donors(
    model: LatentModel, coded: Coded, weight: np.ndarray | None, seed: int
) -> Donors:
    """The codes of training rows, for the holes of others."""
    chosen = sample_positions(len(coded), _POSTERIORS, seed)
    part, share = coded[chosen], np.ones(len(chosen))
    if weight is not None:
        share = weight[chosen]
    codes, _ = _posteriors(model, part)
    return Donors(codes, np.log(share / share.sum()), mark_rows(part))
