"""The schema against NumPy and SciPy, and its coding against itself."""

from __future__ import annotations

import pickle

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from scipy import stats

from skvae.table import Container, Schema, Statistics
from skvae.table.moments import TICKS

NAN = float("nan")


def tables() -> st.SearchStrategy[np.ndarray]:
    """Tables of columns of any size, with holes and at least one value each."""
    cell = st.one_of(st.floats(-1e12, 1e12), st.sampled_from([0.0, 1.0, 1e-12, NAN]))
    shape = st.tuples(st.integers(1, 10), st.integers(1, 4))
    table = hnp.arrays(np.float64, shape, elements=cell)
    return table.filter(lambda X: not np.isnan(X).all(axis=0).any())


def mixed_table(n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = [
        rng.normal(5.0, 2.0, n),
        np.full(n, 7.0),
        rng.integers(0, 2, n),
        rng.normal(1e12, 1e3, n),
        rng.normal(0.0, 1e-12, n),
        rng.integers(-3, 9, n),
    ]
    X = np.column_stack(columns)
    X[rng.random(X.shape) < 0.1] = NAN
    return X


@given(tables(), st.sampled_from(["standard", "robust"]))
def test_decode_undoes_encode(X: np.ndarray, scaling: str) -> None:
    schema = Schema.learn(X, scaling=scaling)
    coded = schema.encode(X)
    assert coded.shape == (len(X), len(schema.active))
    np.testing.assert_array_equal(np.isnan(coded), np.isnan(X[:, schema.active]))
    back = schema.decode(coded).numbers
    size = np.nanmax(np.abs(X), axis=0)
    varying = np.isin(np.arange(X.shape[1]), schema.active)
    seen = ~np.isnan(X)
    # A constant fills the holes of its column too; it is exact up to its scale.
    within = np.where(varying, 1e-14 * size, [c.scale for c in schema.columns])
    np.testing.assert_array_equal(np.isnan(back), ~seen & varying)
    assert np.all(np.abs(back - X)[seen] <= np.broadcast_to(within, X.shape)[seen])


@given(tables())
def test_equal_tables_make_equal_schemas(X: np.ndarray) -> None:
    a, b = Schema.learn(X), Schema.learn(X.copy())
    assert a == b
    assert hash(a) == hash(b)
    assert a != Schema.learn(2 * X + 1)


@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_hash_and_pickle_tell_the_value_alone(scaling: str) -> None:
    X = mixed_table()
    used, fresh = (Schema.learn(X, names="abcdef", scaling=scaling) for _ in range(2))
    plain = pickle.dumps(fresh)
    before = joblib.hash(used)
    used.unseen_log_mass(used.decode(used.encode(X)))
    assert used.log_jacobian(X).size
    assert pickle.dumps(used) == plain
    loaded = pickle.loads(plain)
    assert loaded == used
    assert joblib.hash(loaded) == joblib.hash(used) == joblib.hash(fresh) == before
    np.testing.assert_array_equal(loaded.encode(X), used.encode(X))


def test_columns_hold_plain_values() -> None:
    for column in Schema.learn(mixed_table()).columns:
        numbers = (column.centre, column.scale, column.resolution)
        assert all(type(v) is float for v in (*numbers, column.low, column.high))
    with pytest.raises(AttributeError):
        column.scale = 2.0  # type: ignore[misc]


def test_standard_scaling_is_the_weighted_moments() -> None:
    rng = np.random.default_rng(1)
    X, weight = rng.gamma(2.0, size=(300, 3)), rng.exponential(size=300)
    weight[::5] = 0.0
    X[::5] = 1e6  # of weight zero: must not be seen
    schema = Schema.learn(X, sample_weight=weight)
    for column, x in zip(schema.columns, X.T):
        mean = np.average(x, weights=weight)
        assert column.centre == pytest.approx(mean, rel=1e-13)
        variance = np.cov(x, aweights=weight, ddof=0)
        assert column.scale == pytest.approx(np.sqrt(variance), rel=1e-13)
        assert column.high == x[weight > 0].max()


def test_robust_scaling_is_the_weighted_quantiles() -> None:
    rng = np.random.default_rng(2)
    X, weight = rng.standard_t(3, size=(301, 3)), rng.exponential(size=301)
    schema = Schema.learn(X, sample_weight=weight, scaling="robust")
    for column, x in zip(schema.columns, X.T):
        low, median, high = np.quantile(
            x, [0.05, 0.5, 0.95], weights=weight, method="inverted_cdf"
        )
        assert column.centre == pytest.approx(median, rel=1e-13)
        assert column.scale == pytest.approx((high - low) / 3.29, rel=1e-13)


def test_robust_scale_is_a_standard_deviation_for_normal_data() -> None:
    x = stats.norm.ppf((np.arange(9999) + 0.5) / 9999, loc=4.0, scale=0.5)[:, None]
    (column,) = Schema.learn(x, scaling="robust").columns
    assert column.centre == pytest.approx(4.0, abs=1e-12)
    assert column.scale == pytest.approx(0.5, rel=1e-3)


def test_robust_scaling_falls_back_to_the_standard_deviation() -> None:
    x = np.zeros((100, 1))
    x[:3, 0] = [5.0, 6.0, -1.0]
    (column,) = Schema.learn(x, scaling="robust").columns
    assert column.centre == 0.0
    assert column.scale == pytest.approx(x.std(), rel=1e-14)


def test_one_wild_value_leaves_the_robust_scale_alone() -> None:
    x = np.random.default_rng(3).normal(size=(999, 1))
    tame = Schema.learn(x, scaling="robust").columns[0]
    wild = Schema.learn(np.append(x, [[1e20]], axis=0), scaling="robust").columns[0]
    assert wild.scale == pytest.approx(tame.scale, rel=0.02)
    assert wild.centre == pytest.approx(tame.centre, abs=0.01)


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1.0, 1e12, 1e300])
@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_coded_values_do_not_depend_on_the_unit(size: float, scaling: str) -> None:
    x = np.random.default_rng(4).normal(2.0, 1.0, size=(500, 2))
    plain = Schema.learn(x, scaling=scaling)
    scaled = Schema.learn(x * size, scaling=scaling)
    np.testing.assert_allclose(
        scaled.encode(x * size), plain.encode(x), rtol=1e-11, atol=1e-12
    )
    shift = scaled.log_jacobian(x * size) - plain.log_jacobian(x)
    np.testing.assert_allclose(shift, -np.log(size), atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int64])
