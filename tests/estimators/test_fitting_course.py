"""How long a fit takes, and how it goes on from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA, FactorAnalysis

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def linear(n_rows: int = 120, seed: int = 0) -> NDArray[np.float64]:
    """Two factors in six columns; the seed changes the rows, not the model."""
    loadings = np.random.default_rng(5).normal(size=(2, 6))
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 6))


def curved(n_rows: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """A noisy circle and its bends: what no linear model describes."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, size=n_rows)
    clean = [np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    return np.column_stack(clean) + 0.1 * rng.normal(size=(n_rows, 4))


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- how long ----------------------------------------------------------------------


def test_max_iter_counts_passes(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(max_iter=7, early_stopping=False, random_state=0).fit(X)
    assert estimator.n_iter_ == 7
    assert len(estimator.loss_curve_) == 7
    assert np.isfinite(estimator.loss_curve_).all()


def test_max_time_ends_training_at_the_end_of_a_pass(cls: type[Estimator]) -> None:
    # A time that is over at once; any clock will do.
    X = linear()
    estimator = cls(max_time=1e-12, max_iter=50, random_state=0).fit(X)
    assert estimator.n_iter_ == 1
    assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize("early_stopping", [True, False, "auto"])
def test_early_stopping_holds_rows_out(
    cls: type[Estimator], early_stopping: bool | str
) -> None:
    X = linear()
    estimator = cls(early_stopping=early_stopping, max_iter=4, random_state=0).fit(X)
    looks = estimator.validation_scores_
    if early_stopping is False or (
        early_stopping == "auto" and cls is VAEAnomalyDetector
    ):
        assert looks == []
        assert estimator.best_validation_score_ is None
    else:
        assert len(looks) >= 2
        # Never worse than the start, which is the first look.
        assert looks[0] <= estimator.best_validation_score_
        if cls is VAETransformer:  # each of several members keeps its own best
            assert estimator.best_validation_score_ <= max(looks) + 1e-9


def test_automatic_early_stopping_needs_fifty_rows() -> None:
    estimator = VAETransformer(max_iter=2, random_state=0)
    assert estimator.fit(linear(49)).validation_scores_ == []
    # A detector keeps a fifth of its rows for its p-values.
    enough = 63 if cls is VAEAnomalyDetector else 50
    assert estimator.fit(linear(enough)).validation_scores_ != []


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.99])
def test_any_share_of_few_rows_may_be_held_out(
    cls: type[Estimator], fraction: float
) -> None:
    estimator = cls(early_stopping=True, validation_fraction=fraction, max_iter=2)
    X = linear(10)
    assert np.isfinite(estimator.set_params(random_state=0).fit(X).score(X))


def test_early_stopping_waits_n_iter_no_change_looks() -> None:
    # A gain that never comes: as many looks as it waits, from a fifth of the passes on.
    X, plain = linear(200), VAETransformer(2, tol=1e9, max_iter=500, random_state=0)
    looks = []
    for patience in (1, 4):
        vae = clone(plain).set_params(n_iter_no_change=patience).fit(X)
        looks.append(len(vae.validation_scores_))
        assert 100 <= vae.n_iter_ <= 100 + 2 * patience
    assert looks[1] - looks[0] == 3


def test_automatic_steps_visit_a_random_part_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40_000, 2)).astype(np.float32)
    detector = VAEAnomalyDetector(contamination=0.05, random_state=0).fit(X)
    # 200 steps of 128 rows: one pass over 25600 of them.
    assert detector.n_iter_ == 1
    # All rows tell the threshold.
    assert (detector.predict(X) == -1).mean() == pytest.approx(0.05, abs=1e-4)
    training = detector._prepare(X, None, go_on=False)
    assert len(training.used) == len(training.coded.values) == 25_600
    assert not np.array_equal(training.used, np.arange(25_600))
    # Of passes that were asked for, each is over all rows but those kept back.
    asked = clone(detector).set_params(max_iter=1)
    assert len(asked._prepare(X, None, go_on=False).used) == 35_000


