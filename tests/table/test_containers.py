"""Frame in, frame out: same names, order and data types."""

from __future__ import annotations

import datetime
import pickle
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae.table import Container

DATA = {
    "whole": np.array([1, -2, 3], dtype=np.int64),
    "small": np.array([1, 2, 3], dtype=np.uint8),
    "real": np.array([0.5, 1.5, 2.5]),
    "single": np.array([0.5, 1.5, 2.5], dtype=np.float32),
    "flag": np.array([True, False, True]),
}
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


def dtypes_of(frame: Any) -> list[str]:
    if isinstance(frame, pa.Table):
        return [str(field.type) for field in frame.schema]
    return [str(dtype) for dtype in frame.dtypes]


def names_of(frame: Any) -> list[str]:
    return list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)


def as_lists(frame: Any) -> list[list[Any]]:
    if isinstance(frame, pa.Table):
        return [column.to_pylist() for column in frame.columns]
    return [frame[name].to_list() for name in frame.columns]


@pytest.mark.parametrize("library", FRAMES)
def test_frame_in_frame_out(library: str) -> None:
    frame = FRAMES[library](DATA)
    container = Container.of(frame)
    values = Container.read(frame).numbers
    np.testing.assert_array_equal(values, np.column_stack(list(DATA.values())))
    back = container.restore(values)
    assert type(back) is type(frame)
    assert names_of(back) == list(DATA)
    assert dtypes_of(back) == dtypes_of(frame)
    assert as_lists(back) == as_lists(frame)


@pytest.mark.parametrize("library", FRAMES)
def test_numbers_between_are_rounded_and_kept_in_range(library: str) -> None:
    frame = FRAMES[library](DATA)
    rows = [[1.6, 300.0, 0.25, 0.25, 0.51], [-1.6, -7.0, -9.0, -9.0, 0.49]]
    back = as_lists(Container.of(frame).restore(np.array(rows)))
    expected = [[2, -2], [255, 0], [0.25, -9.0], [0.25, -9.0], [True, False]]
    assert back == expected
    assert dtypes_of(Container.of(frame).restore(np.array(rows))) == dtypes_of(frame)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_missing_values_become_null(library: str) -> None:
    frame = FRAMES[library](DATA)
    rows = [[np.nan] * 5, [1.6, 300.0, 0.25, 0.25, 0.7]]
    back = Container.of(frame).restore(np.array(rows))
    assert dtypes_of(back) == dtypes_of(frame)
    whole, small, _, _, flag = as_lists(back)
    assert (whole, small, flag) == ([None, 2], [None, 255], [None, True])


@pytest.mark.parametrize("library", FRAMES)
def test_nulls_are_read_as_nan(library: str) -> None:
    columns = {"i": [1, None], "b": [None, True], "f": [0.5, None]}
    if library == "pandas":
        types = {"i": "Int64", "b": "boolean", "f": "float64"}
        frame: Any = pd.DataFrame(columns).astype(types)
    else:
        frame = FRAMES[library](columns)
    values = Container.read(frame).numbers
    expected = [[1.0, np.nan, 0.5], [np.nan, 1.0, np.nan]]
    np.testing.assert_array_equal(values, expected)
    back = Container.of(frame).restore(np.nan_to_num(values, nan=0.2))
    assert dtypes_of(back) == dtypes_of(frame)
    assert as_lists(back) == [[1, 0], [False, True], [0.5, 0.2]]


PANDAS_DTYPES = ["Int64", "int64[pyarrow]", "boolean", "bool[pyarrow]", "Float32"]


@pytest.mark.parametrize("dtype", PANDAS_DTYPES)
def test_pandas_keeps_its_own_data_types(dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.array([1, 0, 1], dtype=dtype)})
    back = Container.of(frame).restore(np.array([[0.9], [0.1], [np.nan]]))
    assert dtypes_of(back) == dtypes_of(frame)
    if dtype != "Float32":
        assert back["a"].isna().tolist() == [False, False, True]
        assert back["a"].tolist()[:2] == [1, 0]


def test_booleans_of_pandas_stay_booleans_beside_holes() -> None:
    frame = pd.DataFrame({"a": [True, False]})
    back = Container.of(frame).restore(np.array([[np.nan], [0.7], [0.2]]))
    # As pandas makes it of such a list.
    expected = pd.DataFrame({"a": [None, True, False]})
    pd.testing.assert_frame_equal(back, expected)


def test_numpy_integers_of_pandas_give_way_to_nan() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [True, False]})
    back = Container.of(frame).restore(np.array([[np.nan, 0.7], [1.6, 0.2]]))
    assert dtypes_of(back) == ["float64", "bool"]
    assert back["a"].tolist()[1] == 2.0