def test_numbers_of_any_type_are_coded_alike(dtype: type) -> None:
    x = np.random.default_rng(5).integers(-200, 200, size=(300, 2))
    coded = Schema.learn(x.astype(dtype)).encode(x.astype(dtype))
    assert coded.dtype == np.float64
    np.testing.assert_allclose(coded, stats.zscore(x), rtol=1e-12, atol=1e-13)


def test_large_values_of_small_spread_keep_their_digits() -> None:
    steps = np.random.default_rng(6).integers(-3, 4, size=(1000, 1)).astype(float)
    schema = Schema.learn(1e12 + steps)
    coded = schema.encode(1e12 + steps)
    np.testing.assert_allclose(coded, stats.zscore(steps), atol=1e-3)
    np.testing.assert_allclose(
        np.diff(coded, axis=0) * steps.std(), np.diff(steps, axis=0), atol=1e-6
    )


def test_log_jacobian_turns_a_coded_density_into_the_users() -> None:
    x = np.random.default_rng(7).normal(50.0, 9.0, size=(100, 1))
    schema = Schema.learn(x)
    (column,) = schema.columns
    users = stats.norm.logpdf(x, column.centre, column.scale)
    coded = stats.norm.logpdf(schema.encode(x)) + schema.log_jacobian(x)
    np.testing.assert_allclose(coded, users, rtol=1e-13)


def test_log_jacobian_is_the_derivative_of_encode() -> None:
    X = np.nan_to_num(mixed_table(), nan=1.0)
    schema = Schema.learn(X)
    step = np.array([c.scale for c in schema.columns]) / 8
    slope = (schema.encode(X + step) - schema.encode(X)) / step[schema.active]
    masses = np.array(schema.kinds) == "bernoulli"
    jacobian = schema.log_jacobian(X)
    np.testing.assert_allclose(
        np.log(slope[:, ~masses]).mean(axis=0), jacobian[0, ~masses], rtol=1e-9
    )
    np.testing.assert_array_equal(jacobian[:, masses], 0.0)


