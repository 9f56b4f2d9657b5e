"""Mergeable statistics of a table: all that a schema needs to know of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.levels import count_levels, merge_levels
from skvae.table.moments import (
    FIRST_ROWS,
    check_finite,
    checked_weight,
    ticks_per_day,
    weighted_quantiles,
    whole_columns,
    within_unit,
)
from skvae.table.raw import BLOCK_ROWS, RawTable, TableLike

__all__ = ["SAMPLE_ROWS", "Statistics", "relative_rounding"]

Array = npt.NDArray[np.float64]

SAMPLE_ROWS = 10_000
"""Rows kept for quantiles: a quantile's rank is then off by about half a percent."""

ROUNDING_ULPS = 8.0
"""Differences below this many units in the last place count as rounding: a value
that went through a few sums and products is off by one or two."""

SPARSE_SAMPLE_CELLS = 4_000_000
"""Cells of the row sample of a sparse table: a wide one keeps fewer rows."""


def relative_rounding(dtype: npt.DTypeLike) -> float:
    """Return the relative difference below which two values of `dtype` are equal.

    Integers and booleans are coded in float64 and so share its rounding.

    Examples
    --------
    >>> float(relative_rounding("float32")) < 1e-6
    True
    """
    kept = np.dtype(dtype)
    floating = kept if kept.kind == "f" else np.dtype(np.float64)
    return ROUNDING_ULPS * float(np.finfo(floating).eps)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Weighted statistics of the observed cells of every column.

    Rows of weight zero count as absent, missing cells (NaN) count for nothing, and
    an integer weight w equals the row repeated w times. Two statistics merge into
    that of both tables together, whatever the order.

    Attributes
    ----------
    rows : int
        Rows of positive weight.
    count : ndarray of int, shape (d,)
        Observed cells.
    weight : ndarray, shape (d,)
        Sum of the weights of the observed cells.
    mean, std : ndarray, shape (d,)
        Weighted moments (divisor: the weight); 0 where nothing is observed.
    low, high : ndarray, shape (d,)
        Observed bounds; NaN where nothing is observed.
    binary : ndarray of bool, shape (d,)
        Whether all observed values are 0 or 1.
    whole : ndarray of bool, shape (d,)
        Whether all observed values are whole numbers.
    rounding : float
        Relative size of a rounding error in the least precise input.
    sample : ndarray, shape (s, d)
        A uniform sample of the rows, s = min(rows, SAMPLE_ROWS).
    sample_weight, priority : ndarray, shape (s,)
        The weights of the sampled rows, and the random keys that chose them.
    levels : dict of int to dict
        Weight of each level of the columns that hold text or categories, or whose
        levels were asked for, by position.
    text : frozenset of int
        Columns that hold text. Their moments are 0 and their bounds NaN.
    categories, ordered : dict of int to tuple, frozenset of int
        As in `RawTable`.
    per_day : dict of int to int
        Of the columns of dates, the fewest ticks of a day that all fall on.
    sample_rows : int
        Most rows that `sample` may keep.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.array([[0.0], [1.0]]), np.array([[2.0]])
    >>> merged = Statistics.of(a, key=0).merge(Statistics.of(b, key=1))
    >>> float(merged.mean[0]), int(merged.count[0])
    (1.0, 3)
    """

    rows: int
    count: npt.NDArray[np.int64]
    weight: Array
    mean: Array
    std: Array
    low: Array
    high: Array
    binary: npt.NDArray[np.bool_]
    whole: npt.NDArray[np.bool_]
    rounding: float
    sample: Array
    sample_weight: Array
    priority: Array
    levels: Mapping[int, Mapping[Any, float]] = field(default_factory=dict)
    text: frozenset[int] = frozenset()
    categories: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    ordered: frozenset[int] = frozenset()
    per_day: Mapping[int, int] = field(default_factory=dict)
    sample_rows: int = SAMPLE_ROWS

    @classmethod
    def of(
        cls,
        X: TableLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        key: int | Sequence[int] = 0,
        levels: Sequence[int] = (),
    ) -> Statistics:
        """Read the statistics of a table.

        Parameters
        ----------
        X : RawTable, array-like of real numbers or sparse matrix, shape (n, d)
            NaN cells are missing. A sparse table is never made dense as a whole.
        sample_weight : array-like, shape (n,), optional
            Finite weights >= 0; None weighs every row 1.
        key : int or sequence of int, default=0
            Seeds the row sample. Blocks to be merged need different keys, such as
            (seed, block number).
        levels : sequence of int, default=()
            Positions of columns of numbers whose levels are counted too.

        Raises
        ------
        ValueError
            For a table that is not two-dimensional, an infinite cell, a sparse table
            with missing cells, or weights that are negative, not finite or of another
            length.
        """
        raw = RawTable.of(X)
        weight, source = None, np.random.default_rng(key)
        if sample_weight is not None:
            weight = checked_weight(sample_weight, len(raw))
        if raw.is_sparse:
            if len(levels):
                raise ValueError(
                    "A sparse table holds counts, without levels; make it dense with "
                    f"X.toarray() for the levels of the columns at {list(levels)}."
                )
            weight = checked_weight(weight, len(raw))
            return _of_sparse(raw, weight, source.random(len(raw)))
        counted = sorted({*levels, *raw.categories})

        def of_block(start: int) -> Statistics:
            rows = slice(start, start + BLOCK_ROWS)
            part = raw.take(rows)
            own = np.ones(len(part)) if weight is None else weight[rows]
            return _of_block(part, own, source.random(len(part)), counted)

        starts = range(0, max(len(raw), 1), BLOCK_ROWS)
        return reduce(cls.merge, map(of_block, starts))

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both tables together (Chan et al. 1983).

        Raises
        ------
        ValueError
            When the tables differ in their number of columns, or a column holds text
            in one and numbers in the other.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(
                "Only statistics of the same columns merge, got "
                f"{len(self.mean)} and {len(other.mean)} columns."
            )
        _check_same_sorts(self, other)
        weight = self.weight + other.weight
        share = np.divide(
            other.weight, weight, out=np.zeros_like(weight), where=weight > 0
        )
        step = other.mean - self.mean
        within = np.hypot(np.sqrt(1 - share) * self.std, np.sqrt(share) * other.std)
        return Statistics(
            rows=self.rows + other.rows,
            count=self.count + other.count,
            weight=weight,
            mean=self.mean + share * step,
            std=np.hypot(within, np.sqrt(share * (1 - share)) * step),
            low=np.fmin(self.low, other.low),
            high=np.fmax(self.high, other.high),
            binary=self.binary & other.binary,
            whole=self.whole & other.whole,
            rounding=max(self.rounding, other.rounding),
            sample=np.concatenate([self.sample, other.sample]),
            sample_weight=np.concatenate([self.sample_weight, other.sample_weight]),
            priority=np.concatenate([self.priority, other.priority]),
            levels={
                j: merge_levels(self.levels.get(j, {}), other.levels.get(j, {}))
                for j in sorted({*self.levels, *other.levels})
            },
            text=self.text | other.text,
            categories={**other.categories, **self.categories},
            ordered=self.ordered | other.ordered,
            per_day={
                j: max(self.per_day.get(j, 1), other.per_day.get(j, 1))
                for j in sorted({*self.per_day, *other.per_day})
            },
            sample_rows=min(self.sample_rows, other.sample_rows),
        )._trimmed()

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """Missing cells of every column, shape (d,)."""
        return self.rows - self.count

    @property
    def magnitude(self) -> Array:
        """Largest absolute observed value of every column, shape (d,)."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def quantiles(self, probabilities: Sequence[float]) -> Array:
        """Return weighted quantiles of the sampled rows.

        The averaged inverse of the distribution function (Hyndman & Fan 1996,
        type 2): the median of two values is their middle, and integer weights
        equal repeated rows.

        Returns
        -------
        ndarray, shape (len(probabilities), d)
            NaN where the sample holds no observed cell.
        """
        return weighted_quantiles(self.sample, self.sample_weight, probabilities)

    def resolution(self) -> Array:
        """Return the smallest step between distinct sampled values, shape (d,).

        Steps at rounding level are no steps; 0 where no two values differ.
        """
        values = np.sort(self.sample, axis=0)
        steps = np.diff(values, axis=0)
        size = np.maximum(np.abs(values[:-1]), np.abs(values[1:]))
        steps[~(steps > self.rounding * size)] = np.inf  # also where NaN
        smallest = np.min(steps, axis=0, initial=np.inf)
        return np.where(np.isfinite(smallest), smallest, 0.0)

    def _trimmed(self) -> Statistics:
        """Keep the rows of lowest priority: a uniform sample of all rows seen."""
        kept = np.argsort(self.priority, kind="stable")[: self.sample_rows]
        return replace(
            self,
            sample=self.sample[kept],
            sample_weight=self.sample_weight[kept],
            priority=self.priority[kept],
        )


