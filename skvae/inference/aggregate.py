"""The density of training codes: as a score, as a prior, and where holes are filled.

Posteriors of training rows are kept, no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from skvae._backend import as_array, as_tensor, sample_positions
from skvae.inference.donors import Donors, mark_rows
from skvae.inference.scoring import ReconstructionProbability, read
from skvae.model.latent import LatentModel
from skvae.model.priors import AggregatePosterior
from skvae.model.rows import Coded
from skvae.model.terms import Terms

# Posteriors that are kept.
_POSTERIORS = 1000


@dataclass(frozen=True, eq=False)
class Aggregate(ReconstructionProbability):
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
        return super().rows(terms) + self.price * latent

    def of_members(self, members: list[int]) -> Aggregate:
        return Aggregate(self.mean[members], self.log_variance[members])

    @classmethod
    def of(cls, model: LatentModel, coded: Coded, seed: int) -> Aggregate:
        """Keep the posteriors of training rows.

        Parameters
        ----------
        model : LatentModel
        coded : ndarray of shape (n_rows, n_columns)
        seed : int
        """
        posterior = aggregate_posterior(model, coded, seed)
        return cls(as_array(posterior.mean), as_array(posterior.log_variance))


def aggregate_posterior(
    model: LatentModel, coded: Coded, seed: int
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


def learn_donors(
    model: LatentModel, coded: Coded, weight: np.ndarray | None, seed: int
) -> Donors:
    """The codes of training rows, for the holes of others."""
    part = sample_positions(len(coded), _POSTERIORS, seed)
    codes = aggregate_posterior(model, coded, seed).mean
    share = np.ones(len(part)) if weight is None else weight[part]
    log_share = np.log(share / share.sum())
    return Donors(as_array(codes), log_share, mark_rows(coded[part]))