def test_values_that_a_binary_column_never_showed_are_the_nearer_one_and_cost() -> None:
    schema = Schema.learn(np.array([[0.0], [1.0], [1.0]]))
    X = np.array([[0.0], [1.0], [np.nan], [0.4], [9.0], [-1e6]])
    np.testing.assert_array_equal(schema.encode(X), [[0], [1], [np.nan], [0], [1], [0]])
    mass = schema.unseen_log_mass(X)[:, 0]
    np.testing.assert_array_equal(mass[:3], 0.0)
    assert mass[3] < -30.0
    assert mass[5] < mass[4] < mass[3]
    assert np.isfinite(mass).all()


def test_kinds_places_and_bounds_of_a_mixed_table() -> None:
    X = mixed_table()
    schema = Schema.learn(X)
    kinds = [column.kind for column in schema.columns]
    real = "gaussian"
    assert kinds == [real, "constant", "bernoulli", real, real, real]
    np.testing.assert_array_equal(schema.active, [0, 3, 4, 5, 2])  # kind by kind
    assert schema.kinds == (real, real, real, real, "bernoulli")
    np.testing.assert_array_equal([c.low for c in schema.columns], np.nanmin(X, axis=0))
    np.testing.assert_array_equal(
        [c.high for c in schema.columns], np.nanmax(X, axis=0)
    )
    assert [schema.columns[j].resolution for j in (1, 2, 5)] == [0.0, 1.0, 1.0]
    np.testing.assert_array_equal(schema.encode(X)[:, 4], X[:, 2])
    np.testing.assert_array_equal(schema.decode(schema.encode(X)).numbers[:, 1], 7.0)


def test_decode_clips_nothing_but_0_and_1() -> None:
    X = mixed_table()
    schema = Schema.learn(X)
    far = schema.decode(np.full((1, 5), 30.0)).numbers[0]
    assert np.all(far[[0, 3, 4, 5]] > np.nanmax(X[:, [0, 3, 4, 5]], axis=0))
    assert far[2] == 1.0


def test_duplicate_columns_are_coded_alike() -> None:
    x = np.random.default_rng(8).normal(size=(50, 1))
    coded = Schema.learn(np.hstack([x, x])).encode(np.hstack([x, x]))
    np.testing.assert_array_equal(coded[:, 0], coded[:, 1])


def test_merged_statistics_make_the_schema_of_the_whole() -> None:
    X = mixed_table()
    parts = [Statistics.of(part, key=i) for i, part in enumerate(np.split(X, 4))]
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    for scaling in ("standard", "robust"):
        one = Schema.from_statistics(merged, scaling=scaling)
        whole = Schema.learn(X, scaling=scaling)
        assert [c.kind for c in one.columns] == [c.kind for c in whole.columns]
        np.testing.assert_allclose(one.encode(X), whole.encode(X), atol=1e-11)


@pytest.mark.parametrize("method", ["encode", "decode", "unseen_log_mass"])
@pytest.mark.parametrize("shape", [(3,), (4, 7), (4, 1)])
def test_other_shapes_are_refused(method: str, shape: tuple[int, ...]) -> None:
    schema = Schema.learn(mixed_table())
    with pytest.raises(ValueError, match=r"columns, shape \(n, [56]\), got shape"):
        getattr(schema, method)(np.zeros(shape))


@pytest.mark.parametrize("value", [7.0, -3e-9, 1e12, 0.0])
def test_mass_off_a_constant_falls_with_the_distance(value: float) -> None:
    X = np.column_stack([np.full(20, value), np.arange(20.0)])
    schema = Schema.learn(X)
    unit = abs(value) or 1.0
    away = np.array([0.0, 1e-12, 1e-6, 1.0, 1e6, 1e200]) * unit
    test = np.column_stack([value + away, away])
    mass = schema.unseen_log_mass(test)
    assert mass[0, 0] == 0.0
    assert np.all(np.diff(mass[:, 0]) < 0)
    assert np.isfinite(mass).all()
    np.testing.assert_array_equal(mass[:, 1], 0.0)
    # The other side is as far; ten times farther is log(10) less.
    mirrored = schema.unseen_log_mass(np.column_stack([value - away, away]))
    np.testing.assert_allclose(mirrored, mass, rtol=1e-4)
    tenfold = schema.unseen_log_mass(np.column_stack([value + 10 * away, away]))
    np.testing.assert_allclose(tenfold[2:, 0], mass[2:, 0] - np.log(10), rtol=1e-9)


