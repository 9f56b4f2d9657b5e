"""What training minimises: one loss a row, read off the model's Terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from skvae.model.latent import Terms

# Loss of each row, (members, rows), given the terms and the present weight of the KL.
Objective: TypeAlias = Callable[[Terms, float], Tensor]


def make_objective(
    *, variational: bool, n_importance_samples: int, free_bits: float
) -> Objective:
    """The objective that the estimator's parameters ask for."""
    if not variational:
        return reconstruction
    if n_importance_samples > 1:
        return importance_weighted
    return partial(negative_elbo, free_bits=free_bits)


def negative_elbo(terms: Terms, beta: float, *, free_bits: float = 0.0) -> Tensor:
    """Minus the evidence lower bound, its KL in closed form and times beta.

    Free bits keep ``max(free_bits, KL_j averaged over the rows)`` of each component
    (Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
    2016): below that, squeezing a component gains nothing. Beta is that of Higgins et
    al., "beta-VAE", ICLR 2017.
    """
    kl = terms.kl
    if free_bits:
        spent = kl.mean(dim=1, keepdim=True) > free_bits
        kl = torch.where(spent, kl, kl.new_tensor(free_bits))
    return beta * kl.sum(-1) - terms.log_px.sum(-1).mean(1)


def importance_weighted(terms: Terms, beta: float) -> Tensor:
    """Minus the importance-weighted bound of Burda et al., ICLR 2016."""
    log_weight = terms.log_px.sum(-1) + beta * (terms.log_pz - terms.log_qz)
    return math.log(log_weight.shape[1]) - log_weight.logsumexp(1)


def reconstruction(terms: Terms, beta: float) -> Tensor:
    """Minus the log density of the cells; no latent term (plain auto-encoder)."""
    return -terms.log_px.sum(-1).mean(1)
