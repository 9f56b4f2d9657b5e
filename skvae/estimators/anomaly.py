"""Outlier and novelty detection."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils._param_validation import Interval, StrOptions

from skvae.estimators._codes import Codes
from skvae.estimators._parameters import documented
from skvae.estimators._verdicts import Verdicts
from skvae.inference.scoring import SCORES, Score


@documented("detector")
class VAEAnomalyDetector(OutlierMixin, Codes, Verdicts):
    """Outlier detector: a variational autoencoder that expects dirt in its table.

    Columns are scaled robustly, their noise has heavy tails, and the worst rows of each
    step are left out, so that outliers among the training rows bend the model little.
    `explain` tells for each row which columns make it unusual.

    Parameters
    ----------
    contamination : "auto" or float, default="auto"
        Share of outliers among the training rows, in (0, 0.5]. It changes no score.
        "auto" estimates it: the excess of low scores over what the heavy tail of a
        normal table may hold.
    n_estimators : int, default=1
        Independently trained models whose scores are put together.
    anomaly_score : str, default="elbo"
        What `score_samples` gives: "log_likelihood", "elbo",
        "reconstruction_probability" (An and Cho, 2015) or "reconstruction" (minus
        the squared error in scaled units).
    trim : float, default=0.25
        Share of the worst rows that each training step leaves out, and the linear
        start too, in [0, 0.5].
    n_components : int or "auto", default="auto"
        Number of components of the code. "auto" is one more than the root of the
        number of columns.
    {parameters}

    Attributes
    ----------
    offset_ : float
        Threshold of `score_samples`: rows below it are outliers. So are a share
        `contamination_` of the training rows, or one in a hundred where "auto" finds
        fewer.
    contamination_ : float
        Share of outliers, estimated or given.
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
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "anomaly_score": [StrOptions(set(SCORES))],
        "trim": [Interval(Real, 0, 0.5, closed="both")],
    }
    _continuous: ClassVar[str] = "student_t"
    _scaling: ClassVar[str] = "robust"
    _noise: ClassVar[str] = "column"
    _max_steps: ClassVar[int] = 200

    def __init__(
        self,
        *,
        contamination: float | str = "auto",
        n_estimators: int = 1,
        anomaly_score: str = "elbo",
        trim: float = 0.25,
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
        self.contamination = contamination
        self.n_estimators = n_estimators
        self.anomaly_score = anomaly_score
        self.trim = trim

    @staticmethod
    def _default_components(n_columns: int) -> int:
        return 1 + int(np.sqrt(n_columns))

    @property
    def _score(self) -> Score:
        return SCORES[self.anomaly_score]
