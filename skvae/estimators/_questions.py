"""The questions that both estimators answer: one method each."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skvae._backend import fresh_seed, resolve_device, scoring_dtype
from skvae.inference.explanation import contributions
from skvae.inference.generation import decode_codes, sample_rows
from skvae.inference.imputation import conditional_draws, conditional_mean
from skvae.inference.scoring import SCORES, Score, read, score_rows
from skvae.model.latent import LatentModel
from skvae.model.priors import AggregatePosterior, StandardNormal
from skvae.model.terms import Terms
from skvae.table.containers import Container
from skvae.table.schema import Schema

FLOATS = (np.float64, np.float32)
# Scales from the centre beyond which all cells are equally far: the square of their
# force on the fit is still finite in float32.
_FAR = 1e10


def encode(schema: Schema, table: np.ndarray) -> np.ndarray:
    """Coded cells; those of extreme size are drawn in to where numbers behave."""
    return np.clip(schema.encode(table), -_FAR, _FAR)


class Questions(TransformerMixin):
    """Methods of a fitted model; `_base` holds how it is fitted.

    A TransformerMixin, because `set_output` reaches only a `transform` that a subclass
    of that mixin defines itself.
    """

    _schema: Schema
    _container: Container
    _model: LatentModel
    _bank: np.ndarray
    _mean_contributions: np.ndarray
    device_: str
    n_components_: int

    @property
    def _score(self) -> Score:
        """The score that `score_samples` gives."""
        return SCORES["log_likelihood"]

    # -- latent space ------------------------------------------------------------

    def transform(self, X: Any) -> np.ndarray:
        """Posterior mean of the code of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        codes : ndarray of shape (n_samples, n_components)
            The same for the same row, whatever the other rows are.
        """
        return self.posterior(X)[0]

    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of the code of each row, independent normals.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        mean, std : ndarray of shape (n_samples, n_components)
        """
        table = self._check(X)

        def reading(terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
            return terms.mean[0], torch.exp(0.5 * terms.log_variance[0])

        mean, std = read(self._model_for(table), self._encode(table), None, reading)
        return mean, std

    def inverse_transform(self, X: Any) -> Any:
        """Expected row at each code.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Codes, as from `transform`.

        Returns
        -------
        rows : array or frame of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=FLOATS, force_writeable=True)
        if codes.shape[1] != self.n_components_:
            raise ValueError(
                f"A code has {self.n_components_} components, got rows of "
                f"{codes.shape[1]}. Pass what transform returned."
            )
        coded = decode_codes(self._model_for(codes), codes)
        return self._container.restore(self._schema.decode(coded))

    # -- how likely --------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """Score of each row, higher for more normal rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            log p(x) in nats and the units of X, by importance weighting with
            `n_score_samples` draws, the same for every row and call (for a detector
            with another `anomaly_score`, that score). A row's score does not depend
            on the other rows.
        """
        table = self._check(X)
        return self._scores(table, self._score)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        score : float
            Nats a row, in the units of X: comparable across `n_components`, `beta` and
            architectures, and with the `score` of scikit-learn's PCA, FactorAnalysis
            and GaussianMixture.
        """
        table = self._check(X)
        return float(self._scores(table, SCORES["log_likelihood"]).mean())

    def elbo(self, X: Any, decompose: bool = False) -> Any:
        """Evidence lower bound of log p(x), at beta = 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        decompose : bool, default=False
            Whether to return its two terms.

        Returns
        -------
        elbo : ndarray of shape (n_samples,)
            Nats a row, in the units of X; at most `score_samples`, save for the error
            of a finite number of draws. With ``decompose=True`` the tuple
            (reconstruction, kl), with ``elbo = reconstruction - kl``.
        """
        table = self._check(X)
        bound = self._scores(table, SCORES["elbo"])
        if not decompose:
            return bound
        reconstruction = self._scores(table, SCORES["reconstruction_probability"])
        return reconstruction, reconstruction - bound

    def explain(self, X: Any) -> np.ndarray:
        """Why each row scores as it does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            What each column adds to the score of an average training row, negative
            where it makes the row less likely:
            ``explain(X).sum(axis=1) + base_score_ == score_samples(X)``.

        Notes
        -----
        A column's contribution is the log density of its cell given the code, plus a
        share of the latent term (the price of an unusual code), less the mean of both
        over training rows. The latent term is shared out by the squared length of the
        step that each cell makes the code take along the encoder's linear path.
        """
        table = self._check(X)
        score, schema = self._score, self._schema
        parts = schema.unseen_log_mass(table)
        parts[:, schema.active] += contributions(
            self._model_for(table), self._encode(table), self._bank, score
        )
        if score.has_units:
            parts[:, schema.active] += schema.log_jacobian
        return (parts - self._mean_contributions).astype(table.dtype, copy=False)

    # -- data space --------------------------------------------------------------

    def reconstruct(self, X: Any) -> Any:
        """Expected row at the code of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        rows : array or frame of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given.
        """
        table = self._check(X)
        model = self._model_for(table)

        def reading(terms: Terms) -> tuple[torch.Tensor]:
            return (model.likelihood.mean(terms.params).mean((0, 1)),)

        (coded,) = read(model, self._encode(table), None, reading)
        return self._container.restore(self._schema.decode(coded), like=X)

    def impute(
        self, X: Any, n_imputations: int | None = None, random_state: Any = None
    ) -> Any:
        """Fill the missing cells of a table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where missing.
        n_imputations : int, default=None
            None fills in the conditional mean of the missing given the observed cells;
            a number returns as many tables whose holes are drawn from their joint
            conditional distribution.
        random_state : int, RandomState instance or None, default=None
            Of the draws.

        Returns
        -------
        completed : array or frame of shape (n_samples, n_features), or a list of them
            Observed cells are untouched.

        Notes
        -----
        Importance weighting (Mattei and Frellsen, "MIWAE", ICML 2019) over draws around
        the most probable code given the observed cells; joint draws by
        sampling-importance-resampling.
        """
        table = self._check(X, finite="allow-nan")
        # Its draws are laid around the mode under the prior that training goes by.
        model, coded = self._model_for(table), self._encode(table)
        if isinstance(model.prior, AggregatePosterior):
            model = model.with_prior(StandardNormal())
        if n_imputations is None:
            means = conditional_mean(model, coded, self._bank)
            discrete = [kind == "bernoulli" for kind in self._schema.kinds]
            means[:, discrete] = np.round(means[:, discrete])
            return self._completed(X, table, means)
        if n_imputations < 1:
            raise ValueError(
                f"n_imputations must be at least 1 or None, got {n_imputations}."
            )
        seed = fresh_seed(random_state)
        draws = conditional_draws(model, coded, self._bank, n_imputations, seed)
        return [self._completed(X, table, draw) for draw in draws]

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw new rows from p(x).

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None draws other rows at each call, an int always the same.

        Returns
        -------
        rows : array or frame of shape (n_samples, n_features)
            In the container, dtypes and units that `fit` was given.
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        coded = sample_rows(self._model, n_samples, fresh_seed(random_state))
        return self._container.restore(self._schema.decode(coded))

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

    # -- private twins -----------------------------------------------------------

    def _check(self, X: Any, *, finite: bool | str = True) -> np.ndarray:
        check_is_fitted(self)
        table: np.ndarray = validate_data(
            self, X, reset=False, dtype=FLOATS, ensure_all_finite=finite
        )
        return table

    def _encode(self, table: np.ndarray) -> np.ndarray:
        return encode(self._schema, table)

    def _model_for(self, table: np.ndarray) -> LatentModel:
        """The model on its device, in the precision of the question."""
        device = resolve_device(self.device_, 0)
        return self._model.to(scoring_dtype(table, device), device)

    def _scores(self, table: np.ndarray, score: Score) -> np.ndarray:
        rows = score_rows(
            self._model_for(table), self._encode(table), self._bank, score
        ).astype(np.float64)
        if score.has_units:
            rows += self._schema.log_jacobian.sum()
        rows += self._schema.unseen_log_mass(table).sum(axis=1)
        return rows.astype(table.dtype, copy=False)

    def _completed(self, X: Any, table: np.ndarray, coded: np.ndarray) -> Any:
        values = self._schema.decode(coded)
        missing = np.isnan(table)
        values[~missing] = table[~missing]
        return self._container.restore(values, like=X)
