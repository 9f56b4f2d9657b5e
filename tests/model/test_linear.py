"""Linear-Gaussian starts against scikit-learn, SciPy and Gaussian conditioning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from skvae.model import linear
from skvae.model.linear import LinearGaussian, factor_analysis, probabilistic_pca

Fit = Callable[..., LinearGaussian]

TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
}


def table(name: str) -> np.ndarray:
    return TABLES[name]().data.astype(float)


def standardised(name: str) -> np.ndarray:
    X = table(name)
    return (X - X.mean(axis=0)) / X.std(axis=0)


def factor_table(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.3, 1.5, d) * rng.normal(size=(n, d))
    return (
        rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + noise + rng.normal(size=d)
    )


def moments(X: np.ndarray, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return X.mean(axis=0), np.atleast_2d(np.cov(X, rowvar=False, ddof=ddof))


def dense(model: LinearGaussian) -> np.ndarray:
    """W W' + Psi."""
    return model.loadings @ model.loadings.T + np.diag(model.noise_variance)


def sklearn_factor_analysis(X: np.ndarray, k: int, max_iter: int) -> FactorAnalysis:
    """scikit-learn's fit; on the way to a noise of zero it hardly ever ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return FactorAnalysis(k, tol=1e-8, max_iter=max_iter).fit(X)


def identified(d: int, k: int) -> bool:
    """Whether a covariance has at least as many entries as the model parameters."""
    return (d - k) ** 2 >= d + k


IDENTIFIED = [
    (name, k)
    for name in TABLES
    for k in range(1, table(name).shape[1])
    if identified(table(name).shape[1], k)
]
FITTED: dict[str, Callable[[], LinearGaussian]] = {
    "ppca": lambda: probabilistic_pca(*moments(factor_table(80, 6, 2)), 3),
    "ppca_floor": lambda: probabilistic_pca(
        *moments(factor_table(80, 6, 2)), 3, floor=[0, 9, 0, 0, 9, 0]
    ),
    "factor_analysis": lambda: factor_analysis(*moments(factor_table(80, 6, 2)), 2),
    "spare_components": lambda: factor_analysis(*moments(factor_table(80, 4, 2)), 7),
}


# --- The model, given its parameters


@pytest.mark.parametrize("name", FITTED)
def test_log_prob_is_the_dense_gaussian(name: str) -> None:
    model = FITTED[name]()
    X = np.random.default_rng(1).normal(scale=3, size=(50, len(model.mean)))
    expected = stats.multivariate_normal(model.mean, dense(model)).logpdf(X)
    np.testing.assert_allclose(model.log_prob(X), expected, rtol=1e-10)


@pytest.mark.parametrize("name", FITTED)
def test_posterior_is_gaussian_conditioning(name: str) -> None:
    model = FITTED[name]()
    X = np.random.default_rng(1).normal(scale=3, size=(20, len(model.mean)))
    weight, intercept, variance = model.posterior()
    gain = np.linalg.solve(dense(model), model.loadings)
    covariance = np.eye(model.loadings.shape[1]) - model.loadings.T @ gain
    np.testing.assert_allclose(np.diag(variance), covariance, atol=1e-10)
    expected = (X - model.mean) @ gain
    np.testing.assert_allclose(X @ weight + intercept, expected, atol=1e-10)


@pytest.mark.parametrize("name", FITTED)
def test_components_come_strongest_first(name: str) -> None:
    variance = FITTED[name]().posterior()[2]
    assert (np.diff(variance) >= -1e-12).all()


def test_log_prob_keeps_its_digits_under_tiny_noise() -> None:
    # Along the loading the noise hardly counts: the density is a Gaussian of
    # variance 2 + 1e-12 there, and of 1e-12 across it.
    model = LinearGaussian(np.zeros(2), np.ones((2, 1)), np.full(2, 1e-12))
    along, across = stats.norm(scale=np.sqrt(2 + 1e-12)), stats.norm(scale=1e-6)
    expected = along.logpdf(3 * np.sqrt(2)) + across.logpdf(0.0)
    assert model.log_prob([[3.0, 3.0]])[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("mean", "loadings", "noise", "message"),
    [
        (np.zeros(2), np.zeros((3, 1)), np.ones(2), "shapes"),
        (np.zeros(2), np.zeros(2), np.ones(2), "shapes"),
        (np.zeros(2), np.zeros((2, 1)), np.array([1.0, 0.0]), "positive"),
        (np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]), np.ones(2), "rotated"),
    ],
)
def test_inconsistent_parameters_are_refused(
    mean: np.ndarray, loadings: np.ndarray, noise: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LinearGaussian(mean, loadings, noise)


# --- Probabilistic PCA


@pytest.mark.parametrize("name", TABLES)
def test_ppca_in_units_is_pca_of_the_raw_table(name: str) -> None:
    X = table(name)
    scale = X.std(axis=0)
    coded = (X - X.mean(axis=0)) / scale
    for k in range(1, X.shape[1]):
        model = probabilistic_pca(*moments(coded, ddof=1), k, units=scale)
        pca = PCA(k, svd_solver="full").fit(X)
        actual = model.log_prob(coded) - np.log(scale).sum()
        # PCA inverts a covariance whose eigenvalues span eleven decades: it has no more
        # digits than these, and how many depends on the machine's BLAS.
        np.testing.assert_allclose(actual, pca.score_samples(X), atol=0.05)
        shared = model.noise_variance * scale**2
        np.testing.assert_allclose(shared, pca.noise_variance_, rtol=1e-6)


def test_ppca_scores_held_out_rows_like_pca() -> None:
    X, new = np.split(factor_table(200, 7, 3), 2)
    model = probabilistic_pca(*moments(X, ddof=1), 3)
    expected = PCA(3, svd_solver="full").fit(X).score_samples(new)
    np.testing.assert_allclose(model.log_prob(new), expected, rtol=1e-9)


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (1, 3), (4, 4), (4, 6)])
def test_enough_components_give_the_gaussian_itself(fit: Fit, d: int, k: int) -> None:
    mean, covariance = moments(factor_table(60, d, 2))
    model = fit(mean, covariance, k)
    np.testing.assert_allclose(dense(model), covariance, rtol=1e-8)
    variance = model.posterior()[2]
    assert (variance[:d] < 0.75).all(), "each of the first d components is used"
    np.testing.assert_array_equal(model.loadings[:, d:], 0.0)


# --- Factor analysis


@pytest.mark.parametrize(("name", "k"), IDENTIFIED)
def test_factor_analysis_reaches_the_likelihood_of_sklearn(name: str, k: int) -> None:
    X = standardised(name)
    actual = factor_analysis(*moments(X), k).log_prob(X)
    reference = sklearn_factor_analysis(X, k, max_iter=2_000).score_samples(X)
    # There are several maxima, and which one a search ends in depends on rounding: on
    # 20 factors of breast_cancer the two differ by 1.3e-3 to 2.5e-3 nats.
    assert actual.mean() >= reference.mean() - 5e-3
    # scikit-learn may stop in a lower maximum, or on the way to a noise of zero;
    # where both stop in the same place, they agree on every row.
    if abs(actual.mean() - reference.mean()) < 1e-6:
        np.testing.assert_allclose(actual, reference, atol=1e-2)


def test_factor_analysis_agrees_with_sklearn_row_by_row() -> None:
    X, new = np.split(factor_table(2000, 10, 2), 2)
    model = factor_analysis(*moments(X), 2)
    reference = sklearn_factor_analysis(X, 2, max_iter=20_000)
    assert reference.n_iter_ < 20_000
    expected = reference.score_samples(new)
    np.testing.assert_allclose(model.log_prob(new), expected, atol=1e-3)
    np.testing.assert_allclose(
        model.noise_variance, reference.noise_variance_, rtol=1e-3
    )


@pytest.mark.parametrize("name", TABLES)
def test_factor_analysis_is_never_less_likely_than_ppca(name: str) -> None:
    for X in (table(name), standardised(name)):
        for k in range(1, X.shape[1] + 1):
            ours = factor_analysis(*moments(X), k).log_prob(X).mean()
            assert ours >= probabilistic_pca(*moments(X), k).log_prob(X).mean() - 1e-7


def test_factor_analysis_follows_the_units_of_the_columns() -> None:
    X = factor_table(300, 6, 2)
    units = 10.0 ** np.arange(-9, 9, 3)
    model, scaled = (factor_analysis(*moments(table), 2) for table in (X, X * units))
    np.testing.assert_allclose(scaled.noise_variance / units**2, model.noise_variance)
    expected = model.log_prob(X) - np.log(units).sum()
    np.testing.assert_allclose(scaled.log_prob(X * units), expected, rtol=1e-7)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_gradient_of_the_concentrated_likelihood(k: int) -> None:
    correlation = np.corrcoef(factor_table(40, 6, 2), rowvar=False)
    log_noise = np.random.default_rng(2).uniform(-3, 0, 6)
    _, gradient = linear._concentrated(log_noise, correlation, k)
    numerical = optimize.approx_fprime(
        log_noise, lambda point: linear._concentrated(point, correlation, k)[0], 1e-7
    )
    np.testing.assert_allclose(gradient, numerical, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_concentrated_likelihood_is_that_of_the_rows(k: int) -> None:
    X = factor_table(40, 6, 2)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    noise = np.random.default_rng(2).uniform(0.1, 0.9, 6)
    mean, correlation = moments(X)
    model = LinearGaussian(mean, linear._loadings(correlation, noise, k), noise)
    loss, _ = linear._concentrated(np.log(noise), correlation, k)
    rows = stats.multivariate_normal(mean, dense(model)).logpdf(X)
    assert -0.5 * (loss + 6 * np.log(2 * np.pi)) == pytest.approx(rows.mean())


def test_em_raises_the_likelihood_at_every_step() -> None:
    correlation = np.corrcoef(factor_table(40, 6, 2), rowvar=False)
    start, lowest = np.full(6, 0.9), np.full(6, 1e-10)
    losses = [
        linear._concentrated(
            np.log(linear._em(correlation, start, 2, lowest, steps)), correlation, 2
        )[0]
        for steps in range(8)
    ]
    assert (np.diff(losses) < 0).all()


def test_a_failed_search_falls_back_on_em(monkeypatch: pytest.MonkeyPatch) -> None:
    X = factor_table(200, 8, 2)
    mean, covariance = moments(X)
    best = factor_analysis(mean, covariance, 2)

    def fail(fun: object, x0: np.ndarray, **_: object) -> optimize.OptimizeResult:
        return optimize.OptimizeResult(x=x0, fun=np.inf, success=False)

    monkeypatch.setattr(linear.optimize, "minimize", fail)
    fallback = factor_analysis(mean, covariance, 2)
    scores = [
        model.log_prob(X).mean()
        for model in (probabilistic_pca(mean, covariance, 2), fallback, best)
    ]
    assert scores[0] + 0.1 < scores[1] < scores[2] + 1e-9
    assert scores[1] > scores[2] - 0.05


# --- Awkward covariances


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.3, 2.0])
@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("kind", ["copies", "wide", "constant", "raw", "nothing"])
def test_singular_tables_stay_finite_and_above_the_floor(
    fit: Fit, floor: float, k: int, kind: str
) -> None:
    X = factor_table(60, 5, 2)
    if kind == "copies":
        X = np.hstack([X, X[:, :2], X.sum(axis=1, keepdims=True)])
    elif kind == "wide":
        X = factor_table(5, 12, 2)
    elif kind == "constant":
        X[:, 2] = 7.0
    elif kind == "raw":
        X = X * [1e-6, 1e-3, 1.0, 1e3, 1e6]
    elif kind == "nothing":
        X[:] = 7.0
    mean, covariance = moments(X)
    model = fit(mean, covariance, k, floor=floor)
    assert model.loadings.shape == (X.shape[1], k)
    assert (model.noise_variance >= floor).all()
    assert np.isfinite(model.log_prob(X)).all()
    assert all(np.isfinite(part).all() for part in model.posterior())
    # The components explain no more of a column than there is.
    rounding = 1e-12 * covariance.max()
    explained = np.sum(model.loadings**2, axis=1)
    assert (explained <= np.diag(covariance) * (1 + 1e-6) + rounding).all()


@pytest.mark.parametrize("floor", [1e-6, 1e-5, 1e-4])
def test_a_copied_column_becomes_a_component(floor: float) -> None:
    X = factor_table(400, 6, 2)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    table = np.hstack([X, X[:, :1]])
    model = factor_analysis(*moments(table), 2, floor=floor)
    np.testing.assert_allclose(model.noise_variance[[0, 6]], floor, rtol=1e-3)
    # One component is the copied column itself; what it leaves of the others is a
    # factor model of one component less, and the copies differ by N(0, 2 floor).
    others = X[:, 1:] - np.outer(X[:, 0], X[:, 0] @ X[:, 1:] / len(X))
    expected = (
        stats.norm.logpdf(X[:, 0])
        + sklearn_factor_analysis(others, 1, max_iter=20_000).score_samples(others)
        + stats.norm(scale=np.sqrt(2 * floor)).logpdf(0.0)
    )
    np.testing.assert_allclose(model.log_prob(table), expected, atol=1e-3 + 10 * floor)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_no_component_copies_a_column_of_its_own_noise(share: float) -> None:
    # More components than the columns support: some copy single columns.
    X = factor_table(500, 8, 2)
    free = factor_analysis(*moments(X), 4)
    bound = factor_analysis(*moments(X), 4, least_unique=share)
    left = []
    for j in range(X.shape[1]):
        others = np.column_stack([np.ones(len(X)), np.delete(X, j, axis=1)])
        _, residual, *_ = np.linalg.lstsq(others, X[:, j])
        left.append(residual[0] / len(X))
    assert (free.noise_variance < 0.05 * np.array(left)).any()
    assert (bound.noise_variance >= share * np.array(left) * (1 - 1e-4)).all()
    # Copies say little of the rows, and little is lost without them.
    assert bound.log_prob(X).mean() > free.log_prob(X).mean() - 0.02


def test_per_column_floors_bind_where_they_are_set() -> None:
    X = standardised("wine")
    floor = np.where(np.arange(X.shape[1]) % 2, 0.6, 0.0)
    free, bound = (factor_analysis(*moments(X), 2, floor=f) for f in (0.0, floor))
    assert (bound.noise_variance >= floor).all()
    binding = (free.noise_variance < floor) & (floor > 0)
    assert binding.any()
    np.testing.assert_allclose(bound.noise_variance[binding], 0.6, rtol=0.1)
    assert bound.log_prob(X).mean() < free.log_prob(X).mean()


def test_ppca_floor_leaves_the_other_columns_shared() -> None:
    covariance = np.diag([9.0, 4.0, 1.0, 1.0])
    model = probabilistic_pca(np.zeros(4), covariance, 2, floor=[0, 0, 0, 2])
    np.testing.assert_allclose(model.noise_variance, [1, 1, 1, 2])
    np.testing.assert_allclose(dense(model), np.diag([9.0, 4.0, 1.0, 2.0]), atol=1e-12)


def test_arguments_are_left_alone() -> None:
    mean, covariance = moments(factor_table(50, 5, 2))
    before = mean.copy(), covariance.copy()
    factor_analysis(mean, covariance, 2, floor=1e-3)
    probabilistic_pca(mean, covariance, 2, units=np.arange(1.0, 6.0))
    np.testing.assert_array_equal(mean, before[0])
    np.testing.assert_array_equal(covariance, before[1])


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(2), np.eye(3), 1), "shapes"),
        ((np.zeros(2), np.diag([1.0, np.nan]), 1), "finite"),
        ((np.zeros(2), np.eye(2), 0), "n_components must be at least 1"),
    ],
)
def test_bad_moments_are_refused(
    fit: Fit, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(*arguments)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, [0.1, 0.1, 0.1]])
def test_bad_floors_and_units_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="floor must be"):
        factor_analysis(np.zeros(2), np.eye(2), 1, floor=bad)
    with pytest.raises(ValueError, match="units must be"):
        probabilistic_pca(np.zeros(2), np.eye(2), 1, units=bad)
