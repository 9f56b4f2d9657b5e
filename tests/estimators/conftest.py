"""What tests of the estimators may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sklearn
import torch
from sklearn.utils import _array_api


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let scikit-learn dispatch by array library."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    try:
        with sklearn.config_context(array_api_dispatch=True):
            _array_api.get_namespace(torch.zeros(1))
    except ImportError as error:  # scikit-learn 1.6 has no copy of its own
        pytest.skip(str(error))
    with sklearn.config_context(array_api_dispatch=True):
        yield
