"""scikit-learn's callbacks: what they see of a fit, and that they can end it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvae import EpochMonitor, VAEAnomalyDetector, VAETransformer

sklearn_callback = pytest.importorskip(
    "sklearn.callback", reason="callbacks need scikit-learn 1.9"
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector


def table(n_rows: int = 80) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 6)) + rng.normal(
        size=(n_rows, 6)
    )


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


class Record:
    """Write down every call; ask to stop after some epochs."""

    def __init__(self, stop_after: int | None = None, fail: bool = False) -> None:
        self.stop_after, self.fail = stop_after, fail
        self.events: list[tuple[str, str, int]] = []
        self.fitted: list[Any] = []
        self.given: list[tuple[Any, Any]] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.events.append(("setup", context.task_name, context.task_id))

    def teardown(self, estimator: Any, context: Any) -> None:
        self.events.append(("teardown", context.task_name, context.task_id))

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        self.events.append(("end", context.task_name, context.task_id))
        self.given.append((X, y))
        if fitted_estimator is not None:
            self.fitted.append(fitted_estimator)
        if self.fail:
            raise RuntimeError("the callback failed")
        return len(self.fitted) == self.stop_after


def test_tasks_are_nested_and_balanced(cls: type[Estimator]) -> None:
    record = Record()
    X, y = table(), np.arange(80)
    cls(max_iter=3, early_stopping=False, random_state=0).set_callbacks(record).fit(
        X, y
    )
    epochs = [
        (event, f"epoch {i + 1}", i) for i in range(3) for event in ("begin", "end")
    ]
    assert record.events == [
        ("setup", "fit", 0),
        ("begin", "fit", 0),
        *epochs,
        ("end", "fit", 0),
        ("teardown", "fit", 0),
    ]
    assert all(given[0] is X and given[1] is y for given in record.given)


def test_tasks_are_balanced_when_training_stops_early(cls: type[Estimator]) -> None:
    record = Record()
    estimator = cls(max_iter=200, n_iter_no_change=1, early_stopping=True)
    estimator.set_params(random_state=0, tol=1e9).set_callbacks(record).fit(table())
    assert 1 <= estimator.n_iter_ < 200
    begun = [event[1:] for event in record.events if event[0] == "begin"]
    ended = [event[1:] for event in record.events if event[0] == "end"]
    assert sorted(begun) == sorted(ended)
    assert len(ended) == estimator.n_iter_ + 1


def test_callback_ends_the_training(cls: type[Estimator]) -> None:
    X = table()
    estimator = cls(max_iter=9, early_stopping=False, random_state=0)
    estimator.set_callbacks(Record(stop_after=2)).fit(X)
    assert estimator.n_iter_ == 2
    assert len(estimator.loss_curve_) == 2
    assert np.isfinite(estimator.score(X))


def test_epochs_give_estimators_of_their_own(cls: type[Estimator]) -> None:
    X, record = table(), Record()
    estimator = cls(max_iter=3, early_stopping=False, random_state=0)
    estimator.set_callbacks(record).fit(X)
    assert [fitted.n_iter_ for fitted in record.fitted] == [1, 2, 3]
    scores = [fitted.score(X) for fitted in record.fitted]
    # Later training does not reach back into them, and the last is the result.
    assert len(set(scores)) == 3
    assert scores[-1] == pytest.approx(estimator.score(X), rel=1e-9)
    assert all(type(fitted) is cls for fitted in record.fitted)


def test_callbacks_change_no_fit(cls: type[Estimator]) -> None:
    X = table()
    plain = cls(max_iter=5, random_state=0).fit(X)
    watched = cls(max_iter=5, random_state=0).set_callbacks(Record(), EpochMonitor())
    watched.fit(X)
    assert watched.loss_curve_ == plain.loss_curve_
    np.testing.assert_array_equal(watched.score_samples(X), plain.score_samples(X))
    assert set(vars(watched)) - set(vars(plain)) == {"_skl_callbacks"}


def test_closed_forms_are_one_epoch() -> None:
    record = Record()
    vae = VAETransformer(2, hidden_layer_sizes=(), noise="column", random_state=0)
    vae.set_callbacks(record).fit(table())
    assert [event[1] for event in record.events if event[0] == "end"] == [
        "epoch 1",
        "fit",
    ]
    assert len(record.fitted) == vae.n_iter_ == 1
    assert record.fitted[0].score(table()) == vae.score(table())


def test_failed_callback_is_torn_down_and_leaves_the_last_fit(
    cls: type[Estimator],
) -> None:
    X, record = table(), Record(fail=True)
    estimator = cls(max_iter=3, random_state=0).fit(X)
    before = estimator.score_samples(X)
    with pytest.raises(RuntimeError, match="the callback failed"):
        estimator.set_callbacks(record).fit(X + 1.0)
    assert record.events[-1][0] == "teardown"
    np.testing.assert_array_equal(estimator.score_samples(X), before)
    assert not [name for name in vars(estimator) if name.startswith("_callback")]


# -- our monitor -------------------------------------------------------------------


def test_epoch_monitor_needs_no_target(cls: type[Estimator]) -> None:
    X, monitor = table(), EpochMonitor()
    estimator = cls(max_iter=4, early_stopping=False, random_state=0)
    estimator.set_callbacks(monitor).fit(X)
    assert len(monitor.scores_) == estimator.n_iter_ == 4
    assert monitor.scores_[-1] == pytest.approx(estimator.score(X), rel=1e-9)
    estimator.set_params(max_iter=2).fit(X)
    assert len(monitor.scores_) == 2, "of the latest fit"


def test_epoch_monitor_scores_rows_of_its_own() -> None:
    X, new = table(), table(120)[80:]
    monitor = EpochMonitor(new)
    vae = VAETransformer(max_iter=3, early_stopping=False, random_state=0)
    vae.set_callbacks(monitor).fit(X)
    assert monitor.scores_[-1] == pytest.approx(vae.score(new), rel=1e-9)


def test_epoch_monitor_sees_training_from_a_random_start() -> None:
    monitor = EpochMonitor()
    vae = VAETransformer(2, start="random", early_stopping=False, random_state=0)
    vae.set_params(max_iter=30, learning_rate_init=0.01)
    vae.set_callbacks(monitor).fit(table())
    assert monitor.scores_[-1] > monitor.scores_[0] + 0.5


# -- scikit-learn's own ------------------------------------------------------------


def test_scoring_monitor_does_not_crash(cls: type[Estimator]) -> None:
    X = table()
    monitor = sklearn_callback.ScoringMonitor(
        scoring={"density": lambda estimator, X, y: estimator.score(X)}
    )
    estimator = cls(max_iter=3, early_stopping=False, random_state=0)
    estimator.set_callbacks(monitor).fit(X)  # without y it records no score
    estimator.fit(X, np.zeros(len(X)))
    scores = [row["density"] for row in monitor.get_logs().data if "density" in row]
    assert len(scores) == 3
    assert scores[-1] == pytest.approx(estimator.score(X), rel=1e-9)


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_progress_bar_reaches_through_search_and_pipeline(
    n_jobs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="ProgressBar needs rich")
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("vae", VAETransformer(random_state=0))]
    )
    search = GridSearchCV(pipeline, {"vae__max_iter": [2, 3]}, cv=2, n_jobs=n_jobs)
    search.set_callbacks(sklearn_callback.ProgressBar(max_propagation_depth=None))
    search.fit(table())
    shown = capsys.readouterr().out
    for name in ("GridSearchCV", "Pipeline", "VAETransformer"):
        assert name in shown
    assert "100%" in shown
    alone = clone(search.best_estimator_).fit(table())
    assert search.best_estimator_.score(table()) == alone.score(table())


def test_callbacks_are_cloned_and_pickled(cls: type[Estimator]) -> None:
    X, monitor = table(), EpochMonitor()
    estimator = cls(max_iter=2, random_state=0).set_callbacks(monitor).fit(X)
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(loaded.score_samples(X), estimator.score_samples(X))
    clone(estimator).fit(X)
    loaded.fit(X)
    estimator.set_callbacks().fit(X)  # none any more
    assert not hasattr(estimator, "_skl_callbacks")
