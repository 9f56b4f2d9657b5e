"""The linear limit: scikit-learn's PCA and FactorAnalysis on real tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import linalg
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from skvae import VAETransformer

# Models of columns that nearly follow from others say so; that is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

LOADERS: dict[str, Callable[[], Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
}


@cache
def table(name: str) -> np.ndarray:
    X = LOADERS[name]().data.astype(float)
    X.flags.writeable = False
    return X


def standardised(name: str) -> np.ndarray:
    X = table(name)
    return (X - X.mean(0)) / X.std(0)


RAW_AND_STANDARDISED = [(name, raw) for name in LOADERS for raw in (True, False)]
linear_tables = pytest.mark.parametrize(
    ("name", "raw"),
    RAW_AND_STANDARDISED,
    ids=[f"{name}-{'raw' if raw else 'std'}" for name, raw in RAW_AND_STANDARDISED],
)


def linear_map(model: Any, X: np.ndarray) -> np.ndarray:
    """The matrix A of transform(x) = x A + a, (d, k), from the answers alone."""
    origin, step = X.mean(0), X.std(0)
    moved = model.transform(origin + np.diag(step))
    return (moved - model.transform(origin[None])) / step[:, None]


def assert_is_pca(X: np.ndarray, k: int) -> None:
    pca = PCA(k).fit(X)
    model = VAETransformer(
        k, hidden_layer_sizes=(), noise="shared", random_state=0
    ).fit(X)
    gap = np.abs(model.score_samples(X) - pca.score_samples(X)).mean()
    assert gap < 0.05, f"{gap} nats at {k=}"
    angle = linalg.subspace_angles(linear_map(model, X), pca.components_.T).max()
    assert angle < 0.02, f"{angle} radians at {k=}"
    np.testing.assert_allclose(model.noise_variance_, pca.noise_variance_, rtol=0.05)


@linear_tables
def test_linear_limit_is_pca(name: str, raw: bool) -> None:
    X = table(name) if raw else standardised(name)
    d = X.shape[1]
    for k in sorted({1, 2, d // 2, d - 2, d - 1}):
        assert_is_pca(X, k)


@pytest.mark.slow
@linear_tables
def test_linear_limit_is_pca_at_every_k(name: str, raw: bool) -> None:
    X = table(name) if raw else standardised(name)
    for k in range(1, X.shape[1]):
        assert_is_pca(X, k)


def factor_analysis(X: np.ndarray, k: int) -> FactorAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return FactorAnalysis(k, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(X)


def column_noise(X: np.ndarray, k: int) -> Any:
    return VAETransformer(k, hidden_layer_sizes=(), noise="column", random_state=0).fit(
        X
    )


# Tables and k at which no column's noise runs to zero (a Heywood case has no maximum
# to agree on) and scikit-learn's climb ends at the best of several maxima.
FACTOR_CASES = [
    ("iris", 3),
    ("wine", 1),
    ("wine", 2),
    ("wine", 3),
    ("wine", 12),
    ("diabetes", 9),
    ("breast_cancer", 1),
    ("breast_cancer", 2),
    pytest.param("breast_cancer", 29, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "k"), FACTOR_CASES)
def test_linear_limit_with_column_noise_is_factor_analysis(name: str, k: int) -> None:
    X = standardised(name)
    theirs, mine = factor_analysis(X, k), column_noise(X, k)
    gap = np.abs(mine.score_samples(X) - theirs.score_samples(X)).mean()
    assert gap < 0.05
    weight = theirs.components_ / theirs.noise_variance_
    # below the full number of factors these are known: compare what encodes
    if k <= X.shape[1] // 2:
        assert linalg.subspace_angles(linear_map(mine, X), weight.T).max() < 0.02
        np.testing.assert_allclose(
            mine.noise_variance_, theirs.noise_variance_, rtol=0.05, atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_column_noise_is_nowhere_less_likely_than_factor_analysis(name: str) -> None:
    X = standardised(name)
    d = X.shape[1]
    for k in sorted({1, 2, 3, d // 2, d - 1} & set(range(1, d))):
        assert column_noise(X, k).score(X) > factor_analysis(X, k).score(X) - 0.01


def test_trained_model_is_not_less_likely_than_its_linear_limit() -> None:
    # On rows that neither has seen, up to what a standard error can hide.
    X = table("wine")
    order = np.random.default_rng(0).permutation(len(X))
    train, test = X[order[:120]], X[order[120:]]
    linear = column_noise(train, 4).score_samples(test)
    trained = VAETransformer(4, noise="column", random_state=0).fit(train)
    gain = trained.score_samples(test) - linear
    assert gain.mean() > -4.0 * gain.std() / np.sqrt(len(test)) - 0.1
