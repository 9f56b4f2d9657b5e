"""Masses of cells that hold one of a few codes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from skvae.model.likelihoods.base import (
    Columns,
    Likelihood,
    Params,
    squared_scale,
    squared_scale_and_share,
)

# Least share of a level: rarer ones would start the logits at the end of the line.
_RAREST = 1e-3
# Cutpoints beyond the first and the last; finite, so that no derivative is 0 * inf.
_BEYOND = 1e20
# Standard deviation of a standard logistic variable.
_LOGISTIC = math.pi / math.sqrt(3.0)


class WithLevels(Likelihood):
    """Cells that hold codes 0, 1, ..., one less than the number of their levels."""

    @abstractmethod
    def level_log_prob(self, params: Params) -> Tensor:
        """Log mass of each level, (..., n_columns, most levels); -inf beyond."""

    def cdf(self, params: Params, x: Tensor) -> Tensor:
        return self.log_mass(params, torch.full_like(x, -torch.inf), x).exp()

    def log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        log_prob = self.level_log_prob(params)
        return _log_total(log_prob, _between(log_prob, low, high))

    def sample_within(
        self,
        params: Params,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        log_prob = self.level_log_prob(params)
        allowed = _between(log_prob, low, high)
        return _race(log_prob.masked_fill(~allowed, -torch.inf), generator)


def _between(log_prob: Tensor, low: Tensor, high: Tensor) -> Tensor:
    codes = torch.arange(log_prob.shape[-1], device=log_prob.device)
    inside: Tensor = (low[..., None] <= codes) & (codes <= high[..., None])
    return inside


def _log_total(log_prob: Tensor, allowed: Tensor) -> Tensor:
    # Sums of rounded parts may pass one.
    return log_prob.masked_fill(~allowed, -torch.inf).logsumexp(-1).clamp(max=0.0)


def _race(log_prob: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of a code by its log mass: the first of exponential clocks to ring."""
    clock = torch.empty_like(log_prob).exponential_(generator=generator)
    return (log_prob - clock.log()).argmax(-1).to(log_prob.dtype)


@dataclass(frozen=True)
class Bernoulli(WithLevels):
    """Mass of a 0/1 cell; the location is the log-odds."""

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls()

    @classmethod
    def n_levels(cls, columns: Columns) -> tuple[int, ...]:
        return (2,) * columns.floor.shape[-1]

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return x * params[0] - functional.softplus(params[0])

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location = out
        torch.mul(x, params[0], out=log_prob).sub_(functional.softplus(params[0]))
        torch.sub(x, torch.sigmoid(params[0], out=by_location), out=by_location)

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        p = self.mean(params)
        return slopes * (p * (1.0 - p)).sqrt()[..., None, :]

    def mean(self, params: Params) -> Tensor:
        return torch.sigmoid(params[0])

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(params), generator=generator)

    def level_log_prob(self, params: Params) -> Tensor:
        logit = params[0]
        return functional.logsigmoid(torch.stack([-logit, logit], -1))

    def decide(self, mean: Tensor) -> Tensor:
        return (mean > 0.5).to(mean.dtype)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        # Match value and slope of the linear model at the column's mean.
        p = mean.clamp(1e-3, 1.0 - 1e-3)
        return p.log() - torch.log1p(-p), slopes / (p * (1.0 - p))

    def step_size(self, params: Params) -> Tensor:
        return torch.ones_like(params[0])


