"""What a detector makes of its scores: labels, p-values and chances."""

from __future__ import annotations

from dataclasses import astuple
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from skvae._backend import places_dtype
from skvae.estimators._arrays import answers_directly, learns_more, to_host
from skvae.estimators._reasons import Reasons
from skvae.estimators._training import Training
from skvae.inference.calibration import (
    Chances,
    Tail,
    conformal_p_values,
    discoveries,
    outlier_share,
    threshold,
)
from skvae.model.latent import LatentModel
from skvae.training.history import History

# Share of the rows that calibrate the p-values and are kept from everything else: of
# labelled tables of 80 to 1500 rows a third was kept back without a loss of ranking.
# Of normal rows the density of their codes wants more.
_KEPT_BACK, _KEPT_OF_NORMAL = 1 / 3, 0.2
# At most so many rows are kept, and none where the table has fewer than so many.
_MOST_KEPT, _FEWEST_ROWS = 5000, 50
# Even a clean table has a least normal hundredth, and the automatic threshold above it.
_LEAST_SHARE = 0.01


class Verdicts(Reasons):
    """Methods of a fitted detector that say more than a score."""

    novelty: bool
    contamination: float | str
    offset_: float
    contamination_: float
    _calibration: np.ndarray
    _chances: np.ndarray
    _tail: np.ndarray

    # -- fitting -----------------------------------------------------------------

    def _kept_back(self, n_rows: int) -> np.ndarray:
        """Some rows, before anything looks at the table.

        The same for tables of the same length, so that a fit that goes on from an
        earlier one keeps back the same rows.
        """
        kept = super()._kept_back(n_rows)
        if n_rows >= _FEWEST_ROWS:
            share = _KEPT_OF_NORMAL if self.novelty else _KEPT_BACK
            n_kept = min(int(share * n_rows), _MOST_KEPT)
            rows = np.arange(n_rows, dtype=places_dtype(n_rows))
            kept[np.random.default_rng(0).permutation(rows)[:n_kept]] = True
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
        probe = self._with(fitted)
        scores = probe._scores(training.table, probe._score)
        # All rows tell the threshold; those kept back alone the p-values.
        return {
            **fitted,
            **self._thresholds(scores, training.weight),
            "_calibration": np.sort(scores[training.kept].astype(np.float64)),
        }

    def _thresholds(
        self, scores: np.ndarray, weight: np.ndarray | None
    ) -> dict[str, Any]:
        """What follows from the scores of the table's rows, (n_rows,)."""
        if isinstance(self.contamination, str):
            found = outlier_share(scores, weight)
            share = max(found, _LEAST_SHARE)
        else:
            found = share = self.contamination
        chances = Chances.of(scores, found, weight)
        return {
            "contamination_": share,
            "offset_": threshold(scores, share, weight),
            "_chances": np.stack([chances.scores, chances.values]),
            "_tail": np.array(astuple(chances.tail)),
        }

    @learns_more
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

        Raises
        ------
        ValueError
            For an array of another library or device than that of `fit`, where
            scikit-learn dispatches by array library.
        """
        scores = self._scores(self._check(X), self._score)
        self._calibration = np.sort(scores.astype(np.float64))
        return self

    # -- which rows --------------------------------------------------------------

    @answers_directly
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
        return self.score_samples(X) - float(self.offset_)

    @answers_directly
    def predict(self, X: Any) -> np.ndarray:
        """Tell outliers (-1) from inliers (+1).

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of int of shape (n_samples,)
        """
        return 1 - 2 * (self.decision_function(X) < 0)  # of any array library

    @answers_directly
    def p_values(self, X: Any) -> np.ndarray:
        """How often a row like those of the training table scores as low.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            Small for outliers, never below one over one more than the number of
            calibration rows (a third of the rows, at most 5000, that `fit` keeps back,
            of novelties a fifth, or those of `calibrate`); all 1 where there are none,
            as after a fit to fewer than 50 rows. After `partial_fit` they are those of
            the latest call alone, as scores of earlier ones do not hold for the model
            trained further: where the latest batch had fewer than 50 rows there are
            none until `calibrate`.

        Notes
        -----
        Conformal: a new row that is exchangeable with the calibration rows has a
        p-value of at most p with a chance of at most p, whatever the model: scaling,
        start and training see none of them. Rows that alone hold a column's cells are
        trained on, and never among those kept back. Of levels that only calibration
        rows hold no more is known than that a row has one, so that none scores by how
        many of them do, and a row with a level that nobody had scores no lower.
        Outliers among the calibration rows make p-values larger, never smaller; with
        many, `calibrate` with normal rows.
        """
        check_is_fitted(self)
        scores = to_host(self.score_samples(X))
        return conformal_p_values(scores, to_host(self._calibration))

    @answers_directly
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
        return discoveries(to_host(self.p_values(X)), float(fdr))

    @answers_directly
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
        `contamination_` of the training rows are outliers (none where "auto" found
        none), and of the normal ones no more have low scores than the heavy tail of a
        normal table allows. Below all training rows the chance goes on rising as that
        tail falls.
        """
        check_is_fitted(self)
        knots, values = to_host(self._chances)
        chances = Chances(knots, values, Tail(*self._tail.tolist()))
        return chances.at(to_host(self.score_samples(X)))
