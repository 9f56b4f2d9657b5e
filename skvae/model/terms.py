"""What a model says of some rows; every answer to the user is a reading of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from skvae.model.likelihoods import Params, TableLikelihood
from skvae.model.priors import Prior, defensive_log_prob, normal_log_prob


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
        Of the posterior q(z|x).
    unit : Tensor of shape (members, draws - n_prior, rows or 1, components)
        Standard normal draws; zero for the posterior mean.
    n_prior : int
        How many of the draws, the last ones, are of the prior instead of q(z|x).
    z : Tensor of shape (members, draws, rows, components)
    params : tuple of Tensor
        Locations and log-scales of the cells given z.
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

    @cached_property
    def log_px(self) -> Tensor:
        """Log density of each cell given z; zero where the cell is missing."""
        log_px = self.likelihood.log_prob(self.params, self.x[:, None])
        if self.observed is None:
            return log_px
        return log_px * self.observed[:, None]

    @cached_property
    def log_pz(self) -> Tensor:
        """Log prior density of each draw, (members, draws, rows)."""
        return self.prior.log_prob(self.z)

    @cached_property
    def log_qz(self) -> Tensor:
        """Log density that the draws came from, (members, draws, rows)."""
        log_variance = self.log_variance[:, None]
        if not self.n_prior:
            return normal_log_prob(self.unit, log_variance).sum(-1)
        unit = (self.z - self.mean[:, None]) * torch.exp(-0.5 * log_variance)
        log_posterior = normal_log_prob(unit, log_variance).sum(-1)
        share = self.n_prior / self.z.shape[1]
        return defensive_log_prob(log_posterior, self.log_pz, share)

    @cached_property
    def log_weight(self) -> Tensor:
        """Of each draw, log p(x, z) - log q(z|x): (members, draws, rows)."""
        return self.log_px.sum(-1) + self.log_pz - self.log_qz

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z|x) || N(0, I)) of each component, (members, rows, components).

        Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, appendix B.
        """
        return 0.5 * (
            self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        )
