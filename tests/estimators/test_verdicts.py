"""Verdicts of the detector: p-values that hold, reasons and repairs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import false_discovery_control, kstest
from sklearn.base import clone

from skvae import VAEAnomalyDetector, load

QUICK = {"max_iter": 1, "n_score_samples": 4, "hidden_layer_sizes": 4}
W = np.random.default_rng(7).normal(size=(2, 6))


def linear(n: int = 300, seed: int = 0) -> np.ndarray:
    """Rows around a plane in six dimensions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ W + 0.3 * rng.normal(size=(n, 6))
    X[:, 5] = X[:, 5] > 0
    return X


def damaged(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Fresh rows, each with one continuous cell moved far, and which."""
    X, column = linear(n, seed=1), np.arange(n) % 5
    X[np.arange(n), column] += 9.0
    return X, column


@pytest.fixture(scope="module")
def detector() -> VAEAnomalyDetector:
    return VAEAnomalyDetector(random_state=0).fit(linear())


# -- p-values ----------------------------------------------------------------------


def test_p_values_of_normal_rows_are_uniform() -> None:
    # A fresh table, fit and row each time; the model is deliberately poor.
    p = []
    for seed in range(200):
        X = np.random.default_rng(seed).standard_t(3, size=(101, 3))
        fitted = VAEAnomalyDetector(**QUICK, random_state=seed).fit(X[:100])
        p.append(fitted.p_values(X[100:])[0])
    # Ranks among 33 rows are steps of 1/34; spread evenly over their step they show a
    # departure from the uniform, if there is one.
    steps = np.random.default_rng(0).uniform(size=len(p)) / 34
    assert kstest(p - steps, "uniform").pvalue > 0.01
    for level in (0.05, 0.1, 0.2, 0.5):
        slack = 2.0 * np.sqrt(level * (1 - level) / len(p))
        assert np.mean(np.array(p) <= level) <= level + slack


def test_calibration_rows_tell_the_fit_nothing() -> None:
    # Whatever stands in the rows kept back, the scores stay.
    X, fresh = linear(100), linear(20, seed=1)
    first = VAEAnomalyDetector(**QUICK, random_state=0).fit(X)
    kept = np.random.default_rng(0).permutation(100)[:33]
    other = X.copy()
    other[kept] = 1e4 * linear(33, seed=2)
    second = VAEAnomalyDetector(**QUICK, random_state=0).fit(other)
    assert_array_equal(first.score_samples(fresh), second.score_samples(fresh))
    assert_allclose(first.p_values(np.full((1, 6), 1e9)), 1 / 34)
    # Next to calibration rows that all lie far off, any ordinary row is normal.
    assert np.median(first.p_values(fresh)) < 1.0
    assert_array_equal(second.p_values(fresh), np.ones(20))


def test_small_tables_have_no_p_values_but_one() -> None:
    fitted = VAEAnomalyDetector(**QUICK, random_state=0).fit(linear(49))
    assert_array_equal(fitted.p_values(np.full((1, 6), 1e3)), [1.0])
    fitted.calibrate(linear(99, seed=3))
    assert_allclose(fitted.p_values(np.full((1, 6), 1e3)), 0.01)


def test_rows_without_weight_are_as_if_absent() -> None:
    X, weight = linear(120), np.ones(120)
    weight[::4] = 0.0
    weighted = VAEAnomalyDetector(**QUICK, random_state=0).fit(X, sample_weight=weight)
    without = VAEAnomalyDetector(**QUICK, random_state=0).fit(X[weight > 0])
    assert weighted.offset_ == pytest.approx(without.offset_)
    assert_array_equal(weighted.p_values(X), without.p_values(X))


def test_parameters_set_after_fit_change_no_verdict() -> None:
    X = linear(100)
    for score, later in (("elbo", "auto"), ("auto", "elbo"), ("aggregate", "elbo")):
        fitted = VAEAnomalyDetector(anomaly_score=score, **QUICK, random_state=0)
        before = fitted.fit(X).score_samples(X)
        fitted.set_params(anomaly_score=later, novelty=True)
        assert_array_equal(fitted.score_samples(X), before)


def test_stream_is_calibrated_by_its_latest_rows() -> None:
    fitted = VAEAnomalyDetector(**QUICK, random_state=0)
    for seed in range(3):
        fitted.partial_fit(linear(100, seed=seed))
    assert_allclose(fitted.p_values(np.full((1, 6), 1e3)), 1 / 34)


def test_selected_rows_are_those_of_scipy(detector: VAEAnomalyDetector) -> None:
    X = np.vstack([linear(30, seed=2), damaged(20)[0]])
    expected = false_discovery_control(detector.p_values(X)) <= 0.1
    assert_array_equal(detector.select(X, fdr=0.1), expected)
    assert expected.any()
    assert not detector.select(linear(5, seed=3), fdr=0.001).any()
    with pytest.raises(ValueError, match="fdr"):
        detector.select(X, fdr=2.0)
    for fdr in (0, 1):
        with pytest.raises(ValueError, match="fdr"):
            detector.select(X, fdr=fdr)
    rational = detector.select(X, fdr=Fraction(1, 10))
    assert_array_equal(rational, expected)


def test_false_discoveries_stay_below_the_nominal_rate() -> None:
    rates: dict[float, list[float]] = {0.05: [], 0.2: []}
    for seed in range(30):
        X = np.random.default_rng(seed).normal(size=(700, 4))
        fitted = VAEAnomalyDetector(**QUICK, random_state=seed).fit(X[:500])
        judged = X[500:].copy()
        judged[:40] += 8.0
        for level, own in rates.items():
            picked = fitted.select(judged, fdr=level)
            own.append(picked[40:].sum() / max(picked.sum(), 1))
    for level, own in rates.items():
        error = np.std(own, ddof=1) / np.sqrt(len(own))
        assert np.mean(own) <= level + 2.0 * error
    assert np.mean(rates[0.2]) > 0.05  # some power to be wrong


# -- thresholds and chances --------------------------------------------------------


def test_contamination_is_estimated_or_taken() -> None:
    X = linear(400)
    X[:40] += np.random.default_rng(1).choice([-12.0, 12.0], (40, 6))
    fitted = VAEAnomalyDetector(random_state=0).fit(X)
    assert 0.05 < fitted.contamination_ < 0.2
    assert np.mean(fitted.predict(X) < 0) == pytest.approx(
        fitted.contamination_, abs=0.005
    )
    given = VAEAnomalyDetector(contamination=0.2, random_state=0).fit(X)
    assert given.contamination_ == 0.2
    assert np.mean(given.predict(X) < 0) == pytest.approx(0.2, abs=0.005)
    assert_array_equal(given.score_samples(X), fitted.score_samples(X))
    clean = VAEAnomalyDetector(random_state=0).fit(linear(400))
    assert 0.01 <= clean.contamination_ < 0.02
    flagged = np.mean(clean.predict(linear(400)) < 0)
    assert flagged == pytest.approx(clean.contamination_, abs=0.005)


def test_chances_fall_with_the_score() -> None:
    X = linear(400)
    X[:40] += 12.0
    fitted = VAEAnomalyDetector(random_state=0).fit(X)
    chance, score = fitted.outlier_probability(X), fitted.score_samples(X)
    assert (np.diff(chance[np.argsort(score)]) <= 0).all()
    assert chance[:40].mean() > 0.7
    assert chance[40:].mean() < 0.03
    assert fitted.outlier_probability(np.full((1, 6), 1e5))[0] > 0.8


def test_weights_reach_the_threshold() -> None:
    X, weight = linear(100), np.random.default_rng(0).integers(1, 7, 100)
    fitted = VAEAnomalyDetector(contamination=0.2, **QUICK, random_state=0)
    scores = fitted.fit(X, sample_weight=weight).score_samples(X)
    repeated = np.quantile(np.repeat(scores, weight), 0.2)
    assert fitted.offset_ == pytest.approx(repeated)
    assert fitted.offset_ != pytest.approx(np.quantile(scores, 0.2))


# -- reasons and repairs -----------------------------------------------------------


def test_expected_cells_are_those_before_the_damage(
    detector: VAEAnomalyDetector,
) -> None:
    X, column = damaged()
    told = detector.explain(X, expected=True)
    assert_array_equal(told.contributions, detector.explain(X))
    whole, rows = linear(40, seed=1), np.arange(40)
    cell = rows, column
    assert (told.low <= told.expected).all()
    assert (told.expected <= told.high).all()
    inside = (told.low[cell] <= whole[cell]) & (whole[cell] <= told.high[cell])
    assert inside.mean() >= 0.8
    assert (X[cell] > told.high[cell]).all()
    assert set(np.unique(told.expected[:, 5])) <= {0.0, 1.0}


def test_what_cells_should_have_been_is_the_same_in_any_company(
    detector: VAEAnomalyDetector,
) -> None:
    X = linear(60, seed=5)
    X[20:23, 1] = np.nan
    together = detector.explain(X, expected=True)
    for rows in (slice(20, 21), slice(22, 40), slice(55, 60)):
        alone = detector.explain(X[rows], expected=True)
        for name in ("expected", "low", "high"):
            np.testing.assert_allclose(
                getattr(together, name)[rows], getattr(alone, name), rtol=1e-8
            )


@pytest.mark.parametrize("anomaly_score", ["code_likelihood", "aggregate"])
def test_a_row_scores_alike_beside_rows_with_holes(anomaly_score: str) -> None:
    X = linear(120)
    fitted = VAEAnomalyDetector(
        anomaly_score=anomaly_score, **QUICK, random_state=0
    ).fit(X)
    asked, parted = X[:30].copy(), []
    asked[7, 2] = np.nan
    parts = fitted._parts
    fitted._parts = lambda model, raw, coded: (  # type: ignore[method-assign]
        parted.append(len(raw)) or parts(model, raw, coded)
    )
    beside = fitted.score_samples(asked)
    assert parted == [1]
    own = np.arange(30) != 7
    np.testing.assert_allclose(beside[own], fitted.score_samples(X[:30])[own])
    assert beside[7] == pytest.approx(fitted.score_samples(asked[7:8])[0])


def test_fresh_cells_lie_in_their_intervals(detector: VAEAnomalyDetector) -> None:
    X = linear(200, seed=4)
    told = detector.explain(X, expected=True)
    inside = ((told.low <= X) & (told.high >= X))[:, :5].mean()
    assert 0.8 <= inside <= 0.98


def test_sentences_name_the_damaged_column(detector: VAEAnomalyDetector) -> None:
    X, column = damaged(5)
    X = np.vstack([X, np.median(linear(), axis=0)])
    sentences = detector.describe(X)
    assert sentences[-1] == "Row 5 is not unusual."
    for i, j in enumerate(column):
        assert sentences[i].startswith(f"Row {i} is unusual: ")
        assert f"column {j} is {X[i, j]:.4g}, expected" in sentences[i]


def test_repair_mends_the_damaged_cell_alone(detector: VAEAnomalyDetector) -> None:
    X, column = damaged()
    before = X.copy()
    mended = detector.repair(X)
    assert_array_equal(X, before)
    assert (detector.predict(mended) > 0).all()
    changed = mended != X
    assert changed.sum(1).max() <= 2
    assert changed[np.arange(40), column].mean() >= 0.9
    # close to what stood there: the noise of a cell given the others is about .4
    whole = linear(40, seed=1)[np.arange(40), column]
    error = np.abs(mended[np.arange(40), column] - whole)
    assert np.median(error) < 0.8
    fine = linear(300)[detector.predict(linear(300)) > 0]
    assert_array_equal(detector.repair(fine), fine)


def kinds(n: int, seed: int) -> pd.DataFrame:
    """Counts, whole numbers, flags, levels of which some are rare, and a constant."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": z + 0.3 * rng.normal(size=n),
            "b": np.rint(5.0 * z + rng.normal(size=n)),
            "count": rng.poisson(np.exp(0.3 + 0.5 * z)).astype(float),
            "flag": (z > 0.0).astype(float),
            "town": rng.choice(
                ["A", "B", "c", "d", "e"], n, p=[0.5, 0.3, 0.1, 0.09, 0.01]
            ),
            "wheels": 4.0,
        }
    )