def test_pandas_index_follows_the_rows() -> None:
    frame = pd.DataFrame(DATA, index=["x", "y", "z"])
    container = Container.of(frame)
    values = Container.read(frame).numbers
    pd.testing.assert_frame_equal(container.restore(values, like=frame), frame)
    assert list(container.restore(values).index) == [0, 1, 2]
    assert list(container.restore(values, like=values).index) == [0, 1, 2]
    assert list(frame.index) == ["x", "y", "z"]


def test_numbers_as_names() -> None:
    frame = pd.DataFrame(np.arange(4.0).reshape(2, 2))
    back = Container.of(frame).restore(Container.read(frame).numbers)
    pd.testing.assert_frame_equal(back, frame, check_column_type=False)


def test_object_columns_of_numbers_and_none() -> None:
    frame = pd.DataFrame({"a": pd.Series([1, None, 3], dtype=object)})
    values = Container.read(frame).numbers
    np.testing.assert_array_equal(values, [[1.0], [np.nan], [3.0]])
    back = Container.of(frame).restore(values)
    assert dtypes_of(back) == ["object"]
    assert back["a"].tolist() == [1, None, 3]


@pytest.mark.parametrize("library", FRAMES)
def test_float32_frames_are_read_as_float32(library: str) -> None:
    frame = FRAMES[library]({"a": DATA["single"], "b": DATA["single"]})
    assert Container.read(frame).dtype == np.float32
    assert Container.read(FRAMES[library](DATA)).dtype == np.float64


@pytest.mark.parametrize("library", FRAMES)
def test_other_types_of_columns_are_named(library: str) -> None:
    spans = [datetime.timedelta(1), datetime.timedelta(2)]
    frame = FRAMES[library]({"a": [1.0, 2.0], "span": spans})
    for read in (Container.of, Container.read):
        with pytest.raises(
            ValueError, match=r"'span': .*(?i:duration|timedelta).*or drop"
        ):
            read(frame)


@pytest.mark.parametrize("library", FRAMES)
def test_values_of_another_width_are_refused(library: str) -> None:
    with pytest.raises(ValueError, match=r"5 columns.*got values of shape \(2, 3\)"):
        Container.of(FRAMES[library](DATA)).restore(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.float64, [[0.25, 1e300]], [[0.25, 1e300]]),
        (np.float32, [[0.25, 0.1]], np.array([[0.25, 0.1]], np.float32)),
        (np.int64, [[1.6, -1.6]], [[2, -2]]),
        (np.int8, [[130.0, -1000.0]], [[127, -128]]),
        (np.uint16, [[-1.0, 1e9]], [[0, 65535]]),
        (bool, [[0.5, 0.49]], [[True, False]]),
        (object, [[0.25, 2.0]], [[0.25, 2.0]]),
    ],
)
def test_array_in_array_out(dtype: Any, values: list, expected: Any) -> None:
    container = Container.of(np.ones((3, 2), dtype=dtype))
    back = container.restore(np.array(values))
    assert type(back) is np.ndarray
    assert back.dtype == (np.float64 if dtype is object else np.dtype(dtype))
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_the_largest_integers_do_not_wrap(dtype: type) -> None:
    back = Container.of(np.ones((1, 1), dtype)).restore(np.array([[1e30]]))
    assert back[0, 0] > 0.999 * float(np.iinfo(dtype).max)


def test_arrays_of_integers_give_way_to_nan() -> None:
    back = Container.of(np.array([[1, 2]])).restore(np.array([[np.nan, 1.6]]))
    assert back.dtype == np.float64
    np.testing.assert_array_equal(back, [[np.nan, 2.0]])


def test_lists_come_back_as_arrays() -> None:
    assert Container.of([[1, 2], [3, 4]]).restore([[0.6, 2.2]]).tolist() == [[1, 2]]
    assert Container.of([[1.0, 2.0]]).restore([[0.6, 2.2]]).tolist() == [[0.6, 2.2]]


@pytest.mark.parametrize("library", [*FRAMES, "numpy"])
def test_containers_are_plain_values(library: str) -> None:
    table = np.ones((2, 2)) if library == "numpy" else FRAMES[library](DATA)
    container, again = Container.of(table), Container.of(table)
    loaded = pickle.loads(pickle.dumps(container))
    assert container == again == loaded
    assert joblib.hash(container) == joblib.hash(again) == joblib.hash(loaded)


@pytest.mark.parametrize("library", FRAMES)
def test_restored_values_are_not_shared(library: str) -> None:
    values = np.ones((3, 5))
    back = Container.of(FRAMES[library](DATA)).restore(values)
    values[:] = 9.0
    assert as_lists(back)[2] == [1.0, 1.0, 1.0]


def test_a_lazy_frame_is_no_table() -> None:
    lazy = pl.DataFrame({"a": [1.0]}).lazy()
    with pytest.raises(TypeError, match=r"got a lazy one, LazyFrame .*X\.collect\(\)"):
        Container.of(lazy)
