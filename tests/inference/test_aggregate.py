"""The score by the training codes, and what both default scores promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from skvae import VAEAnomalyDetector
from skvae.estimators._tables import read_table
from skvae.inference.aggregate import Aggregate
from skvae.inference.explanation import contributions
from skvae.inference.scoring import posterior_of


def table(n_rows: int = 150) -> np.ndarray:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, 5))
    rows = rng.normal(size=(n_rows, 8))
    return rows[:, :3] @ loadings + 0.5 * rows[:, 3:]


def detector(**params: object) -> VAEAnomalyDetector:
    return VAEAnomalyDetector(max_iter=3, random_state=0, **params).fit(table())


@pytest.mark.parametrize("novelty", [False, True])
def test_score_falls_with_the_distance_from_the_table(novelty: bool) -> None:
    fitted = detector(novelty=novelty)
    X = table()
    least = fitted.score_samples(X).min()
    # Along the leading component too, which the decoder follows furthest.
    leading = np.linalg.svd(X - X.mean(0))[2][0]
    for direction in (np.random.default_rng(1).normal(size=5), leading):
        scores = fitted.score_samples(np.outer([30.0, 1e2, 1e3, 1e6], direction))
        assert np.isfinite(scores).all()
        assert (np.diff(scores) < 0).all()
        assert scores[0] < least


@pytest.mark.parametrize("novelty", [False, True])
def test_parts_of_the_default_score_sum_to_it(novelty: bool) -> None:
    fitted, X = detector(novelty=novelty), table()
    total = fitted.explain(X).sum(axis=1) + fitted.base_score_
    np.testing.assert_allclose(total, fitted.score_samples(X), rtol=1e-9)


def test_aggregate_holds_the_codes_of_the_rows_trained_on() -> None:
    X = table()
    fitted = detector(novelty=True, early_stopping=True)
    codes = fitted._aggregate.mean[0]
    assert cdist(codes, fitted.transform(X)).min(axis=1).max() < 1e-6
    n_learned = len(X) - fitted._kept_back(len(X)).sum()
    assert len(codes) == n_learned - round(0.1 * n_learned)


def test_aggregate_keeps_a_thousand_codes_far_from_one_another() -> None:
    rng = np.random.default_rng(0)
    # A crowd, and a tenth of the rows far from it and from each other.
    coded = rng.normal(size=(3000, 5)) * 0.1
    coded[:300] *= 40.0
    model = detector(n_estimators=2, start="linear")._model
    kept = Aggregate.of(model, coded, seed=0).mean
    assert kept.shape[:2] == (2, 1000)
    codes, _ = posterior_of(model, coded)
    found = cdist(codes, kept[0]).min(axis=1) < 1e-9
    assert found.sum() == 1000
    assert found[:300].mean() > 0.9  # a third, by chance alone


@pytest.mark.parametrize("n_codes", [1, 40])
def test_distance_is_that_to_the_nearest_code_but_the_rows_own(n_codes: int) -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(3.0, 2.0, (2, n_codes, 4)), rng.uniform(0.1, 2.0, (2, 4))
    z = rng.normal(3.0, 2.0, (2, 1100, 4))
    z[:, -1] = mean[:, 0]
    found = Aggregate(mean, std).squared_distance(torch.as_tensor(z)).numpy()
    for member in range(2):
        away = cdist(z[member] / std[member], mean[member] / std[member]) ** 2
        away = np.sort(away, axis=1)
        np.testing.assert_allclose(found[member, :-1], away[:-1, 0])
        own = 0.0 if n_codes == 1 else away[-1, 1]
        np.testing.assert_allclose(found[member, -1], own, atol=1e-12)


def test_as_many_new_rows_are_flagged_as_training_rows() -> None:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, 12))

    def rows(n_rows: int) -> np.ndarray:
        noise = 0.5 * rng.normal(size=(n_rows, 12))
        return np.tanh(rng.normal(size=(n_rows, 3))) @ loadings + noise

    fitted = VAEAnomalyDetector(novelty=True, contamination=0.05, random_state=0)
    X = rows(800)
    flagged = fitted.fit(X).predict(X) < 0
    assert flagged.sum() == 40
    assert 0.03 < (fitted.predict(rows(3000)) < 0).mean() < 0.09


def completed_and_mended(
    rows: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with conditional means in their holes; the same with the observed cell that
    fits the others least at its conditional mean, too; which cell that is."""

    def given(row: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        o = ~np.isnan(row) & ~wanted
        gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, wanted)])
        left = covariance[np.ix_(wanted, wanted)] - covariance[np.ix_(wanted, o)] @ gain
        return mean[wanted] + (row[o] - mean[o]) @ gain, np.diag(left)

    whole, mended, cells = rows.copy(), rows.copy(), []
    for full, row in zip(whole, mended, strict=True):
        holes, own = np.isnan(row), np.eye(len(row), dtype=bool)
        full[holes] = given(row, holes)[0]
        likely, variance = (
            np.concatenate(part)
            for part in zip(*(given(row, one) for one in own), strict=True)
        )
        worst = np.nanargmax((row - likely) ** 2 / variance)
        cells.append(worst)
        row[worst] = likely[worst]
        row[holes] = given(row, holes)[0]
    return whole, mended, np.array(cells)


