"""The questions that all estimators answer: one method each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from skvae._backend import fresh_seed
from skvae.estimators._arrays import answers, answers_directly
from skvae.estimators._conditions import code_conditions, keep_conditions, warn_of_few
from skvae.estimators._fitted import Fitted
from skvae.estimators._tables import in_blocks
from skvae.estimators._wanted import settle
from skvae.inference.donors import Donors
from skvae.inference.generation import sample_given, sample_rows
from skvae.inference.imputation import conditional_draws, conditional_mean
from skvae.inference.intervals import predictive_interval
from skvae.inference.scoring import SCORES, reconstruct
from skvae.table.raw import RawTable


class Questions(Fitted):
    """Methods of a fitted model; `_base` holds how it is fitted."""

    # What else than the prior says where the codes of rows with holes lie.
    _donors: Donors | None = None

    # -- how likely --------------------------------------------------------------

    @answers_directly
    def score_samples(self, X: Any) -> np.ndarray:
        """Score of each row, higher for more normal rows.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            log p(x) in nats and the units of X, by importance weighting with
            `n_score_samples` draws, the same for every row and call (for a detector
            with another `anomaly_score`, that score). A row's score does not depend
            on the other rows.
        """
        return self._scores(self._check(X), self._score)

    @answers_directly
    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        score : float
            Nats a row, in the units of X: comparable across `n_components`, `beta` and
            architectures, and with the `score` of scikit-learn's PCA, FactorAnalysis
            and GaussianMixture.
        """
        return float(self._scores(self._check(X), SCORES["log_likelihood"]).mean())

    @answers_directly
    def elbo(self, X: Any, decompose: bool = False) -> Any:
        """Evidence lower bound of log p(x), at beta = 1.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        decompose : bool, default=False
            Whether to return its two terms.

        Returns
        -------
        elbo : ndarray of shape (n_samples,)
            Nats a row, in the units of X; at most `score_samples`, save for the error
            of a finite number of draws. With ``decompose=True`` the tuple
            (reconstruction, kl), with ``elbo = reconstruction - kl``.
        """
        raw = self._check(X)
        bound = self._scores(raw, SCORES["elbo"])
        if not decompose:
            return bound
        reconstruction = self._scores(raw, SCORES["reconstruction_probability"])
        return reconstruction, reconstruction - bound

    @answers
    def explain(self, X: Any) -> Any:
        """Why each row scores as it does.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        contributions : ndarray or frame of shape (n_samples, n_features)
            What each column adds to the score of an average training row, negative
            where it makes the row less likely:
            ``explain(X).sum(axis=1) + base_score_ == score_samples(X)``. A frame of
            the library of X, with its column names, where X is a frame.

        Notes
        -----
        A column's contribution is the log density of its cell given the code, plus a
        share of the latent term (the price of an unusual code), less the mean of both
        over training rows. The latent term is shared out by the squared length of the
        step that each cell makes the code take along the encoder's linear path.

        A detector that completes rows charges what a wrong cell does to the others,
        whose code it moves, to that cell: of each row the cell farthest from what a
        Gaussian expects of it given the others pays the difference that its expected
        value would make; the others' contributions are those of the row with that.
        """
        return self._reasons(X, self._check(X))

    def _reasons(self, X: Any, raw: RawTable) -> Any:
        """What `explain` gives of the table X, whose cells these are."""
        return self._container.floats(self._explained(raw), like=X)

    def _explained(self, raw: RawTable) -> np.ndarray:
        model = self._model_for(raw.dtype)

        def answer(part: RawTable, coded: np.ndarray) -> tuple[np.ndarray]:
            return (self._parts(model, part, coded),)

        (parts,) = in_blocks(raw, self._encode, answer)
        return parts.astype(raw.dtype, copy=False)

    # -- data space --------------------------------------------------------------

    @answers_directly
    def reconstruct(self, X: Any) -> Any:
        """Expected row at the code of each row; of categories the likeliest.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        rows : table of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given; bounds that a
            column kept there (0, or 0 and 1) are kept.
        """
        raw = self._check(X)
        model = self._model_for(raw.dtype)

        def answer(part: RawTable, coded: Any) -> tuple[Any]:
            return (reconstruct(model, coded),)

        (coded,) = in_blocks(raw, self._encode, answer)
        return self._container.restore(self._schema.decode(coded), like=X)

    @answers
    def impute(
        self, X: Any, n_imputations: int | None = None, random_state: Any = None
    ) -> Any:
        """Fill the missing cells of a table.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
            With missing cells.
        n_imputations : int, default=None
            None fills in the conditional mean of the missing given the observed cells,
            of categories the likeliest; a number returns as many tables whose holes
            are drawn from their joint conditional distribution.
        random_state : int, RandomState instance or None, default=None
            Of the draws.

        Returns
        -------
        completed : table of shape (n_samples, n_features), or a list of them
            Observed cells are untouched; the others keep the bounds that their column
            kept in `fit` (0, or 0 and 1), and the unit in which all its dates were
            whole.

        Notes
        -----
        Importance weighting (Mattei and Frellsen, "MIWAE", ICML 2019) over draws around
        the most probable code given the observed cells; joint draws by
        sampling-importance-resampling. For `VAEImputer`, half of the prior are the
        codes of at most 1000 training rows, the row's own left out.
        """
        raw = self._check(X)
        if n_imputations is None:
            return self._imputed(X, raw)
        model, coded = self._model_for(raw.dtype), self._encode_holed(raw)
        _check_count(n_imputations, "n_imputations")
        seed = fresh_seed(random_state)
        draws = conditional_draws(
            model, coded, self._bank, n_imputations, seed, self._donors
        )
        source = np.random.default_rng(seed)
        return [self._completed(X, raw, draw, source) for draw in draws]

    def _encode_holed(self, raw: RawTable) -> np.ndarray:
        """Coded rows; of a sparse table, most of which is whole, those with holes."""
        return self._encode(raw.take(raw.holed(axis=1)) if raw.is_sparse else raw)

    def _imputed(self, X: Any, raw: RawTable) -> Any:
        """The table X, whose cells these are, with holes at their conditional mean."""
        model, coded = self._model_for(raw.dtype), self._encode_holed(raw)
        means = conditional_mean(model, coded, self._bank, self._donors)
        return self._completed(X, raw, means)

    @answers
    def predictive_interval(self, X: Any, coverage: float = 0.9) -> tuple[Any, Any]:
        """Where the model expects each cell, given the observed cells of its row.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        coverage : float, default=0.9
            Probability between the two bounds, in (0, 1).

        Returns
        -------
        low, high : tables of shape (n_samples, n_features)
            Quantiles of the posterior predictive distribution of each cell, equally
            much outside on either side. For a missing cell that is its conditional
            distribution; for an observed one that of another cell at the same code.
            Both hold the likeliest level of a category.
        """
        check_scalar(
            coverage,
            "coverage",
            Real,
            min_val=0.0,
            max_val=1.0,
            include_boundaries="neither",
        )
        raw = self._check(X)
        model = self._model_for(raw.dtype)

        def answer(part: RawTable, coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return predictive_interval(
                model, coded, self._bank, float(coverage), self._donors
            )

        low, high = (
            self._schema.decode(b) for b in in_blocks(raw, self._encode, answer)
        )
        return (
            self._container.restore(low, like=X),
            self._container.restore(high, like=X),
        )

    @answers
    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        conditions: Mapping[Any, Any] | None = None,
    ) -> Any:
        """Draw new rows from p(x), or from p(x | conditions).

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None draws other rows at each call, an int always the same.
        conditions : dict, default=None
            From column names or positions to what the column must hold: a value, a
            set or list of values, or a range as a tuple (low, high), None being open.
            Dates for columns of dates, booleans for those of 0 and 1, and nothing that
            the column's data type could not hold.

        Returns
        -------
        rows : table of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given. Bounds that a
            column kept in `fit` (0, or 0 and 1) are kept, whole numbers stay whole, and
            so do dates in days, hours, minutes or seconds (of UTC).

        Raises
        ------
        ValueError
            For a condition that no row can meet, or a level or column that was never
            seen.

        Warns
        -----
        UserWarning
            Where so few draws meet the conditions that many rows share a code.

        Notes
        -----
        Conditions are met by importance resampling of the code given the conditioned
        cells, never by rejection of whole rows.
        """
        check_is_fitted(self)
        _check_count(n_samples, "n_samples")
        seed = fresh_seed(random_state)
        settled = settle(self._schema, self._container, conditions or {})
        if settled:
            wanted = code_conditions(self._schema, settled)
            coded, effective_size = sample_given(self._model, wanted, n_samples, seed)
            warn_of_few(effective_size, n_samples)
        else:
            coded = sample_rows(self._model, n_samples, seed)
        source = np.random.default_rng(seed)
        values = self._schema.decode(coded, source=source)
        keep_conditions(self._schema, settled, values, source)
        return self._container.restore(values)

    # -- keeping it --------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a file; `skvae.load` reads it.

        Parameters
        ----------
        path : str or path-like
            An existing file is replaced.

        Notes
        -----
        The file holds numbers and text, no code and no training rows. A
        `random_state` that is a RandomState instance is saved as None; callbacks and
        metadata requests are not saved.
        """
        # Imported when called: files know the estimators they may hold, and lie above
        # them.
        from skvae.persistence import save

        save(self, path)


def _check_count(value: Any, name: str) -> None:
    """Raise where this is no whole number of at least 1; a boolean is none."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an instance of int, not bool: got {value}.")
    check_scalar(value, name, Integral, min_val=1)
