"""Why rows score as they do, what their cells should have been, and repairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skvae.estimators._arrays import answers
from skvae.estimators._base import BaseVAE
from skvae.estimators._tables import read_table
from skvae.inference.imputation import conditional_mean
from skvae.inference.repair import mend, points_of_cells
from skvae.table.raw import RawTable, as_floats
from skvae.table.schema import Schema

# A sentence names the columns that make up this much of what a row loses.
_TOLD, _MOST_TOLD = 0.8, 3


@dataclass(frozen=True)
class Explanation:
    """Why rows score as they do, and what their cells should have been.

    Attributes
    ----------
    contributions : ndarray of shape (n_rows, n_features)
        What `explain` gives without ``expected=True``.
    expected, low, high : table of shape (n_rows, n_features)
        Median and 90 % interval of each cell given the other cells of its row; all
        three the likeliest level of a category.
    """

    contributions: Any
    expected: Any
    low: Any
    high: Any


class Reasons(BaseVAE):
    """Methods of a fitted detector that tell what is wrong with a row."""

    offset_: float

    # -- why ---------------------------------------------------------------------

    @answers
    def explain(self, X: Any, expected: bool = False) -> Any:
        """Why each row scores as it does.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        expected : bool, default=False
            Whether to tell too what each cell should have been: a look at every cell
            in turn, and slower for that.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            What each column adds to the score of an average training row, negative
            where it makes the row less likely:
            ``explain(X).sum(axis=1) + base_score_ == score_samples(X)``. With
            ``expected=True`` an object with the attributes `contributions`, `expected`,
            `low` and `high`: the median and 90 % interval of each cell given the
            others of its row, as tables like X; the likeliest level of a category.
        """
        raw = self._check(X)
        parts = self._reasons(X, raw)
        if not expected:
            return parts
        points = self._expected(raw, np.ones(raw.shape, dtype=bool))
        return Explanation(
            parts, *(self._container.restore(each, like=X) for each in points)
        )

    @answers
    def describe(self, X: Any) -> list[str]:
        """Say in a sentence what is unusual about each row.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        sentences : list of str of length n_samples
            Of an outlier: up to three columns, the value seen, the value expected from
            the other cells of the row, and its 90 % interval.

        Examples
        --------
        >>> import numpy as np
        >>> from skvae import VAEAnomalyDetector
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> X[0, 1] = 12.0
        >>> detector = VAEAnomalyDetector(random_state=0).fit(X)
        >>> detector.describe(X[1:2])
        ['Row 0 is not unusual.']
        """
        raw = self._check(X)
        parts = self._explained(raw).astype(np.float64)
        odd = self._decide(raw)
        wanted = _telling(parts) & odd[:, None] & ~raw.missing()
        points = self._expected(raw, wanted)
        sentences = [f"Row {i} is not unusual." for i in range(len(raw))]
        for i in np.flatnonzero(odd).tolist():
            columns = np.flatnonzero(wanted[i])
            columns = columns[np.argsort(parts[i, columns], kind="stable")].tolist()
            told = [
                _told(self._schema, raw, points, i, j)
                for j in columns
                # Of several, each may be ordinary by itself.
                if len(columns) == 1 or _surprising(raw, points, i, j)
            ]
            names = ", ".join(self._schema.label(j, quoted=False) for j in columns)
            reason = "; ".join(told) or f"together, {names}" if names else "all of it"
            sentences[i] = f"Row {i} is unusual: {reason}."
        return sentences

    # -- what instead ------------------------------------------------------------

    @answers
    def repair(self, X: Any) -> Any:
        """Replace the fewest cells that make each outlier an inlier.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        rows : table of shape (n_samples, n_features)
            In the container that `fit` was given. Inliers are untouched. In an outlier
            the replaced cells hold their conditional mean given the other cells;
            which ones is found greedily, by `explain` and by what the replacement
            gains, and cells that turn out not to be needed are put back. A row that
            passes `offset_` by no replacement has every cell replaced.
        """
        raw = self._check(X)
        odd = np.flatnonzero(self._decide(raw))
        if not len(odd):
            return self._container.complete(X, raw, np.zeros(raw.shape, dtype=bool))
        replaced = np.zeros(raw.shape, dtype=bool)
        part = raw.take(odd)
        # What its column cannot hold is wrong whatever the other cells are.
        wrong = self._schema.unseen_log_mass(part) < 0
        part = replace(part, numbers=as_floats(part.dense()))
        replaced[odd] = self._mended(part, wrong)
        done = self._container.complete(X, self._filled(raw, replaced), replaced)
        # The container may hold less than the float64 that was scored.
        left = odd[self._decide(read_table(self, done, reset=False))[odd]]
        if replaced[left].all():
            return done
        replaced[left] = True
        return self._container.complete(X, self._filled(raw, replaced), replaced)

    def _mended(self, raw: RawTable, wrong: np.ndarray) -> np.ndarray:
        """Which cells of outliers to replace, bool (n_rows, n_features)."""
        active = self._schema.active

        def judge(rows: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            whole = wrong[rows]
            whole[:, active] = own
            parts = self._explained(self._filled(raw.take(rows), whole))
            return parts[:, active], parts.sum(axis=1) + self.base_score_

        replaced = wrong.copy()
        replaced[:, active] = mend(wrong[:, active], judge, self.offset_)
        return replaced

    def _filled(self, raw: RawTable, replaced: np.ndarray) -> RawTable:
        """The table with these cells as the others of their row make them likely.

        Whole numbers where a column held no others, as a container of integers would
        round them.
        """
        schema, active = self._schema, self._schema.active
        coded = self._encode(raw)
        coded[replaced[:, active]] = np.nan
        model = self._model_for(np.dtype(np.float64))
        likely = schema.decode(conditional_mean(model, coded, self._bank))
        whole = [column.whole for column in schema.columns]
        numbers = np.where(whole, np.rint(likely.numbers), likely.numbers)
        text = {}
        for j in {*likely.text, *raw.text}:
            cells = raw.column(j).astype(object)
            cells[replaced[:, j]] = likely.column(j)[replaced[:, j]]
            text[j] = cells
        return RawTable(np.where(replaced, numbers, raw.dense()), text)

    # -- private twins -----------------------------------------------------------

    def _decide(self, raw: RawTable) -> np.ndarray:
        """Whether rows are outliers, bool (n_rows,)."""
        return self._scores(raw, self._score) < self.offset_

    def _expected(self, raw: RawTable, wanted: np.ndarray) -> list[RawTable]:
        """Median, 5 % and 95 % points of the wanted cells; the others are missing."""
        model, coded = self._model_for(raw.dtype), self._encode(raw)
        asked = wanted[:, self._schema.active]
        low, middle, high = points_of_cells(model, coded, self._bank, asked)
        return [self._schema.decode(points) for points in (middle, low, high)]


def _told(schema: Schema, raw: RawTable, points: list[RawTable], i: int, j: int) -> str:
    """What is surprising about one cell, in words."""
    name = schema.label(j, quoted=False)
    seen, expected, low, high = (schema.word(table, i, j) for table in (raw, *points))
    if low == high:
        return f"{name} is {seen}, expected {expected}"
    return f"{name} is {seen}, expected {expected} ({low} to {high})"


def _surprising(raw: RawTable, points: list[RawTable], i: int, j: int) -> bool:
    if j in raw.text:
        return bool(raw.text[j][i] != points[0].text[j][i])
    return not points[1].numbers[i, j] <= raw.numbers[i, j] <= points[2].numbers[i, j]


def _telling(parts: np.ndarray) -> np.ndarray:
    """Columns that make up most of what each row loses, bool (n_rows, n_features)."""
    loss = np.maximum(-parts, 0.0)
    order = np.argsort(-loss, axis=1, kind="stable")[:, :_MOST_TOLD]
    told = np.take_along_axis(loss, order, axis=1)
    before = np.cumsum(told, axis=1) - told
    enough = before >= _TOLD * loss.sum(axis=1, keepdims=True)
    telling = np.zeros(parts.shape, dtype=bool)
    np.put_along_axis(telling, order, ~enough, axis=1)
    return telling
