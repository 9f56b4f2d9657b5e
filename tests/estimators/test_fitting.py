"""What each parameter of a fit does, as a user sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
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


def curved(n_rows: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """A noisy circle and its bends: what no linear model describes."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, size=n_rows)
    clean = [np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    return np.column_stack(clean) + 0.1 * rng.normal(size=(n_rows, 4))


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- objective ---------------------------------------------------------------------


def test_beta_weighs_the_kl() -> None:
    X = linear()
    fits = [
        VAETransformer(2, beta=beta, early_stopping=False, random_state=0).fit(X)
        for beta in (0.2, 1.0, 2.5)
    ]
    low, one, high = (float(fit.kl_per_component_.sum()) for fit in fits)
    assert low > one + 0.3
    assert one > high + 0.3
    # Scores are those of beta = 1 whatever training weighed.
    for fit in fits:
        reconstruction, kl = fit.elbo(X, decompose=True)
        np.testing.assert_allclose(fit.elbo(X), reconstruction - kl)
        assert (kl > 0.0).all()
    new = linear(400, seed=1)
    assert fits[1].score(new) > max(fits[0].score(new), fits[2].score(new))


def test_beta_of_zero_is_allowed(cls: type[Estimator]) -> None:
    X = linear()
    assert np.isfinite(cls(beta=0.0, max_iter=3, random_state=0).fit(X).score(X))


def test_kl_warmup_starts_with_the_reconstruction() -> None:
    # The first loss holds almost no KL, the last all of it; the draws are the same.
    X, plain = linear(), VAETransformer(2, early_stopping=False, max_iter=20)
    cold = clone(plain).set_params(random_state=0).fit(X)
    warm = clone(plain).set_params(random_state=0, kl_warmup=1.0).fit(X)
    kl = cold.kl_per_component_.sum()
    assert cold.loss_curve_[0] - warm.loss_curve_[0] > 0.8 * kl
    assert abs(cold.loss_curve_[-1] - warm.loss_curve_[-1]) < 0.5 * kl
    half = clone(plain).set_params(random_state=0, kl_warmup=0.5).fit(X)
    assert warm.loss_curve_[0] < half.loss_curve_[0] < cold.loss_curve_[0]


def test_free_bits_keep_components_in_use() -> None:
    X = np.random.default_rng(0).normal(size=(200, 3))
    plain = VAETransformer(2, start="random", beta=2.0, early_stopping=False)
    plain.set_params(random_state=0, max_iter=60, learning_rate_init=0.01)
    with pytest.warns(ConvergenceWarning, match="set free_bits"):
        collapsed = clone(plain).fit(X)
    assert collapsed.n_active_components_ == 0
    assert (collapsed.kl_per_component_ < 0.1).all()
    kept = clone(plain).set_params(free_bits=0.5).fit(X)
    assert kept.n_active_components_ == 2
    assert (kept.kl_per_component_ > 0.3).all()


def test_importance_samples_tighten_the_bound() -> None:
    # Of one model, which a learning rate of nearly nothing leaves as it starts.
    X = curved()
    fits = [
        VAETransformer(1, n_importance_samples=k, start="random", random_state=0)
        .set_params(early_stopping=False, max_iter=1, learning_rate_init=1e-12)
        .fit(X)
        for k in (1, 16)
    ]
    np.testing.assert_allclose(fits[0].transform(X), fits[1].transform(X), atol=1e-6)
    # A loss is minus a lower bound of the log-likelihood.
    bounds = [-fit.loss_curve_[0] for fit in fits]
    assert bounds[0] + 0.01 < bounds[1] < fits[1].score(X) + 0.01


def test_importance_weighted_training_learns(cls: type[Estimator]) -> None:
    X = curved()
    estimator = cls(n_components=1, n_importance_samples=8, start="random")
    estimator.set_params(early_stopping=False, max_iter=15, random_state=0).fit(X)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0] - 0.2


def networks(vae: Estimator) -> NDArray[np.float64]:
    """The penalised weights of the networks."""
    params = vae._model.params
    mask = params.mask(lambda name: ".weight" in name or "head" in name)
    return np.asarray(params.flat[mask.expand_as(params.flat) > 0])


def test_alpha_shrinks_the_networks_and_l1_empties_them() -> None:
    X, plain = curved(), VAETransformer(1, early_stopping=False, max_iter=30)
    plain.set_params(random_state=0)
    free, l2, l1 = (
        networks(clone(plain).set_params(alpha=alpha, l1_ratio=ratio).fit(X))
        for alpha, ratio in ((0.0, 0.0), (3.0, 0.0), (0.3, 1.0))
    )
    assert np.abs(l2).mean() < 0.8 * np.abs(free).mean()
    assert 0.1 < (l1 == 0.0).mean() < 0.9
    assert (l2 == 0.0).mean() < 0.01


