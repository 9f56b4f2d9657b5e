"""The way from a table to its coded array and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.asked import (
    check_observed,
    check_sparse,
    label,
    labels_of,
    named_columns,
    positions_of,
    requested_kinds,
    resolve_kinds,
)
from skvae.table.columns import Column, in_character, learn_columns
from skvae.table.kinds import KINDS, SCALINGS
from skvae.table.layout import Layout, frozen
from skvae.table.levels import Grouping
from skvae.table.masses import unseen_log_mass
from skvae.table.raw import RawTable, TableLike, as_floats
from skvae.table.statistics import Statistics
from skvae.table.words import check_numbers, check_width, unknown_levels, word

__all__ = ["Column", "Schema"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schema:
    """A table's columns, and the way from table to coded array and back.

    Coded arrays hold the columns that vary (`active`), as float64, NaN = missing.
    A schema is a value: schemas of equal columns are equal, and pickles of equal
    schemas are too. Tables are a `RawTable` or an array of numbers.

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
    >>> schema.decode(np.array([[0.0, 1.0]])).numbers
    array([[2., 1., 7.]])

    Text is categorical:

    >>> from skvae.table import Container
    >>> raw = Container.read(np.array([["red"], ["blue"], [None]], dtype=object))
    >>> schema = Schema.learn(raw)
    >>> schema.columns[0].levels, schema.encode(raw)[:, 0]
    (('blue', 'red'), array([ 1.,  0., nan]))
    """

    columns: tuple[Column, ...]

    @classmethod
    def learn(
        cls,
        X: TableLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        names: Sequence[str] | None = None,
        likelihood: str | Mapping[Any, str] = "auto",
        categorical_features: Any = "from_dtype",
        **options: Any,
    ) -> Schema:
        """Learn the schema of a table.

        Parameters
        ----------
        X : RawTable, array-like of real numbers or sparse matrix, shape (n, d)
            NaN cells are missing. A sparse table holds counts.
        sample_weight : array-like, shape (n,), optional
            Weights >= 0 of the rows.
        names : sequence of str, length d, optional
        likelihood : str or dict, default="auto"
            A kind of column, or a dict {name or position: kind} whose absent columns
            are "auto": categorical for text, categories and `categorical_features`
            (ordinal if the categories are ordered), bernoulli for columns of 0 and 1
            only, `continuous` for the others. A str is for the columns of numbers:
            those that are categorical by "auto" stay so, unless it is "categorical"
            or "ordinal", which is for all columns. Columns of a single value, up to
            rounding, are constant whatever is asked.
        categorical_features : "from_dtype", None or sequence, default="from_dtype"
            Names, positions or a boolean mask of categorical columns. "from_dtype"
            takes the columns of categories; so does a sequence beside those it names,
            and None takes none. Text is categorical in any case.
        **options
            As in `from_statistics`.

        Raises
        ------
        ValueError
            For an unknown kind, column or scaling, a kind that does not fit its
            column, a column or table without any observed cell, limits of categories
            out of range, a sparse table of other kinds than counts.
        TypeError
            For a likelihood that is neither a str nor a dict.
        """
        raw = RawTable.of(X)
        labels = labels_of(names, raw.shape[1])
        wanted = named_columns(categorical_features, labels)
        asked = requested_kinds(labels, likelihood, wanted | set(raw.text))
        wanted |= {
            j for j, k in enumerate(asked) if k != "auto" and KINDS[k].has_levels
        }
        schema = cls.from_statistics(
            Statistics.of(raw, sample_weight, levels=sorted(wanted)),
            names=names,
            likelihood=likelihood,
            categorical_features=categorical_features,
            **options,
        )
        if raw.is_sparse:
            check_sparse([column.kind for column in schema.columns])
        return schema

    @classmethod
    def from_statistics(
        cls,
        statistics: Statistics,
        *,
        names: Sequence[str] | None = None,
        likelihood: str | Mapping[Any, str] = "auto",
        categorical_features: Any = "from_dtype",
        continuous: str = "gaussian",
        scaling: str = "standard",
        max_categories: int | None = None,
        min_frequency: float | None = None,
    ) -> Schema:
        """Learn the schema from (merged) statistics.

        The statistics hold the levels of all columns of numbers that are to be
        categorical or ordinal.

        Parameters
        ----------
        statistics : Statistics
        names, likelihood, categorical_features
            As in `learn`.
        continuous : str, default="gaussian"
            What "auto" takes for columns of real numbers. "student_t" also gives
            lognormal columns its heavy tails.
        scaling : {"standard", "robust"}, default="standard"
            Weighted mean and standard deviation; or median and a ninetieth
            percentile range worth one standard deviation of a normal variable.
        max_categories : int, optional
            Most codes of a categorical column; the rarest levels share one. None
            is 100.
        min_frequency : int or float, optional
            Levels of less weight, or less than this share of it, share one code.
        """
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is one of {list(SCALINGS)}, got {scaling!r}.")
        labels = labels_of(names, len(statistics.mean))
        nominal = named_columns(categorical_features, labels) | statistics.text
        if categorical_features is not None:
            nominal |= set(statistics.categories)
        asked = requested_kinds(labels, likelihood, nominal)
        check_observed(statistics, labels)
        kinds = resolve_kinds(statistics, labels, asked, nominal, continuous)
        columns = learn_columns(
            statistics,
            labels,
            kinds,
            continuous=continuous,
            scaling=scaling,
            grouping=Grouping(max_categories, min_frequency),
        )
        return cls(columns)

    def knowing(self, X: TableLike, *, bounds: bool = True) -> Schema:
        """Return the schema that knows what values these rows hold too.

        Nothing is learned of how often they do, so that no score of a row changes for
        it but of rows with these values. Columns of real numbers widen their bounds,
        if ``bounds``.
        Levels get no code: they are coded as missing without a complaint, and their
        mass is the chance of an unseen level, in `unseen_log_mass`.

        Parameters
        ----------
        X : RawTable, array-like or sparse matrix, shape (n, d)
        bounds : bool, default=True

        Examples
        --------
        >>> import numpy as np
        >>> X = np.array([["a"], ["b"], ["a"]], dtype=object)
        >>> from skvae.table import Container
        >>> schema = Schema.learn(Container.read(X))
        >>> raw = Container.read(np.array([["c"]], dtype=object))
        >>> wider = schema.knowing(raw)
        >>> wider.encode(raw), np.exp(wider.unseen_log_mass(raw)).tolist()
        (array([[nan]]), [[0.5]])
        """
        raw = RawTable.of(X)
        counted = [j for j, column in enumerate(self.columns) if column.levels]
        statistics = Statistics.of(raw, levels=counted)
        return Schema(
            tuple(
                column.knowing(statistics, j, bounds=bounds)
                for j, column in enumerate(self.columns)
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        # Cached arrays stay out of pickles, so that these tell the value alone.
        return {"columns": self.columns}

    # -- what the coded columns are ----------------------------------------------

    @property
    def active(self) -> npt.NDArray[np.intp]:
        """Positions of the coded columns in the table, shape (n_active,).

        Columns of one density stand together, so that a model can slice them.
        """
        return self._layout.active

    @property
    def kinds(self) -> tuple[str, ...]:
        """Densities of the coded columns, as the model names them, length n_active."""
        return self._layout.densities

    @cached_property
    def levels(self) -> tuple[tuple[float, ...], ...]:
        """Observed shares of each coded column's codes; () without levels."""
        own = {one.coded: one.book.shares.tolist() for one in self._layout.levels}
        return tuple(tuple(own.get(j, ())) for j in range(len(self.active)))

    @cached_property
    def centre(self) -> Array:
        """Centres of the coded columns, shape (n_active,); see `Column`."""
        return frozen(self._layout.centre[self.active])

    @cached_property
    def scale(self) -> Array:
        """Scales of the coded columns, shape (n_active,), > 0; see `Column`."""
        return frozen(self._layout.scale[self.active])

    def label(self, j: int, *, quoted: bool = True) -> str:
        """What to call the column at a position of the table."""
        return label(self.columns[j].name, j, quoted=quoted)

    def position(self, key: Any, what: str) -> int:
        """Position of a column; ``what`` asks for it by name or position."""
        names = [column.name for column in self.columns]
        return positions_of(what, [key], names)[0][0]

    def word(self, raw: RawTable, row: int, j: int) -> str:
        """Return one cell of a table as a reader would write it."""
        return word(raw, row, j, self.columns[j])

    # -- there and back ----------------------------------------------------------

    def encode(self, X: TableLike) -> Array:
        """Code a table (n, d) as an array (n, n_active); missing cells stay NaN.

        So do levels without a code; `unknown` names those that nobody knows.

        Parameters
        ----------
        X : RawTable, array-like or sparse matrix
            Sparse rows are made dense: pass some at a time.

        Raises
        ------
        ValueError
            For text in a column of numbers.
        """
        raw = self._checked(X)
        table = raw.dense()
        coded = np.empty((len(table), len(self.active)))
        for group in self._layout.groups:
            x = group.coding.nearest(as_floats(table[:, group.place]), group.low)
            coded[:, group.coded_place] = group.coding.encode(
                x, group.centre, group.scale
            )
        for own in self._layout.levels:
            coded[:, own.coded] = own.book.encode(raw.column(own.position))
        return coded

    def unknown(self, X: TableLike, *, constants: bool = False) -> str:
        """Name the levels of a table that are not among those observed; "" for none.

        Parameters
        ----------
        X : RawTable, array-like or sparse matrix
        constants : bool, default=False
            Whether to name what differs from a constant text too.
        """
        raw = self._checked(X)
        return unknown_levels(raw, self.columns, self._layout, constants=constants)

    def decode(
        self, coded: npt.ArrayLike, *, source: np.random.Generator | None = None
    ) -> RawTable:
        """Bring coded values (n, n_active) back to the user's table (n, d).

        Constant columns hold their value.

        Parameters
        ----------
        coded : array-like, shape (n, n_active)
        source : numpy.random.Generator, optional
            For drawn rows. A code that levels share then gives one of them by its
            share, else the likeliest; and columns of whole numbers are rounded.

        Notes
        -----
        Columns observed in [0, 1], at or above 0, at or below 0 are kept there. Dates
        are rounded to the coarsest of days, hours, minutes, seconds, milli- and
        microseconds in which all observed ones of their column were whole.
        """
        values = np.asarray(coded)
        check_width(values.shape, len(self.active), "A coded table")
        numbers = np.tile(self._layout.centre, (len(values), 1))
        text: dict[int, npt.NDArray[np.object_]] = {}
        drawn = source is not None
        for group in self._layout.groups:
            y = as_floats(values[:, group.coded_place])
            x = group.coding.decode(y, group.centre, group.scale)
            columns = [self.columns[j] for j in group.positions]
            numbers[:, group.place] = in_character(x, columns, drawn=drawn)
        for own in self._layout.levels:
            cells = own.book.decode(as_floats(values[:, own.coded]), source)
            if own.is_text:
                numbers[:, own.position], text[own.position] = np.nan, cells
            else:
                numbers[:, own.position] = cells
        for j, level in self._layout.text_constants:
            numbers[:, j], text[j] = np.nan, np.full(len(values), level, dtype=object)
        return RawTable(numbers, text)

    def log_jacobian(self, X: TableLike) -> Array:
        """Add to coded log-densities for those in the user's units, (n, n_active).

        The log derivative of the coding for densities; for masses 0, but for a level
        that shares its code the log of its share therein. 0 where a cell is missing.
        """
        raw = self._checked(X)
        table = raw.dense()
        result = np.zeros((len(table), len(self.active)))
        for group in self._layout.groups:
            x = group.coding.nearest(as_floats(table[:, group.place]), group.low)
            own = group.coding.log_jacobian(x, group.centre, group.scale)
            result[:, group.coded_place] = np.where(np.isnan(x), 0.0, own)
        for levels in self._layout.levels:
            cells = raw.column(levels.position)
            result[:, levels.coded] = levels.book.log_share(cells)
        return result

    def unseen_log_mass(self, X: TableLike) -> Array:
        """Return the log-mass of cells that their column cannot hold, shape (n, d).

        Such are the cells that differ from a constant column's value, those of a 0/1
        column that are neither, fractions and negative numbers among counts, and
        what isn't positive in a lognormal column: minus the logarithm of their
        distance from what can be, in units of rounding; finite, growing with the
        distance, and the same in any unit of a constant other than 0. Text that
        differs from a constant is at distance 1. Of a level without a code (`knowing`)
        it is the log of the chance of an unseen level (Good and Turing's). Zero for
        all other cells and where a cell is missing.
        """
        return unseen_log_mass(self._checked(X), self.columns, self._layout)

    # -- within ------------------------------------------------------------------

    def _checked(self, X: TableLike) -> RawTable:
        """Return a table as cells, once its width and its text are checked."""
        shape = X.shape if hasattr(X, "shape") else np.shape(X)
        check_width(shape, len(self.columns), "A table")
        raw = RawTable.of(X)
        check_numbers(raw, self.columns)
        return raw

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.columns)
