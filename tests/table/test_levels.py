"""Levels: counted, merged, grouped, unknown; and the kinds beside real numbers."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from scipy import sparse, stats
from sklearn.preprocessing import OneHotEncoder

from skvae.table import Container, RawTable, Schema, Statistics
from skvae.table.raw import BLOCK_ROWS

NAN = float("nan")
LEVELS = st.lists(st.sampled_from(["a", "b", "é", "", None, 3, 0.5]), max_size=12)


def text(cells: list[Any]) -> RawTable:
    labels = np.empty(len(cells), dtype=object)
    labels[:] = cells
    return RawTable(np.full((len(cells), 1), NAN), {0: labels})


def learned(cells: list[Any], **options: Any) -> Schema:
    return Schema.learn(text(cells), names=["city"], **options)


@given(LEVELS, LEVELS, st.data())
def test_levels_of_both_are_those_of_the_whole(
    a: list, b: list, data: st.DataObject
) -> None:
    weights = st.lists(st.integers(0, 3), min_size=12, max_size=12)
    v, w = data.draw(weights)[: len(a)], data.draw(weights)[: len(b)]
    one, other = Statistics.of(text(a), v, key=0), Statistics.of(text(b), w, key=1)
    repeated = np.repeat(np.array([*a, *b], dtype=object), np.array([*v, *w], int))
    whole = Statistics.of(text(repeated.tolist()))
    for merged in (one.merge(other), other.merge(one)):
        assert merged.levels == whole.levels
        assert merged.text == whole.text
        np.testing.assert_array_equal(merged.weight, whole.weight)


def test_levels_of_numbers_are_counted_over_blocks() -> None:
    x = np.random.default_rng(0).integers(0, 5, size=(BLOCK_ROWS + 99, 1)) / 2
    x[::7] = NAN
    found = Statistics.of(x, levels=[0])
    values, counts = np.unique(x[~np.isnan(x)], return_counts=True)
    assert found.levels == {0: dict(zip(values.tolist(), counts.tolist()))}
    assert found.count[0] == counts.sum()


def test_text_and_numbers_do_not_merge() -> None:
    one, other = Statistics.of(text(["a"])), Statistics.of([[1.0]])
    with pytest.raises(ValueError, match=r"got both in the columns at \[0\]"):
        one.merge(other)
    empty = Statistics.of([[NAN]])
    assert one.merge(empty).text == empty.merge(one).text == {0}


def test_rare_levels_are_those_of_the_one_hot_encoder() -> None:
    rng = np.random.default_rng(1)
    cells = rng.choice(list("abcdefgh"), 300, p=np.arange(1, 9) / 36).tolist()
    for limits in (
        {"max_categories": 4},
        {"min_frequency": 40},
        {"min_frequency": 0.1},
        {"max_categories": 3, "min_frequency": 20},
        {"max_categories": 8},
    ):
        (column,) = learned(cells, **limits).columns
        peer = OneHotEncoder(**limits).fit(np.array(cells)[:, None])
        rare = peer.infrequent_categories_[0]
        # A level that is rare alone shares its code with none.
        rare = [] if rare is None or len(rare) < 2 else rare.tolist()
        assert list(column.levels[len(column.levels) - column.n_rare :]) == rare


def test_a_shared_code_keeps_the_shares_of_its_levels() -> None:
    cells = ["a"] * 50 + ["b"] * 30 + ["c"] * 15 + ["d"] * 5
    schema = learned(cells, max_categories=3)
    np.testing.assert_allclose(schema.levels[0], [0.5, 0.3, 0.2])
    raw = text(["a", "c", "d", None])
    np.testing.assert_array_equal(schema.encode(raw)[:, 0], [0, 2, 2, NAN])
    jacobian = schema.log_jacobian(raw)[:, 0]
    np.testing.assert_allclose(jacobian, [0, np.log(0.75), np.log(0.25), 0])
    # All levels together are a distribution, whatever the model gives the codes.
    known = text(["a", "b", "c", "d"])
    mass = np.array([0.1, 0.2, 0.7])[schema.encode(known)[:, 0].astype(int)]
    assert np.sum(mass * np.exp(schema.log_jacobian(known)[:, 0])) == pytest.approx(1)
    codes = np.full((4000, 1), 2.0)
    assert set(schema.decode(codes).text[0]) == {"c"}
    drawn = schema.decode(codes, source=np.random.default_rng(2)).text[0]
    counts = [np.sum(drawn == level) for level in "cd"]
    assert stats.chisquare(counts, [3000, 1000]).pvalue > 1e-4


def test_a_column_of_keys_has_a_hundred_codes() -> None:
    schema = learned([f"key {i}" for i in range(1000)])
    assert len(schema.levels[0]) == 100
    assert sum(schema.levels[0]) == pytest.approx(1.0)
    assert schema.columns[0].n_rare == 901


def test_unknown_levels_are_told_and_missing() -> None:
    frame = pd.DataFrame({"a": ["x", "y", "x"], "b": ["u", "v", "w"]})
    schema = Schema.learn(Container.read(frame), names=["a", "b"])
    other = pd.DataFrame({"a": ["x", "Oslo", None], "b": ["n", "o", "u"]})
    told = schema.unknown(Container.read(other))
    assert told == "'a': 'Oslo'; 'b': 'n', 'o'"
    coded = schema.encode(Container.read(other))
    np.testing.assert_array_equal(coded, [[0, NAN], [NAN, NAN], [NAN, 0]])
    assert schema.unknown(Container.read(frame)) == ""
    assert np.all(schema.log_jacobian(Container.read(other)) == 0)


def test_a_column_of_one_text_is_constant() -> None:
    schema = Schema.learn(Container.read(pd.DataFrame({"a": ["x", "x"], "b": [1, 2]})))
    assert schema.columns[0].kind == "constant"
    other = Container.read(pd.DataFrame({"a": ["x", "y", None], "b": [1, 2, 2]}))
    assert schema.unknown(other) == ""
    coded = schema.encode(other)
    assert coded.shape == (3, 1)
    mass = schema.unseen_log_mass(other)
    np.testing.assert_array_equal(mass[[0, 2]], 0.0)
    assert mass[1, 0] < -30
    assert mass[1, 1] == 0
    assert schema.decode(coded).text[0].tolist() == ["x"] * 3
    assert schema.unknown(other, constants=True) == "column 0: 'y'"


def test_one_likelihood_is_for_the_columns_of_numbers() -> None:
    frame = pd.DataFrame({"t": ["a", "b"] * 4, "x": np.arange(8) / 3, "k": [3, 4] * 4})
    raw, names = Container.read(frame), list(frame)

    def kinds(**options: Any) -> list[str]:
        columns = Schema.learn(raw, names=names, **options).columns
        return [column.kind for column in columns]

    assert kinds(likelihood="student_t") == ["categorical", "student_t", "student_t"]
    named = {"likelihood": "student_t", "categorical_features": ["k"]}
    assert kinds(**named) == ["categorical", "student_t", "categorical"]
    assert kinds(likelihood="categorical") == ["categorical"] * 3
    assert kinds(likelihood={"t": "ordinal"}) == ["ordinal", "gaussian", "gaussian"]
    mask = {"categorical_features": [False, False, True]}
    assert kinds(**mask) == ["categorical", "gaussian", "categorical"]
    assert kinds(likelihood={"k": "poisson"})[2] == "poisson"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"likelihood": {"t": "gaussian"}},
            r"real numbers, but 't' holds text such",
        ),
        (
            {"likelihood": {"x": "lognormal"}},
            r"positive numbers, but 'x'.*\[-1.5, 0.0",
        ),
        (
            {"likelihood": {"x": "poisson"}},
            r"whole numbers >= 0, but 'x'.*\[-1.5",
        ),
        ({"likelihood": {"k": "multinomial"}}, r"two or more, got only 'k'; choose"),
        ({"categorical_features": ["q"]}, r"by name \(\['t', 'x', 'k'\]\), got 'q'"),
        ({"categorical_features": [True]}, r"3 in all, got 1"),
        ({"categorical_features": "all"}, r"'from_dtype', None or a list.*'all'"),
        ({"max_categories": 1}, r"whole number >= 2, got 1"),
        ({"min_frequency": 0.0}, r"between 0 and 1, got 0.0"),
    ],
)
def test_errors_name_rule_value_and_cure(options: dict, message: str) -> None:
    frame = pd.DataFrame({"t": ["a", "b", "a"], "x": [-1.5, 0.0, 0.5], "k": [0, 2, 5]})
    with pytest.raises(ValueError, match=message):
        Schema.learn(Container.read(frame), names=list(frame), **options)


def test_text_in_a_column_of_numbers_is_told() -> None:
    schema = Schema.learn([[1.0], [2.0]], names=["age"])
    for method in (schema.encode, schema.log_jacobian, schema.unseen_log_mass):
        with pytest.raises(ValueError, match="'age' holds text such as 'old'; correct"):
            method(text(["old", None]))


def test_lognormal_densities_are_scipys() -> None:
    x = stats.lognorm.rvs(0.7, scale=20.0, size=(200, 1), random_state=3)
    schema = Schema.learn(x, likelihood="lognormal")
    assert schema.kinds == ("gaussian",)
    (column,) = schema.columns
    found = stats.norm.logpdf(schema.encode(x)) + schema.log_jacobian(x)
    expected = stats.lognorm.logpdf(x, column.scale, scale=np.exp(column.centre))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(schema.decode(schema.encode(x)).numbers, x, rtol=1e-12)
    heavy = Schema.learn(x, likelihood="lognormal", continuous="student_t")
    assert heavy.kinds == ("student_t",)
    odd = np.array([[-1.0], [0.0], [NAN], [column.low]])
    assert np.isfinite(schema.encode(odd)[[0, 1, 3]]).all()
    mass = schema.unseen_log_mass(odd)[:, 0]
    assert mass[0] < mass[1] < -10
    np.testing.assert_array_equal(mass[2:], 0.0)


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial"])
def test_counts_are_coded_as_they_are(kind: str) -> None:
    x = stats.poisson.rvs(4.0, size=(300, 1), random_state=4).astype(float)
    schema = Schema.learn(x, likelihood=kind)
    np.testing.assert_array_equal(schema.encode(x), x)
    assert schema.centre[0] == pytest.approx(np.log1p(x).mean(), rel=1e-12)
    assert schema.scale[0] == pytest.approx(np.log1p(x).std(), rel=1e-12)
    odd = np.array([[2.0], [2.4], [-3.0], [NAN]])
    np.testing.assert_array_equal(schema.encode(odd)[:, 0], [2, 2, 0, NAN])
    mass = schema.unseen_log_mass(odd)[:, 0]
    assert mass[2] < mass[1] < -10
    np.testing.assert_array_equal(
        schema.decode([[-2.0], [1.5]]).numbers[:, 0], [0, 1.5]
    )


def test_drawn_rows_keep_to_the_character_of_their_column() -> None:
    x = np.random.default_rng(5).random((400, 1))
    X = np.hstack([x, 3 * x, -x, np.rint(9 * x - 4), np.rint(9 * x)])
    schema = Schema.learn(X)
    coded = np.random.default_rng(6).normal(0, 4, size=(500, 5))
    drawn = schema.decode(coded, source=np.random.default_rng(7)).numbers
    means = schema.decode(coded).numbers
    np.testing.assert_array_equal(drawn[:, 0], np.clip(means[:, 0], 0, 1))
    np.testing.assert_array_equal(drawn[:, 1], np.maximum(means[:, 1], 0))
    np.testing.assert_array_equal(drawn[:, 2], np.minimum(means[:, 2], 0))
    np.testing.assert_array_equal(drawn[:, 3], np.rint(means[:, 3]))
    np.testing.assert_array_equal(drawn[:, 4], np.maximum(np.rint(means[:, 4]), 0))


def test_densities_stand_together() -> None:
    rng = np.random.default_rng(8)
    X = np.column_stack(
        [
            rng.poisson(3, 50),
            rng.lognormal(size=50),
            rng.integers(0, 2, 50),
            rng.normal(size=50),
            rng.integers(0, 4, 50),
            rng.poisson(3, 50),
        ]
    )
    likelihood = {0: "poisson", 1: "lognormal", 4: "ordinal", 5: "poisson"}
    schema = Schema.learn(X, likelihood=likelihood)
    assert schema.kinds == (
        *("gaussian", "gaussian", "bernoulli"),
        *("ordinal", "poisson", "poisson"),
    )
    np.testing.assert_array_equal(schema.active, [3, 1, 2, 4, 0, 5])
    assert [len(shares) for shares in schema.levels] == [0, 0, 0, 4, 0, 0]
    np.testing.assert_allclose(schema.decode(schema.encode(X)).numbers, X)


def test_sparse_counts_have_the_schema_of_dense_ones() -> None:
    dense = stats.poisson.rvs(0.4, size=(300, 7), random_state=9).astype(float)
    dense[:, 3] = 0.0
    table = sparse.csr_matrix(dense)
    weight = np.random.default_rng(10).integers(0, 3, 300).astype(float)
    one, other = Statistics.of(table, weight), Statistics.of(dense, weight)
    for name in ("count", "weight", "low", "high", "binary", "whole"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-14)
    for kind in ("poisson", "negative_binomial", "multinomial"):
        a, b = (Schema.learn(X, likelihood=kind) for X in (table, dense))
        assert [c.kind for c in a.columns] == [c.kind for c in b.columns]
        np.testing.assert_allclose(a.scale, b.scale, rtol=1e-12)
        np.testing.assert_array_equal(a.encode(table[5:9]), b.encode(dense[5:9]))
        raw = RawTable.of(table).take(slice(5, 9))
        np.testing.assert_array_equal(a.unseen_log_mass(raw), 0.0)
    with pytest.raises(ValueError, match=r"holds counts.*got \['gaussian'\].*toarray"):
        Schema.learn(table)
    table.data[0] = NAN
    with pytest.raises(ValueError, match="without missing cells, but got NaN"):
        Statistics.of(table)


def test_a_sparse_table_comes_back_sparse() -> None:
    table = sparse.csr_matrix(np.array([[0, 2], [1, 0]]))
    container, raw = Container.of(table), Container.read(table)
    back = container.restore(raw.dense() + 0.2)
    assert type(back) is type(table)
    assert back.dtype == table.dtype
    np.testing.assert_array_equal(back.toarray(), table.toarray())


@pytest.mark.parametrize("asked", [True, False])
def test_ordinal_columns_keep_their_levels_up_to_a_thousand(asked: bool) -> None:
    values = np.arange(1001.0)
    raw = RawTable(
        np.column_stack([values, values]),
        categories={} if asked else {0: ()},
        ordered=frozenset() if asked else frozenset([0]),
    )
    likelihood = {0: "ordinal"} if asked else "auto"
    words = "ordinal column holds at most 1000 levels.*column 0 holds 1001.*categorical"
    with pytest.raises(ValueError, match=words):
        Schema.learn(raw, likelihood=likelihood)
    schema = Schema.learn(
        raw.take(slice(1000)), likelihood=likelihood, max_categories=5
    )
    assert [schema.columns[0].kind, schema.columns[0].n_rare] == ["ordinal", 0]
    assert len(schema.columns[0].levels) == 1000
    grouped = Schema.learn(raw, likelihood={0: "categorical"})
    assert grouped.columns[0].n_rare == 902