def test_a_strong_penalty_leaves_the_linear_model() -> None:
    X = curved()
    vae = VAETransformer(2, alpha=1e3, l1_ratio=1.0, early_stopping=False)
    vae.set_params(random_state=0, max_iter=5).fit(X)
    a, b = X[:50], X[50:100]
    middle = 0.5 * (vae.transform(a) + vae.transform(b))
    np.testing.assert_allclose(vae.transform(0.5 * (a + b)), middle, atol=1e-9)


# -- networks and noise ------------------------------------------------------------


def test_dropout_is_for_training_only(cls: type[Estimator]) -> None:
    X = curved(100)
    plain = cls(early_stopping=False, max_iter=5, random_state=0)
    with_dropout = clone(plain).set_params(dropout=0.5).fit(X)
    np.testing.assert_array_equal(with_dropout.transform(X), with_dropout.transform(X))
    again = clone(plain).set_params(dropout=0.5).fit(X)
    np.testing.assert_array_equal(with_dropout.transform(X), again.transform(X))
    assert with_dropout.loss_curve_ != clone(plain).fit(X).loss_curve_


@pytest.mark.parametrize(
    "activation", ["relu", "silu", "gelu", "elu", "tanh", "softplus", "logistic"]
)
def test_activations_learn_a_curve(activation: str) -> None:
    X = curved()
    vae = VAETransformer(1, activation=activation, early_stopping=False)
    vae.set_params(random_state=0, max_iter=40, learning_rate_init=0.01).fit(X)
    assert vae.score(X) > PCA(1).fit(X).score(X) + 0.2


@pytest.mark.parametrize("table", [linear(), load_wine().data], ids=["linear", "wine"])
@pytest.mark.parametrize("k", [1, 3])
def test_shared_noise_without_networks_is_probabilistic_pca(
    table: NDArray[np.float64], k: int
) -> None:
    vae = VAETransformer(k, noise="shared", hidden_layer_sizes=()).fit(table)
    pca = PCA(k).fit(table)
    assert isinstance(vae.noise_variance_, float)
    assert vae.noise_variance_ == pytest.approx(pca.noise_variance_, rel=1e-6)
    np.testing.assert_allclose(
        vae.score_samples(table), pca.score_samples(table), rtol=1e-6
    )


def test_column_noise_without_networks_is_factor_analysis() -> None:
    X = linear(400)
    vae = VAETransformer(2, noise="column", hidden_layer_sizes=()).fit(X)
    analysis = FactorAnalysis(2, tol=1e-10, max_iter=5000).fit(X)
    # Up to the divisor of the covariance, n or n - 1.
    np.testing.assert_allclose(vae.noise_variance_, analysis.noise_variance_, rtol=3e-3)
    np.testing.assert_allclose(
        vae.score_samples(X), analysis.score_samples(X), rtol=3e-3
    )


def test_network_noise_follows_the_code() -> None:
    # The spread of the second column depends on the first: one noise cannot tell.
    rng = np.random.default_rng(0)
    code = rng.normal(size=600)
    spread = np.where(code > 0.0, 1.0, 0.05)
    X = np.column_stack([code, code, spread * rng.normal(size=600)])
    X[:, :2] += 0.05 * rng.normal(size=(600, 2))
    scores = {}
    for noise in ("column", "network"):
        vae = VAETransformer(1, noise=noise, random_state=0, learning_rate_init=0.005)
        scores[noise] = vae.fit(X).score(X)
        assert vae.noise_variance_.shape == (3,)
    assert scores["network"] > scores["column"] + 0.3


def test_random_start_finds_the_linear_solution_too() -> None:
    X = linear(400)
    scores = [
        VAETransformer(2, start=start, random_state=0, learning_rate_init=0.01)
        .fit(X)
        .score(X)
        for start in ("linear", "random")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.25)


# -- plain auto-encoders -----------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "k", "params"),
    [
        (load_wine, 3, {}),
        (load_digits, 8, {"max_iter": 20}),
        (load_digits, 8, {"hidden_layer_sizes": ()}),
    ],
    ids=["wine", "digits", "digits, linear"],
)
def test_plain_autoencoder_reconstructs_as_well_as_pca(
    load: Any, k: int, params: dict[str, Any]
) -> None:
    X = StandardScaler().fit_transform(load().data)
    vae = VAETransformer(k, variational=False, random_state=0, **params).fit(X)
    pca = PCA(k).fit(X)
    least = np.mean((X - pca.inverse_transform(pca.transform(X))) ** 2)
    error = np.mean((X - vae.reconstruct(X)) ** 2)
    assert error <= least * (1.0 + 1e-6)
    if load is load_digits and vae.get_params()["hidden_layer_sizes"] == "auto":
        assert error < 0.7 * least
    np.testing.assert_allclose(
        vae.inverse_transform(vae.transform(X)), vae.reconstruct(X), atol=1e-9
    )


