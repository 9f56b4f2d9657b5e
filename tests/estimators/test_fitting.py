"""What the parameters of objective, network and noise do, as a user sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def linear(n_rows: int = 120, seed: int = 0) -> NDArray[np.float64]:
    """Two factors in six columns; the seed changes the rows, not the model."""
    loadings = np.random.default_rng(5).normal(size=(2, 6))
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 6))


def curved(n_rows: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """A noisy circle and its bends: what no linear model describes."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, size=n_rows)
    clean = [np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    return np.column_stack(clean) + 0.1 * rng.normal(size=(n_rows, 4))


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- objective ---------------------------------------------------------------------


def test_beta_weighs_the_kl() -> None:
    X = linear()
    fits = [
        VAETransformer(2, beta=beta, early_stopping=False, random_state=0).fit(X)
        for beta in (0.2, 1.0, 2.5)
    ]
    low, one, high = (float(fit.kl_per_component_.sum()) for fit in fits)
    assert low > one + 0.3
    assert one > high + 0.3
    # Scores are those of beta = 1 whatever training weighed.
    for fit in fits:
        reconstruction, kl = fit.elbo(X, decompose=True)
        np.testing.assert_allclose(fit.elbo(X), reconstruction - kl)
        assert (kl > 0.0).all()
    new = linear(400, seed=1)
    assert fits[1].score(new) > max(fits[0].score(new), fits[2].score(new))


def test_beta_of_zero_is_allowed(cls: type[Estimator]) -> None:
    X = linear()
    assert np.isfinite(cls(beta=0.0, max_iter=3, random_state=0).fit(X).score(X))


def test_kl_warmup_starts_with_the_reconstruction() -> None:
    # The first loss holds almost no KL, the last all of it; the draws are the same.
    X, plain = linear(), VAETransformer(2, early_stopping=False, max_iter=20)
    cold = clone(plain).set_params(random_state=0).fit(X)
    warm = clone(plain).set_params(random_state=0, kl_warmup=1.0).fit(X)
    kl = cold.kl_per_component_.sum()
    assert cold.loss_curve_[0] - warm.loss_curve_[0] > 0.8 * kl
    assert abs(cold.loss_curve_[-1] - warm.loss_curve_[-1]) < 0.5 * kl
    half = clone(plain).set_params(random_state=0, kl_warmup=0.5).fit(X)
    assert warm.loss_curve_[0] < half.loss_curve_[0] < cold.loss_curve_[0]


def test_free_bits_keep_components_in_use() -> None:
    X = np.random.default_rng(0).normal(size=(200, 3))
    plain = VAETransformer(2, start="random", beta=2.0, early_stopping=False)
    plain.set_params(random_state=0, max_iter=60, learning_rate_init=0.01)
    with pytest.warns(ConvergenceWarning, match="set free_bits"):
        collapsed = clone(plain).fit(X)
    assert collapsed.n_active_components_ == 0
    assert (collapsed.kl_per_component_ < 0.1).all()
    kept = clone(plain).set_params(free_bits=0.5).fit(X)
    assert kept.n_active_components_ == 2
    assert (kept.kl_per_component_ > 0.3).all()


def test_importance_samples_tighten_the_bound() -> None:
    # Of one model, which a learning rate of nearly nothing leaves as it starts.
    X = curved()
    fits = [
        VAETransformer(1, n_importance_samples=k, start="random", random_state=0)
        .set_params(early_stopping=False, max_iter=1, learning_rate_init=1e-12)
        .fit(X)
        for k in (1, 16)
    ]
    np.testing.assert_allclose(fits[0].transform(X), fits[1].transform(X), atol=1e-6)
    # A loss is minus a lower bound of the log-likelihood.
    bounds = [-fit.loss_curve_[0] for fit in fits]
    assert bounds[0] + 0.01 < bounds[1] < fits[1].score(X) + 0.01


def test_importance_weighted_training_learns(cls: type[Estimator]) -> None:
    X = curved()
    estimator = cls(n_components=1, n_importance_samples=8, start="random")
    estimator.set_params(early_stopping=False, max_iter=15, random_state=0).fit(X)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0] - 0.2


def networks(vae: Estimator) -> NDArray[np.float64]:
    """The penalised weights of the networks."""
    params = vae._model.params
    mask = params.mask(lambda name: ".weight" in name or "head" in name)
    return np.asarray(params.flat[mask.expand_as(params.flat) > 0])


def test_alpha_shrinks_the_networks_and_l1_empties_them() -> None:
    X, plain = curved(), VAETransformer(1, early_stopping=False, max_iter=30)
    plain.set_params(random_state=0)
    free, l2, l1 = (
        networks(clone(plain).set_params(alpha=alpha, l1_ratio=ratio).fit(X))
        for alpha, ratio in ((0.0, 0.0), (3.0, 0.0), (0.3, 1.0))
    )
    assert np.abs(l2).mean() < 0.8 * np.abs(free).mean()
    assert 0.1 < (l1 == 0.0).mean() < 0.9
    assert (l2 == 0.0).mean() < 0.01


