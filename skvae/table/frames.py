"""Columns of frames: read as cells, and built again as they were."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import numpy.typing as npt

from skvae.table.cells import (
    DAY_NANOSECONDS,
    NANOSECONDS,
    Cells,
    days_of,
    plain_level,
    read_objects,
)

__all__ = ["Kept", "build_arrow", "build_pandas", "build_polars", "keep", "read_column"]

NARWHALS_TYPES: dict[str, Any] = {
    "bool": nw.Boolean(),
    "int8": nw.Int8(),
    "int16": nw.Int16(),
    "int32": nw.Int32(),
    "int64": nw.Int64(),
    "uint8": nw.UInt8(),
    "uint16": nw.UInt16(),
    "uint32": nw.UInt32(),
    "uint64": nw.UInt64(),
    "float32": nw.Float32(),
    "float64": nw.Float64(),
    "text": nw.String(),
    "date": nw.Date(),
}
"""Names of the data types that a column is remembered by, and those of frames."""

NAMES = {str(dtype): name for name, dtype in NARWHALS_TYPES.items()}
NAMES["Decimal"] = "float64"
NUMBERS = {name for name in NARWHALS_TYPES if name not in ("text", "date")}

_MOMENT = re.compile(r"datetime\[(\w+)(?:, (.+))?\]")
_DICTIONARY = re.compile(r"dictionary<values=(\w+), indices=(\w+), ordered=(\d)>")


class Kept(NamedTuple):
    """What a column is remembered by.

    Attributes
    ----------
    dtype : str
        NumPy's name of a type of numbers, "text", "category", "date" or
        "datetime[unit, zone]"; "" for any other type.
    native : str
        The frame library's own name, where building the column takes it.
    levels : tuple
        Categories in their order.
    ordered : bool
    """

    dtype: str
    native: str = ""
    levels: tuple[Any, ...] = ()
    ordered: bool = False


def keep(column: nw.Series[Any]) -> Kept:
    """Remember what a column of a frame was."""
    pandas_like = column.implementation.is_pandas_like()
    native = nw.to_native(column)
    own = str(getattr(native, "dtype", getattr(native, "type", "")))
    dtype = column.dtype
    if isinstance(dtype, nw.Datetime):
        zone = "" if dtype.time_zone is None else f", {dtype.time_zone}"
        return Kept(f"datetime[{dtype.time_unit}{zone}]", own)
    if isinstance(dtype, (nw.Categorical, nw.Enum)):
        if pandas_like and hasattr(native, "cat") and own == "category":
            own = f"category[{native.cat.categories.dtype}]"
            ordered = bool(native.cat.ordered)
        else:
            ordered = own.endswith("ordered=1>")
        return Kept("category", own, _levels(column), ordered)
    if isinstance(dtype, nw.Object):
        found = read_objects(column.to_list(), repr(column.name)).dtype
        return Kept("datetime[us]" if found == "datetime" else found, "object")
    if own == "string" and pandas_like:
        own = (
            f"string[{native.dtype.storage}]"  # the name leaves out what it differs by
        )
    return Kept(NAMES.get(str(dtype).split("(")[0], ""), own)


def _levels(column: nw.Series[Any]) -> tuple[Any, ...]:
    """Return the declared categories; () where the type declares none."""
    native = nw.to_native(column)
    if column.implementation.is_pandas_like() and str(native.dtype) == "category":
        found = native.cat.categories.tolist()
    elif column.implementation.is_pyarrow():
        chunks = native.unify_dictionaries().chunks
        found = chunks[0].dictionary.to_pylist() if chunks else []
    else:
        found = list(getattr(column.dtype, "categories", ()))
    read_objects(found, f"the categories of {column.name!r}")  # refuses other types
    return tuple(plain_level(level) for level in found)


def read_column(column: nw.Series[Any]) -> Cells:
    """Read a column of a frame; its type is one that `keep` knows."""
    label = repr(column.name)
    name = NAMES.get(str(column.dtype).split("(")[0], "")
    if name in NUMBERS:
        return Cells(name, numbers=column.cast(nw.Float64()).to_numpy())
    if isinstance(column.dtype, (nw.Datetime, nw.Date)):
        moments = column.to_numpy()
        if moments.dtype.kind == "M":
            return Cells("datetime", numbers=days_of(moments))
        return read_objects(column.to_list(), label)
    return read_objects(column.to_list(), label)


def build_pandas(library: Any, cells: npt.NDArray[Any], kept: Kept) -> Any:
    """Return a pandas Series of floats (NaN = missing) or labels (None = missing)."""
    if kept.dtype == "category" and kept.native.startswith("category"):
        own = library.Index(kept.levels, dtype=kept.native[len("category[") : -1])
        dtype = library.CategoricalDtype(own, ordered=kept.ordered)
        codes = _codes(cells, kept.levels)
        return library.Series(library.Categorical.from_codes(codes, dtype=dtype))
    if kept.native == "object":
        return library.Series(as_objects(cells, kept.dtype), dtype=object)
    moment = _MOMENT.fullmatch(kept.dtype)
    if moment:
        unit, zone = moment.groups()
        series = library.Series(_moments(cells, unit))
        if zone is not None:
            series = series.dt.tz_localize("UTC").dt.tz_convert(zone)
        return series.astype(kept.native)
    if kept.dtype in NUMBERS:
        values = cast(cells, kept.dtype)
        if kept.native == "bool" and values.dtype != bool:
            # As pandas itself holds booleans with holes.
            values = as_objects(cells, "bool")
        series = library.Series(values)
        # Others are right already, or what is missing has no place in them.
        return series if kept.native == kept.dtype else series.astype(kept.native)
    objects = as_objects(cells, kept.dtype)
    return library.Series(objects, dtype=object).astype(kept.native)


def build_polars(library: Any, cells: npt.NDArray[Any], kept: Kept) -> Any:
    """Return a polars Series; arguments as in `build_pandas`."""
    moment = _MOMENT.fullmatch(kept.dtype)
    if moment:
        unit, zone = moment.groups()
        whole = library.Series(_integers(cells, unit), dtype=library.Int64)
        return whole.cast(library.Datetime(unit, zone))
    if kept.dtype == "category":
        text = library.Series(as_objects(cells, "text").tolist(), dtype=library.String)
        known = text.is_in(list(kept.levels)) if kept.levels else None
        if known is None:
            return text.cast(library.Categorical)
        text = library.select(library.when(known).then(text)).to_series()
        return text.cast(library.Enum(list(kept.levels)))
    names = {"text": "String", "bool": "Boolean", "date": "Date"}
    name = names.get(kept.dtype) or str(NARWHALS_TYPES[kept.dtype])
    values = as_objects(cells, kept.dtype)
    if kept.dtype in NUMBERS:
        values = cast(cells, kept.dtype)
        if str(values.dtype) != kept.dtype:  # its holes left it in float64
            values = as_objects(cells, kept.dtype)
    if values.dtype == object:
        return library.Series(values.tolist(), dtype=getattr(library, name))
    return library.Series(values)


def build_arrow(library: Any, cells: npt.NDArray[Any], kept: Kept) -> Any:
    """Return a pyarrow array; arguments as in `build_pandas`."""
    moment = _MOMENT.fullmatch(kept.dtype)
    if moment:
        unit, zone = moment.groups()
        whole = library.array(_integers(cells, unit), type=library.int64())
        return whole.cast(library.timestamp(unit, zone))
    dictionary = _DICTIONARY.fullmatch(kept.native)
    if dictionary:
        values, indices, _ = dictionary.groups()
        codes = _codes(cells, kept.levels)
        return library.DictionaryArray.from_arrays(
            library.array(codes, type=_arrow(library, indices), mask=codes < 0),
            library.array(kept.levels, type=_arrow(library, values)),
            ordered=kept.ordered,
        )
    values = cast(cells, kept.dtype) if kept.dtype in NUMBERS else None
    if values is None or str(values.dtype) != kept.dtype:
        values = as_objects(cells, kept.dtype).tolist()
    if kept.dtype == "float64":
        return library.array(values, type=library.float64())
    return library.array(values, type=_arrow(library, kept.native))


def _arrow(library: Any, name: str) -> Any:
    # Arrow prints one of its types by a name that it reads as no other.
    return library.type_for_alias(name)


def cast(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Cast floats to numbers; float64 if NaN has no place in `dtype`."""
    target = np.dtype(dtype)
    if target.kind == "f":
        return values.astype(target, copy=False)
    holes = np.isnan(values)
    cells = _whole(np.where(holes, 0.0, values), target)
    return np.where(holes, np.nan, cells) if holes.any() else cells


