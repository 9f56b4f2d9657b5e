"""Masses of whole numbers from zero on."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

from skvae._backend import number
from skvae.model.likelihoods.base import (
    Columns,
    Likelihood,
    Params,
    squared_scale,
    squared_scale_and_share,
    uniform,
)

# The rate goes on as a straight line from here: its square is finite in float32.
_LARGEST_LOG_RATE = 30.0
# Above this size gamma functions are differenced by Stirling's series: their own
# difference would lose its digits.
_LARGE = 16.0
# Masses of so many neighbours are summed where a difference of tails has no digits.
_NEIGHBOURS = 64
# Counts are drawn no further out than this many standard deviations.
_REACH = 50.0


@dataclass(frozen=True)
class Counts(Likelihood):
    """Counts whose location is the logarithm of their mean.

    Parameters
    ----------
    floor : Tensor of shape (n_columns,)
        Least squared scale; unused by kinds without one.
    centre, scale : Tensor of shape (n_columns,)
        Of log1p(count), as the encoder sees it.
    """

    floor: Tensor
    centre: Tensor
    scale: Tensor
    plain: ClassVar[bool] = False

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls(columns.floor, columns.centre, columns.scale)

    def features(self, x: Tensor) -> Tensor:
        return (torch.log1p(x) - self.centre) / self.scale

    def features_of(self, mean: Tensor) -> Tensor:
        return self.features(mean)

    def feature_floor(self, floor: Tensor) -> Tensor:
        return torch.full_like(floor, 1e-2)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        # Match value and slope of the linear model of log1p(count) at its mean.
        log1p = (self.centre + self.scale * mean).clamp(min=0.05)
        expected = torch.expm1(log1p)
        return expected.log(), slopes * self.scale * (expected + 1.0) / expected

    def mean(self, params: Params) -> Tensor:
        return _rate(params[0])

    @abstractmethod
    def variance_of_counts(self, params: Params) -> Tensor:
        """Variance of each count."""

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        # mean^2 / variance: the information of a log mean in an exponential family
        information = self.mean(params) / self.variance_of_counts(params).sqrt()
        return slopes * information[..., None, :]

    def step_size(self, params: Params) -> Tensor:
        spread = self.variance_of_counts(params).sqrt() / self.mean(params)
        return spread.clamp(max=1.0)

    # -- parts of the line -------------------------------------------------------

    @abstractmethod
    def _tails(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        """P(cell <= x) and P(cell > x) of whole numbers from 0 on."""

    def _both(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of any number."""
        whole = x.floor()
        below, above = self._tails(params, whole.clamp(0.0, 1e15))
        below = torch.where(whole < 0.0, 0.0, torch.where(x == torch.inf, 1.0, below))
        above = torch.where(whole < 0.0, 1.0, torch.where(x == torch.inf, 0.0, above))
        return below, above

    def cdf(self, params: Params, x: Tensor) -> Tensor:
        return self._both(params, x)[0]

    def log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        low, high = low.ceil().clamp(min=0.0), high.floor()
        f_low, s_low = self._both(params, low - 1.0)
        f_high, s_high = self._both(params, high)
        mass = torch.where(f_low > 0.5, s_low - s_high, f_high - f_low)
        step = torch.arange(_NEIGHBOURS, device=low.device, dtype=low.dtype)
        step = step.view(-1, *(1 for _ in mass.shape))
        upwards = (low > self.mean(params)) | (high - low < _NEIGHBOURS)
        near = torch.where(upwards, low + step, high.clamp(max=1e15) - step)
        inside = (near >= low) & (near <= high)
        near = torch.where(inside, near, 0.0)
        summed = self.log_prob(params, near).masked_fill(~inside, -torch.inf)
        few = summed.logsumexp(0).clamp(max=0.0)
        # The few are part of all, so that the larger of the two is the closer one.
        return torch.where(
            high - low < _NEIGHBOURS, few, torch.maximum(few, mass.clamp(min=0.0).log())
        )

    def sample_within(
        self,
        params: Params,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        if not bool(((low > 0.0) | (high < torch.inf)).any()):
            return self.sample(params, generator)
        low, high = low.ceil().clamp(min=0.0), high.floor()
        f_low, s_low = self._both(params, low - 1.0)
        f_high, s_high = self._both(params, high)
        share, from_above = uniform(f_low + f_high, generator), f_low > 0.5
        target = torch.where(
            from_above,
            s_high + share * (s_low - s_high),
            f_low + share * (f_high - f_low),
        )
        # The least count whose tail reaches the target, by bisection.
        spread = self.variance_of_counts(params).sqrt()
        furthest = torch.maximum(low, self.mean(params)) + _REACH * (spread + 2.0)
        last = torch.minimum(high, furthest.ceil()).expand_as(target)
        first = low.expand_as(target)
        width = float((last - first).max()) if last.numel() else 0.0
        for _ in range(math.ceil(math.log2(max(width, 0.0) + 1.0)) + 1):
            middle = ((first + last) / 2.0).floor()
            below, above = self._both(params, middle)
            reached = torch.where(from_above, above <= target, below >= target)
            last = torch.where(reached, middle, last)
            first = torch.where(reached, first, torch.minimum(middle + 1.0, last))
        return last


class Poisson(Counts):
    """Poisson mass; the location is the log rate."""

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return x * params[0] - _rate(params[0]) - torch.lgamma(x + 1.0)

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location = out
        torch.mul(x, params[0], out=log_prob)
        log_prob.sub_(_rate(params[0])).sub_(torch.lgamma(x + 1.0))
        torch.sub(x, params[0].clamp(max=_LARGEST_LOG_RATE).exp(), out=by_location)

    def variance_of_counts(self, params: Params) -> Tensor:
        return self.mean(params)

    def step_size(self, params: Params) -> Tensor:
        return torch.exp(-0.5 * params[0]).clamp(max=1.0)

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        return slopes * self.mean(params).sqrt()[..., None, :]

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        rate = self.mean(params).clamp(max=1e15)
        return torch.poisson(rate, generator=generator)

    def _tails(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        x, rate = torch.broadcast_tensors(x + 1.0, self.mean(params))
        return torch.special.gammaincc(x, rate), torch.special.gammainc(x, rate)


class NegativeBinomial(Counts):
    """Negative binomial mass: counts that vary more than Poisson's.

    The location is the log mean; the variance is mean + dispersion * mean^2, where
    the dispersion is the squared scale.
    """

    has_scale: ClassVar[bool] = True

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        dispersion = squared_scale(params[1], self.floor)
        return self._log_prob(params[0], dispersion, x)

    def _log_prob(self, location: Tensor, dispersion: Tensor, x: Tensor) -> Tensor:
        size = 1.0 / dispersion
        odds = functional.softplus(location + dispersion.log())
        kernel = x * location - (x + size) * odds - torch.lgamma(x + 1.0)
        return kernel + _log_rising(x, size)

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        dispersion, share = squared_scale_and_share(params[1], self.floor)
        size, logit = 1.0 / dispersion, params[0] + dispersion.log()
        log_prob.copy_(self._log_prob(params[0], dispersion, x))
        p = torch.sigmoid(logit)
        by_location.copy_(x - (x + size) * p)
        # By the log of the size, which falls by twice what the free scale rises.
        by_size = _rising_slope(x, size) - functional.softplus(logit)
        by_size = by_size + (x + size) * dispersion * p
        by_log_scale.copy_(-2.0 * share * size * by_size)

    def mean(self, params: Params) -> Tensor:
        return params[0].clamp(max=_LARGEST_LOG_RATE).exp()

    def variance_of_counts(self, params: Params) -> Tensor:
        mean = self.mean(params)
        return mean + squared_scale(params[1], self.floor) * mean.square()

    def step_size(self, params: Params) -> Tensor:
        dispersion = squared_scale(params[1], self.floor)
        return (torch.exp(-params[0]) + dispersion).sqrt().clamp(max=1.0)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        location, slopes = super().start(mean, slopes, noise)
        # What a Poisson's own noise, 1 / mean, leaves of that of the logarithm.
        dispersion = noise * self.scale.square() - torch.exp(-location)
        return location, slopes, dispersion.clamp(min=1e-2)

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        # mean / (1 + dispersion mean), in a form that is finite for any mean
        dispersion = squared_scale(params[1], self.floor)
        information = torch.sigmoid(params[0] + dispersion.log()) / dispersion
        return slopes * information.sqrt()[..., None, :]

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        dispersion = squared_scale(params[1], self.floor)
        mean, dispersion = torch.broadcast_tensors(self.mean(params), dispersion)
        gamma = torch._standard_gamma(1.0 / dispersion, generator=generator)
        rate = (gamma * dispersion * mean).clamp(max=1e15)
        return torch.poisson(rate, generator=generator)

    def _tails(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        dispersion = squared_scale(params[1], self.floor)
        p = torch.sigmoid(params[0] + dispersion.log())
        size, x, p, q = (
            part.double().cpu().numpy()
            for part in torch.broadcast_tensors(1.0 / dispersion, x + 1.0, p, 1.0 - p)
        )
        below = torch.as_tensor(special.betainc(size, x, q)).to(params[0])
        return below, torch.as_tensor(special.betainc(x, size, p)).to(params[0])


class Multinomial(Counts):
    """Counts of a row that share its total; the locations are logits of the shares.

    A cell's part is ``x log p - log x!`` and its portion ``x / N`` of log N!, which
    sum to the mass given the total N of the row's observed counts. The total itself
    has no density: new rows are given the mean one.

    Parameters
    ----------
    trials : float
        Mean total of a row.
    """

    tied: ClassVar[bool] = True

    def __init__(
        self, floor: Tensor, centre: Tensor, scale: Tensor, trials: float = 1.0
    ) -> None:
        super().__init__(floor, centre, scale)
        object.__setattr__(self, "trials", trials)

    trials: float

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls(columns.floor, columns.centre, columns.scale, columns.trials)

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        total = x.sum(-1, keepdim=True)
        coefficient = x * (torch.lgamma(total + 1.0) / total.clamp(min=1.0))
        return x * params[0].log_softmax(-1) - torch.lgamma(x + 1.0) + coefficient

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location = out
        log_prob.copy_(self.log_prob(params, x))
        by_location.copy_(x - x.sum(-1, keepdim=True) * params[0].softmax(-1))

    def restrict(
        self, params: Params, x: Tensor, observed: Tensor
    ) -> tuple[Params, Tensor]:
        # What is left of the shares, and of the total, when some cells are unknown.
        location = params[0]
        never = number(-1e4, location)
        return (torch.where(observed > 0.0, location, never),), x * observed

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        p = params[0].softmax(-1)[..., None, :]
        centred = slopes - (slopes * p).sum(-1, keepdim=True)
        return (x.sum(-1, keepdim=True)[..., None, :] * p).sqrt() * centred

    def mean(self, params: Params) -> Tensor:
        return self.trials * params[0].softmax(-1)

    def variance_of_counts(self, params: Params) -> Tensor:
        share = params[0].softmax(-1)
        return self.trials * share * (1.0 - share)

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        location, slopes = super().start(mean, slopes, noise)
        return location - location.logsumexp(-1), slopes

    def step_size(self, params: Params) -> Tensor:
        return self.mean(params).clamp(min=1.0).rsqrt()

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        share = params[0].softmax(-1)
        flat = share.flatten(0, -2) if share.ndim > 1 else share[None]
        n = max(1, round(self.trials))
        chosen = torch.multinomial(flat, n, True, generator=generator)
        counts = torch.zeros_like(flat)
        counts.scatter_add_(-1, chosen, torch.ones_like(chosen, dtype=flat.dtype))
        return counts.view_as(share)

    def _tails(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        # A count alone is binomial among the mean total.
        n, p = max(1, round(self.trials)), params[0].softmax(-1)
        wide, x, p = (
            part.double().cpu().numpy()
            for part in torch.broadcast_tensors(torch.full_like(x, n) - x, x + 1.0, p)
        )
        above = torch.as_tensor(special.betainc(x, wide.clip(1e-300), p)).to(params[0])
        above = torch.where(torch.as_tensor(wide <= 0.0), 0.0, above)
        return 1.0 - above, above


def _rate(location: Tensor) -> Tensor:
    """exp(location), a straight line where that leaves the arithmetic."""
    rate = location.clamp(max=_LARGEST_LOG_RATE).exp()
    return rate * (1.0 + (location - _LARGEST_LOG_RATE).clamp(min=0.0))


def _log_rising(x: Tensor, size: Tensor) -> Tensor:
    """Log of Gamma(x + size) / Gamma(size) / size^x."""
    small = size.clamp(max=_LARGE)
    direct = torch.lgamma(x + small) - torch.lgamma(small) - x * small.log()
    large = size.clamp(min=_LARGE)
    top = x + large
    series = (top - 0.5) * torch.log1p(x / large) - x
    series = series + (1.0 / top - 1.0 / large) / 12.0
    series = series - (top**-3 - large**-3) / 360.0 + (top**-5 - large**-5) / 1260.0
    return torch.where(size > _LARGE, series, direct)


def _rising_slope(x: Tensor, size: Tensor) -> Tensor:
    """Derivative of `_log_rising` by the size."""
    small = size.clamp(max=_LARGE)
    direct = torch.digamma(x + small) - torch.digamma(small) - x / small
    large = size.clamp(min=_LARGE)
    top = x + large
    series = torch.log1p(x / large) - x / large - 0.5 * (1.0 / top - 1.0 / large)
    series = series - (top**-2 - large**-2) / 12.0 + (top**-4 - large**-4) / 120.0
    series = series - (top**-6 - large**-6) / 252.0
    return torch.where(size > _LARGE, series, direct)
