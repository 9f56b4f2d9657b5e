"""What one column is, learned from its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.kinds import KINDS
from skvae.table.levels import Grouping, order_levels
from skvae.table.statistics import Statistics

__all__ = ["Column", "in_character", "learn_columns"]


Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """What one column is: plain values, in the user's units.

    Attributes
    ----------
    name : str or None
        Its name, if the table had names.
    kind : str
        A key of `KINDS`.
    centre, scale : float
        Of its coding: (x - centre) / scale for continuous kinds, of log x for
        lognormal; 0 and 1 for 0/1 and categories; mean and standard deviation of the
        codes of an ordinal column and of log(1 + x) for counts; of a constant, its
        value and the distance that counts as equal.
    resolution : float
        Smallest step between distinct observed values; 0 where unknown.
    low, high : float
        Observed bounds; 0 for text.
    levels : tuple of str, int, float or bool
        Levels in the order of their codes; the one of a constant column of text.
    shares : tuple of float
        Of the levels among the observed cells.
    n_rare : int
        So many levels at the end share the last code.
    whole : bool
        Whether all observed values are whole numbers.
    per_day : int
        Of dates, the fewest ticks of a day that all observed ones fall on: whole
        days, hours, minutes, seconds, milli- or microseconds; 0 of other columns.
    density : str or None
        The model's name for the distribution of the coded values; None is that of
        its kind.
    novelty : float
        Chance that a cell holds none of the levels, by those observed once.
    unlearned : tuple of str, int, float or bool
        Further levels that the table has, without a code; see `Schema.knowing`.
    """

    name: str | None
    kind: str
    centre: float
    scale: float
    resolution: float
    low: float
    high: float
    levels: tuple[Any, ...] = ()
    shares: tuple[float, ...] = ()
    n_rare: int = 0
    whole: bool = False
    per_day: int = 0
    density: str | None = None
    novelty: float = 1.0
    unlearned: tuple[Any, ...] = ()

    @property
    def per_unit(self) -> int:
        """How many values, evenly spaced, a unit or a day has; 0 where all are."""
        return self.per_day or int(self.whole)

    @property
    def floor(self) -> float:
        """What none of its values that are made up lies below."""
        return 0.0 if self.low >= 0 else -np.inf

    @property
    def ceiling(self) -> float:
        """What none of its values that are made up lies above."""
        if self.high <= 0:
            return 0.0
        return 1.0 if self.low >= 0 and self.high <= 1 else np.inf

    @property
    def is_text(self) -> bool:
        """Whether any of its levels is text."""
        return any(isinstance(x, str) for x in (*self.levels, *self.unlearned))

    def knowing(self, statistics: Statistics, j: int, *, bounds: bool) -> Column:
        """Return the column as it is once it knows of more cells; see `Schema`."""
        if self.levels:
            known = {*self.levels, *self.unlearned}
            more = [x for x in statistics.levels.get(j, ()) if x not in known]
            return replace(
                self, unlearned=tuple(order_levels([*self.unlearned, *more]))
            )
        if not bounds or not KINDS[self.kind].is_boundless or not statistics.count[j]:
            return self
        return replace(
            self,
            low=min(self.low, float(statistics.low[j])),
            high=max(self.high, float(statistics.high[j])),
            whole=self.whole and bool(statistics.whole[j]),
            per_day=max(self.per_day, statistics.per_day.get(j, 0)),
        )


def in_character(x: Array, columns: Sequence[Column], *, drawn: bool) -> Array:
    """Round dates and drawn whole numbers, and keep bounds that were never left.

    ``x`` is (n, n_columns).
    """
    per_unit = np.array([c.per_unit if drawn else c.per_day for c in columns])
    grid = np.maximum(per_unit, 1)
    rounded = np.where(per_unit > 0, np.rint(x * grid) / grid, x)
    return np.clip(rounded, [c.floor for c in columns], [c.ceiling for c in columns])


def learn_columns(
    statistics: Statistics,
    labels: Sequence[str | None],
    kinds: Sequence[str],
    *,
    continuous: str,
    scaling: str,
    grouping: Grouping,
) -> tuple[Column, ...]:
    """Make columns of these kinds of what statistics tell of them."""
    d = len(kinds)
    centre, scale = np.zeros(d), np.ones(d)
    for kind in dict.fromkeys(kinds):
        at = np.flatnonzero([other == kind for other in kinds])
        centre[at], scale[at] = KINDS[kind].learn(statistics, scaling, at)
    resolution = statistics.resolution()
    low, high = np.nan_to_num(statistics.low), np.nan_to_num(statistics.high)
    columns = []
    for j, kind in enumerate(kinds):
        heavy = kind == "lognormal" and continuous == "student_t"
        column = Column(
            name=labels[j],
            kind=kind,
            centre=float(centre[j]),
            scale=float(scale[j]),
            resolution=float(resolution[j]),
            low=float(low[j]),
            high=float(high[j]),
            whole=bool(statistics.whole[j]) and j not in statistics.text,
            per_day=statistics.per_day.get(j, 0),
            density="student_t" if heavy else None,
        )
        if KINDS[kind].has_levels or (kind == "constant" and j in statistics.text):
            column = _with_levels(column, j, statistics, grouping)
        columns.append(column)
    return tuple(columns)


def _with_levels(
    column: Column, j: int, statistics: Statistics, grouping: Grouping
) -> Column:
    if j not in statistics.levels:
        raise ValueError(
            f"The levels of the column at {j} were not counted; name it in "
            "Statistics.of(..., levels=[...])."
        )
    weight_of = statistics.levels[j]
    ordinal = column.kind == "ordinal"
    declared = statistics.categories.get(j, ()) if ordinal else ()
    levels = order_levels(weight_of, declared)
    weights = np.array([weight_of[level] for level in levels])
    order, n_rare = list(range(len(levels))), 0
    if not ordinal:
        order, n_rare = grouping.arrange(weights)
    shares = weights / weights.sum()
    # Good, "The population frequencies of species", Biometrika 1953. Of rows with
    # weights, those of average weight stand for levels observed once.
    once = weights <= (1.0 + 1e-9) * weights.sum() / statistics.count[j]
    column = replace(
        column,
        levels=tuple(levels[i] for i in order),
        shares=tuple(shares[order].tolist()),
        n_rare=n_rare,
        novelty=float((1 + once.sum()) / (1 + statistics.count[j])),
    )
    if not ordinal:
        return replace(column, centre=0.0, scale=1.0)
    codes = np.arange(len(levels))
    centre = float(shares @ codes)
    spread = float(np.sqrt(shares @ (codes - centre) ** 2))
    return replace(column, centre=centre, scale=spread)
