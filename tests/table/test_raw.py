"""Cells of a table, and which of them are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from skvae.table import raw
from skvae.table.raw import RawTable

N, D = 50, 3


def cells() -> np.ndarray:
    X = np.random.default_rng(0).normal(size=(N, D))
    X[[3, 20, 49], [0, 2, 0]] = np.nan
    return X


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "rows",
    [slice(2, 9), np.arange(N) % 2 == 0, np.array([4, 4, -1]), np.array([7], "int32")],
    ids=["slice", "mask", "positions", "narrow"],
)
def test_some_rows_are_those_of_the_array(rows: Any, order: Any) -> None:
    X = np.array(cells(), order=order)
    labels = np.arange(N).astype(object)
    part = RawTable(X, {1: labels}).take(rows)
    np.testing.assert_array_equal(part.numbers, X[rows])
    np.testing.assert_array_equal(part.text[1], labels[rows])
    stored = RawTable.of(sparse.csr_array(X)).take(rows)
    np.testing.assert_array_equal(stored.dense(), X[rows])


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_holes_are_found_block_by_block(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "BLOCK_ROWS", block)
    text = np.full(N, "a", dtype=object)
    text[11] = None
    expected = np.isnan(cells())
    for axis in (0, 1):
        plain, stored = RawTable.of(cells()), RawTable.of(sparse.csr_array(cells()))
        for table in (plain, stored):
            np.testing.assert_array_equal(table.holed(axis), expected.any(axis=axis))
    expected[:, 1] = np.arange(N) == 11
    labelled = RawTable(cells(), {1: text})
    np.testing.assert_array_equal(labelled.holed(0), [True, True, True])
    np.testing.assert_array_equal(np.flatnonzero(labelled.holed(1)), [3, 11, 20, 49])
    assert RawTable(cells()[:0]).holed(0).tolist() == [False] * D
    assert RawTable(cells()[:0]).holed(1).shape == (0,)
    assert RawTable(np.zeros((4, 2), dtype=int)).holed(1).tolist() == [False] * 4