def test_every_row_of_the_table_has_the_mass_of_its_constants() -> None:
    x = np.full((10_000, 1), 1e12)
    x[3] += 0.01  # many units in the last place, but the spread is rounding
    schema = Schema.learn(x)
    assert schema.columns[0].kind == "constant"
    np.testing.assert_array_equal(schema.unseen_log_mass(x), 0.0)


def test_mass_of_a_hole_and_of_the_float32_neighbour_is_one() -> None:
    schema = Schema.learn(np.full((5, 1), 0.1))
    assert schema.unseen_log_mass([[NAN]])[0, 0] == 0.0
    assert schema.unseen_log_mass(np.full((1, 1), 0.1, np.float32))[0, 0] == 0.0
    assert schema.unseen_log_mass(np.full((1, 1), np.float32(0.1), float))[0, 0] < 0


@given(tables(), st.floats(1e-6, 1e6))
def test_mass_is_the_same_in_any_unit(X: np.ndarray, unit: float) -> None:
    X = np.column_stack([X, np.full(len(X), 3.0)])
    one, other = Schema.learn(X), Schema.learn(X * 2.0**10)
    found = other.unseen_log_mass((X + unit) * 2.0**10)[:, -1]
    np.testing.assert_allclose(found, one.unseen_log_mass(X + unit)[:, -1])


def test_rows_are_coded_by_themselves() -> None:
    X = mixed_table()
    schema = Schema.learn(X)
    alone = np.vstack([schema.encode(row[None]) for row in X])
    np.testing.assert_array_equal(alone, schema.encode(X))


def test_shared_arrays_cannot_be_changed() -> None:
    schema = Schema.learn(mixed_table())
    for array in (schema.active, schema.centre, schema.scale):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_encode_leaves_its_argument_alone() -> None:
    X = mixed_table()
    X.flags.writeable = False
    schema = Schema.learn(X)
    coded = schema.encode(X)
    coded[:] = 0.0
    assert not np.shares_memory(coded, X)


def test_bounds_are_those_that_columns_never_left() -> None:
    X = np.array([[0.0, 0.25, -1.0, -3.0], [5.0, 0.75, 1.0, -1.0], [2.0, 0.5, 0.5, -2]])
    out = np.array([[-1.0, 1.5, -9.0, 2.0], [9.0, -0.5, 9.0, -9.0]])
    schema = Schema.learn(X)
    kept = schema.decode(schema.encode(out)).numbers
    np.testing.assert_allclose(kept, [[0, 1, -9, 0], [9, 0, 9, -9]], atol=1e-14)


@pytest.mark.parametrize("unit", ["D", "h", "m", "s", "ms", "us"])
def test_dates_are_rounded_to_the_unit_that_all_share(unit: str) -> None:
    first = np.datetime64("1965-03-01", unit)
    observed = first + np.random.default_rng(0).integers(0, 10**6, 200)
    observed[0] = first + 1  # no coarser unit
    frame = pd.DataFrame({"when": observed.astype("datetime64[us]")})
    raw, n = Container.read(frame), 100
    parts = [Statistics.of(raw.take(rows)) for rows in (slice(n), slice(n, None))]
    for statistics in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        schema = Schema.from_statistics(statistics)
        coded = np.random.default_rng(1).normal(size=(50, 1))
        days = schema.decode(coded)
        when = Container.of(frame).restore(days)["when"].to_numpy()
        assert (when == when.astype(f"datetime64[{unit}]")).all()
        exact = schema.columns[0].centre + coded[:, 0] * schema.columns[0].scale
        step = 1 / TICKS[["D", "h", "m", "s", "ms", "us"].index(unit)]
        assert np.abs(days.numbers[:, 0] - exact).max() <= 0.5 * step + 1e-9
