"""Large tables: the fit of a small one, without a copy of the table."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from skvae import VAEAnomalyDetector, VAEImputer, VAESearchCV, VAETransformer
from skvae.model import rows
from skvae.table import raw, statistics
from skvae.table.raw import RawTable
from skvae.training import batches

SMALL: dict[str, Any] = {
    "n_components": 2,
    "hidden_layer_sizes": (4,),
    "max_iter": 2,
    "n_score_samples": 4,
    "random_state": 0,
}
ESTIMATORS = [
    VAETransformer(**SMALL),
    VAEImputer(**SMALL, n_estimators=2),
    VAEAnomalyDetector(**SMALL, n_estimators=2, early_stopping=True),
    VAEAnomalyDetector(**SMALL, novelty=True, max_samples=0.5, bootstrap=True),
]
N, D = 400, 5

each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def numbers(n: int = N, d: int = D, dtype: Any = np.float64) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 2))
    X = np.tanh(z @ rng.normal(size=(2, d))) + 0.3 * rng.normal(size=(n, d))
    X[:, -1] = X[:, -1] > 0.0
    return X.astype(dtype)


def holed() -> np.ndarray:
    X = numbers()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    return X


def mixed() -> pd.DataFrame:
    frame = pd.DataFrame(holed(), columns=list("abcde"))
    town = np.random.default_rng(2).choice(["x", "y", "z"], N)
    return frame.assign(town=pd.Series(town).where(frame["a"] > -1.0))


TABLES = {
    "float64": numbers(),
    "float32": numbers(dtype=np.float32),
    "holes": holed(),
    "levels": mixed(),
}


def told(model: Any, X: Any) -> list[np.ndarray]:
    found = [model.score_samples(X), model.explain(X), np.array(model.loss_curve_)]
    return [*found, model.validation_scores_, model._model.params.flat.numpy()]


def large(monkeypatch: pytest.MonkeyPatch, cells_per_block: int) -> list[rows.OnDemand]:
    """From here on every table is a large one; those that are coded so."""
    made: list[rows.OnDemand] = []
    start = rows.RowsOnDemand.__init__

    def spy(self: Any, table: rows.OnDemand, *args: Any) -> None:
        made.append(table)
        start(self, table, *args)

    monkeypatch.setattr(rows, "_FEW_CELLS", 0)
    monkeypatch.setattr(rows, "_KEPT_CELLS", 0)
    monkeypatch.setattr(rows, "_CELLS_PER_BLOCK", cells_per_block)
    monkeypatch.setattr(rows.RowsOnDemand, "__init__", spy)
    return made


@each
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_coded_on_demand_give_the_same_fit(
    estimator: Any, name: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, weight = TABLES[name], np.random.default_rng(3).integers(0, 3, N)
    args = {"sample_weight": weight if weighted else None}
    small = told(clone(estimator).fit(X, **args), X)
    # Blocks as large as the table: their sums round as those of a small one.
    made = large(monkeypatch, 2**20)
    for mine, whole in zip(told(clone(estimator).fit(X, **args), X), small):
        np.testing.assert_array_equal(mine, whole)
    assert made
    # Numbers stay where they are; what takes long to code is kept.
    raw_kept = isinstance(made[0].stored, RawTable)
    completed = name == "holes" and estimator._completes
    assert raw_kept == (name != "levels" and not completed)


@each
def test_rows_of_a_table_of_moderate_size_are_kept_for_training(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = TABLES["float32"]
    small = told(clone(estimator).fit(X), X)
    made = large(monkeypatch, 2**20)
    monkeypatch.setattr(rows, "_KEPT_CELLS", X.size)
    for mine, whole in zip(told(clone(estimator).fit(X), X), small):
        np.testing.assert_array_equal(mine, whole)
    assert not made


@each
def test_blocks_change_a_fit_by_rounding_alone(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = numbers()
    small = clone(estimator).fit(X).score_samples(X)
    large(monkeypatch, 40 * D)
    mine = clone(estimator).fit(X).score_samples(X)
    np.testing.assert_allclose(mine, small, rtol=1e-3, atol=1e-3)


@each
def test_a_stream_and_a_warm_start_of_large_tables(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, tables = numbers(), (numbers()[:150], holed()[150:])

    def streamed() -> list[np.ndarray]:
        model = clone(estimator).set_params(warm_start=True)
        for part in tables:
            model.partial_fit(part)
        return told(model.fit(X), X)

    small = streamed()
    large(monkeypatch, 2**20)
    for mine, whole in zip(streamed(), small, strict=True):
        np.testing.assert_array_equal(mine, whole)


def test_rows_of_large_tables_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"n_components": [1, 2], "alpha": [0.0, 1.0]}
    found = []
    for cells in (None, 2**20, 40 * D):
        if cells is not None:
            large(monkeypatch, cells)
        search = VAESearchCV(VAETransformer(**SMALL), grid, cv=2).fit(holed())
        found.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-3)


def test_a_callers_table_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    X = holed()
    X.flags.writeable = False
    large(monkeypatch, 40 * D)
    for estimator in ESTIMATORS:
        clone(estimator).fit(X)


@pytest.mark.parametrize(
    ("estimator", "dtype"),
    list(zip(ESTIMATORS[:3], (np.float32, np.float64, np.float32), strict=True)),
)
def test_memory_of_a_fit_does_not_grow_with_the_table(
    estimator: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch, 2**15)
    monkeypatch.setattr(batches, "_CELLS_PER_BLOCK", 2**15)
    for module in (statistics, raw):
        monkeypatch.setattr(module, "BLOCK_ROWS", 4096)
    model = clone(estimator).set_params(
        batch_size=4096, max_iter=1, validation_fraction=1e-3
    )
    n, d = 50_000, 40  # more than the rows that quantiles are read from
    tensors = [0]
    start = rows.Rows.__init__

    def spy(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        tensors[0] = max(tensors[0], x.nbytes)
        start(self, x, *args, **kwargs)

    monkeypatch.setattr(rows.Rows, "__init__", spy)

    def peak(n_rows: int) -> tuple[int, int]:
        X, tensors[0] = numbers(n_rows, d, dtype), 0
        tracemalloc.start()
        try:
            model.fit(X)
            return tracemalloc.get_traced_memory()[1], tensors[0]
        finally:
            tracemalloc.stop()

    peak(1000)  # imports and caches
    few, many = peak(n), peak(3 * n)
    # Beside the table a row has its places in some orders, its score and its marks.
    row = d * np.dtype(dtype).itemsize
    assert (many[0] - few[0]) / (2 * n) < 0.15 * row
    assert many[1] == few[1]
    assert tensors[0] > 0
