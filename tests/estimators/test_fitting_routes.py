"""Weights, and what a fit shows: frames, HTML and lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def linear(n_rows: int = 120, seed: int = 0) -> NDArray[np.float64]:
    """Two factors in six columns; the seed changes the rows, not the model."""
    loadings = np.random.default_rng(5).normal(size=(2, 6))
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 6))


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- weights -----------------------------------------------------------------------


def test_rows_of_weight_zero_are_not_there(cls: type[Estimator]) -> None:
    X = linear()
    weight = np.ones(120)
    weight[::3] = 0.0
    polluted = X.copy()
    polluted[::3] = 1e6
    weighted = cls(random_state=0, max_iter=3).fit(polluted, sample_weight=weight)
    without = cls(random_state=0, max_iter=3).fit(X[weight > 0.0])
    np.testing.assert_allclose(
        weighted.score_samples(X), without.score_samples(X), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("noise", ["shared", "column"])
def test_weights_of_a_closed_form_are_repeated_rows(noise: str) -> None:
    X, weight = linear(), np.arange(120) % 3 + 1
    vae = VAETransformer(2, noise=noise, hidden_layer_sizes=())
    weighted = clone(vae).fit(X, sample_weight=weight)
    repeated = clone(vae).fit(np.repeat(X, weight, axis=0))
    # Up to the divisor of the covariance.
    np.testing.assert_allclose(
        weighted.score_samples(X), repeated.score_samples(X), rtol=0.02
    )
    # Weights tell what counts how much, not how much there is.
    for factor in (1e-3, 1e3):
        scaled = clone(vae).fit(X, sample_weight=factor * weight)
        np.testing.assert_allclose(
            scaled.score_samples(X), weighted.score_samples(X), rtol=0.02
        )


def test_weights_move_the_density(cls: type[Estimator]) -> None:
    # Two clouds; the model is asked to care for one of them.
    X = linear()
    X[60:] += 4.0
    weight = np.where(np.arange(120) < 60, 1.0, 0.02)
    plain = cls(random_state=0).fit(X)
    weighted = clone(plain).fit(X, sample_weight=weight)
    assert weighted.score(X[:60]) > plain.score(X[:60]) + 0.5
    assert weighted.score(X[60:]) < plain.score(X[60:])


def test_weights_are_routed_through_a_pipeline(cls: type[Estimator]) -> None:
    X, weight = linear(), np.linspace(0.1, 2.0, 120)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = cls(random_state=0, max_iter=3)
        pipeline = make_pipeline(
            FunctionTransformer(), clone(estimator).set_fit_request(sample_weight=True)
        ).fit(X, sample_weight=weight)
        forgotten = make_pipeline(FunctionTransformer(), clone(estimator))
        with pytest.raises(ValueError, match=r"sample_weight.*not explicitly set"):
            forgotten.fit(X, sample_weight=weight)
    direct = estimator.fit(X, sample_weight=weight)
    np.testing.assert_array_equal(
        pipeline[-1].score_samples(X), direct.score_samples(X)
    )
    assert (direct.score_samples(X) != clone(direct).fit(X).score_samples(X)).any()


# -- shown -------------------------------------------------------------------------


@pytest.fixture
def framed(cls: type[Estimator]) -> tuple[Pipeline, pd.DataFrame]:
    frame = pd.DataFrame(linear(), columns=list("abcdef"), index=np.arange(120) + 7)
    return make_pipeline(StandardScaler(), cls(n_components=2, max_iter=2)), frame


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output_names_the_components(
    framed: tuple[Pipeline, pd.DataFrame], library: str
) -> None:
    pipeline, frame = framed
    X = frame if library == "pandas" else pl.from_pandas(frame)
    pipeline.set_output(transform=library).fit(X)
    codes = pipeline.transform(X)
    assert type(codes) is type(X)
    stem = type(pipeline[-1]).__name__.lower()
    assert list(codes.columns) == [f"{stem}0", f"{stem}1"]
    assert list(pipeline.get_feature_names_out()) == list(codes.columns)
    if library == "pandas":
        assert list(codes.index) == list(frame.index)
    # Codes in a frame are codes still.
    rows = pipeline[-1].inverse_transform(codes)
    assert type(rows) is type(X)


def test_fit_transform_is_fit_then_transform(cls: type[Estimator]) -> None:
    X = linear()
    at_once = cls(random_state=0, max_iter=3).fit_transform(X)
    later = cls(random_state=0, max_iter=3).fit(X).transform(X)
    np.testing.assert_array_equal(at_once, later)


def test_html_shows_parameters_and_their_meaning(cls: type[Estimator]) -> None:
    estimator = cls(beta=2.5, random_state=0, max_iter=1)
    page = estimator._repr_html_()
    assert cls.__name__ in page
    assert "beta" in page
    assert "2.5" in page
    fitted = estimator.fit(linear())._repr_html_()
    assert "skvae" in fitted
    assert f"{cls.__name__}.html" in fitted, "the link to the documentation"
    # scikit-learn 1.9 shows what each parameter means, from the docstring.
    if "param-doc-description" in page:
        assert "Weight of the KL divergence in training" in page
        assert "n_active_components_" in fitted


def test_verbose_prints_lines_and_silence_is_the_default(
    cls: type[Estimator], capsys: pytest.CaptureFixture[str]
) -> None:
    X = linear()
    estimator = cls(max_iter=3, random_state=0).fit(X)
    estimator.partial_fit(X)
    silence = capsys.readouterr()
    assert silence.out == ""
    assert silence.err == ""
    estimator.set_params(verbose=1).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines):
        assert line.startswith(f"[{cls.__name__}] pass {i + 1} of at most 3 ")
        assert "(analytic gradient): loss " in line
        assert "nats a row" in line
    shown = float(lines[-1].split("loss ")[1].split(" nats")[0])
    assert shown == pytest.approx(estimator.loss_curve_[-1], abs=1e-4)


@pytest.mark.parametrize("max_iter", [3, 100])
def test_verbose_tells_of_a_fit_without_a_pass(
    max_iter: int, cls: type[Estimator], capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"hidden_layer_sizes": (), "start": "linear", "likelihood": "gaussian"}
    if cls is VAEAnomalyDetector:  # leaves no rows out
        params["novelty"] = True
    estimator = cls(max_iter=max_iter, verbose=1, random_state=0, **params)
    estimator.set_params(noise="column", early_stopping=False).fit(linear())
    assert estimator.loss_curve_ == []
    told = capsys.readouterr().out
    assert told == f"[{cls.__name__}] no pass: the linear start is kept\n"
