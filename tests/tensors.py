"""What the tests of tensors as tables share."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector, VAEImputer]


def table(n_rows: int = 60, dtype: Any = np.float64) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 4))
    X += 0.5 * rng.normal(size=X.shape)
    X[3, 1] = np.nan
    return X.astype(dtype)


def fitted(cls: Any, X: Any, **params: Any) -> Any:
    return cls(max_iter=2, random_state=0, **params).fit(X)


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