def test_validation_rows_of_the_user(cls: type[Estimator]) -> None:
    X, X_val = linear(), linear(40, seed=1)
    estimator = cls(max_iter=4, random_state=0, start="linear")
    own = clone(estimator).fit(X, X_val=X_val)
    assert len(own.validation_scores_) >= 2
    assert own.validation_scores_ != clone(estimator).fit(X).validation_scores_
    # They are used where nothing else is held out, and as a frame.
    columns = list("abcdef")
    off = clone(estimator).set_params(early_stopping=False)
    framed = clone(off).fit(
        pd.DataFrame(X, columns=columns), X_val=pd.DataFrame(X_val, columns=columns)
    )
    assert framed.validation_scores_ == off.fit(X, X_val=X_val).validation_scores_
    # In units of X: the start is the closed form, whose score is known.
    assert own.validation_scores_[0] == pytest.approx(
        FactorAnalysis(own.n_components_).fit(X).score(X_val), abs=3.0
    )


def test_batch_size_may_exceed_the_rows(cls: type[Estimator]) -> None:
    X = linear(30)
    estimator = cls(batch_size=10_000, max_iter=2, random_state=0).fit(X)
    assert np.isfinite(estimator.score(X))


# -- going on ----------------------------------------------------------------------


def test_warm_start_goes_on(cls: type[Estimator]) -> None:
    X = curved()
    estimator = cls(1, warm_start=True) if cls is VAETransformer else cls()
    estimator.set_params(
        n_components=1, warm_start=True, start="random", early_stopping=False
    )
    estimator.set_params(max_iter=10, random_state=0, learning_rate="constant").fit(X)
    first, likelihood = list(estimator.loss_curve_), estimator.likelihood_
    estimator.fit(X)
    second = estimator.loss_curve_[-10:]
    assert second[0] < first[0] - 0.2
    assert second[-1] < first[-1]
    assert estimator.likelihood_ == likelihood
    cold = clone(estimator).set_params(warm_start=False).fit(X).fit(X)
    assert cold.loss_curve_ == first


def test_warm_start_keeps_the_scaling(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(warm_start=True, max_iter=1, random_state=0).fit(X)
    columns = estimator._schema.columns
    estimator.fit(100.0 * X)
    assert estimator._schema.columns == columns
    estimator.set_params(warm_start=False).fit(100.0 * X)
    assert estimator._schema.columns != columns


def test_partial_fit_learns_from_a_stream() -> None:
    # Each call sees rows that no other call sees.
    test = curved(500, seed=99)
    vae = VAETransformer(1, start="random", random_state=0, learning_rate_init=0.01)
    scores = []
    for block in range(20):
        vae.partial_fit(curved(500, seed=block))
        scores.append(vae.score(test))
        assert vae.n_iter_ == len(vae.loss_curve_) == block + 1
    assert scores[-1] > scores[0] + 0.3
    assert scores[-1] > PCA(1).fit(test).score(test) + 0.3
    assert vae.validation_scores_ == []


def test_partial_fit_is_repeatable(cls: type[Estimator]) -> None:
    X = linear()
    first, second = cls(random_state=0), cls(random_state=0)
    for estimator in (first, second):
        estimator.partial_fit(X[:60]).partial_fit(X[60:])
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))


def test_first_partial_fit_settles_the_scaling(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(random_state=0).partial_fit(X)
    columns, k = estimator._schema.columns, estimator.n_components_
    estimator.partial_fit(100.0 + 3.0 * X)
    assert estimator._schema.columns == columns
    assert estimator.n_components_ == k
    with pytest.raises(ValueError, match=r"X has 5 features.*expecting 6 features"):
        estimator.partial_fit(X[:, :5])


def test_fit_forgets_an_earlier_stream(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(n_components=2, random_state=0, max_iter=2).partial_fit(X)
    estimator.set_params(n_components=1).fit(X)
    fresh = clone(estimator).fit(X)
    np.testing.assert_array_equal(estimator.score_samples(X), fresh.score_samples(X))
    # Nor does a later stream take up the optimiser of the first one.
    for each in (estimator, fresh):
        each.partial_fit(X)
    np.testing.assert_array_equal(estimator.score_samples(X), fresh.score_samples(X))


def test_partial_fit_after_fit_goes_on(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(random_state=0, max_iter=3, early_stopping=False).fit(X)
    losses = list(estimator.loss_curve_)
    estimator.partial_fit(X)
    assert estimator.n_iter_ == 4
    assert estimator.loss_curve_[:3] == losses
