"""What the user's table came in, so that answers come back in the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import numpy.typing as npt
from scipy import sparse

from skvae.table.cells import plain_level, read_objects
from skvae.table.frames import (
    Kept,
    as_objects,
    build_arrow,
    build_pandas,
    build_polars,
    cast,
    keep,
    read_column,
)
from skvae.table.raw import RawTable, TableLike

__all__ = ["Container", "is_frame"]

OBJECTS = "objects"
"""The implementation of an array of Python objects that holds more than numbers."""


def is_frame(X: Any) -> bool:
    """Whether `X` is a frame known to narwhals."""
    return _frame_of(X) is not None


def _frame_of(X: Any) -> nw.DataFrame[Any] | None:
    """Return `X` as a frame, its names checked; None for anything else."""
    if nw.dependencies.is_pandas_like_dataframe(X):
        _check_names(list(X.columns))
    elif nw.dependencies.is_pyarrow_table(X):
        _check_names(X.column_names)
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError(
            f"A table is a frame in memory, got a lazy one, {type(X).__name__} of "
            f"{type(X).__module__}. Collect it first: X.collect(), of dask X.compute()."
        )
    return frame if isinstance(frame, nw.DataFrame) else None


def _check_names(names: Sequence[Any]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"Columns of a frame have different names, got more than one of {twice}; "
            "rename or drop them."
        )


@dataclass(frozen=True)
class Container:
    """The kind of table that `fit` was given: plain values, no data.

    Attributes
    ----------
    dtypes : tuple of str
        One for an array of numbers, else one a column: NumPy's name of a type of
        numbers, "text", "category", "date" or "datetime[unit, zone]".
    implementation : str or None
        The frame library ("pandas", "polars", "pyarrow", ...), "objects" for an array
        of Python objects, a class of SciPy's sparse tables; None for other arrays.
    names : tuple
        Column names of a frame.
    native_dtypes : tuple of str
        The frame library's own names of the data types.
    levels : tuple of tuple
        Declared categories of each column in their order; () without.
    ordered : tuple of bool
        Whether the categories of a column are ordered.

    Notes
    -----
    Dates and times are read as days since 1970-01-01 UTC (times without a zone as if
    in UTC) and come back to the microsecond at best; decimal numbers come back as
    floats.

    Examples
    --------
    >>> import numpy as np
    >>> container = Container.of(np.array([[1, 2], [3, 4]]))
    >>> container.restore(np.array([[0.9, 2.2]]))
    array([[1, 2]])
    >>> people = np.array([["Ann", 31], ["Bob", None]], dtype=object)
    >>> Container.of(people).restore(Container.read(people)).tolist()
    [['Ann', 31], ['Bob', None]]
    """

    dtypes: tuple[str, ...]
    implementation: str | None = None
    names: tuple[Any, ...] = ()
    native_dtypes: tuple[str, ...] = ()
    levels: tuple[tuple[Any, ...], ...] = ()
    ordered: tuple[bool, ...] = ()

    @classmethod
    def of(cls, X: Any) -> Container:
        """Remember the container of `X`: an array-like, or a frame known to narwhals.

        Raises
        ------
        ValueError
            When columns of a frame share a name, or hold what is neither number,
            text, boolean, category nor date.
        TypeError
            When a cell of Python objects is none of these, or a frame is a lazy one.
        """
        frame = _frame_of(X)
        if frame is None:
            return cls._of_array(X)
        kept = [keep(column) for column in frame.iter_columns()]
        foreign = {
            name: own.native or str(dtype)
            for (name, dtype), own in zip(frame.schema.items(), kept, strict=True)
            if not own.dtype
        }
        if foreign:
            raise ValueError(
                "A table holds numbers, booleans, text, categories and dates, got "
                f"columns of other types: {foreign}; make them such or drop them."
            )
        categories = any(own.dtype == "category" for own in kept)
        return cls(
            dtypes=tuple(own.dtype for own in kept),
            implementation=frame.implementation.name.lower(),
            names=tuple(frame.columns),
            native_dtypes=tuple(own.native for own in kept),
            levels=tuple(own.levels for own in kept) if categories else (),
            ordered=tuple(own.ordered for own in kept) if categories else (),
        )

    @classmethod
    def _of_array(cls, X: Any) -> Container:
        if sparse.issparse(X):
            return cls((str(X.dtype),), type(X).__name__)
        table = _array_of(X)
        if table.dtype.kind in "fiub":
            return cls((str(table.dtype),))
        dtypes = tuple(cells.dtype for cells in _object_columns(table))
        if set(dtypes) <= {"bool", "int64", "float64"}:
            return cls(("float64",))
        return cls(dtypes, OBJECTS)

    @staticmethod
    def read(X: Any) -> RawTable:
        """Read the cells of a table; arrays of numbers are not copied.

        Raises
        ------
        ValueError, TypeError
            As in `of`.
        """
        frame = _frame_of(X)
        if frame is not None:
            return _read_frame(frame, Container.of(X))
        if sparse.issparse(X):
            return RawTable.of(X)
        table = _array_of(X)
        if table.dtype.kind in "fiub" or table.ndim != 2:
            return RawTable.of(table)
        columns = _object_columns(table)
        numbers = np.full(table.shape, np.nan)
        for j, cells in enumerate(columns):
            if cells.numbers is not None:
                numbers[:, j] = cells.numbers
        text = {j: c.text for j, c in enumerate(columns) if c.text is not None}
        dated = {j for j, c in enumerate(columns) if c.dtype.startswith("date")}
        return RawTable(numbers, text, moments=frozenset(dated))

    def restore(self, values: TableLike, *, like: Any = None) -> Any:
        """Return `values` in this container.

        Integers are rounded and kept within their type's range, booleans cut at one
        half, dates rounded to days. A missing value becomes null, or leaves the
        column (for an array of numbers, the array) in float64 where the container
        knows no null, and a pandas column of booleans in objects. A label that is no
        category of its column becomes null.

        Parameters
        ----------
        values : RawTable or array-like, shape (n, d)
            In the user's units.
        like : table, optional
            Of n rows; when both are pandas frames, the answer takes its index.
        """
        raw = RawTable.of(values)
        if self.implementation is None:
            return cast(raw.dense(), self.dtypes[0])
        if self._is_sparse:
            whole = cast(raw.dense(), self.dtypes[0])
            return getattr(sparse, self.implementation)(whole)
        if raw.shape[1] != len(self.dtypes):
            raise ValueError(
                f"The table has {len(self.dtypes)} columns, shape (n, "
                f"{len(self.dtypes)}), got values of shape {raw.shape}."
            )
        numbers = raw.dense()
        columns = [raw.text.get(j, numbers[:, j]) for j in range(len(self.dtypes))]
        if self.implementation == OBJECTS:
            table = np.empty(raw.shape, dtype=object)
            for j, dtype in enumerate(self.dtypes):
                table[:, j] = as_objects(columns[j], dtype)
            return table
        return self._frame(columns, self.names, self._kept(), like)

    def floats(self, values: npt.ArrayLike, *, like: Any = None) -> Any:
        """Return an array (n, d) of floats; as a frame if `like` is one.

        The frame is of the library of `like` and has its column names, and its index
        if it is a pandas frame.
        """
        table = np.asarray(values)
        if not is_frame(like):
            return table
        other = Container.of(like)
        kept = [Kept(str(table.dtype), str(table.dtype))] * len(other.names)
        return other._frame(list(table.T), other.names, kept, like)

    def complete(self, X: Any, values: RawTable, missing: npt.NDArray[np.bool_]) -> Any:
        """Return `X` in this container, with `values` in its missing cells.

        Columns without holes come back untouched, and so do the observed cells of
        others, as far as float64 holds them.

        Parameters
        ----------
        X : table, shape (n, d)
        values : RawTable, shape (n, d)
        missing : ndarray of bool, shape (n, d)
        """
        raw = Container.read(X)
        numbers = np.where(missing, values.dense(), raw.dense())
        text = {}
        for j in sorted({*values.text, *raw.text}):
            labels = _labels(raw, j)
            labels[missing[:, j]] = _labels(values, j)[missing[:, j]]
            text[j] = labels
        if self.implementation is None and raw.dtype.kind == "f":
            return numbers.astype(np.result_type(raw.dtype, self.dtypes[0]))
        done = self.restore(RawTable(numbers, text), like=X)
        if Container.of(X) != self or self.names == ():
            return done
        whole = nw.from_native(X, eager_only=True)
        names = [name for j, name in enumerate(self.names) if not missing[:, j].any()]
        frame = nw.from_native(done, eager_only=True)
        return nw.to_native(
            frame.with_columns(*(whole.get_column(name) for name in names))
        )

    def fill(self, sparse_table: RawTable, values: RawTable) -> Any:
        """Return a sparse table in this container, with `values` in missing cells.

        Parameters
        ----------
        sparse_table : RawTable, shape (n, d)
            Its missing cells are among those that are stored.
        values : RawTable, shape (n_holed, d)
            In the order of the rows with missing cells.
        """
        filled = sparse_table.numbers.tocoo(copy=True)
        holes = np.isnan(filled.data)
        rows, columns = (at[holes] for at in filled.coords)
        _, place = np.unique(rows, return_inverse=True)
        filled.data[holes] = values.numbers[place, columns]
        if not self._is_sparse:
            return self.restore(filled.toarray())
        filled.data = cast(filled.data, self.dtypes[0])
        return getattr(sparse, str(self.implementation))(filled)

    @property
    def _is_sparse(self) -> bool:
        return (
            len(self.dtypes) == 1
            and not self.names
            and hasattr(sparse, str(self.implementation))
        )

    def dtype_of(self, j: int) -> str:
        """Return the name of a column's data type, as in `dtypes`."""
        return self.dtypes[j if len(self.dtypes) > 1 else 0]

    def with_columns(
        self, table: Any, names: Sequence[Any], values: npt.NDArray[Any]
    ) -> Any:
        """Return a table of this container with columns of booleans put behind it."""
        if not len(names):
            return table
        if not self.names:
            more = values.astype(table.dtype)
            if sparse.issparse(table):
                return type(table)(sparse.hstack([table, sparse.csr_array(more)]))
            return np.hstack([table, more])
        kept = [Kept("bool", "bool")] * len(names)
        more = self._frame(list(values.astype(float).T), names, kept, table)
        added = nw.from_native(more, eager_only=True)
        frame = nw.from_native(table, eager_only=True)
        return nw.to_native(frame.with_columns(*added.iter_columns()))

    def _kept(self) -> list[Kept]:
        levels = self.levels or ((),) * len(self.dtypes)
        ordered = self.ordered or (False,) * len(self.dtypes)
        return [
            Kept(*own)
            for own in zip(
                self.dtypes, self.native_dtypes, levels, ordered, strict=True
            )
        ]

    def _frame(
        self,
        columns: Sequence[npt.NDArray[Any]],
        names: Sequence[Any],
        kept: Sequence[Kept],
        like: Any,
    ) -> Any:
        """Build a frame of this library."""
        implementation = nw.Implementation.from_string(str(self.implementation))
        library: Any = implementation.to_native_namespace()
        if implementation.is_pandas_like():
            build = build_pandas
        else:
            build = build_polars if implementation.is_polars() else build_arrow
        own = [build(library, x, k) for x, k in zip(columns, kept, strict=True)]
        if implementation.is_pyarrow():
            return library.table(own, names=list(names))
        if implementation.is_polars():
            return library.DataFrame(dict(zip(names, own, strict=True)))
        frame = library.DataFrame(dict(enumerate(own)))
        frame.columns = list(names)
        if nw.dependencies.is_pandas_like_dataframe(like):
            frame.index = like.index
        return frame


