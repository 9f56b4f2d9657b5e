"""Coded rows that are made when they are asked for: the same as all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skvae.model import rows
from skvae.model.closed_form import Moments, dependent_columns, linear_start
from skvae.model.completion import Completion
from skvae.model.incomplete import column_means, em_moments
from skvae.model.likelihoods import TableLikelihood
from skvae.model.networks import REACH
from skvae.model.rows import OnDemand, Rows, RowsOnDemand, blocks, take_rows

N, D = 500, 4


def table(*, holes: bool = False, n: int = N, d: int = D) -> np.ndarray:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + rng.normal(size=(n, d))
    if holes:
        X[rng.random(X.shape) < 0.2] = np.nan
    return X


class Counted:
    """Stored rows that remember how many were asked for at most."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.most = array, 0

    def __len__(self) -> int:
        return len(self.array)

    def take(self, places: Any) -> np.ndarray:
        self.most = max(self.most, len(self.array[places]))
        return self.array[places]


def demand(array: np.ndarray) -> OnDemand:
    """Rows whose coding doubles what is stored."""
    return OnDemand(Counted(array / 2.0), array.shape[1], lambda part: 2.0 * part)


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of these tests are large ones: a block is 32 of their rows."""
    monkeypatch.setattr(rows, "_FEW_CELLS", 0)
    monkeypatch.setattr(rows, "_KEPT_CELLS", 0)
    monkeypatch.setattr(rows, "_CELLS_PER_BLOCK", 32 * D)


MASK = np.arange(N) % 3 == 0
PLACES = np.array([7, 3, 3, 499])
CHOICES = [slice(None), slice(4, 90, 3), MASK, PLACES, torch.as_tensor(PLACES).numpy()]


@pytest.mark.parametrize("first", CHOICES)
@pytest.mark.parametrize("second", [slice(1, 4), np.array([2, 0, 0]), slice(0, 0)])
def test_rows_of_rows_are_those_of_the_array(first: Any, second: Any) -> None:
    X, lazy = table(), demand(table())
    np.testing.assert_array_equal(lazy[first], X[first])
    some = lazy.take(first)
    assert some.shape == X[first].shape
    np.testing.assert_array_equal(some[second], X[first][second])
    np.testing.assert_array_equal(some.take(second).made(), X[first][second])
    assert lazy.stored.most <= len(X)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_large")
def test_taking_and_changing_rows_makes_none() -> None:
    lazy = demand(table())
    changed = lazy.take(MASK).then(lambda x: x[:, :2] + 1.0, 2)
    assert lazy.stored.most == 0  # type: ignore[attr-defined]
    assert changed.shape == (MASK.sum(), 2)
    np.testing.assert_array_equal(changed.made(), table()[MASK, :2] + 1.0)
    # As many rows as fill a block of what is made.
    assert lazy.stored.most == 64  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("values", [table(), demand(table())], ids=["array", "demand"])
def test_blocks_are_every_row_once(values: rows.Coded) -> None:
    parts = list(blocks(values))
    np.testing.assert_array_equal(np.concatenate([p for _, p in parts]), table())
    assert [len(part) for _, part in parts] == [32] * 15 + [20]
    for place, part in parts:
        np.testing.assert_array_equal(table()[place], part)


def test_a_small_table_is_one_block() -> None:
    assert [len(part) for _, part in blocks(demand(table()))] == [N]


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_by_blocks_are_numpys(weighted: bool) -> None:
    X = table()
    weight = np.random.default_rng(1).integers(1, 4, N) if weighted else None
    found = Moments.of(demand(X), weight)
    np.testing.assert_allclose(found.mean, np.average(X, axis=0, weights=weight))
    np.testing.assert_allclose(found.covariance, np.cov(X.T, fweights=weight))
    mean, count = column_means(demand(table(holes=True)))
    np.testing.assert_allclose(mean, np.nanmean(table(holes=True), axis=0))
    np.testing.assert_array_equal(count, (~np.isnan(table(holes=True))).sum(axis=0))


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("of_array", [False, True])
def test_holes_of_rows_on_demand_are_seen(of_array: bool) -> None:
    X = table(holes=True)
    X[:450, 2] = np.nan  # the rows looked at may know nothing of this column
    X[450:, 2] = np.linspace(-1.0, 1.0, 50)
    lazy = OnDemand.of(X) if of_array else demand(X)
    for mine, whole in zip(em_moments(lazy), em_moments(X), strict=True):
        np.testing.assert_array_equal(mine, whole)
    likelihood = TableLikelihood(("gaussian",) * D, torch.zeros(D))
    mine, whole = (Completion.of(v, likelihood, None) for v in (lazy, X))
    np.testing.assert_array_equal(mine.mean, whole.mean)
    np.testing.assert_array_equal(mine.covariance, whole.covariance)


@pytest.mark.usefixtures("_large")
def test_a_table_known_to_be_whole_is_completed_as_any_other() -> None:
    X, weight = table(), np.linspace(1.0, 2.0, N)
    lazy = replace(demand(X), whole=True)
    likelihood = TableLikelihood(("gaussian",) * D, torch.zeros(D))
    mine, other = (Completion.of(v, likelihood, weight) for v in (lazy, X))
    np.testing.assert_array_equal(mine.mean, other.mean)
    np.testing.assert_array_equal(mine.covariance, other.covariance)


@pytest.mark.usefixtures("_large")
def test_a_wide_table_is_completed_column_by_column() -> None:
    X = table(holes=True, n=40, d=300)
    X[:39, 7] = np.nan
    likelihood = TableLikelihood(("gaussian",) * 300, torch.zeros(300))
    found = Completion.of(demand(X), likelihood, None)
    near = X.clip(-REACH, REACH)
    assert (near != X).sum() > np.isnan(X).sum()
    np.testing.assert_allclose(found.mean, np.nanmean(near, axis=0))
    np.testing.assert_allclose(np.diag(found.covariance), np.nanvar(near, axis=0))


@pytest.mark.usefixtures("_large")
def test_concentration_steps_choose_rows_by_their_places() -> None:
    X = table()
    X[::50] += 20.0
    options = {"floor": np.full(D, 1e-6), "shared": True, "units": None, "trim": 0.1}
    lazy, whole = (linear_start(v, None, 1, **options) for v in (demand(X), X))
    np.testing.assert_allclose(lazy.mean, whole.mean)
    np.testing.assert_allclose(lazy.noise_variance, whole.noise_variance)
    np.testing.assert_allclose(lazy.mean, table().mean(axis=0), atol=0.3)


@pytest.mark.usefixtures("_large")
def test_copies_are_found_block_by_block() -> None:
    X = table(n=3 * N)
    X[:, 3] = X[:, 0] - 2.0 * X[:, 1]
    X[::40, 2] = np.nan
    np.testing.assert_array_equal(dependent_columns(demand(X)), [0, 1, 3])


def test_rows_become_tensors_with_what_belongs_to_them() -> None:
    X, weight = table(), torch.arange(N, dtype=torch.float32)
    features = torch.arange(2 * N, dtype=torch.float32).view(N, 2)

    def make(part: np.ndarray, *, features: torch.Tensor | None = None) -> Rows:
        x = torch.as_tensor(part, dtype=torch.float32)
        return Rows(x, seen=features if features is not None else -x)

    places = torch.as_tensor([[5, 2], [0, 5]])
    chosen = OnDemand.of(X).take(np.arange(N)[::-1])
    for given, inputs in ((features, features[places]), (None, None)):
        part = RowsOnDemand(chosen, make, weight, given).at(places)
        expected = torch.as_tensor(X[::-1].copy(), dtype=torch.float32)[places]
        torch.testing.assert_close(part.x, expected)
        torch.testing.assert_close(part.inputs, -expected if inputs is None else inputs)
        torch.testing.assert_close(part.weight, weight[places])


def test_taken_rows_of_either_form() -> None:
    X = table()
    np.testing.assert_array_equal(take_rows(X, MASK), X[MASK])
    lazy = take_rows(demand(X), MASK)
    assert isinstance(lazy, OnDemand)
    np.testing.assert_array_equal(lazy[:], X[MASK])
