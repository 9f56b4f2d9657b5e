"""Frames in, frames out: pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.base import clone

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector
Table = NDArray[Any]

pytestmark = [
    # Small tables, copies and sums are told of: legitimate, and not what is tested.
    pytest.mark.filterwarnings("ignore:The noise of these columns"),
    pytest.mark.filterwarnings("ignore:No component of the code carries information"),
]


def plain(n_rows: int = 40, n_columns: int = 4, seed: int = 0) -> Table:
    """One factor and some noise."""
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(n_rows, 1))
    return code * np.linspace(0.5, 2.0, n_columns) + rng.normal(
        size=(n_rows, n_columns)
    )


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


def columns() -> dict[str, Table]:
    X = plain()
    return {
        "height": X[:, 0],
        "count": np.rint(10.0 * X[:, 1]).astype(np.int32),
        "weight": X[:, 2].astype(np.float32),
        "member": X[:, 3] > 0.0,
    }


FRAMES: dict[str, Callable[[dict[str, Table]], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def dtypes(frame: Any) -> list[str]:
    if isinstance(frame, pa.Table):
        return [str(field.type) for field in frame.schema]
    return [str(dtype) for dtype in frame.dtypes]


def names(frame: Any) -> list[str]:
    return list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)


@pytest.mark.parametrize("library", FRAMES)
def test_frames_come_back_as_frames(cls: type[Estimator], library: str) -> None:
    data = columns()
    frame = FRAMES[library](data)
    estimator = cls(random_state=0, max_iter=3).fit(frame)
    assert list(estimator.feature_names_in_) == list(data)
    assert estimator.likelihood_[-1] == "bernoulli"
    codes = estimator.transform(frame)
    answers = {
        "reconstruct": estimator.reconstruct(frame),
        "sample": estimator.sample(7, random_state=0),
        "impute": estimator.impute(frame),
        "inverse_transform": estimator.inverse_transform(codes),
    }
    for name, answer in answers.items():
        assert type(answer) is type(frame), name
        assert names(answer) == names(frame), name
        assert dtypes(answer) == dtypes(frame), name
        assert len(answer) == (7 if name == "sample" else len(frame)), name


@pytest.mark.parametrize("library", FRAMES)
def test_frames_say_what_arrays_say(cls: type[Estimator], library: str) -> None:
    data = {name: column.astype(float) for name, column in columns().items()}
    array, frame = np.column_stack(list(data.values())), FRAMES[library](data)
    plain = cls(random_state=0, max_iter=3).fit(array)
    framed = clone(plain).fit(frame)
    for method in ("transform", "score_samples", "elbo", "explain", "reconstruct"):
        np.testing.assert_array_equal(
            np.asarray(getattr(framed, method)(frame)), getattr(plain, method)(array)
        )
    np.testing.assert_array_equal(
        np.asarray(framed.sample(5, random_state=0)), plain.sample(5, random_state=0)
    )
    assert framed.loss_curve_ == plain.loss_curve_


@pytest.mark.parametrize("library", FRAMES)
def test_holes_of_frames_are_filled(cls: type[Estimator], library: str) -> None:
    frame = FRAMES[library](columns())
    estimator = cls(random_state=0, max_iter=3).fit(frame)
    data: dict[str, Any] = {k: v.tolist() for k, v in columns().items()}
    data["height"] = [None if i % 3 == 0 else v for i, v in enumerate(data["height"])]
    data["count"] = [None if i % 4 == 0 else v for i, v in enumerate(data["count"])]
    completed = estimator.impute(FRAMES[library](data))
    assert dtypes(completed) == dtypes(frame)
    for name, before in data.items():
        after = np.asarray(completed[name])
        seen = np.array([value is not None for value in before])
        assert np.isfinite(after.astype(float)).all()
        kept = np.array([value for value in before if value is not None])
        np.testing.assert_array_equal(after[seen], kept.astype(after.dtype))


def test_pandas_index_is_kept(cls: type[Estimator]) -> None:
    index = [f"row {i}" for i in range(40)]
    frame = pd.DataFrame(columns(), index=index)
    estimator = cls(random_state=0, max_iter=3).fit(frame)
    assert list(estimator.reconstruct(frame).index) == index
    assert list(estimator.impute(frame[5:9]).index) == index[5:9]


def test_pandas_nullable_dtypes(cls: type[Estimator]) -> None:
    frame = pd.DataFrame(columns()).astype(
        {"height": "Float64", "count": "Int32", "member": "boolean"}
    )
    estimator = cls(random_state=0, max_iter=3).fit(frame)
    assert dtypes(estimator.reconstruct(frame)) == dtypes(frame)
    holes = frame.copy()
    holes.loc[::3, "count"] = pd.NA
    completed = estimator.impute(holes)
    assert dtypes(completed) == dtypes(frame)
    assert not completed.isna().any(axis=None)


def test_all_rows_keep_bounds_and_units() -> None:
    rng = np.random.default_rng(0)
    code = rng.normal(size=200)
    near = code[:, None] + 0.3 * rng.normal(size=(200, 3))
    hours = pd.to_timedelta(np.rint(200 * near[:, 2]), "h")
    frame = pd.DataFrame(
        {
            "pay": np.exp(2.0 * near[:, 0]),
            "share": 1.0 / (1.0 + np.exp(-3.0 * near[:, 1])),
            "when": pd.Timestamp("2024-01-01", tz="UTC") + hours,
            "free": near[:, 1],
        }
    )
    holed = frame.copy()
    holed.loc[::2, "pay"] = np.nan
    holed.loc[::3, "share"] = np.nan
    holed.loc[::5, "when"] = pd.NaT
    model = VAETransformer(1, hidden_layer_sizes=(), random_state=0).fit(frame)
    far = model.inverse_transform(np.linspace(-9.0, 9.0, 50)[:, None])
    assert far["free"].min() < frame["free"].min()
    results = [
        far,
        model.reconstruct(frame),
        model.sample(200, random_state=0),
        model.impute(holed),
        *model.impute(holed, 2, random_state=0),
        *model.predictive_interval(holed[:20]),
    ]
    for rows in results:
        assert rows["pay"].min() >= 0.0
        assert rows["share"].between(0.0, 1.0).all()
        assert (rows["when"] == rows["when"].dt.floor("h")).all()
        assert rows.dtypes.equals(frame.dtypes)
    assert far["pay"].min() == 0.0
    assert far["share"].max() == 1.0
