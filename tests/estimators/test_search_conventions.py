"""VAESearchCV where code expects one of scikit-learn's searches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.utils import _safe_indexing

from skvae import VAESearchCV, VAETransformer

SMALL: dict[str, Any] = {
    "hidden_layer_sizes": (4,),
    "max_iter": 3,
    "n_score_samples": 4,
    "random_state": 0,
}
GRID = {"n_components": [1, 2]}
X = np.random.default_rng(0).normal(size=(120, 3)) @ np.array(
    [[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.3]]
)
FRAME = pd.DataFrame(X, columns=list("abc"))


def both(cv: Any = 2, **fit_params: Any) -> tuple[GridSearchCV, VAESearchCV]:
    table = fit_params.pop("X", X)
    return (
        GridSearchCV(VAETransformer(**SMALL), GRID, cv=cv).fit(table, **fit_params),
        VAESearchCV(VAETransformer(**SMALL), GRID, cv=cv).fit(table, **fit_params),
    )


def mean_scores(search: Any) -> np.ndarray:
    return np.asarray(search.cv_results_["mean_test_score"])


@pytest.mark.parametrize(
    "table", [FRAME, pl.from_pandas(FRAME), pa.Table.from_pandas(FRAME), X.tolist()]
)
def test_every_container_is_searched(table: Any) -> None:
    try:
        _safe_indexing(table, [0])
    except TypeError:
        pytest.skip("this scikit-learn takes no rows out of a pyarrow table")
    alone, stack = both(X=table)
    assert_allclose(mean_scores(stack), mean_scores(alone), atol=1e-5)
    assert type(stack.best_estimator_.sample(1)) is type(
        alone.best_estimator_.sample(1)
    )
    assert hasattr(stack, "feature_names_in_") == hasattr(alone, "feature_names_in_")
    if hasattr(alone, "feature_names_in_"):
        assert_array_equal(stack.feature_names_in_, alone.feature_names_in_)


@pytest.mark.parametrize(
    ("cv", "fit_params"),
    [
        (GroupKFold(2), {"groups": np.arange(120) % 7}),
        (StratifiedKFold(2), {"y": np.arange(120) % 3}),
        ([(np.arange(80), np.arange(80, 120))], {}),
    ],
)
def test_splitters_split_as_elsewhere(cv: Any, fit_params: dict[str, Any]) -> None:
    alone, stack = both(cv, **fit_params)
    assert_allclose(mean_scores(stack), mean_scores(alone), atol=1e-5)
    assert stack.n_splits_ == alone.n_splits_


def test_attributes_are_those_of_scikit_learn() -> None:
    alone, stack = both()
    params = set(stack.get_params(deep=False))
    fitted = {name for name in vars(alone) if name.endswith("_")}
    assert set(vars(stack)) - params == fitted
    offered = {name for name in dir(alone) if name[0] != "_" and hasattr(alone, name)}
    assert {name for name in offered if not hasattr(stack, name)} == {"param_grid"}


def test_best_estimator_is_a_fit_by_hand() -> None:
    _, stack = both()
    by_hand = VAETransformer(**SMALL).set_params(**stack.best_params_).fit(X)
    assert stack.best_estimator_.get_params() == by_hand.get_params()
    for method in ("transform", "score_samples"):
        found, expected = (
            getattr(each, method)(X) for each in (stack.best_estimator_, by_hand)
        )
        assert_array_equal(found, expected)


def test_without_refit_there_are_results_and_no_estimator() -> None:
    search = VAESearchCV(VAETransformer(**SMALL), GRID, cv=2, refit=False).fit(X)
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.best_score_ == mean_scores(search).max()
    for name in ("best_estimator_", "refit_time_", "n_features_in_", "transform"):
        assert not hasattr(search, name)


def test_a_failed_fit_scores_what_was_asked() -> None:
    grid = {"beta": [1.0, -1.0]}
    search = VAESearchCV(VAETransformer(**SMALL), grid, cv=2, error_score=-50.0)
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search.fit(X)
    assert mean_scores(search)[1] == -50.0
    assert search.best_index_ == 0


def test_a_search_is_an_estimator_of_a_cross_validation() -> None:
    searches = (
        cls(VAETransformer(**SMALL), GRID, cv=2) for cls in (GridSearchCV, VAESearchCV)
    )
    assert_allclose(*(cross_val_score(search, X, cv=2) for search in searches))


@pytest.mark.parametrize("refit", [True, "one_standard_error"])
def test_one_by_one_comes_to_the_same(refit: Any) -> None:
    stack = VAESearchCV(VAETransformer(**SMALL), GRID, cv=3, refit=refit).fit(X)
    search = VAESearchCV(
        VAETransformer(max_time=1000.0, **SMALL), GRID, cv=3, refit=refit
    )
    with pytest.warns(UserWarning, match="max_time has no place") as caught:
        search.fit(X)
    assert [warning.filename for warning in caught] == [__file__]
    assert_allclose(mean_scores(search), mean_scores(stack), atol=1e-5)
    assert search.best_index_ == stack.best_index_
    assert set(vars(search)) == set(vars(stack))


def test_what_cannot_be_searched_is_told() -> None:
    vae = VAETransformer(**SMALL)
    with pytest.raises(NotFittedError, match="VAESearchCV instance is not fitted"):
        VAESearchCV(vae, GRID).transform(X)
    with pytest.raises(TypeError, match="scoring"):
        VAESearchCV(vae, GRID, scoring=["r2", "score"])
    with pytest.raises(ValueError, match="got 0 candidates and 5 folds"):
        VAESearchCV(vae, []).fit(X)
    with pytest.raises(ValueError, match="got 2 candidates and 0 folds"):
        VAESearchCV(vae, GRID, cv=[]).fit(X)