def test_plain_autoencoder_is_a_density_after_training() -> None:
    X = StandardScaler().fit_transform(load_wine().data)
    vae = VAETransformer(3, variational=False, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    # It knows its table: permuted columns are less likely, and samples resemble it.
    rng = np.random.default_rng(0)
    assert vae.score(X) > vae.score(rng.permuted(X, axis=0)) + 1.0
    sample = vae.sample(4000, random_state=0)
    np.testing.assert_allclose(sample.mean(axis=0), 0.0, atol=0.15)
    np.testing.assert_allclose(np.cov(sample.T), np.cov(X.T), atol=0.35)


# -- how long ----------------------------------------------------------------------


def test_max_iter_counts_passes(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(max_iter=7, early_stopping=False, random_state=0).fit(X)
    assert estimator.n_iter_ == 7
    assert len(estimator.loss_curve_) == 7
    assert np.isfinite(estimator.loss_curve_).all()


def test_max_time_ends_training_at_the_end_of_a_pass(cls: type[Estimator]) -> None:
    # A time that is over at once; any clock will do.
    X = linear()
    estimator = cls(max_time=1e-12, max_iter=50, random_state=0).fit(X)
    assert estimator.n_iter_ == 1
    assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize("early_stopping", [True, False, "auto"])
def test_early_stopping_holds_rows_out(
    cls: type[Estimator], early_stopping: bool | str
) -> None:
    X = linear()
    estimator = cls(early_stopping=early_stopping, max_iter=4, random_state=0).fit(X)
    looks = estimator.validation_scores_
    if early_stopping is False:
        assert looks == []
        assert estimator.best_validation_score_ is None
    else:
        assert len(looks) >= 2
        # Never worse than the start, which is the first look.
        assert looks[0] <= estimator.best_validation_score_ <= max(looks) + 1e-9


def test_automatic_early_stopping_needs_fifty_rows(cls: type[Estimator]) -> None:
    estimator = cls(max_iter=2, random_state=0)
    assert estimator.fit(linear(49)).validation_scores_ == []
    assert estimator.fit(linear(50)).validation_scores_ != []


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.99])
def test_any_share_of_few_rows_may_be_held_out(
    cls: type[Estimator], fraction: float
) -> None:
    estimator = cls(early_stopping=True, validation_fraction=fraction, max_iter=2)
    X = linear(10)
    assert np.isfinite(estimator.set_params(random_state=0).fit(X).score(X))


def test_early_stopping_waits_n_iter_no_change_looks() -> None:
    # A gain that never comes: one look at the start, then as many as it waits.
    X, plain = linear(200), VAETransformer(2, tol=1e9, max_iter=500, random_state=0)
    for patience in (1, 4):
        vae = clone(plain).set_params(n_iter_no_change=patience).fit(X)
        assert len(vae.validation_scores_) == 1 + patience
        assert vae.n_iter_ < 500


def test_rows_held_out_calibrate_the_detector() -> None:
    # The least p-value is 1 / (rows held out + 1).
    X = linear()
    for fraction, held_out in ((0.1, 12), (0.5, 60)):
        detector = VAEAnomalyDetector(validation_fraction=fraction, max_iter=2)
        detector.set_params(random_state=0).fit(X)
        far = np.full((1, 6), 1e3)
        assert detector.p_values(far)[0] == pytest.approx(1.0 / (held_out + 1))


def test_validation_rows_of_the_user(cls: type[Estimator]) -> None:
    X, X_val = linear(), linear(40, seed=1)
    estimator = cls(max_iter=4, random_state=0)
    own = clone(estimator).fit(X, X_val=X_val)
    assert len(own.validation_scores_) >= 2
    assert own.validation_scores_ != clone(estimator).fit(X).validation_scores_
    # They are used where nothing else is held out, and as a frame.
    columns = list("abcdef")
    off = clone(estimator).set_params(early_stopping=False)
    framed = clone(off).fit(
        pd.DataFrame(X, columns=columns), X_val=pd.DataFrame(X_val, columns=columns)
    )
    assert framed.validation_scores_ == off.fit(X, X_val=X_val).validation_scores_
    # In units of X: the start is the closed form, whose score is known.
    assert own.validation_scores_[0] == pytest.approx(
        FactorAnalysis(own.n_components_).fit(X).score(X_val), abs=3.0
    )


def test_batch_size_may_exceed_the_rows(cls: type[Estimator]) -> None:
    X = linear(30)
    estimator = cls(batch_size=10_000, max_iter=2, random_state=0).fit(X)
    assert np.isfinite(estimator.score(X))


# -- going on ----------------------------------------------------------------------


