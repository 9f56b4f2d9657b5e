"""Statistics against NumPy, exact fractions and the table that was split."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from skvae.table.raw import BLOCK_ROWS
from skvae.table.statistics import SAMPLE_ROWS, Statistics


def cells(low: float = -1e6, high: float = 1e6) -> st.SearchStrategy[float]:
    return st.one_of(st.floats(low, high, width=32), st.just(float("nan")))


def tables(rows: int = 12, columns: int = 3) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(1, rows), st.just(columns))
    return hnp.arrays(np.float64, shape, elements=cells())


def assert_same(a: Statistics, b: Statistics, size: np.ndarray) -> None:
    """Moments equal up to rounding at the size of the values, all else exactly."""
    assert (a.rows, a.rounding) == (b.rows, b.rounding)
    for name in ("count", "weight", "low", "high", "binary"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    for name in ("mean", "std"):
        gap = np.abs(getattr(a, name) - getattr(b, name))
        assert np.all(gap <= 1e-13 * np.nan_to_num(size)), name


@given(tables())
def test_moments_are_those_of_exact_arithmetic(X: np.ndarray) -> None:
    found = Statistics.of(X)
    for j, column in enumerate(X.T):
        exact = [Fraction(float(v)) for v in column if not np.isnan(v)]
        assert found.count[j] == len(exact)
        assert found.missing[j] == len(X) - len(exact)
        if not exact:
            assert np.isnan(found.low[j])
            continue
        mean = sum(exact) / len(exact)
        std = sqrt(sum((v - mean) ** 2 for v in exact) / len(exact))
        size = float(max(map(abs, exact)))
        assert found.mean[j] == pytest.approx(float(mean), rel=1e-13, abs=1e-14 * size)
        assert found.std[j] == pytest.approx(std, rel=1e-9, abs=1e-14 * size)
        assert (found.low[j], found.high[j]) == (float(min(exact)), float(max(exact)))


@given(tables(), tables())
def test_merge_is_the_statistics_of_both(a: np.ndarray, b: np.ndarray) -> None:
    both = np.concatenate([a, b])
    whole = Statistics.of(both, key=7)
    parts = Statistics.of(a, key=(0, 0)), Statistics.of(b, key=(0, 1))
    size = np.fmax.reduce(np.abs(both), axis=0)
    assert_same(parts[0].merge(parts[1]), whole, size)
    assert_same(parts[1].merge(parts[0]), whole, size)
    for name in ("quantiles", "resolution"):
        arguments = ([0.05, 0.5, 0.95],) if name == "quantiles" else ()
        merged = getattr(parts[0].merge(parts[1]), name)(*arguments)
        np.testing.assert_array_equal(merged, getattr(whole, name)(*arguments))


@given(tables(), st.data())
def test_integer_weights_are_repeated_rows(X: np.ndarray, data: st.DataObject) -> None:
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=12)))
    weight = weight[: len(X)]
    repeated = np.repeat(X, weight, axis=0)
    weighted, plain = Statistics.of(X, weight), Statistics.of(repeated)
    size = np.nan_to_num(np.abs(X)).max(axis=0)
    for name in ("weight", "low", "high", "binary"):
        np.testing.assert_array_equal(getattr(weighted, name), getattr(plain, name))
    for name in ("mean", "std"):
        gap = np.abs(getattr(weighted, name) - getattr(plain, name))
        assert np.all(gap <= 1e-13 * size)
    if len(repeated):
        p = [0.05, 0.25, 0.5, 0.95]
        np.testing.assert_array_equal(weighted.quantiles(p), plain.quantiles(p))
        np.testing.assert_array_equal(weighted.resolution(), plain.resolution())


@given(tables(), st.sampled_from([0.1, 1 / 3, 7e-9, 1e12]))
def test_the_unit_of_the_weights_is_free(X: np.ndarray, unit: float) -> None:
    plain, scaled = Statistics.of(X), Statistics.of(X, np.full(len(X), unit))
    size = np.nan_to_num(np.abs(X)).max(axis=0)
    assert np.all(np.abs(plain.mean - scaled.mean) <= 1e-13 * size)
    assert np.all(np.abs(plain.std - scaled.std) <= 1e-13 * size)
    p = [0.05, 0.25, 0.5, 0.95]
    np.testing.assert_array_equal(plain.quantiles(p), scaled.quantiles(p))


@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6)),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5),
)
def test_quantiles_are_numpys(column: np.ndarray, probabilities: list[float]) -> None:
    # At a rank n * p that is whole only up to rounding the two may round apart.
    ranks = len(column) * np.array(probabilities)
    near = np.abs(ranks - np.rint(ranks)) < 1e-6
    p = [p for p, skipped in zip(probabilities, near) if not skipped]
    p += [0.5, 0.25]
    padded = np.append(column, np.nan)[:, None]
    found = Statistics.of(padded).quantiles(p)[:, 0]
    expected = np.quantile(column, p, method="averaged_inverted_cdf")
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-300)


def test_weighted_quantiles_are_numpys() -> None:
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(501, 2)), rng.exponential(size=501)
    p = [0.05, 0.37, 0.5, 0.95]
    found = Statistics.of(X, weight).quantiles(p)
    expected = np.quantile(X, p, axis=0, weights=weight, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1.0, 1e12, 1e300])
def test_moments_at_any_size(size: float) -> None:
    x = np.random.default_rng(1).normal(3.0, 1.0, size=(1000, 1))
    found = Statistics.of(x * size)
    assert found.mean[0] / size == pytest.approx(x.mean(), rel=1e-13)
    assert found.std[0] / size == pytest.approx(x.std(), rel=1e-13)


@pytest.mark.parametrize("value", [0.1, -1e12 / 3, 1e-12 / 7, 1.5e308])
def test_a_constant_is_its_mean_to_the_last_digit(value: float) -> None:
    weight = np.random.default_rng(8).exponential(size=1000)
    found = Statistics.of(np.full((1000, 1), value), weight)
    found = found.merge(Statistics.of([[value]], [0.3]))
    assert found.mean[0] == value
    assert found.std[0] == 0.0


def test_the_least_precise_input_tells_the_rounding() -> None:
    double, single = (Statistics.of(np.ones((2, 1), t)) for t in ("f8", "f4"))
    assert single.rounding > 1e8 * double.rounding
    assert double.merge(single).rounding == single.rounding
    assert single.merge(double).rounding == single.rounding


def test_whole_ranks_survive_the_rounding_of_summed_weights() -> None:
    x = np.arange(1000.0)[:, None]
    p = np.arange(1, 20) / 20  # every one at a whole rank: the middle of two values
    for unit in (0.1, 1 / 3, 0.7):
        found = Statistics.of(x, np.full(1000, unit)).quantiles(p)[:, 0]
        np.testing.assert_array_equal(found, 1000 * p - 0.5)


def test_a_small_spread_on_a_large_value() -> None:
    steps = np.random.default_rng(2).integers(-3, 4, size=(1000, 1)).astype(float)
    found = Statistics.of(1e12 + steps)
    assert found.std[0] == pytest.approx(steps.std(), rel=1e-7)
    assert found.resolution()[0] == 1.0


def test_float32_is_summed_in_float64() -> None:
    x = np.random.default_rng(3).normal(1e4, 1.0, size=(5000, 1)).astype(np.float32)
    found = Statistics.of(x)
    assert found.std[0] == pytest.approx(np.std(x.astype(np.float64)), rel=1e-10)
    assert found.mean[0] == pytest.approx(np.mean(x.astype(np.float64)), rel=1e-14)


def test_many_blocks_are_one_table() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(5.0, 2.0, size=(2 * BLOCK_ROWS + 17, 2))
    X[rng.random(X.shape) < 0.1] = np.nan
    weight = rng.integers(0, 3, size=len(X)).astype(float)
    found = Statistics.of(X, weight)
    present = weight > 0
    for j, column in enumerate(X.T):
        seen = present & ~np.isnan(column)
        mean = np.average(column[seen], weights=weight[seen])
        variance = np.average((column[seen] - mean) ** 2, weights=weight[seen])
        assert found.mean[j] == pytest.approx(mean, rel=1e-12)
        assert found.std[j] == pytest.approx(np.sqrt(variance), rel=1e-12)
        assert found.count[j] == seen.sum()
    assert len(found.sample) == SAMPLE_ROWS
    seen = found.sample[~np.isnan(found.sample[:, 0]), 0]
    assert np.isin(seen, X[present, 0]).all()


def test_the_row_sample_is_uniform_over_blocks_and_merges() -> None:
    n = 30_000
    position = np.arange(2 * n, dtype=float)[:, None]
    first = Statistics.of(position[:n], key=(5, 0))
    sample = first.merge(Statistics.of(position[n:], key=(5, 1))).sample[:, 0]
    assert len(np.unique(sample)) == SAMPLE_ROWS
    # Standard errors: 50 for the count of a half, 173 for the mean position.
    assert abs(np.sum(sample < n) - SAMPLE_ROWS / 2) < 250
    assert abs(sample.mean() - n) < 900


def test_the_key_chooses_the_sample() -> None:
    X = np.arange(20_000.0)[:, None]
    one, same, other = (Statistics.of(X, key=key).sample for key in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("column", "step"),
    [
        ([3, 1, 7, 7], 2.0),
        ([0.1 + 0.2, 0.3, 0.5], 0.2),  # 0.1 + 0.2 != 0.3 is rounding, not a step
        ([4.0, 4.0, np.nan], 0.0),
        ([2.5], 0.0),
        ([1e-12, 3e-12], 2e-12),
        ([True, False], 1.0),
    ],
)
def test_resolution(column: list[float], step: float) -> None:
    found = Statistics.of(np.array(column)[:, None]).resolution()
    assert found[0] == pytest.approx(step)


def test_arguments_are_left_alone() -> None:
    X, weight = np.array([[1.0, np.nan], [2.0, 3.0]]), np.array([1.0, 0.5])
    before = X.copy(), weight.copy()
    X.flags.writeable = weight.flags.writeable = False
    Statistics.of(X, weight).merge(Statistics.of(X, weight)).quantiles([0.5])
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(weight, before[1])


@pytest.mark.parametrize(
    ("X", "weight", "message"),
    [
        ([1.0, 2.0], None, r"two dimensions.*\(2,\).*reshape"),
        ([[1.0], [np.inf]], None, r"infinite value in the columns at \[0\]"),
        ([[1.0], [-np.inf]], None, r"infinite"),
        ([[1.0], [2.0]], [1.0], r"shape \(2,\), got shape \(1,\)"),
        ([[1.0], [2.0]], [1.0, -1.0], "-1.0 to 1.0; use 0"),
        ([[1.0], [2.0]], [1.0, np.nan], "finite and >= 0"),
    ],
)
def test_errors_name_rule_value_and_cure(X: list, weight: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Statistics.of(X, weight)


def test_only_the_same_columns_merge() -> None:
    with pytest.raises(ValueError, match="got 1 and 2 columns"):
        Statistics.of([[1.0]]).merge(Statistics.of([[1.0, 2.0]]))
