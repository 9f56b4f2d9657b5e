"""The training loop: model, objective and batches to a History."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from skvae._backend import generator
from skvae.model.latent import LatentModel
from skvae.model.rows import Rows
from skvae.training.batches import Batches
from skvae.training.history import History
from skvae.training.objectives import Objective
from skvae.training.optimiser import Adam
from skvae.training.steps import choose_step

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}

# Standard errors of the held-out gain that training must reach to be kept.
_EVIDENCE = 2.0
# Draws of each held-out row; in antithetic pairs.
_HELD_OUT_DRAWS = 2


class NonFiniteLossError(ValueError):
    """Training left the finite numbers."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes
    ----------
    n_epochs : int
    learning_rate : float
        Largest rate; ``schedule`` maps the share of steps done to a factor of it.
    schedule : callable
    beta : float
        Weight of the KL after warm-up.
    kl_warmup : float
        Share of the steps over which that weight rises from zero.
    dropout : float
    trim : float
        Share of the worst rows that each step leaves out.
    trim_from : float
        Share of the steps before that begins: until the model knows the table, "worst"
        only means far from the start.
    max_grad_norm : float or None
    look_every : int
        Steps between looks at the held-out rows, at least; looks are at epoch ends.
    patience : int
        Looks without a gain of ``tol`` nats a row before training stops.
    tol : float
    max_time : float or None
        Seconds.
    """

    n_epochs: int
    learning_rate: float
    schedule: Callable[[float], float]
    beta: float = 1.0
    kl_warmup: float = 0.0
    dropout: float = 0.0
    trim: float = 0.0
    trim_from: float = 0.1
    max_grad_norm: float | None = None
    look_every: int = 1
    patience: int = 10
    tol: float = 1e-4
    max_time: float | None = None


def train(
    model: LatentModel,
    objective: Objective,
    batches: Batches,
    optimiser: Adam,
    plan: Plan,
    *,
    held_out: Rows | None = None,
    frozen: tuple[str, ...] = (),
    on_epoch: Callable[[int, History], bool] = lambda epoch, history: False,
    first_epoch: int = 0,
) -> History:
    """Train ``model`` in place.

    Parameters
    ----------
    model : LatentModel
        Its parameters end at the last step or, with ``held_out``, where the held-out
        objective was best; where that is not better than at the start by two standard
        errors, they end where they started.
    objective : Objective
    batches : Batches
    optimiser : Adam
        Over the model's own flat buffer.
    plan : Plan
    held_out : Rows or None
        Rows for early stopping.
    frozen : tuple of str
        Names of tensors that keep their values.
    on_epoch : callable
        Called after each epoch; True stops.
    first_epoch : int
        Number of the first epoch, on which its random draws are keyed.

    Raises
    ------
    NonFiniteLossError
        Where a loss or a parameter is infinite or NaN.
    """
    history, began = History(), time.monotonic()
    differentiate = choose_step(
        model,
        objective,
        optimiser.gradient,
        n_draws=batches.n_draws,
        dropout=plan.dropout,
        frozen=frozen,
    )
    watch = None if held_out is None else _Watch(model, objective, held_out, batches)
    if watch is not None:
        watch.look(history, plan)
    n_steps = plan.n_epochs * batches.steps_per_epoch
    step, looked = 0, 0
    for epoch in range(first_epoch, first_epoch + plan.n_epochs):
        total = torch.zeros((), device=model.device)
        for batch in batches.epoch(epoch):
            done = step / n_steps
            beta = plan.beta * _warmth(done, plan.kl_warmup)
            weigh = partial(
                _row_weights,
                weight=batch.weight,
                trim=plan.trim if done >= plan.trim_from else 0.0,
            )
            loss = differentiate(batch, beta, weigh)
            optimiser.step(plan.learning_rate * plan.schedule(done), plan.max_grad_norm)
            total += loss * batch.x.shape[1]
            step += 1
        # The one point of an epoch at which the host waits for the device.
        _finish_epoch(history, total, model, batches)
        if watch is not None and step - looked >= plan.look_every:
            looked = step
            if watch.look(history, plan):
                history.stopped = "no_change"
        if on_epoch(epoch, history):
            history.stopped = "callback"
        if plan.max_time is not None and time.monotonic() - began >= plan.max_time:
            history.stopped = "max_time"
        if history.stopped != "max_iter":
            break
    if watch is not None:
        if looked != step:
            watch.look(history, plan)
        watch.restore(history)
    return history


def _warmth(done: float, kl_warmup: float) -> float:
    return min(1.0, done / kl_warmup) if kl_warmup else 1.0


def _row_weights(losses: Tensor, weight: Tensor | None, trim: float) -> Tensor | None:
    """Weight of each row's loss in this step, (members, rows)."""
    if not trim:
        return weight
    n_kept = 1 + int((1.0 - trim) * (losses.shape[1] - 1))
    worst_kept, _ = losses.kthvalue(n_kept, dim=1, keepdim=True)
    kept = (losses <= worst_kept).to(losses.dtype)
    kept = kept / kept.mean(1, keepdim=True)
    return kept if weight is None else kept * weight


