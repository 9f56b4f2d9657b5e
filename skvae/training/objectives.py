"""What training minimises: one loss a row, read off the model's Terms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from skvae._backend import number
from skvae.model.terms import Terms

# Weight of the KL: one for all, or (members, 1).
Beta: TypeAlias = float | Tensor
# Loss of each row, (members, rows), given the terms and the present weight of the KL.
Objective: TypeAlias = Callable[[Terms, Beta], Tensor]


def make_objective(
    *, variational: bool, n_importance_samples: int, free_bits: float
) -> Objective:
    """The objective that the estimator's parameters ask for."""
    if not variational:
        return Reconstruction()
    if n_importance_samples > 1:
        return importance_weighted
    return NegativeElbo(free_bits)


class AdditiveObjective(ABC):
    """Minus the log density of the cells, and a cost of the closed-form KL.

    Its derivative is known from those of the two, without autograd.
    """

    def __call__(self, terms: Terms, beta: Beta) -> Tensor:
        """Loss of each row, (members, rows)."""
        cost, _ = self.kl_cost(terms.kl, beta)
        return cost - terms.log_px.sum(-1).mean(1)

    @abstractmethod
    def kl_cost(self, kl: Tensor, beta: Beta) -> tuple[Tensor, Tensor | float]:
        """Cost of each row's KL and its derivative by the KL of each component.

        Parameters
        ----------
        kl : Tensor of shape (members, rows, components)
        beta : float or Tensor of shape (members, 1)

        Returns
        -------
        cost : Tensor of shape (members, rows)
        slope : float or Tensor that broadcasts against ``kl``
        """


@dataclass(frozen=True)
class NegativeElbo(AdditiveObjective):
    """Minus the evidence lower bound, its KL in closed form and times beta.

    Free bits keep ``max(free_bits, KL_j averaged over the rows)`` of each component
    (Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
    2016): below that, squeezing a component gains nothing. Beta is that of Higgins et
    al., "beta-VAE", ICLR 2017.
    """

    free_bits: float = 0.0

    def kl_cost(self, kl: Tensor, beta: Beta) -> tuple[Tensor, Tensor | float]:
        if not self.free_bits:
            cost = kl.sum(-1)
            return cost if is_one(beta) else cost.mul_(beta), _inner(beta)
        spent = kl.mean(dim=1, keepdim=True) > self.free_bits
        kept = torch.where(spent, kl, number(self.free_bits, kl))
        return beta * kept.sum(-1), _inner(beta) * spent.to(kl.dtype)


@dataclass(frozen=True)
class Reconstruction(AdditiveObjective):
    """Minus the log density of the cells; no latent term (plain auto-encoder)."""

    def kl_cost(self, kl: Tensor, beta: Beta) -> tuple[Tensor, float]:
        return kl.new_zeros(kl.shape[:-1]), 0.0


def importance_weighted(terms: Terms, beta: Beta) -> Tensor:
    """Minus the importance-weighted bound of Burda et al., ICLR 2016."""
    log_weight = terms.log_px.sum(-1) + _inner(beta) * (terms.log_pz - terms.log_qz)
    return math.log(log_weight.shape[1]) - log_weight.logsumexp(1)


def is_one(factor: Beta) -> bool:
    """Whether a product with this number can be spared."""
    return isinstance(factor, float) and factor == 1.0


def _inner(beta: Beta) -> Beta:
    """The weight, to broadcast against an axis that a loss sums over."""
    return beta[..., None] if isinstance(beta, Tensor) else beta
