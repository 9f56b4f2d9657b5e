"""What must hold of every fitted model: determinism, units, mass, limits."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.inference.scoring import SCORES

# Models of columns that nearly follow from others say so; that is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ESTIMATORS = {"transformer": VAETransformer, "detector": VAEAnomalyDetector}
estimators = pytest.mark.parametrize("kind", ESTIMATORS)

LOADERS: dict[str, Callable[[], Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
}
REAL = ["wine", "breast_cancer"]
real = pytest.mark.parametrize("name", REAL)


@cache
def table(name: str) -> np.ndarray:
    X = LOADERS[name]().data.astype(float)
    X.flags.writeable = False
    return X


def standardised(name: str) -> np.ndarray:
    X = table(name)
    return (X - X.mean(0)) / X.std(0)


def odd_table(n: int = 120) -> np.ndarray:
    """Real, binary, constant and whole-numbered columns."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=n)
    return np.column_stack(
        [
            factor + 0.3 * rng.normal(size=n),
            factor > rng.normal(size=n),
            np.full(n, 7.0),
            rng.poisson(5.0, n),
            np.exp(factor),
        ]
    ).astype(float)


@cache
def fitted(kind: str, name: str, **params: Any) -> Any:
    X = odd_table() if name == "odd" else table(name)
    # A few passes: what is tested holds of any parameters, and these are not the
    # closed form's.
    given = {"random_state": 0, "max_iter": 8, "start": "random", **params}
    return ESTIMATORS[kind](early_stopping=False, **given).fit(X)


# -- (a) determinism -------------------------------------------------------------------

ANSWERS = ["transform", "score_samples", "explain", "reconstruct"]


@estimators
@real
@pytest.mark.parametrize("answer", ANSWERS)
def test_row_is_answered_for_itself(kind: str, name: str, answer: str) -> None:
    X, ask = table(name), getattr(fitted(kind, name), answer)
    whole = ask(X)
    np.testing.assert_array_equal(ask(X), whole)
    order = np.random.default_rng(0).permutation(len(X))
    # columns of very different size: to 1e-9 of their own
    exact = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(ask(X[order]), whole[order], **exact)
    for part in ([3], [len(X) - 1, 0], list(range(20, 101))):
        np.testing.assert_allclose(ask(X[part]), whole[part], **exact)
    np.testing.assert_allclose(ask(np.asfortranarray(X)), whole, **exact)


@estimators
def test_means_that_fill_holes_are_the_rows_own(kind: str) -> None:
    X = table("wine").copy()
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    ask = fitted(kind, "wine").impute
    whole, order = ask(X), np.random.default_rng(1).permutation(len(X))
    np.testing.assert_array_equal(ask(X), whole)
    np.testing.assert_allclose(ask(X[order]), whole[order], rtol=1e-9)
    np.testing.assert_allclose(ask(X[:1]), whole[:1], rtol=1e-9)


@estimators
@pytest.mark.parametrize("params", [{}, {"dropout": 0.2, "n_importance_samples": 3}])
def test_same_random_state_fits_the_same_model(
    kind: str, params: dict[str, Any]
) -> None:
    X, cls = table("wine"), ESTIMATORS[kind]
    first, again, other = (
        cls(random_state=seed, start="random", max_iter=5, **params).fit(X)
        for seed in (3, 3, 4)
    )
    for answer in ANSWERS:
        np.testing.assert_array_equal(
            getattr(first, answer)(X), getattr(again, answer)(X)
        )
    assert first.loss_curve_ == again.loss_curve_
    assert not np.allclose(first.score_samples(X), other.score_samples(X))


@estimators
def test_random_state_instance_is_drawn_from(kind: str) -> None:
    X, cls = table("wine"), ESTIMATORS[kind]

    def fit_twice() -> list[np.ndarray]:
        state = np.random.RandomState(5)
        model = cls(random_state=state, start="random", max_iter=2)
        return [model.fit(X).score_samples(X) for _ in range(2)]

    first, second = fit_twice()
    np.testing.assert_array_equal(fit_twice()[0], first)
    assert not np.allclose(first, second)


