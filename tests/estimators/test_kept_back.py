"""Rows that a detector keeps back: their values are known, nothing else is learned."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skvae import VAEAnomalyDetector
from skvae.estimators import _tables
from skvae.estimators._tables import without_lone_cells
from skvae.table.raw import RawTable

N = 120


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "y": rng.normal(size=N),
            "town": rng.choice(["a", "b", "c"], N),
        }
    )


def detector(**params: Any) -> VAEAnomalyDetector:
    return VAEAnomalyDetector(max_iter=3, random_state=0, **params)


def kept_rows() -> np.ndarray:
    return np.flatnonzero(detector()._kept_back(N))


@pytest.mark.parametrize("score", ["auto", "log_likelihood", "aggregate"])
def test_level_of_a_kept_row_is_known_and_unusual(score: str) -> None:
    table, row = frame(), kept_rows()[0]
    table.loc[row, "town"] = "new"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = detector(handle_unknown="error", anomaly_score=score).fit(table)
        scores = model.score_samples(table)
    assert model.categories_[2].tolist() == ["a", "b", "c", "new"]
    assert np.isfinite(scores).all()
    parts = model.explain(table)
    np.testing.assert_allclose(parts.sum(axis=1) + model.base_score_, scores)
    own = table.iloc[[row]]
    hole, *others = (own.assign(town=town) for town in (None, "a", "b", "c"))
    assert scores[row] < model.score_samples(hole)[0]
    # None of the 96 rows trained on holds a level alone: one in 97 is Good and Turing's
    # chance of another.
    price = parts["town"].iloc[row] + model._mean_contributions[2]
    assert price == pytest.approx(-np.log(N - len(kept_rows()) + 1))
    assert scores[row] < min(model.score_samples(other)[0] for other in others)
    with pytest.raises(ValueError, match="'newer'"):
        model.score_samples(own.assign(town="newer"))


def test_scores_do_not_depend_on_the_rows_kept_back() -> None:
    # What conformal p-values rest on: only rows with a level that training had not
    # may score otherwise, and those that nobody had never lower.
    table, kept = frame(), kept_rows()
    scrambled = table.copy()
    scrambled.loc[kept[:3], "town"] = ["p", "q", "p"]
    scrambled.loc[kept[3:], "x"] = -9.5
    one, other = (
        detector(handle_unknown="missing").fit(each) for each in (table, scrambled)
    )
    np.testing.assert_array_equal(one.score_samples(table), other.score_samples(table))
    with pytest.warns(UserWarning, match="never observed"):
        unknown = one.score_samples(scrambled.loc[kept[:3]])
    assert (other.score_samples(scrambled.loc[kept[:3]]) < unknown).all()


def test_new_levels_are_no_surprise_where_every_row_has_one() -> None:
    names = np.array([f"row {i}" for i in range(N)])
    table, kept = frame().assign(name=names), kept_rows()
    model = detector().fit(table)
    scores = model.score_samples(table.loc[kept])
    as_holes = model.score_samples(table.loc[kept].assign(name=None))
    np.testing.assert_allclose(scores, as_holes, rtol=1e-9)


def test_bounds_and_fractions_of_kept_rows_are_known() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(1, 9, N), rng.normal(size=N)]).astype(float)
    clean = detector().fit(X)
    X[kept_rows()[0], 0] = -2.5
    model = detector().fit(X)
    column = model._schema.columns[0]
    assert (column.low, column.high, column.whole) == (-2.5, 8.0, False)
    np.testing.assert_array_equal(clean.score_samples(X), model.score_samples(X))


def test_a_columns_only_cells_are_trained_on() -> None:
    table, kept = frame(), kept_rows()
    table["late"] = np.nan
    table.loc[kept[:4], "late"] = [1.0, 2.0, 3.0, 4.0]
    model = detector().fit(table)
    assert np.isfinite(model.score_samples(table)).all()
    assert len(model._calibration) == len(kept) - 4


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_lone_cells_are_found_block_by_block(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tables, "_BLOCK_ROWS", block)
    apart = np.arange(40) % 3 == 0
    X = np.random.default_rng(0).normal(size=(40, 3))
    X[~apart, 1] = np.nan  # known from rows apart alone, of which three
    X[np.flatnonzero(apart)[3:], 1] = np.nan
    left = without_lone_cells(RawTable.of(X), apart)
    np.testing.assert_array_equal(np.flatnonzero(apart & ~left), [0, 3, 6])
    assert not (left & ~apart).any()
    assert without_lone_cells(RawTable.of(X[:, ::2]), apart).tolist() == apart.tolist()


@pytest.mark.parametrize("constant", ["a", 1])
def test_a_level_beside_a_constant(constant: Any) -> None:
    cells = np.full(N, constant, dtype=object)
    row = kept_rows()[0]
    cells[row] = "other"
    table = frame().assign(same=cells)
    model = detector(handle_unknown="error").fit(table)
    assert np.isfinite(model.score_samples(table)).all()
    assert model.sample(2)["same"].tolist() == [constant, constant]
