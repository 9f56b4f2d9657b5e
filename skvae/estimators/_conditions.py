"""What a user asks of new rows, as conditions on coded cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from skvae.estimators._tables import users_level
from skvae.estimators._wanted import listed
from skvae.inference.generation import Conditions
from skvae.table.containers import Container
from skvae.table.kinds import COUNTS, KINDS
from skvae.table.moments import TICKS
from skvae.table.raw import RawTable
from skvae.table.schema import Column, Schema

# Kinds without an order of their levels, in which a range means nothing.
_UNORDERED = ("categorical",)
# Kinds whose coded cells are whole; the whole numbers of others are rounded draws.
_WHOLE = ("bernoulli", *COUNTS)
_TICKS = dict(
    zip(TICKS, ["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"])
)


def code_conditions(schema: Schema, conditions: Mapping[Any, Any]) -> Conditions:
    """Conditions on the coded columns.

    Parameters
    ----------
    schema : Schema
    conditions : mapping
        Settled.

    Raises
    ------
    ValueError
        For a level or value that the column never showed, a range of an unordered
        column, or an empty set or range.
    """
    low = np.full(len(schema.active), -np.inf)
    high = np.full(len(schema.active), np.inf)
    members: dict[int, np.ndarray] = {}
    shares: dict[int, np.ndarray] = {}
    coded_place = {int(j): place for place, j in enumerate(schema.active)}
    for key, wanted in conditions.items():
        j = schema.position(key, "conditions")
        if j not in coded_place:
            _check_constant(schema, j, key, wanted)
            continue
        place = coded_place[j]
        if isinstance(wanted, tuple):
            low[place], high[place] = _range(schema, j, place, key, wanted)
        else:
            values = listed(wanted)
            codes = _coded(schema, j, place, key, values)
            members[place] = np.unique(codes)
            if schema.levels[place]:
                shares[place] = _shares(schema, j, place, values, codes)
    return Conditions(low, high, members, shares)


def _shares(
    schema: Schema, j: int, place: int, values: list[Any], codes: np.ndarray
) -> np.ndarray:
    """Share of each wanted code, ascending, that its wanted levels have."""
    levels = _raw(schema, j, values)
    cells = levels.column(j).tolist()
    distinct = [cells.index(cell) for cell in dict.fromkeys(cells)]
    share = np.exp(schema.log_jacobian(levels)[distinct, place])
    _, inverse = np.unique(codes[distinct], return_inverse=True)
    return np.bincount(inverse, share)


def keep_conditions(
    schema: Schema,
    conditions: Mapping[Any, Any],
    rows: RawTable,
    source: np.random.Generator,
) -> None:
    """Bring drawn cells to what is wanted where their codes say less, or round.

    Parameters
    ----------
    schema : Schema
    conditions : mapping
        That `code_conditions` took.
    rows : RawTable
        Drawn under them; its cells are replaced.
    source : numpy.random.Generator
    """
    coded_place = {int(j): place for place, j in enumerate(schema.active)}
    for key, wanted in conditions.items():
        j = schema.position(key, "conditions")
        if j not in coded_place:
            continue
        place, is_range = coded_place[j], isinstance(wanted, tuple)
        if not schema.levels[place]:
            x = rows.numbers[:, j]
            known = _raw(schema, j, listed(wanted)).numbers[:, j]
            if is_range:
                known = _whole_ends(known, schema.columns[j].per_unit)
                x[:] = np.fmin(np.fmax(x, known[0]), known[1])  # NaN is open
            else:
                x[:] = known[np.abs(x[:, None] - known).argmin(axis=1)]
        elif not is_range:
            _draw_members(schema, j, place, listed(wanted), rows, source)


def _draw_members(
    schema: Schema,
    j: int,
    place: int,
    wanted: list[Any],
    rows: RawTable,
    source: np.random.Generator,
) -> None:
    """Draw again the cells whose code is wanted for some of its levels alone."""
    levels = _raw(schema, j, wanted)
    share = np.exp(schema.log_jacobian(levels)[:, place])
    codes, drawn = (schema.encode(raw)[:, place] for raw in (levels, rows))
    for code in np.unique(codes[share < 1.0]):
        own, at = np.flatnonzero(codes == code), np.flatnonzero(drawn == code)
        p = share[own] / share[own].sum()
        cells = levels.column(j)[source.choice(own, len(at), p=p)]
        (rows.text[j] if j in rows.text else rows.numbers[:, j])[at] = cells


def warn_of_few(effective_size: float, n_samples: int) -> None:
    """Say where rows share codes because few fit the conditions."""
    if effective_size < min(n_samples, 100):
        warnings.warn(
            f"Few codes fit the conditions: {n_samples} rows were drawn from about "
            f"{effective_size:.0f} independent ones, and will resemble each other. "
            f"Widen the conditions, or ask for fewer rows.",
            UserWarning,
            stacklevel=users_level(),
        )


def _raw(schema: Schema, j: int, values: list[Any]) -> RawTable:
    """Values of one column as a table whose other cells are missing."""
    cells = np.full((len(values), len(schema.columns)), None, dtype=object)
    column = schema.columns[j]
    for i, value in enumerate(values):
        cells[i, j] = value
    try:
        raw = Container.read(cells)
    except TypeError:
        raw = None
    has_levels = KINDS[column.kind].has_levels or column.is_text
    if raw is None or not (has_levels or _finite(raw, j)):
        rule = "levels" if has_levels else "finite numbers or dates"
        raise ValueError(
            f"A condition on {schema.label(j)} gives {rule}, got {values!r}. Give "
            f"numbers as such, and dates as datetime objects: "
            f"pandas.Timestamp('2024-01-31')."
        )
    return raw


def _finite(raw: RawTable, j: int) -> bool:
    """Whether a column holds numbers, none of them infinite."""
    return j not in raw.text and not np.isinf(raw.numbers[:, j]).any()


def _check_constant(schema: Schema, j: int, key: Any, wanted: Any) -> None:
    column = schema.columns[j]
    if isinstance(wanted, tuple):
        low, high = _ends(wanted, column.is_text, key, column.kind)
        known = _raw(schema, j, [low, high]).numbers[:, j]  # NaN is open
        met = not (known[0] > column.centre or known[1] < column.centre)
    else:
        raw = _raw(schema, j, listed(wanted))
        same = schema.unseen_log_mass(raw)[:, j] == 0
        met = bool((same & ~raw.missing()[:, j]).any())
    if not met:
        raise ValueError(
            f"The column {key!r} held one value in fit, and {wanted!r} is another: no "
            f"row can meet that. Leave the column out of conditions."
        )


def _ends(
    wanted: tuple[Any, ...], unordered: bool, key: Any, kind: str
) -> tuple[Any, Any]:
    """Least and largest value of a range, None where open."""
    if len(wanted) != 2 or unordered:
        raise ValueError(
            f"A tuple is a range (low, high) of an ordered column, got {wanted!r} for "
            f"{key!r} of kind {kind!r}. Give a set for several values."
        )
    low, high = (
        None if isinstance(end, float) and end == limit else end
        for end, limit in zip(wanted, (-math.inf, math.inf), strict=True)
    )
    return low, high


def _coded(
    schema: Schema, j: int, place: int, key: Any, values: list[Any]
) -> np.ndarray:
    raw = _raw(schema, j, values)
    codes = schema.encode(raw)[:, place]
    can = ~np.isnan(codes)
    if not KINDS[schema.columns[j].kind].has_levels:
        can &= _drawable(schema, place, raw.numbers[:, j], codes) == 0
    unknown = [value for value, fine in zip(values, can) if not fine]
    if unknown or not values:
        column = schema.columns[j]
        can_hold = "values that the column can hold by what it showed in fit"
        if column.levels:
            can_hold = f"levels that the column showed in fit, {list(column.levels)}"
        elif column.per_unit:
            can_hold = f"{_grid_name(column)} that the column can hold by what it "
            can_hold += "showed in fit"
        raise ValueError(
            f"A condition on {key!r} asks for {can_hold}, got "
            f"{unknown or 'an empty set'}."
        )
    return codes


def _drawable(
    schema: Schema, place: int, x: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Side of cells on which what can be drawn begins: 0 where they can themselves."""
    coded = np.zeros((len(x), len(schema.active)))
    coded[:, place] = np.nan_to_num(codes)
    # Whatever draws are kept to, they are kept to by this.
    drawn = schema.decode(coded, source=np.random.default_rng(0))
    near = drawn.numbers[:, schema.active[place]]
    within = 1e-9 * (np.abs(x) + schema.scale[place])
    return np.where(np.abs(near - x) <= within, 0.0, np.sign(near - x))


