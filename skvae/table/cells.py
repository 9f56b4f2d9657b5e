"""Python objects read as cells: which are numbers, text, dates, or missing."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Cells", "days_of", "is_missing", "plain_level", "read_objects"]

Array = npt.NDArray[np.float64]

NANOSECONDS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
DAY_NANOSECONDS = 86_400 * NANOSECONDS["s"]


class Cells(NamedTuple):
    """A column as read; exactly one of `numbers` and `text` is there.

    `dtype` is "bool", "int64", "float64", "date", "datetime" or "text".
    """

    dtype: str
    numbers: npt.NDArray[Any] | None = None
    text: npt.NDArray[np.object_] | None = None


def read_objects(cells: Sequence[Any] | npt.NDArray[Any], label: str) -> Cells:
    """Read a column of Python objects: of numbers if all observed cells are such.

    Parameters
    ----------
    cells : sequence of object
        None, NaN, NaT and pandas.NA are missing.
    label : str
        How messages name the column.

    Raises
    ------
    TypeError
        For a cell that is neither number, text, boolean nor date, or for dates
        beside other cells.
    """
    values = cells.tolist() if isinstance(cells, np.ndarray) else list(cells)
    sorts = {kept: _sort_of(kept) for kept in set(map(type, values))}
    strange = [kept for kept, sort in sorts.items() if sort == "other"]
    if strange:
        value = next(v for v in values if type(v) is strange[0])
        raise TypeError(
            "A cell is a number, text, a boolean or a date: argument must be a string "
            f"or a number, got {value!r} of type {strange[0].__name__} in {label}; "
            "spell it out in columns, or make it text with str()."
        )
    if "missing" in sorts.values():
        values = [None if sorts[type(v)] == "missing" else v for v in values]
    found = set(sorts.values()) - {"missing"}
    if found <= {"bool", "whole", "real"}:
        numbers = np.array(values, dtype=np.float64)
        if len(found) > 1 and not _has_fraction(values):
            found -= {"real"}
        kept = next((s for s in ("real", "whole", "bool") if s in found), "real")
        dtype = {"real": "float64", "whole": "int64", "bool": "bool"}[kept]
        return Cells(dtype, numbers=numbers)
    if found <= {"date", "datetime"}:
        dtype = "date" if found == {"date"} else "datetime"
        moments = np.array([_naive(v) for v in values], dtype="datetime64[us]")
        return Cells(dtype, numbers=days_of(moments))
    if found & {"date", "datetime"}:
        raise TypeError(
            f"A column holds dates or other cells, but {label} mixes dates with "
            f"{sorted(found - {'date', 'datetime'})}; make all of them text or dates."
        )
    if found != {"text"} or str not in sorts:
        values = [None if is_missing(v) else plain_level(v) for v in values]
    text = np.empty(len(values), dtype=object)
    text[:] = values
    return Cells("text", text=text)


def is_missing(value: Any) -> bool:
    """Whether an object stands for a missing cell, NaN among numbers too."""
    sort = _sort_of(type(value))
    if sort in ("whole", "real", "datetime"):
        return bool(value != value)
    return sort == "missing"


def _sort_of(kept: type) -> str:
    """Sort a type of cell; what is missing is known by its name, not by pandas."""
    if kept is type(None) or kept.__name__ in ("NAType", "NaTType"):
        return "missing"
    if issubclass(kept, str):
        return "text"
    if issubclass(kept, (bool, np.bool_)):
        return "bool"
    if issubclass(kept, (int, np.integer)):
        return "whole"
    if issubclass(kept, (Real, Decimal)):
        return "real"
    if issubclass(kept, (datetime.datetime, np.datetime64)):
        return "datetime"
    return "date" if issubclass(kept, datetime.date) else "other"


def _has_fraction(values: list[Any]) -> bool:
    """Whether any float is more than the NaN of a missing cell."""
    return any(_sort_of(type(v)) == "real" and v == v for v in values)


def _naive(value: Any) -> Any:
    """Return a moment in UTC without a zone, as NumPy wants it."""
    if getattr(value, "tzinfo", None) is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


def plain_level(value: Any) -> Any:
    """Return a label as str, bool, int or float: equal labels then look alike."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    number = float(value)
    return int(number) if number.is_integer() else number


def days_of(moments: npt.NDArray[Any]) -> Array:
    """Return datetime64 values as days since 1970-01-01 UTC; NaT becomes NaN."""
    unit, step = np.datetime_data(moments.dtype)
    if unit not in NANOSECONDS:  # days and longer
        moments, unit, step = moments.astype("datetime64[s]"), "s", 1
    per_day = DAY_NANOSECONDS // (NANOSECONDS[unit] * step)
    return np.where(np.isnat(moments), np.nan, moments.astype(np.int64) / per_day)
