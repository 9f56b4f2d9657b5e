"""Missing cells: a linear Gaussian model is known, and so is all it says of them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector, VAEImputer]
D = 6
NAMES = list("abcdef")


class Normal(NamedTuple):
    """x = mean + loadings z + noise, as the fitted model's own answers tell."""

    mean: np.ndarray
    loadings: np.ndarray
    noise: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        return self.loadings @ self.loadings.T + np.diag(self.noise)

    def given(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the missing cells given the observed ones."""
        seen, cov = ~np.isnan(row), self.covariance
        gain = cov[~seen][:, seen] @ np.linalg.inv(cov[seen][:, seen])
        mean = self.mean[~seen] + gain @ (row[seen] - self.mean[seen])
        return mean, cov[~seen][:, ~seen] - gain @ cov[seen][:, ~seen]


def table(n_rows: int = 300, holes: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(0)
    unit = np.array([1.0, 10.0, 0.1, 3.0, 1.0, 2.0])
    loadings = np.array(
        [[1.0, 1.0, 1.0, 0.3, 0.0, -0.3], [0.0, 0.3, -0.3, 1.0, 1.0, 1.0]]
    )
    X = rng.normal(size=(n_rows, 2)) @ loadings + 0.7 * rng.normal(size=(n_rows, D))
    X = 7.0 + X * unit
    X[rng.random(X.shape) < holes] = np.nan
    return X


@cache
def fitted(n_score_samples: int = 64) -> tuple[VAETransformer, Normal]:
    model = VAETransformer(
        2,
        hidden_layer_sizes=(),
        noise="column",
        max_iter=5,
        n_score_samples=n_score_samples,
        random_state=0,
    ).fit(table())
    at = model.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    return model, Normal(at[0], (at[1:] - at[0]).T, model.noise_variance_)


def patterns() -> np.ndarray:
    """Rows with one to four holes."""
    X = table(12, holes=0.0)
    for i, row in enumerate(X):
        row[np.random.default_rng(i).permutation(D)[: 1 + i % 4]] = np.nan
    return X


@pytest.mark.parametrize(("n_draws", "error"), [(4, 1e-7), (64, 0.05), (4096, 1e-3)])
def test_holed_rows_score_the_exact_marginal(n_draws: int, error: float) -> None:
    # Of eight draws and more some come from the prior, for posteriors less regular
    # than these: the others are exact.
    model, normal = fitted(n_draws)
    X = patterns()
    expected = []
    for row in X:
        seen = ~np.isnan(row)
        law = stats.multivariate_normal(
            normal.mean[seen], normal.covariance[seen][:, seen]
        )
        expected.append(law.logpdf(row[seen]))
    np.testing.assert_allclose(model.score_samples(X), expected, atol=error)
    assert model.score(X) == pytest.approx(np.mean(expected), abs=error)
    total = model.explain(X).sum(axis=1) + model.base_score_
    np.testing.assert_allclose(total, expected, atol=error)
    if n_draws > 1000:
        np.testing.assert_allclose(model.elbo(X), expected, atol=5 * error)


def test_codes_of_holed_rows_are_the_exact_posterior() -> None:
    model, normal = fitted()
    X = patterns()
    mean, std = model.posterior(X)
    for row, own_mean, own_std in zip(X, mean, std):
        seen = ~np.isnan(row)
        path = normal.loadings[seen].T / normal.noise[seen]
        cov = np.linalg.inv(np.eye(2) + path @ normal.loadings[seen])
        expected = cov @ path @ (row[seen] - normal.mean[seen])
        np.testing.assert_allclose(own_mean, expected, atol=1e-5)
        np.testing.assert_allclose(own_std, np.sqrt(np.diag(cov)), rtol=1e-4)
    np.testing.assert_array_equal(model.transform(X), mean)


def test_imputed_cells_are_the_conditional_mean() -> None:
    model, normal = fitted()
    X = patterns()
    done = model.impute(X)
    for row, filled in zip(X, done):
        mean, cov = normal.given(row)
        gap = (filled[np.isnan(row)] - mean) / np.sqrt(np.diag(cov))
        # 64 draws of the code say where the mean is up to their error
        assert np.abs(gap).max() < 0.25
        seen = ~np.isnan(row)
        assert filled[seen].tobytes() == row[seen].tobytes()


def test_imputed_draws_have_the_conditional_law() -> None:
    model, normal = fitted()
    rows = np.repeat(patterns()[3:4], 400, axis=0)
    draws = np.stack(model.impute(rows, n_imputations=5, random_state=0))
    hole = np.isnan(rows[0])
    cells = draws[:, :, hole].reshape(-1, hole.sum())
    mean, cov = normal.given(rows[0])
    std = np.sqrt(np.diag(cov))
    assert np.abs((cells.mean(0) - mean) / std).max() < 0.2
    np.testing.assert_allclose(
        np.cov((cells / std).T), cov / np.outer(std, std), atol=0.2
    )
    again = model.impute(rows, n_imputations=5, random_state=0)
    np.testing.assert_array_equal(draws, np.stack(again))
    assert not np.array_equal(draws[0], draws[1])


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_predictive_intervals_are_normal_quantiles(coverage: float) -> None:
    model, normal = fitted()
    X = patterns()
    low, high = model.predictive_interval(X, coverage=coverage)
    for row, *ends in zip(X, low, high):
        hole = np.isnan(row)
        mean, cov = normal.given(row)
        std = np.sqrt(np.diag(cov))
        expected = stats.norm.interval(coverage, mean, std)
        for end, exact in zip(ends, expected):
            assert np.abs((end[hole] - exact) / std).max() < 0.3


def test_predictive_intervals_cover_what_they_promise() -> None:
    model, normal = fitted()
    rng = np.random.default_rng(5)
    X = rng.multivariate_normal(normal.mean, normal.covariance, size=600)
    hidden = rng.random(X.shape) < 0.3
    low, high = model.predictive_interval(np.where(hidden, np.nan, X))
    inside = ((low <= X) & (high >= X))[hidden].mean()
    assert inside == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_rows_without_cells_score_0_at_the_mean_of_the_prior(cls: type[Any]) -> None:
    frame = pd.DataFrame(table(60), columns=NAMES).assign(
        town=np.random.default_rng(0).choice(["x", "y", "z"], 60),
        count=np.random.default_rng(1).poisson(2.0, 60),
    )
    frame.loc[[2, 40]] = None
    model = cls(
        n_components=2, likelihood={"count": "poisson"}, max_iter=2, random_state=0
    )
    if cls is VAEAnomalyDetector:
        # Its default score completes rows.
        model.set_params(n_estimators=2, anomaly_score="log_likelihood")
    scores = model.fit(frame).score_samples(frame)
    assert scores[[2, 40]].tolist() == [0.0, 0.0]
    assert (model.elbo(frame)[[2, 40]] == 0.0).all()
    assert (scores[[0, 1, 3]] != 0.0).all()
    if hasattr(cls, "posterior"):
        mean, std = model.posterior(frame)
        np.testing.assert_array_equal(mean[[2, 40]], 0.0)
        if cls is VAETransformer:  # members of an ensemble keep codes of their own
            np.testing.assert_array_equal(std[[2, 40]], 1.0)
    total = np.asarray(model.explain(frame)).sum(axis=1) + model.base_score_
    np.testing.assert_allclose(total, scores, atol=1e-8)
    assert not model.impute(frame).isna().any(axis=None)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_one_rows_holes_are_no_matter_to_others(cls: type[Any]) -> None:
    X = table(80)
    model = cls(n_components=2, max_iter=2, random_state=0).fit(X)
    scores, parts = model.score_samples(X), model.explain(X)
    for i in (0, 17, 41):
        np.testing.assert_allclose(model.score_samples(X[[i]])[0], scores[i], rtol=1e-9)
        np.testing.assert_allclose(model.explain(X[[i]])[0], parts[i], atol=1e-8)
    with_more = X.copy()
    with_more[:40] = np.nan
    np.testing.assert_allclose(model.score_samples(with_more)[40:], scores[40:])


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_holes_in_fit_alone_and_in_questions_alone(cls: type[Any]) -> None:
    X, whole = table(80), table(80, holes=0.0)
    for fit_on, asked in ((X, whole), (whole, X)):
        model = cls(n_components=2, max_iter=3, random_state=0).fit(fit_on)
        assert np.isfinite(model.score_samples(asked)).all()
        assert np.isfinite(model.impute(asked)).all()
        seen = ~np.isnan(asked)
        assert model.impute(asked)[seen].tobytes() == asked[seen].tobytes()
        model.partial_fit(asked)
        assert np.isfinite(model.score_samples(fit_on)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_observed_cells_keep_their_bits(dtype: str) -> None:
    X = table(60).astype(dtype)
    model = VAEImputer(max_iter=2, random_state=0).fit(X)
    seen = ~np.isnan(X)
    for done in (model.impute(X), *model.impute(X, n_imputations=2, random_state=0)):
        assert done.dtype == dtype
        assert done[seen].tobytes() == X[seen].tobytes()
        assert np.isfinite(done).all()
    whole = pd.DataFrame({"id": [2**62 + 1, 2**62 + 3, 5] * 20, "x": X[:, 0]})
    done = VAEImputer(max_iter=2, random_state=0).fit(whole).impute(whole)
    pd.testing.assert_series_equal(done["id"], whole["id"])


def test_completed_levels_are_among_those_of_the_column() -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(size=80)
    frame = pd.DataFrame(
        {
            "size": size,
            "big": size > 0,
            "grade": pd.Categorical(
                np.select([size < -0.5, size < 0.5], ["low", "mid"], "high"),
                categories=["low", "mid", "high"],
                ordered=True,
            ),
        }
    )
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).fit(frame)
    far = frame[:2].assign(size=[80.0, -80.0]).astype({"big": object, "grade": object})
    far[["big", "grade"]] = None
    assert np.isfinite(detector.score_samples(far)).all()
    full = detector._completion(detector._encode(detector._check(far)))
    assert sorted(full[0, 1:]) == [1.0, 2.0]
    assert full[1, 1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_masked_cells_are_missing(cls: type[Any], dtype: type) -> None:
    X = np.rint(10.0 * table(60, holes=0.0))
    holes = np.random.default_rng(1).random(X.shape) < 0.1
    # What stands beneath a mask is nobody's.
    masked = np.ma.masked_array(np.where(holes, 1e6, X).astype(dtype), mask=holes)
    plain = np.where(holes, np.nan, X).astype(
        np.float64 if dtype is np.int64 else dtype
    )
    params: dict[str, Any] = {"max_iter": 3, "random_state": 0}
    own, other = (cls(**params).fit(rows) for rows in (masked, plain))
    expected = other.impute(plain)
    if dtype is np.int64:  # a table of whole numbers is answered in them
        expected = np.rint(expected)
    np.testing.assert_array_equal(own.impute(masked), expected)
    np.testing.assert_array_equal(own.score_samples(masked), other.score_samples(plain))
    assert masked.mask.sum() == holes.sum()
    with pytest.raises(TypeError, match=r"Masked arrays.*object.*filled"):
        own.impute(masked.astype(object))
