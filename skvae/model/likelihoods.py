"""Densities of the table's cells: tensors in, tensors out, elementwise.

A likelihood's parameters are a tuple of tensors that broadcast against the cells: the
location first (one output of the decoder per column) and, for kinds with a scale, its
logarithm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Params: TypeAlias = tuple[Tensor, ...]


class Likelihood(ABC):
    """One kind of column: its density, mean and draws.

    Every method takes the parameters first; shapes broadcast, and the last axis is
    the columns'.
    """

    has_scale: ClassVar[bool]

    @abstractmethod
    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log density (mass, for discrete kinds) of each cell, nats."""

    @abstractmethod
    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        """Log density of each cell and its derivative by each parameter.

        Parameters
        ----------
        params : tuple of Tensor
        x : Tensor
        out : tuple of Tensor
            Overwritten: the log density, then the derivatives in the order of
            ``params``, all of the shape of ``x``.
        """

    @abstractmethod
    def mean(self, params: Params) -> Tensor:
        """Expected cell."""

    @abstractmethod
    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        """One draw for each location."""


# Of a variance: its square too is finite in float32, and no column is that noisy.
_LARGEST_EXPONENT = 40.0


@dataclass(frozen=True)
class _Continuous(Likelihood):
    """A location and a scale with a floor.

    The floor is a variance that is always added: that of the rounding of the column
    to its resolution. An additive floor keeps its gradient, a clamp would lose it.

    Parameters
    ----------
    floor : Tensor of shape (n_columns,) or (n_members, n_columns)
        Least variance, coded units.
    """

    floor: Tensor
    has_scale: ClassVar[bool] = True

    def _floor(self, log_scale: Tensor) -> Tensor:
        """The floor, to broadcast against log-scales (members, ..., columns)."""
        if self.floor.dim() == 1:
            return self.floor
        between = (1,) * (log_scale.dim() - 2)
        return self.floor.view(len(self.floor), *between, -1)

    def variance(self, params: Params) -> Tensor:
        """Squared scale, coded units."""
        free = (2.0 * params[1]).clamp_(max=_LARGEST_EXPONENT).exp_()
        return free + self._floor(free)

    def mean(self, params: Params) -> Tensor:
        return params[0]

    def _variance_and_share(self, params: Params) -> tuple[Tensor, Tensor]:
        """Squared scale, and the share of it that is not the floor's."""
        free = (2.0 * params[1]).clamp_(max=_LARGEST_EXPONENT).exp_()
        variance = free + self._floor(free)
        return variance, free.div_(variance)


@dataclass(frozen=True)
class Gaussian(_Continuous):
    """Normal density."""

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        variance = self.variance(params)
        return -0.5 * (
            (x - params[0]).square() / variance
            + (torch.log(variance) + math.log(2.0 * math.pi))
        )

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        variance, share = self._variance_and_share(params)
        torch.sub(x, params[0], out=log_prob)
        torch.div(log_prob, variance, out=by_location)
        torch.mul(log_prob, by_location, out=by_log_scale)
        constant = variance.log_().add_(math.log(2.0 * math.pi))
        torch.add(by_log_scale, constant, out=log_prob).mul_(-0.5)
        by_log_scale.sub_(1.0).mul_(share)

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        unit = _normal(params[0], generator)
        return params[0] + unit * self.variance(params).sqrt()