@estimators
@pytest.mark.parametrize("random_state", [0, None])
def test_global_states_are_left_alone(kind: str, random_state: int | None) -> None:
    def states() -> list[bytes]:
        return [
            pickle.dumps(np.random.get_state()),  # noqa: NPY002
            pickle.dumps(random.getstate()),
            torch.get_rng_state().numpy().tobytes(),
        ]

    before, X = states(), table("iris")
    holes = X.copy()
    holes[::3, 1] = np.nan
    model = ESTIMATORS[kind](random_state=random_state, max_iter=2, dropout=0.1)
    assert states() == before
    steps: list[Callable[[], Any]] = [
        lambda: model.fit(X),
        lambda: model.partial_fit(X),
        lambda: model.score(X),
        lambda: model.explain(X),
        lambda: model.sample(5, random_state=random_state),
        lambda: model.impute(holes, random_state=random_state),
        lambda: model.impute(holes, n_imputations=2, random_state=random_state),
    ]
    for step in steps:
        step()
        assert states() == before


@estimators
def test_global_seed_has_no_say(kind: str) -> None:
    X, scores = table("iris"), []
    saved = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            model = ESTIMATORS[kind](random_state=0, start="random", max_iter=2)
            scores.append(model.fit(X).score_samples(X))
    np.random.set_state(saved)  # noqa: NPY002
    np.testing.assert_array_equal(*scores)


def test_without_a_random_state_fits_differ() -> None:
    X = table("iris")
    first, second = (
        VAETransformer(start="random", max_iter=1).fit(X).score_samples(X)
        for _ in range(2)
    )
    assert not np.allclose(first, second)


# -- (b) units and sums ----------------------------------------------------------------


@estimators
@pytest.mark.parametrize(
    ("name", "factor"),
    [("iris", 10.0), ("iris", 1e-3), ("wine", 10.0), ("breast_cancer", 10.0)],
)
def test_score_is_a_density_in_the_units_of_the_table(
    kind: str, name: str, factor: float
) -> None:
    X, cls = table(name), ESTIMATORS[kind]
    own = cls(random_state=0).fit(X).score(X)
    scaled = cls(random_state=0).fit(factor * X).score(factor * X)
    assert scaled + X.shape[1] * np.log(factor) == pytest.approx(own, abs=0.02)


@estimators
def test_score_moves_with_each_columns_unit(kind: str) -> None:
    X = table("wine")
    factor = 10.0 ** np.random.default_rng(0).uniform(-6, 6, X.shape[1])
    shift = np.random.default_rng(1).normal(size=X.shape[1]) * X.std(0)
    own = ESTIMATORS[kind](random_state=0).fit(X).score(X)
    moved = factor * (X + shift)
    scaled = ESTIMATORS[kind](random_state=0).fit(moved).score(moved)
    assert scaled + np.log(factor).sum() == pytest.approx(own, abs=0.02)


def test_shared_noise_is_shared_in_the_units_of_the_table() -> None:
    # A common factor changes nothing, a factor of one column is another model.
    X = table("iris")
    fit = VAETransformer(2, noise="shared", hidden_layer_sizes=()).fit
    noise, score = fit(X).noise_variance_, fit(X).score(X)
    assert fit(10.0 * X).noise_variance_ == pytest.approx(100.0 * noise)
    assert noise == pytest.approx(PCA(2).fit(X).noise_variance_, rel=1e-3)
    factor = np.array([10.0, 1.0, 1.0, 1.0])
    assert abs(fit(factor * X).score(factor * X) + np.log(10.0) - score) > 0.05


@pytest.mark.parametrize("name", [*REAL, "odd"])
@pytest.mark.parametrize("score", SCORES)
def test_explanation_adds_up_to_the_detectors_score(name: str, score: str) -> None:
    X = odd_table() if name == "odd" else table(name)
    model = fitted("detector", name, anomaly_score=score)
    parts = model.explain(X)
    assert parts.shape == X.shape
    np.testing.assert_allclose(
        parts.sum(1) + model.base_score_, model.score_samples(X), rtol=0, atol=1e-6
    )
    # against the average training row: contributions average to nothing
    np.testing.assert_allclose(parts.mean(0), 0.0, atol=1e-6 * np.abs(parts).max())


@pytest.mark.parametrize("name", [*REAL, "odd"])
def test_explanation_adds_up_to_the_transformers_score(name: str) -> None:
    X = odd_table() if name == "odd" else table(name)
    model = fitted("transformer", name)
    np.testing.assert_allclose(
        model.explain(X).sum(1) + model.base_score_,
        model.score_samples(X),
        rtol=0,
        atol=1e-6,
    )