class Categorical(WithLevels):
    """Mass of one of several codes without an order; the locations are logits.

    Columns of different numbers of levels are computed together, padded to the most.

    Parameters
    ----------
    levels : tuple of tuple of float
        Observed shares of each column's codes.
    """

    plain: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    def __init__(self, levels: tuple[tuple[float, ...], ...], like: Tensor) -> None:
        widths = torch.tensor([len(shares) for shares in levels])
        most = int(widths.max())
        inside = torch.arange(most) < widths[:, None]
        place = inside.flatten().cumsum(0).view_as(inside) - 1
        device = like.device
        # Where each location lies among the padded ones, and the other way round.
        self._padded = inside.flatten().nonzero()[:, 0].to(device)
        self._place = torch.where(inside, place, 0).to(device)
        self._outside = ~inside.to(device)
        self._owner = inside.nonzero()[:, 0].to(device)
        self._code = inside.nonzero()[:, 1].to(like)
        shares = [share for own in levels for share in own]
        self._shares = torch.tensor(shares).to(like)

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls(columns.levels, columns.floor)

    @classmethod
    def widths(cls, columns: Columns) -> tuple[int, ...]:
        return tuple(len(shares) for shares in columns.levels)

    @classmethod
    def n_levels(cls, columns: Columns) -> tuple[int, ...]:
        return cls.widths(columns)

    @property
    def reference(self) -> Tensor:
        """Whether a location is of its column's commonest level, (n_locations,)."""
        common = self._pad(self._shares, -1.0).argmax(-1)
        return self._code == common[self._owner]

    def level_log_prob(self, params: Params) -> Tensor:
        return self._pad(params[0], -torch.inf).log_softmax(-1)

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        log_prob = self._pad(params[0], -torch.inf).log_softmax(-1)
        shape = torch.broadcast_shapes(log_prob.shape[:-1], x.shape)
        code = x.long().expand(shape)[..., None]
        return log_prob.expand(*shape, -1).gather(-1, code)[..., 0]

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location = out
        each = self.level_log_prob(params)
        torch.gather(each, -1, x.long()[..., None], out=log_prob[..., None])
        torch.sub(self.statistic(x), self._flat(each.exp_()), out=by_location)

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        p = self.mean(params)[..., None, :]
        return p.sqrt() * (slopes - self.spread(self.collapse(slopes * p)))

    def mean(self, params: Params) -> Tensor:
        return self._flat(self.level_log_prob(params).exp())

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        return _race(self.level_log_prob(params), generator)

    def features(self, x: Tensor) -> Tensor:
        own = self.spread(x)
        return torch.where(own.isnan(), own, (own == self._code).to(x.dtype))

    def statistic(self, x: Tensor) -> Tensor:
        return (self.spread(x) == self._code).to(x.dtype)

    def decide(self, mean: Tensor) -> Tensor:
        return self._pad(mean, -torch.inf).argmax(-1).to(mean.dtype)

    def spread(self, cells: Tensor) -> Tensor:
        return cells.index_select(-1, self._owner)

    def collapse(self, values: Tensor) -> Tensor:
        return self._pad(values, 0.0).sum(-1)

    def feature_floor(self, floor: Tensor) -> Tensor:
        # Codes exclude each other: no factor is to be spent on explaining that.
        return 0.5 * self._shares * (1.0 - self._shares)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        p = mean.clamp(_RAREST, 1.0)
        return p.log(), slopes / p

    def step_size(self, params: Params) -> Tensor:
        return torch.ones_like(params[0])

    def _pad(self, values: Tensor, filler: float) -> Tensor:
        """(..., n_locations) to (..., n_columns, most levels)."""
        padded = values.index_select(-1, self._place.flatten())
        padded = padded.unflatten(-1, self._place.shape)
        return padded.masked_fill(self._outside, filler)

    def _flat(self, padded: Tensor) -> Tensor:
        """The other way."""
        return padded.flatten(-2).index_select(-1, self._padded)


