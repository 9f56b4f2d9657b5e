"""What a user wants of new rows, held against the data types of the table."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from skvae.table.cells import is_missing
from skvae.table.columns import Column
from skvae.table.containers import Container
from skvae.table.kinds import KINDS
from skvae.table.schema import Schema

_NUMBERS = (int, float, np.integer, np.floating)


def settle(
    schema: Schema, container: Container, conditions: Mapping[Any, Any]
) -> dict[str | int, Any]:
    """Conditions that name each column once, of values that it has a place for.

    Parameters
    ----------
    schema : Schema
    container : Container
    conditions : mapping
        From names or positions to a value, a set or list of values, or a range (low,
        high) as a tuple in which None is open.

    Returns
    -------
    settled : dict
        By name, or position where there is none; ends of ranges are those that the
        data type of the column can hold.

    Raises
    ------
    TypeError
        Where `conditions` is no mapping.
    ValueError
        For a column that is unknown or named twice, a missing cell, a boolean for a
        number, a number for a date or a date for a number, or what the data type has no
        place for.
    """
    if not isinstance(conditions, Mapping):
        raise TypeError(
            f"conditions is a dict {{column: value, set or range}}, got "
            f"{type(conditions).__name__}."
        )
    keys: dict[int, Any] = {}
    settled: dict[str | int, Any] = {}
    for key, wanted in conditions.items():
        j = schema.position(key, "conditions")
        if j in keys:
            raise ValueError(
                f"conditions names each column once, got {keys[j]!r} and {key!r} for "
                f"the same. Join the two into one value, set or range."
            )
        keys[j] = key
        column, wanted = schema.columns[j], _plain(wanted)
        _check_values(column, key, wanted)
        if not (KINDS[column.kind].has_levels or column.is_text):
            _check_sorts(schema, container.dtype_of(j), j, key, wanted)
            wanted = _within_type(container.dtype_of(j), key, wanted)
        settled[j if column.name is None else column.name] = wanted
    return settled


def _plain(wanted: Any) -> Any:
    """The condition, with single numbers that came as arrays or tensors as such."""
    if getattr(wanted, "shape", None) == () and not isinstance(wanted, np.generic):
        return wanted[()] if isinstance(wanted, np.ndarray) else wanted.item()
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        return wanted
    values = map(_plain, wanted)
    return tuple(values) if isinstance(wanted, tuple) else list(values)


def _check_values(column: Column, key: Any, wanted: Any) -> None:
    """Raise for what is no value, or not one of such a column."""
    values = listed(wanted)
    is_range = isinstance(wanted, tuple)
    holes = [v for v in values if is_missing(v) and not (is_range and v is None)]
    if holes:
        raise ValueError(
            f"A condition on {key!r} gives values, got {holes}, which stands for a "
            f"missing cell: new rows have none. Leave the column out of conditions; "
            f"None is the open end of a range (low, high) alone."
        )
    truths = [v for v in values if isinstance(v, (bool, np.bool_))]
    plain = [v for v in column.levels if not isinstance(v, str)]
    if truths and not set(plain) <= {0, 1}:
        raise ValueError(
            f"A condition on {key!r}, whose levels are more than 0 and 1, gives some "
            f"of {list(column.levels)}, got {truths}. Give the level that is meant."
        )


def listed(wanted: Any) -> list[Any]:
    """The values of a condition, whether one or several."""
    single = isinstance(wanted, str) or not isinstance(wanted, Iterable)
    return [wanted] if single else list(wanted)


def _check_sorts(schema: Schema, dtype: str, j: int, key: Any, wanted: Any) -> None:
    """Raise for values of another sort than the column's: they would mean little."""
    values = listed(wanted)
    moments = (datetime.date, np.datetime64)
    truths = [v for v in values if isinstance(v, (bool, np.bool_))]
    if truths and schema.columns[j].kind not in ("bernoulli", "constant"):
        raise ValueError(
            f"A condition on {key!r}, which holds more than 0 and 1, gives numbers or "
            f"dates, got {truths}. Give 1 or 0 where these are meant."
        )
    if dtype.startswith("date"):
        plain = [v for v in values if isinstance(v, _NUMBERS) and v == v]
        if plain:
            raise ValueError(
                f"A condition on {key!r}, a column of dates, gives dates, got {plain}. "
                f"Give datetime objects: pandas.Timestamp('2024-01-31')."
            )
    elif dates := [v for v in values if isinstance(v, moments)]:
        raise ValueError(
            f"A condition on {key!r}, a column of numbers, gives numbers, got {dates}."
            f" Name another column, or give the number that is meant."
        )


def _within_type(dtype: str, key: Any, wanted: Any) -> Any:
    """The condition, its range drawn in to the numbers of the data type."""
    if not dtype.startswith(("int", "uint", "float")) or dtype == "float64":
        return wanted
    kept = np.dtype(dtype)
    info: Any = np.finfo(kept) if kept.kind == "f" else np.iinfo(kept)
    least, most = float(info.min), float(info.max)
    is_range = isinstance(wanted, tuple) and len(wanted) == 2
    ends = [(-np.inf, most), (least, np.inf)] if is_range else None
    values = listed(wanted)
    beyond = [
        value
        for value, (low, high) in zip(values, ends or [(least, most)] * len(values))
        if _is_number(value) and not low <= value <= high
    ]
    if beyond:
        raise ValueError(
            f"A condition on {key!r} asks for what its data type in fit, {dtype}, can "
            f"hold, {info.min} to {info.max}, got {beyond}. Ask for less, or fit a "
            f"table whose column has a wider type."
        )
    if not is_range or kept.kind != "f" or values[0] == values[1]:
        return wanted
    low, high = (
        _drawn_in(end, kept.type, inwards) if _is_number(end) else end
        for end, inwards in zip(values, (np.inf, -np.inf))
    )
    if _is_number(low) and _is_number(high) and low > high:
        raise ValueError(
            f"A range of {key!r} holds a number of its data type in fit, {dtype}, got "
            f"{wanted!r}, between two neighbours. Widen it."
        )
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and bool(-np.inf < value < np.inf)


def _drawn_in(end: Any, kept: Any, inwards: float) -> float:
    """The nearest number of a type that is not beyond the end of a range."""
    with np.errstate(over="ignore"):
        near = kept(end)
    if (inwards > 0) == (float(near) < end) and float(near) != end:
        near = np.nextafter(near, kept(inwards))
    return float(near)
