"""Gaussian tables with holes against closed forms, and models started from them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from skvae.model.closed_form import Moments, dependent_columns, noise_floor
from skvae.model.completion import Completion
from skvae.model.incomplete import em_moments, fill
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis

D, K = 5, 2


def table(n: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.3, 1.0, D) * rng.normal(size=(n, D))
    return (
        rng.normal(size=D) + rng.normal(size=(n, K)) @ rng.normal(size=(K, D)) + noise
    )


def holed(n: int = 300, seed: int = 0, share: float = 0.3) -> np.ndarray:
    X = table(n, seed)
    X[np.random.default_rng(seed + 1).random(X.shape) < share] = np.nan
    return X


def linear(X: np.ndarray) -> LinearGaussian:
    return factor_analysis(X.mean(0), np.cov(X, rowvar=False), K, floor=0.05)


# -- moments -----------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_monotone_holes_have_a_closed_form(weighted: bool) -> None:
    # Anderson (1957): regress the column with holes on the others, complete rows only.
    X = table(200)[:, :3]
    weight = np.random.default_rng(1).integers(1, 4, 200).astype(float)
    weight = weight if weighted else np.ones(200)
    X[120:, 2] = np.nan
    mean, covariance = em_moments(
        X, weight if weighted else None, ridge=0.0, tol=1e-12, max_steps=2000
    )
    whole = np.repeat(X, weight.astype(int), axis=0)
    first, full = whole[:, :2], whole[~np.isnan(whole[:, 2])]
    np.testing.assert_allclose(mean[:2], first.mean(0), rtol=1e-8)
    expected = np.cov(first, rowvar=False, bias=True)
    np.testing.assert_allclose(covariance[:2, :2], expected, rtol=1e-8)
    design = np.column_stack([np.ones(len(full)), full[:, :2]])
    slope, *_ = np.linalg.lstsq(design, full[:, 2], rcond=None)
    residual = np.mean((full[:, 2] - design @ slope) ** 2)
    assert mean[2] == pytest.approx(slope[0] + first.mean(0) @ slope[1:], rel=1e-6)
    np.testing.assert_allclose(covariance[2, :2], expected @ slope[1:], rtol=1e-6)
    variance = residual + slope[1:] @ expected @ slope[1:]
    assert covariance[2, 2] == pytest.approx(variance, rel=1e-6)


def test_scattered_holes_reach_the_maximum_of_the_likelihood() -> None:
    X = holed(60)[:, :3]
    X = X[~np.isnan(X).all(axis=1)]
    lower = np.tril_indices(3)

    def loss(theta: np.ndarray) -> float:
        root = np.zeros((3, 3))
        root[lower] = theta[3:]
        covariance, total = root @ root.T, 0.0
        for row in X:
            seen = ~np.isnan(row)
            part = covariance[np.ix_(seen, seen)]
            total -= stats.multivariate_normal.logpdf(row[seen], theta[:3][seen], part)
        return total

    mean, covariance = em_moments(X, ridge=0.0, tol=1e-12, max_steps=5000)
    mine = np.concatenate([mean, np.linalg.cholesky(covariance)[lower]])
    best = optimize.minimize(loss, np.concatenate([np.nanmean(X, 0), np.eye(3)[lower]]))
    assert loss(mine) == pytest.approx(best.fun, abs=1e-5)
    np.testing.assert_allclose(mine, best.x, atol=1e-3)


def test_complete_rows_keep_their_moments() -> None:
    # Whatever the ridge: it stands in for what the rows do not tell.
    X = table(100)
    mean, covariance = em_moments(X, ridge=0.5)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(X.T, bias=True), rtol=1e-10)


def test_the_climb_ends_where_it_begins_to_fit_noise() -> None:
    # As many columns as rows: the maximum of the likelihood predicts badly.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 40)) + rng.normal(size=(60, 40))
    hole = rng.random(X.shape) < 0.4
    holed = np.where(hole, np.nan, X)

    def error(max_steps: int | None) -> float:
        mean, covariance = em_moments(holed, max_steps=max_steps)
        total = 0.0
        for row, out in zip(X, hole, strict=True):
            own = covariance[np.ix_(~out, ~out)] + 1e-2 * np.eye((~out).sum())
            pull = np.linalg.solve(own, (row - mean)[~out])
            guess = mean[out] + covariance[np.ix_(out, ~out)] @ pull
            total += ((guess - row[out]) ** 2).sum()
        return total

    assert error(None) < 0.9 * error(50)
    # Where rows abound, the maximum is reached.
    many = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 6))
    many += rng.normal(size=many.shape)
    many[rng.random(many.shape) < 0.3] = np.nan
    for early, full in zip(em_moments(many), em_moments(many, max_steps=50)):
        np.testing.assert_allclose(early, full, atol=0.15)


def test_hard_holes_stay_finite() -> None:
    X = np.full((6, 4), np.nan)
    X[0, 0] = X[1, 1] = X[2, 2] = X[3, 3] = 1.0
    X[4, :2] = 3.0
    mean, covariance = em_moments(X)
    assert np.isfinite(mean).all()
    assert (np.linalg.eigvalsh(covariance) > -1e-12).all()
    copies = np.repeat(holed()[:, :1], 3, axis=1)
    copies[:50, 1] = np.nan
    assert np.isfinite(em_moments(copies)[1]).all()


def test_moments_of_holes_are_unbiased_like_those_of_complete_rows() -> None:
    X = table(2000)
    holes = X.copy()
    holes[:3, 0] = np.nan
    mine, complete = Moments.of(holes, None), Moments.of(X, None)
    np.testing.assert_allclose(mine.mean, complete.mean, atol=1e-2)
    np.testing.assert_allclose(mine.covariance, complete.covariance, atol=2e-2)


def test_floor_and_dependent_columns_look_past_holes() -> None:
    X = table(400)
    X[:, 4] = X[:, 0] - 2.0 * X[:, 1]
    holes = X.copy()
    holes[:20, 2] = np.nan
    np.testing.assert_array_equal(dependent_columns(holes), [0, 1, 4])
    resolution = np.full(D, 1e-3)
    floors = [noise_floor(part, resolution, robust=False) for part in (X, holes)]
    np.testing.assert_allclose(*floors, rtol=0.5)
    one = noise_floor(holes[20:], resolution, robust=False)
    np.testing.assert_allclose(one[2], floors[1][2], rtol=1e-10)


# -- filling -----------------------------------------------------------------------


def test_holes_get_their_conditional_mean() -> None:
    X = holed(20)
    model = linear(table())
    covariance = model.loadings @ model.loadings.T + np.diag(model.noise_variance)
    filled = fill(model, X)
    for row, mine in zip(X, filled, strict=True):
        o, m = ~np.isnan(row), np.isnan(row)
        slope = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)])
        expected = model.mean[m] + (row[o] - model.mean[o]) @ slope
        np.testing.assert_allclose(mine[m], expected, rtol=1e-8)
        np.testing.assert_array_equal(mine[o], row[o])


def test_filled_rows_have_the_posterior_mean_of_the_observed_cells() -> None:
    X = holed(20, share=0.5)
    model = linear(table())
    weight, intercept, _ = model.posterior()
    for row, code in zip(X, fill(model, X) @ weight + intercept, strict=True):
        o = ~np.isnan(row)
        scaled = model.loadings[o] / model.noise_variance[o, None]
        precision = np.eye(K) + scaled.T @ model.loadings[o]
        expected = np.linalg.solve(precision, scaled.T @ (row[o] - model.mean[o]))
        np.testing.assert_allclose(code, expected, rtol=1e-8, atol=1e-12)


# -- models of rows with holes -----------------------------------------------------

KINDS = ("gaussian",) * 2 + ("categorical",) * 2 + ("ordinal", "poisson")
LEVELS = ((), (), (0.3, 0.7), (0.2, 0.5, 0.3), (0.25, 0.5, 0.25), ())


def coded(n: int = 12) -> np.ndarray:
    rng = np.random.default_rng(3)
    codes = [rng.choice(len(shares), n, p=shares) for shares in LEVELS[2:5]]
    counts = rng.poisson(2.0, n)
    return np.column_stack([rng.normal(size=(n, 2)), *codes, counts]).astype(float)


def model_of(filler: bool = True) -> LatentModel:
    model = LatentModel.build(
        kinds=KINDS,
        variance_floor=np.full(6, 0.01),
        n_components=K,
        hidden=(4,),
        activation="silu",
        n_free_scales=3,
        levels=LEVELS,
        centre=np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
        scale=np.array([1.0, 1.0, 1.0, 1.0, 0.7, 0.6]),
        flagged=(1, 3),
    )
    rng = np.random.default_rng(5)
    width = int((~model.likelihood.reference).sum())
    mean = np.array([0.0, 0.1, 0.3, 0.2, 0.3, 0.0, 0.0])
    X = rng.normal(size=(500, width)) + rng.normal(size=(500, 1))
    start = factor_analysis(mean, 0.1 * np.cov(X, rowvar=False), K, floor=0.01)
    model.start_random([0], network_only=True)
    model.start_linear(start)
    model.filler = start if filler else None
    return model


def test_complete_numeric_rows_are_seen_as_they_are() -> None:
    model = LatentModel.build(
        kinds=("gaussian",) * 2 + ("bernoulli",),
        variance_floor=np.full(3, 0.01),
        n_components=K,
        hidden=(),
        activation="silu",
        n_free_scales=2,
    )
    rows = model.rows(np.zeros((4, 3)))
    assert rows.inputs is rows.x
    assert rows.observed is None


@pytest.mark.parametrize("filler", [True, False])
def test_encoder_sees_features_filled_and_flags(filler: bool) -> None:
    model, x = model_of(filler), coded()
    x[0, [1, 3, 5]] = np.nan
    x[1] = np.nan
    rows = model.rows(x)
    assert rows.observed is not None
    np.testing.assert_array_equal(rows.observed.numpy(), ~np.isnan(x))
    assert rows.inputs.isfinite().all()
    flags = rows.inputs[:, model.n_locations :]
    np.testing.assert_array_equal(flags.numpy(), np.isnan(x[:, [1, 3]]))
    complete = model.rows(x[2:])
    np.testing.assert_array_equal(
        complete.inputs[:, : model.n_locations],
        model.likelihood.features(torch.as_tensor(x[2:])),
    )
    # The levels of a missing cell share one between them.
    levels = model.likelihood.collapse(rows.inputs[:2, : model.n_locations])[:, 2:4]
    np.testing.assert_allclose(levels, 1.0, rtol=1e-12)


def test_linear_start_has_the_values_and_slopes_of_the_linear_model() -> None:
    model = model_of()
    start = model.filler
    assert start is not None
    own = model.likelihood
    wanted = own.with_reference(torch.as_tensor(start.mean))
    at_zero = own.features_of(model.prior_mean_row()[0])
    # 3: an ordered logistic variable is near, not equal to, a standardised code.
    close = [0, 1, 2, 3, 4, 5, 6, 8]
    torch.testing.assert_close(at_zero[close], wanted[close], rtol=1e-6, atol=1e-6)
    slopes = own.with_reference(torch.as_tensor(start.loadings.T), total=0.0)
    step = 1e-5 * torch.eye(K, dtype=torch.float64)[None, None]
    sides = [
        own.features_of(own.mean(model.decode(sign * step)))[0, 0] for sign in (1, -1)
    ]
    numeric = (sides[0] - sides[1]) / 2e-5
    torch.testing.assert_close(
        numeric[:, close], slopes[:, close], rtol=1e-4, atol=1e-6
    )
    ordinal = numeric[:, 7] / slopes[:, 7]
    assert ((ordinal > 0.3) & (ordinal < 3.0)).all()


def test_missing_cells_have_no_say() -> None:
    model, x = model_of(), coded()
    x[0, [0, 2, 3, 4, 5]] = np.nan
    rows = model.rows(x)
    unit = torch.zeros(1, 1, 1, K, dtype=torch.float64)
    args = rows.x[None], unit
    terms = model(*args, seen=rows.inputs[None], observed=rows.observed[None])
    assert (terms.log_px[0, 0, 0] != 0.0).tolist() == [False, True, *[False] * 4]
    pulled = rows.x.clone()
    pulled[0, 4:] = 1.0
    again = model(
        pulled[None], unit, seen=rows.inputs[None], observed=rows.observed[None]
    )
    assert torch.equal(again.log_px, terms.log_px)


def test_state_carries_levels_flags_and_filler() -> None:
    model, x = model_of(), coded()
    x[0, [1, 3, 5]] = np.nan
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.rows(x).inputs, model.rows(x).inputs)
    assert again.likelihood.levels == model.likelihood.levels
    assert again.flagged == (1, 3)
    assert again.n_inputs == model.n_inputs
    narrow = model.to(torch.float32, torch.device("cpu")).rows(x)
    torch.testing.assert_close(
        narrow.inputs.double(), model.rows(x).inputs, rtol=1e-5, atol=1e-5
    )


def test_rates_follow_the_noise_of_each_kind() -> None:
    model = model_of()
    rates = model.params.with_flat(model.natural_rates())
    cell = rates["decoder.bias"][0, 0, : model.n_locations]
    assert (cell[2:7] == 1.0).all()
    noise = model.start_noise()[0, 0]
    torch.testing.assert_close(cell[:2], noise.sqrt())
    rate = model.prior_mean_row()[0, -1]
    assert cell[-1].item() == pytest.approx(min(1.0, rate.item() ** -0.5))


# -- the cell that fits least ------------------------------------------------------


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("correlated", [False, True])
def test_mended_cells_are_those_of_the_conditional_normal(
    correlated: bool, holes: bool
) -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 3.0, D)
    covariance = np.diag(spread**2)
    if correlated:
        covariance += 2.0 * np.outer(spread, spread)
    mean, X = rng.normal(size=D), 3.0 * rng.normal(size=(40, D))
    if holes:
        X[rng.random(X.shape) < 0.3] = np.nan
    completion = Completion(mean, covariance, np.zeros(D, bool), np.full(D, np.inf))
    asked = (rng.random(X.shape) < 0.7) & ~np.isnan(X)
    mended, cell = completion.mended(X, completion(X), asked)
    # As holes are filled: with a hundredth of each variance as noise.
    noisy = covariance + np.diag(1e-2 * np.diag(covariance))

    def given(row: np.ndarray, j: int) -> tuple[float, float]:
        """Mean and variance of a cell given the others that are observed."""
        rest = np.delete(np.arange(D), j)
        rest = rest[~np.isnan(row[rest])]
        gain = np.linalg.solve(noisy[np.ix_(rest, rest)], noisy[rest, j])
        return mean[j] + gain @ (row - mean)[rest], noisy[j, j] - gain @ noisy[rest, j]

    for i, row in enumerate(X):
        odd, likely = {}, {}
        for j in np.flatnonzero(asked[i]):
            likely[j], variance = given(row, j)
            odd[j] = (row[j] - likely[j]) ** 2 / variance
        expected = row.copy()
        if odd:
            worst = max(odd, key=lambda j: odd[j])
            assert cell[i] == worst
            expected[worst] = likely[worst]
        # A hole follows the cell as it should have been, not as it was.
        for j in np.flatnonzero(np.isnan(row)):
            expected[j] = given(np.where(np.isnan(row), np.nan, expected), j)[0]
        np.testing.assert_allclose(mended[i], expected, rtol=1e-9, atol=1e-9)


def test_a_completion_inverts_once_and_pickles_its_value_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    covariance = np.eye(D) + 0.5
    completion = Completion(
        np.zeros(D), covariance, np.zeros(D, bool), np.full(D, np.inf)
    )
    fresh, calls = pickle.dumps(completion), []
    invert = np.linalg.inv
    monkeypatch.setattr(np.linalg, "inv", lambda a: calls.append(1) or invert(a))
    X = table(20)
    first = completion.mended(X, X, np.ones(X.shape, bool))
    again = completion.mended(X, X, np.ones(X.shape, bool))
    assert len(calls) == 1
    assert pickle.dumps(completion) == fresh
    kept = pickle.loads(fresh).mended(X, X, np.ones(X.shape, bool))
    for one, two, three in zip(first, again, kept, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
