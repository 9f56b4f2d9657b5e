"""Arrays of other libraries: what comes in as a tensor is answered in tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from sklearn.utils import _array_api, estimator_checks

import skvae
from skvae import VAEAnomalyDetector, VAESearchCV, VAETransformer
from skvae.estimators import _arrays
from tests.tensors import ESTIMATORS, fitted, questions, same, table

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- with dispatch -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scikit_learns_check_of_types_and_values(
    cls: Any, dtype: str, dispatch: None
) -> None:
    del dispatch
    check = estimator_checks.check_array_api_input
    check(cls.__name__, cls(max_iter=2, random_state=0), "torch", "cpu", dtype, True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_question_is_answered_in_tensors(
    cls: Any, dtype: Any, dispatch: None
) -> None:
    del dispatch
    X = table(20, dtype)
    plain, vae = fitted(cls, X), fitted(cls, torch.tensor(X))
    codes = plain.posterior(X)[0] if hasattr(plain, "posterior") else X
    for name in questions(cls):
        given = codes[:6] if name == "inverse_transform" else X[:6]
        expected = getattr(plain, name)(given)
        same(getattr(vae, name)(torch.tensor(given)), expected)
    same(vae.transform(X=torch.tensor(X)), plain.transform(X))
    assert vae.score_samples(torch.tensor(X)).numpy().dtype == dtype


def test_further_arguments_change_nothing_of_that(dispatch: None) -> None:
    del dispatch
    X = table()
    plain, vae = (fitted(VAEAnomalyDetector, x) for x in (X, torch.tensor(X)))
    tensor = torch.tensor(X)
    same(vae.elbo(tensor, decompose=True), plain.elbo(X, decompose=True))
    same(vae.impute(tensor, 2, 0), plain.impute(X, 2, 0))
    same(vae.explain(tensor[:9], expected=True), plain.explain(X[:9], expected=True))
    same(vae.sample(5, 0), plain.sample(5, 0))
    given = {"conditions": {1: (0.0, None)}}
    same(vae.sample(5, 0, **given), plain.sample(5, 0, **given))
    same(vae.calibrate(tensor).p_values(tensor), plain.calibrate(X).p_values(X))
    assert isinstance(vae._calibration, torch.Tensor)


def test_rows_come_back_in_the_data_type_of_fit(dispatch: None) -> None:
    del dispatch
    X = torch.tensor(np.random.default_rng(0).poisson(3.0, (60, 3)))
    vae = fitted(VAETransformer, X)
    assert vae.sample(4, 0).dtype == X.dtype == torch.int64
    assert vae.inverse_transform(vae.transform(X)).dtype == torch.int64
    assert vae.score_samples(X).dtype == torch.float64


def test_more_rows_and_weights_may_be_tensors(cls: Any, dispatch: None) -> None:
    del dispatch
    X, weight = table(), np.linspace(0.5, 2.0, 60)
    plain, vae = (cls(max_iter=2, random_state=0) for _ in range(2))
    for rows in (slice(0, 30), slice(30, 60)):
        plain.partial_fit(X[rows], sample_weight=weight[rows])
        vae.partial_fit(torch.tensor(X[rows]), sample_weight=torch.tensor(weight[rows]))
    same(vae.score_samples(torch.tensor(X)), plain.score_samples(X))
    again = cls(max_iter=2, random_state=0)
    again.fit(torch.tensor(X), sample_weight=weight, X_val=torch.tensor(X[:9]))
    assert isinstance(again.kl_per_component_, torch.Tensor)


def test_a_table_from_elsewhere_than_that_of_fit_is_refused(dispatch: None) -> None:
    del dispatch
    X = table()
    plain, vae = (fitted(VAEAnomalyDetector, x) for x in (X, torch.tensor(X)))
    for name in questions(VAEAnomalyDetector):
        rule = rf"VAEAnomalyDetector\.{name}\(\) must use the same namespace"
        with pytest.raises(ValueError, match=rule):
            getattr(plain, name)(torch.tensor(X))
        for other in (X, X.tolist()):
            with pytest.raises(ValueError, match=rule):
                getattr(vae, name)(other)


def test_learning_more_leaves_an_estimator_at_home(dispatch: None) -> None:
    del dispatch
    X = table()
    for x, other in ((X, torch.tensor(X)), (torch.tensor(X), X)):
        vae, home = fitted(VAEAnomalyDetector, x), type(x)
        before = dict(vars(vae))
        for name in ("calibrate", "partial_fit"):
            rule = rf"VAEAnomalyDetector\.{name}\(\) must use the same namespace"
            with pytest.raises(ValueError, match=rule):
                getattr(vae, name)(other)
            assert all(vars(vae)[name] is value for name, value in before.items())
        with sklearn.config_context(array_api_dispatch=False):
            vae.calibrate(other).partial_fit(other)
        for learned in (vae.calibrate(x), vae.partial_fit(x)):
            assert isinstance(learned._calibration, home)
            assert isinstance(learned.p_values(x), home)


def test_a_copy_with_other_attributes_keeps_the_device(cls: Any) -> None:
    vae = fitted(cls, table())
    vae.device_ = "meta"
    other = vae._with({"n_iter_": 7})
    assert (other.device_, other.n_iter_, type(other)) == ("meta", 7, cls)
    assert vae.n_iter_ != 7


def test_an_estimator_fitted_to_tensors_is_kept_as_numpys(
    cls: Any, dispatch: None, tmp_path: Path
) -> None:
    del dispatch
    X = table()
    vae, expected = fitted(cls, torch.tensor(X)), fitted(cls, X).score_samples(X)
    assert isinstance(vae.noise_variance_, torch.Tensor)
    vae.save(tmp_path / "model")
    for kept in (pickle.loads(pickle.dumps(vae)), skvae.load(tmp_path / "model")):
        assert isinstance(kept.noise_variance_, np.ndarray)
        np.testing.assert_array_equal(kept.score_samples(X), expected)
    with sklearn.config_context(array_api_dispatch=False):
        np.testing.assert_array_equal(vae.score_samples(X), expected)


def test_a_fit_that_fails_leaves_arrays_where_they_were(dispatch: None) -> None:
    del dispatch
    X = table()
    vae = fitted(VAETransformer, torch.tensor(X))
    before = vae.score_samples(torch.tensor(X))
    with pytest.raises(ValueError, match="infinity"):
        vae.fit(np.full((4, 4), np.inf))
    assert torch.equal(vae.score_samples(torch.tensor(X)), before)
    assert isinstance(vae.fit(X).noise_variance_, np.ndarray)


def test_a_device_without_float64_gets_float32(
    dispatch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del dispatch
    home = _arrays._Home.of(torch.zeros(1))
    assert home is not None
    narrow = lambda xp, device: xp.float32  # noqa: E731
    monkeypatch.setattr(_arrays, "_max_precision_float_dtype", narrow)
    values = (np.arange(3.0)[::-1], np.arange(3), 1.5)
    floats, integers, number = home.bring(values)
    assert floats.dtype == torch.float32
    assert floats.tolist() == [2.0, 1.0, 0.0]
    assert integers.dtype == torch.int64
    assert number == 1.5


def test_scikit_learn_moves_estimators(dispatch: None) -> None:
    del dispatch
    move = getattr(_array_api, "move_estimator_to", None)
    if move is None:
        pytest.skip("scikit-learn before 1.9 moves no estimators")
    X = table()
    plain = fitted(VAETransformer, X)
    xp, _, device = _array_api.get_namespace_and_device(torch.zeros(1))
    moved = move(plain, xp, device)
    same(moved.score_samples(torch.tensor(X)), plain.score_samples(X))


def test_a_search_takes_tensors(dispatch: None) -> None:
    del dispatch
    X, grid = table(), {"n_components": [1, 2]}
    vae = VAETransformer(max_iter=2, random_state=0)
    searches = [VAESearchCV(vae, grid, cv=2).fit(x) for x in (X, torch.tensor(X))]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_array_equal(*scores)
    same(searches[1].transform(torch.tensor(X)), searches[0].transform(X))


# -- without -------------------------------------------------------------------------


def test_without_dispatch_tensors_are_read_as_numpys_arrays(cls: Any) -> None:
    X = table()
    vae = fitted(cls, torch.tensor(X, requires_grad=True))
    expected = fitted(cls, X)
    for x in (X, torch.tensor(X), torch.tensor(X, requires_grad=True)):
        scores = vae.score_samples(x)
        assert isinstance(scores, np.ndarray)
        np.testing.assert_array_equal(scores, expected.score_samples(X))
        assert isinstance(vae.transform(x), np.ndarray)


def test_without_dispatch_a_device_that_numpy_cannot_read_is_refused() -> None:
    # Of the devices that torch has everywhere, the one that NumPy can't read.
    elsewhere = torch.zeros((60, 4), device="meta")
    with pytest.raises(TypeError, match=r"device meta .*array_api_dispatch=True"):
        VAETransformer().fit(elsewhere)
    vae = fitted(VAETransformer, table())
    with pytest.raises(TypeError, match=r"SCIPY_ARRAY_API=1"):
        vae.transform(elsewhere)


def test_a_data_type_that_numpy_lacks_is_told() -> None:
    vae = fitted(VAETransformer, table())
    narrow = torch.tensor(table(), dtype=torch.bfloat16)
    for ask in (vae.transform, vae.fit):
        with pytest.raises(TypeError, match=r"got Tensor of torch.bfloat16.*float\(\)"):
            ask(narrow)
