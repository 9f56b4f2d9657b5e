"""What a detector makes of its scores: labels, p-values, reasons and repairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from skvae.estimators._base import BaseVAE
from skvae.estimators._tables import read_table
from skvae.estimators._training import Training
from skvae.inference.calibration import (
    Chances,
    conformal_p_values,
    discoveries,
    outlier_share,
    threshold,
)
from skvae.inference.explanation import contributions
from skvae.inference.imputation import conditional_mean
from skvae.inference.repair import expected_cells, mend
from skvae.model.latent import LatentModel
from skvae.table.raw import RawTable, as_floats
from skvae.training.history import History

# Share of the rows that calibrate the p-values and are kept from everything else, at
# most so many rows, and none where the table has fewer than so many: on labelled tables
# of 80 to 1000 rows up to a third could be kept back without a loss of ranking.
_KEPT_BACK, _MOST_KEPT, _FEWEST_ROWS = 0.2, 2000, 50
# A sentence names the columns that make up this much of what a row loses.
_TOLD, _MOST_TOLD = 0.8, 3
# Even a clean table has a least normal hundredth, and the automatic threshold above it.
_LEAST_FLAGGED = 0.01


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


class Verdicts(BaseVAE):
    """Methods of a fitted detector that say more than a score."""

    contamination: float | str
    offset_: float
    contamination_: float
    _calibration: np.ndarray
    _chances: np.ndarray

    # -- fitting -----------------------------------------------------------------

    def _kept_back(self, n_rows: int) -> np.ndarray:
        """Some rows, before anything looks at the table.

        The same for tables of the same length, so that a fit that goes on from an
        earlier one keeps back the same rows.
        """
        kept = super()._kept_back(n_rows)
        if n_rows >= _FEWEST_ROWS:
            n_kept = min(int(_KEPT_BACK * n_rows), _MOST_KEPT)
            kept[np.random.default_rng(0).permutation(n_rows)[:n_kept]] = True
        return kept

    def _fitted(
        self,
        training: Training,
        model: LatentModel,
        history: History,
        held_out: np.ndarray,
    ) -> dict[str, Any]:
        fitted = super()._fitted(training, model, history, held_out)
        fitted["_score_name"] = self._settled["anomaly_score"]
        probe, weight = self._with(fitted), training.coded.weight
        scores, calibration = probe._scores(training.raw, probe._score), np.empty(0)
        if training.kept is not None:
            calibration = probe._scores(training.kept, probe._score)
            scores = np.concatenate([scores, calibration])
            if weight is not None and training.kept_weight is not None:
                weight = np.concatenate([weight, training.kept_weight])
        # All rows tell the threshold; those kept back alone the p-values.
        return {
            **fitted,
            **self._thresholds(scores, weight),
            "_calibration": np.sort(calibration.astype(np.float64)),
        }

    def _thresholds(
        self, scores: np.ndarray, weight: np.ndarray | None
    ) -> dict[str, Any]:
        """What follows from the scores of the table's rows, (n_rows,)."""
        if isinstance(self.contamination, str):
            share = outlier_share(scores, weight)
            flagged = max(share, _LEAST_FLAGGED)
        else:
            share = flagged = self.contamination
        chances = Chances.of(scores, share, weight)
        return {
            "contamination_": share,
            "offset_": threshold(scores, flagged, weight),
            "_chances": np.stack([chances.edges, chances.values]),
        }

    def calibrate(self, X: Any) -> Self:
        """Let rows that are known to be normal judge the p-values from now on.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
            Normal rows that `fit` was not given. They take the place of those that
            `fit` kept back, change no score and no `offset_`.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        scores = self._scores(self._check(X), self._score)
        self._calibration = np.sort(scores.astype(np.float64))
        return self

    # -- which rows --------------------------------------------------------------

    def decision_function(self, X: Any) -> np.ndarray:
        """Score of each row less the threshold; negative for outliers.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``.
        """
        scores = self.score_samples(X)
        return scores - np.asarray(self.offset_, dtype=scores.dtype)

    def predict(self, X: Any) -> np.ndarray:
        """Tell outliers (-1) from inliers (+1).

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of int of shape (n_samples,)
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """How often a row like those of the training table scores as low.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            Small for outliers, never below one over one more than the number of
            calibration rows (a fifth of the training table that `fit` keeps back, or
            those of `calibrate`); all 1 where there are none, as after a fit to fewer
            than 50 rows. After `partial_fit` they are those of the latest call alone,
            as scores of earlier ones do not hold for the model trained further: where
            the latest batch had fewer than 50 rows there are none until `calibrate`.

        Notes
        -----
        Conformal: a new row that is exchangeable with the calibration rows has a
        p-value of at most p with a chance of at most p, whatever the model: scaling,
        start and training see none of them. Of levels that only they hold no more is
        known than that a row has one, so that none scores by how many of them do, and a
        row with a level that nobody had scores no lower. Outliers among the calibration
        rows make p-values larger, never smaller; with many, `calibrate` with normal
        rows.
        """
        check_is_fitted(self)
        return conformal_p_values(self.score_samples(X), self._calibration)

    def select(self, X: Any, fdr: float = 0.05) -> np.ndarray:
        """Pick outliers such that few of the picked rows are normal ones.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        fdr : float, default=0.05
            Expected share of normal rows among the selected, at most, in (0, 1).

        Returns
        -------
        selected : ndarray of bool of shape (n_samples,)
            By the procedure of Benjamini and Hochberg (1995) on `p_values`. With m
            rows, k of them outliers, something can be selected only where there are
            more than about m / (k fdr) calibration rows.
        """
        check_scalar(
            fdr, "fdr", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        return discoveries(self.p_values(X), float(fdr))

    def outlier_probability(self, X: Any) -> np.ndarray:
        """Chance that each row is an outlier, given its score.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        probability : ndarray of shape (n_samples,)
            In [0, 1], never smaller for a lower score.

        Notes
        -----
        One minus the local false-discovery rate of a two-group model: a share
        `contamination_` of the training rows are outliers, and of the normal ones no
        more have low scores than the heavy tail of a normal table allows.
        """
        check_is_fitted(self)
        return Chances(*self._chances).at(self.score_samples(X))

    # -- why ---------------------------------------------------------------------

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
            # The worst cell is named even where it alone is not surprising.
            told = [
                _told(self._schema.label(j, quoted=False), raw, points, i, j)
                for n, j in enumerate(columns)
                if n == 0 or _surprising(raw, points, i, j)
            ]
            sentences[i] = f"Row {i} is unusual: {'; '.join(told) or 'all of it'}."
        return sentences

    # -- what instead ------------------------------------------------------------

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
        score, active = self._score, self._schema.active
        model = self._model_for(raw.dtype)

        def fill(rows: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            whole = wrong[rows]
            whole[:, active] = own
            table = self._filled(raw.take(rows), whole)
            return self._encode(table), self._scores(table, score)

        def explain(rows: np.ndarray) -> np.ndarray:
            whole = rows if self._completion is None else self._completion(rows)
            parts = contributions(model, whole, self._bank, score)
            return parts - self._mean_contributions[active]

        replaced = wrong.copy()
        replaced[:, active] = mend(wrong[:, active], fill, explain, self.offset_)
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
        low, middle, high = expected_cells(
            self._model_for(raw.dtype),
            self._encode(raw),
            self._bank,
            wanted[:, self._schema.active],
        )
        return [self._schema.decode(points) for points in (middle, low, high)]


def _told(name: str, raw: RawTable, points: list[RawTable], i: int, j: int) -> str:
    """What is surprising about one cell, in words."""
    seen, expected, low, high = (table.word(i, j) for table in (raw, *points))
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
