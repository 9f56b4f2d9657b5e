"""New rows under conditions, against known laws and against rejection."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from skvae import VAETransformer

LINEAR: dict[str, Any] = {
    "hidden_layer_sizes": (),
    "noise": "column",
    "max_iter": 3,
    "random_state": 0,
}


@cache
def normal() -> tuple[VAETransformer, np.ndarray, np.ndarray]:
    """A linear Gaussian model, its mean and covariance."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) * [1.0, 5.0, -2.0] + [10.0, 0.0, 3.0]
    X += rng.normal(size=X.shape) * [0.7, 3.0, 1.0]
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = VAETransformer(1, **LINEAR).fit(frame)
    ends = model.inverse_transform(np.array([[0.0], [1.0]])).to_numpy()
    loadings = ends[1] - ends[0]
    covariance = np.outer(loadings, loadings) + np.diag(model.noise_variance_)
    return model, ends[0], covariance


@cache
def mixed() -> tuple[VAETransformer, pd.DataFrame, pd.DataFrame]:
    """A model of columns of all kinds, its table, and many free draws from it."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=400)
    near = code[:, None] + 0.8 * rng.normal(size=(400, 5))
    frame = pd.DataFrame(
        {
            "age": 40.0 + 8.0 * near[:, 0],
            "children": rng.poisson(np.exp(0.3 + 0.5 * near[:, 1])),
            "town": np.array(["Bonn", "Köln", "Ulm"])[
                np.digitize(near[:, 2], [-0.4, 0.9])
            ],
            "size": pd.Categorical.from_codes(
                np.digitize(near[:, 3], [-0.5, 0.6]), ["S", "M", "L"], ordered=True
            ),
            "member": near[:, 4] > 0.0,
            "planet": "Earth",
            "wheels": 4,
            "floor": np.rint(3.0 * near[:, 0]),
            "share": 1.0 / (1.0 + np.exp(-near[:, 1])),
        }
    )
    model = VAETransformer(1, likelihood={"children": "poisson"}, **LINEAR)
    model.fit(frame)
    return model, frame, model.sample(60_000, random_state=9)


def summary(rows: pd.DataFrame) -> np.ndarray:
    """Means of columns and shares of levels, each in units of about one."""
    return np.array(
        [
            (rows["age"].mean() - 40.0) / 10.0,
            rows["children"].mean() / 2.0,
            *(np.mean(rows["town"] == town) for town in ("Bonn", "Köln", "Ulm")),
            *(np.mean(rows["size"] == size) for size in "SML"),
            rows["member"].mean(),
        ]
    )


def test_a_value_gives_the_conditional_normal() -> None:
    model, mean, cov = normal()
    rows = model.sample(5000, random_state=1, conditions={"a": 11.5})
    assert (rows["a"] == 11.5).all()
    gain = cov[1:, 0] / cov[0, 0]
    expected = mean[1:] + gain * (11.5 - mean[0])
    left = cov[1:, 1:] - np.outer(gain, cov[0, 1:])
    std = np.sqrt(np.diag(left))
    cells = rows[["b", "c"]].to_numpy()
    np.testing.assert_allclose((cells.mean(0) - expected) / std, 0.0, atol=0.08)
    correlation = left[0, 1] / std.prod()
    np.testing.assert_allclose(cells.std(0) / std, 1.0, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(cells.T)[0, 1], correlation, atol=0.06)


@pytest.mark.parametrize("ends", [(9.0, 10.0), (None, 9.0), (13.0, None)])
def test_a_range_gives_the_truncated_normal(ends: tuple[Any, Any]) -> None:
    model, mean, cov = normal()
    rows = model.sample(4000, random_state=2, conditions={"a": ends})
    low, high = (
        infinite if end is None else end for end, infinite in zip(ends, (-1e9, 1e9))
    )
    assert rows["a"].between(low, high).all()
    exact = model.sample(50, 0, conditions={"a": {10.1, 9.7, 11.3}, "c": (0.1, None)})
    assert set(exact["a"]) == {10.1, 9.7, 11.3}
    assert (exact["c"] >= 0.1).all()
    std = np.sqrt(cov[0, 0])
    law = stats.truncnorm((low - mean[0]) / std, (high - mean[0]) / std, mean[0], std)
    # Several rows may share a code: the bound is that of a quarter as many rows.
    assert stats.kstest(rows["a"], law.cdf).statistic < 1.63 / np.sqrt(1000)
    expected = mean[1] + cov[1, 0] / cov[0, 0] * (law.mean() - mean[0])
    assert rows["b"].mean() == pytest.approx(expected, abs=0.08 * np.sqrt(cov[1, 1]))


def told(value: Any) -> str:
    """A name that is the same in each process, whatever order its sets have."""
    if isinstance(value, dict):
        return str({key: told(item) for key, item in value.items()})
    return str(sorted(value, key=str) if isinstance(value, set) else value)


CONDITIONS: list[dict[Any, Any]] = [
    {"town": "Ulm"},
    {"town": {"Bonn", "Ulm"}},
    {"town": ["Köln"], "member": True},
    {"size": ("M", None)},
    {"size": {"S", "L"}, "children": {0, 3}},
    {"children": (2, 4), "town": "Köln"},
    {"age": (30, 45), "member": False},
    {"floor": (-1.5, 2)},
    {"floor": {1, 2}, "share": (-1, 0.5)},
    {"share": (0.2, 3.0), "children": (-2, 1.5)},
    {1: 0, "planet": "Earth", "wheels": (3, 5)},
]


@pytest.mark.parametrize("conditions", CONDITIONS, ids=told)
def test_mixed_conditions_agree_with_rejection(conditions: dict[Any, Any]) -> None:
    model, frame, free = mixed()
    met = pd.Series(True, index=free.index)
    for key, wanted in conditions.items():
        column = free[frame.columns[key] if isinstance(key, int) else key]
        if isinstance(wanted, tuple):
            if column.name == "size":
                met &= column >= wanted[0]
            else:
                met &= column.between(*wanted)
        else:
            met &= column.isin(wanted if isinstance(wanted, set | list) else [wanted])
    rejected = free[met]
    rows = model.sample(3000, random_state=3, conditions=conditions)
    assert rows.dtypes.equals(frame.dtypes)
    for key, wanted in conditions.items():
        column = rows[frame.columns[key] if isinstance(key, int) else key]
        if isinstance(wanted, tuple) and column.name == "size":
            assert (column >= wanted[0]).all()
        elif isinstance(wanted, tuple):
            assert column.between(*wanted).all()
        else:
            assert set(column) <= set(
                wanted if isinstance(wanted, set | list) else [wanted]
            )
    assert len(rejected) > 1000
    np.testing.assert_allclose(summary(rows), summary(rejected), atol=0.06)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"town": "Rom"}, "'town'.*Bonn.*'Rom'"),
        ({"town": {"Ulm", "Rom"}}, "'Rom'"),
        ({"town": set()}, "an empty set"),
        ({"town": ("Bonn", "Ulm")}, "range.*'categorical'.*set"),
        ({"size": "XL"}, "'size'.*'XL'"),
        ({"size": ("L", "S")}, r"range is \(low, high\)"),
        ({"age": (30, 20)}, r"range is \(low, high\)"),
        ({"age": (1, 2, 3)}, "range"),
        ({"street": 3}, "name.*'town'.*'street'"),
        ({9: 3}, "position.*0 to 8.*9"),
        ({"planet": "Mars"}, "'planet' held one value.*'Mars'"),
        ({"wheels": 5}, "'wheels' held one value"),
        ({"wheels": (5, None)}, "'wheels' held one value"),
        ({"age": (1e6, None)}, "must be possible"),
        ({"children": (-3, -1)}, "'children' meets.*ends at -1"),
        ({"children": (1.2, 1.8)}, r"'children', a column of whole.*\(1.2, 1.8\)"),
        ({"floor": (1.2, 1.8)}, r"'floor', a column of whole.*\(1.2, 1.8\).*Widen"),
        ({"wheels": {5.0, 6}}, "'wheels' held one value"),
        ({"wheels": (1, 2, 3)}, r"range \(low, high\).*\(1, 2, 3\)"),
        ({"wheels": ("a", None)}, "'wheels' gives finite numbers.*'a'"),
        ({"wheels": None}, "'wheels' gives values"),
        ({"planet": ("A", "Z")}, r"range \(low, high\) of an ordered.*'planet'"),
        ({None: 0.3}, "names columns by position.*got None"),
        ({True: 0.3}, "names columns by position.*got True"),
        ({"age": "2024-01-31"}, "'age' gives finite numbers or dates.*Timestamp"),
        ({"age": 1j}, "'age' gives finite numbers or dates.*1j"),
        ({"age": math.inf}, "'age'.*inf"),
        ({"share": (1.5, 2.0)}, "'share' meets.*ends at 1.5"),
        ({"share": 1.5}, "'share'.*1.5"),
        ({"floor": 2.5}, "'floor'.*whole numbers.*2.5"),
        ({"member": (1.5, None)}, "'member' meets.*1.5"),
        ({"children": 1.5}, "'children'.*whole numbers.*1.5"),
        ({"age": None}, "'age'"),
        ({"age": "old"}, "'age'"),
    ],
    ids=told,
)
def test_conditions_that_no_row_can_meet_are_refused(
    conditions: dict[Any, Any], words: str
) -> None:
    model, *_ = mixed()
    with pytest.raises(ValueError, match=words):
        model.sample(5, conditions=conditions, random_state=0)


def test_conditions_that_constants_meet_change_nothing() -> None:
    model, *_ = mixed()
    free = model.sample(50, 0, conditions={"town": "Ulm"})
    for met in ({"wheels": {4.0, 7}}, {"wheels": (None, 4)}, {"planet": {"Earth"}}):
        rows = model.sample(50, 0, conditions={"town": "Ulm", **met})
        pd.testing.assert_frame_equal(rows, free)


def test_unnamed_columns_are_not_none() -> None:
    model = VAETransformer(1, **LINEAR).fit(
        np.random.default_rng(0).normal(size=(50, 2))
    )
    with pytest.raises(ValueError, match=r"by position.*got None"):
        model.sample(5, conditions={None: 0.3})


def test_zero_leaves_a_lognormal_column_open_below() -> None:
    pay = np.exp(np.random.default_rng(0).normal(size=(200, 2)))
    model = VAETransformer(1, likelihood="lognormal", **LINEAR).fit(pay)
    rows = model.sample(200, 0, conditions={0: (0, 1.5)})
    np.testing.assert_array_equal(
        rows, model.sample(200, 0, conditions={0: (None, 1.5)})
    )
    assert ((rows[:, 0] > 0.0) & (rows[:, 0] <= 1.5)).all()


def test_dates_are_conditions_as_dates() -> None:
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(100), "D")
    frame = pd.DataFrame({"when": days, "x": np.arange(100) + 0.5, "then": days[3]})
    model = VAETransformer(1, **LINEAR).fit(frame)
    first = pd.Timestamp("2024-02-01")
    rows = model.sample(
        50, 0, conditions={"when": (first, None), "then": (None, first)}
    )
    assert (rows["when"] >= first).all()
    for name in ("when", "then"):
        for wanted in ("2024-02-01", ("2024-02-01", None)):
            with pytest.raises(ValueError, match=rf"'{name}' gives.*dates.*Timestamp"):
                model.sample(5, conditions={name: wanted})


def test_conditions_are_a_dict() -> None:
    model, *_ = mixed()
    with pytest.raises(TypeError, match=r"conditions is a dict.*got list"):
        model.sample(5, conditions=[("town", "Ulm")])


def test_few_fitting_codes_are_told_of() -> None:
    model, mean, cov = normal()
    std = np.sqrt(np.diag(cov))
    # Each of two related columns can be far out, but hardly on opposite sides.
    far = {"a": mean[0] + 30.0 * std[0], "b": (mean[1] - 31.0 * std[1], None)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(500, random_state=0, conditions={"a": (mean[0], None)})
        model.sample(500, random_state=0, conditions=far)
    # The codes of 64 corners lie far apart: the draws find few of them.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 8))
    several = VAETransformer(6, **LINEAR).fit(X + 0.1 * rng.normal(size=X.shape))
    corners = {j: {-4.0, 4.0} for j in range(6)}
    with pytest.warns(UserWarning, match="500 rows were drawn from about") as caught:
        rows = several.sample(500, random_state=0, conditions=corners)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert set(np.abs(rows[:, :6]).ravel()) == {4.0}


def test_infrequent_levels_are_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    town = np.repeat(["A", "B", "c", "d", "e"], [60, 40, 8, 4, 2])
    number = pd.Categorical(np.repeat([10, 20, 30, 40], [60, 40, 10, 4]))
    frame = pd.DataFrame({"town": town, "x": rng.normal(size=114), "n": number})
    model = VAETransformer(1, max_categories=3, **LINEAR).fit(frame)
    drawn = model.sample(3000, 0, conditions={"town": ["c", "e"], "n": 40})
    assert set(drawn["town"]) == {"c", "e"}
    assert set(drawn["n"]) == {40}
    assert (drawn["town"] == "c").mean() == pytest.approx(0.8, abs=0.04)


@cache
def narrow() -> tuple[VAETransformer, pd.DataFrame]:
    """A model of columns whose data types hold little."""
    rng = np.random.default_rng(0)
    hours = pd.to_timedelta(rng.integers(0, 500, 300), "h")
    frame = pd.DataFrame(
        {
            "small": rng.integers(0, 100, 300).astype("int8"),
            "single": rng.normal(size=300).astype("float32"),
            "flag": np.arange(300) % 3 == 0,
            "one": (np.arange(300) % 2).astype(float),
            "when": pd.Timestamp("2024-01-01") + hours,
            "town": rng.choice([*"abcde"], 300, p=[0.4, 0.4, 0.1, 0.06, 0.04]),
            "grade": rng.integers(1, 5, 300),
            "switch": rng.integers(0, 2, 300),
        }
    )
    kinds = {"grade": "ordinal", "switch": "categorical"}
    model = VAETransformer(1, max_categories=3, likelihood=kinds, **LINEAR)
    return model.fit(frame), frame


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"small": 200}, r"'small'.*int8.*-128 to 127.*\[200\].*wider"),
        ({"small": {3, 200}}, r"int8.*\[200\]"),
        ({"small": (150, None)}, r"int8.*\[150\]"),
        ({"small": (None, -129)}, r"int8.*\[-129\]"),
        ({"single": 1e40}, r"'single'.*float32.*1e\+40"),
        ({"single": (1 / 3, 1 / 3 + 1e-9)}, "'single'.*float32.*two neighbours.*Widen"),
        ({"small": 5, 0: 5}, "each column once, got 'small' and 0.*Join"),
        ({1: (0, 1), "single": (0, 2)}, "each column once, got 1 and 'single'"),
        ({"small": True}, r"'small'.*0 and 1.*\[True\].*Give 1"),
        ({"single": (False, True)}, r"'single'.*\[False, True\]"),
        ({"when": 19_730.5}, r"'when', a column of dates.*19730.5.*Timestamp"),
        ({"single": pd.Timestamp("2024-01-05")}, "'single', a column of numbers"),
        ({"grade": True}, r"'grade'.*more than 0 and 1.*\[1, 2, 3, 4\].*\[True\]"),
        ({"grade": (True, 3)}, r"'grade'.*got \[True\]. Give the level"),
        ({"town": None}, r"'town' gives values, got \[None\].*missing.*Leave the col"),
        ({"grade": [2, float("nan")]}, r"'grade' gives values, got \[nan\]"),
        ({"single": (float("nan"), 1.0)}, r"got \[nan\].*None is the open end"),
        ({"flag": pd.NA}, r"'flag' gives values, got \[<NA>\]"),
        ({"when": {pd.NaT}}, r"'when' gives values, got \[NaT\]"),
    ],
    ids=told,
)
def test_conditions_are_of_the_column_s_own_type(
    conditions: dict[Any, Any], words: str
) -> None:
    model, _ = narrow()
    with pytest.raises(ValueError, match=words):
        model.sample(5, 0, conditions=conditions)


def test_conditions_within_the_column_s_own_type_are_kept() -> None:
    model, _ = narrow()
    first, last = pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-06 12:00")
    wanted = {"small": (90, 200), "single": (0.1, 0.2), "when": (first, last)}
    rows = model.sample(300, 0, conditions=wanted)
    assert rows["small"].min() >= 90
    single = rows["single"].to_numpy().astype(float)
    assert ((single >= 0.1) & (single <= 0.2)).all()
    assert rows["when"].between(first, last).all()
    wanted = {"flag": True, "one": {True}, "when": {first, last.to_pydatetime()}}
    rows = model.sample(300, 0, conditions=wanted)
    assert rows["flag"].all()
    assert (rows["one"] == 1.0).all()
    assert set(rows["when"]) == {first, last}
    # Whole numbers are levels by their value, and so are booleans of 0 and 1.
    rows = model.sample(50, 0, conditions={"grade": 2.0, "switch": True})
    assert (rows[["grade", "switch"]] == [2, 1]).all(axis=None)


def test_single_tensors_and_arrays_are_the_numbers_they_hold() -> None:
    model, _ = narrow()
    for wrap in (torch.tensor, np.array):
        for given, plain in (
            (wrap(0.5), 0.5),
            ([wrap(0.5), 0.25], [0.5, 0.25]),
            (wrap([0.5, 0.25]), [0.5, 0.25]),
            ((wrap(0.125), None), (0.125, None)),
        ):
            rows = model.sample(5, 0, conditions={"single": given})
            expected = model.sample(5, 0, conditions={"single": plain})
            pd.testing.assert_frame_equal(rows, expected)


def test_a_set_of_frequent_and_infrequent_levels_keeps_their_shares() -> None:
    model, _ = narrow()
    # Towns c, d and e share a code.
    rows = model.sample(4000, 0, conditions={"town": {"a", "d", "e"}})
    free = model.sample(20_000, 1)["town"]
    share = free[free.isin([*"ade"])].value_counts(normalize=True)
    for town in "ade":
        assert (rows["town"] == town).mean() == pytest.approx(share[town], abs=0.025)


def test_counts_of_rows_are_no_booleans() -> None:
    model, frame = narrow()
    with pytest.raises(TypeError, match=r"n_samples must be an instance of int.*True"):
        model.sample(True)
    with pytest.raises(TypeError, match="n_imputations must be an instance of int"):
        model.impute(frame, n_imputations=True)


def test_no_condition_is_none() -> None:
    model, *_ = mixed()
    free = model.sample(5, random_state=0)
    pd.testing.assert_frame_equal(model.sample(5, 0, conditions={}), free)
    same = [model.sample(5, 0, conditions={"town": "Ulm"}) for _ in range(2)]
    pd.testing.assert_frame_equal(*same)
