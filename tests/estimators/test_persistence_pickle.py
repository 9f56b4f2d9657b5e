"""Copies of an estimator: pickle, joblib, copy, clone and hash."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skvae import VAEAnomalyDetector, VAETransformer, __version__

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def table(n_rows: int = 60) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 5)) + rng.normal(
        size=(n_rows, 5)
    )


# Each leaves another mark on the fitted state.
FITS: dict[str, dict[str, Any]] = {
    "default": {},
    "no network": {"hidden_layer_sizes": (), "noise": "column"},
    "plain auto-encoder": {"variational": False, "hidden_layer_sizes": (6,)},
    "shared noise": {"noise": "shared"},
    "random start": {"start": "random", "activation": "tanh"},
    "warm start": {"warm_start": True},
}


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


def through_joblib(estimator: Estimator) -> Estimator:
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


COPIES: dict[str, Callable[[Estimator], Estimator]] = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "pickle, oldest protocol": lambda estimator: pickle.loads(
        pickle.dumps(estimator, protocol=0)
    ),
    "joblib": through_joblib,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def answers(estimator: Estimator, X: NDArray[np.float64]) -> list[NDArray[Any]]:
    return [
        estimator.transform(X),
        estimator.score_samples(X),
        estimator.explain(X),
        estimator.sample(4, random_state=0),
        *estimator.impute(
            np.where(X > 1.0, np.nan, X), n_imputations=1, random_state=0
        ),
        *([estimator.p_values(X)] if isinstance(estimator, VAEAnomalyDetector) else []),
    ]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("fit", FITS)
def test_copies_give_the_same_answers(cls: type[Estimator], fit: str, way: str) -> None:
    X = table()
    estimator = cls(random_state=0, max_iter=3, **FITS[fit]).fit(X)
    other = COPIES[way](estimator)
    assert other is not estimator
    assert other.get_params() == estimator.get_params()
    for wanted, found in zip(answers(estimator, X), answers(other, X)):
        np.testing.assert_array_equal(found, wanted)
    public = {name for name in vars(estimator) if name.endswith("_")}
    assert public == {name for name in vars(other) if name.endswith("_")}


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_can_be_fitted_further(cls: type[Estimator], way: str) -> None:
    X = table()
    estimator = cls(random_state=0, max_iter=3).partial_fit(X)
    other = COPIES[way](estimator)
    for each in (estimator, other):
        each.partial_fit(X)
    for wanted, found in zip(answers(estimator, X), answers(other, X)):
        np.testing.assert_array_equal(found, wanted)


def test_deep_copies_are_independent(cls: type[Estimator]) -> None:
    X = table()
    estimator = cls(random_state=0, max_iter=3).fit(X)
    before = answers(estimator, X)
    copy.deepcopy(estimator).partial_fit(X + 1.0)
    copy.copy(estimator).fit(X + 1.0)
    copy.copy(estimator).partial_fit(X + 1.0)
    for wanted, found in zip(before, answers(estimator, X)):
        np.testing.assert_array_equal(found, wanted)


def test_clones_are_not_fitted(cls: type[Estimator]) -> None:
    estimator = cls(random_state=0, max_iter=3, likelihood={0: "gaussian"}).fit(table())
    other = clone(estimator)
    assert other.get_params() == estimator.get_params()
    assert set(vars(other)) == set(vars(cls()))
    with pytest.raises(NotFittedError):
        other.transform(table())


@pytest.mark.parametrize("fit", FITS)
def test_equal_fits_hash_alike(cls: type[Estimator], fit: str) -> None:
    X = table()
    estimator = cls(random_state=0, max_iter=3, **FITS[fit])
    first, second = clone(estimator).fit(X), clone(estimator).fit(X)
    wanted = joblib.hash(first)
    assert joblib.hash(second) == wanted
    answers(second, X)  # asking leaves no trace
    assert joblib.hash(second) == wanted
    assert joblib.hash(pickle.loads(pickle.dumps(second))) == wanted
    assert joblib.hash(copy.deepcopy(second)) == wanted
    assert joblib.hash(clone(estimator).set_params(random_state=1).fit(X)) != wanted


def test_pipelines_with_a_memory_fit_once(cls: type[Estimator], tmp_path: Path) -> None:
    X = table()
    first, second = (
        make_pipeline(
            cls(random_state=0, max_iter=3),
            FunctionTransformer(),
            memory=joblib.Memory(tmp_path, verbose=0),
        )
        for _ in range(2)
    )
    codes = first.fit(X).transform(X)
    entries = sorted(tmp_path.rglob("output.pkl"))
    np.testing.assert_array_equal(second.fit(X).transform(X), codes)
    assert len(entries) > 0
    assert sorted(tmp_path.rglob("output.pkl")) == entries


def test_pickle_of_another_version_warns(cls: type[Estimator]) -> None:
    estimator = cls(random_state=0, max_iter=2).fit(table())
    state = estimator.__getstate__()
    assert state["_skvae_version"] == __version__
    aged, unstamped = dict(state), dict(state)
    aged["_skvae_version"] = "0.0.0"
    del unstamped["_skvae_version"]
    for old, version in ((aged, "0.0.0"), (unstamped, "unknown")):
        kept = set(old)
        with pytest.warns(InconsistentVersionWarning, match=version) as caught:
            cls.__new__(cls).__setstate__(old)
        assert caught[0].message.original_sklearn_version == version
        assert set(old) == kept, "the state belongs to the caller"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(estimator))
    assert "_skvae_version" not in vars(estimator)


def test_unfitted_estimators_pickle(cls: type[Estimator]) -> None:
    other = pickle.loads(pickle.dumps(cls(beta=2.0)))
    assert other.beta == 2.0
    assert not hasattr(other, "device_")


def test_loads_onto_the_cpu_from_any_device(cls: type[Estimator]) -> None:
    # A state as a machine with another device leaves it: no tensor, hence no place.
    X = table()
    estimator = cls(random_state=0, max_iter=3).fit(X)
    wanted = answers(estimator, X)
    estimator.device_ = "cuda:3"
    loaded = pickle.loads(pickle.dumps(estimator))
    assert loaded.device_ == "cpu"
    for before, after in zip(wanted, answers(loaded, X)):
        np.testing.assert_array_equal(after, before)


class _NoTensors(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        assert not isinstance(value, torch.Tensor | torch.nn.Module | torch.Generator)
        return NotImplemented


@pytest.mark.parametrize("fit", FITS)
def test_pickles_hold_arrays_only(cls: type[Estimator], fit: str) -> None:
    estimator = cls(random_state=0, max_iter=3, **FITS[fit]).fit(table())
    _NoTensors(io.BytesIO()).dump(estimator)
    _NoTensors(io.BytesIO()).dump(estimator.partial_fit(table()))


def sizes(fitted: Estimator) -> tuple[int, int]:
    return len(pickle.dumps(fitted)), 8 * fitted._model.params.flat.numel()


@pytest.mark.parametrize("params", [{}, {"early_stopping": False}])
def test_pickles_hold_no_rows_and_no_optimiser(
    cls: type[Estimator], params: dict[str, Any]
) -> None:
    estimator = cls(random_state=0, max_iter=1, hidden_layer_sizes=(64, 64), **params)
    fitted = clone(estimator).fit(table(100))
    few, parameters = sizes(fitted)
    many, _ = sizes(clone(estimator).fit(table(4000)))
    # The detector keeps a thousand codes of each member.
    codes = 0
    if cls is VAEAnomalyDetector:
        codes = 8 * 1000 * fitted.n_components_ * fitted._model.n_members
    # One copy of the parameters (Adam's moments would be two more) and a few kB.
    assert few < 1.2 * parameters + codes + 16_000
    # The detector keeps the sorted scores of at most 4096 rows for its p-values.
    scores = 8 * 4000 if cls is VAEAnomalyDetector else 0
    assert many < few + scores + 2_000
    assert 8 * table(4000).size > scores + 2_000
