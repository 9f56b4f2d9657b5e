"""Many fits at once: candidates and folds side by side, as members of one model.

What differs between members without changing the shape of a step has a member axis:
parameters, rows, seed, learning rate, beta, penalties, number of components. Fits that
differ in anything else go into different stacks.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.members import stack, unstack, widen
from skvae.model.rows import Rows, blocks
from skvae.training.batches import Batches
from skvae.training.coded import CodedTable
from skvae.training.fit import (
    FIRST_EPOCH,
    finished,
    make_optimiser,
    set_unit_noise,
)
from skvae.training.loop import Run
from skvae.training.optimiser import Adam
from skvae.training.settings import Settings, split_rows
from skvae.training.start import is_closed_form, start_model

# Members of one stack, at most. More gain nothing on a CPU, whose caches they leave.
_MEMBERS = 32

# Told how each job stands (None: it is fitted in closed form): whether it goes on.
Cut = Callable[[list[float | None]], list[bool]]


@dataclass(frozen=True)
class Job:
    """One fit that is wanted."""

    table: CodedTable
    settings: Settings
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    model : LatentModel or None
        Trained (float64, on the CPU); None where training left the finite numbers.
    seconds : float
        The job's share of the time that its stack took.
    held_out : ndarray of int
        Positions of the rows that early stopping held out; none in closed form.
    """

    model: LatentModel | None
    seconds: float
    held_out: np.ndarray


