"""Rows in minibatches, with the random numbers that belong to them.

Every draw is keyed on (seed, epoch, block), never on a place or a worker, so that a
fit is the same wherever its blocks are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from skvae._backend import generator, random_order
from skvae.model.rows import AnyRows

# Batches gathered at once: one gather a block instead of one a step, and memory that
# does not grow with the table. A block of a wide table has fewer, to stay in cache.
_BATCHES_PER_BLOCK = 32
_CELLS_PER_BLOCK = 2**18


@dataclass(slots=True)  # freezing would take as long as a layer
class Batch:
    """Some rows for each member, and their noise.

    Attributes
    ----------
    x, observed : Tensor of shape (n_members, batch_size, n_columns)
    weight : Tensor of shape (n_members, batch_size) or None
    unit : Tensor of shape (n_members, n_draws, batch_size, n_components) or None
        Standard normal draws; None for a model that draws nothing.
    sources : list of torch.Generator
        One a member, for what is drawn inside the networks.
    seen : Tensor of shape (n_members, batch_size, n_inputs) or None
        What the encoder sees; None where that is `x` itself.
    """

    x: Tensor
    observed: Tensor | None
    weight: Tensor | None
    unit: Tensor | None
    sources: list[torch.Generator]
    seen: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the encoder sees."""
        return self.x if self.seen is None else self.seen


def count_rows(max_samples: int | float | None, n_rows: int) -> int:
    """How many of so many rows ``max_samples`` asks for: one at least."""
    if max_samples is None:
        return n_rows
    if isinstance(max_samples, int):
        return min(max_samples, n_rows)
    return max(1, int(max_samples * n_rows))


def draw_rows(
    n_rows: int, n_drawn: int, seeds: Sequence[int], epoch: int, *, bootstrap: bool
) -> Tensor:
    """Positions of the rows that each member is to learn from, (n_members, n_drawn).

    With ``bootstrap`` a row may be drawn repeatedly.
    """
    drawn = []
    for seed in seeds:
        source = generator(seed, epoch, 0, 4)
        if bootstrap:
            drawn.append(torch.randint(n_rows, (n_drawn,), generator=source))
        else:
            drawn.append(random_order(n_rows, source)[:n_drawn])
    return torch.stack(drawn)


class Batches:
    """Minibatches of a table in memory, in a new order each epoch and for each member.

    Parameters
    ----------
    rows : Rows, RowsOnHost or RowsOnDemand
    batch_size : int
    n_draws : int
        Posterior draws of each row; 0 for none.
    n_components : int
    seeds : list of int
        One a member.
    chosen : Tensor of int of shape (n_members, n_chosen) or None
        Positions of the rows that each member learns from; None: all learn from all.
    own_components : list of int or None
        How many components each member has, the first ones; the draws of the others
        are zero. None: all have all.
    """

    def __init__(
        self,
        rows: AnyRows,
        *,
        batch_size: int,
        n_draws: int,
        n_components: int,
        seeds: list[int],
        chosen: Tensor | None = None,
        own_components: list[int] | None = None,
    ) -> None:
        self.rows = rows
        self.chosen = None if chosen is None else chosen.to(rows.places_device)
        self.n_rows = len(rows) if chosen is None else chosen.shape[1]
        self.batch_size = min(batch_size, self.n_rows)
        self.n_draws, self.n_components = n_draws, n_components
        self.own_components = own_components or [n_components] * len(seeds)
        self.seeds = seeds

    def of(self, members: list[int]) -> Batches:
        """The batches of some of the members."""
        return Batches(
            self.rows,
            batch_size=self.batch_size,
            n_draws=self.n_draws,
            n_components=self.n_components,
            seeds=[self.seeds[member] for member in members],
            chosen=None if self.chosen is None else self.chosen[members],
            own_components=[self.own_components[member] for member in members],
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that one pass yields."""
        return -(-self.n_rows // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """One pass over the rows."""
        n = self.n_rows
        orders = [random_order(n, generator(seed, epoch, 0)) for seed in self.seeds]
        order = torch.stack(orders).to(self.rows.places_device)
        fitting = _CELLS_PER_BLOCK // (self.batch_size * self.rows.n_inputs)
        stride = self.batch_size * max(1, min(_BATCHES_PER_BLOCK, fitting))
        for block, start in enumerate(range(0, n, stride)):
            places = order[:, start : start + stride].long()
            if self.chosen is not None:
                places = self.chosen.gather(1, places)
            yield from self._block(places, epoch, block)

    def _block(self, places: Tensor, epoch: int, block: int) -> Iterator[Batch]:
        device = self.rows.device
        sources = [
            generator(seed, epoch, 1 + block, device=device) for seed in self.seeds
        ]
        rows = self.rows.at(places)
        unit = self._noise(rows.x, sources)
        for x, observed, weight, seen, own in zip(
            rows.x.split(self.batch_size, 1),
            self._parts(rows.observed, 1),
            self._parts(rows.weight, 1),
            self._parts(rows.seen, 1),
            self._parts(unit, 2),
            strict=False,
        ):
            yield Batch(x, observed, weight, own, sources, seen)

    def _parts(self, values: Tensor | None, axis: int) -> Iterable[Tensor | None]:
        """Batch by batch; None for ever where there are no values."""
        return repeat(None) if values is None else values.split(self.batch_size, axis)

    def _noise(self, x: Tensor, sources: list[torch.Generator]) -> Tensor | None:
        if not self.n_draws:
            return None
        shape = (len(sources), self.n_draws, self.n_components, x.shape[1])
        # In memory as a step's own codes are, a component's draws together.
        unit = x.new_zeros(shape).mT
        for own, source, k in zip(unit, sources, self.own_components, strict=True):
            # A tensor of its own: a member's draws are those it has when alone.
            drawn = own.new_empty((self.n_draws, x.shape[1], k))
            own[..., :k] = drawn.normal_(generator=source)
        return unit
