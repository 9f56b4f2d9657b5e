"""Densities of the latent code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Prior(ABC):
    """Density of the code z."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each code; the last axis, the components', is summed."""

    @abstractmethod
    def at(self, unit: Tensor) -> Tensor:
        """Codes that standard normal draws (members, ..., components) stand for."""

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Codes of that shape, dtype and device of ``like``."""
        return self.at(like.new_empty(shape).normal_(generator=generator))

    def to(self, dtype: torch.dtype, device: torch.device) -> Prior:
        """The same density elsewhere."""
        return self


class StandardNormal(Prior):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, 0.0 * z[..., :1]).sum(-1)

    def at(self, unit: Tensor) -> Tensor:
        return unit


@dataclass(frozen=True)
class FullNormal(Prior):
    """N(mean, L L'), one for each member.

    Parameters
    ----------
    mean : Tensor of shape (n_members, n_components)
    cholesky : Tensor of shape (n_members, n_components, n_components)
        Lower triangular L.
    """

    mean: Tensor
    cholesky: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes (n_members, ..., n_components)."""
        flat = z.flatten(1, -2) - self.mean[:, None]
        unit = torch.linalg.solve_triangular(
            self.cholesky, flat.transpose(-1, -2), upper=False
        ).transpose(-1, -2)
        log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = StandardNormal().log_prob(unit) - log_det[:, None]
        return log_prob.view(z.shape[:-1])

    def at(self, unit: Tensor) -> Tensor:
        codes = torch.baddbmm(
            self.mean[:, None], unit.flatten(1, -2), self.cholesky.transpose(-1, -2)
        )
        return codes.view_as(unit)

    def to(self, dtype: torch.dtype, device: torch.device) -> FullNormal:
        return FullNormal(
            self.mean.to(dtype=dtype, device=device),
            self.cholesky.to(dtype=dtype, device=device),
        )


@dataclass(frozen=True)
class AggregatePosterior(Prior):
    """Mean of the posteriors of some training rows, one mixture for each member.

    The density of the codes that decoders have learned to read, set after training
    (Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018, on why it is the best
    prior of the ELBO). It holds codes, no rows.

    Parameters
    ----------
    mean, log_variance : Tensor of shape (n_members, n_codes, n_components)
    """

    mean: Tensor
    log_variance: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes (n_members, ..., n_components)."""
        # Multiplied out, the squared distances to all codes are two matrix products;
        # about the centre, so that little is lost to rounding.
        centre = self.mean.mean(1, keepdim=True)
        flat, mean = z.flatten(1, -2) - centre, self.mean - centre
        precision = torch.exp(-self.log_variance)
        constant = (mean.square() * precision + self.log_variance).sum(-1)
        constant = constant + mean.shape[-1] * math.log(2.0 * math.pi)
        distance = torch.baddbmm(constant[:, None], flat.square(), precision.mT)
        distance.baddbmm_(flat, (mean * precision).mT, alpha=-2.0)
        log_prob = distance.mul_(-0.5).logsumexp(-1) - math.log(mean.shape[1])
        return log_prob.view(z.shape[:-1])

    def at(self, unit: Tensor) -> Tensor:
        """Codes of the components in turn, spread over all of them."""
        members, *places, _ = unit.shape
        n_draws, n_codes = math.prod(places), self.mean.shape[1]
        turn = torch.arange(n_draws, device=unit.device) * n_codes // max(n_draws, 1)
        return self._about(turn.expand(members, -1), unit)

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        unit = like.new_empty(shape).normal_(generator=generator)
        size = (shape[0], math.prod(shape[1:-1]))
        chosen = torch.randint(
            self.mean.shape[1], size, generator=generator, device=like.device
        )
        return self._about(chosen, unit)

    def to(self, dtype: torch.dtype, device: torch.device) -> AggregatePosterior:
        return AggregatePosterior(
            self.mean.to(dtype=dtype, device=device),
            self.log_variance.to(dtype=dtype, device=device),
        )

    def _about(self, chosen: Tensor, unit: Tensor) -> Tensor:
        """Draws of the chosen components (n_members, n_draws)."""
        index = chosen[..., None].expand(-1, -1, unit.shape[-1])
        mean = self.mean.expand(len(unit), -1, -1).gather(1, index)
        spread = (0.5 * self.log_variance.expand(len(unit), -1, -1)).exp()
        codes = mean + spread.gather(1, index) * unit.flatten(1, -2)
        return codes.view_as(unit)


def normal_log_prob(unit: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of N(m, v) at m + unit * sqrt(v), elementwise."""
    return -0.5 * (unit.square() + log_variance + math.log(2.0 * math.pi))


def defensive_log_prob(log_q: Tensor, log_prior: Tensor, share: float) -> Tensor:
    """Log density of draws of which this share came from the prior, the others from q.

    Hesterberg, "Weighted Average Importance Sampling and Defensive Mixture
    Distributions", 1995: the importance weights are then bounded.
    """
    return torch.logaddexp(log_q + math.log1p(-share), log_prior + math.log(share))