def as_objects(cells: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.object_]:
    """Return cells as Python objects, None where missing; NaN stays in floats."""
    result = np.empty(cells.shape, dtype=object)
    if cells.dtype == object or dtype.startswith("float"):
        result[:] = cells.tolist()
        return result
    holes = np.isnan(cells)
    filled = np.where(holes, 0.0, cells)
    if dtype == "date":
        plain = np.rint(filled).astype("datetime64[D]")
    elif dtype.startswith("datetime"):
        plain = _moments(filled, "us")
    elif dtype in ("category", "text"):
        result[:] = [plain_level(value) for value in filled]
        result[holes] = None
        return result
    else:
        plain = _whole(filled, np.dtype(dtype))
    result[:] = plain.tolist()
    result[holes] = None
    return result


def _whole(values: npt.NDArray[Any], target: np.dtype[Any]) -> npt.NDArray[Any]:
    if target.kind == "b":
        return np.greater_equal(values, 0.5)
    bounds = np.iinfo(target)
    # The largest 64-bit integers are not floats: stop at the float below them.
    high = float(bounds.max) if bounds.bits < 64 else np.nextafter(bounds.max, 0.0)
    return np.clip(np.rint(values), float(bounds.min), high).astype(target)


def _moments(days: npt.NDArray[Any], unit: str) -> npt.NDArray[Any]:
    """Return days since 1970-01-01 as datetime64, to the microsecond at best.

    Days in float64 tell times of this century to about 0.3 microseconds.
    """
    holes = np.isnan(days)
    exact = "us" if unit == "ns" else unit
    per_day = DAY_NANOSECONDS // NANOSECONDS[exact]
    ticks = np.rint(np.where(holes, 0.0, days) * per_day).astype(np.int64)
    moments = ticks.astype(f"datetime64[{exact}]").astype(f"datetime64[{unit}]")
    moments[holes] = np.datetime64("NaT")
    return moments


def _integers(days: npt.NDArray[Any], unit: str) -> list[int | None]:
    moments = _moments(days, unit)
    ticks = moments.astype(np.int64).tolist()
    return [None if hole else t for t, hole in zip(ticks, np.isnat(moments))]


def _codes(cells: npt.NDArray[Any], levels: tuple[Any, ...]) -> npt.NDArray[np.intp]:
    """Return the places of labels among `levels`, -1 for None, NaN and unknown ones."""
    places = {level: i for i, level in enumerate(levels)}
    found = [places.get(cell, -1) for cell in cells.tolist()]
    return np.array(found, dtype=np.intp)
