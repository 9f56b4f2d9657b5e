"""Scores that learned from the labels of some rows."""

from __future__ import annotations

import warnings
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_expit
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import roc_auc_score

import skvae
from skvae import VAEAnomalyDetector
from skvae.estimators._tables import read_table
from skvae.inference.labels import _TRUST, Labelled, _logistic
from skvae.inference.scoring import SCORES, Score


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
    np.testing.assert_array_equal(apart, detector.fit(X[y == 0]).transform(X))


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
    weight = rng.uniform(0.2, 2.0, size=60)
    change = _logistic(offset, features, np.where(odd, 1.0, -1.0), weight)

    def density(change: np.ndarray) -> float:
        line = offset + features @ change + np.linspace(-6, 6, 241)[:, None]
        likelihood = log_expit(np.where(odd, line, -line)) @ weight
        return float(likelihood.max() - 0.5 * (change @ change) / _TRUST**2)

    for j in range(4):
        for step in (-0.1, 0.1):
            assert density(change) > density(change + step * (np.arange(4) == j))


@pytest.mark.parametrize("score", [*SCORES.values()], ids=[*SCORES])
def test_a_labelled_score_says_of_itself_what_its_score_says(score: Score) -> None:
    labelled = Labelled(score, np.zeros((2, 1)))
    facts = [k for k, v in vars(Score).items() if not k.startswith("_")]
    facts = [fact for fact in facts if not callable(getattr(score, fact))]
    assert len(facts) >= 5
    for fact in facts:
        assert getattr(labelled, fact) == getattr(score, fact), fact


def test_weights_of_labels_count_like_repeated_rows() -> None:
    X, odd = rows(40, 0)
    y = np.where(odd, -1, 0)
    y[:4] = -1
    n_times = np.where(y == -1, np.arange(40) % 3 + 1, 1)

    def score(X: np.ndarray, y: np.ndarray, weight: object) -> np.ndarray:
        detector = VAEAnomalyDetector(max_iter=2, random_state=0)
        return detector.fit(X, y, sample_weight=weight).score_samples(rows(20, 1)[0])

    weighed = score(X, y, 1.0 * n_times)
    repeated = score(np.repeat(X, n_times, axis=0), np.repeat(y, n_times), None)
    np.testing.assert_allclose(weighed, repeated, rtol=1e-4)
    assert np.abs(weighed - score(X, y, None)).max() > 1e-2


def test_a_label_without_weight_teaches_nothing() -> None:
    X, odd = rows(80, 0)
    y, weight = np.where(odd, -1, 0), np.where(odd, 0.0, 1.0)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0)
    scores = [
        detector.fit(X, labels, sample_weight=weight).score_samples(X)
        for labels in (y, None)
    ]
    np.testing.assert_array_equal(*scores)


def test_what_cannot_be_fitted_is_told_in_words_of_weights_or_labels() -> None:
    X, _ = rows(20, 0)
    y = np.full(20, -1)
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\)"):
        VAEAnomalyDetector().fit(X, y, sample_weight=np.ones(3))
    y[0] = 1
    with pytest.raises(ValueError, match="there are 1, beside 19 known outliers"):
        VAEAnomalyDetector().fit(X, y)


@pytest.mark.parametrize("handle_unknown", ["error", "missing"])
def test_levels_of_known_outliers_alone_are_no_surprise(handle_unknown: str) -> None:
    X = pd.DataFrame(rows(80, 0)[0], columns=list("abcdef"))
    X["level"] = np.where(np.arange(80) % 2, "x", "y")
    X.loc[:3, "level"] = "z"
    y = np.where(X["level"] == "z", -1, 0)
    detector = VAEAnomalyDetector(
        max_iter=2, random_state=0, handle_unknown=handle_unknown
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.fit(X, y).score_samples(X)
    assert detector.categories_[-1].tolist() == ["x", "y", "z"]


def test_the_table_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    X, odd = rows(80, 0)
    read = Mock(wraps=read_table)
    for module in ("_preparation", "anomaly", "_fitted", "_base"):
        name = f"skvae.estimators.{module}.read_table"
        monkeypatch.setattr(name, read, raising=False)
    VAEAnomalyDetector(max_iter=2).fit(X, np.where(odd, -1, 0))
    assert read.call_count == 1


def test_labels_come_in_any_array_of_numbers() -> None:
    X, odd = rows(80, 0)
    y = np.where(odd, -1, 0)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0)
    expected = detector.fit(X, y).score_samples(X)
    for same in (list(y), y.astype(object), pd.Series(y, dtype="Int64")):
        np.testing.assert_array_equal(detector.fit(X, same).score_samples(X), expected)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        detector.fit(X, y[:, None])
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    with pytest.warns(UserWarning, match="booleans, which tell no outliers"):
        detector.fit(X, odd)
    with pytest.raises(ValueError, match="holds None too"):
        detector.fit(X, np.where(odd, -1, None))


def test_going_on_keeps_what_labels_taught() -> None:
    X, odd = rows(100, 0)
    y = np.where(odd, -1, 0)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).fit(X, y)
    learned = detector._label_weights
    np.testing.assert_array_equal(detector.partial_fit(X)._label_weights, learned)
    # Labels of a later call are learned from, and their outliers left out.
    np.testing.assert_array_equal(
        detector.partial_fit(X[~odd]).transform(X),
        VAEAnomalyDetector(max_iter=2, random_state=0)
        .fit(X, y)
        .partial_fit(X)
        .partial_fit(X, y)
        .transform(X),
    )
    detector.set_params(anomaly_score="elbo")
    assert detector.partial_fit(X)._label_weights is None
