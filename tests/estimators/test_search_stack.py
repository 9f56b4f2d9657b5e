"""VAESearchCV against GridSearchCV: the same results from fits side by side."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, ParameterSampler
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAEAnomalyDetector, VAESearchCV, VAETransformer

SMALL: dict[str, Any] = {
    "hidden_layer_sizes": (8,),
    "max_iter": 12,
    "n_score_samples": 8,
    "random_state": 0,
}
# Fits that stop where they are best: the rounding of float32 must not choose for them.
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def X() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    rows = np.tanh(2.0 * rng.normal(size=(122, 2)) @ rng.normal(size=(2, 4)))
    return 3.0 + rows + 0.2 * rng.normal(size=rows.shape)


def fold_scores(results: dict[str, Any]) -> NDArray[np.float64]:
    keys = sorted(key for key in results if key.startswith("split"))
    return np.stack([results[key] for key in keys])


def both(
    estimator: Any, grid: Any, X: Any, **fit_params: Any
) -> tuple[GridSearchCV, VAESearchCV]:
    alone = GridSearchCV(estimator, grid, cv=3, return_train_score=True)
    stack = VAESearchCV(estimator, grid, cv=3, return_train_score=True)
    return alone.fit(X, **fit_params), stack.fit(X, **fit_params)


@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        # What has a member axis; folds of two sizes, each with a scaling of its own.
        (
            VAETransformer(**SMALL),
            {
                "n_components": [1, 3],
                "beta": [0.5, 1.0],
                "learning_rate_init": [0.001, 0.01],
            },
        ),
        (
            VAETransformer(alpha=0.1, **SMALL),
            {"l1_ratio": [0.0, 0.5], "alpha": [0.0, 0.1], "random_state": [0, 7]},
        ),
        # What parts stacks.
        (
            VAETransformer(**SMALL),
            [
                {"hidden_layer_sizes": [(), (4,)], "noise": ["shared", "network"]},
                {"dropout": [0.2], "kl_warmup": [0.0, 0.5]},
                {"variational": [False], "n_components": [1, 2]},
                {"n_importance_samples": [3], "n_components": [1, 2]},
                {"early_stopping": [False], "free_bits": [0.3], "n_components": [1, 2]},
            ],
        ),
        # What is learned after training, from the rows trained on.
        (
            VAETransformer(prior="aggregate", **SMALL),
            {"n_components": [1, 2], "hidden_layer_sizes": [(), (8,)]},
        ),
        (
            VAEAnomalyDetector(n_estimators=2, **SMALL),
            {"n_components": [1, 2], "trim": [0.0, 0.25], "start": ["random"]},
        ),
    ],
)
def test_members_are_what_fits_alone_are(
    estimator: BaseEstimator, grid: Any, X: NDArray[np.float64]
) -> None:
    alone, stack = both(estimator, grid, X)
    assert set(stack.cv_results_) == set(alone.cv_results_)
    found, expected = (fold_scores(s.cv_results_) for s in (stack, alone))
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert np.ptp(expected, axis=1).max() > 0.01  # the candidates do differ
    assert stack.best_params_ == alone.best_params_
    assert stack.best_index_ == alone.best_index_
    assert stack.best_score_ == pytest.approx(alone.best_score_, abs=1e-5)
    assert stack.n_splits_ == alone.n_splits_ == 3
    assert stack.multimetric_ is False
    np.testing.assert_array_equal(stack.score_samples(X), alone.score_samples(X))


# GridSearchCV says so wherever `score` takes no weights, and so does this search.
@pytest.mark.filterwarnings("ignore:The scoring .* does not support sample_weight")
def test_weights_reach_their_folds(X: NDArray[np.float64]) -> None:
    weight = np.linspace(0.0, 2.0, len(X))
    grid = {"n_components": [1, 2]}
    alone, stack = both(VAETransformer(**SMALL), grid, X, sample_weight=weight)
    found, expected = (fold_scores(s.cv_results_) for s in (stack, alone))
    np.testing.assert_allclose(found, expected, **CLOSE)
    _, without = both(VAETransformer(**SMALL), grid, X)
    assert not np.allclose(found, fold_scores(without.cv_results_), atol=1e-3)


def test_pipeline_steps_are_fitted_to_each_fold(X: NDArray[np.float64]) -> None:
    pipe = Pipeline([("scale", StandardScaler()), ("vae", VAETransformer(**SMALL))])
    grid = {"scale__with_std": [True, False], "vae__beta": [0.5, 1.0]}
    alone, stack = both(pipe, grid, X, vae__sample_weight=np.linspace(1.0, 2.0, len(X)))
    found, expected = (fold_scores(s.cv_results_) for s in (stack, alone))
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert abs(expected[:, 0] - expected[:, 2]).min() > 0.1  # other units
    assert stack.best_params_ == alone.best_params_
    np.testing.assert_array_equal(stack.transform(X), alone.transform(X))


def test_drawn_candidates_are_those_of_scikit_learn(X: NDArray[np.float64]) -> None:
    space = {"beta": np.linspace(0.5, 1.5, 20), "n_components": [1, 2]}
    search = VAESearchCV(
        VAETransformer(**SMALL), space, n_iter=3, cv=2, random_state=3, refit=False
    ).fit(X)
    expected = list(ParameterSampler(space, 3, random_state=3))
    assert search.cv_results_["params"] == expected
    assert not hasattr(search, "best_estimator_")
    assert not hasattr(search, "transform")


def test_what_has_no_place_in_a_stack_is_fitted_alone(X: NDArray[np.float64]) -> None:
    vae = VAETransformer(**{**SMALL, "max_time": 1000.0})
    grid = {"n_components": [1, 2]}
    with pytest.warns(UserWarning, match="max_time has no place") as caught:
        search = VAESearchCV(vae, grid, cv=2).fit(X)
    assert len(caught) == 1
    alone = GridSearchCV(vae, grid, cv=2).fit(X)
    np.testing.assert_array_equal(
        fold_scores(search.cv_results_), fold_scores(alone.cv_results_)
    )
    assert search.best_params_ == alone.best_params_
    with pytest.warns(UserWarning, match="fit's X_val has no place") as caught:
        VAESearchCV(VAETransformer(**SMALL), grid, cv=2).fit(X, X_val=X)
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(ValueError, match="halving needs all fits in stacks"):
        VAESearchCV(vae, grid, cv=2, halving=True).fit(X)


def test_one_standard_error_takes_the_simplest(X: NDArray[np.float64]) -> None:
    grid = {"n_components": [1, 2, 3], "alpha": [0.0, 0.1]}
    search = VAESearchCV(
        VAETransformer(**SMALL), grid, cv=3, refit="one_standard_error"
    ).fit(X)
    results = search.cv_results_
    scores = fold_scores(results)
    best = int(scores.mean(0).argmax())
    error = scores[:, best].std(ddof=1) / np.sqrt(3)
    near = np.flatnonzero(scores.mean(0) >= scores.mean(0)[best] - error)
    expected = min(
        near,
        key=lambda i: (
            results["params"][i]["n_components"],
            -results["params"][i]["alpha"],
        ),
    )
    assert len(near) > 1
    assert search.best_index_ == expected != best
    assert search.best_score_ == results["mean_test_score"][expected]
    assert search.best_estimator_.n_components == search.best_params_["n_components"]


def test_a_callable_refit_chooses(X: NDArray[np.float64]) -> None:
    search = VAESearchCV(
        VAETransformer(**SMALL), {"n_components": [1, 2]}, cv=2, refit=lambda results: 0
    ).fit(X)
    assert search.best_index_ == 0
    assert not hasattr(search, "best_score_")
    assert search.best_estimator_.n_components == 1


def test_halving_stops_the_worse_half(X: NDArray[np.float64]) -> None:
    vae = VAETransformer(**{**SMALL, "start": "random", "max_iter": 32})
    # A rate of almost nothing stays at the random start: hopeless.
    grid = {"learning_rate_init": [1e-6, 0.01, 1e-7, 0.02], "alpha": [0.0]}
    search = VAESearchCV(vae, grid, cv=3, halving=True).fit(X)
    survived = search.cv_results_["survived"]
    assert survived.sum() == 1
    assert not survived[[0, 2]].any()
    assert survived[search.best_index_]
    # The survivors are what they are without halving.
    whole = VAESearchCV(vae, grid, cv=3).fit(X)
    found, expected = (fold_scores(s.cv_results_) for s in (search, whole))
    np.testing.assert_allclose(found[:, survived], expected[:, survived], **CLOSE)


def test_halving_ranks_only_what_it_can_stop(X: NDArray[np.float64]) -> None:
    vae = VAETransformer(noise="column", **{**SMALL, "max_iter": 32})
    grid = {"hidden_layer_sizes": [(), (16,)], "n_components": [1, 2]}
    search = VAESearchCV(vae, grid, cv=2, halving=True).fit(X)
    results = search.cv_results_
    linear = np.array([not p["hidden_layer_sizes"] for p in results["params"]])
    # Closed forms are finished, and one of the two networks outlives the other.
    assert results["survived"][linear].all()
    assert results["survived"][~linear].sum() == 1
    whole = VAESearchCV(vae, grid, cv=2).fit(X)
    found, expected = (fold_scores(s.cv_results_) for s in (search, whole))
    kept = results["survived"]
    np.testing.assert_allclose(found[:, kept], expected[:, kept], **CLOSE)


def test_halving_needs_held_out_rows(X: NDArray[np.float64]) -> None:
    vae = VAETransformer(**{**SMALL, "early_stopping": False})
    with pytest.raises(ValueError, match="early_stopping=True"):
        VAESearchCV(vae, {"beta": [0.5, 1.0]}, cv=2, halving=True).fit(X)


def test_a_failed_fit_is_the_candidate_s_own(X: NDArray[np.float64]) -> None:
    # A rate far beyond all reason leaves the finite numbers; beta=-1 is no parameter.
    vae = VAETransformer(**{**SMALL, "max_grad_norm": None})
    grid = {"beta": [1.0, -1.0], "learning_rate_init": [0.001, 1e30]}
    with (
        pytest.warns(FitFailedWarning, match="6 fits failed|fits failed"),
        pytest.warns(UserWarning, match="non-finite"),
    ):
        search = VAESearchCV(vae, grid, cv=2).fit(X)
    finite = np.isfinite(search.cv_results_["mean_test_score"])
    assert finite.tolist() == [True, False, False, False]
    alone = GridSearchCV(vae, {"beta": [1.0]}, cv=2).fit(X)
    np.testing.assert_allclose(
        fold_scores(search.cv_results_)[:, 0],
        fold_scores(alone.cv_results_)[:, 0],
        **CLOSE,
    )
    with pytest.raises(ValueError, match="beta"):
        VAESearchCV(vae, {"beta": [-1.0]}, cv=2, error_score="raise").fit(X)


def test_errors_name_the_rule(X: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="Invalid parameter 'betta'"):
        VAESearchCV(VAETransformer(**SMALL), {"betta": [1.0]}).fit(X)
    with pytest.raises(TypeError, match="got PCA"):
        VAESearchCV(PCA(), {"n_components": [1]}).fit(X)
    with pytest.raises(ValueError, match="one_standard_error"):
        VAESearchCV(VAETransformer(), {"beta": [1.0]}, refit="best").fit(X)


def test_search_is_cloned_and_pickled(X: NDArray[np.float64]) -> None:
    search = VAESearchCV(VAETransformer(**SMALL), {"n_components": [1, 2]}, cv=2)
    params = search.get_params()
    assert params["estimator__max_iter"] == SMALL["max_iter"]
    copied = clone(search).set_params(estimator__beta=0.5)
    assert copied.estimator.beta == 0.5
    assert search.estimator.beta == 1.0
    again = pickle.loads(pickle.dumps(search.fit(X)))
    np.testing.assert_array_equal(again.score_samples(X), search.score_samples(X))
    assert search.score(X) == search.best_estimator_.score(X)
    assert search.n_features_in_ == X.shape[1]
    assert vars(search.estimator) == vars(VAETransformer(**SMALL))


def test_any_table_is_searched(X: NDArray[np.float64]) -> None:
    # Levels and holes: each fold learns its own shares, and each model fills its own.
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = pd.Categorical(np.where(X[:, 0] > 3.0, "up", "down"))
    frame["count"] = np.round(np.exp(X[:, 1] - 2.0))
    frame.loc[::7, "b"] = np.nan
    vae = VAETransformer(likelihood={"count": "poisson"}, **{**SMALL, "max_iter": 3})
    alone, stack = both(vae, {"n_components": [1, 2], "beta": [0.5, 1.0]}, frame)
    found, expected = (fold_scores(s.cv_results_) for s in (stack, alone))
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_known_outliers_are_left_out_of_each_fold(X: NDArray[np.float64]) -> None:
    X, y = X.copy(), np.zeros(len(X), dtype=int)
    y[::8] = -1
    X[::8] += 30.0
    detector = VAEAnomalyDetector(n_estimators=1, **SMALL)
    alone, stack = both(detector, {"n_components": [1, 2]}, X, y=y)
    np.testing.assert_allclose(
        fold_scores(stack.cv_results_), fold_scores(alone.cv_results_), rtol=1e-3
    )