@pytest.mark.parametrize("seed", range(4))
def test_repaired_rows_are_inliers(seed: int) -> None:
    fitted = VAEAnomalyDetector(
        likelihood={"count": "poisson"},
        max_categories=3,
        max_iter=20,
        random_state=seed,
    ).fit(kinds(200, seed))
    X, rng = kinds(40, seed + 100), np.random.default_rng(seed)
    X.loc[:9, "count"] = 2.5
    X.loc[5:14, "flag"] = 0.5
    X.loc[12:19, "wheels"] = 5.0
    X.loc[18:27, "a"] += 20.0
    X.loc[25:34, "b"] -= 60.0
    X.loc[rng.choice(40, 8, replace=False), "a"] = np.nan
    outlying = fitted.predict(X) < 0
    mended = fitted.repair(X)
    changed = (mended != X).to_numpy() & ~(mended.isna() & X.isna()).to_numpy()
    assert not changed[~outlying].any()
    left = fitted.predict(mended) < 0
    assert not left.any()
    assert (mended["count"] == np.rint(mended["count"])).all()


def test_frames_come_back_as_frames() -> None:
    names = list("abcdef")
    frame = pd.DataFrame(linear(), columns=names, index=np.arange(300) + 5)
    frame["g"] = 3.0
    fitted = VAEAnomalyDetector(random_state=0).fit(frame)
    X = frame.iloc[:4].copy()
    X.iloc[1, 0] = 40.0
    mended = fitted.repair(X)
    assert list(mended.columns) == [*names, "g"]
    assert_array_equal(mended.index, X.index)
    assert abs(mended.iloc[1, 0]) < 10.0
    assert "a is 40, expected" in fitted.describe(X)[1]


