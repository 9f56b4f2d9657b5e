"""Neighbouring columns of one kind, and where in a table they and theirs stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Columns, Likelihood, Params
from skvae.model.likelihoods.continuous import Gaussian, StudentT
from skvae.model.likelihoods.counts import Multinomial, NegativeBinomial, Poisson
from skvae.model.likelihoods.discrete import Bernoulli, Categorical, Ordinal

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "ordinal": Ordinal,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "multinomial": Multinomial,
}


@dataclass(frozen=True)
class Block:
    """Neighbouring columns of one kind.

    Attributes
    ----------
    likelihood : Likelihood
    columns, locations, scales : slice
        Places of its cells and of their parameters.
    widths, n_levels : tuple of int
        Number of locations, and of codes, of each column.
    """

    likelihood: Likelihood
    columns: slice
    locations: slice
    scales: slice
    widths: tuple[int, ...]
    n_levels: tuple[int, ...]

    def own(self, params: Params) -> Params:
        """Its part of the parameters of a table."""
        location, log_scale = params
        if self.likelihood.has_scale:
            return part_of(location, self.locations), part_of(log_scale, self.scales)
        return (part_of(location, self.locations),)

    def observed(
        self, own: Params, x: Tensor, observed: Tensor | None
    ) -> tuple[Params, Tensor]:
        """Its parameters and its cells of a table, of the observed cells alone."""
        cells = part_of(x, self.columns)
        if observed is None:
            return own, cells
        return self.likelihood.restrict(own, cells, observed[..., self.columns])


def blocks_of(kinds: tuple[str, ...], columns: Columns) -> list[Block]:
    """The blocks of the columns of a table, side by side."""
    blocks: list[Block] = []
    n_locations = n_scales = 0
    for part in _runs(kinds):
        cls, known = LIKELIHOODS[kinds[part.start]], columns.part(part)
        widths = cls.widths(known)
        locations = slice(n_locations, n_locations := n_locations + sum(widths))
        more = len(widths) if cls.has_scale else 0
        scales = slice(n_scales, n_scales := n_scales + more)
        levels = cls.n_levels(known)
        blocks.append(Block(cls.of(known), part, locations, scales, widths, levels))
    return blocks


def part_of(values: Tensor, part: slice) -> Tensor:
    """Some of the last axis; in training a view of all of it would cost a step time."""
    whole = part.stop - part.start == values.shape[-1]
    return values if whole else values[..., part]


def _runs(kinds: tuple[str, ...]) -> list[slice]:
    """Stretches of equal kinds."""
    runs, start = [], 0
    for stop in range(1, len(kinds) + 1):
        if stop == len(kinds) or kinds[stop] != kinds[start]:
            runs.append(slice(start, stop))
            start = stop
    return runs


def join(parts: Iterable[Tensor]) -> Tensor:
    """Tensors side by side along the last axis, broadcast along the others."""
    tensors = list(parts)
    if len(tensors) == 1:
        return tensors[0]
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in tensors))
    return torch.cat([part.expand(*shape, -1) for part in tensors], dim=-1)
