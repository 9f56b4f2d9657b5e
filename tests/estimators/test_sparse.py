"""Sparse counts: the answers of the dense table, which is never made as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

from skvae import VAEAnomalyDetector, VAEImputer, VAESearchCV, VAETransformer
from skvae.estimators import _tables, _tries
from skvae.model import completion, incomplete, rows
from skvae.table import statistics
from skvae.training import batches

SMALL: dict[str, Any] = {
    "n_components": 2,
    "hidden_layer_sizes": (4,),
    "max_iter": 1,
    "n_score_samples": 4,
    "random_state": 0,
}
ESTIMATORS = [
    VAETransformer(**SMALL),
    VAEAnomalyDetector(**SMALL, n_estimators=2),
    VAEImputer(**SMALL, n_estimators=2),
]
KINDS = ["poisson", "negative_binomial", "multinomial"]

each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def counts(n: int, d: int) -> sparse.csr_array:
    """Counts of two sorts of rows, most of them zero; the last column is 0 or 1."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.2, 1.0, (2, d))[rng.integers(0, 2, n)]
    X = rng.poisson(rate).astype(float)
    X[:, -1] = X[:, -1] > 0
    return sparse.csr_array(X)


def answers(model: Any, X: Any) -> list[np.ndarray]:
    questions = ["score_samples", "elbo", "explain"]
    found = [getattr(model, question)(X) for question in questions]
    if not isinstance(model, VAEImputer):
        found.append(model.reconstruct(X))
    if isinstance(model, VAETransformer):
        found += [model.transform(X)]
    return [one.toarray() if sparse.issparse(one) else one for one in found]


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a test are gone through in several blocks, as large ones are."""
    monkeypatch.setattr(rows, "_FEW_CELLS", 0)
    monkeypatch.setattr(rows, "_KEPT_CELLS", 0)
    monkeypatch.setattr(rows, "_CELLS_PER_BLOCK", 2**12)
    for each in (completion, incomplete):
        monkeypatch.setattr(each, "MOST_ROWS", 500)
    monkeypatch.setattr(batches, "_CELLS_PER_BLOCK", 2**12)
    monkeypatch.setattr(_tables, "_BLOCK_CELLS", 2**12)
    monkeypatch.setattr(statistics, "SPARSE_SAMPLE_CELLS", 2**14)


@pytest.mark.parametrize(
    ("estimator", "kind"), list(zip(ESTIMATORS, KINDS, strict=True))
)
def test_answers_are_those_of_the_dense_table(estimator: Any, kind: str) -> None:
    X = counts(300, 6)
    weight = np.random.default_rng(1).integers(0, 3, 300)
    fits = [clone(estimator).set_params(likelihood=kind) for _ in range(2)]
    for model, table in zip(fits, (X, X.toarray()), strict=True):
        model.fit(table, sample_weight=weight)
    for own, dense in zip(*(answers(m, X) for m in fits), strict=True):
        np.testing.assert_array_equal(own, dense)
    for model, table in zip(fits, (X, X.toarray()), strict=True):
        model.partial_fit(table[:200]).partial_fit(table[200:], sample_weight=None)
    assert fits[0].loss_curve_ == fits[1].loss_curve_
    own, dense = fits[0].score_samples(X), fits[1].score_samples(X.toarray())
    np.testing.assert_array_equal(own, dense)


@pytest.mark.usefixtures("_small_blocks")
@each
def test_no_array_of_the_whole_table_is_made(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = counts(3000, 40)
    made, toarray = [0], sparse.csr_array.toarray

    def spy(self: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        made.append(self.shape[0] * self.shape[1])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_array, "toarray", spy)
    model = clone(estimator).set_params(likelihood="poisson")
    holed = X.copy()
    holed.data[::5000] = np.nan
    model.fit(X).partial_fit(X).score_samples(X)
    filled = model.impute(holed)
    if isinstance(model, VAETransformer):
        model.transform(X)
    assert filled.shape == X.shape
    cells = X.shape[0] * X.shape[1]
    assert 0 < max(made) < cells / 2


@each
def test_holes_are_imputed_as_in_the_dense_table(estimator: Any) -> None:
    X = counts(200, 5)
    model = clone(estimator).set_params(likelihood="poisson").fit(X)
    holed = X.copy()
    holed.data[::40] = np.nan
    dense = clone(model).fit(X.toarray())
    own, expected = model.impute(holed), dense.impute(holed.toarray())
    assert type(own) is type(X)
    np.testing.assert_array_equal(own.toarray(), expected)
    assert np.isnan(holed.data).any()  # the caller's table is left as it was
    draws = (
        m.impute(t, 2, random_state=0) for m, t in ((model, holed), (dense, holed))
    )
    for one, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(one.toarray(), other)
    whole = model.impute(X)
    np.testing.assert_array_equal(whole.toarray(), X.toarray())


def test_a_stream_of_sparse_batches_may_get_holes() -> None:
    X = counts(200, 5)
    holed = X.copy()
    holed.data[::40] = np.nan
    model = VAEImputer(**SMALL, likelihood="poisson", add_indicator=True)
    done = model.partial_fit(X).partial_fit(holed).transform(holed)
    flags = np.isnan(holed.toarray())
    assert sparse.issparse(done)
    np.testing.assert_array_equal(done.toarray()[:, 5:], flags[:, flags.any(axis=0)])


@pytest.mark.usefixtures("_small_blocks")
def test_a_search_makes_no_dense_table_of_a_large_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, grid = counts(3000, 20), {"n_components": [1, 2]}
    vae = VAETransformer(**SMALL, likelihood="poisson")
    stacked = VAESearchCV(vae, grid, cv=2, refit=False).fit(X)
    monkeypatch.setattr(_tries, "_MOST_CELLS", 2 * 3000 * 20 - 1)
    dense, largest = type(X).toarray, [0]

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        largest[0] = max(largest[0], self.shape[0])
        return dense(self, *args, **options)

    monkeypatch.setattr(type(X), "toarray", watched)
    with pytest.warns(UserWarning, match="a sparse table whose folds have 1.2e"):
        search = VAESearchCV(vae, grid, cv=2, refit=False).fit(X)
    assert 0 < largest[0] <= 1000  # of the 1500 rows of a fold
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"],
        stacked.cv_results_["mean_test_score"],
        rtol=1e-4,
    )
