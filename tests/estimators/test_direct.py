"""Tables that are tensors and stay where they are, and estimators that are reloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skvae
from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer
from tests.tensors import ESTIMATORS, fitted, questions, same, table

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
every_estimator = pytest.mark.parametrize(
    "cls", ESTIMATORS, ids=lambda cls: cls.__name__
)

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


@every_estimator
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


@every_estimator
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
