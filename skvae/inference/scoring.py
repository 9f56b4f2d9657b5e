"""Scores of rows: readings of the model's Terms, chunk by chunk.

The draws are the same for every row, so that a row's score depends on nothing but the
row; chunks bound the memory and change no answer. Where the code of a row lies is the
encoder's word for complete rows, and a proposal's for rows with holes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from skvae._backend import Numbers, as_array, as_asked, as_tensor, joined
from skvae.inference.donors import Donors
from skvae.inference.proposals import propose
from skvae.model.latent import LatentModel
from skvae.model.terms import Terms

# Terms to tensors whose first axis is the rows'.
Reading: TypeAlias = Callable[[Terms], Sequence[Tensor]]

# Draws of rows decoded at once: larger chunks leave the caches, smaller ones pay more
# for starting the kernels.
_CHUNK = 4096
# The same for rows with holes, in bytes of one number a draw. Their codes are sought
# first: in many small steps, which take as long for a few rows as for hundreds.
_HOLED_BYTES = 2**17
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
    completes : bool
        Whether rows are completed before they are scored: a sum over the observed cells
        alone ranks rows by how many, and which, they have.
    """

    has_units: ClassVar[bool] = True
    has_draws: ClassVar[bool] = True
    most_draws: ClassVar[int | None] = None
    weighs_draws: ClassVar[bool] = False
    completes: ClassVar[bool] = False

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
        log_sum = log_weight.flatten(0, 1).logsumexp(0)
        n_draws = log_weight.shape[0] * log_weight.shape[1]
        return _where_observed(terms, log_sum - math.log(n_draws))

    def cells(self, terms: Terms) -> Tensor:
        return torch.einsum("lr,lrc->rc", terms.weight, terms.log_px.flatten(0, 1))


class ReconstructionProbability(Score):
    """Mean log density of the cells under the posterior (An and Cho, 2015)."""

    def rows(self, terms: Terms) -> Tensor:
        return self.cells(terms).sum(-1)

    def cells(self, terms: Terms) -> Tensor:
        return terms.log_px.mean((0, 1))


class CodeLikelihood(ReconstructionProbability):
    """Log density of the cells at the row's code, the posterior mean."""

    has_draws: ClassVar[bool] = False
    completes: ClassVar[bool] = True


class Elbo(ReconstructionProbability):
    """The evidence lower bound at beta = 1, mean of the members."""

    def rows(self, terms: Terms) -> Tensor:
        bound = super().rows(terms) - terms.kl.sum(-1).mean(0)
        return _where_observed(terms, bound)


class Reconstruction(Score):
    """Minus the squared error of the reconstruction, in coded units.

    Of a category, that of its levels' probabilities.
    """

    has_units: ClassVar[bool] = False
    has_draws: ClassVar[bool] = False

    def rows(self, terms: Terms) -> Tensor:
        return self.cells(terms).sum(-1)

    def cells(self, terms: Terms) -> Tensor:
        likelihood = terms.likelihood
        away = likelihood.statistic(terms.x)[:, None] - likelihood.mean(terms.params)
        error = likelihood.collapse(away.square())
        if terms.observed is not None:
            error = error * terms.observed[:, None]
        return -error.mean((0, 1))


def _where_observed(terms: Terms, rows: Tensor) -> Tensor:
    """The rows' scores, zero for those of which no cell is observed."""
    if terms.observed is None:
        return rows
    return rows * (terms.observed[0] > 0).any(-1)


SCORES: dict[str, Score] = {
    "log_likelihood": LogLikelihood(),
    "elbo": Elbo(),
    "code_likelihood": CodeLikelihood(),
    "reconstruction_probability": ReconstructionProbability(),
    "reconstruction": Reconstruction(),
}