def test_explanation_of_a_strange_constant_adds_up_too() -> None:
    model, X = fitted("transformer", "odd"), odd_table()[:10]
    X[:, 2] = 8.0  # was 7 in every row of the fit
    parts = model.explain(X)
    np.testing.assert_allclose(
        parts.sum(1) + model.base_score_, model.score_samples(X), rtol=0, atol=1e-6
    )
    assert (parts[:, 2] < -1.0).all()


@estimators
def test_bound_is_its_terms_and_below_the_density(kind: str) -> None:
    model, X = fitted(kind, "wine", n_score_samples=256), table("wine")
    bound = model.elbo(X)
    reconstruction, kl = model.elbo(X, decompose=True)
    np.testing.assert_allclose(reconstruction - kl, bound, rtol=0, atol=1e-9)
    assert (kl >= 0).all()
    assert bound.mean() < model.score(X)


# -- (c) mass --------------------------------------------------------------------------


def bimodal(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-3.0, 0.5, n // 2), rng.normal(2.0, 1.0, n // 2)])


def skewed(n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=n)


def mass(model: Any, X: np.ndarray, points: int, reach: float) -> float:
    """Integral of exp(score_samples) by quadrature, far beyond the table."""
    unit = np.linspace(-np.arcsinh(reach), np.arcsinh(reach), points)
    # equal steps of asinh: fine where the rows are, coarse in the tails
    grids = [np.median(x) + x.std() * np.sinh(unit) for x in X.T]
    weights = [x.std() * np.cosh(unit) * (unit[1] - unit[0]) for x in X.T]
    cells = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, X.shape[1])
    weight = np.stack(np.meshgrid(*weights, indexing="ij"), -1).prod(-1).ravel()
    return float(weight @ np.exp(model.score_samples(cells)))


# How far to look, in deviations: the detector's tails are those of Student's t.
MASS: dict[str, tuple[dict[str, Any], float]] = {
    "transformer": ({}, 50.0),
    "detector": ({"anomaly_score": "log_likelihood"}, 1000.0),
}


@estimators
@pytest.mark.parametrize("make", [bimodal, skewed], ids=["bimodal", "skewed"])
def test_density_of_one_column_integrates_to_one(
    kind: str, make: Callable[[], np.ndarray]
) -> None:
    params, reach = MASS[kind]
    X = make()[:, None]
    model = ESTIMATORS[kind](random_state=0, **params).fit(X)
    assert mass(model, X, 1201, reach) == pytest.approx(1.0, abs=0.02)


@estimators
def test_density_of_two_columns_integrates_to_one(kind: str) -> None:
    params, _ = MASS[kind]
    first = bimodal()
    X = np.column_stack(
        [first, np.abs(first) + np.random.default_rng(1).normal(size=300)]
    )
    params = {**params, "n_score_samples": 128}
    model = ESTIMATORS[kind](random_state=0, **params).fit(X)
    assert mass(model, X, 61, 200.0) == pytest.approx(1.0, abs=0.02)


def test_bimodal_table_is_learned_as_one() -> None:
    # Mass alone can be had by one broad normal: the valley must be one.
    X = bimodal()[:, None]
    model = VAETransformer(random_state=0).fit(X)
    valley, hills = model.score_samples([[-0.9]]), model.score_samples([[-3.0], [2.0]])
    assert (valley < hills - 0.1).all()
    exact = stats.norm(-3.0, 0.5).pdf(X) / 2 + stats.norm(2.0, 1.0).pdf(X) / 2
    broad = stats.norm(X.mean(), X.std()).logpdf(X).mean()
    assert broad + 0.1 < model.score(X) < np.log(exact).mean() + 0.1


# -- (d) new rows ----------------------------------------------------------------------


@cache
def linear_gaussian(n: int = 1000, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d))
    return 5.0 + 3.0 * signal + rng.uniform(0.5, 2.0, d) * rng.normal(size=(n, d))


def energy_p_value(X: np.ndarray, Y: np.ndarray, n_permutations: int = 200) -> float:
    """Permutation test of the energy distance (Szekely and Rizzo, 2004)."""
    both = np.concatenate([X, Y]) / X.std(0)
    distance = np.linalg.norm(both[:, None] - both[None], axis=-1)
    rng, n = np.random.default_rng(0), len(X)

    def energy(order: np.ndarray) -> float:
        sign = np.where(order < n, 1.0, -1.0)
        return float(-sign @ distance @ sign)

    observed = energy(np.arange(len(both)))
    others = [energy(rng.permutation(len(both))) for _ in range(n_permutations)]
    return (1 + sum(other >= observed for other in others)) / (1 + n_permutations)


