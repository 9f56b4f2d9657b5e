"""A table as the model sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skvae.model.rows import Coded, OnDemand, blocks, take_rows


@dataclass(frozen=True)
class CodedTable:
    """A table as the model sees it.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns) or OnDemand
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,) or None
    kinds : tuple of str of length n_columns
    units : ndarray of shape (n_columns,)
        Size of one coded unit in the user's units, up to a common factor.
    resolution : ndarray of shape (n_columns,)
        Smallest step of each column, coded units.
    levels : tuple of tuple of float
        Shares of the codes of each column that has levels.
    centre, scale : ndarray of shape (n_columns,) or None
        Of the codes of an ordinal column, of log1p of a count.
    """

    values: Coded
    weight: np.ndarray | None
    kinds: tuple[str, ...]
    units: np.ndarray
    resolution: np.ndarray
    levels: tuple[tuple[float, ...], ...] = ()
    centre: np.ndarray | None = None
    scale: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> CodedTable:
        """Some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return replace(self, values=take_rows(self.values, rows), weight=weight)

    def without(self, rows: np.ndarray) -> CodedTable:
        """All rows but some."""
        if not len(rows):
            return self
        left = np.ones(len(self.values), dtype=bool)
        left[rows] = False
        return self.take(left)

    @property
    def array(self) -> np.ndarray:
        """All values, shape (n_rows, n_columns)."""
        values = self.values
        return values.made() if isinstance(values, OnDemand) else values

    @property
    def holed(self) -> np.ndarray:
        """Whether a cell of a column is missing, bool (n_columns,)."""
        found = np.zeros(len(self.kinds), dtype=bool)
        if isinstance(self.values, OnDemand) and self.values.whole:
            return found
        for _, part in blocks(self.values):
            found |= np.isnan(part).any(axis=0)
        return found