class Ordinal(WithLevels):
    """Mass of one of several codes in an order: the ordered logistic model.

    P(code <= l) = sigmoid((c_l - location) / scale), with the cutpoints c_l at the
    logits of the observed shares of the codes up to l (McCullagh, "Regression Models
    for Ordinal Data", 1980).

    Parameters
    ----------
    floor : Tensor of shape (n_columns,)
        Least squared scale, in squared logits.
    levels : tuple of tuple of float
        Observed shares of each column's codes.
    centre, scale : Tensor of shape (n_columns,)
        Of the codes, as the encoder sees them.
    """

    has_scale: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    def __init__(
        self,
        floor: Tensor,
        levels: tuple[tuple[float, ...], ...],
        centre: Tensor,
        scale: Tensor,
    ) -> None:
        self.floor, self.centre, self.scale = floor, centre, scale
        most = max(len(shares) for shares in levels)
        cuts = torch.full((len(levels), most + 1), _BEYOND, dtype=torch.float64)
        cuts[:, 0] = -_BEYOND
        for own, given in zip(cuts, levels, strict=True):
            shares = torch.tensor(given, dtype=torch.float64)
            shares = shares.clamp(min=1e-6) / shares.clamp(min=1e-6).sum()
            # From both ends, since 1 - p loses the digits of a small 1 - p.
            below = shares.cumsum(0)[:-1]
            above = shares.flip(0).cumsum(0).flip(0)[1:]
            own[1 : len(given)] = below.log() - above.log()
        # Cuts of code l: [l] below and [l + 1] above it.
        self._cuts = cuts.to(floor)
        counts = torch.tensor([len(shares) for shares in levels])
        self._outside = (torch.arange(most) >= counts[:, None]).to(floor.device)

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls(columns.floor, columns.levels, columns.centre, columns.scale)

    @classmethod
    def n_levels(cls, columns: Columns) -> tuple[int, ...]:
        return tuple(len(shares) for shares in columns.levels)

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return _log_between(*self._bounds(params, x))

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        square, share = squared_scale_and_share(params[1], self.floor)
        a, b, width = self._bounds(params, x)
        log_prob.copy_(_log_between(a, b, width))
        below, above = torch.sigmoid(a), torch.sigmoid(b)
        by_location.copy_((below + above - 1.0) / square.sqrt())
        # sigmoid's own derivative over the mass between is 1 / expm1(b - a) more.
        inner = width / torch.expm1(width)
        by_log_scale.copy_(-share * (b * torch.sigmoid(-b) - a * below + inner))

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        scale = squared_scale(params[1], self.floor).sqrt()
        cuts = (self._cuts - params[0][..., None]) / scale[..., None]
        cumulated = torch.sigmoid(cuts)
        pull = cumulated[..., :-1] + cumulated[..., 1:] - 1.0
        information = (self.level_log_prob(params).exp() * pull.square()).sum(-1)
        return slopes * (information.sqrt() / scale)[..., None, :]

    def mean(self, params: Params) -> Tensor:
        scale = squared_scale(params[1], self.floor).sqrt()
        over = torch.sigmoid(
            (params[0][..., None] - self._cuts[:, 1:-1]) / scale[..., None]
        )
        return over.sum(-1)

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        return _race(self.level_log_prob(params), generator)

    def level_log_prob(self, params: Params) -> Tensor:
        scale = squared_scale(params[1], self.floor).sqrt()
        cuts = (self._cuts - params[0][..., None]) / scale[..., None]
        width = (self._cuts[:, 1:] - self._cuts[:, :-1]) / scale[..., None]
        log_prob = _log_between(cuts[..., :-1], cuts[..., 1:], width)
        return log_prob.masked_fill(self._outside, -torch.inf)

    def features(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.scale

    def features_of(self, mean: Tensor) -> Tensor:
        return self.features(mean)

    def decide(self, mean: Tensor) -> Tensor:
        return mean.round()

    def feature_floor(self, floor: Tensor) -> Tensor:
        return torch.full_like(floor, 1e-2)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        # The standardised code becomes a standard logistic variable.
        return _LOGISTIC * mean, _LOGISTIC * slopes, noise

    def step_size(self, params: Params) -> Tensor:
        scale = squared_scale(params[1], self.floor).sqrt()
        return scale.expand_as(params[0]).clamp(max=1.0)

    def _bounds(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standard scores of the cutpoints around each cell, and their distance."""
        scale = squared_scale(params[1], self.floor).sqrt()
        code = x.long()
        column = torch.arange(len(self._cuts), device=x.device).expand_as(code)
        low, high = self._cuts[column, code], self._cuts[column, code + 1]
        location = params[0]
        return (low - location) / scale, (high - location) / scale, (high - low) / scale


def _log_between(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """log(sigmoid(b) - sigmoid(a)) with all digits in both tails; width = b - a."""
    inside = torch.log(-torch.expm1(-width))
    return functional.logsigmoid(b) + functional.logsigmoid(-a) + inside
