"""What statistics are made of: checks and sums over arrays of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "FIRST_ROWS",
    "check_finite",
    "checked_weight",
    "ticks_per_day",
    "weighted_quantiles",
    "whole_columns",
    "within_unit",
]

Array = npt.NDArray[np.float64]

FIRST_ROWS = 256
"""Rows looked at before all are: few columns of real numbers look whole for long."""

TICKS = (1, 24, 1440, 86_400, 86_400_000, 86_400_000_000)
"""Ticks of a day that dates and times may fall on: days to microseconds."""

QUANTILE_SLACK = 1e-10
"""Relative slack for ranks, above the rounding of a sum of SAMPLE_ROWS weights."""


def checked_weight(sample_weight: npt.ArrayLike | None, n_rows: int) -> Array:
    """Return weights of rows as floats, all 1 for None, or say what is wrong."""
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


def check_finite(low: Array, high: Array) -> None:
    """Raise ValueError where a column holds infinity."""
    infinite = np.flatnonzero(np.isinf(low) | np.isinf(high))
    if infinite.size:
        raise ValueError(
            "A table holds finite numbers and NaN (missing), got infinity, an infinite "
            f"value in the columns at {infinite.tolist()}; replace it by NaN or a "
            "number."
        )


def whole_columns(x: Array) -> npt.NDArray[np.bool_]:
    """Tell the columns of whole numbers, NaN aside."""

    def is_whole(part: Array) -> npt.NDArray[np.bool_]:
        return ((part == np.rint(part)) | np.isnan(part)).all(axis=0)

    whole = is_whole(x[:FIRST_ROWS])
    if len(x) > FIRST_ROWS and whole.any():
        whole[whole] = is_whole(x[:, whole])
    return whole


def ticks_per_day(days: Array) -> int:
    """Return the fewest ticks of a day that all moments fall on, NaN aside.

    Days, hours, minutes, seconds, milliseconds, else microseconds: no coded time is
    finer.
    """
    seen = days[~np.isnan(days)]
    # Half a microsecond, or the rounding of far-off days.
    near = np.maximum(0.5 / TICKS[-1], np.spacing(np.abs(seen)))
    for ticks in TICKS[:-1]:
        at = seen * ticks
        if (np.abs(at - np.rint(at)) <= near * ticks).all():
            return ticks
    return TICKS[-1]


def within_unit(
    whole: npt.NDArray[np.bool_], low: Array, high: Array
) -> npt.NDArray[np.bool_]:
    """Tell the columns of 0 and 1 among those of whole numbers; True if empty."""
    return whole & ~(low < 0) & ~(high > 1)


def weighted_quantiles(
    sample: Array, weight: Array, probabilities: Sequence[float]
) -> Array:
    """Return quantiles of each column, (p, d); see `Statistics.quantiles`."""
    order = np.argsort(sample, axis=0)  # NaN last
    values = np.take_along_axis(sample, order, axis=0)
    cumulated = np.cumsum(weight[order] * ~np.isnan(values), axis=0)
    found = []
    for target in np.multiply.outer(np.asarray(probabilities), cumulated[-1]):
        first = (cumulated < target * (1 - QUANTILE_SLACK)).sum(axis=0)
        last = (cumulated <= target * (1 + QUANTILE_SLACK)).sum(axis=0)
        ends = np.minimum([first, last], len(values) - 1)
        below, above = np.take_along_axis(values, ends, axis=0)
        found.append(below + (above - below) / 2)
    return np.array(found)
