"""Model selection by the estimators' own score, against a density that is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAEAnomalyDetector, VAETransformer

TRUE_COMPONENTS, FOLDS = 3, 3
# At beta = 0.1 codes are worth so much that some columns are copied: rightly told.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def linear_gaussian(n_rows: int) -> tuple[NDArray[np.float64], float]:
    """Rows of a linear-Gaussian model with 3 factors, and their true mean log p."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(10, TRUE_COMPONENTS))
    scale = 0.3 + 0.4 * rng.random(10)
    mean = 3.0 * rng.normal(size=10)
    codes = rng.normal(size=(n_rows, TRUE_COMPONENTS))
    X = mean + codes @ loadings.T + scale * rng.normal(size=(n_rows, 10))
    density = multivariate_normal(mean, loadings @ loadings.T + np.diag(scale**2))
    return X, float(density.logpdf(X).mean())


def pipeline() -> Pipeline:
    return Pipeline([("scale", "passthrough"), ("vae", VAETransformer(random_state=0))])


@pytest.fixture(scope="module")
def search() -> tuple[GridSearchCV, float]:
    X, truth = linear_gaussian(600)
    grid = {"vae__n_components": [1, 2, 3, 5], "vae__beta": [0.1, 1.0, 4.0]}
    return GridSearchCV(pipeline(), grid, cv=FOLDS).fit(X), truth


def test_search_without_scoring_finds_the_true_model(
    search: tuple[GridSearchCV, float],
) -> None:
    results = search[0].cv_results_
    mean = {
        (p["vae__n_components"], p["vae__beta"]): score
        for p, score in zip(results["params"], results["mean_test_score"])
    }
    best = search[0].best_index_
    error = results["std_test_score"][best] / np.sqrt(FOLDS)
    assert mean[TRUE_COMPONENTS, 1.0] >= results["mean_test_score"][best] - error
    # Too few components and a wrong weight of the KL lose clearly, not by luck.
    rivals = [(1, 1.0), (2, 1.0), (3, 4.0), (3, 0.1)]
    assert all(mean[TRUE_COMPONENTS, 1.0] > mean[rival] + error for rival in rivals)


def test_best_score_is_the_held_out_log_likelihood(
    search: tuple[GridSearchCV, float],
) -> None:
    # Equal folds that cover all rows: their mean is that over all rows.
    found, truth = search
    assert truth - 0.15 < found.best_score_ < truth + 0.02


def test_search_refits_the_best(search: tuple[GridSearchCV, float]) -> None:
    X, truth = linear_gaussian(600)
    assert search[0].transform(X).shape == (
        600,
        search[0].best_params_["vae__n_components"],
    )
    assert search[0].score(X) == pytest.approx(truth, abs=0.15)


def test_outer_scaler_changes_the_units_of_the_score_only() -> None:
    X, _ = linear_gaussian(200)
    plain = pipeline().set_params(vae__n_components=TRUE_COMPONENTS)
    scaled = clone(plain).set_params(scale=StandardScaler())
    plain.fit(X)
    scaled.fit(X)
    log_scale = np.log(scaled["scale"].scale_).sum()
    assert scaled.score(X) - log_scale == pytest.approx(plain.score(X), abs=1e-2)


@pytest.mark.parametrize("cls", [VAETransformer, VAEAnomalyDetector])
def test_workers_score_like_the_caller(
    cls: type[VAETransformer] | type[VAEAnomalyDetector],
) -> None:
    X, _ = linear_gaussian(120)
    grid = {"n_components": [1, 3], "noise": ["column", "shared"]}
    here, there = (
        GridSearchCV(cls(random_state=0), grid, cv=2, n_jobs=n_jobs, refit=False)
        .fit(X)
        .cv_results_
        for n_jobs in (1, 2)
    )
    for key in ("split0_test_score", "split1_test_score"):
        assert np.isfinite(here[key]).all()
        np.testing.assert_array_equal(here[key], there[key])


def test_detector_is_searched_by_its_log_likelihood() -> None:
    # `anomaly_score` is not what `score` gives, so that searches stay comparable.
    X, _ = linear_gaussian(150)
    scores = [
        cross_val_score(VAEAnomalyDetector(random_state=0, anomaly_score=name), X, cv=2)
        for name in ("log_likelihood", "reconstruction")
    ]
    np.testing.assert_array_equal(*scores)
