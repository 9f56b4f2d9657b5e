"""Completing tables, as a step of a Pipeline."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from skvae.estimators._arrays import answers
from skvae.estimators._base import BaseVAE
from skvae.estimators._documentation import documented
from skvae.estimators._parameters import DENSITY, ENSEMBLE, Defaults
from skvae.estimators._tables import PRESERVED_DTYPES
from skvae.estimators._training import Training
from skvae.inference.aggregate import learn_donors
from skvae.model.latent import LatentModel
from skvae.training.history import History

# Measured in benchmarks/quality/imputation.md.
_IMPUTATION = replace(
    DENSITY,
    noise="column",
    max_steps=lambda n_rows, n_columns: 2000,
    max_batch=lambda n_rows: 512,
    n_components=lambda n_columns: min((2 * n_columns + 2) // 3, 32),
)


@documented("imputer")
class VAEImputer(TransformerMixin, BaseVAE):
    """Fill missing cells from a variational autoencoder of the table.

    `transform` returns the completed table: observed cells as they came, missing ones
    their mean given the observed cells of the row, or the likeliest category. The model
    is that of `VAETransformer`, and answers the same questions except those of codes.

    What belongs in a hole is also learned from rows like it: the codes of at most 1000
    training rows are half of the prior there, the code of the same row left out. The
    density of the observed cells weighs the two halves. With ``prior="aggregate"`` no
    codes are added.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components of the code. "auto" is two thirds of the columns, at most
        32.
    n_estimators : int, default=3
        Independently trained models. A missing cell gets its mean under all of them,
        each with a weight that grows with the density it gives the observed cells.
    {members}
    add_indicator : bool, default=False
        Whether to append a column for each column with missing cells in `fit`, which
        tells where cells were missing: of booleans in a frame, of 0 and 1 in an array.
    {parameters}

    Attributes
    ----------
    indicator_features_ : ndarray of int
        Positions of the columns that missed cells in `fit`, or in any batch of
        `partial_fit`.
    {attributes}

    See Also
    --------
    VAETransformer : The same model for codes, densities and generation.
    sklearn.impute.IterativeImputer : Imputation by regressions, one column at a time.

    References
    ----------
    Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
    Data Sets", ICML 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEImputer
    >>> X = load_wine().data
    >>> holed = X.copy()
    >>> holed[::3, 5] = np.nan
    >>> completed = VAEImputer(random_state=0).fit_transform(holed)
    >>> bool(np.isfinite(completed).all())
    True
    >>> bool(np.abs(completed[::3, 5] - X[::3, 5]).mean() < X[:, 5].std())
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseVAE._parameter_constraints,
        **ENSEMBLE,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "add_indicator": ["boolean"],
    }
    indicator_features_: np.ndarray

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
        n_estimators: int = 3,
        max_samples: float | str = "auto",
        bootstrap: bool = False,
        add_indicator: bool = False,
        likelihood: str | dict[Any, str] = "auto",
        categorical_features: Any = "from_dtype",
        min_frequency: int | float | None = None,
        max_categories: int | None = None,
        handle_unknown: str = "missing",
        noise: str = "auto",
        hidden_layer_sizes: Any = "auto",
        activation: str = "silu",
        dropout: float = 0.0,
        start: str = "linear",
        variational: bool = True,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        free_bits: float = 0.0,
        prior: str = "normal",
        n_importance_samples: int | str = "auto",
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.01,
        learning_rate: str = "cosine",
        max_iter: int | str = "auto",
        max_time: float | None = None,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        max_grad_norm: float | None = 100.0,
        n_score_samples: int = 64,
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            n_components,
            likelihood=likelihood,
            categorical_features=categorical_features,
            min_frequency=min_frequency,
            max_categories=max_categories,
            handle_unknown=handle_unknown,
            noise=noise,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            dropout=dropout,
            start=start,
            variational=variational,
            beta=beta,
            kl_warmup=kl_warmup,
            free_bits=free_bits,
            prior=prior,
            n_importance_samples=n_importance_samples,
            alpha=alpha,
            l1_ratio=l1_ratio,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            learning_rate=learning_rate,
            max_iter=max_iter,
            max_time=max_time,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            max_grad_norm=max_grad_norm,
            n_score_samples=n_score_samples,
            device=device,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
        )
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.bootstrap = bootstrap
        self.add_indicator = add_indicator

    @property
    def _defaults(self) -> Defaults:
        return _IMPUTATION

    @answers
    def transform(self, X: Any) -> Any:
        """Complete a table.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        completed : table of shape (n_samples, n_features_out)
            In the container of `fit`; observed cells are untouched. With
            `add_indicator` the indicators stand behind.
        """
        raw = self._check(X)
        completed = self._imputed(X, raw)
        if not self.add_indicator:
            return completed
        missing = raw.missing(self.indicator_features_)
        names = self.get_feature_names_out()[self.n_features_in_ :]
        return self._container.with_columns(completed, names.tolist(), missing)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns, where `fit` saw none.

        Returns
        -------
        names : ndarray of str
            Those of the table, then ``missingindicator_`` and the name of each column
            with an indicator.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        if not self.add_indicator:
            return names
        flags = [f"missingindicator_{names[j]}" for j in self.indicator_features_]
        return np.concatenate([names, np.array(flags, dtype=object)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # TransformerMixin has just made them afresh.
        tags.transformer_tags.preserves_dtype = list(PRESERVED_DTYPES)
        return tags

    def _fitted(
        self,
        training: Training,
        model: LatentModel,
        history: History,
        held_out: np.ndarray,
    ) -> dict[str, Any]:
        fitted = super()._fitted(training, model, history, held_out)
        # Not of the rows that training comes to see alone.
        holed: np.ndarray = training.table.holed(axis=0)
        if getattr(self, "_schema", None) is training.schema:  # a fit that goes on
            holed[self.indicator_features_] = True
        donors, used = None, training.coded.without(held_out)
        if self.prior == "normal":
            donors = learn_donors(model, used.values, used.weight, training.seed)
        return {
            **fitted,
            "_donors": donors,
            "indicator_features_": np.flatnonzero(holed),
        }
