"""Dimensionality reduction, density and generation."""

from __future__ import annotations

from skvae.estimators._base import BaseVAE
from skvae.estimators._codes import Codes
from skvae.estimators._documentation import documented
from skvae.estimators._parameters import DENSITY, Defaults


@documented("transformer")
class VAETransformer(Codes, BaseVAE):
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

    @property
    def _defaults(self) -> Defaults:
        return DENSITY
