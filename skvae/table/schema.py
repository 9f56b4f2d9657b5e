"""What every column of a table is, and how it is coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from skvae.table.kinds import (
    KINDS,
    SCALINGS,
    Coding,
    check_observed,
    resolve_kinds,
    tolerance,
)
from skvae.table.statistics import Statistics, relative_rounding

__all__ = ["Column", "Schema"]

Array = npt.NDArray[np.float64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Column:
    """What one column is: plain values, in the user's units.

    Attributes
    ----------
    name : str or None
        Its name, if the table had names.
    kind : str
        A key of `KINDS`.
    centre, scale : float
        Of its coding: (x - centre) / scale for continuous kinds, 0 and 1 for
        masses; of a constant, its value and the distance that counts as equal.
    resolution : float
        Smallest step between distinct observed values; 0 where unknown.
    low, high : float
        Observed bounds.
    levels : tuple
        Categories, of the kinds that have them.
    """

    name: str | None
    kind: str
    centre: float
    scale: float
    resolution: float
    low: float
    high: float
    levels: tuple[Any, ...] = ()


class _Group(NamedTuple):
    """Columns that are coded together: their place in the table and when coded."""

    coding: Coding
    place: slice | npt.NDArray[np.intp]
    coded_place: slice | npt.NDArray[np.intp]
    centre: Array
    scale: Array


@dataclass(frozen=True)
class Schema:
    """A table's columns, and the way from table to coded array and back.

    Coded arrays hold the columns that vary (`active`), as float64, NaN = missing.
    A schema is a value: schemas of equal columns are equal, and pickles of equal
    schemas are too.

    Parameters
    ----------
    columns : tuple of Column

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0, 7.0], [3.0, 1.0, 7.0], [np.nan, 1.0, 7.0]])
    >>> schema = Schema.learn(X)
    >>> schema.kinds
    ('gaussian', 'bernoulli')
    >>> schema.encode(X)
    array([[-1.,  0.],
           [ 1.,  1.],
           [nan,  1.]])
    >>> schema.decode(np.array([[0.0, 1.0]]))
    array([[2., 1., 7.]])
    """

    columns: tuple[Column, ...]

    @classmethod
    def learn(
        cls,
        X: npt.ArrayLike,
        *,
        names: Sequence[str] | None = None,
        likelihood: str | Mapping[Any, str] = "auto",
        continuous: str = "gaussian",
        sample_weight: npt.ArrayLike | None = None,
        scaling: str = "standard",
    ) -> Schema:
        """Learn the schema of a numeric table.

        Parameters
        ----------
        X : array-like of real numbers, shape (n, d)
            NaN cells are missing.
        names : sequence of str, length d, optional
        likelihood : str or dict, default="auto"
            "gaussian", "student_t" or "bernoulli" for all columns, or a dict
            {name or position: kind} whose absent columns are "auto": bernoulli for
            columns of 0 and 1 only, `continuous` for the others. Columns of a
            single value, up to rounding, are constant whatever is asked.
        continuous : str, default="gaussian"
            What "auto" takes for columns of real numbers.
        sample_weight : array-like, shape (n,), optional
            Weights >= 0 of the rows.
        scaling : {"standard", "robust"}, default="standard"
            Weighted mean and standard deviation; or median and a ninetieth
            percentile range worth one standard deviation of a normal variable.

        Raises
        ------
        ValueError
            For an unknown kind, column or scaling, a kind that does not fit its
            column, a column or table without any observed cell.
        TypeError
            For a likelihood that is neither a str nor a dict.
        """
        return cls.from_statistics(
            Statistics.of(X, sample_weight),
            names=names,
            likelihood=likelihood,
            continuous=continuous,
            scaling=scaling,
        )

    @classmethod
    def from_statistics(
        cls,
        statistics: Statistics,
        *,
        names: Sequence[str] | None = None,
        likelihood: str | Mapping[Any, str] = "auto",
        continuous: str = "gaussian",
        scaling: str = "standard",
    ) -> Schema:
        """Learn the schema from (merged) statistics; arguments as in `learn`."""
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is one of {list(SCALINGS)}, got {scaling!r}.")
        d = len(statistics.mean)
        labels = [None] * d if names is None else [str(name) for name in names]
        if len(labels) != d:
            raise ValueError(
                f"names holds one name a column, {d} in all, got {len(labels)}."
            )
        check_observed(statistics, labels)
        kinds = resolve_kinds(statistics, labels, likelihood, continuous)
        learned = {k: KINDS[k].learn(statistics, scaling) for k in set(kinds)}
        resolution = statistics.resolution()
        columns = []
        for j, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
            centre, scale = learned[kind]
            column = Column(
                name=label,
                kind=kind,
                centre=float(centre[j]),
                scale=float(scale[j]),
                resolution=float(resolution[j]),
                low=float(statistics.low[j]),
                high=float(statistics.high[j]),
            )
            columns.append(column)
        return cls(tuple(columns))

    def __getstate__(self) -> dict[str, Any]:
        # Cached arrays stay out of pickles, so that these tell the value alone.
        return {"columns": self.columns}

    @cached_property
    def active(self) -> npt.NDArray[np.intp]:
        """Positions of the coded columns in the table, shape (n_active,).

        Columns of one kind stand together, so that a model can slice them.
        """
        rank = {kind: i for i, kind in enumerate(KINDS)}
        kinds = [column.kind for column in self.columns]
        grouped = np.argsort([rank[kind] for kind in kinds], kind="stable")
        return _frozen(grouped[[KINDS[kinds[j]].modelled for j in grouped]])

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the coded columns, length n_active."""
        return tuple(self.columns[j].kind for j in self.active)

    @cached_property
    def log_jacobian(self) -> Array:
        """Add to a coded log-density for one in the user's units, (n_active,)."""
        result = np.zeros(len(self.active))
        for group in self._groups:
            result[group.coded_place] = group.coding.log_jacobian(
                group.centre, group.scale
            )
        return _frozen(result)

    def encode(self, X: npt.ArrayLike) -> Array:
        """Code a table (n, d) as an array (n, n_active); missing cells stay NaN."""
        table = self._checked(X, len(self.columns), "A table")
        coded = np.empty((len(table), len(self.active)))
        for group in self._groups:
            x = table[:, group.place].astype(np.float64, copy=False)
            coded[:, group.coded_place] = group.coding.encode(
                x, group.centre, group.scale
            )
        return coded

    def decode(self, coded: npt.ArrayLike) -> Array:
        """Bring coded values (n, n_active) back to the user's table (n, d).

        Constant columns hold their value; nothing is clipped.
        """
        values = self._checked(coded, len(self.active), "A coded table")
        table = np.tile(self._centre, (len(values), 1))
        for group in self._groups:
            y = values[:, group.coded_place].astype(np.float64, copy=False)
            table[:, group.place] = group.coding.decode(y, group.centre, group.scale)
        return table

    def unseen_log_mass(self, X: npt.ArrayLike) -> Array:
        """Return the log-mass of cells that their column never showed, shape (n, d).

        Such are the cells that differ from a constant column's value, and those of a
        0/1 column that are neither: minus the logarithm of their distance in units of
        rounding, finite, growing with the distance, and the same in any unit of a
        constant other than 0. Zero for all other cells and where a cell is missing.
        """
        table = self._checked(X, len(self.columns), "A table")
        mass = np.zeros(table.shape)
        kinds = np.array([column.kind for column in self.columns])
        at = np.flatnonzero(np.isin(kinds, ("constant", "bernoulli")))
        x = table[:, at].astype(np.float64)
        binary = kinds[at] == "bernoulli"
        known = np.where(binary, np.clip(np.rint(x), 0.0, 1.0), self._centre[at])
        # A constant learned in float64 is met by its float32 neighbour too.
        rounding = relative_rounding(table.dtype)
        equal = tolerance(np.where(binary, 1.0, self._centre[at]), rounding)
        equal = np.where(binary, equal, np.maximum(self._scale[at], equal))
        mass[:, at] = np.log(equal) - np.log(np.fmax(np.abs(x - known), equal))
        return mass

    @cached_property
    def _centre(self) -> Array:
        return np.array([column.centre for column in self.columns], dtype=np.float64)

    @cached_property
    def _scale(self) -> Array:
        return np.array([column.scale for column in self.columns], dtype=np.float64)

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        """Coded columns by coding: loops run over codings, never over columns."""
        codings = [KINDS[kind] for kind in self.kinds]
        groups = []
        for coding in dict.fromkeys(codings):
            at = np.flatnonzero([other is coding for other in codings])
            place = self.active[at]
            centre, scale = self._centre[place], self._scale[place]
            groups.append(_Group(coding, _span(place), _span(at), centre, scale))
        return tuple(groups)

    @staticmethod
    def _checked(X: npt.ArrayLike, width: int, what: str) -> npt.NDArray[Any]:
        table = np.asarray(X)
        if table.ndim != 2 or table.shape[1] != width:
            raise ValueError(
                f"{what} of this schema has {width} columns, shape (n, {width}), "
                f"got shape {table.shape}."
            )
        return table


def _span(positions: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    """Return neighbouring positions as a slice: indexing then makes no copy."""
    if (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    array.flags.writeable = False  # shared by all who ask
    return array