def test_warm_start_goes_on(cls: type[Estimator]) -> None:
    X = curved()
    estimator = cls(1, warm_start=True) if cls is VAETransformer else cls()
    estimator.set_params(
        n_components=1, warm_start=True, start="random", early_stopping=False
    )
    estimator.set_params(max_iter=10, random_state=0, learning_rate="constant").fit(X)
    first, likelihood = list(estimator.loss_curve_), estimator.likelihood_
    estimator.fit(X)
    second = estimator.loss_curve_[-10:]
    assert second[0] < first[0] - 0.2
    assert second[-1] < first[-1]
    assert estimator.likelihood_ == likelihood
    cold = clone(estimator).set_params(warm_start=False).fit(X).fit(X)
    assert cold.loss_curve_ == first


def test_warm_start_keeps_the_scaling(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(warm_start=True, max_iter=1, random_state=0).fit(X)
    columns = estimator._schema.columns
    estimator.fit(100.0 * X)
    assert estimator._schema.columns == columns
    estimator.set_params(warm_start=False).fit(100.0 * X)
    assert estimator._schema.columns != columns


def test_partial_fit_learns_from_a_stream() -> None:
    # Each call sees rows that no other call sees.
    test = curved(500, seed=99)
    vae = VAETransformer(1, start="random", random_state=0, learning_rate_init=0.01)
    scores = []
    for block in range(20):
        vae.partial_fit(curved(500, seed=block))
        scores.append(vae.score(test))
        assert vae.n_iter_ == len(vae.loss_curve_) == block + 1
    assert scores[-1] > scores[0] + 0.3
    assert scores[-1] > PCA(1).fit(test).score(test) + 0.3
    assert vae.validation_scores_ == []


def test_partial_fit_is_repeatable(cls: type[Estimator]) -> None:
    X = linear()
    first, second = cls(random_state=0), cls(random_state=0)
    for estimator in (first, second):
        estimator.partial_fit(X[:60]).partial_fit(X[60:])
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))


def test_first_partial_fit_settles_the_scaling(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(random_state=0).partial_fit(X)
    columns, k = estimator._schema.columns, estimator.n_components_
    estimator.partial_fit(100.0 + 3.0 * X)
    assert estimator._schema.columns == columns
    assert estimator.n_components_ == k
    with pytest.raises(ValueError, match="X has 5 features.*expecting 6 features"):
        estimator.partial_fit(X[:, :5])


def test_fit_forgets_an_earlier_stream(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(n_components=2, random_state=0, max_iter=2).partial_fit(X)
    estimator.set_params(n_components=1).fit(X)
    fresh = clone(estimator).fit(X)
    np.testing.assert_array_equal(estimator.score_samples(X), fresh.score_samples(X))
    # Nor does a later stream take up the optimiser of the first one.
    for each in (estimator, fresh):
        each.partial_fit(X)
    np.testing.assert_array_equal(estimator.score_samples(X), fresh.score_samples(X))


def test_partial_fit_after_fit_goes_on(cls: type[Estimator]) -> None:
    X = linear()
    estimator = cls(random_state=0, max_iter=3, early_stopping=False).fit(X)
    losses = list(estimator.loss_curve_)
    estimator.partial_fit(X)
    assert estimator.n_iter_ == 4
    assert estimator.loss_curve_[:3] == losses


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
    np.testing.assert_allclose(
        weighted.score_samples(X), repeated.score_samples(X), rtol=0.01
    )
    # Weights tell what counts how much, not how much there is.
    for factor in (1e-3, 1e3):
        scaled = clone(vae).fit(X, sample_weight=factor * weight)
        np.testing.assert_allclose(
            scaled.score_samples(X), weighted.score_samples(X), rtol=0.01
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
        with pytest.raises(ValueError, match="sample_weight.*not explicitly set"):
            forgotten.fit(X, sample_weight=weight)
    direct = estimator.fit(X, sample_weight=weight)
    np.testing.assert_array_equal(
        pipeline[-1].score_samples(X), direct.score_samples(X)
    )
    assert (direct.score_samples(X) != clone(direct).fit(X).score_samples(X)).any()


# -- shown -------------------------------------------------------------------------


@pytest.fixture
def framed(cls: type[Estimator]) -> Iterator[tuple[Pipeline, pd.DataFrame]]:
    frame = pd.DataFrame(linear(), columns=list("abcdef"), index=np.arange(120) + 7)
    yield make_pipeline(StandardScaler(), cls(n_components=2, max_iter=2)), frame


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
        assert line.startswith(f"[{cls.__name__}] pass {i + 1} of at most 3: loss ")
        assert "nats a row" in line
    shown = float(lines[-1].split("loss ")[1].split(" nats")[0])
    assert shown == pytest.approx(estimator.loss_curve_[-1], abs=1e-4)
