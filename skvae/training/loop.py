"""The training loop: model, objective and batches to a History."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.members import members_of
from skvae.model.rows import Rows
from skvae.training.batches import Batches
from skvae.training.graphs import GraphStep
from skvae.training.history import History
from skvae.training.objectives import AdditiveObjective, Beta, Objective
from skvae.training.optimiser import Adam
from skvae.training.steps import AnalyticStep, AutogradStep, Step, Weigh
from skvae.training.watch import Watch

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}

# Members that have stopped are left out of the steps once they are this share: earlier,
# moving the others together would cost more than it saves.
_IDLE = 0.125


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
    beta : float or Tensor of shape (n_members, 1)
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
    patience_from : float
        Share of the steps before that such looks do not count: a linear start is left
        slowly, and at first for the worse.
    tol : float
    max_time : float or None
        Seconds.
    """

    n_epochs: int
    learning_rate: float
    schedule: Callable[[float], float]
    beta: Beta = 1.0
    kl_warmup: float = 0.0
    dropout: float = 0.0
    trim: float = 0.0
    trim_from: float = 0.1
    max_grad_norm: float | None = None
    look_every: int = 1
    patience: int = 10
    patience_from: float = 0.0
    tol: float = 1e-4
    max_time: float | None = None

    def of(self, members: list[int]) -> Plan:
        """The plan of some of the members."""
        if isinstance(self.beta, Tensor):
            return replace(self, beta=self.beta[members])
        return self


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
    """Train ``model`` in place; see `Run`.

    Parameters
    ----------
    model, objective, batches, optimiser, plan, held_out, frozen, first_epoch
        As of `Run`.
    on_epoch : callable
        Called after each epoch; True stops.

    Raises
    ------
    NonFiniteLossError
        Where a loss or a parameter is infinite or NaN.
    """
    run = Run(
        model,
        objective,
        batches,
        optimiser,
        plan,
        held_out=held_out,
        frozen=frozen,
        first_epoch=first_epoch,
    )
    run.raise_failures()
    while run.going_on:
        run.epoch()
        run.raise_failures()
        if on_epoch(first_epoch + run.history.n_epochs - 1, run.history):
            run.history.stopped = "callback"
    run.finish()
    return run.history


def choose_step(
    model: LatentModel,
    objective: Objective,
    gradient: Tensor,
    *,
    n_draws: int,
    dropout: float = 0.0,
    frozen: tuple[str, ...] = (),
) -> Step:
    """The fastest step that can do what is asked.

    Parameters
    ----------
    model : LatentModel
    objective : Objective
    gradient : Tensor of shape (n_members, size)
        Overwritten by each step.
    n_draws : int
        Posterior draws of each row; 0 for the posterior mean.
    dropout : float
    frozen : tuple of str
        Names of tensors whose gradient is zero.
    """
    if isinstance(objective, AdditiveObjective) and n_draws <= 1 and not dropout:
        step = AnalyticStep(model, objective, gradient, frozen=frozen)
        return GraphStep(step) if gradient.device.type == "cuda" else step
    return AutogradStep(model, objective, gradient, dropout=dropout, frozen=frozen)


