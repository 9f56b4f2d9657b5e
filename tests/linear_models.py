"""Models that are a known Gaussian, for tests against its closed form."""

from __future__ import annotations

import numpy as np

from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian


def model_of(linear: LinearGaussian, members: int = 1) -> LatentModel:
    """The model without a network that is this Gaussian, posterior and all."""
    d, k = linear.loadings.shape
    model = LatentModel.build(
        kinds=("gaussian",) * d,
        variance_floor=np.full(d, 1e-6),
        n_components=k,
        hidden=(),
        activation="silu",
        n_free_scales=d,
        n_members=members,
    )
    model.start_linear(linear)
    return model


def covariance_of(linear: LinearGaussian) -> np.ndarray:
    """Covariance of its rows, (n_columns, n_columns)."""
    return linear.loadings @ linear.loadings.T + np.diag(linear.noise_variance)