@pytest.mark.parametrize("noise", ["shared", "column", "network"])
def test_new_rows_are_like_those_of_the_table(noise: str) -> None:
    X = linear_gaussian()
    k = 3 if noise == "shared" else 2  # one noise for all columns takes a third factor
    model = VAETransformer(k, noise=noise, random_state=0).fit(X)
    rows = model.sample(1000, random_state=1)
    for j in range(X.shape[1]):
        assert stats.ks_2samp(X[:, j], rows[:, j]).pvalue > 1e-3
    spread = np.sqrt(np.diag(np.cov(X.T)))
    error = (np.cov(rows.T) - np.cov(X.T)) / np.outer(spread, spread)
    assert np.abs(error).max() < 4.0 * np.sqrt(2.0 * 2.0 / 1000)
    assert energy_p_value(X[:300], rows[:300]) > 1e-2


@estimators
def test_score_of_new_rows_is_minus_the_entropy(kind: str) -> None:
    # The table is the model's own: rows of p(x) score on average as its rows do.
    X = linear_gaussian()
    params = {} if kind == "transformer" else {"likelihood": "gaussian", "trim": 0.0}
    model = ESTIMATORS[kind](random_state=0, **params).fit(X)
    n = 2000
    rows = model.sample(n, random_state=0)
    gap = model.score(rows) - model.score(X)
    assert abs(gap) < 4.0 * np.sqrt(X.shape[1] / 2 * (1 / n + 1 / len(X))) + 0.05


