"""Arrays of other libraries: what comes in as a tensor is answered in tensors."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.utils import _array_api, estimator_checks

import skvae
from skvae import VAEAnomalyDetector, VAEImputer, VAESearchCV, VAETransformer
from skvae.estimators import _arrays

ESTIMATORS = [VAETransformer, VAEAnomalyDetector, VAEImputer]

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


def table(n_rows: int = 60, dtype: Any = np.float64) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 4))
    X += 0.5 * rng.normal(size=X.shape)
    X[3, 1] = np.nan
    return X.astype(dtype)


def fitted(cls: Any, X: Any, **params: Any) -> Any:
    return cls(max_iter=2, random_state=0, **params).fit(X)


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    try:
        with sklearn.config_context(array_api_dispatch=True):
            _array_api.get_namespace(torch.zeros(1))
    except ImportError as error:  # scikit-learn 1.6 has no copy of its own
        pytest.skip(str(error))
    with sklearn.config_context(array_api_dispatch=True):
        yield


def same(answer: Any, expected: Any) -> None:
    """Assert that an answer is the expected one, each array of it a tensor."""
    assert not isinstance(answer, np.ndarray)
    if isinstance(answer, torch.Tensor):
        assert answer.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(answer.numpy(), expected)
    elif isinstance(answer, tuple | list):
        for one, other in zip(answer, expected, strict=True):
            same(one, other)
    elif hasattr(answer, "contributions"):
        same(list(vars(answer).values()), list(vars(expected).values()))
    else:
        assert answer == expected


def questions(cls: Any) -> list[str]:
    """Every public method that takes a table or codes and learns nothing from them."""
    learning = {"fit", "partial_fit", "fit_transform", "fit_predict", "calibrate"}
    return [
        name
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
        and name not in learning
        and "X" in inspect.signature(method).parameters
    ]


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


# -- with dispatch, and no trip over the host ----------------------------------------

# What still goes by way of the host: what looks at single cells, and codes of none.
BY_HOST = {"describe", "explain", "impute", "predictive_interval", "repair"}


def direct_questions(cls: Any) -> list[str]:
    by_host = BY_HOST | ({"transform"} if cls is VAEImputer else set())
    return [name for name in questions(cls) if name not in by_host]


def asked_of(estimator: Any, name: str, X: Any) -> Any:
    """Ask a question, of codes where it takes codes."""
    given = X[:, : estimator.n_components_] if name == "inverse_transform" else X
    return getattr(estimator, name)(given)


def keep_from_host(patch: pytest.MonkeyPatch, n_rows: int) -> None:
    """Make every way of a tensor to NumPy fail for tables of so many rows."""
    for way in ("cpu", "numpy", "tolist", "__array__", "__dlpack__"):
        read = getattr(torch.Tensor, way)

        def guarded(self: Any, *args: Any, read: Any = read, **options: Any) -> Any:
            assert not (self.dim() == 2 and len(self) == n_rows), "read on the host"
            return read(self, *args, **options)

        patch.setattr(torch.Tensor, way, guarded)


def assert_close(answer: Any, expected: Any, rtol: float) -> None:
    for one, other in zip(parts_of(answer), parts_of(expected), strict=True):
        assert isinstance(one, torch.Tensor | float)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)
        assert np.asarray(one).dtype == np.asarray(other).dtype


def parts_of(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("cls", "params"),
    [*((cls, {}) for cls in ESTIMATORS), (VAEAnomalyDetector, {"novelty": True})],
)
def test_tables_of_real_numbers_stay_where_they_are(
    cls: Any,
    params: dict[str, Any],
    dtype: Any,
    dispatch: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del dispatch
    X = table(dtype=dtype)[4:]  # whole rows
    X[:, 2] = np.exp(X[:, 2])  # a column that keeps its bound
    plain, vae = (fitted(cls, x, **params) for x in (X, torch.tensor(X)))
    asked = torch.tensor(X[:37], requires_grad=True)
    expected = {name: asked_of(plain, name, X[:37]) for name in direct_questions(cls)}
    with monkeypatch.context() as patch:
        keep_from_host(patch, n_rows=37)
        answers = {name: asked_of(vae, name, asked) for name in expected}
        with pytest.raises(AssertionError, match="read on the host"):
            vae.impute(asked)  # so that the guard is known to guard
    for name, answer in answers.items():
        assert_close(answer, expected[name], 1e-12 if dtype == np.float64 else 1e-5)


def test_other_tables_are_answered_for_by_the_host(dispatch: None) -> None:
    del dispatch
    rng = np.random.default_rng(0)
    for j, cells, likelihood in (
        (1, rng.integers(0, 2, 60), "auto"),
        (1, np.full(60, 4.0), "auto"),
        (2, np.exp(rng.normal(size=60)), {2: "lognormal"}),
        (2, rng.poisson(3.0, 60), {2: "poisson"}),
    ):
        X = np.nan_to_num(table())
        X[:, j] = cells
        plain, vae = (
            fitted(VAETransformer, x, likelihood=likelihood)
            for x in (X, torch.tensor(X))
        )
        for name in direct_questions(VAETransformer):
            same(asked_of(vae, name, torch.tensor(X)), asked_of(plain, name, X))


def test_nothing_of_an_answer_lies_on_another_device_than_its_table(
    cls: Any, dispatch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without values, that tell their device and refuse operands of another.
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    del dispatch
    vae = fitted(cls, table()[4:])
    vae._library = "torch"
    monkeypatch.setattr(fake_tensor.FakeTensor, "__bool__", lambda self: False)
    # Columns of one width each: the shape must not depend on values.
    monkeypatch.setattr(
        torch, "repeat_interleave", lambda columns, widths: torch.arange(len(columns))
    )
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        X = torch.empty((30, 4), dtype=torch.float64, device="lazy:0")
        for name in direct_questions(cls):
            if name in ("score", "p_values", "select", "outlier_probability"):
                continue  # whose scores, or their mean, come to the host
            answer = asked_of(vae, name, X)
            for part in parts_of(answer):
                assert part.device == X.device
                assert len(part) == len(X)


def test_a_reloaded_estimator_takes_tensors_as_the_fitted_one_did(
    cls: Any, dispatch: None, tmp_path: Path
) -> None:
    del dispatch
    X = table()
    vae, tensor = fitted(cls, torch.tensor(X)), torch.tensor(X)
    expected = vae.score_samples(tensor)
    vae.save(tmp_path / "model")
    reloaded = pickle.loads(pickle.dumps(vae)), skvae.load(tmp_path / "model")
    for kept in (*reloaded, pickle.loads(pickle.dumps(reloaded[0]))):
        assert torch.equal(kept.score_samples(tensor), expected)
        same(kept.transform(tensor), fitted(cls, X).transform(X))
        assert isinstance(kept.score_samples(X), np.ndarray)
    more = reloaded[0].partial_fit(tensor)
    assert isinstance(more._bank, torch.Tensor)
    assert isinstance(reloaded[1].fit(X).score_samples(X), np.ndarray)
    for other in (more, reloaded[1]):  # at home again, in one library each
        with pytest.raises(ValueError, match="must use the same namespace"):
            other.score_samples(X if other is more else tensor)
    plain = pickle.loads(pickle.dumps(fitted(cls, X)))
    with pytest.raises(ValueError, match="must use the same namespace"):
        plain.score_samples(tensor)


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
