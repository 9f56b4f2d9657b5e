"""Scores of rows: readings of the model's Terms, chunk by chunk.

The draws are the same for every row, so that a row's score depends on nothing but the
row; chunks bound the memory and change no answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array
from skvae.model.latent import LatentModel
from skvae.model.priors import StandardNormal
from skvae.model.rows import Rows
from skvae.model.terms import Terms

# Draws of rows decoded at once: larger chunks leave the caches, smaller ones pay more
# for starting the kernels.
_CHUNK = 4096
# For every so many draws there is one of the prior more where draws are weighted.
DEFENSIVE = 8


def draw_bank(n_draws: int, n_components: int, seed: int) -> np.ndarray:
    """Standard normal points of a scrambled Sobol sequence, (n_draws, n_components).

    Owen, "Scrambling Sobol' and Niederreiter-Xing points", 1998: the error of a mean
    falls faster with the number of draws than that of independent ones.
    """
    engine = torch.quasirandom.SobolEngine(
        min(n_components, torch.quasirandom.SobolEngine.MAXDIM), True, seed % 2**31
    )
    uniform = engine.draw(n_draws, dtype=torch.float64)
    bank = torch.special.ndtri(uniform.clamp(1e-7, 1.0 - 1e-7))
    return as_array(bank)


class Score(ABC):
    """One way to score rows; larger is more normal.

    Attributes
    ----------
    has_units : bool
        Whether the score is a log density of the cells, so that the log-Jacobian of
        the coding belongs to it.
    has_draws : bool
        Whether it averages over draws; else it reads the posterior mean.
    most_draws : int or None
        Draws beyond which it gains nothing worth their cost; None: takes all.
    weighs_draws : bool
        Whether it weighs them by importance, whatever density they came from.
    """

    has_units: ClassVar[bool] = True
    has_draws: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None
    weighs_draws: ClassVar[bool] = False

    @abstractmethod
    def rows(self, terms: Terms) -> Tensor:
        """Score of each row, (n_rows,)."""

    @abstractmethod
    def cells(self, terms: Terms) -> Tensor:
        """The part of it that stands in single cells, (n_rows, n_columns)."""


class LogLikelihood(Score):
    """Importance-weighted log p(x) (Burda et al., ICLR 2016), members as a mixture."""

    weighs_draws: ClassVar[bool] = True

    def rows(self, terms: Terms) -> Tensor:
        log_weight = terms.log_weight
        return log_weight.flatten(0, 1).logsumexp(0) - math.log(
            log_weight.shape[0] * log_weight.shape[1]
        )

    def cells(self, terms: Terms) -> Tensor:
        weight = terms.log_weight.flatten(0, 1).softmax(0)
        return torch.einsum("lr,lrc->rc", weight, terms.log_px.flatten(0, 1))


class ReconstructionProbability(Score):
    """Mean log density of the cells under the posterior (An and Cho, 2015)."""

    def rows(self, terms: Terms) -> Tensor:
        return self.cells(terms).sum(-1)

    def cells(self, terms: Terms) -> Tensor:
        return terms.log_px.mean((0, 1))


class Elbo(ReconstructionProbability):
    """The evidence lower bound at beta = 1, mean of the members."""

    def rows(self, terms: Terms) -> Tensor:
        if isinstance(terms.prior, StandardNormal):
            return super().rows(terms) - terms.kl.sum(-1).mean(0)
        return terms.log_weight.mean((0, 1))


class TemperedElbo(ReconstructionProbability):
    """The bound with a lower price on the code.

    A code is as long as the columns are many, and its price adds their estimation
    errors: at full price it drowns the cells of a row that the decoder can't rebuild.
    """

    most_draws: ClassVar[int] = 4
    price: ClassVar[float] = 0.3

    def rows(self, terms: Terms) -> Tensor:
        latent = (terms.log_pz - terms.log_qz).mean((0, 1))
        return super().rows(terms) + self.price * latent


class Reconstruction(Score):
    """Minus the squared error of the reconstruction, in coded units."""

    has_units: ClassVar[bool] = False
    has_draws: ClassVar[bool] = False

    def rows(self, terms: Terms) -> Tensor:
        return self.cells(terms).sum(-1)

    def cells(self, terms: Terms) -> Tensor:
        mean = terms.likelihood.mean(terms.params)
        error = (terms.x[:, None] - mean).square()
        if terms.observed is not None:
            error = error * terms.observed[:, None]
        return -error.mean((0, 1))


SCORES: dict[str, Score] = {
    "log_likelihood": LogLikelihood(),
    "elbo": Elbo(),
    "tempered_elbo": TemperedElbo(),
    "reconstruction_probability": ReconstructionProbability(),
    "reconstruction": Reconstruction(),
}


@torch.no_grad()
def read(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray | None,
    reading: Callable[[Terms], Sequence[Tensor]],
    *,
    n_prior: int = 0,
    fill: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Read the terms of all rows with bounded extra memory.

    Parameters
    ----------
    model : LatentModel
        Its precision is that of the answers.
    coded : ndarray of shape (n_rows, n_columns)
    bank : ndarray of shape (n_draws, n_components) or None
        Draws shared by all rows; None reads the posterior mean.
    reading : callable
        Terms to tensors whose first axis is the rows'.
    n_prior : int
        Draws of the prior to add, for a reading that weighs draws by importance.
    fill : ndarray of shape (n_rows, n_columns) or None
        What the encoder sees in missing cells.

    Returns
    -------
    tuple of ndarray
        What ``reading`` gave, all rows.
    """
    dtype, device = model.params.flat.dtype, model.device
    unit, n_draws = None, 1
    if bank is not None:
        unit = torch.as_tensor(bank).to(dtype=dtype, device=device)[None, :, None]
        n_draws = len(bank) + n_prior
    size = max(1, _CHUNK // (n_draws * model.n_members))
    parts: list[list[np.ndarray]] = []
    for start in range(0, max(len(coded), 1), size):
        part = slice(start, start + size)
        seen = None if fill is None else fill[part]
        rows = Rows.from_coded(coded[part], dtype, device, fill=seen)
        terms = model(
            rows.x.expand(model.n_members, -1, -1),
            unit,
            observed=None if rows.observed is None else rows.observed[None],
            n_prior=n_prior,
        )
        parts.append([as_array(answer) for answer in reading(terms)])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def read_score(
    model: LatentModel,
    coded: np.ndarray,
    bank: np.ndarray,
    score: Score,
    reading: Callable[[Terms], Sequence[Tensor]],
) -> tuple[np.ndarray, ...]:
    """Read the terms as this score wants its draws."""
    used = bank[: score.most_draws] if score.has_draws else None
    n_prior = len(bank) // DEFENSIVE if score.weighs_draws else 0
    return read(model, coded, used, reading, n_prior=n_prior)


def score_rows(
    model: LatentModel, coded: np.ndarray, bank: np.ndarray, score: Score
) -> np.ndarray:
    """Scores of coded rows, coded units, (n_rows,)."""
    (rows,) = read_score(model, coded, bank, score, lambda terms: (score.rows(terms),))
    return rows
