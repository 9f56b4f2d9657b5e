"""Outlier and novelty detection."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions

from skvae._backend import joined
from skvae.estimators._arrays import answers_directly
from skvae.estimators._codes import Codes
from skvae.estimators._documentation import documented
from skvae.estimators._parameters import ENSEMBLE, Defaults
from skvae.estimators._tables import users_level
from skvae.estimators._training import Training
from skvae.estimators._verdicts import Verdicts
from skvae.inference.aggregate import Aggregate
from skvae.inference.labels import Labelled, learn_weights
from skvae.inference.scoring import SCORES, Score, draw_bank
from skvae.model.latent import LatentModel
from skvae.model.members import members_of
from skvae.training.coded import CodedTable

_AUTO = StrOptions({"auto"})

# Measured in benchmarks/quality/detector.md.
_OUTLIERS = Defaults(
    continuous="student_t",
    scaling="robust",
    noise="column",
    max_steps=lambda n_rows, n_columns: 200,
    n_components=lambda n_columns: 1 + int(np.sqrt(n_columns)),
    hidden=lambda n_columns: (64,),
    max_batch=lambda n_rows: 128,
    params={
        "n_estimators": 4,
        "start": "mixed",
        "trim": 0.25,
        "early_stopping": False,
        "anomaly_score": "code_likelihood",
    },
)
_NOVELTIES = Defaults(
    continuous="student_t",
    scaling="standard",
    noise="column",
    max_steps=lambda n_rows, n_columns: 300,
    n_components=lambda n_columns: min(n_columns, 64),
    hidden=lambda n_columns: (64,),
    least_noise=0.1,
    max_batch=lambda n_rows: 128,
    params={
        "n_estimators": 1,
        "start": "linear",
        "trim": 0.0,
        "early_stopping": False,
        "anomaly_score": "aggregate",
    },
)


@documented("detector")
class VAEAnomalyDetector(OutlierMixin, Codes, Verdicts):
    """Outlier detector: a variational autoencoder that expects dirt in its table.

    Columns are scaled robustly, their noise has heavy tails, and the worst rows of each
    step are left out, so that outliers among the training rows bend the model little.
    `explain` tells for each row which columns make it unusual.

    Parameters
    ----------
    novelty : bool, default=False
        What the training table is. False: as it comes, with outliers in it; the fit is
        robust and the members start differently. True: normal rows only; one model with
        as many components as columns (at most 64) learns them closely. It changes what
        "auto" is elsewhere, nothing else.
    contamination : "auto" or float, default="auto"
        Share of outliers among the training rows, in (0, 0.5]. It changes no score.
        "auto" estimates it: the excess of low scores over what the heavy tail of a
        normal table may hold.
    n_estimators : int or "auto", default="auto"
        Independently trained models whose scores are put together: as "log_likelihood",
        and in `score`, the log of the mean of their densities, else the mean of their
        scores. "auto" is 4, for novelties 1.
    {members}
    anomaly_score : str, default="auto"
        What `score_samples` gives: "code_likelihood" (log density of the cells at the
        code), "aggregate" (the same, less 0.3 times how improbable the code is under
        the nearest of training rows), "log_likelihood", "elbo",
        "reconstruction_probability" (An and Cho, 2015) or "reconstruction" (minus the
        squared error in scaled units). "auto" is "code_likelihood", for novelties
        "aggregate". For these two rows are completed, and a hole adds what fills it, at
        most what the median cell of its column adds; the others score rows by the
        observed cells alone.
    trim : float or "auto", default="auto"
        Share of the worst rows that each training step leaves out, and the linear
        start too, in [0, 0.5]. "auto" is 0.25, for novelties 0.
    n_components : int or "auto", default="auto"
        Number of components of the code. "auto" is one more than the root of the
        number of columns, for novelties that number, at most 64.
    {parameters}

    Attributes
    ----------
    offset_ : float
        Threshold of `score_samples`: rows below it are outliers. So are a share
        `contamination_` of the training rows.
    contamination_ : float
        Share of outliers, given or estimated: one in a hundred where "auto" finds
        fewer, as even a clean table has its least normal rows.
    {attributes}

    See Also
    --------
    VAETransformer : The same model for codes, densities and generation.
    sklearn.ensemble.IsolationForest : Detection by random splits.

    References
    ----------
    An and Cho, "Variational Autoencoder based Anomaly Detection using Reconstruction
    Probability", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAEAnomalyDetector
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[0] = 10.0
    >>> detector = VAEAnomalyDetector(random_state=0).fit(X)
    >>> int(detector.predict(X)[0])
    -1
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Verdicts._parameter_constraints,
        **ENSEMBLE,
        "novelty": ["boolean"],
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        "n_estimators": [Interval(Integral, 1, None, closed="left"), _AUTO],
        "anomaly_score": [StrOptions({"auto", "aggregate", *SCORES})],
        "trim": [Interval(Real, 0, 0.5, closed="both"), _AUTO],
        "start": [StrOptions({"auto", "linear", "random", "mixed"})],
    }

    def __init__(
        self,
        *,
        novelty: bool = False,
        contamination: float | str = "auto",
        n_estimators: int | str = "auto",
        max_samples: float | str = "auto",
        bootstrap: bool = False,
        anomaly_score: str = "auto",
        trim: float | str = "auto",
        n_components: int | str = "auto",
        likelihood: str | dict[Any, str] = "auto",
        categorical_features: Any = "from_dtype",
        min_frequency: int | float | None = None,
        max_categories: int | None = None,
        handle_unknown: str = "missing",
        noise: str = "auto",
        hidden_layer_sizes: Any = "auto",
        activation: str = "silu",
        dropout: float = 0.0,
        start: str = "auto",
        variational: bool = True,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        free_bits: float = 0.0,
        prior: str = "normal",
        n_importance_samples: int | str = "auto",
        alpha: float = 0.01,
        l1_ratio: float = 0.0,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.002,
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
            n_components=n_components,
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
        self.novelty = novelty
        self.contamination = contamination
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.bootstrap = bootstrap
        self.anomaly_score = anomaly_score
        self.trim = trim

    _aggregate: Aggregate | None = None
    _label_weights: np.ndarray | None = None
    _score_name: str

    def _apart(self, y: Any) -> np.ndarray | None:
        labels = np.asarray(y)
        if labels.dtype.kind == "b":
            warnings.warn(
                "y holds booleans, which tell no outliers and are ignored. Give -1 for "
                "known outliers and 0 for the other rows, as np.where(y, -1, 0) does "
                "where True is an outlier.",
                UserWarning,
                stacklevel=users_level(),
            )
        if labels.dtype.kind not in "ifO" or not _equal(labels, -1).any():
            return None
        labels = column_or_1d(labels, warn=True)
        strange = labels[~(_equal(labels, -1) | _equal(labels, 0) | _equal(labels, 1))]
        if len(strange):
            raise ValueError(
                f"Labels must be -1 (outlier), 0 (unknown) or 1 (inlier), but y holds "
                f"{strange[0]} too. Drop y if it is no label of outliers."
            )
        return _equal(labels, -1)

    @property
    def _defaults(self) -> Defaults:
        return _NOVELTIES if self.novelty else _OUTLIERS

    @property
    def _score(self) -> Score:
        # The one that `offset_` was set by, whatever the parameters are by now.
        score = self._aggregate or SCORES[self._score_name]
        if self._label_weights is None:
            return score
        return Labelled(score, self._label_weights)

    @property
    def _completes(self) -> bool:
        name = self._settled["anomaly_score"]
        return Aggregate.completes if name == "aggregate" else SCORES[name].completes

    def fit_predict(self, X: Any, y: Any = None, **params: Any) -> np.ndarray:
        """Fit, then tell outliers (-1) from inliers (+1) among the same rows.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            Labels, as `fit` takes them.
        **params
            More of what `fit` takes.

        Returns
        -------
        labels : ndarray of int of shape (n_samples,)
        """
        return self.fit(X, y, **params).predict(X)

    @answers_directly
    def score_std(self, X: Any) -> np.ndarray:
        """How far the members of the ensemble disagree about each row.

        Parameters
        ----------
        X : table of shape (n_samples, n_features)

        Returns
        -------
        std : ndarray of shape (n_samples,)
            Standard deviation of `score_samples` between the members, each taken
            alone; 0 where there is only one.
        """
        raw = self._check(X)
        each = [
            one._scores(raw, one._score)[None]
            for one in map(self._member, range(self._model.n_members))
        ]
        scores = joined(each)
        return ((scores - scores.mean(0)) ** 2).mean(0) ** 0.5

    def _member(self, member: int) -> Self:
        """The detector of one member alone, as far as scores need it."""
        aggregate = (
            None if self._aggregate is None else self._aggregate.of_members([member])
        )
        model = members_of(self._model, [member])
        return self._with({"_model": model, "_aggregate": aggregate})

    def _learn_score(
        self, model: LatentModel, learned: CodedTable, training: Training
    ) -> Score:
        name, seed = self._settled["anomaly_score"], training.seed
        rows, outliers = learned.values, training.outliers
        score = Aggregate.of(model, rows, seed) if name == "aggregate" else SCORES[name]
        if outliers is None:
            if self._label_weights is None or not training.go_on:
                return score
            # They are in the units of the score that they were learned for.
            kept = self._score_name == name
            return Labelled(score, self._label_weights) if kept else score
        bank = draw_bank(self.n_score_samples, model.n_components, seed)
        weights = learn_weights(
            model,
            rows,
            outliers.array,
            bank,
            score,
            seed,
            weight=learned.weight,
            outlier_weight=outliers.weight,
        )
        return Labelled(score, weights)

    def _state_of(self, score: Score) -> dict[str, Any]:
        weights = None
        if isinstance(score, Labelled):
            weights, score = score.weights, score.score
        learned = score if isinstance(score, Aggregate) else None
        return {"_aggregate": learned, "_label_weights": weights}


def _equal(labels: np.ndarray, value: int) -> np.ndarray:
    """Where a label is this number; an object may be anything else, pandas' NA too."""
    if labels.dtype.kind != "O":
        return np.asarray(labels == value)
    found = [isinstance(label, Real) and label == value for label in labels.flat]
    return np.array(found, dtype=bool).reshape(labels.shape)
