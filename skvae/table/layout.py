"""How the columns of a table lie in its coded array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from skvae.table.columns import Column
from skvae.table.kinds import DENSITIES, KINDS, Coding
from skvae.table.levels import Codebook

__all__ = ["Group", "Layout", "Levels", "frozen"]

Array = npt.NDArray[np.float64]
T = TypeVar("T", bound=np.generic)


class Group(NamedTuple):
    """Columns that are coded together: their place in the table and when coded."""

    coding: Coding
    place: slice | npt.NDArray[np.intp]
    coded_place: slice | npt.NDArray[np.intp]
    positions: npt.NDArray[np.intp]
    centre: Array
    scale: Array
    low: Array


class Levels(NamedTuple):
    """A column of levels: its place in the table and when coded."""

    position: int
    coded: int
    book: Codebook
    is_text: bool


class Layout:
    """Columns as arrays, and the coded ones by their coding.

    Loops run over codings, and over columns only where these have levels.

    Attributes
    ----------
    centre, scale : ndarray, shape (d,)
        Of all columns.
    active : ndarray of int, shape (n_active,)
        Positions of the coded columns, one density after the other.
    densities : tuple of str
        Of the coded columns.
    groups : tuple of Group
        Coded columns of numbers.
    levels : tuple of Levels
        Coded columns of levels.
    text_constants : tuple of (int, str)
        Position and text of the columns that hold a single one.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.centre = np.array([own.centre for own in columns], dtype=np.float64)
        self.scale = np.array([own.scale for own in columns], dtype=np.float64)
        order = {density: i for i, density in enumerate(DENSITIES)}
        rank = {kind: i for i, kind in enumerate(KINDS)}
        places = sorted(
            (order[_density(own)], rank[own.kind], j)
            for j, own in enumerate(columns)
            if KINDS[own.kind].modelled
        )
        self.active = frozen(np.array([j for _, _, j in places], dtype=np.intp))
        self.densities = tuple(_density(columns[j]) for j in self.active)
        self.groups = self._grouped(columns)
        self.levels = tuple(
            Levels(j, at, _book(own), own.is_text)
            for at, j in enumerate(self.active.tolist())
            if KINDS[(own := columns[j]).kind].has_levels
        )
        self.text_constants = tuple(
            (j, own.levels[0])
            for j, own in enumerate(columns)
            if own.kind == "constant" and own.is_text
        )

    def _grouped(self, columns: Sequence[Column]) -> tuple[Group, ...]:
        codings = [KINDS[columns[j].kind] for j in self.active]
        low = np.array([own.low for own in columns], dtype=np.float64)
        groups = []
        for coding in dict.fromkeys(codings):
            at = np.flatnonzero([other is coding for other in codings])
            j = self.active[at]
            if not coding.has_levels:
                own = self.centre[j], self.scale[j], low[j]
                groups.append(Group(coding, _span(j), _span(at), j, *own))
        return tuple(groups)


def _book(column: Column) -> Codebook:
    return Codebook(column.levels, column.shares, column.n_rare, column.unlearned)


def _density(column: Column) -> str:
    """Return the model's name for the distribution of a column's codes."""
    return column.density or KINDS[column.kind].density


def _span(positions: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    """Return neighbouring positions as a slice: indexing then makes no copy."""
    if (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return an array that all who ask for it may share."""
    array.flags.writeable = False  # shared by all who ask
    return array
