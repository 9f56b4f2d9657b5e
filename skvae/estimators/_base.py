"""What all estimators are: parameters, fitting, state that is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import Tags

from skvae._version import __version__
from skvae.estimators._arrays import copy_with, kept_state, learns, learns_more
from skvae.estimators._callbacks import CallbackSupportMixin, FitTask
from skvae.estimators._fitted import encode
from skvae.estimators._outcome import Outcome
from skvae.estimators._parameters import CONSTRAINTS, counts_only
from skvae.estimators._tables import check_levels, read_table, users_level
from skvae.estimators._training import Training
from skvae.model.latent import LatentModel
from skvae.model.priors import AggregatePosterior, StandardNormal
from skvae.training.fit import fit_model, partial_fit_model
from skvae.training.history import History


class BaseVAE(Outcome, CallbackSupportMixin, BaseEstimator):
    """Shared shell of the estimators."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = dict(CONSTRAINTS)
    _doc_link_module = "skvae"
    _doc_link_template = (
        "https://skvae.readthedocs.io/en/stable/reference/skvae.{estimator_name}.html"
    )

    n_features_in_: int
    n_iter_: int
    loss_curve_: list[float]

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
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
        alpha: float = 0.01,
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
        self.n_components = n_components
        self.likelihood = likelihood
        self.categorical_features = categorical_features
        self.min_frequency = min_frequency
        self.max_categories = max_categories
        self.handle_unknown = handle_unknown
        self.noise = noise
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.start = start
        self.variational = variational
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.prior = prior
        self.n_importance_samples = n_importance_samples
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.max_grad_norm = max_grad_norm
        self.n_score_samples = n_score_samples
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    # -- fitting -----------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    @learns
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
    ) -> Self:
        """Fit the model to a table.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
            An array or a frame of pandas, polars or pyarrow: numbers, text, categories,
            booleans, dates; NaN, None, NA and NaT are missing cells. At least two rows
            and one column that varies; every column with an observed cell.
        y : array-like of shape (n_samples,), default=None
            For `VAEAnomalyDetector` alone, others ignore it. What is known of the rows:
            -1 an outlier, 0 nothing, 1 an inlier. Outliers are left out of everything
            but the score, which learns by them how much each column tells; the other
            rows count as normal, most of them at least. Classes, and anything else
            without a -1, are ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative.
        X_val : table of shape (n_rows, n_features), default=None
            Rows for early stopping, in place of `validation_fraction` of X.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For a table, labels or parameters that cannot be fitted, or a loss that
            became infinite. An earlier fit then stays as it was.
        """
        go_on = bool(self.warm_start) and hasattr(self, "_model")
        with self._all_or_nothing():
            training = self._prepare(X, sample_weight, go_on=go_on, y=y)
            validation = None
            if X_val is not None:
                held_out = read_table(self, X_val, reset=False)
                check_levels(training.schema, held_out, self.handle_unknown)
                validation = encode(training.schema, held_out)
                if training.completion is not None:
                    validation = training.completion(validation)
            task = FitTask(self, X, y, training.settings.plan.n_epochs)
            fit = fit_model(
                training.coded,
                training.settings,
                training.seed,
                validation=validation,
                model=self._last_model() if go_on else None,
                on_epoch=self._observer(training, task),
            )
            fitted = self._fitted(training, fit.model, fit.history, fit.held_out)
            self.__dict__.update(fitted)
            self.__dict__.pop("_moments", None)  # the optimiser's, of an earlier stream
            self._warn(training)
            task.ended()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    @learns_more
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Make one pass over some more rows.

        The first call learns scaling and start from its rows; later calls keep them.
        There is no early stopping, and the learning rate stays what it is in the middle
        of a fit: half of `learning_rate_init`, or all of it where `learning_rate` is
        "constant". What is averaged over rows or set by them (`base_score_`, a
        detector's `offset_`) is that of the latest call's.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            As in `fit`. What a detector learned by the labels of an earlier call holds
            until there are others, as long as `anomaly_score` stays.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        go_on = hasattr(self, "_model")
        with self._all_or_nothing():
            training = self._prepare(X, sample_weight, go_on=go_on, whole=True, y=y)
            n_epochs = self.n_iter_ if go_on else 0
            model, history, moments = partial_fit_model(
                training.coded,
                training.settings,
                training.seed,
                n_epochs=n_epochs,
                model=self._last_model() if go_on else None,
                moments=getattr(self, "_moments", None) if go_on else None,
            )
            earlier = list(self.loss_curve_) if go_on else []
            fitted = self._fitted(training, model, history, np.empty(0, int))
            fitted["n_iter_"] = n_epochs + 1
            fitted["loss_curve_"] = earlier + fitted["loss_curve_"]
            self.__dict__.update(fitted, _moments=moments)
        return self

    def _last_model(self) -> LatentModel:
        """The last fit's model, under the prior that training goes by."""
        if isinstance(self._model.prior, AggregatePosterior):
            return self._model.with_prior(StandardNormal())
        return self._model

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave an earlier fit as it was where this one fails."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            state = self.__dict__
            # scikit-learn still has to tear its callbacks down.
            kept = {k: v for k, v in state.items() if k.startswith(("_skl", "_call"))}
            state.clear()
            state.update({**before, **kept})
            raise

    def _observer(
        self, training: Training, task: FitTask
    ) -> Callable[[LatentModel, History], bool]:
        """What is told of each pass."""

        def on_epoch(model: LatentModel, history: History) -> bool:
            self._report(training, history)

            def fitted() -> dict[str, Any]:
                now = model.to(torch.float64, torch.device("cpu"))
                return self._fitted(training, now, history, np.empty(0, int))

            last = history.stopped != "max_iter"
            return task.epoch_ended(history.n_epochs, fitted, last=last)

        return on_epoch

    def _report(self, training: Training, history: History) -> None:
        if self.verbose:
            n_epochs = training.settings.plan.n_epochs
            line = _progress(history, n_epochs, training.jacobian)
            if line:
                print(f"[{type(self).__name__}] {line}")

    # -- kept state --------------------------------------------------------------

    def _with(self, fitted: dict[str, Any]) -> Self:
        """A copy of this estimator with these attributes."""
        return copy_with(self, fitted)

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), **kept_state(self)}
        return {**state, "_skvae_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skvae_version", "unknown")
        if version != __version__:
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=__version__,
                    original_sklearn_version=version,
                ),
                stacklevel=users_level(),
            )
        super().__setstate__(state)
        if hasattr(self, "device_"):
            self.device_ = "cpu"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.sparse = counts_only(self.likelihood)
        return tags


def _progress(history: History, n_epochs: int, jacobian: float) -> str:
    """What is told of the last pass, of at most so many; empty for most of many."""
    if not history.loss:
        return "no pass: the linear start is kept"
    if history.n_epochs % max(1, n_epochs // 20):
        return ""
    line = f"pass {history.n_epochs} of at most {n_epochs} ({history.gradient} "
    line += f"gradient): loss {history.loss[-1] - jacobian:.4f} nats a row"
    if history.validation:
        line += f", held-out objective {history.validation[-1] + jacobian:.4f}"
    return line
