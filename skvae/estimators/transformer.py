"""Dimensionality reduction, density and generation."""

from __future__ import annotations

from typing import Any

from skvae.estimators._base import BaseVAE
from skvae.estimators._parameters import Defaults, documented

_DEFAULTS = Defaults(
    continuous="gaussian",
    scaling="standard",
    noise="network",
    max_steps=5000,
    n_components=lambda n_columns: min((n_columns + 1) // 2, 32),
    hidden=lambda n_columns: (256, 128) if n_columns >= 200 else (64, 64),
)


@documented("transformer")
class VAETransformer(BaseVAE):
    """Variational autoencoder of a table: codes, densities, explanations, new rows.

    The fitted model is one probability model p(x, z) of the table, and every method is
    one question asked of it. The model is a linear latent-variable model (probabilistic
    PCA, factor analysis) plus neural networks that start at zero, so that it begins as
    good as those and is trained only where that pays on rows it has not seen.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components of the code. "auto" is half of the columns, at most 32.
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    VAEAnomalyDetector : The same model as an outlier detector.

    References
    ----------
    Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with Calibrated
    Decoders", ICML 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X = load_wine().data
    >>> vae = VAETransformer(n_components=2, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    >>> vae.sample(3, random_state=0).shape
    (3, 13)
    """

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
        likelihood: str | dict[Any, str] = "auto",
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
        n_importance_samples: int = 1,
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
            n_components,
            likelihood=likelihood,
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

    @property
    def _defaults(self) -> Defaults:
        return _DEFAULTS
