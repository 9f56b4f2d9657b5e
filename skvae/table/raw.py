"""A table read cell by cell: numbers, and labels where a column holds text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse

__all__ = ["BLOCK_ROWS", "RawTable", "TableLike", "as_floats"]

TableLike: TypeAlias = "RawTable | npt.ArrayLike"
"""What table functions take: a `RawTable`, an array of numbers, a sparse matrix."""


BLOCK_ROWS = 65_536
"""Rows read or coded at a time: temporaries then stay small beside the table."""


@dataclass(frozen=True, eq=False)
class RawTable:
    """The cells of a table, whatever it came in.

    Attributes
    ----------
    numbers : ndarray or scipy.sparse.csr_array, shape (n, d)
        Real numbers and booleans; dates as days since 1970-01-01 UTC. NaN where a
        cell is missing or its column holds text. A sparse table holds numbers only.
    text : dict of int to ndarray of object, shape (n,)
        Labels of the columns that hold any text, by position; None where missing.
        A label is text or, beside text, a number.
    categories : dict of int to tuple
        Levels in the order of their data type, for the columns that have one;
        () where the type has none.
    ordered : frozenset of int
        Columns whose categories are ordered.
    moments : frozenset of int
        Columns of dates and times.

    Examples
    --------
    >>> raw = RawTable.of([[1.0, 2.0], [float("nan"), 3.0]])
    >>> raw.shape, raw.missing().tolist()
    ((2, 2), [[False, False], [True, False]])
    """

    numbers: Any
    text: Mapping[int, npt.NDArray[np.object_]] = field(default_factory=dict)
    categories: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    ordered: frozenset[int] = frozenset()
    moments: frozenset[int] = frozenset()

    @classmethod
    def of(cls, X: TableLike) -> RawTable:
        """Wrap numbers without a copy; a `RawTable` is returned as it is.

        Raises
        ------
        ValueError
            For anything that is not two-dimensional.
        """
        if isinstance(X, RawTable):
            return X
        numbers = csr_array(X) if issparse(X) else np.asarray(X)
        if numbers.ndim != 2:
            raise ValueError(
                "A table has two dimensions (rows, columns), got shape "
                f"{numbers.shape}. Reshape a single column with X.reshape(-1, 1)."
            )
        return cls(numbers)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        n, d = self.numbers.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the numbers."""
        dtype: np.dtype[Any] = self.numbers.dtype
        return dtype

    @property
    def is_sparse(self) -> bool:
        """Whether the numbers are sparse."""
        return bool(issparse(self.numbers))

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: Any) -> RawTable:
        """Return some rows: a slice, positions or a mask. Slices copy nothing."""
        text = {j: labels[rows] for j, labels in self.text.items()}
        places = isinstance(rows, np.ndarray) and rows.dtype.kind == "i"
        if places and not self.is_sparse:  # in half the time of indexing
            return replace(self, numbers=self.numbers.take(rows, axis=0), text=text)
        return replace(self, numbers=self.numbers[rows], text=text)

    def dense(self) -> npt.NDArray[Any]:
        """Return the numbers as an array; a copy only where they are sparse."""
        return self.numbers.toarray() if self.is_sparse else self.numbers

    def column(self, j: int) -> npt.NDArray[Any]:
        """Return the labels of a column, or its numbers as float64, shape (n,)."""
        if j in self.text:
            return self.text[j]
        cells = self.numbers[:, [j]].toarray() if self.is_sparse else self.numbers
        return as_floats(cells[:, 0 if self.is_sparse else j])

    def missing(self, columns: Any = slice(None)) -> npt.NDArray[np.bool_]:
        """Tell which cells of some columns are missing, shape (n, n_columns)."""
        if self.is_sparse:
            return np.isnan(self.numbers[:, columns].toarray())
        if self.dtype.kind != "f":
            holes = np.zeros(self.shape, dtype=bool)
        else:
            holes = np.isnan(self.numbers)
        for j, labels in self.text.items():
            holes[:, j] = labels == None  # noqa: E711 (cell by cell)
        return holes[:, columns]

    def holed(self, axis: int) -> npt.NDArray[np.bool_]:
        """Tell which columns (axis 0) or rows (axis 1) hold a missing cell."""
        if not self.is_sparse:
            starts = range(0, max(len(self), 1), BLOCK_ROWS)
            blocks = (self.take(slice(start, start + BLOCK_ROWS)) for start in starts)
            holes = [block.missing().any(axis=axis) for block in blocks]
            return np.concatenate(holes) if axis else np.any(holes, axis=0)
        stored = self.numbers.tocoo()
        found = np.zeros(self.shape[1 - axis], dtype=bool)
        found[stored.coords[1 - axis][np.isnan(stored.data)]] = True
        return found


def as_floats(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return numbers as float64, without a copy where they are."""
    return numbers.astype(np.float64, copy=False)
