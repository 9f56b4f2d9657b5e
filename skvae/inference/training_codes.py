"""Scores that set a row's code against those of training rows.

They keep codes, no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, as_tensor, sample_positions
from skvae.inference.scoring import Score, read
from skvae.model.latent import LatentModel
from skvae.model.priors import AggregatePosterior
from skvae.model.terms import Terms

# Codes that are kept. In a sample as small as one group, outliers that lie close to
# each other seldom meet a second one of their kind; many groups steady the mean.
_GROUPS, _GROUP_SIZE = 20, 50
_POSTERIORS = 1000
# Rows on which the two parts of the score are put on one scale, and the quantiles
# whose distance is that scale.
_SCALING_ROWS = 4096
_BULK = [0.05, 0.95]
# Codes are of the order of one; below this their distances differ by rounding only.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Neighbours(Score):
    """Log density of the cells at the code, less the code's distance to training codes.

    The distance is that to the nearest of a few training codes, mean over several such
    samples (Sugiyama and Borgwardt, "Rapid Distance-Based Outlier Detection via
    Sampling", NeurIPS 2013). It sees what the cells can't show: a row that the decoder
    rebuilds well, from a code that no other row has.

    Parameters
    ----------
    codes : ndarray of shape (n_groups, group_size, n_members * n_components)
        Codes of training rows, those of the members side by side.
    weight : float
        Nats for one unit of distance.
    """

    codes: np.ndarray
    weight: float = 1.0

    has_draws: ClassVar[bool] = False
    completes: ClassVar[bool] = True

    def rows(self, terms: Terms) -> Tensor:
        return self.cells(terms).sum(-1) - self.weight * self.distance(terms)

    def cells(self, terms: Terms) -> Tensor:
        return terms.log_px.mean((0, 1))

    def distance(self, terms: Terms) -> Tensor:
        """Mean distance to the nearest code of each group, (n_rows,)."""
        x = _side_by_side(terms)
        codes = as_tensor(self.codes, x.dtype, x.device)
        n_groups, group_size, _ = codes.shape
        flat = codes.flatten(0, 1)
        # Multiplied out, to find the nearest; anew, because that loses near ones to
        # rounding.
        square = torch.addmm(flat.square().sum(-1), x, flat.T, alpha=-2.0)
        nearest = square.view(len(x), n_groups, group_size).argmin(-1)
        nearest += group_size * torch.arange(n_groups, device=x.device)
        return torch.linalg.vector_norm(x[:, None] - flat[nearest], dim=-1).mean(-1)

    @classmethod
    def of(cls, model: LatentModel, coded: np.ndarray, seed: int) -> Neighbours:
        """Keep codes of training rows, and let both parts spread alike over the rows.

        Parameters
        ----------
        model : LatentModel
        coded : ndarray of shape (n_rows, n_columns)
        seed : int
        """
        part = coded[sample_positions(len(coded), _SCALING_ROWS, seed)]

        (codes,) = read(model, part, None, lambda terms: (_side_by_side(terms),))
        size = min(_GROUP_SIZE, len(part))
        groups = [sample_positions(len(part), size, seed + g) for g in range(_GROUPS)]
        score = cls(codes[np.stack(groups)])

        def both(terms: Terms) -> tuple[Tensor, Tensor]:
            return score.cells(terms).sum(-1), score.distance(terms)

        cells, distance = read(model, part, None, both)
        spread = _spread(distance)
        weight = _spread(cells) / spread if spread > _LEAST_SPREAD else 0.0
        return cls(score.codes, float(weight))


@dataclass(frozen=True, eq=False)
class Aggregate(Score):
    """The evidence lower bound under the density of the training codes.

    Away from every training code that density is next to nothing, which makes it a
    sharp sign of a new kind of row. Its price is lowered: a code is as long as the
    columns are many, and at full price it drowns the cells that the decoder can't
    rebuild.

    Parameters
    ----------
    mean, log_variance : ndarray of shape (n_members, n_codes, n_components)
        Posteriors of training rows.
    """

    mean: np.ndarray
    log_variance: np.ndarray

    most_draws: ClassVar[int] = 4
    completes: ClassVar[bool] = True
    price: ClassVar[float] = 0.3

    def rows(self, terms: Terms) -> Tensor:
        posterior = AggregatePosterior(
            as_tensor(self.mean, terms.z.dtype, terms.z.device),
            as_tensor(self.log_variance, terms.z.dtype, terms.z.device),
        )
        latent = (posterior.log_prob(terms.z) - terms.log_qz).mean((0, 1))
        return self.cells(terms).sum(-1) + self.price * latent

    def cells(self, terms: Terms) -> Tensor:
        return terms.log_px.mean((0, 1))

    @classmethod
    def of(cls, model: LatentModel, coded: np.ndarray, seed: int) -> Aggregate:
        """Keep the posteriors of training rows.

        Parameters
        ----------
        model : LatentModel
        coded : ndarray of shape (n_rows, n_columns)
        seed : int
        """
        posterior = aggregate_posterior(model, coded, seed)
        return cls(as_array(posterior.mean), as_array(posterior.log_variance))


LEARNED = (Neighbours, Aggregate)
"""The scores that learn from the training rows."""


def aggregate_posterior(
    model: LatentModel, coded: np.ndarray, seed: int
) -> AggregatePosterior:
    """The density of the codes of training rows, for `LatentModel.prior`."""
    part = coded[sample_positions(len(coded), _POSTERIORS, seed)]

    def reading(terms: Terms) -> tuple[Tensor, Tensor]:
        return terms.mean.transpose(0, 1), terms.log_variance.transpose(0, 1)

    codes = read(model, part, None, reading)
    dtype, device = model.params.flat.dtype, model.device
    mean, log_variance = (
        as_tensor(np.ascontiguousarray(c.swapaxes(0, 1)), dtype, device) for c in codes
    )
    return AggregatePosterior(mean, log_variance)


def _side_by_side(terms: Terms) -> Tensor:
    """Codes of all members, (n_rows, n_members * n_components)."""
    return terms.mean.transpose(0, 1).flatten(1)


def _spread(values: np.ndarray) -> float:
    low, high = np.quantile(values, _BULK)
    return float(high - low if high > low else values.std())
