"""Every choice that shapes a fit, and the rows that it learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import generator, random_order
from skvae.training.batches import count_rows, draw_rows
from skvae.training.loop import Plan
from skvae.training.objectives import Objective, make_objective

# Of the members with mixed starts.
_LINEAR_SHARE = 0.5

# Held-out rows beyond these tell nothing more about when to stop.
_MAX_HELD_OUT = 4096


@dataclass(frozen=True)
class Settings:
    """Every choice that shapes a fit, resolved.

    Attributes
    ----------
    n_components, n_members : int
    hidden : tuple of int
    activation : str
    noise : {"shared", "column", "network"}
    start : {"linear", "random", "mixed"}
    least_noise : float
        Least noise of a column, a share of its scale.
    variational : bool
    n_importance_samples : int
    free_bits, alpha, l1_ratio : float
    batch_size : int
    held_out : float
        Share of the rows that is held out for early stopping; 0 for none.
    keep_start : bool
        Whether the linear start is kept as it is.
    plan : Plan
    device : torch.device
    max_samples : int, float or None
        How many of the rows, or which share, each member learns from; None: all.
    bootstrap : bool
        Whether these are drawn with replacement.
    """

    n_components: int
    n_members: int
    hidden: tuple[int, ...]
    activation: str
    noise: str
    start: str
    variational: bool
    n_importance_samples: int
    free_bits: float
    alpha: float
    l1_ratio: float
    batch_size: int
    held_out: float
    keep_start: bool
    plan: Plan
    device: torch.device
    least_noise: float = 0.0
    max_samples: int | float | None = None
    bootstrap: bool = False

    @property
    def objective(self) -> Objective:
        """What training minimises."""
        return make_objective(
            variational=self.variational,
            n_importance_samples=self.n_importance_samples,
            free_bits=self.free_bits,
        )

    @property
    def n_draws(self) -> int:
        """Posterior draws of each row in training."""
        return self.n_importance_samples if self.variational else 0

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the tensors that training leaves as they are."""
        return () if self.variational else ("log_scale",)

    def draw_rows(self, n_rows: int, seeds: list[int], epoch: int) -> Tensor | None:
        """Positions of the rows of each member, (n_members, n_drawn); None: all."""
        n_drawn = count_rows(self.max_samples, n_rows)
        if n_drawn == n_rows and not self.bootstrap:
            return None
        return draw_rows(n_rows, n_drawn, seeds, epoch, bootstrap=self.bootstrap)

    @property
    def n_linear(self) -> int:
        """How many of the members, the first ones, start linear."""
        share = {"linear": 1.0, "random": 0.0, "mixed": _LINEAR_SHARE}[self.start]
        return math.ceil(share * self.n_members)


def split_rows(
    n_rows: int, settings: Settings, seed: int, validation: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to hold out, both ascending."""
    n_kept = 0 if validation is not None else n_held_out(n_rows, settings.held_out)
    order = random_order(n_rows, generator(seed, 0, 0, 2)).numpy()
    return np.sort(order[n_kept:]), np.sort(order[:n_kept])


def n_held_out(n_rows: int, share: float) -> int:
    """How many rows are held out where that share of them is asked for."""
    return min(max(1, round(share * n_rows)), _MAX_HELD_OUT) if share else 0