def _read_frame(frame: nw.DataFrame[Any], container: Container) -> RawTable:
    narrow = set(container.dtypes) <= {"float32"}
    numbers = np.empty(frame.shape, dtype=np.float32 if narrow else np.float64)
    text, categories, ordered = {}, {}, set()
    for j, column in enumerate(frame.iter_columns()):
        cells = read_column(column)
        numbers[:, j] = np.nan if cells.numbers is None else cells.numbers
        if cells.text is not None:
            text[j] = cells.text
        if container.dtypes[j] == "category":
            categories[j] = container.levels[j]
            if container.ordered[j]:
                ordered.add(j)
    dated = {j for j, own in enumerate(container.dtypes) if own.startswith("date")}
    return RawTable(numbers, text, categories, frozenset(ordered), frozenset(dated))


def _array_of(X: Any) -> npt.NDArray[Any]:
    """Return an array-like as an array in which numbers beside text stay numbers."""
    table = np.asarray(X)
    if table.dtype.kind in "US" and not hasattr(X, "dtype"):
        return np.array(X, dtype=object)
    return table


def _object_columns(table: npt.NDArray[Any]) -> list[Any]:
    if table.ndim != 2:
        RawTable.of(table)  # says what a table is
    return [read_objects(column, f"column {j}") for j, column in enumerate(table.T)]


def _labels(raw: RawTable, j: int) -> npt.NDArray[np.object_]:
    """Return a copy of a column as labels, numbers among them."""
    if j in raw.text:
        return raw.text[j].copy()
    labels = np.empty(len(raw), dtype=object)
    labels[:] = [None if x != x else plain_level(x) for x in raw.numbers[:, j].tolist()]
    return labels
