"""What the user's table came in, so that answers come back in the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import numpy.typing as npt

__all__ = ["Container"]

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
}
"""NumPy's data types of numbers, and those of frames."""

NUMPY_NAMES = {str(dtype): name for name, dtype in NARWHALS_TYPES.items()}
# Object columns may hold numbers beside None; reading them tells.
NUMPY_NAMES["Object"] = "float64"


@dataclass(frozen=True)
class Container:
    """The kind of table that `fit` was given: plain strings, no data.

    Attributes
    ----------
    dtypes : tuple of str
        NumPy names of the data types: one for an array, one a column for a frame.
    implementation : str or None
        The frame library ("pandas", "polars", "pyarrow", ...); None for an array.
    names : tuple
        Column names of a frame.
    native_dtypes : tuple of str
        The frame library's own names of the data types, where it has several for
        one type of number (pandas: "int64", "Int64", "int64[pyarrow]").

    Examples
    --------
    >>> import numpy as np
    >>> container = Container.of(np.array([[1, 2], [3, 4]]))
    >>> container.restore(np.array([[0.9, 2.2]]))
    array([[1, 2]])
    """

    dtypes: tuple[str, ...]
    implementation: str | None = None
    names: tuple[Any, ...] = ()
    native_dtypes: tuple[str, ...] = ()

    @classmethod
    def of(cls, X: Any) -> Container:
        """Remember the container of `X`: an array-like, or a frame known to narwhals.

        Raises
        ------
        ValueError
            When a column of a frame holds neither numbers nor booleans.
        """
        frame = nw.from_native(X, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            return cls((_array_dtype(X),))
        held = {name: str(dtype) for name, dtype in frame.schema.items()}
        foreign = {name: d for name, d in held.items() if d not in NUMPY_NAMES}
        if foreign:
            raise ValueError(
                "A table holds numbers and booleans only, got columns of other types: "
                f"{foreign}; encode them as numbers or drop them."
            )
        pandas_like = frame.implementation.is_pandas_like()
        return cls(
            dtypes=tuple(NUMPY_NAMES[dtype] for dtype in held.values()),
            implementation=frame.implementation.name.lower(),
            names=tuple(held),
            native_dtypes=tuple(map(str, nw.to_native(frame).dtypes))
            if pandas_like
            else (),
        )

    @staticmethod
    def to_array(X: Any) -> npt.NDArray[Any]:
        """Return a frame's values as (n, d) floats, missing = NaN; arrays as they are.

        Raises
        ------
        ValueError
            When a column of a frame holds neither numbers nor booleans.
        """
        frame = nw.from_native(X, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            return np.asarray(X)
        kept = set(Container.of(X).dtypes)
        floats = np.float32 if kept == {"float32"} else np.float64
        values = np.empty(frame.shape, dtype=floats)
        for j, column in enumerate(frame.iter_columns()):
            values[:, j] = column.cast(nw.Float64()).to_numpy()
        return values

    def restore(self, values: npt.ArrayLike, *, like: Any = None) -> Any:
        """Return `values` in this container.

        Integers are rounded and kept within their type's range, booleans cut at one
        half. A missing value (NaN) in them becomes null, or leaves the column (for
        an array, the array) in float64 where the container knows no null.

        Parameters
        ----------
        values : array-like, shape (n, d)
            In the user's units.
        like : table, optional
            Of n rows; when both are pandas frames, the answer takes its index.
        """
        table = np.asarray(values)
        if self.implementation is None:
            return _cast(table, self.dtypes[0])
        if table.ndim != 2 or table.shape[1] != len(self.names):
            raise ValueError(
                f"The frame has {len(self.names)} columns, shape (n, "
                f"{len(self.names)}), got values of shape {table.shape}."
            )
        columns = {
            name: _cast(table[:, j], dtype)
            for j, (name, dtype) in enumerate(zip(self.names, self.dtypes, strict=True))
        }
        backend: Any = self.implementation
        if self.native_dtypes:
            frame = nw.from_dict(columns, backend=backend)
            return self._as_pandas(nw.to_native(frame), like)
        held = dict(zip(self.names, self.dtypes, strict=True))
        cells = {name: _with_nulls(columns[name], held[name]) for name in columns}
        schema = {name: NARWHALS_TYPES[dtype] for name, dtype in held.items()}
        return nw.to_native(nw.from_dict(cells, schema, backend=backend))

    def _as_pandas(self, native: Any, like: Any) -> Any:
        """Give a pandas frame the dtypes that NumPy lacks, and the index of `like`."""
        own = zip(self.names, self.native_dtypes, self.dtypes, strict=True)
        # Others are right already, or NaN has no place in them.
        casts = {name: to for name, to, dtype in own if to not in (dtype, "object")}
        cast = native.astype(casts) if casts else native
        if nw.dependencies.is_pandas_like_dataframe(like):
            cast.index = like.index
        return cast


def _array_dtype(X: Any) -> str:
    """Return the NumPy name of an array's numbers; float64 for any other content."""
    dtype = X.dtype if hasattr(X, "dtype") else np.asarray(X).dtype
    numeric = isinstance(dtype, np.dtype) and dtype.kind in "fiub"
    return str(dtype) if numeric else "float64"


def _cast(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Cast as `Container.restore` tells; float64 if NaN has no place in `dtype`."""
    target = np.dtype(dtype)
    if target.kind == "f":
        return values.astype(target, copy=False)
    holes = np.isnan(values)
    cells = _whole(np.where(holes, 0.0, values), target)
    return np.where(holes, np.nan, cells) if holes.any() else cells


def _with_nulls(column: npt.NDArray[Any], dtype: str) -> Any:
    """Spell out a column that `_cast` left in float64 for its holes."""
    if column.dtype == dtype:
        return column
    item = np.dtype(dtype).type
    return [None if np.isnan(value) else item(value).item() for value in column]


def _whole(values: npt.NDArray[Any], target: np.dtype[Any]) -> npt.NDArray[Any]:
    if target.kind == "b":
        return np.greater_equal(values, 0.5)
    bounds = np.iinfo(target)
    # The largest 64-bit integers are not floats: stop at the float below them.
    high = float(bounds.max) if bounds.bits < 64 else np.nextafter(bounds.max, 0.0)
    return np.clip(np.rint(values), float(bounds.min), high).astype(target)