def test_a_strong_penalty_leaves_the_linear_model() -> None:
    X = curved()
    vae = VAETransformer(2, alpha=1e3, l1_ratio=1.0, early_stopping=False)
    vae.set_params(random_state=0, max_iter=5).fit(X)
    a, b = X[:50], X[50:100]
    middle = 0.5 * (vae.transform(a) + vae.transform(b))
    np.testing.assert_allclose(vae.transform(0.5 * (a + b)), middle, atol=1e-9)


# -- networks and noise ------------------------------------------------------------


def test_dropout_is_for_training_only(cls: type[Estimator]) -> None:
    X = curved(100)
    plain = cls(early_stopping=False, max_iter=5, random_state=0)
    with_dropout = clone(plain).set_params(dropout=0.5).fit(X)
    np.testing.assert_array_equal(with_dropout.transform(X), with_dropout.transform(X))
    again = clone(plain).set_params(dropout=0.5).fit(X)
    np.testing.assert_array_equal(with_dropout.transform(X), again.transform(X))
    assert with_dropout.loss_curve_ != clone(plain).fit(X).loss_curve_


@pytest.mark.parametrize(
    "activation", ["relu", "silu", "gelu", "elu", "tanh", "softplus", "logistic"]
)
def test_activations_learn_a_curve(activation: str) -> None:
    X = curved()
    vae = VAETransformer(1, activation=activation, early_stopping=False)
    vae.set_params(random_state=0, max_iter=120, learning_rate_init=0.01).fit(X)
    assert vae.score(X) > PCA(1).fit(X).score(X) + 0.2


@pytest.mark.parametrize("table", [linear(), load_wine().data], ids=["linear", "wine"])
@pytest.mark.parametrize("k", [1, 3])
def test_shared_noise_without_networks_is_probabilistic_pca(
    table: NDArray[np.float64], k: int
) -> None:
    vae = VAETransformer(k, noise="shared", hidden_layer_sizes=()).fit(table)
    pca = PCA(k).fit(table)
    assert isinstance(vae.noise_variance_, float)
    assert vae.noise_variance_ == pytest.approx(pca.noise_variance_, rel=1e-3)
    np.testing.assert_allclose(
        vae.score_samples(table), pca.score_samples(table), rtol=0.01
    )


def test_column_noise_without_networks_is_factor_analysis() -> None:
    X = linear(400)
    vae = VAETransformer(2, noise="column", hidden_layer_sizes=()).fit(X)
    analysis = FactorAnalysis(2, tol=1e-10, max_iter=5000).fit(X)
    # Up to the divisor of the covariance, n or n - 1.
    np.testing.assert_allclose(vae.noise_variance_, analysis.noise_variance_, rtol=3e-3)
    np.testing.assert_allclose(
        vae.score_samples(X), analysis.score_samples(X), rtol=1e-2
    )


def test_network_noise_follows_the_code() -> None:
    # The spread of the second column depends on the first: one noise cannot tell.
    rng = np.random.default_rng(0)
    code = rng.normal(size=600)
    spread = np.where(code > 0.0, 1.0, 0.05)
    X = np.column_stack([code, code, spread * rng.normal(size=600)])
    X[:, :2] += 0.05 * rng.normal(size=(600, 2))
    scores = {}
    for noise in ("column", "network"):
        vae = VAETransformer(1, noise=noise, random_state=0, learning_rate_init=0.005)
        scores[noise] = vae.fit(X).score(X)
        assert vae.noise_variance_.shape == (3,)
    assert scores["network"] > scores["column"] + 0.3


def test_random_start_finds_the_linear_solution_too() -> None:
    X = linear(400)
    scores = [
        VAETransformer(2, start=start, random_state=0, learning_rate_init=0.01)
        .fit(X)
        .score(X)
        for start in ("linear", "random")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.25)


# -- plain auto-encoders -----------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "k", "params"),
    [
        (load_wine, 3, {}),
        (load_digits, 8, {"max_iter": 20}),
        (load_digits, 8, {"hidden_layer_sizes": ()}),
    ],
    ids=["wine", "digits", "digits, linear"],
)
def test_plain_autoencoder_reconstructs_as_well_as_pca(
    load: Any, k: int, params: dict[str, Any]
) -> None:
    X = StandardScaler().fit_transform(load().data)
    vae = VAETransformer(k, variational=False, random_state=0, **params).fit(X)
    pca = PCA(k).fit(X)
    least = np.mean((X - pca.inverse_transform(pca.transform(X))) ** 2)
    error = np.mean((X - vae.reconstruct(X)) ** 2)
    assert error <= least * (1.0 + 1e-6)
    if load is load_digits and vae.get_params()["hidden_layer_sizes"] == "auto":
        assert error < 0.7 * least
    np.testing.assert_allclose(
        vae.inverse_transform(vae.transform(X)), vae.reconstruct(X), atol=1e-9
    )


def test_plain_autoencoder_is_a_density_after_training() -> None:
    X = StandardScaler().fit_transform(load_wine().data)
    vae = VAETransformer(3, variational=False, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    # It knows its table: permuted columns are less likely, and samples resemble it.
    rng = np.random.default_rng(0)
    assert vae.score(X) > vae.score(rng.permuted(X, axis=0)) + 1.0
    sample = vae.sample(4000, random_state=0)
    np.testing.assert_allclose(sample.mean(axis=0), 0.0, atol=0.15)
    np.testing.assert_allclose(np.cov(sample.T), np.cov(X.T), atol=0.35)
