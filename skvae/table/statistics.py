"""Mergeable statistics of a table: all that a schema needs to know of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt

__all__ = ["SAMPLE_ROWS", "Statistics", "relative_rounding"]

Array = npt.NDArray[np.float64]

SAMPLE_ROWS = 10_000
"""Rows kept for quantiles: a quantile's rank is then off by about half a percent."""

BLOCK_ROWS = 65_536
"""Rows coded at a time, so that temporaries stay small beside the table."""

ROUNDING_ULPS = 8.0
"""Differences below this many units in the last place count as rounding: a value
that went through a few sums and products is off by one or two."""

QUANTILE_SLACK = 1e-10
"""Relative slack for ranks, above the rounding of a sum of SAMPLE_ROWS weights."""


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
    rounding : float
        Relative size of a rounding error in the least precise input.
    sample : ndarray, shape (s, d)
        A uniform sample of the rows, s = min(rows, SAMPLE_ROWS).
    sample_weight, priority : ndarray, shape (s,)
        The weights of the sampled rows, and the random keys that chose them.

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
    rounding: float
    sample: Array
    sample_weight: Array
    priority: Array

    @classmethod
    def of(
        cls,
        X: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        key: int | Sequence[int] = 0,
    ) -> Statistics:
        """Read the statistics of a numeric table.

        Parameters
        ----------
        X : array-like of real numbers, shape (n, d)
            NaN cells are missing.
        sample_weight : array-like, shape (n,), optional
            Finite weights >= 0; None weighs every row 1.
        key : int or sequence of int, default=0
            Seeds the row sample. Blocks to be merged need different keys, such as
            (seed, block number).

        Raises
        ------
        ValueError
            For a table that is not two-dimensional, an infinite cell, or weights
            that are negative, not finite or of another length.
        """
        table = np.asarray(X)
        if table.ndim != 2:
            raise ValueError(
                f"A table has two dimensions (rows, columns), got shape {table.shape}. "
                "Reshape a single column with X.reshape(-1, 1)."
            )
        weight = _checked_weight(sample_weight, len(table))
        priority = np.random.default_rng(key).random(len(table))
        starts = range(0, max(len(table), 1), BLOCK_ROWS)
        blocks = [slice(start, start + BLOCK_ROWS) for start in starts]
        return reduce(
            cls.merge, (_of_block(table[b], weight[b], priority[b]) for b in blocks)
        )

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both tables together (Chan et al. 1983).

        Raises
        ------
        ValueError
            When the tables differ in their number of columns.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(
                "Only statistics of the same columns merge, got "
                f"{len(self.mean)} and {len(other.mean)} columns."
            )
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
            rounding=max(self.rounding, other.rounding),
            sample=np.concatenate([self.sample, other.sample]),
            sample_weight=np.concatenate([self.sample_weight, other.sample_weight]),
            priority=np.concatenate([self.priority, other.priority]),
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
        order = np.argsort(self.sample, axis=0)  # NaN last
        values = np.take_along_axis(self.sample, order, axis=0)
        cumulated = np.cumsum(self.sample_weight[order] * ~np.isnan(values), axis=0)
        found = []
        for target in np.multiply.outer(np.asarray(probabilities), cumulated[-1]):
            first = (cumulated < target * (1 - QUANTILE_SLACK)).sum(axis=0)
            last = (cumulated <= target * (1 + QUANTILE_SLACK)).sum(axis=0)
            ends = np.minimum([first, last], len(values) - 1)
            below, above = np.take_along_axis(values, ends, axis=0)
            found.append(below + (above - below) / 2)
        return np.array(found)

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
        kept = np.argsort(self.priority, kind="stable")[:SAMPLE_ROWS]
        return replace(
            self,
            sample=self.sample[kept],
            sample_weight=self.sample_weight[kept],
            priority=self.priority[kept],
        )


def _checked_weight(sample_weight: npt.ArrayLike | None, n_rows: int) -> Array:
    if sample_weight is None:
        return np.ones(n_rows)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_rows,):
        raise ValueError(
            f"sample_weight holds one number a row, shape ({n_rows},), "
            f"got shape {weight.shape}."
        )
    if not np.all(np.isfinite(weight) & (weight >= 0)):
        raise ValueError(
            "sample_weight must be finite and >= 0, got values from "
            f"{weight.min()} to {weight.max()}; use 0 to leave a row out."
        )
    return weight


def _of_block(table: npt.NDArray[np.generic], weight: Array, key: Array) -> Statistics:
    """Two-pass moments, in units that neither overflow nor underflow."""
    present = weight > 0
    weight, key = weight[present], key[present]
    x = np.asarray(table if present.all() else table[present], dtype=np.float64)
    low = np.fmin.reduce(x, axis=0, initial=np.nan)
    high = np.fmax.reduce(x, axis=0, initial=np.nan)
    infinite = np.flatnonzero(np.isinf(low) | np.isinf(high))
    if infinite.size:
        raise ValueError(
            "A table holds finite numbers and NaN (missing), got an infinite value in "
            f"the columns at {infinite.tolist()}; replace it by NaN or a number."
        )
    observed = ~np.isnan(x)
    count = observed.sum(axis=0)
    total = weight @ observed
    safe_total = np.where(total > 0, total, 1.0)
    start = np.where(count > 0, low + (high - low) / 2, 0.0)
    mean = start + (weight @ np.where(observed, x - start, 0.0)) / safe_total
    deviation = np.where(observed, x - mean, 0.0)
    unit = np.max(np.abs(deviation), axis=0, initial=0.0)
    deviation /= np.where(unit > 0, unit, 1.0)
    return Statistics(
        rows=len(x),
        count=count,
        weight=total,
        mean=mean,
        std=unit * np.sqrt((weight @ deviation**2) / safe_total),
        low=low,
        high=high,
        binary=((x == 0) | (x == 1) | ~observed).all(axis=0),
        rounding=relative_rounding(table.dtype),
        sample=x,
        sample_weight=weight,
        priority=key,
    )._trimmed()
