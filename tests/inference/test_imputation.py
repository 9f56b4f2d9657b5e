"""Completions of a linear-Gaussian model against Gaussian conditioning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.inference.imputation import (
    conditional_draws,
    conditional_mean,
    expected_cells,
)
from skvae.inference.scoring import draw_bank, read_weighted
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis
from skvae.model.priors import FullNormal
from tests.linear_models import covariance_of, model_of

D, K = 6, 2


def gaussian_table(n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, K)) @ rng.normal(size=(K, D))
    return 1.0 + signal + 0.7 * rng.normal(size=(n, D))


def linear_gaussian() -> LinearGaussian:
    X = gaussian_table()
    return factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.2)


def linear_model() -> LatentModel:
    return model_of(linear_gaussian())


def holed(share: float = 0.3, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    X = gaussian_table()[:n].copy()
    X[rng.random(X.shape) < share] = np.nan
    return X[~np.isnan(X).all(1)]


def conditional(
    row: np.ndarray, linear: LinearGaussian | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the missing cells given the others."""
    linear = linear or linear_gaussian()
    dense = covariance_of(linear)
    o, m = ~np.isnan(row), np.isnan(row)
    gain = np.linalg.solve(dense[np.ix_(o, o)], dense[np.ix_(o, m)]).T
    mean = linear.mean[m] + gain @ (row[o] - linear.mean[o])
    return mean, dense[np.ix_(m, m)] - gain @ dense[np.ix_(o, m)]


def test_mean_is_that_of_gaussian_conditioning() -> None:
    X, linear = holed(), linear_gaussian()
    mine = conditional_mean(linear_model(), X, draw_bank(512, K, 0))
    worst = 0.0
    for row, own in zip(X, mine, strict=True):
        mean, covariance = conditional(row)
        unit = np.sqrt(np.diag(covariance))
        worst = max(worst, np.abs((own[np.isnan(row)] - mean) / unit).max(initial=0.0))
    assert worst < 0.01  # Monte-Carlo error of the worst of some 90 holes
    # and far from what the columns alone would say
    holes = np.isnan(X)
    assert np.abs(mine - linear.mean)[holes].mean() > 0.3


def test_mean_under_another_prior_is_that_of_its_gaussian() -> None:
    model, linear, X = linear_model(), linear_gaussian(), holed()
    centre, factor = np.array([0.5, -1.0]), np.array([[2.0, 0.0], [1.0, 0.3]])
    model.prior = FullNormal(torch.tensor(centre)[None], torch.tensor(factor)[None])
    loadings, noise = linear.loadings @ factor, linear.noise_variance
    _, _, turned = np.linalg.svd(loadings / np.sqrt(noise)[:, None])
    moved = LinearGaussian(
        linear.mean + linear.loadings @ centre, loadings @ turned.T, noise
    )
    mine = conditional_mean(model, X, draw_bank(512, K, 0))
    for row, own in zip(X, mine, strict=True):
        mean, covariance = conditional(row, moved)
        error = (own[np.isnan(row)] - mean) / np.sqrt(np.diag(covariance))
        assert np.abs(error).max(initial=0.0) < 0.01