def _check_same_sorts(one: Statistics, other: Statistics) -> None:
    for a, b in ((one, other), (other, one)):
        mixed = [j for j in sorted(a.text - b.text) if b.count[j]]
        if mixed:
            raise ValueError(
                "A column holds text or numbers in all parts of a table, got both in "
                f"the columns at {mixed}; make them text everywhere."
            )


def _of_block(
    raw: RawTable, weight: Array, key: Array, counted: Sequence[int]
) -> Statistics:
    """Two-pass moments, in units that neither overflow nor underflow."""
    present = weight > 0
    if not present.all():
        raw, weight, key = raw.take(present), weight[present], key[present]
    x = np.asarray(raw.numbers, dtype=np.float64)
    low = np.fmin.reduce(x, axis=0, initial=np.nan)
    high = np.fmax.reduce(x, axis=0, initial=np.nan)
    check_finite(low, high)
    observed = ~np.isnan(x)
    count = observed.sum(axis=0)
    total = weight @ observed
    safe_total = np.where(total > 0, total, 1.0)
    start = np.where(count > 0, low + (high - low) / 2, 0.0)
    mean = start + (weight @ np.where(observed, x - start, 0.0)) / safe_total
    deviation = np.where(observed, x - mean, 0.0)
    unit = np.max(np.abs(deviation), axis=0, initial=0.0)
    deviation /= np.where(unit > 0, unit, 1.0)
    levels = {}
    for j in sorted({*counted, *raw.text}):
        levels[j], count[j] = count_levels(raw.text.get(j, x[:, j]), weight)
        total[j] = sum(levels[j].values())
    whole = whole_columns(x)
    return Statistics(
        rows=len(x),
        count=count,
        weight=total,
        mean=mean,
        std=unit * np.sqrt((weight @ deviation**2) / safe_total),
        low=low,
        high=high,
        binary=within_unit(whole, low, high),
        whole=whole,
        rounding=relative_rounding(raw.dtype),
        sample=x,
        sample_weight=weight,
        priority=key,
        levels=levels,
        text=frozenset(j for j in raw.text if count[j]),
        categories=raw.categories,
        ordered=raw.ordered,
        per_day={j: ticks_per_day(x[:, j]) for j in sorted(raw.moments)},
    )._trimmed()