def fit_together(
    jobs: Sequence[Job], *, rungs: Sequence[float] = (), cut: Cut | None = None
) -> list[Outcome]:
    """Fit all jobs, each as `fit_model` would fit it alone.

    Parameters
    ----------
    jobs : sequence of Job
    rungs : sequence of float
        Shares of the passes, ascending, at which ``cut`` is asked.
    cut : callable
        Told the held-out objective of each job at beta = 1, nats a row in coded units.
        The jobs that it does not want end there, with what they have.
    """
    outcomes: dict[int, Outcome] = {}
    groups: dict[Hashable, list[int]] = defaultdict(list)
    ready: dict[int, _Ready] = {}
    starts: dict[Hashable, LatentModel] = {}
    for i, job in enumerate(jobs):
        began = time.monotonic()
        ready[i] = _Ready.of(job, starts)
        if is_closed_form(job.table.kinds, job.settings):
            model = finished(ready[i].model, job.table, job.settings)
            seconds = time.monotonic() - began
            # In closed form all rows are learned from.
            outcomes[i] = Outcome(model, seconds, ready[i].split[1][:0])
        else:
            groups[ready[i].shape].append(i)
    parts = []
    for group in groups.values():
        # Neighbours read the same rows where they can.
        group.sort(key=lambda i: (ready[i].rows, i))
        n_stacks = -(-sum(ready[i].model.n_members for i in group) // _MEMBERS)
        parts += [part.tolist() for part in np.array_split(group, n_stacks)]
    if cut is None:
        for part in parts:  # one at a time, and so is its memory
            outcomes.update(zip(part, _Stack(part, ready).finish(), strict=True))
        return [outcomes[i] for i in range(len(jobs))]
    stacks = [_Stack(part, ready) for part in parts]
    for rung in rungs:
        standing: list[float | None] = [None] * len(jobs)
        for each in stacks:
            each.advance(rung)
            each.stand(standing)
        wanted = cut(standing)
        for each in stacks:
            each.keep(wanted)
    for part, each in zip(parts, stacks, strict=True):
        outcomes.update(zip(part, each.finish(), strict=True))
    return [outcomes[i] for i in range(len(jobs))]


@dataclass(frozen=True)
class _Ready:
    """A job before its first step.

    Attributes
    ----------
    job : Job
    model : LatentModel
        Untrained, float64, on the CPU.
    seeds : list of int
        One a member.
    split : tuple of ndarray of int
        Rows to train on and rows to hold out.
    rows : str
        Equal for jobs of equal table and split.
    shape : hashable
        Equal for jobs that can be members of one model.
    """

    job: Job
    model: LatentModel
    seeds: list[int]
    split: tuple[np.ndarray, np.ndarray]
    rows: str
    shape: Hashable

    @classmethod
    def of(cls, job: Job, starts: dict[Hashable, LatentModel]) -> _Ready:
        """Start a job, like one before it where ``starts`` has its like."""
        table, settings = job.table, job.settings
        plan = replace(settings.plan, learning_rate=1.0, beta=1.0)
        alike = replace(settings, alpha=0.0, l1_ratio=0.0, plan=plan)
        about = table.weight, table.units, table.resolution
        described = repr((table.kinds, table.levels))
        cells = (part for _, part in blocks(table.values))
        digest = _digest(chain(cells, about, [described]))
        seeds = [job.seed + member for member in range(settings.n_members)]
        key = (digest, job.seed, alike)
        if key not in starts:
            starts[key] = start_model(table, settings, seeds)
        own = starts[key]
        # Only codes and counts are seen otherwise than as they are.
        seen = ~np.array(own.likelihood.plain, dtype=bool)
        split = split_rows(len(table.values), settings, job.seed, None)
        shape = (
            replace(alike, n_components=0, n_members=1),
            table.kinds,
            table.levels,
            _digest(
                part.numpy()[seen]
                for part in (own.likelihood.centre, own.likelihood.scale)
            ),
            own.likelihood.trials,
            own.flagged,
            own.scale_offset.numpy().tobytes(),
            len(split[0]),
            len(split[1]),
        )
        # What the encoder sees in holes is the model's own guess.
        guess = None if own.filler is None else str(id(own))
        rows = _digest([digest, guess, *split])
        return cls(job, own, seeds, split, rows, shape)

    def start(self) -> LatentModel:
        """A copy of the model as training wants it."""
        settings = self.job.settings
        model = self.model.to(torch.float32, settings.device)
        if not settings.variational:
            set_unit_noise(model)
        return model


class _Stack:
    """Jobs of one shape in training."""

    def __init__(self, part: list[int], ready: dict[int, _Ready]) -> None:
        self._part, self._ready = part, [ready[i] for i in part]
        self._began = time.monotonic()
        settings = self._ready[0].job.settings
        self._alone = [each.start() for each in self._ready]
        self._model = stack(self._alone)
        counts = [each.n_members for each in self._alone]
        stops = np.cumsum(counts).tolist()
        self._members = [
            slice(stop - n, stop) for stop, n in zip(stops, counts, strict=True)
        ]
        seeds = [seed for each in self._ready for seed in each.seeds]
        rows, places = self._rows(0)
        drawn = settings.draw_rows(places.shape[1], seeds, FIRST_EPOCH)
        if drawn is not None:
            places = places.gather(1, drawn.to(places.device))
        held_out = None
        if len(self._ready[0].split[1]):
            kept, kept_places = self._rows(1)
            held_out = kept.at(kept_places)
        betas = self._each(lambda each: float(each.job.settings.plan.beta))
        rate = max(each.job.settings.plan.learning_rate for each in self._ready)
        self._plan = replace(settings.plan, beta=betas, learning_rate=rate)
        batches = Batches(
            rows,
            batch_size=settings.batch_size,
            n_draws=settings.n_draws,
            n_components=self._model.n_components,
            seeds=seeds,
            chosen=places,
            own_components=[
                model.n_components
                for model in self._alone
                for _ in range(model.n_members)
            ],
        )
        self._run = Run(
            self._model,
            settings.objective,
            batches,
            self._optimiser(rate),
            self._plan,
            held_out=held_out,
            frozen=settings.frozen,
            first_epoch=FIRST_EPOCH,
        )

    def advance(self, share: float) -> None:
        """Train up to a share of the passes."""
        while (
            self._run.going_on
            and self._run.history.n_epochs < share * self._plan.n_epochs
        ):
            self._run.epoch()

    def stand(self, standing: list[float | None]) -> None:
        """Write down the held-out objective of each job."""
        values = self._run.standing()
        for i, members in zip(self._part, self._members, strict=True):
            standing[i] = float(values[members].mean())

    def keep(self, wanted: list[bool]) -> None:
        """End the jobs that are not wanted."""
        pairs = zip(self._part, self._ready, strict=True)
        self._run.keep([wanted[i] for i, each in pairs for _ in each.seeds])

    def finish(self) -> list[Outcome]:
        """Train to the end; the outcome of each job."""
        self.advance(1.0)
        self._run.finish()
        seconds = (time.monotonic() - self._began) / len(self._ready)
        outcomes = []
        for each, alone, members in zip(
            self._ready, self._alone, self._members, strict=True
        ):
            model = None
            if not bool(self._run.failed[members].any()):
                model = unstack(self._model, members, alone)
                model = finished(model, each.job.table, each.job.settings)
            outcomes.append(Outcome(model, seconds, each.split[1]))
        return outcomes

    def _rows(self, side: int) -> tuple[Rows, Tensor]:
        """All jobs' rows, equal ones once, and where those of each member stand."""
        flat = self._model.params.flat
        tables: dict[str, Rows] = {}
        firsts: dict[str, int] = {}
        for each, model in zip(self._ready, self._alone, strict=True):
            if each.rows not in tables:
                table = each.job.table.take(each.split[side])
                firsts[each.rows] = sum(len(rows) for rows in tables.values())
                tables[each.rows] = model.all_rows(table.values, table.weight)
        first = self._each(lambda each: firsts[each.rows], torch.long)
        within = torch.arange(len(self._ready[0].split[side]), device=flat.device)
        return Rows.concatenate(list(tables.values())), first + within

    def _optimiser(self, rate: float) -> Adam:
        """Each job's own, side by side; ``rate`` is the largest learning rate."""

        def side_by_side(own: list[Tensor | None], default: float) -> Tensor:
            parts = []
            for values, each, model in zip(own, self._ready, self._alone, strict=True):
                if values is None:
                    values = torch.full_like(model.params.flat, default)
                values = values.expand_as(model.params.flat)
                share = each.job.settings.plan.learning_rate / rate
                # Zero beside it: what a member does not have never moves.
                parts.append(share * widen(model, values, self._model))
            return torch.cat(parts)

        alone = [
            make_optimiser(model, each.job.settings)
            for model, each in zip(self._alone, self._ready, strict=True)
        ]
        decay, sparsity = [a.decay for a in alone], [a.sparsity for a in alone]
        return Adam(
            self._model.params.flat,
            decay=None if _none(decay) else side_by_side(decay, 0.0),
            sparsity=None if _none(sparsity) else side_by_side(sparsity, 0.0),
            rates=side_by_side([a.rates for a in alone], 1.0),
        )

    def _each(
        self, value: Callable[[_Ready], float], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A number of each job, for its members, (n_members, 1)."""
        numbers = [[value(each)] for each in self._ready for _ in each.seeds]
        return torch.tensor(numbers, dtype=dtype, device=self._model.device)


def _digest(parts: Iterable[np.ndarray | str | None]) -> str:
    """A name that equal arrays share."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(f"{part} ".encode())
    return digest.hexdigest()


def _none(values: Sequence[Tensor | None]) -> bool:
    return all(value is None for value in values)