def test_verdicts_survive_a_file(detector: VAEAnomalyDetector, tmp_path: Path) -> None:
    X, _ = damaged(6)
    detector.save(tmp_path / "detector.skvae")
    again = load(tmp_path / "detector.skvae")
    assert_array_equal(again.p_values(X), detector.p_values(X))
    assert_array_equal(again.outlier_probability(X), detector.outlier_probability(X))
    assert again.describe(X) == detector.describe(X)


def test_far_rows_have_finite_scores_in_order(detector: VAEAnomalyDetector) -> None:
    far = np.zeros((6, 6))
    far[:, 0] = 10.0 ** np.arange(1, 7)
    scores = detector.score_samples(far)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
    assert np.isfinite(detector.explain(far)).all()
    assert np.isfinite(detector.outlier_probability(far)).all()


def test_describing_inliers_alone_says_so(detector: VAEAnomalyDetector) -> None:
    X = linear(300)
    inliers = X[detector.predict(X) == 1][:2]
    expected = ["Row 0 is not unusual.", "Row 1 is not unusual."]
    assert detector.describe(inliers) == expected


def test_dates_are_told_as_dates() -> None:
    days = np.random.default_rng(0).permutation(pd.date_range("2020", periods=200))
    frame = pd.DataFrame(linear(200)).add_prefix("x").assign(day=days)
    fitted = VAEAnomalyDetector(random_state=0).fit(frame)
    frame.loc[7, "day"] = pd.Timestamp("1990-03-01")
    (told,) = fitted.describe(frame[7:8])
    assert "day is 1990-03-01, expected 2020-" in told


def test_labels_reach_fit_predict() -> None:
    X = linear(200)
    y = np.where(X[:, 0] > np.quantile(X[:, 0], 0.95), -1, 0)
    once = VAEAnomalyDetector(**QUICK, random_state=0)
    assert_array_equal(clone(once).fit_predict(X, y), once.fit(X, y).predict(X))
    assert not np.array_equal(
        once.score_samples(X), clone(once).fit(X).score_samples(X)
    )


def test_the_one_column_that_tells_is_told_with_its_value() -> None:
    # Between 0 and 1, and within the interval: yet no cell that the column could hold.
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.random(300) < 0.5, rng.normal(size=(300, 2))])
    detector = VAEAnomalyDetector(random_state=0).fit(X)
    (told,) = detector.describe([[0.5, 0.0, 0.0]])
    assert told.startswith("Row 0 is unusual: column 0 is 0.5, expected ")
