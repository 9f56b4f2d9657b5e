"""Tables of all kinds of cells: read, coded, decoded and restored."""

from __future__ import annotations

import datetime
import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from skvae.table import Container, RawTable, Schema

NAN = float("nan")
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
TIMES = st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2040, 1, 1))
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    "real": st.floats(-1e9, 1e9).map(lambda x: x + 0.5),
    "whole": st.integers(-(2**40), 2**40),
    "flag": st.booleans(),
    "day": DAYS,
    "time": TIMES.map(lambda t: t.replace(microsecond=0)),
}


@st.composite
def columns(draw: st.DrawFn, *kinds: str) -> dict[str, list[Any]]:
    """Draw columns of these kinds with holes and at least one cell each."""
    n = draw(st.integers(1, 8))
    names = draw(
        st.lists(st.text("aé漢 _", max_size=3), min_size=6, max_size=6, unique=True)
    )
    result = {}
    for name, kind in zip(names, kinds or CELLS):
        cell = st.one_of(st.none(), CELLS[kind])
        own = draw(st.lists(cell, min_size=n - 1, max_size=n - 1))
        result[name] = [draw(CELLS[kind]), *own]
    return result


def as_pandas(table: dict[str, list[Any]]) -> pd.DataFrame:
    types = {str: "str", float: "float64", int: "Int64", bool: "boolean"}
    frame = {}
    for name, cells in table.items():
        dtype = types.get(type(cells[0]), "object")
        if type(cells[0]) is datetime.datetime:
            dtype = "datetime64[us]"
        frame[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(frame)


def as_objects(table: dict[str, list[Any]]) -> np.ndarray:
    result = np.empty((len(next(iter(table.values()))), len(table)), dtype=object)
    for j, cells in enumerate(table.values()):
        result[:, j] = cells
    return result


MAKERS = {
    "pandas": as_pandas,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "objects": as_objects,
}


def cells_of(X: Any) -> list[list[Any]]:
    """Return columns as Python cells, None for what is missing."""
    if isinstance(X, pa.Table):
        found = [column.to_pylist() for column in X.columns]
    elif isinstance(X, np.ndarray):
        found = [column.tolist() for column in X.T]
    else:
        found = [X[name].to_list() for name in X.columns]
    return [[None if pd.isna(x) else x for x in column] for column in found]


def types_of(X: Any) -> Any:
    if isinstance(X, pa.Table):
        return X.schema
    return X.dtype if isinstance(X, np.ndarray) else list(X.dtypes)


def assert_same_cells(found: Any, expected: Any, *, constant: np.ndarray) -> None:
    """Equal cells, but a column of one value may fill its holes."""
    for j, (a, b) in enumerate(zip(cells_of(found), cells_of(expected))):
        for x, y in zip(a, b):
            if y is None:
                assert x is None or constant[j]
            elif isinstance(y, float):
                assert x == pytest.approx(y, rel=1e-12, abs=1e-3)
            else:
                assert x == y
                assert isinstance(x, type(y))


@pytest.mark.parametrize("library", MAKERS)
@settings(max_examples=25, deadline=None)
@given(table=columns())
def test_cells_come_back_through_the_code(library: str, table: dict) -> None:
    X = MAKERS[library](table)
    container, raw = Container.of(X), Container.read(X)
    schema = Schema.learn(raw)
    coded = schema.encode(raw)
    np.testing.assert_array_equal(np.isnan(coded), raw.missing()[:, schema.active])
    constant = np.array([column.kind == "constant" for column in schema.columns])
    for source in (None, np.random.default_rng(0)):
        back = container.restore(schema.decode(coded, source=source), like=X)
        assert type(back) is type(X)
        assert types_of(back) == types_of(X)
        assert_same_cells(back, X, constant=constant)


@settings(max_examples=25, deadline=None)
@given(table=columns("text", "real", "whole", "text", "flag"))
def test_equal_tables_make_equal_schemas_whatever_holds_them(table: dict) -> None:
    read = [Container.read(make(table)) for make in MAKERS.values()]
    schemas = [Schema.learn(raw, names=list(table)) for raw in read]
    assert all(schema == schemas[0] for schema in schemas)
    assert len({pickle.dumps(schema) for schema in schemas}) == 1
    assert pickle.loads(pickle.dumps(schemas[0])) == schemas[0]
    for raw in read:
        np.testing.assert_array_equal(
            schemas[0].encode(raw), schemas[0].encode(read[0])
        )


CATEGORICAL = {
    "pandas": lambda cells: pd.DataFrame(
        {"c": pd.Categorical(cells, ["z", "é", "a", "unused"], ordered=True)}
    ),
    "unordered": lambda cells: pd.DataFrame(
        {"c": pd.Categorical(cells, ["z", "é", "a", "unused"])}
    ),
    "enum": lambda cells: pl.DataFrame(
        {"c": pl.Series(cells, dtype=pl.Enum(["z", "é", "a", "unused"]))}
    ),
    "categorical": lambda cells: pl.DataFrame(
        {"c": pl.Series(cells, dtype=pl.Categorical)}
    ),
    "dictionary": lambda cells: pa.table(
        {
            "c": pa.DictionaryArray.from_arrays(
                pa.array([None if x is None else "zéa".index(x) for x in cells]).cast(
                    pa.int8()
                ),
                pa.array(["z", "é", "a", "unused"]),
                ordered=True,
            )
        }
    ),
}


@pytest.mark.parametrize("holder", CATEGORICAL)
def test_categories_keep_their_levels_and_order(holder: str) -> None:
    X = CATEGORICAL[holder](["a", None, "z", "é", "a"])
    container, raw = Container.of(X), Container.read(X)
    schema = Schema.learn(raw)
    ordered = holder in ("pandas", "dictionary")
    (column,) = schema.columns
    assert column.kind == ("ordinal" if ordered else "categorical")
    assert column.levels == (("z", "é", "a") if ordered else ("a", "z", "é"))
    back = container.restore(schema.decode(schema.encode(raw)))
    assert types_of(back) == types_of(X)
    assert cells_of(back) == cells_of(X)
    if holder in ("pandas", "unordered"):
        assert list(back["c"].cat.categories) == ["z", "é", "a", "unused"]
        assert back["c"].cat.ordered == ordered
    if holder == "dictionary":
        levels = back["c"].chunk(0).dictionary.to_pylist()
        assert levels == ["z", "é", "a", "unused"]


def test_an_ordinal_column_takes_the_declared_order() -> None:
    X = CATEGORICAL["enum"](["a", None, "z", "é", "a"])
    schema = Schema.learn(Container.read(X), likelihood="ordinal")
    assert schema.columns[0].levels == ("z", "é", "a")
    np.testing.assert_array_equal(
        schema.encode(Container.read(X))[:, 0], [2, NAN, 0, 1, 2]
    )
    codes = np.array([2.0, 0, 1, 2])
    assert schema.centre[0] == pytest.approx(codes.mean())
    assert schema.scale[0] == pytest.approx(codes.std())


def test_categories_of_numbers() -> None:
    frame = pd.DataFrame({"c": pd.Categorical([3, 10, None, 3], [10, 3, 7])})
    raw = Container.read(frame)
    schema = Schema.learn(raw)
    assert (schema.columns[0].kind, schema.columns[0].levels) == (
        "categorical",
        (3, 10),
    )
    back = Container.of(frame).restore(schema.decode(schema.encode(raw)))
    pd.testing.assert_frame_equal(back, frame)
    plain = Schema.learn(
        RawTable.of([[3.0], [10.0], [NAN], [3.0]]), categorical_features=[0]
    )
    assert plain == schema
    numbers = Schema.learn(raw, categorical_features=None)
    assert numbers.kinds == ("gaussian",)


def test_mixed_cells_of_one_column_are_levels() -> None:
    X = np.array([["b"], [2], [1.5], [True], [None], [NAN], ["a"]], dtype=object)
    raw = Container.read(X)
    schema = Schema.learn(raw)
    assert schema.columns[0].levels == (True, 1.5, 2, "a", "b")
    back = Container.of(X).restore(schema.decode(schema.encode(raw)))
    assert cells_of(back) == [["b", 2, 1.5, True, None, None, "a"]]


def test_dates_are_days() -> None:
    utc = pd.to_datetime(["1970-01-02 12:00", None]).tz_localize("UTC")
    frame = pd.DataFrame(
        {
            "zone": utc.tz_convert("Asia/Tokyo"),
            "plain": pd.to_datetime(["1969-12-31", "1970-01-11"]),
            "day": pd.Series([datetime.date(1970, 1, 3), None], dtype=object),
        }
    )
    raw = Container.read(frame)
    np.testing.assert_array_equal(raw.numbers, [[1.5, -1, 2], [NAN, 10, NAN]])
    back = Container.of(frame).restore(raw)
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize("library", MAKERS)
def test_rows_without_any_cell(library: str) -> None:
    table = {"a": ["x", None, "y"], "b": [0.5, None, 1.5]}
    X = MAKERS[library](table)
    schema = Schema.learn(Container.read(X))
    coded = schema.encode(Container.read(X))
    assert np.isnan(coded[1]).all()
    assert np.isfinite(coded[[0, 2]]).all()
    assert np.all(schema.log_jacobian(Container.read(X))[1] == 0)
    cells = cells_of(Container.of(X).restore(schema.decode(coded)))
    assert [column[1] for column in cells] == [None, None]


def test_missing_is_none_nan_na_and_nat() -> None:
    column = [None, NAN, pd.NA, pd.NaT, np.float32("nan"), 1, True]
    X = np.empty((len(column), 2), dtype=object)
    X[:, 0], X[:, 1] = column, [*column[:5], "t", "u"]
    raw = Container.read(X)
    np.testing.assert_array_equal(raw.missing()[:, 0], [True] * 5 + [False] * 2)
    np.testing.assert_array_equal(raw.missing()[:, 1], [True] * 5 + [False] * 2)
    assert raw.numbers[5:, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.array([[{"a": 1}]], dtype=object), TypeError, "must be a string or a numb"),
        ([["a"], ["b", "c"]], ValueError, "inhomogeneous"),
        ([["a", [1, 2]], ["b", 3]], ValueError, "inhomogeneous"),
        (pd.DataFrame({"q": [b"raw"]}), TypeError, r"b'raw' of type bytes in 'q'"),
        (
            pd.DataFrame([[1, 2]], columns=["a", "a"]),
            ValueError,
            r"more than one of \['a'\]; rename",
        ),
        (
            pa.Table.from_arrays([pa.array([1])] * 2, names=["b", "b"]),
            ValueError,
            r"more than one of \['b'\]",
        ),
        (
            np.array([["a"], [datetime.date(2020, 1, 1)]], dtype=object),
            TypeError,
            "column 0 mixes dates with",
        ),
        (
            pd.DataFrame({"i": pd.cut([1, 2, 3], 2)}),
            TypeError,
            "categories of 'i'",
        ),
    ],
)
def test_what_is_no_table_is_told(X: Any, error: type, message: str) -> None:
    for read in (Container.of, Container.read):
        with pytest.raises(error, match=message):
            read(X)