def _range(
    schema: Schema, j: int, place: int, key: Any, wanted: tuple[Any, ...]
) -> tuple[float, float]:
    column = schema.columns[j]
    known = _ends(wanted, column.kind in _UNORDERED, key, column.kind)
    if column.per_unit and not KINDS[column.kind].has_levels:
        numbers = _raw(schema, j, list(known)).numbers[:, j]
        first, last = _whole_ends(numbers, column.per_unit)
        if first > last and numbers[0] <= numbers[1]:
            raise ValueError(
                f"A range of {key!r}, a column of {_grid_name(column)}, holds at least "
                f"one, got {wanted!r}. Widen it."
            )
    low, high = (
        limit if end is None else _end(schema, j, place, key, end, upper=i == 1)
        for i, (end, limit) in enumerate(zip(known, (-np.inf, np.inf), strict=True))
    )
    if low > high:
        raise ValueError(f"A range is (low, high), got {wanted!r} for {key!r}.")
    return low, high


def _whole_ends(ends: np.ndarray, per_unit: int) -> np.ndarray:
    """First and last of evenly spaced numbers in a range, NaN where it is open."""
    if not per_unit:
        return ends
    at = ends * per_unit
    near = np.rint(at)
    # An end that is one of them but for its rounding.
    at = np.where(np.abs(at - near) <= per_unit * np.spacing(np.abs(ends)), near, at)
    return np.array([np.ceil(at[0]), np.floor(at[1])]) / per_unit


