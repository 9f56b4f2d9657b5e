"""What a model says of some rows; every answer to the user is a reading of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from skvae.model.likelihoods import Params, TableLikelihood
from skvae.model.priors import Prior, defensive_log_prob, log_det, normal_log_prob


@dataclass
class Terms:
    """Everything that the model says of some rows, computed when first read.

    Shapes are (members, draws, rows, columns) and leave out what does not apply.
    With ``log_weight = sum(log_px) + log_pz - log_qz``, its mean over draws is the
    ELBO, its logsumexp less log(draws) the importance-weighted likelihood, its
    softmax the weight of each draw in every conditional expectation.

    Attributes
    ----------
    mean, log_variance : Tensor of shape (members, rows, components)
        Of each component under q(z|x), the Gaussian that the draws came from.
    unit : Tensor of shape (members, draws - n_prior, rows or 1, components)
        Standard normal draws; zero for the posterior mean.
    n_prior : int
        How many of the draws, the last ones, are of the prior's Gaussian instead.
    z : Tensor of shape (members, draws, rows, components)
    params : tuple of Tensor
        Locations and log-scales of the cells given z.
    spread : Tensor of shape (members, rows, components, components) or None
        Root S of the covariance S S' of q(z|x), whose draws are mean + S unit; None:
        its components are independent.
    seen : Tensor of shape (members, rows, inputs) or None
        What the encoder saw; None where the draws are none of its.
    log_ratio : Tensor of shape (members, draws, rows) or None
        Log p(z) - log q(z), where the draws are of more than one density.
    """

    likelihood: TableLikelihood
    prior: Prior
    x: Tensor
    observed: Tensor | None
    mean: Tensor
    log_variance: Tensor
    unit: Tensor
    n_prior: int
    z: Tensor
    params: Params
    spread: Tensor | None = None
    seen: Tensor | None = None
    log_ratio: Tensor | None = None

    @cached_property
    def log_px(self) -> Tensor:
        """Log density of each cell given z; zero where the cell is missing."""
        observed = None if self.observed is None else self.observed[:, None]
        return self.likelihood.log_prob(self.params, self.x[:, None], observed)

    @cached_property
    def log_pz(self) -> Tensor:
        """Log prior density of each draw, (members, draws, rows)."""
        return self.prior.log_prob(self.z)

    @cached_property
    def log_qz(self) -> Tensor:
        """Log density that the draws came from, (members, draws, rows)."""
        unit = self._unit() if self.n_prior else self.unit
        if self.spread is None:
            log_qz = normal_log_prob(unit, self.log_variance[:, None]).sum(-1)
        else:
            log_qz = normal_log_prob(unit, unit.new_zeros(())).sum(-1)
            log_qz = log_qz - log_det(self.spread)[:, None]
        if not self.n_prior:
            return log_qz
        share, normal = self.n_prior / self.z.shape[1], self.prior.normal()
        log_prior = self.log_pz if normal is self.prior else normal.log_prob(self.z)
        return defensive_log_prob(log_qz, log_prior, share)

    def _unit(self) -> Tensor:
        """Every draw, in standard deviations from the mean of q(z|x)."""
        away = self.z - self.mean[:, None]
        if self.spread is None:
            return away * torch.exp(-0.5 * self.log_variance[:, None])
        return torch.linalg.solve(self.spread, away.movedim(1, -1)).movedim(-1, 1)

    @cached_property
    def log_weight(self) -> Tensor:
        """Of each draw, log p(x, z) - log q(z|x): (members, draws, rows)."""
        if self.log_ratio is None:
            return self.log_px.sum(-1) + self.log_pz - self.log_qz
        return self.log_px.sum(-1) + self.log_ratio

    @cached_property
    def weight(self) -> Tensor:
        """Share of each draw in conditional expectations, (members * draws, rows)."""
        return self.log_weight.flatten(0, 1).softmax(0)

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z)) in parts that sum to it, (members, rows, components).

        Where the prior has no formula: the draws' mean of log q(z|x) - log p(z), in
        equal parts.
        """
        kl = self.prior.kl(self.mean, self.log_variance, self.spread)
        if kl is not None:
            return kl
        mean = (self.log_qz - self.log_pz).mean(1)[..., None]
        return mean.expand_as(self.mean) / self.mean.shape[-1]

    def of_draws(self, values: Tensor) -> Tensor:
        """What belongs to each draw, such as ``params``: (members * draws, rows, ...).

        Parameters
        ----------
        values : Tensor that broadcasts against (members, draws, rows, its last axis)
        """
        return values.expand(*self.z.shape[:3], -1).flatten(0, 1)


def defended(z: Tensor, unit: Tensor, prior: Prior, n_prior: int) -> Tensor:
    """The draws, and after them so many of the prior, where the first of ``unit`` lie.

    A defensive share bounds the importance weights of rows whose posterior the others
    miss (Hesterberg, "Weighted Average Importance Sampling and Defensive Mixture
    Distributions", 1995).

    Parameters
    ----------
    z : Tensor of shape (members, draws, rows, components)
    unit : Tensor of shape (1 or members, draws, rows or 1, components)
    prior : Prior
    n_prior : int
    """
    if not n_prior:
        return z
    members, _, rows, _ = z.shape
    from_prior = prior.at(unit[:, :n_prior].expand(members, -1, -1, -1))
    return torch.cat([z, from_prior.expand(-1, -1, rows, -1)], dim=1)
