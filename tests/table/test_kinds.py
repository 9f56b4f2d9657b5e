"""Kinds of columns: as found, as asked for, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skvae.table import KINDS, Column, Schema

NAN = float("nan")


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        ("auto", ["gaussian", "bernoulli", "constant"]),
        ("gaussian", ["gaussian", "gaussian", "constant"]),
        ("student_t", ["student_t", "student_t", "constant"]),
        ({"a": "student_t"}, ["student_t", "bernoulli", "constant"]),
        ({1: "gaussian"}, ["gaussian", "gaussian", "constant"]),
        (
            {np.int64(1): "student_t", "a": "auto"},
            ["gaussian", "student_t", "constant"],
        ),
        ({"c": "bernoulli"}, ["gaussian", "bernoulli", "constant"]),
    ],
)
def test_likelihood_names_kinds(likelihood: Any, expected: list[str]) -> None:
    X = np.array([[0.5, 0, 7], [1.5, 1, 7], [2.5, 1, NAN]])
    schema = Schema.learn(X, names=["a", "b", "c"], likelihood=likelihood)
    assert [column.kind for column in schema.columns] == expected
    assert [column.name for column in schema.columns] == ["a", "b", "c"]


def test_auto_takes_the_given_kind_for_real_columns() -> None:
    X = np.array([[0.5, 0, 7], [1.5, 1, 7]])
    schema = Schema.learn(X, continuous="student_t")
    assert schema.kinds == ("student_t", "bernoulli")


def test_student_t_is_coded_like_gaussian() -> None:
    X = np.random.default_rng(0).gamma(2.0, size=(50, 3))
    one, other = (Schema.learn(X, likelihood=k) for k in ("gaussian", "student_t"))
    np.testing.assert_array_equal(one.encode(X), other.encode(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "normal"}, r"\['auto', 'gaussian', .*got 'normal'"),
        ({"likelihood": "constant"}, r"got 'constant'"),
        ({"likelihood": {"a": "normal"}}, r"kinds among .*got 'normal'"),
        ({"likelihood": {"z": "gaussian"}}, r"position \(0 to 2\).*'b'.*got 'z'"),
        ({"likelihood": {3: "gaussian"}}, r"position \(0 to 2\).*got 3"),
        ({"likelihood": {-1: "gaussian"}}, r"got -1"),
        ({"likelihood": {"a": "bernoulli"}}, r"only 0 and 1, but 'a'.*\[2.5\].*auto"),
        ({"likelihood": {0: "bernoulli"}}, r"'a' holds such values as \[2.5\]"),
        ({"likelihood": "bernoulli"}, r"'a' holds such values as \[2.5\]"),
        ({"scaling": "minmax"}, r"\['standard', 'robust'\], got 'minmax'"),
        ({"names": ["a", "b"]}, r"3 in all, got 2"),
        ({"sample_weight": [0.0, 0.0, 0.0]}, r"sample_weight is zero"),
        ({"sample_weight": [0.0, 0.0, 1.0]}, r"only missing values in 'c'; drop"),
    ],
)
def test_errors_name_rule_value_and_cure(arguments: dict, message: str) -> None:
    X = np.array([[0, 0, 7], [1, 1, 8], [2.5, 1, NAN]])
    with pytest.raises(ValueError, match=message):
        Schema.learn(X, **{"names": ["a", "b", "c"], **arguments})


def test_a_column_without_names_is_named_by_its_position() -> None:
    X = np.array([[NAN, 1.0, NAN], [NAN, 2.0, NAN]])
    with pytest.raises(ValueError, match="in column 0, column 2"):
        Schema.learn(X)
    with pytest.raises(ValueError, match=r"this table has none.*got 'a'"):
        Schema.learn(X[:, 1:2], likelihood={"a": "gaussian"})
    with pytest.raises(ValueError, match="by name"):
        Schema.learn(X[:, 1:2], likelihood={None: "gaussian"})


def test_likelihood_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"dict \{column: kind\}, got 3"):
        Schema.learn([[1.0], [2.0]], likelihood=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "constant"),
    [
        (np.array([0.1 + 0.2, 0.3, 0.3]), True),
        (1e12 + np.array([0.0, 1e-4, 2e-4]), True),
        (1e12 + np.array([0.0, 0.1, 0.2]), False),
        (np.array([1e-12, 2e-12]), False),
        (np.array([0.0, 1e-300]), False),
        (np.array([0.1, 0.1, NAN]), True),
        (np.float32(3.0) * (1 + np.array([0, 1.2e-7, 0], np.float32)), True),
        (np.float32(3.0) * (1 + np.array([0, 1e-5, 0], np.float32)), False),
        (3.0 * (1 + np.array([0, 1.2e-7, 0])), False),
        (np.array([5, 5]), True),
        (np.array([10**9, 10**9 + 1]), False),
        (np.array([False, False]), True),
    ],
)
def test_a_spread_of_rounding_is_a_constant(column: np.ndarray, constant: bool) -> None:
    schema = Schema.learn(column[:, None])
    assert (schema.columns[0].kind == "constant") == constant
    assert len(schema.active) == 1 - constant
    if constant:
        np.testing.assert_array_equal(schema.unseen_log_mass(column[:, None]), 0.0)
        assert schema.encode(column[:, None]).shape == (len(column), 0)
        back = schema.decode(np.empty((2, 0))).numbers
        np.testing.assert_allclose(back, np.nanmean(column), rtol=1e-6)


def test_weight_zero_can_make_a_constant() -> None:
    schema = Schema.learn([[1.0], [1.0], [2.0]], sample_weight=[1.0, 1.0, 0.0])
    assert schema.columns[0].kind == "constant"
    assert schema.columns[0].high == 1.0


CELLS = {
    "bernoulli": [[0.0, 1.0], [1.0, 1.0]],
    "lognormal": [[0.1, 1e9], [3.0, 1e-9]],
    "poisson": [[0.0, 7.0], [3.0, 1.0]],
    "negative_binomial": [[0.0, 7.0], [3.0, 1.0]],
    "multinomial": [[0.0, 7.0], [3.0, 1.0]],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_inverts_its_coding(kind: str) -> None:
    coding = KINDS[kind]
    x = np.array(CELLS.get(kind, [[-3.5, 1e6], [0.0, 2.0]]))
    centre, scale = np.array([0.3, -2.0]), np.array([0.5, 7.0])
    np.testing.assert_array_equal(coding.nearest(x, x.min(axis=0)), x)
    coded = coding.encode(x, centre, scale)
    back = coding.decode(coded, centre, scale)
    np.testing.assert_allclose(back, x, rtol=1e-13)
    # The log-Jacobian is the slope of the coding; masses have none.
    step = 1e-6 * np.abs(x) if kind == "lognormal" else np.full_like(x, 1e-3)
    slope = (coding.encode(x + step, centre, scale) - coded) / step
    slope = slope if coding.density in ("gaussian", "student_t") else np.ones_like(x)
    jacobian = np.broadcast_to(coding.log_jacobian(x, centre, scale), x.shape)
    np.testing.assert_allclose(np.exp(jacobian), slope, rtol=1e-4)


def test_a_new_kind_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What later kinds rely on: a coding of its own, chosen by name alone."""

    class Logarithm(type(KINDS["gaussian"])):  # type: ignore[misc]
        def encode(self, x: Any, centre: Any, scale: Any) -> Any:
            return np.log(x)

        def decode(self, coded: Any, centre: Any, scale: Any) -> Any:
            return np.exp(coded)

    monkeypatch.setitem(KINDS, "logarithm", Logarithm("gaussian"))  # type: ignore[arg-type]
    column = Column("a", "logarithm", 0.0, 1.0, 0.0, 1.0, 9.0)
    other = Column("b", "gaussian", 1.0, 2.0, 0.0, 1.0, 9.0)
    schema = Schema((column, other, column))
    X = np.array([[1.0, 3.0, np.e]])
    np.testing.assert_array_equal(schema.active, [1, 0, 2])
    np.testing.assert_allclose(schema.encode(X), [[1.0, 0.0, 1.0]])
    np.testing.assert_allclose(schema.decode(schema.encode(X)).numbers, X)
