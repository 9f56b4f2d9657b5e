"""Densities of the latent code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


class Prior(ABC):
    """Density of the code z.

    Attributes
    ----------
    held : mapping of str to str
        The tensors that it is made from: each one's name in a saved model.
    """

    held: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each code; the last axis, the components', is summed."""

    @abstractmethod
    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Codes of that shape, dtype and device of ``like``."""

    @abstractmethod
    def normal(self) -> Normal:
        """The Gaussian that stands for it wherever codes are proposed."""

    def at(self, unit: Tensor) -> Tensor:
        """Codes of that Gaussian that standard normal draws stand for."""
        return self.normal().at(unit)

    def kl(
        self, mean: Tensor, log_variance: Tensor, spread: Tensor | None = None
    ) -> Tensor | None:
        """KL divergence of normal codes from this density, in parts; None: no formula.

        Parameters
        ----------
        mean, log_variance : Tensor of shape (members, rows, components)
            Of each component.
        spread : Tensor of shape (members, rows, components, components) or None
            A root S of the covariance, S S'; None: the components are independent.

        Returns
        -------
        Tensor of shape (members, rows, components) or None
            One part for each component; they sum to the divergence.
        """
        return None

    def to(self, dtype: torch.dtype, device: torch.device) -> Prior:
        """The same density elsewhere."""
        return type(self)(
            **{name: getattr(self, name).to(device, dtype) for name in self.held}
        )

    def state(self) -> dict[str, Tensor]:
        """What it is made from, under the names of a saved model."""
        return {saved: getattr(self, name) for name, saved in self.held.items()}

    def of_members(self, members: list[int]) -> Prior:
        """The densities of some of the members."""
        return type(self)(**{name: getattr(self, name)[members] for name in self.held})


class Normal(Prior):
    """A Gaussian: an affine map of standard normal draws."""

    @abstractmethod
    def at(self, unit: Tensor) -> Tensor:
        """Codes that standard normal draws (members, ..., components) stand for."""

    def normal(self) -> Normal:
        return self

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        return self.at(like.new_empty(shape).normal_(generator=generator))


class StandardNormal(Normal):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, 0.0 * z[..., :1]).sum(-1)

    def at(self, unit: Tensor) -> Tensor:
        return unit

    def kl(
        self, mean: Tensor, log_variance: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        """Each component's own divergence, and an equal part of what ties them.

        Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, appendix B; the
        tie is their total correlation, the sum of their entropies less the joint one.
        """
        own = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        if spread is None:
            return own
        tie = 0.5 * log_variance.sum(-1) - log_det(spread)
        return own + tie[..., None] / mean.shape[-1]


@dataclass(frozen=True)
class FullNormal(Normal):
    """N(mean, L L'), one for each member.

    Parameters
    ----------
    mean : Tensor of shape (n_members, n_components)
    cholesky : Tensor of shape (n_members, n_components, n_components)
        Lower triangular L.
    """

    held: ClassVar[Mapping[str, str]] = {
        "mean": "prior_mean",
        "cholesky": "prior_cholesky",
    }

    mean: Tensor
    cholesky: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes (n_members, ..., n_components)."""
        log_prob = StandardNormal().log_prob(self._unit(z).flatten(1, -2))
        return (log_prob - log_det(self.cholesky)[:, None]).view(z.shape[:-1])

    def at(self, unit: Tensor) -> Tensor:
        codes = torch.baddbmm(
            self.mean[:, None], unit.flatten(1, -2), self.cholesky.transpose(-1, -2)
        )
        return codes.view_as(unit)

    def kl(
        self, mean: Tensor, log_variance: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        """That of the codes in units of this Gaussian from N(0, I)."""
        if spread is None:
            spread = torch.diag_embed(torch.exp(0.5 * log_variance))
        spread = torch.linalg.solve_triangular(
            self.cholesky[:, None], spread, upper=False
        )
        log_variance = spread.square().sum(-1).log()
        return StandardNormal().kl(self._unit(mean), log_variance, spread)

    def _unit(self, z: Tensor) -> Tensor:
        """The draws that `at` sends to these codes."""
        flat = z.flatten(1, -2) - self.mean[:, None]
        unit = torch.linalg.solve_triangular(
            self.cholesky, flat.transpose(-1, -2), upper=False
        )
        return unit.transpose(-1, -2).reshape(z.shape)


def log_det(matrix: Tensor) -> Tensor:
    """Log of the size of the determinant of each square matrix."""
    return torch.linalg.slogdet(matrix).logabsdet


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

    held: ClassVar[Mapping[str, str]] = {
        "mean": "prior_codes",
        "log_variance": "prior_log_variance",
    }

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

    def normal(self) -> Normal:
        """The Gaussian of the same mean and covariance."""
        mean = self.mean.mean(1)
        away = self.mean - mean[:, None]
        within = torch.diag_embed(self.log_variance.exp().mean(1))
        covariance = away.mT @ away / self.mean.shape[1] + within
        return FullNormal(mean, torch.linalg.cholesky(covariance))

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        unit = like.new_empty(shape).normal_(generator=generator)
        size = (shape[0], math.prod(shape[1:-1]))
        chosen = torch.randint(
            self.mean.shape[1], size, generator=generator, device=like.device
        )
        return self._about(chosen, unit)

    def _about(self, chosen: Tensor, unit: Tensor) -> Tensor:
        """Draws of the chosen components (n_members, n_draws)."""
        index = chosen[..., None].expand(-1, -1, unit.shape[-1])
        mean = self.mean.expand(len(unit), -1, -1).gather(1, index)
        spread = (0.5 * self.log_variance.expand(len(unit), -1, -1)).exp()
        codes = mean + spread.gather(1, index) * unit.flatten(1, -2)
        return codes.view_as(unit)


def prior_of(saved: Mapping[str, np.ndarray]) -> Prior:
    """The prior of a saved model, on the CPU, from all arrays of that model."""
    for cls in (FullNormal, AggregatePosterior):
        if all(name in saved for name in cls.held.values()):
            return cls(**{own: torch.tensor(saved[n]) for own, n in cls.held.items()})
    return StandardNormal()


def normal_log_prob(unit: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of N(m, v) at m + unit * sqrt(v), elementwise."""
    return -0.5 * (unit.square() + log_variance + math.log(2.0 * math.pi))


def defensive_log_prob(log_q: Tensor, log_prior: Tensor, share: float) -> Tensor:
    """Log density of draws of which this share came from the prior, the others from q.

    Hesterberg, "Weighted Average Importance Sampling and Defensive Mixture
    Distributions", 1995: the importance weights are then bounded.
    """
    return torch.logaddexp(log_q + math.log1p(-share), log_prior + math.log(share))
