"""Densities: their mass by quadrature, and new rows against the table's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import datasets

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = {"transformer": VAETransformer, "detector": VAEAnomalyDetector}
estimators = pytest.mark.parametrize("kind", ESTIMATORS)

# -- mass ------------------------------------------------------------------------------


def bimodal(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-3.0, 0.5, n // 2), rng.normal(2.0, 1.0, n // 2)])


def skewed(n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=n)


def mass(model: Any, X: np.ndarray, points: int, reach: float) -> float:
    """Integral of exp(score_samples) by quadrature, far beyond the table."""
    unit = np.linspace(-np.arcsinh(reach), np.arcsinh(reach), points)
    # equal steps of asinh: fine where the rows are, coarse in the tails
    grids = [np.median(x) + x.std() * np.sinh(unit) for x in X.T]
    weights = [x.std() * np.cosh(unit) * (unit[1] - unit[0]) for x in X.T]
    cells = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, X.shape[1])
    weight = np.stack(np.meshgrid(*weights, indexing="ij"), -1).prod(-1).ravel()
    return float(weight @ np.exp(model.score_samples(cells)))


# How far to look, in deviations: the detector's tails are those of Student's t.
MASS: dict[str, tuple[dict[str, Any], float]] = {
    "transformer": ({}, 50.0),
    "detector": ({"anomaly_score": "log_likelihood"}, 1000.0),
}


@estimators
@pytest.mark.parametrize("make", [bimodal, skewed], ids=["bimodal", "skewed"])
def test_density_of_one_column_integrates_to_one(
    kind: str, make: Callable[[], np.ndarray]
) -> None:
    params, reach = MASS[kind]
    X = make()[:, None]
    model = ESTIMATORS[kind](random_state=0, **params).fit(X)
    assert mass(model, X, 1201, reach) == pytest.approx(1.0, abs=0.02)


@estimators
def test_density_of_two_columns_integrates_to_one(kind: str) -> None:
    params, _ = MASS[kind]
    first = bimodal()
    X = np.column_stack(
        [first, np.abs(first) + np.random.default_rng(1).normal(size=300)]
    )
    params = {**params, "n_score_samples": 128}
    model = ESTIMATORS[kind](random_state=0, **params).fit(X)
    assert mass(model, X, 61, 200.0) == pytest.approx(1.0, abs=0.02)


def test_bimodal_table_is_learned_as_one() -> None:
    # Mass alone can be had by one broad normal: the valley must be one.
    X = bimodal()[:, None]
    model = VAETransformer(random_state=0).fit(X)
    valley, hills = model.score_samples([[-0.9]]), model.score_samples([[-3.0], [2.0]])
    assert (valley < hills - 0.1).all()
    exact = stats.norm(-3.0, 0.5).pdf(X) / 2 + stats.norm(2.0, 1.0).pdf(X) / 2
    broad = stats.norm(X.mean(), X.std()).logpdf(X).mean()
    assert broad + 0.1 < model.score(X) < np.log(exact).mean() + 0.1


# -- new rows --------------------------------------------------------------------------


@cache
def linear_gaussian(n: int = 1000, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d))
    return 5.0 + 3.0 * signal + rng.uniform(0.5, 2.0, d) * rng.normal(size=(n, d))


def energy_p_value(X: np.ndarray, Y: np.ndarray, n_permutations: int = 200) -> float:
    """Permutation test of the energy distance (Szekely and Rizzo, 2004)."""
    both = np.concatenate([X, Y]) / X.std(0)
    distance = np.linalg.norm(both[:, None] - both[None], axis=-1)
    rng, n = np.random.default_rng(0), len(X)

    def energy(order: np.ndarray) -> float:
        sign = np.where(order < n, 1.0, -1.0)
        return float(-sign @ distance @ sign)

    observed = energy(np.arange(len(both)))
    others = [energy(rng.permutation(len(both))) for _ in range(n_permutations)]
    return (1 + sum(other >= observed for other in others)) / (1 + n_permutations)


@pytest.mark.parametrize("noise", ["shared", "column", "network"])
def test_new_rows_are_like_those_of_the_table(noise: str) -> None:
    X = linear_gaussian()
    k = 3 if noise == "shared" else 2  # one noise for all columns takes a third factor
    model = VAETransformer(k, noise=noise, random_state=0).fit(X)
    rows = model.sample(1000, random_state=1)
    for j in range(X.shape[1]):
        assert stats.ks_2samp(X[:, j], rows[:, j]).pvalue > 1e-3
    spread = np.sqrt(np.diag(np.cov(X.T)))
    error = (np.cov(rows.T) - np.cov(X.T)) / np.outer(spread, spread)
    assert np.abs(error).max() < 4.0 * np.sqrt(2.0 * 2.0 / 1000)
    assert energy_p_value(X[:300], rows[:300]) > 1e-2


@estimators
def test_score_of_new_rows_is_minus_the_entropy(kind: str) -> None:
    # The table is the model's own: rows of p(x) score on average as its rows do.
    X = linear_gaussian()
    params = {"likelihood": "gaussian", "trim": 0.0, "start": "linear"}
    model = ESTIMATORS[kind](
        random_state=0, **({} if kind == "transformer" else params)
    ).fit(X)
    n = 2000
    rows = model.sample(n, random_state=0)
    gap = model.score(rows) - model.score(X)
    assert abs(gap) < 4.0 * np.sqrt(X.shape[1] / 2 * (1 / n + 1 / len(X))) + 0.05


@estimators
def test_sampling_repeats_with_a_seed_only(kind: str) -> None:
    X = datasets.load_wine().data
    model = ESTIMATORS[kind](random_state=0, max_iter=3, start="random").fit(X)
    first, again, other = (model.sample(5, random_state=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    # Whole numbers may well be drawn twice: rows are another, not every cell.
    assert not (other == first).all(axis=1).any()
    free, freer = (model.sample(5) for _ in range(2))
    assert not (free == freer).all(axis=1).any()
    assert model.sample().shape == (1, X.shape[1])
