"""What must hold of every fitted model: determinism, units, sums, weights."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.decomposition import PCA

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.estimators import _verdicts
from skvae.inference.scoring import SCORES

# Models of columns that nearly follow from others say so; that is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ESTIMATORS = {"transformer": VAETransformer, "detector": VAEAnomalyDetector}
estimators = pytest.mark.parametrize("kind", ESTIMATORS)

LOADERS: dict[str, Callable[[], Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
}
REAL = ["wine", "breast_cancer"]
real = pytest.mark.parametrize("name", REAL)


@cache
def table(name: str) -> np.ndarray:
    X = LOADERS[name]().data.astype(float)
    X.flags.writeable = False
    return X


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


# -- determinism -----------------------------------------------------------------------

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


# -- units and sums --------------------------------------------------------------------


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


@pytest.mark.parametrize("name", [*REAL, "odd"])
def test_explanation_adds_up_to_the_transformers_score(name: str) -> None:
    X = odd_table() if name == "odd" else table(name)
    model = fitted("transformer", name)
    parts = model.explain(X)
    np.testing.assert_allclose(
        parts.sum(1) + model.base_score_, model.score_samples(X), rtol=0, atol=1e-6
    )
    # against the average training row: contributions average to nothing
    np.testing.assert_allclose(parts.mean(0), 0.0, atol=1e-6 * np.abs(parts).max())


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


# -- weights ---------------------------------------------------------------------------


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
def test_integer_weights_agree_with_repeated_rows(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which rows a detector keeps back depends on how many there are.
    monkeypatch.setattr(_verdicts, "_KEPT_BACK", 0.0)
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
