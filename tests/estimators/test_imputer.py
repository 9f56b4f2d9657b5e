"""VAEImputer as scikit-learn's imputers are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import skvae
from skvae import VAEImputer, VAETransformer

SMALL: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


def wine(share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """The table, whole and with holes."""
    X = load_wine().data
    hole = np.random.default_rng(0).random(X.shape) < share
    return X, np.where(hole, np.nan, X)


def frame() -> pd.DataFrame:
    _, X = wine()
    town = np.where(load_wine().target == 0, "Bonn", "Ulm").astype(object)
    town[::7] = None
    return pd.DataFrame(X[:, :3], columns=["a", "b", "c"]).assign(
        town=town, n=range(178)
    )


def test_transform_completes_better_than_the_mean() -> None:
    X, holed = wine()
    done = VAEImputer(random_state=0).fit_transform(holed)
    hole = np.isnan(holed)
    assert done[~hole].tobytes() == X[~hole].tobytes()
    own, mean = (
        np.sqrt((((filled - X) / X.std(0))[hole] ** 2).mean())
        for filled in (done, SimpleImputer().fit_transform(holed))
    )
    assert own < 0.8 * mean


def test_rows_not_seen_in_fit_are_completed_like_impute() -> None:
    _, holed = wine()
    model = VAEImputer(**SMALL).fit(holed[:100])
    done = model.transform(holed[100:])
    np.testing.assert_array_equal(done, model.impute(holed[100:]))
    np.testing.assert_allclose(done[3:4], model.transform(holed[103:104]), rtol=1e-9)
    with pytest.raises(NotFittedError):
        VAEImputer().transform(holed)


def test_the_model_is_that_of_the_transformer_with_defaults_of_its_own() -> None:
    _, holed = wine()
    shared: dict[str, Any] = {**SMALL, "n_components": 3, "noise": "column"}
    shared |= {"learning_rate_init": 0.01, "alpha": 0.0, "prior": "aggregate"}
    done = VAEImputer(n_estimators=1, **shared).fit_transform(holed)
    same = VAETransformer(**shared).fit(holed)
    np.testing.assert_array_equal(done, same.impute(holed))


def test_members_that_agree_are_one() -> None:
    # Without hidden layers all members are the closed form, and differ in no hole.
    _, holed = wine()
    linear: dict[str, Any] = {"hidden_layer_sizes": (), "n_components": 3}
    one, three = (
        VAEImputer(n_estimators=n, **linear, random_state=0).fit_transform(holed)
        for n in (1, 3)
    )
    np.testing.assert_allclose(three, one, rtol=1e-6)


def test_indicators_are_those_of_scikit_learn() -> None:
    X, holed = wine()
    holed[:, [1, 4]] = X[:, [1, 4]]
    ours = VAEImputer(**SMALL, add_indicator=True).fit(holed[:90])
    theirs = SimpleImputer(add_indicator=True).fit(holed[:90])
    done = ours.transform(holed)
    np.testing.assert_array_equal(done[:, 13:], theirs.transform(holed)[:, 13:])
    assert ours.indicator_features_.tolist() == [0, 2, 3, *range(5, 13)]
    for names in (None, [f"w{j}" for j in range(13)]):
        assert (
            ours.get_feature_names_out(names).tolist()
            == theirs.get_feature_names_out(names).tolist()
        )


def test_indicators_are_those_of_rows_beyond_the_ones_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, _ = wine()
    X[5, 2] = X[170, 7] = np.nan
    monkeypatch.setattr(VAEImputer, "_used", lambda *_, **__: np.arange(20, 160))
    model = VAEImputer(**SMALL, add_indicator=True).fit(X)
    assert model.indicator_features_.tolist() == [2, 7]
    assert model.transform(X)[:, 13:].sum(0).tolist() == [1.0, 1.0]


def test_indicators_of_a_stream_are_those_of_all_its_batches() -> None:
    X, _ = wine()
    batches = X[:60].copy(), X[60:120].copy(), X[120:]
    batches[0][3, 2] = batches[1][5, 7] = np.nan
    model = VAEImputer(**SMALL, add_indicator=True)
    for batch in batches:
        model.partial_fit(batch)
    assert model.indicator_features_.tolist() == [2, 7]
    flags = model.transform(batches[0])[:, 13:]
    assert flags.sum(0).tolist() == [1.0, 0.0]
    assert model.fit(batches[1]).indicator_features_.tolist() == [7]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_come_back_with_indicators(library: str) -> None:
    table: Any = frame() if library == "pandas" else pl.from_pandas(frame())
    model = VAEImputer(**SMALL, add_indicator=True).fit(table)
    done = model.transform(table)
    names = [
        *table.columns,
        *(f"missingindicator_{c}" for c in ["a", "b", "c", "town"]),
    ]
    assert list(done.columns) == names == model.get_feature_names_out().tolist()
    assert list(done.dtypes)[:5] == list(table.dtypes)
    rows = done if library == "pandas" else done.to_pandas()
    assert not rows.isna().any(axis=None)
    np.testing.assert_array_equal(
        rows[names[5:]], frame()[["a", "b", "c", "town"]].isna()
    )


@pytest.mark.parametrize("output", ["pandas", "polars"])
@pytest.mark.parametrize("add_indicator", [False, True])
def test_set_output_names_the_columns(output: str, add_indicator: bool) -> None:
    _, holed = wine()
    model = VAEImputer(**SMALL, add_indicator=add_indicator)
    plain = model.fit_transform(holed)
    done = clone(model).set_output(transform=output).fit_transform(holed)
    assert type(done).__module__.startswith(output)
    assert list(done.columns) == model.get_feature_names_out().tolist()
    np.testing.assert_array_equal(done.to_numpy(), plain)


def test_set_output_keeps_the_columns_of_a_frame() -> None:
    model = VAEImputer(**SMALL).set_output(transform="pandas")
    done = model.fit_transform(frame())
    pd.testing.assert_series_equal(done.dtypes, frame().dtypes)
    pd.testing.assert_frame_equal(
        done, VAEImputer(**SMALL).fit(frame()).impute(frame())
    )


def test_step_of_a_pipeline_and_its_search() -> None:
    X, holed = wine(0.1)
    steps = make_pipeline(VAEImputer(**SMALL, n_components=2), LinearRegression())
    scores = cross_val_score(steps, holed[:, :-1], X[:, -1], cv=3)
    assert np.isfinite(scores).all()
    fitted = steps.fit(holed[:, :-1], X[:, -1])
    assert fitted.score(holed[:, :-1], X[:, -1]) > 0.5


def test_saved_imputer_completes_alike(tmp_path: Path) -> None:
    model = VAEImputer(**SMALL, add_indicator=True).fit(frame())
    model.save(tmp_path / "imputer.skvae")
    again = skvae.load(tmp_path / "imputer.skvae")
    assert isinstance(again, VAEImputer)
    pd.testing.assert_frame_equal(again.transform(frame()), model.transform(frame()))


def test_whole_table_is_left_as_it_is() -> None:
    X, holed = wine()
    model = VAEImputer(**SMALL, add_indicator=True).fit(X)
    assert model.indicator_features_.tolist() == []
    assert model.transform(X).tobytes() == X.tobytes()
    assert np.isfinite(model.transform(holed)).all()


def test_text_alone_is_completed_by_the_likelier_level() -> None:
    rng = np.random.default_rng(0)
    side = rng.random(200) < 0.5
    table = np.where(side[:, None], ["x", "u"], ["y", "v"]).astype(object)
    table[::10, 1] = None
    done = VAEImputer(1, random_state=0).fit_transform(table)
    assert (done[:, 1] == np.where(side, "u", "v")).all()


# -- sparse tables ---------------------------------------------------------------------

FORMATS = [
    scipy.sparse.csr_array,
    scipy.sparse.csr_matrix,
    scipy.sparse.csc_array,
]
COUNTS = np.random.default_rng(0).poisson([0.3, 1.0, 4.0, 0.1, 2.0], (50, 5))


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("kind", ["poisson", "negative_binomial", "multinomial"])
def test_sparse_counts_are_those_of_the_dense_table(kind: str, make: Any) -> None:
    table = make(COUNTS)
    model = VAETransformer(**SMALL, likelihood=kind)
    assert model.__sklearn_tags__().input_tags.sparse
    dense = clone(model).fit(COUNTS)
    model.fit(table)
    assert model.loss_curve_ == dense.loss_curve_
    for name in ("score_samples", "transform", "explain"):
        np.testing.assert_array_equal(
            getattr(model, name)(table), getattr(dense, name)(COUNTS)
        )
    drawn = model.sample(30, random_state=0)
    assert type(drawn) is make
    assert drawn.dtype == COUNTS.dtype
    np.testing.assert_array_equal(drawn.toarray(), dense.sample(30, random_state=0))
    assert drawn.min() >= 0
    np.testing.assert_array_equal(
        model.reconstruct(table).toarray(), dense.reconstruct(COUNTS)
    )
    model.partial_fit(table)


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", {0: "poisson", 1: "auto"}])
def test_sparse_tables_of_anything_else_are_refused(likelihood: Any) -> None:
    model = VAETransformer(**SMALL, likelihood=likelihood)
    assert not model.__sklearn_tags__().input_tags.sparse
    for table in (COUNTS, COUNTS > 0):
        with pytest.raises(TypeError, match="Sparse data was passed"):
            model.fit(scipy.sparse.csr_array(table))
    halves = scipy.sparse.csr_array(COUNTS / 2.0)
    with pytest.raises(ValueError, match=r"poisson column.*column 0 holds such values"):
        VAETransformer(likelihood="poisson").fit(halves)
    fitted = VAETransformer(**SMALL).fit(COUNTS)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        fitted.score_samples(scipy.sparse.csr_array(COUNTS))