@dataclass(frozen=True)
class StudentT(_Continuous):
    """Student's t density with fixed degrees of freedom: heavy tails.

    Far cells pull on the fit with a bounded force. See Takahashi et al., "Student-t
    Variational Autoencoder for Robust Density Estimation", IJCAI 2018.
    """

    degrees_of_freedom: ClassVar[float] = 2.0

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        nu = self.degrees_of_freedom
        variance = self.variance(params)
        tail = torch.log1p((x - params[0]).square() / (nu * variance))
        return self._log_norm - 0.5 * torch.log(variance) - 0.5 * (nu + 1.0) * tail

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location, by_log_scale = out
        nu = self.degrees_of_freedom
        variance, share = self._variance_and_share(params)
        torch.sub(x, params[0], out=log_prob)
        torch.div(log_prob, nu * variance, out=by_location)
        # A cell's force is its distance over 1 + t, t the squared distance over nu.
        tail = torch.mul(log_prob, by_location, out=by_log_scale).add_(1.0)
        by_location.div_(tail).mul_(nu + 1.0)
        constant = variance.log_().mul_(-0.5).add_(self._log_norm)
        torch.log(tail, out=log_prob).mul_(-0.5 * (nu + 1.0)).add_(constant)
        tail.reciprocal_().mul_(-nu - 1.0).add_(nu).mul_(share)

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
        unit = _normal(params[0], generator) / (chi2 / self.degrees_of_freedom).sqrt()
        return params[0] + unit * self.variance(params).sqrt()


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Mass of a 0/1 cell; the location is the log-odds."""

    has_scale: ClassVar[bool] = False

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        return x * params[0] - functional.softplus(params[0])

    def differentiate(self, params: Params, x: Tensor, out: Params) -> None:
        log_prob, by_location = out
        torch.mul(x, params[0], out=log_prob).sub_(functional.softplus(params[0]))
        torch.sub(x, torch.sigmoid(params[0], out=by_location), out=by_location)

    def mean(self, params: Params) -> Tensor:
        return torch.sigmoid(params[0])

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(params), generator=generator)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
}


@dataclass(frozen=True)
class _Block:
    """Neighbouring columns of one kind."""

    likelihood: Likelihood
    columns: slice
    scales: slice


class TableLikelihood(Likelihood):
    """The columns of a table, each with the likelihood of its kind.

    Parameters
    ----------
    kinds : tuple of str
        Kind of each column; columns of one kind stand together.
    floor : Tensor of shape (n_columns,) or (n_members, n_columns)
        Variance floor of each column, coded units; unused by kinds without a scale.
    """

    has_scale: ClassVar[bool] = True

    def __init__(self, kinds: tuple[str, ...], floor: Tensor) -> None:
        self.kinds, self.floor = kinds, floor
        self.scaled = tuple(LIKELIHOODS[kind].has_scale for kind in kinds)
        self._blocks: list[_Block] = []
        start = scale = 0
        while start < len(kinds):
            kind, stop = kinds[start], start
            while stop < len(kinds) and kinds[stop] == kind:
                stop += 1
            cls, n_scales = LIKELIHOODS[kind], 0
            if cls.has_scale:
                n_scales = stop - start
                likelihood = cls(floor[..., start:stop])  # type: ignore[call-arg]
            else:
                likelihood = cls()
            self._blocks.append(
                _Block(likelihood, slice(start, stop), slice(scale, scale + n_scales))
            )
            start, scale = stop, scale + n_scales
        self.n_scales = scale

    def to(self, dtype: torch.dtype, device: torch.device) -> TableLikelihood:
        """The same likelihood with its floor elsewhere."""
        return TableLikelihood(self.kinds, self.floor.to(dtype=dtype, device=device))

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log density of each cell, shape of ``x``.

        ``params`` are the locations (..., n_columns) and the log-scales
        (..., n_scales) of the columns that have one.
        """
        return _join(
            block.likelihood.log_prob(own, x[..., block.columns])
            for block, own in self._split(params)
        )

    def differentiate(
        self,
        params: Params,
        x: Tensor,
        out: Params,
        observed: Tensor | None = None,
    ) -> None:
        """Log density of each cell and its derivative by each parameter.

        ``out`` is overwritten by the log densities and the derivatives by the
        locations (..., n_columns), then those by the log-scales (..., n_scales); all
        are zero where ``observed`` is.
        """
        log_prob, *derivatives = out
        for (block, own), (_, by_own) in zip(
            self._split(params), self._split(tuple(derivatives)), strict=True
        ):
            own_out = (log_prob[..., block.columns], *by_own)
            block.likelihood.differentiate(own, x[..., block.columns], own_out)
            if observed is not None:
                for part in own_out:
                    part.mul_(observed[..., block.columns])

    def mean(self, params: Params) -> Tensor:
        """Expected cell, shape of the locations."""
        return _join(block.likelihood.mean(own) for block, own in self._split(params))

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        """One draw of each cell, shape of the locations."""
        return _join(
            block.likelihood.sample(own, generator)
            for block, own in self._split(params)
        )

    def variance(self, params: Params) -> Tensor:
        """Squared scale of the columns that have one, (..., n_scales)."""
        parts = [
            block.likelihood.variance(own)
            for block, own in self._split(params)
            if isinstance(block.likelihood, _Continuous)
        ]
        return _join(parts) if parts else params[1]

    def _split(self, params: Params) -> list[tuple[_Block, Params]]:
        location, log_scale = params
        return [
            (
                block,
                (location[..., block.columns], log_scale[..., block.scales])
                if block.likelihood.has_scale
                else (location[..., block.columns],),
            )
            for block in self._blocks
        ]


def _join(parts: object) -> Tensor:
    tensors = list(parts)  # type: ignore[call-overload]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-1)