def expected(model: LatentModel, X: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Conditional mean before it is decided what to put in the cell."""
    return read_weighted(model, X, bank, lambda terms: (expected_cells(terms),))[0]


def test_mean_is_importance_weighted() -> None:
    # Log-odds that one code of each sign drives: no Gaussian proposal has their exact
    # posterior, so that only the weights lead to the mean that quadrature finds.
    slopes = np.array([4.0, 3.0, -5.0])
    model = LatentModel.build(
        kinds=("bernoulli",) * 3,
        variance_floor=np.zeros(3),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=0,
    )
    model.params["decoder.path"][:] = torch.as_tensor(slopes)
    X = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, 0.0], [np.nan, 1.0, 1.0]])
    z, step = np.linspace(-8.0, 8.0, 4001, retstep=True)
    p = special.expit(z[:, None] * slopes)
    bank = draw_bank(2048, 1, 0)
    decided = conditional_mean(model, X, bank)
    for row, own, cell in zip(X, expected(model, X, bank), decided, strict=True):
        seen = ~np.isnan(row)
        mass = np.where(row[seen] == 1.0, p[:, seen], 1.0 - p[:, seen]).prod(1)
        weight = stats.norm.pdf(z) * mass * step
        exact = weight @ p[:, ~seen] / weight.sum()
        np.testing.assert_allclose(own[~seen], exact, atol=5e-3)
        np.testing.assert_array_equal(cell[~seen], np.round(exact))


def draws_of(row: np.ndarray, n: int = 4000, n_bank: int = 512) -> np.ndarray:
    """Draws of the missing cells of one row, (n, n_missing)."""
    bank = draw_bank(n_bank, K, 0)
    draws = conditional_draws(linear_model(), row[None], bank, n, seed=3)
    assert draws.shape == (n, 1, D)
    return draws[:, 0, np.isnan(row)]


# Rows with one hole, with half and with all but one cell missing.
HOLES = [[2], [0, 3, 5], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("missing", HOLES, ids=str)
def test_draws_have_the_conditional_moments(missing: list[int]) -> None:
    row = gaussian_table()[5].copy()
    row[missing] = np.nan
    mean, covariance = conditional(row)
    draws = draws_of(row)
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean) / std, 0.06)
    ratio = draws.std(0) / std
    np.testing.assert_array_less(np.abs(ratio - 1.0), 0.06)
    correlation = np.corrcoef(draws.T) if len(missing) > 1 else np.eye(1)
    expected = covariance / np.outer(std, std)
    assert np.abs(correlation - expected).max() < 0.06


@pytest.mark.parametrize("missing", HOLES, ids=str)
def test_default_bank_does_not_understate_the_spread(missing: list[int]) -> None:
    row = gaussian_table()[5].copy()
    row[missing] = np.nan
    _, covariance = conditional(row)
    ratio = draws_of(row, n_bank=64).std(0) / np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(ratio - 1.0), 0.08)


def test_draws_of_many_components_do_not_understate_the_spread() -> None:
    # Draws of the prior hardly ever meet a posterior of six components: the proposal
    # itself must be as broad as what is missing leaves open.
    d, k, rng = 20, 6, np.random.default_rng(0)
    X = rng.normal(size=(300, k)) @ rng.normal(size=(k, d))
    X += 0.7 * rng.normal(size=X.shape)
    linear = factor_analysis(X.mean(0), np.cov(X.T), k, floor=0.2)
    model = model_of(linear)
    missing = rng.random((20, d)) < 0.6
    rows = np.where(missing, np.nan, X[:20])
    draws = conditional_draws(model, rows, draw_bank(64, k, 0), 400, seed=1)
    precision = np.linalg.inv(covariance_of(linear))
    ratios = []
    for i, holes in enumerate(missing):
        # of a Gaussian, the inverse of the precision's own block
        exact = np.linalg.inv(precision[np.ix_(holes, holes)]).diagonal()
        ratios.extend(draws[:, i, holes].std(0) / np.sqrt(exact))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)


def test_no_two_draws_of_a_real_cell_are_the_same() -> None:
    # Each imputation draws its own noise: otherwise two of them agree by accident, and
    # what multiple imputation learns from their spread is too small.
    row = gaussian_table()[5].copy()
    row[2] = np.nan
    draws = draws_of(row, n=200, n_bank=64)
    assert len(np.unique(draws)) == 200


def test_draws_are_those_of_the_seed() -> None:
    X, bank = holed(), draw_bank(64, K, 0)
    first, again, other = (
        conditional_draws(linear_model(), X, bank, 2, seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    holes = np.isnan(X)
    assert (first[:, holes] != other[:, holes]).all()


def test_binary_cells_follow_their_conditional_probability() -> None:
    # Two log-odds that share one code: observing a 1 makes the other 1 likelier.
    model = LatentModel.build(
        kinds=("bernoulli", "bernoulli"),
        variance_floor=np.zeros(2),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=0,
    )
    model.params["decoder.path"][:] = 2.0
    X = np.array([[1.0, np.nan], [0.0, np.nan]])
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    p = special.expit(2.0 * z)
    exact = [
        (weight * p * p).sum() / (weight * p).sum(),
        (weight * p * (1 - p)).sum() / (weight * (1 - p)).sum(),
    ]
    bank = draw_bank(1024, 1, 0)
    np.testing.assert_allclose(expected(model, X, bank)[:, 1], exact, atol=0.01)
    n = 4000
    draws = conditional_draws(model, X, bank, n, seed=0)[:, :, 1]
    assert set(np.unique(draws)) == {0.0, 1.0}
    error = 0.01 + 4.0 * math.sqrt(0.25 / n)
    np.testing.assert_allclose(draws.mean(0), exact, atol=error)


def test_members_are_mixed_by_how_well_they_know_the_row() -> None:
    # The second member puts the observed cell far off: it has no say in the other.
    model = LatentModel.build(
        kinds=("gaussian", "gaussian"),
        variance_floor=np.full(2, 1e-6),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=2,
        n_members=2,
    )
    model.params["decoder.bias"][:] = torch.tensor([[[1.0, 5.0]], [[9.0, -5.0]]])
    X = np.array([[1.0, np.nan], [9.0, np.nan], [5.0, np.nan]])
    mean = conditional_mean(model, X, draw_bank(64, 1, 0))[:, 1]
    np.testing.assert_allclose(mean, [5.0, -5.0, 0.0], atol=1e-6)


def test_rows_without_holes_keep_their_values() -> None:
    X, bank, model = gaussian_table()[:5], draw_bank(64, K, 0), linear_model()
    np.testing.assert_array_equal(conditional_mean(model, X, bank), X)
    draws = conditional_draws(model, X, bank, 3, seed=0)
    np.testing.assert_array_equal(draws, np.stack([X] * 3))


def test_rows_do_not_depend_on_their_company() -> None:
    X, bank, model = holed(), draw_bank(64, K, 0), linear_model()
    together = conditional_mean(model, X, bank)
    alone = np.concatenate([conditional_mean(model, row[None], bank) for row in X])
    np.testing.assert_allclose(alone, together, rtol=1e-9)


def test_arguments_are_left_as_they_are() -> None:
    X, bank = holed(), draw_bank(64, K, 0)
    before = X.copy()
    conditional_mean(linear_model(), X, bank)
    conditional_draws(linear_model(), X, bank, 2, 0)
    np.testing.assert_array_equal(X, before)