def test_integers_as_names_and_the_index_come_back() -> None:
    frame = pd.DataFrame({0: ["x", "y"], 7: [1, 2]}, index=[5, 3])
    container, raw = Container.of(frame), Container.read(frame)
    pd.testing.assert_frame_equal(container.restore(raw, like=frame), frame)


@pytest.mark.parametrize("library", MAKERS)
def test_completed_tables_keep_their_observed_cells(library: str) -> None:
    table = {"a": ["x", None, "y"], "b": [0.1, None, 1e-300], "c": [2**40 + 1, 3, None]}
    X = MAKERS[library](table)
    values = RawTable(
        np.array([[NAN, 9.0, 9.4]] * 3), {0: np.array(["z"] * 3, dtype=object)}
    )
    missing = Container.read(X).missing()
    done = Container.of(X).complete(X, values, missing)
    assert type(done) is type(X)
    expected = [["x", "z", "y"], [0.1, 9.0, 1e-300], [2**40 + 1, 3, 9]]
    assert cells_of(done) == expected
    assert cells_of(X)[0] == ["x", None, "y"]


@pytest.mark.parametrize("library", MAKERS)
def test_floats_and_added_columns_have_the_container(library: str) -> None:
    X = MAKERS[library]({"a": ["x", "y"], "b": [0.5, 1.5]})
    container = Container.of(X)
    found = container.floats(np.array([[1.0, 2.0], [3.0, 4.0]]), like=X)
    assert type(found) is type(X)
    assert cells_of(found) == [[1.0, 3.0], [2.0, 4.0]]
    wider = container.with_columns(X, ["holes"], np.array([[True], [False]]))
    assert type(wider) is type(X)
    assert cells_of(wider) == [["x", "y"], [0.5, 1.5], [True, False]]
    if library != "objects":
        names = wider.column_names if library == "pyarrow" else wider.columns
        assert list(names) == ["a", "b", "holes"]