class Run:
    """A training run that can be looked at between its epochs.

    Each member trains as if it were alone: it stops by itself, and its parameters end
    at its last step or, with ``held_out``, where its held-out objective was best; where
    that is not better than at the start by two standard errors, they end where they
    started. The run ends with its last member.

    Parameters
    ----------
    model : LatentModel
    objective : Objective
    batches : Batches
    optimiser : Adam
        Over the model's own flat buffer.
    plan : Plan
    held_out : Rows or None
        Rows for early stopping, (rows, columns) or (members, rows, columns).
    frozen : tuple of str
        Names of tensors that keep their values.
    first_epoch : int
        Number of the first epoch, on which its random draws are keyed.

    Attributes
    ----------
    history : History
    failed : Tensor of bool of shape (n_members,)
        Members that left the finite numbers; they have stopped.
    """

    def __init__(
        self,
        model: LatentModel,
        objective: Objective,
        batches: Batches,
        optimiser: Adam,
        plan: Plan,
        *,
        held_out: Rows | None = None,
        frozen: tuple[str, ...] = (),
        first_epoch: int = 0,
    ) -> None:
        self.history, self._began = History(), time.monotonic()
        self.failed = torch.zeros(model.n_members, dtype=torch.bool)
        self._whole, self._objective, self._frozen = model, objective, frozen
        # What is in training, and the places of its members in the whole.
        self._model, self._batches = model, batches
        self._optimiser, self._plan = optimiser, plan
        self._members = list(range(model.n_members))
        self._first_epoch, self._step, self._looked = first_epoch, 0, 0
        self._trimmed: Weigh = own_weight
        if plan.trim:
            self._trimmed = partial(trimmed_weight, trim=plan.trim)
        self._choose_step()
        self._watch: Watch | None = None
        if held_out is not None:
            self._watch = Watch(model, objective, held_out, batches)
            self._look()
            self._drop_failed(self._watch.latest.isfinite())

    @property
    def going_on(self) -> bool:
        """Whether an epoch is to follow."""
        n_epochs = self._plan.n_epochs
        more = self.history.stopped == "max_iter" and self.history.n_epochs < n_epochs
        return more and bool(self._members)

    @property
    def _n_steps(self) -> int:
        return self._plan.n_epochs * self._batches.steps_per_epoch

    def epoch(self) -> None:
        """Pass once over the rows, then look at the held-out rows if it is time."""
        plan, model = self._plan, self._model
        n_steps = self._n_steps
        total = torch.zeros((), device=model.device)
        for batch in self._batches.epoch(self._first_epoch + self.history.n_epochs):
            done = self._step / n_steps
            beta = plan.beta * _warmth(done, plan.kl_warmup)
            weigh = self._trimmed if done >= plan.trim_from else own_weight
            loss = self._differentiate(batch, beta, weigh)
            rate = plan.learning_rate * plan.schedule(done)
            self._optimiser.step(rate, plan.max_grad_norm)
            total.add_(loss, alpha=batch.x.shape[1])
            self._step += 1
        # The one point of an epoch at which the host waits for the device.
        loss_of_row = float(total) / (self._batches.n_rows * model.n_members)
        self.history.loss.append(loss_of_row)
        self.history.n_epochs += 1
        self._drop_failed(model.params.flat.isfinite().all(1))
        if self._members and self._step - self._looked >= plan.look_every:
            self._look()
        if (
            plan.max_time is not None
            and time.monotonic() - self._began >= plan.max_time
        ):
            self.history.stopped = "max_time"
        if self._model is not self._whole:
            self._whole.params.flat[self._members] = self._model.params.flat

    def keep(self, wanted: list[bool]) -> None:
        """Stop those of all members that are not wanted; they keep their best."""
        self._focus([wanted[member] for member in self._members])

    def standing(self) -> Tensor:
        """Held-out objective of each member's best so far, at beta = 1."""
        if self._watch is None:
            raise ValueError(
                "Halving compares models in training by the rows that early stopping "
                "holds out, and it holds out none. Set early_stopping=True on the "
                "estimator, or halving=False."
            )
        return self._watch.standing()

    def finish(self) -> None:
        """Put the parameters in place that each member keeps."""
        if self._watch is not None:
            if self._members and self._looked != self._step:
                self._look()
            self._watch.restore(self._whole, self.history)

    def raise_failures(self) -> None:
        """Raise where a member or a loss has left the finite numbers."""
        for start in self.history.validation[:1]:
            if not math.isfinite(start):
                raise NonFiniteLossError(
                    f"The held-out rows must have a finite objective, got {start} "
                    f"before the first step. Look for cells of extreme size in X_val "
                    f"or X."
                )
        loss = self.history.loss[-1] if self.history.loss else 0.0
        if not math.isfinite(loss) or bool(self.failed.any()):
            raise NonFiniteLossError(
                f"Every training loss must be finite, got {loss} in epoch "
                f"{self.history.n_epochs}. Lower learning_rate_init or max_grad_norm, "
                f"or look for cells of extreme size in X."
            )

    def _look(self) -> None:
        if self._watch is None:
            return
        self._looked = self._step
        running = self._watch.look(
            self._model,
            self._members,
            self.history,
            beta=self._plan.beta,
            tol=self._plan.tol,
            patience=self._plan.patience,
            counting=self._step >= self._plan.patience_from * self._n_steps,
        )
        if not any(running):
            self.history.stopped = "no_change"
        elif running.count(False) >= _IDLE * len(running):
            self._focus(running)

    def _drop_failed(self, sound: Tensor) -> None:
        sound_ones = sound.tolist()
        if not all(sound_ones):
            for member, fine in zip(self._members, sound_ones, strict=True):
                self.failed[member] = not fine
            self._focus(sound_ones)

    def _focus(self, kept: list[bool]) -> None:
        """Go on with some of the members in training."""
        if all(kept):
            return
        places = [place for place, keep in enumerate(kept) if keep]
        self._members = [self._members[place] for place in places]
        if self._members:
            self._model = members_of(self._model, places)
            self._batches = self._batches.of(places)
            flat = self._model.params.flat
            self._optimiser = self._optimiser.of(places, flat)
            self._plan = self._plan.of(places)
            self._choose_step()

    def _choose_step(self) -> None:
        self._differentiate = choose_step(
            self._model,
            self._objective,
            self._optimiser.gradient,
            n_draws=self._batches.n_draws,
            dropout=self._plan.dropout,
            frozen=self._frozen,
        )
        self.history.gradient = self._differentiate.name


def _warmth(done: float, kl_warmup: float) -> float:
    return min(1.0, done / kl_warmup) if kl_warmup else 1.0


def own_weight(losses: Tensor, weight: Tensor | None) -> Tensor | None:
    """Weights of the rows in a step: those that they have in the table."""
    return weight


def trimmed_weight(losses: Tensor, weight: Tensor | None, *, trim: float) -> Tensor:
    """Weights of the rows in a step that leaves the worst share of them out.

    Parameters
    ----------
    losses : Tensor of shape (n_members, n_rows)
    weight : Tensor of shape (n_members, n_rows) or None
    trim : float
    """
    n_kept = 1 + int((1.0 - trim) * (losses.shape[1] - 1))
    worst_kept, _ = losses.kthvalue(n_kept, dim=1, keepdim=True)
    kept = (losses <= worst_kept).to(losses.dtype)
    kept = kept / kept.mean(1, keepdim=True)
    return kept if weight is None else kept * weight
