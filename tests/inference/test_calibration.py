"""Thresholds, chances and p-values on samples of known distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skvae.inference.calibration import (
    Chances,
    conformal_p_values,
    discoveries,
    outlier_share,
    threshold,
)

# Abnormality (minus the score) of normal rows.
NORMAL_ROWS = {
    "exponential": stats.gamma(1.0),
    "gamma": stats.gamma(2.5),
    "shifted and scaled gamma": stats.gamma(4.0, loc=-30.0, scale=7.0),
    "many columns": stats.gamma(60.0),
    "half a chi-square of 3": stats.chi2(3, scale=0.5),
    "half a chi-square of 30": stats.chi2(30, scale=0.5),
    "normal": stats.norm(5.0, 2.0),
    "heavy tail": stats.lomax(4.0),
}


def with_far(share: float, seed: int = 0) -> tuple[np.ndarray, int]:
    """Scores of 4000 normal rows and of some far ones, and how many of these."""
    rng = np.random.default_rng(seed)
    n_far = int(4000 * share / (1 - share))
    normal = NORMAL_ROWS["gamma"].rvs(4000, random_state=rng)
    return -np.concatenate([normal, 50.0 + 100.0 * rng.random(n_far)]), n_far


# -- shares and thresholds ---------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(NORMAL_ROWS) - {"heavy tail"}))
@pytest.mark.parametrize("n", [200, 5000])
def test_clean_scores_hold_few_outliers(name: str, n: int) -> None:
    for seed in range(5):
        rows = NORMAL_ROWS[name].rvs(n, random_state=np.random.default_rng(seed))
        assert outlier_share(-rows) < 0.02


def test_heavy_tail_of_many_clean_rows_is_no_outlier() -> None:
    # Of 200 such rows about 2.2 % are taken for outliers: more than the 2 % that clean
    # tables should stay below.
    found = [
        outlier_share(-NORMAL_ROWS["heavy tail"].rvs(5000, random_state=seed))
        for seed in range(5)
    ]
    assert np.mean(found) < 0.02


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_far_rows_are_counted(share: float) -> None:
    scores = with_far(share)[0]
    found = outlier_share(scores)
    assert found == pytest.approx(share, rel=0.1, abs=0.003)
    offset = threshold(scores, found)
    assert (scores[:4000] < offset).mean() < 0.005
    assert (scores[4000:] < offset).mean() > 0.9


@given(
    shift=st.floats(-1e3, 1e3),
    log_scale=st.floats(-5.0, 5.0),
    seed=st.integers(0, 100),
)
def test_share_is_that_of_moved_and_scaled_scores(
    shift: float, log_scale: float, seed: int
) -> None:
    scores = -np.random.default_rng(seed).pareto(1.5, size=50)
    moved = outlier_share(shift + np.exp(log_scale) * scores)
    assert moved == pytest.approx(outlier_share(scores), abs=1e-6)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(10),
        np.full(3, -7.25),
        np.array([1.0, 2.0]),
        np.r_[np.zeros(99), -1.0],
        np.r_[np.zeros(50), np.arange(50.0)],
        np.arange(100.0).astype(np.float32),
        np.r_[np.zeros(99), -1e300],
    ],
    ids=["zeros", "ties", "two", "one low", "half ties", "float32", "huge"],
)
def test_odd_scores_have_verdicts(scores: np.ndarray) -> None:
    share = outlier_share(scores)
    assert 0.0 <= share <= 0.5
    offset = threshold(scores, share)
    assert np.isfinite(offset)
    assert (scores >= offset).mean() >= 0.9
    chance = Chances.of(scores, share).at(scores)
    assert ((chance >= 0.0) & (chance <= 1.0)).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5, 1.0])
def test_threshold_is_the_quantile_of_repeated_rows(share: float) -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=30), rng.integers(0, 4, 30)
    rows = np.repeat(values, counts)
    expected = np.quantile(rows, share)
    assert_allclose(threshold(values, share, counts.astype(float)), expected)
    even = threshold(values, share, np.full(30, 0.7))
    assert_allclose(even, threshold(values, share))


@pytest.mark.parametrize("n_below", [1, 7, 30])
def test_whole_share_of_the_rows_lies_below_the_threshold(n_below: int) -> None:
    scores = np.random.default_rng(0).normal(size=60)
    assert (scores < threshold(scores, n_below / 60)).sum() == n_below


def test_weights_count_as_repeated_rows() -> None:
    scores, _ = with_far(0.1)
    scores = scores[::8]
    counts = np.random.default_rng(0).integers(0, 4, len(scores)).astype(float)
    repeated = np.repeat(scores, counts.astype(int))
    assert outlier_share(scores, counts) == pytest.approx(outlier_share(repeated))
    mine, theirs = Chances.of(scores, 0.1, counts), Chances.of(repeated, 0.1)
    assert_allclose(mine.at(scores[counts > 0]), theirs.at(scores[counts > 0]))


# -- chances -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_chances_are_those_of_the_labels(share: float) -> None:
    # far rows are almost surely outliers, near ones are not: by the labels
    scores, n_far = with_far(share)
    chance = Chances.of(scores, outlier_share(scores)).at(scores)
    assert chance.sum() == pytest.approx(n_far, rel=0.15)
    assert chance[4000:].mean() > 0.85
    assert chance[:4000].mean() < 0.01


@given(seed=st.integers(0, 50))
def test_chances_never_rise_with_the_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = -rng.pareto(0.7, size=60)
    chances = Chances.of(scores, outlier_share(scores))
    asked = np.sort(np.r_[scores, rng.normal(size=20), -1e9, 1e9])
    assert (np.diff(chances.at(asked)) <= 0).all()
    assert chances.at(np.array([1e9]))[0] == 0.0


def test_chances_do_not_hang_on_rounding() -> None:
    scores, _ = with_far(0.05)
    chances = Chances.of(scores, 0.05)
    lowest = np.sort(scores)[:20]
    for shift in (1e-9, -1e-9):
        assert_allclose(chances.at(lowest + shift), chances.at(lowest), atol=1e-3)


def test_far_below_a_clean_table_is_an_outlier() -> None:
    scores = -np.random.default_rng(0).gamma(5.0, size=500)
    chances = Chances.of(scores, 0.0)
    assert chances.at(scores).max() == 0.0
    # As far as the tail of normal rows falls, c ** -2.5 with c bulk widths.
    low, middle, high = np.quantile(-scores, [0.1, 0.5, 0.7])
    c = (np.array([-scores.min(), 1e3]) - middle) / (high - low)
    assert_allclose(chances.at(np.array([-1e3]))[0], 1 - (c[0] / c[1]) ** 2.5)


# -- p-values ----------------------------------------------------------------------


def test_p_values_are_those_by_counting() -> None:
    calibration = np.array([-3.0, -1.0, -1.0, 2.0])
    scores = np.array([-5.0, -3.0, -2.0, -1.0, 0.0, 2.0, 9.0])
    counted = [(1 + (calibration <= s).sum()) / 5 for s in scores]
    assert_allclose(conformal_p_values(scores, calibration), counted)
    assert_array_equal(conformal_p_values(scores, np.empty(0)), np.ones(7))


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


@given(seed=st.integers(0, 200), fdr=st.sampled_from([0.01, 0.05, 0.2, 0.6]))
def test_discoveries_are_those_of_scipy(seed: int, fdr: float) -> None:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(40) ** 3, 2) + 0.001  # with ties
    expected = stats.false_discovery_control(np.minimum(p, 1.0)) <= fdr
    assert_array_equal(discoveries(p, fdr), expected)