def _of_sparse(raw: RawTable, weight: Array, key: Array) -> Statistics:
    """Moments of all cells from those that are stored."""
    present = weight > 0
    table = raw.numbers if present.all() else raw.numbers[np.flatnonzero(present)]
    weight, key = weight[present], key[present]
    n, d = table.shape
    cells = table.tocoo()
    x, at = cells.data.astype(np.float64), cells.coords[1]
    if np.isnan(x).any():
        raise ValueError(
            "A sparse table holds counts, without missing cells, but got NaN; make it "
            "dense with X.toarray(), or leave these rows out."
        )
    stored, w = np.bincount(at, minlength=d), weight[cells.coords[0]]
    zero = np.where(stored < n, 0.0, np.nan)
    low, high = zero.copy(), zero.copy()
    np.fmin.at(low, at, x)
    np.fmax.at(high, at, x)
    check_finite(low, high)
    total = float(weight.sum())
    mean = np.bincount(at, w * x, d) / (total or 1.0)
    elsewhere = total - np.bincount(at, w, d)
    squares = np.bincount(at, w * (x - mean[at]) ** 2, d) + elsewhere * mean**2
    whole = np.bincount(at, x != np.rint(x), d) == 0
    rows = int(np.clip(SPARSE_SAMPLE_CELLS // max(d, 1), FIRST_ROWS, SAMPLE_ROWS))
    kept = np.argsort(key, kind="stable")[:rows]
    return Statistics(
        rows=n,
        count=np.full(d, n),
        weight=np.full(d, total),
        mean=mean,
        std=np.sqrt(np.maximum(squares, 0.0) / (total or 1.0)),
        low=low,
        high=high,
        binary=within_unit(whole, low, high),
        whole=whole,
        rounding=relative_rounding(raw.dtype),
        sample=table[kept].toarray().astype(np.float64),
        sample_weight=weight[kept],
        priority=key[kept],
        sample_rows=rows,
    )
