"""Columns of several kinds, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor

from skvae.model.likelihoods.base import Columns, Params
from skvae.model.likelihoods.blocks import (
    LIKELIHOODS,
    Block,
    blocks_of,
    join,
    part_of,
)
from skvae.model.likelihoods.continuous import Continuous
from skvae.model.likelihoods.discrete import Categorical

# Of a kind with heavy tails, the one with normal tails and the same parameters.
_LIGHT = {"student_t": "gaussian"}


class TableLikelihood:
    """The columns of a table, each with the likelihood of its kind.

    Cells are (..., n_columns); the parameters are the locations (..., n_locations), one
    a column or, for a categorical column, one a level, and the log-scales
    (..., n_scales) of the columns that have one.

    Parameters
    ----------
    kinds : tuple of str
        Kind of each column, a key of `LIKELIHOODS`; columns of one kind stand together.
    floor : Tensor of shape (n_columns,) or (n_members, n_columns)
        Least squared scale of each column, coded units; unused by kinds without one.
    levels : tuple of tuple of float
        Shares of each column's codes 0, 1, ...: of categorical and ordinal columns.
    centre, scale : Tensor of shape (n_columns,) or None
        Of what the encoder sees: of the codes of an ordinal column, of log1p of a
        count. None: 0 and 1.
    trials : float
        Mean total of the multinomial counts of a row.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        floor: Tensor,
        levels: Sequence[Sequence[float]] = (),
        centre: Tensor | None = None,
        scale: Tensor | None = None,
        trials: float = 1.0,
    ) -> None:
        self.kinds, self.floor, self.trials = kinds, floor, trials
        self.levels = tuple(map(tuple, levels)) or ((),) * len(kinds)
        self.centre = torch.zeros_like(floor) if centre is None else centre
        self.scale = torch.ones_like(floor) if scale is None else scale
        columns = Columns(floor, self.levels, self.centre, self.scale, trials)
        self._blocks = blocks_of(kinds, columns)
        widths = [width for block in self._blocks for width in block.widths]
        self.n_columns, self.n_locations = len(kinds), sum(widths)
        self.n_levels = tuple(n for block in self._blocks for n in block.n_levels)
        classes = [LIKELIHOODS[kind] for kind in kinds]
        self.scaled = tuple(cls.has_scale for cls in classes)
        self.n_scales = sum(self.scaled)
        self.continuous = tuple(cls.continuous for cls in classes)
        self.plain = tuple(cls.plain for cls in classes)
        self.ordered = tuple(cls.ordered for cls in classes)
        self.tied = tuple(cls.tied for cls in classes)
        self.owner = torch.repeat_interleave(
            torch.arange(len(kinds)), torch.tensor(widths, dtype=torch.long)
        ).to(floor.device)

    def to(self, dtype: torch.dtype, device: torch.device) -> TableLikelihood:
        """The same likelihood with its constants elsewhere."""
        floor, centre, scale = (
            part.to(dtype=dtype, device=device)
            for part in (self.floor, self.centre, self.scale)
        )
        return self._replaced(floor=floor, centre=centre, scale=scale)

    def with_floor(self, floor: Tensor) -> TableLikelihood:
        """The same with other least squared scales."""
        return self._replaced(floor=floor)

    def light_tailed(self) -> TableLikelihood:
        """The same with normal tails; itself where no tail is heavy."""
        kinds = tuple(_LIGHT.get(kind, kind) for kind in self.kinds)
        return self if kinds == self.kinds else self._replaced(kinds=kinds)

    def _replaced(self, **changes: Any) -> TableLikelihood:
        names = ("kinds", "floor", "levels", "centre", "scale", "trials")
        return TableLikelihood(**{n: getattr(self, n) for n in names} | changes)

    # -- density -----------------------------------------------------------------

    def log_prob(
        self, params: Params, x: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """Log density of each cell, (..., n_columns); zero where ``observed`` is."""
        log_prob = join(
            block.likelihood.log_prob(*block.observed(own, x, observed))
            for block, own in self._split(params)
        )
        return log_prob if observed is None else log_prob * observed

    def differentiate(
        self,
        params: Params,
        x: Tensor,
        out: Params,
        observed: Tensor | None = None,
    ) -> None:
        """Log density of each cell and its derivative by each parameter.

        ``out`` is overwritten by the log densities (..., n_columns), the derivatives by
        the locations (..., n_locations) and those by the log-scales (..., n_scales);
        all are zero where ``observed`` is.
        """
        log_prob, *derivatives = out
        for (block, own), (_, by_own) in zip(
            self._split(params), self._split(tuple(derivatives)), strict=True
        ):
            cells = part_of(log_prob, block.columns)
            block.likelihood.differentiate(
                *block.observed(own, x, observed), (cells, *by_own)
            )
            if observed is not None:
                seen = observed[..., block.columns]
                cells.mul_(seen)
                by_own[0].mul_(block.likelihood.spread(seen))
                for by_scale in by_own[1:]:
                    by_scale.mul_(seen)

    def root_information(
        self,
        params: Params,
        slopes: Tensor,
        x: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Slopes of the locations times a root of the Fisher information.

        Parameters
        ----------
        params : tuple of Tensor
        slopes : Tensor of shape (..., n_components, n_locations)
            Derivatives of the locations by each component of the code.
        x : Tensor of shape (..., n_columns) or None
            Cells: a multinomial row's information is that of its total. None: the mean
            total.
        observed : Tensor of shape (..., n_columns) or None

        Returns
        -------
        rooted : Tensor of shape (..., n_components, n_locations)
            ``rooted @ rooted.mT`` is what the observed cells tell of the code.
        """
        parts = []
        cells = self.collapse(self.mean(params)) if x is None else x
        for block, own in self._split(params):
            own, part = block.observed(own, cells, observed)
            rooted = block.likelihood.root_information(
                own, slopes[..., block.locations], part
            )
            if observed is not None:
                seen = block.likelihood.spread(observed[..., block.columns])
                rooted = rooted * seen[..., None, :]
            parts.append(rooted)
        return join(parts)

    # -- moments and draws -------------------------------------------------------

    def mean(self, params: Params) -> Tensor:
        """Expected statistic, (..., n_locations).

        The expected cell; a categorical column's are the probabilities of its levels.
        """
        return join(block.likelihood.mean(own) for block, own in self._split(params))

    def variance(self, params: Params) -> Tensor:
        """Squared scale of the continuous columns, (..., number of them)."""
        parts = [
            block.likelihood.variance(own)
            for block, own in self._split(params)
            if isinstance(block.likelihood, Continuous)
        ]
        return join(parts) if parts else params[1][..., :0]

    def sample(self, params: Params, generator: torch.Generator) -> Tensor:
        """One draw of each cell, (..., n_columns)."""
        return join(
            block.likelihood.sample(own, generator)
            for block, own in self._split(params)
        )

    # -- parts of the line -------------------------------------------------------

    def cdf(self, params: Params, x: Tensor) -> Tensor:
        """P(cell <= x), (..., n_columns); NaN of a column without an order."""
        shape = torch.broadcast_shapes(params[0].shape[:-1], x.shape[:-1])
        return join(
            block.likelihood.cdf(own, x[..., block.columns])
            if block.likelihood.ordered
            else x.new_full((*shape, block.columns.stop - block.columns.start), nan)
            for block, own in self._split(params)
        )

    def log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= cell <= high), (..., n_columns).

        Infinite bounds are none. A single point of a continuous column has no mass.
        """
        return join(
            block.likelihood.log_mass(
                own, low[..., block.columns], high[..., block.columns]
            )
            for block, own in self._split(params)
        )

    def sample_within(
        self,
        params: Params,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draws from what lies between the bounds, (..., n_columns).

        Parameters
        ----------
        params : tuple of Tensor
        low, high : Tensor that broadcasts against the cells
        generator : torch.Generator
        """
        return join(
            block.likelihood.sample_within(
                own,
                low[..., block.columns],
                high[..., block.columns],
                generator,
            )
            for block, own in self._split(params)
        )

    # -- between cells, their statistics and what the encoder sees ---------------

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees of cells, (..., n_locations); NaN of what is NaN.

        One to one with the locations: levels as 0/1 cells, codes in an order
        standardised, counts as standardised log1p, all others as they are.
        """
        if all(self.plain):
            return x
        return join(
            block.likelihood.features(x[..., block.columns]) for block in self._blocks
        )

    def features_of(self, mean: Tensor) -> Tensor:
        """What the encoder would see of expected statistics."""
        if all(self.plain):
            return mean
        return join(
            block.likelihood.features_of(mean[..., block.locations])
            for block in self._blocks
        )

    def statistic(self, x: Tensor) -> Tensor:
        """What `mean` is the expectation of, (..., n_locations)."""
        if self.n_locations == self.n_columns:
            return x
        return join(
            block.likelihood.statistic(x[..., block.columns]) for block in self._blocks
        )

    def decide(self, mean: Tensor) -> Tensor:
        """Cells (..., n_columns) to name where statistics are expected to be ``mean``.

        The likeliest level or 0/1, the nearest code of an order, else the mean.
        """
        return join(
            block.likelihood.decide(mean[..., block.locations])
            for block in self._blocks
        )

    def spread(self, cells: Tensor) -> Tensor:
        """Each column's value at all its locations, (..., n_locations)."""
        if self.n_locations == self.n_columns:
            return cells
        return cells.index_select(-1, self.owner)

    def collapse(self, values: Tensor) -> Tensor:
        """Sum over the locations of each column, (..., n_columns)."""
        if self.n_locations == self.n_columns:
            return values
        return join(
            block.likelihood.collapse(values[..., block.locations])
            for block in self._blocks
        )

    # -- start -------------------------------------------------------------------

    @property
    def reference(self) -> Tensor:
        """Whether a location is of a categorical column's commonest level.

        That feature is one minus the column's others, and left out of linear models.
        """
        marks = torch.zeros(self.n_locations, dtype=torch.bool)
        for block in self._blocks:
            if isinstance(block.likelihood, Categorical):
                marks[block.locations] = block.likelihood.reference.cpu()
        return marks

    def with_reference(self, kept: Tensor, total: float = 1.0) -> Tensor:
        """Features from all but the reference ones: they are what is left of ``total``.

        Parameters
        ----------
        kept : Tensor of shape (..., number of features without the reference)
        total : float
            Sum of a categorical column's features: 1, or 0 of their slopes.
        """
        reference = self.reference.to(kept.device)
        if not bool(reference.any()):
            return kept
        whole = kept.new_zeros(*kept.shape[:-1], self.n_locations)
        whole[..., ~reference] = kept
        left = total - self.collapse(whole)
        whole[..., reference] = left[..., self.owner.to(kept.device)[reference]]
        return whole

    def feature_floor(self, floor: Tensor) -> Tensor:
        """Least noise variance of each feature in a linear start, (n_locations,)."""
        return join(
            block.likelihood.feature_floor(floor[block.columns])
            for block in self._blocks
        )

    def start(self, mean: Tensor, slopes: Tensor, noise: Tensor) -> Params:
        """Parameters that match a linear-Gaussian model of the features.

        Parameters
        ----------
        mean, noise : Tensor of shape (n_locations,)
        slopes : Tensor of shape (n_components, n_locations)

        Returns
        -------
        location : Tensor of shape (n_locations,)
        slopes : Tensor of shape (n_components, n_locations)
        squared_scale : Tensor of shape (n_scales,)
        """
        parts = [
            block.likelihood.start(
                mean[block.locations],
                slopes[:, block.locations],
                noise[block.locations],
            )
            for block in self._blocks
        ]
        squared = [part[2] for part in parts if len(part) > 2]
        return (
            join(part[0] for part in parts),
            join(part[1] for part in parts),
            join(squared) if squared else mean[:0],
        )

    def step_size(self, params: Params) -> Tensor:
        """How far a location moves before its cells feel it, (..., n_locations)."""
        return join(
            block.likelihood.step_size(own) for block, own in self._split(params)
        )

    def _split(self, params: Params) -> list[tuple[Block, Params]]:
        return [(block, block.own(params)) for block in self._blocks]
