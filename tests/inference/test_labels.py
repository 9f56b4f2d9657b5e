"""Scores that learned from the labels of some rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import expit, log_expit
from sklearn.metrics import roc_auc_score

import skvae
from skvae import VAEAnomalyDetector
from skvae.inference.labels import _TRUST, _logistic


def rows(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which a tenth stand out mildly, and in one way: by a high last cell."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3)) @ np.random.default_rng(9).normal(size=(3, 6))
    X += 0.7 * rng.normal(size=X.shape)
    odd = rng.random(n_rows) < 0.1
    X[odd, -1] += 3.0
    return X, odd


@pytest.mark.parametrize("params", [{}, {"novelty": True}, {"anomaly_score": "elbo"}])
def test_a_few_labels_improve_the_ranking_and_explain_stays_additive(
    params: dict[str, object],
) -> None:
    X, odd = rows(500, 0)
    other, truth = rows(1000, 1)
    y = np.zeros(len(X), dtype=int)
    y[np.flatnonzero(odd)[:20]] = -1
    detector = VAEAnomalyDetector(max_iter=5, random_state=0, **params)
    before = roc_auc_score(truth, -detector.fit(X).score_samples(other))
    after = roc_auc_score(truth, -detector.fit(X, y).score_samples(other))
    assert after > before + 0.03
    total = detector.explain(other).sum(axis=1) + detector.base_score_
    np.testing.assert_allclose(total, detector.score_samples(other), rtol=1e-8)


def test_the_known_outliers_are_in_nothing_but_the_score() -> None:
    X, odd = rows(300, 0)
    y = np.zeros(len(X))
    y[np.flatnonzero(odd)[:5]] = -1.0
    detector = VAEAnomalyDetector(max_iter=3, random_state=0, contamination=0.1)
    detector.fit(X, y)
    apart = detector.fit(X, y).transform(X)
    flagged = detector.predict(X[y == 0]) < 0
    assert flagged.sum() == pytest.approx(0.1 * (y == 0).sum(), abs=1)
    np.testing.assert_array_equal(
        apart, detector.fit(X, sample_weight=y + 1.0).transform(X)
    )


def test_classes_are_no_labels() -> None:
    X, _ = rows(80, 0)
    fits = [
        VAEAnomalyDetector(max_iter=2, random_state=0).fit(X, y).score_samples(X)
        for y in (None, np.arange(80) % 3, np.ones(80), ["a"] * 80)
    ]
    for scores in fits[1:]:
        np.testing.assert_array_equal(scores, fits[0])


def test_labels_that_mean_nothing_are_told() -> None:
    X, _ = rows(80, 0)
    y = np.arange(80) - 1
    with pytest.raises(ValueError, match=r"-1 \(outlier\).*holds 2 too"):
        VAEAnomalyDetector().fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        VAEAnomalyDetector().fit(X, [-1, 1])


def test_a_later_fit_without_labels_forgets_them(tmp_path: object) -> None:
    X, odd = rows(100, 0)
    y = np.where(odd, -1, 1)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0)
    plain = detector.fit(X).score_samples(X)
    labelled = detector.fit(X, y).score_samples(X)
    assert np.abs(labelled - plain).max() > 0.1
    detector.save(f"{tmp_path}/detector")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = skvae.load(f"{tmp_path}/detector")
    np.testing.assert_array_equal(again.score_samples(X), labelled)
    np.testing.assert_array_equal(detector.fit(X).score_samples(X), plain)


def test_regression_is_at_the_mode_of_its_density() -> None:
    rng = np.random.default_rng(0)
    offset, features = rng.normal(size=60), rng.normal(size=(60, 4))
    odd = rng.random(60) < expit(offset + features @ [0.5, 0.0, 1.0, -1.0] - 2.0)
    change = _logistic(offset, features, odd)
    weight = np.where(odd, 1.0, odd.sum() / (~odd).sum())

    def density(change: np.ndarray) -> float:
        line = offset + features @ change + np.linspace(-6, 6, 241)[:, None]
        likelihood = log_expit(np.where(odd, line, -line)) @ weight
        return float(likelihood.max() - 0.5 * (change @ change) / _TRUST**2)

    for j in range(4):
        for step in (-0.1, 0.1):
            assert density(change) > density(change + step * (np.arange(4) == j))