@torch.no_grad()
def read(
    model: LatentModel,
    coded: Numbers,
    bank: Numbers | None,
    reading: Reading,
    *,
    n_prior: int = 0,
    donors: Donors | None = None,
) -> tuple[Numbers, ...]:
    """Read the terms of all rows with bounded extra memory.

    Parameters
    ----------
    model : LatentModel
        Its precision is that of the answers.
    coded : ndarray or Tensor of shape (n_rows, n_columns)
        NaN where a cell is missing.
    bank : ndarray or Tensor of shape (n_draws, n_components) or None
        Draws shared by all rows; None reads the posterior mean.
    reading : callable
        Terms to tensors whose first axis is the rows'.
    n_prior : int
        Draws of the prior to add, for a reading that weighs draws by importance.
    donors : Donors or None
        What else to draw from for rows with holes, for such a reading.

    Returns
    -------
    tuple of ndarray or Tensor
        What ``reading`` gave, all rows; as ``coded`` came.
    """
    n_draws = 1 if bank is None else len(bank) + n_prior
    unit = None
    if bank is not None:  # as draws that all rows share
        dtype = model.params.flat.dtype
        unit = as_tensor(bank, dtype, model.device)[None, :, None]

    def complete(x: Tensor) -> Sequence[Tensor]:
        x = x.expand(model.n_members, -1, -1)
        return reading(model(x, unit, n_prior=n_prior))

    def incomplete(x: Tensor) -> Sequence[Tensor]:
        observed = (~x.isnan()).to(x.dtype)
        terms = propose(model, x.nan_to_num(), observed, unit, n_prior=n_prior)
        return reading(terms if donors is None else donors.join(model, terms))

    n_sought = max(n_draws, 1 + model.n_components)
    holed = (coded != coded).any(1)
    if not holed.any():
        return _in_chunks(model, coded, complete, _CHUNK // n_draws)
    most = _HOLED_BYTES // (model.params.flat.itemsize * n_sought)
    with_holes = _in_chunks(model, coded[holed], incomplete, most)
    if holed.all():
        return with_holes
    whole = _in_chunks(model, coded[~holed], complete, _CHUNK // n_draws)
    merged: list[Numbers] = []
    for part, holed_part in zip(whole, with_holes, strict=True):
        answer = joined([part, holed_part])
        answer[~holed], answer[holed] = part, holed_part
        merged.append(answer)
    return tuple(merged)


def _in_chunks(
    model: LatentModel,
    coded: Numbers,
    ask: Callable[[Tensor], Sequence[Tensor]],
    most: int,
) -> tuple[Numbers, ...]:
    """Ask for some rows at a time; one chunk at least.

    Where the device runs out of memory the chunks are halved, down to one row.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray or Tensor of shape (n_rows, n_columns)
    ask : callable
        From rows to tensors whose first axis is theirs.
    most : int
        Rows that are asked for at a time, times the members.

    Raises
    ------
    MemoryError
        Where the device has no memory for one row.
    """
    size, start = max(1, most // model.n_members), 0
    parts: list[list[Numbers]] = []
    while start < len(coded) or not parts:
        part = coded[start : start + size]
        x = as_tensor(part, model.params.flat.dtype, model.device)
        try:
            parts.append([as_asked(answer, coded) for answer in ask(x)])
        except torch.cuda.OutOfMemoryError as error:
            size = len(part) // 2
            if not size:
                raise MemoryError(
                    f"The draws of one row must fit into the memory of {model.device}, "
                    f"which has too little left. Fit with fewer n_score_samples or "
                    f"n_estimators, free memory there, or save and load the "
                    f"estimator, which then answers on the CPU."
                ) from error
        else:
            start += size
    return tuple(joined(part) for part in zip(*parts, strict=True))


def read_weighted(
    model: LatentModel,
    coded: Numbers,
    bank: Numbers,
    reading: Reading,
    donors: Donors | None = None,
) -> tuple[Numbers, ...]:
    """Read terms of which each draw is weighed by importance."""
    n_prior = len(bank) // DEFENSIVE
    return read(model, coded, bank, reading, n_prior=n_prior, donors=donors)


def read_score(
    model: LatentModel,
    coded: Numbers,
    bank: Numbers,
    score: Score,
    reading: Reading,
) -> tuple[Numbers, ...]:
    """Read the terms as this score wants its draws."""
    if score.weighs_draws:
        return read_weighted(model, coded, bank, reading)
    used = bank[: score.most_draws] if score.has_draws else None
    return read(model, coded, used, reading)


def score_rows(
    model: LatentModel, coded: Numbers, bank: Numbers, score: Score
) -> Numbers:
    """Scores of coded rows, coded units, (n_rows,)."""
    (rows,) = read_score(model, coded, bank, score, lambda terms: (score.rows(terms),))
    return rows


def posterior_of(model: LatentModel, coded: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each row's code, each (n_rows, n_components).

    Those of the first member: codes of several have nothing in common.
    """

    def reading(terms: Terms) -> tuple[Tensor, Tensor]:
        return terms.mean[0], torch.exp(0.5 * terms.log_variance[0])

    mean, std = read(model, coded, None, reading)
    return mean, std


def reconstruct(model: LatentModel, coded: Numbers) -> Numbers:
    """Expected coded row at the code of each row, mean of the members."""

    def reading(terms: Terms) -> tuple[Tensor]:
        mean = model.likelihood.mean(terms.params).mean((0, 1))
        return (model.likelihood.decide(mean),)

    (rows,) = read(model, coded, None, reading)
    return rows