@pytest.mark.parametrize("novelty", [False, True])
def test_holes_are_filled_by_the_gaussian_mean_to_find_the_code(novelty: bool) -> None:
    X = table()
    fitted = VAEAnomalyDetector(max_iter=3, random_state=0, novelty=novelty).fit(X)
    holed = X.copy()
    holed[::2, 1] = holed[1::3, 3] = np.nan
    learned = X[~fitted._kept_back(len(X))]
    mean, covariance = learned.mean(0), np.cov(learned.T, bias=True)
    # The ridge under which holes are predicted, of standardised columns.
    covariance += 0.01 * np.diag(np.diag(covariance))

    def charged(rows: np.ndarray) -> np.ndarray:
        """Parts of the score, what the worst cell does to others charged to it."""
        whole, mended, cell = completed_and_mended(rows, mean, covariance)
        before, parts = (
            contributions(
                fitted._model,
                fitted._schema.encode(read_table(fitted, part, reset=False)),
                fitted._bank,
                fitted._score,
            )
            for part in (whole, mended)
        )
        n = np.arange(len(rows))
        parts[n, cell] += before.sum(1) - parts.sum(1)
        return parts

    # Of whole rows, up to one number a column.
    offset = charged(X) - fitted.explain(X)
    np.testing.assert_allclose(offset, np.tile(offset[0], (len(X), 1)), atol=1e-6)
    # A hole adds what fills it, at most what the median cell of its column does.
    typical = np.median(fitted.explain(learned), axis=0)
    parts = charged(holed) - offset[0]
    parts = np.where(np.isnan(holed), np.minimum(parts, typical), parts)
    np.testing.assert_allclose(
        fitted.score_samples(holed), parts.sum(1) + fitted.base_score_, rtol=1e-6
    )
    np.testing.assert_allclose(fitted.explain(holed), parts, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("gross", [1e3, 1e6])
def test_gross_cells_in_training_make_no_hole_odd(gross: float, holes: bool) -> None:
    rng = np.random.default_rng(0)
    X = table(400)
    asked = X[200:].copy()
    asked[:, 2] = np.nan
    X[:4, 2] = gross
    if holes:
        X[4:][rng.random((396, 5)) < 0.05] = np.nan
    fitted = VAEAnomalyDetector(random_state=0).fit(X)
    assert (fitted.predict(asked) == -1).mean() < 0.05
    assert (fitted.predict(X[:4]) == -1).all()


def test_rows_of_holes_alone_are_neither_odd_nor_the_most_normal() -> None:
    fitted, X = detector(), table()
    empty = np.full((1, X.shape[1]), np.nan)
    low, high = np.quantile(fitted.score_samples(X), [0.3, 1.0])
    assert low < fitted.score_samples(empty)[0] < high


def test_level_of_a_hole_is_the_commonest() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "b"], dtype=object)[rng.integers(0, 3, 90)]
    X = np.column_stack([rng.normal(size=(90, 2)).astype(object), words])
    fitted = VAEAnomalyDetector(max_iter=3, random_state=0).fit(X)
    holed, filled = X[:20].copy(), X[:20].copy()
    holed[:, 2], filled[:, 2] = None, "b"
    learned = fitted.explain(X[~fitted._kept_back(len(X))]).astype(float)
    parts = fitted.explain(filled).astype(float)
    parts[:, 2] = np.minimum(parts[:, 2], np.median(learned[:, 2]))
    np.testing.assert_allclose(fitted.explain(holed).astype(float), parts, rtol=1e-6)
