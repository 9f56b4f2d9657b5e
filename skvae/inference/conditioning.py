"""Codes of rows that meet conditions, by adaptive importance sampling.

Oh and Berger, "Adaptive importance sampling in Monte Carlo integration", 1992: draw,
weigh, move the Gaussian that is drawn from to the weighted draws, and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor
from skvae.inference.proposals import mode_of, terms_around
from skvae.inference.scoring import DEFENSIVE, draw_bank
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import Params, TableLikelihood

# Draws to choose from, for each row that is asked for and at least.
_DRAWS_PER_ROW, _LEAST_DRAWS, _MOST_DRAWS = 4, 4096, 2**17
# Draws decoded at once.
_CHUNK = 4096
# Rounds of moving the Gaussian, and the share of effective draws that is good enough.
_ROUNDS, _GOOD_SHARE = 8, 0.25
# Effective draws for each component that the Gaussian is moved by, at least.
_FITTED_BY = 20
# Log of the least positive float64: weights below are zero to the arithmetic.
_NO_PROBABILITY = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class Goal:
    """Conditions on the cells of a row as tensors.

    Attributes
    ----------
    x, observed : Tensor of shape (1, n_columns)
        Cells that must equal a value, as an incomplete row.
    low, high : Tensor of shape (n_columns,)
        Ranges of cells.
    columns : Tensor of shape (n_sets,)
        Columns of which several values are allowed.
    values : Tensor of shape (n_values, n_sets)
        These values; a column with fewer repeats its last one.
    log_share : Tensor of shape (n_values, n_sets)
        Log of the share of a value that is wanted; minus infinity of a repetition.
    """

    likelihood: TableLikelihood
    x: Tensor
    observed: Tensor
    low: Tensor
    high: Tensor
    columns: Tensor
    values: Tensor
    log_share: Tensor

    @classmethod
    def of(
        cls,
        model: LatentModel,
        low: np.ndarray,
        high: np.ndarray,
        members: Mapping[int, np.ndarray],
        shares: Mapping[int, np.ndarray] | None = None,
    ) -> Goal:
        """The goal of coded conditions; see `generation.Conditions`."""
        x = np.full(model.n_columns, np.nan)
        # A range of one value is that value.
        x[low == high] = low[low == high]
        sets, log_shares = {}, {}
        for column, given in members.items():
            values, first = np.unique(given, return_index=True)
            if not len(values):
                raise ValueError(
                    f"A condition must allow at least one value, got none for coded "
                    f"column {column}. Leave the column out to let it be free."
                )
            if len(values) == 1:
                x[column] = values[0]
            else:
                sets[column] = values
                share = (shares or {}).get(column, np.ones(len(given)))
                log_shares[column] = np.log(share[first])
        n_values = max(map(len, sets.values()), default=0)
        padded = [np.pad(v, (0, n_values - len(v)), "edge") for v in sets.values()]
        log_share = [
            np.pad(v, (0, n_values - len(v)), constant_values=-np.inf)
            for v in log_shares.values()
        ]
        known = ~np.isnan(x)

        def tensor(array: np.ndarray) -> Tensor:
            return as_tensor(array, model.params.flat.dtype, model.device)

        return cls(
            model.likelihood,
            tensor(np.where(known, x, 0.0))[None],
            tensor(known)[None],
            tensor(np.where(known, -np.inf, low)),
            tensor(np.where(known, np.inf, high)),
            torch.tensor(list(sets), dtype=torch.int64, device=model.device),
            tensor(np.array(padded).reshape(len(sets), n_values).T),
            tensor(np.array(log_share).reshape(len(sets), n_values).T),
        )

    def log_mass(self, params: Params) -> Tensor:
        """Log probability of the sets and ranges at each code, shape of the codes."""
        total = self.likelihood.log_mass(params, self.low, self.high).sum(-1)
        if len(self.columns):
            total = total + self._log_prob_of_values(params).logsumexp(-1).sum(-1)
        return total

    def draw(self, params: Params, source: torch.Generator) -> Tensor:
        """Cells within the conditions, one row for each code: (rows, n_columns)."""
        cells = self.likelihood.sample_within(params, self.low, self.high, source)
        if len(self.columns):
            log_prob = self._log_prob_of_values(params)
            weight = log_prob.softmax(-1).flatten(0, -2)
            which = torch.multinomial(weight, 1, generator=source).view(
                log_prob.shape[:-1]
            )
            cells[..., self.columns] = self.values.T.gather(1, which.T).T
        return torch.where(self.observed > 0, self.x, cells)

    def _log_prob_of_values(self, params: Params) -> Tensor:
        """Log density of what is wanted of each value, (..., n_sets, n_values)."""
        parts = []
        for values, log_share in zip(self.values, self.log_share, strict=True):
            x = torch.zeros_like(self.x[0])
            x[self.columns] = values
            log_prob = self.likelihood.log_prob(params, x)[..., self.columns]
            parts.append(log_prob + log_share)
        return torch.stack(parts, -1)


@dataclass(frozen=True)
class Codes:
    """Weighted codes.

    Attributes
    ----------
    z : Tensor of shape (members, draws, components)
    log_equal : Tensor of shape (members, draws)
        Log weights by the cells that must equal a value alone.
    log_weight : Tensor of shape (members, draws)
        Those by the sets and ranges too.
    """

    z: Tensor
    log_equal: Tensor
    log_weight: Tensor

    @property
    def weight(self) -> Tensor:
        """(members * draws,), sums to one."""
        return self.log_weight.flatten().softmax(0)

    @property
    def effective_size(self) -> float:
        """Number of equally weighted draws that tell as much (Kong, 1992)."""
        return float(1.0 / self.weight.square().sum())


@torch.no_grad()
def condition(model: LatentModel, goal: Goal, n_rows: int, seed: int) -> Codes:
    """Codes given the goal, enough of them to choose so many rows from.

    Raises
    ------
    ValueError
        Where all weights are zero.
    """
    n_draws = min(max(_DRAWS_PER_ROW * n_rows, _LEAST_DRAWS), _MOST_DRAWS)
    n_draws = -(-n_draws // model.n_members)
    bank = as_tensor(
        draw_bank(n_draws, model.n_components, seed),
        model.params.flat.dtype,
        model.device,
    )
    mean, spread = mode_of(model, goal.x, goal.observed)
    first = best = codes = _weigh(model, goal, mean, spread, bank)
    for _ in range(_ROUNDS):
        if _effective(codes.log_weight).min() > _GOOD_SHARE * codes.z.shape[1]:
            break
        mean, spread = _moved(codes, spread)
        codes = _weigh(model, goal, mean, spread, bank)
        if codes.effective_size > best.effective_size:
            best = codes
    _check_possible(first, best)
    return best


def _check_possible(first: Codes, best: Codes) -> None:
    """Raise where the sets and ranges have no probability given the equal cells."""
    log_equal, log_all = (
        float(log_weight.flatten().logsumexp(0))
        for log_weight in (first.log_equal, best.log_weight)
    )
    if not log_all - log_equal > _NO_PROBABILITY:
        raise ValueError(
            f"The conditions must be possible, got ranges and sets of a log "
            f"probability of {log_all - log_equal:.4g} nats given the cells that must "
            f"equal a value. Widen them, or leave some out."
        )


def _weigh(
    model: LatentModel, goal: Goal, mean: Tensor, spread: Tensor, bank: Tensor
) -> Codes:
    """Draws around a mean (members, 1, components), with their importance weights."""
    parts = []
    for unit in bank.split(max(_CHUNK // model.n_members, DEFENSIVE)):
        terms = terms_around(
            model,
            goal.x,
            goal.observed,
            mean,
            spread,
            unit[None, :, None],
            n_prior=len(unit) // DEFENSIVE,
        )
        log_equal = terms.log_weight[..., 0]
        log_weight = log_equal + goal.log_mass(terms.params)[..., 0]
        nothing = torch.isnan(log_weight) | (log_weight == torch.inf)
        log_weight = log_weight.masked_fill(nothing, -torch.inf)
        parts.append((terms.z[:, :, 0], log_equal, log_weight))
    return Codes(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))


def _effective(log_weight: Tensor) -> Tensor:
    """Effective number of draws of each member, (members,)."""
    return 1.0 / log_weight.softmax(1).square().sum(1)


def _moved(codes: Codes, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and root of the covariance of the weighted draws of each member.

    Weights that rest on too few draws are tempered: raised to the largest power below
    one under which enough draws count.
    """
    k = codes.z.shape[-1]
    enough = min(_FITTED_BY * (k + 1), codes.z.shape[1] // 2)
    # Draws of no probability count for nothing, however the others are tempered.
    log_weight = codes.log_weight.clamp(min=0.1 * torch.finfo(codes.z.dtype).min)
    low, high = torch.zeros_like(log_weight[:, :1]), torch.ones_like(log_weight[:, :1])
    for _ in range(40):
        middle = 0.5 * (low + high)
        fine = _effective(middle * log_weight)[:, None] >= enough
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    power = torch.where(_effective(log_weight)[:, None] >= enough, 1.0, low)
    weight = (power * log_weight).softmax(1)[..., None]
    mean = (weight * codes.z).sum(1, keepdim=True)
    away = codes.z - mean
    covariance = (weight * away).mT @ away
    old = (spread @ spread.mT)[:, 0].diagonal(dim1=-2, dim2=-1)
    ridge = torch.diag_embed(1e-6 * old)
    return mean, torch.linalg.cholesky(covariance + ridge)[:, None]
