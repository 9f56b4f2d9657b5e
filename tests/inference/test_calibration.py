"""Thresholds and p-values on samples of known distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skvae.inference.calibration import automatic_threshold, conformal_p_values

# Abnormality (minus the score) of normal rows.
NORMAL_ROWS = {
    "exponential": stats.gamma(1.0),
    "gamma": stats.gamma(2.5),
    "shifted and scaled gamma": stats.gamma(4.0, loc=-30.0, scale=7.0),
    "many columns": stats.gamma(60.0),
    "half a chi-square of 3": stats.chi2(3, scale=0.5),
    "half a chi-square of 30": stats.chi2(30, scale=0.5),
    "normal": stats.norm(5.0, 2.0),
}


@pytest.mark.parametrize("name", NORMAL_ROWS)
def test_about_one_percent_of_normal_rows_is_flagged(name: str) -> None:
    # the threshold's own chance of a false alarm, from the known distribution
    rates = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores = -NORMAL_ROWS[name].rvs(5000, random_state=rng)
        rates.append(NORMAL_ROWS[name].sf(-automatic_threshold(scores)))
    assert 0.006 < np.mean(rates) < 0.015
    assert min(rates) > 0.003
    assert max(rates) < 0.02


def test_gaussian_rows_are_flagged_at_one_percent() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 6))
    density = stats.multivariate_normal(np.zeros(6))
    offset = automatic_threshold(density.logpdf(X))
    fresh = density.logpdf(rng.normal(size=(20_000, 6)))
    assert 0.005 < (fresh < offset).mean() < 0.02


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_outliers_do_not_lift_the_threshold_over_themselves(share: float) -> None:
    rng = np.random.default_rng(0)
    normal = NORMAL_ROWS["gamma"].rvs(4000, random_state=rng)
    far = 50.0 + 100.0 * rng.random(int(4000 * share / (1 - share)))
    offset = automatic_threshold(-np.concatenate([normal, far]))
    assert (far > -offset).all()
    assert NORMAL_ROWS["gamma"].sf(-offset) < 0.02


@given(
    shift=st.floats(-1e3, 1e3),
    log_scale=st.floats(-5.0, 5.0),
    seed=st.integers(0, 100),
)
def test_threshold_moves_with_the_scores(
    shift: float, log_scale: float, seed: int
) -> None:
    scores = -np.random.default_rng(seed).gamma(2.0, size=50)
    scale = np.exp(log_scale)
    moved = automatic_threshold(shift + scale * scores)
    expected = shift + scale * automatic_threshold(scores)
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(10),
        np.full(3, -7.25),
        np.array([1.0, 2.0]),
        np.r_[np.zeros(99), -1.0],
        np.r_[np.zeros(50), np.arange(50.0)],
        np.arange(100.0).astype(np.float32),
    ],
    ids=["zeros", "ties", "two", "one low", "half ties", "float32"],
)
def test_odd_scores_have_a_threshold_that_most_rows_pass(scores: np.ndarray) -> None:
    offset = automatic_threshold(scores)
    assert np.isfinite(offset)
    assert (scores >= offset).mean() >= 0.9


def test_p_values_are_those_by_counting() -> None:
    calibration = np.array([-3.0, -1.0, -1.0, 2.0])
    scores = np.array([-5.0, -3.0, -2.0, -1.0, 0.0, 2.0, 9.0])
    counted = [(1 + (calibration <= s).sum()) / 5 for s in scores]
    np.testing.assert_allclose(conformal_p_values(scores, calibration), counted)


@pytest.mark.parametrize("n", [9, 40, 199])
def test_p_values_are_super_uniform(n: int) -> None:
    # over fresh calibration tables, the chance of a p-value of at most p is at most p
    rng = np.random.default_rng(0)
    draws = NORMAL_ROWS["gamma"].rvs((3000, n + 1), random_state=rng)
    p = np.array([conformal_p_values(-row[:1], np.sort(-row[1:]))[0] for row in draws])
    for level in (0.05, 0.1, 0.25, 0.5, 0.9):
        slack = 3.0 * np.sqrt(level * (1 - level) / 3000)
        assert (p <= level).mean() <= level + slack
        exact = np.floor(level * (n + 1)) / (n + 1)  # what ranks can tell
        assert (p <= level).mean() >= exact - slack
    assert p.min() > 0.0
    assert p.max() <= 1.0


def test_lower_scores_have_smaller_p_values() -> None:
    rng = np.random.default_rng(0)
    calibration = np.sort(rng.normal(size=100))
    scores = np.sort(rng.normal(size=50))
    assert (np.diff(conformal_p_values(scores, calibration)) >= 0).all()
