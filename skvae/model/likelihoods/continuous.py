"""Densities with a location and a scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skvae._backend import number
from skvae.model.likelihoods.base import (
    Columns,
    Likelihood,
    Params,
    normal,
    squared_scale,
    squared_scale_and_share,
    uniform,
)

# Standard scores this far out are those of infinity, and their squares are finite.
_FAR = 1e15


@dataclass(frozen=True)
class Continuous(Likelihood):
    """A location and a scale with a floor.

    The floor is a variance that is always added: that of the rounding of the column
    to its resolution. An additive floor keeps its gradient, a clamp would lose it.

    Parameters
    ----------
    floor : Tensor of shape (n_columns,)
        Least variance, coded units.
    """

    floor: Tensor
    has_scale: ClassVar[bool] = True
    continuous: ClassVar[bool] = True
    # Fisher information of the location, in units of 1 / variance.
    unit_information: ClassVar[float] = 1.0

    @classmethod
    def of(cls, columns: Columns) -> Likelihood:
        return cls(columns.floor)

    def variance(self, params: Params) -> Tensor:
        """Squared scale, coded units."""
        return squared_scale(params[1], self.floor)

    def mean(self, params: Params) -> Tensor:
        return params[0]

    def root_information(self, params: Params, slopes: Tensor, x: Tensor) -> Tensor:
        information = self.unit_information / self.variance(params)
        return slopes * information.sqrt()[..., None, :]

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        return mean, slopes, noise

    def step_size(self, params: Params) -> Tensor:
        return self.variance(params).sqrt()

    # -- parts of the line -------------------------------------------------------
    #
    # A range above the location is mirrored: lower tails keep their digits.

    @abstractmethod
    def _log_cdf(self, t: Tensor) -> Tensor:
        """Log P(cell <= location + scale * t)."""

    @abstractmethod
    def _quantile(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        """Standard score below which that share of [a, b]'s mass lies."""

    def cdf(self, params: Params, x: Tensor) -> Tensor:
        return self._log_cdf((x - params[0]) / self.variance(params).sqrt()).exp()

    def log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        a, b, _, _ = self._standard(params, low, high)
        above = self._log_cdf(b)
        return above + torch.log(-torch.expm1(self._log_cdf(a) - above))

    def sample_within(
        self,
        params: Params,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        a, b, mirrored, scale = self._standard(params, low, high)
        t = self._quantile(a, b, uniform(a, generator)).clamp(a, b)
        x = params[0] + torch.where(mirrored, -t, t) * scale
        return x.clamp(low, high)

    def _standard(
        self, params: Params, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Standard scores of the bounds, whether they are mirrored, the scale."""
        scale = self.variance(params).sqrt()
        a, b, scale = torch.broadcast_tensors(
            (low - params[0]) / scale, (high - params[0]) / scale, scale
        )
        mirrored = a + b > 0.0
        return (
            torch.where(mirrored, -b, a),
            torch.where(mirrored, -a, b),
            mirrored,
            scale,
        )


@dataclass(frozen=True)
class Gaussian(Continuous):
    """Normal density."""

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        variance = self.variance(params)
        return -0.5 * (
            (x - params[0]).square() / variance
            + (torch.log(variance) + math.log(2.0 * math.pi))
        )

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        variance, share = squared_scale_and_share(params[1], self.floor)
        torch.sub(x, params[0], out=log_prob)
        torch.div(log_prob, variance, out=by_location)
        torch.mul(log_prob, by_location, out=by_log_scale)
        constant = variance.mul_(number(2.0 * math.pi, x)).log_().mul_(number(-0.5, x))
        torch.add(constant, by_log_scale, alpha=-0.5, out=log_prob)
        torch.addcmul(-share, by_log_scale, share, out=by_log_scale)

    def cdf(self, params: Params, x: Tensor) -> Tensor:
        # The same as exp(log_ndtr), tails included, in a fraction of the time.
        t = (x - params[0]) / (2.0 * self.variance(params)).sqrt()
        return 0.5 * torch.special.erfc(-t)

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        unit = normal(params[0], generator)
        return params[0] + unit * self.variance(params).sqrt()

    def _log_cdf(self, t: Tensor) -> Tensor:
        return torch.special.log_ndtr(t)

    def _quantile(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        below, above = torch.special.ndtr(a), torch.special.ndtr(b)
        t = torch.special.ndtri(below + share * (above - below))
        # Where the tail underflows it is exponential to all digits.
        rate = b.abs().clamp(min=1.0)
        floor = torch.exp(-rate * (b - a))
        far = b + torch.log(floor + (1.0 - share) * (1.0 - floor)) / rate
        return torch.where(above < 100.0 * torch.finfo(t.dtype).tiny, far, t)


@dataclass(frozen=True)
class StudentT(Continuous):
    """Student's t density with two degrees of freedom: heavy tails.

    Far cells pull on the fit with a bounded force. See Takahashi et al., "Student-t
    Variational Autoencoder for Robust Density Estimation", IJCAI 2018.
    """

    # Its distribution function and quantiles below are those of this number alone.
    degrees_of_freedom: ClassVar[float] = 2.0
    # (nu + 1) / (nu + 3)
    unit_information: ClassVar[float] = 0.6

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        nu = self.degrees_of_freedom
        variance = self.variance(params)
        tail = torch.log1p((x - params[0]).square() / (nu * variance))
        return self._log_norm - 0.5 * torch.log(variance) - 0.5 * (nu + 1.0) * tail

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        nu = self.degrees_of_freedom
        variance, share = squared_scale_and_share(params[1], self.floor)
        torch.sub(x, params[0], out=log_prob)
        torch.div(log_prob, variance, out=by_location)
        # A cell's force is its distance over 1 + t, t the squared distance over nu.
        one = number(1.0, x)
        tail = torch.addcmul(
            one, log_prob, by_location, value=1.0 / nu, out=by_log_scale
        )
        torch.div(by_location, tail, out=by_location)
        by_location.mul_(number((nu + 1.0) / nu, x))
        constant = variance.log_().mul_(number(-0.5, x)).add_(number(self._log_norm, x))
        torch.log(tail, out=log_prob)
        torch.add(constant, log_prob, alpha=-0.5 * (nu + 1.0), out=log_prob)
        # nu - (nu + 1) / (1 + t), times the share
        torch.div(share, tail, out=tail)
        torch.add(nu * share, tail, alpha=-nu - 1.0, out=tail)

    @property
    def _log_norm(self) -> float:
        nu = self.degrees_of_freedom
        log_ratio = math.lgamma((nu + 1.0) / 2.0) - math.lgamma(nu / 2.0)
        return log_ratio - 0.5 * math.log(nu * math.pi)

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        # A t variable is normal over the root of a chi-square over nu; with an even
        # number of degrees of freedom that chi-square is a sum of exponentials.
        chi2 = torch.zeros_like(params[0])
        for _ in range(int(self.degrees_of_freedom) // 2):
            chi2 += 2.0 * torch.empty_like(chi2).exponential_(generator=generator)
        unit = normal(params[0], generator) / (chi2 / self.degrees_of_freedom).sqrt()
        return params[0] + unit * self.variance(params).sqrt()

    def _log_cdf(self, t: Tensor) -> Tensor:
        # 1/2 - |t| / 2 sqrt(2 + t^2), in the form that loses no digits.
        far = t.clamp(-_FAR, _FAR)
        square = far.square() + 2.0
        tail = 1.0 / (square * (1.0 + far.abs() / square.sqrt()))
        tail = torch.where(t.isinf(), 0.0, tail)
        return torch.where(t < 0.0, tail.log(), torch.log1p(-tail))

    def _quantile(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        below, above = self._log_cdf(a).exp(), self._log_cdf(b).exp()
        p = below + share * (above - below)
        tiny = torch.finfo(p.dtype).tiny
        return (2.0 * p - 1.0) / (2.0 * p * (1.0 - p)).clamp(min=tiny).sqrt()