def _grid_name(column: Column) -> str:
    return f"whole {_TICKS[column.per_day]}" if column.per_day else "whole numbers"


def _end(
    schema: Schema, j: int, place: int, key: Any, end: Any, *, upper: bool
) -> float:
    """Coded end of a range: infinite where no cell can lie beyond it."""
    column, raw = schema.columns[j], _raw(schema, j, [end])
    if KINDS[column.kind].has_levels or np.isnan(raw.numbers[0, j]):
        return float(_coded(schema, j, place, key, [end])[0])
    x = raw.numbers[:, [j]]
    if column.kind == "lognormal" and not upper and x[0, 0] <= 0.0:
        return -np.inf  # all that the column can hold lies above
    if column.per_unit:
        ends = _whole_ends(np.repeat(x, 2), column.per_unit)
        x = ends[[[1 if upper else 0]]]
    table = np.full((1, len(schema.columns)), np.nan)
    table[:, [j]] = x
    side = _drawable(schema, place, x[:, 0], schema.encode(table)[:, place])[0]
    if side == (1.0 if upper else -1.0):
        raise ValueError(
            f"A range of {key!r} meets what the column can hold by what it showed in "
            f"fit, got one that ends at {end!r}: no row can meet that."
        )
    if side:
        return np.inf if upper else -np.inf
    if column.per_unit and column.kind not in _WHOLE:
        # Draws are rounded: half a step more on either side is rounded into the range.
        table[:, [j]] = x + (0.5 if upper else -0.5) / column.per_unit
    return float(schema.encode(table)[0, place])