def _finish_epoch(
    history: History, total: Tensor, model: LatentModel, batches: Batches
) -> None:
    loss = float(total) / (len(batches.rows) * model.n_members)
    if not math.isfinite(loss) or not bool(model.params.flat.isfinite().all()):
        raise NonFiniteLossError(
            f"Every training loss must be finite, got {loss} in epoch "
            f"{history.n_epochs + 1}. Lower learning_rate_init or max_grad_norm, or "
            f"look for cells of extreme size in X."
        )
    history.loss.append(loss)
    history.n_epochs += 1


class _Watch:
    """Looks at the held-out rows and remembers the best parameters of each member."""

    def __init__(
        self, model: LatentModel, objective: Objective, rows: Rows, batches: Batches
    ) -> None:
        self.model, self.objective, self.rows = model, objective, rows
        shape = (_HELD_OUT_DRAWS // 2, len(rows), model.n_components)
        pair = torch.empty(shape).normal_(
            generator=generator(batches.seeds[0], 0, 0, 1)
        )
        unit = torch.cat([pair, -pair])[None].to(rows.x)
        self.unit = unit if batches.n_draws else None
        self.start = self.best = model.params.flat.clone()
        self.start_value = self.best_value = torch.full((1, 1), -math.inf)
        self.waited = -1

    @torch.no_grad()
    def look(self, history: History, plan: Plan) -> bool:
        """Compare with the best so far; True once patience has run out."""
        members, observed = self.model.n_members, self.rows.observed
        value = -self.objective(
            self.model(
                self.rows.x.expand(members, -1, -1),
                None if self.unit is None else self.unit.expand(members, -1, -1, -1),
                seen=self.rows.seen.expand(members, -1, -1),
                observed=None if observed is None else observed[None],
            ),
            plan.beta,
        )
        if self.rows.weight is not None:
            value = value * self.rows.weight
        mean = value.mean(1)
        if self.waited < 0:
            self.start_value, self.best_value = value, value.clone()
            self.best = self.best.clone()
            gained = False
        else:
            gain = mean - self.best_value.mean(1)
            gained = bool((gain > plan.tol).any())
            better = gain > 0.0
            self.best[better] = self.model.params.flat[better]
            self.best_value[better] = value[better]
        self.waited = 0 if gained else self.waited + 1
        history.validation.append(float(mean.mean()))
        if not math.isfinite(history.validation[0]):
            raise NonFiniteLossError(
                f"The held-out rows must have a finite objective, got "
                f"{history.validation[0]} before the first step. Look for cells of "
                f"extreme size in X_val or X."
            )
        return self.waited >= plan.patience

    def restore(self, history: History) -> None:
        """Put the best parameters in place, or the first where nothing was gained."""
        gain = self.best_value - self.start_value
        n_rows = gain.shape[1]
        spread = gain.std(1) if n_rows > 1 else torch.full_like(gain[:, 0], math.inf)
        improved = gain.mean(1) > _EVIDENCE * spread / math.sqrt(n_rows)
        kept = torch.where(improved[:, None], self.best, self.start)
        self.model.params.flat.copy_(kept)
        value = torch.where(improved[:, None], self.best_value, self.start_value)
        history.best = float(value.mean())
        history.improved = bool(improved.any())