@estimators
def test_sampling_repeats_with_a_seed_only(kind: str) -> None:
    model = fitted(kind, "wine")
    first, again, other = (model.sample(5, random_state=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(other, first).any()
    free, freer = (model.sample(5) for _ in range(2))
    assert not np.isin(free, freer).any()
    assert model.sample().shape == (1, table("wine").shape[1])


# -- (e) the linear limit --------------------------------------------------------------

RAW_AND_STANDARDISED = [(name, raw) for name in LOADERS for raw in (True, False)]
linear_tables = pytest.mark.parametrize(
    ("name", "raw"),
    RAW_AND_STANDARDISED,
    ids=[f"{name}-{'raw' if raw else 'std'}" for name, raw in RAW_AND_STANDARDISED],
)


def linear_map(model: Any, X: np.ndarray) -> np.ndarray:
    """The matrix A of transform(x) = x A + a, (d, k), from the answers alone."""
    origin, step = X.mean(0), X.std(0)
    moved = model.transform(origin + np.diag(step))
    return (moved - model.transform(origin[None])) / step[:, None]


def assert_is_pca(X: np.ndarray, k: int) -> None:
    pca = PCA(k).fit(X)
    model = VAETransformer(
        k, hidden_layer_sizes=(), noise="shared", random_state=0
    ).fit(X)
    gap = np.abs(model.score_samples(X) - pca.score_samples(X)).mean()
    assert gap < 0.05, f"{gap} nats at {k=}"
    angle = linalg.subspace_angles(linear_map(model, X), pca.components_.T).max()
    assert angle < 0.02, f"{angle} radians at {k=}"
    np.testing.assert_allclose(model.noise_variance_, pca.noise_variance_, rtol=0.05)


@linear_tables
def test_linear_limit_is_pca(name: str, raw: bool) -> None:
    X = table(name) if raw else standardised(name)
    d = X.shape[1]
    for k in sorted({1, 2, d // 2, d - 2, d - 1}):
        assert_is_pca(X, k)


@pytest.mark.slow
@linear_tables
def test_linear_limit_is_pca_at_every_k(name: str, raw: bool) -> None:
    X = table(name) if raw else standardised(name)
    for k in range(1, X.shape[1]):
        assert_is_pca(X, k)


def factor_analysis(X: np.ndarray, k: int) -> FactorAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return FactorAnalysis(k, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(X)


def column_noise(X: np.ndarray, k: int) -> Any:
    return VAETransformer(k, hidden_layer_sizes=(), noise="column", random_state=0).fit(
        X
    )


# Tables and k at which no column's noise runs to zero (a Heywood case has no maximum
# to agree on) and scikit-learn's climb ends at the best of several maxima.
FACTOR_CASES = [
    ("iris", 3),
    ("wine", 1),
    ("wine", 2),
    ("wine", 3),
    ("wine", 12),
    ("diabetes", 9),
    ("breast_cancer", 1),
    ("breast_cancer", 2),
    pytest.param("breast_cancer", 29, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "k"), FACTOR_CASES)
def test_linear_limit_with_column_noise_is_factor_analysis(name: str, k: int) -> None:
    X = standardised(name)
    theirs, mine = factor_analysis(X, k), column_noise(X, k)
    gap = np.abs(mine.score_samples(X) - theirs.score_samples(X)).mean()
    assert gap < 0.05
    weight = theirs.components_ / theirs.noise_variance_
    # below the full number of factors these are known: compare what encodes
    if k <= X.shape[1] // 2:
        assert linalg.subspace_angles(linear_map(mine, X), weight.T).max() < 0.02
        np.testing.assert_allclose(
            mine.noise_variance_, theirs.noise_variance_, rtol=0.05, atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_column_noise_is_nowhere_less_likely_than_factor_analysis(name: str) -> None:
    X = standardised(name)
    d = X.shape[1]
    for k in sorted({1, 2, 3, d // 2, d - 1} & set(range(1, d))):
        assert column_noise(X, k).score(X) > factor_analysis(X, k).score(X) - 0.01


def test_trained_model_is_not_less_likely_than_its_linear_limit() -> None:
    # On rows that neither has seen, up to what a standard error can hide.
    X = table("wine")
    order = np.random.default_rng(0).permutation(len(X))
    train, test = X[order[:120]], X[order[120:]]
    linear = column_noise(train, 4).score_samples(test)
    trained = VAETransformer(4, noise="column", random_state=0).fit(train)
    gain = trained.score_samples(test) - linear
    assert gain.mean() > -4.0 * gain.std() / np.sqrt(len(test)) - 0.1


# -- (f) weights -----------------------------------------------------------------------


def weights(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, n)


@pytest.mark.parametrize("noise", ["shared", "column"])
def test_integer_weights_repeat_rows_in_the_linear_limit(noise: str) -> None:
    # Up to Bessel's correction, which counts the rows: n / (n - 1) of either table.
    X = table("wine")
    w = weights(len(X))
    model = VAETransformer(3, hidden_layer_sizes=(), noise=noise, random_state=0)
    weighted = model.fit(X, sample_weight=w).score_samples(X)
    plain = model.fit(X).score_samples(X)
    repeated = model.fit(np.repeat(X, w, axis=0)).score_samples(X)
    assert np.abs(weighted - repeated).mean() < 0.03
    assert np.abs(weighted - plain).mean() > 0.1


@estimators
def test_rows_of_no_weight_are_absent(kind: str) -> None:
    X = table("iris")
    w = (weights(len(X)) > 1).astype(float)
    cls = ESTIMATORS[kind]
    weighted = cls(random_state=0, max_iter=3, start="random").fit(X, sample_weight=w)
    absent = cls(random_state=0, max_iter=3, start="random").fit(X[w > 0])
    np.testing.assert_allclose(
        weighted.score_samples(X), absent.score_samples(X), rtol=1e-5, atol=1e-5
    )


@estimators
def test_integer_weights_agree_with_repeated_rows(kind: str) -> None:
    # Networks, where orders and noise differ: agreement in the mean over seeds. The
    # same number of steps, and no rows held out: copies of a row would fall on both
    # sides.
    X, cls, n_seeds = table("iris"), ESTIMATORS[kind], 5
    w = weights(len(X))
    w[100:] = w[100:] > 0  # the last species counts less
    w[:50] *= 2
    repeated = np.repeat(X, w, axis=0)
    common = {"early_stopping": False, "max_iter": 10}

    def scores(rows: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        steps = 6
        n = len(rows) if weight is None else int((weight > 0).sum())
        return np.array(
            [
                cls(random_state=seed, batch_size=-(-n // steps), **common)
                .fit(rows, sample_weight=weight)
                .score(X)
                for seed in range(n_seeds)
            ]
        )

    weighted, copies, plain = scores(X, w), scores(repeated, None), scores(X, None)
    error = np.sqrt((weighted.var(ddof=1) + copies.var(ddof=1)) / n_seeds)
    gap = abs(weighted.mean() - copies.mean())
    assert gap < 4.0 * error + 0.01
    assert abs(weighted.mean() - plain.mean()) > 2.0 * gap  # weights do matter
