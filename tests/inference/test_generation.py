"""New rows against the distribution that they are drawn from."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special, stats

from skvae.inference.generation import decode_codes, sample_rows
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian
from skvae.model.priors import FullNormal
from tests.linear_models import covariance_of, model_of

D, K, N = 4, 2, 6000


def linear_gaussian() -> LinearGaussian:
    # loadings whose columns are orthogonal under the noise
    loadings = np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.5], [1.0, -1.0]])
    return LinearGaussian(np.array([3.0, 0.0, -1.0, 2.0]), loadings, np.ones(D))


def linear_model(members: int = 1) -> LatentModel:
    return model_of(linear_gaussian(), members)


def assert_drawn_from(
    rows: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> None:
    """Whitened rows are standard normal, column by column and jointly."""
    n, d = rows.shape
    unit = np.linalg.solve(np.linalg.cholesky(covariance), (rows - mean).T).T
    for column in unit.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert stats.kstest((unit**2).sum(1), stats.chi2(d).cdf).pvalue > 1e-3
    off = np.corrcoef(unit.T) - np.eye(d)
    assert np.abs(off).max() < 4.0 / math.sqrt(n)


def test_rows_are_drawn_from_the_models_distribution() -> None:
    linear = linear_gaussian()
    rows = sample_rows(linear_model(), N, 0)
    assert rows.shape == (N, D)
    assert_drawn_from(rows, linear.mean, covariance_of(linear))


def test_rows_are_independent() -> None:
    rows = sample_rows(linear_model(), N, 0)
    for column in rows.T:
        lagged = np.corrcoef(column[:-1], column[1:])[0, 1]
        assert abs(lagged) < 4.0 / math.sqrt(N)


def test_codes_are_drawn_from_the_models_prior() -> None:
    linear, model = linear_gaussian(), linear_model()
    mean = np.array([2.0, -1.0])
    cholesky = np.array([[0.5, 0.0], [0.7, 1.5]])
    model.prior = FullNormal(
        torch.as_tensor(mean)[None], torch.as_tensor(cholesky)[None]
    )
    loadings = linear.loadings @ cholesky
    covariance = loadings @ loadings.T + np.diag(linear.noise_variance)
    centre = linear.mean + linear.loadings @ mean
    assert_drawn_from(sample_rows(model, N, 0), centre, covariance)


def test_each_member_draws_its_share_of_the_rows() -> None:
    model, linear = linear_model(3), linear_gaussian()
    for member in range(3):
        model.params["decoder.bias"][member] += 1000.0 * member
    rows = sample_rows(model, N, 0)
    member = np.rint(rows.mean(1) / 1000.0).astype(int)
    assert stats.chisquare(np.bincount(member, minlength=3)).pvalue > 1e-3
    assert_drawn_from(
        rows - 1000.0 * member[:, None], linear.mean, covariance_of(linear)
    )


def test_binary_columns_are_drawn_with_the_mean_probability() -> None:
    model = LatentModel.build(
        kinds=("bernoulli",) * 2,
        variance_floor=np.zeros(2),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=0,
    )
    model.params["decoder.path"][:] = torch.tensor([3.0, -1.0])
    model.params["decoder.bias"][..., :2] = torch.tensor([0.0, 1.0])
    rows = sample_rows(model, N, 0)
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    p = special.expit(np.column_stack([3.0 * z, 1.0 - z]))
    q, share = 1 - p, weight / weight.sum()
    cells = [q[:, 0] * q[:, 1], q[:, 0] * p[:, 1], p[:, 0] * q[:, 1], p[:, 0] * p[:, 1]]
    expected = N * np.array([share @ cell for cell in cells])
    counts = np.bincount((rows @ [2.0, 1.0]).astype(int), minlength=4)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_rows_are_those_of_the_seed() -> None:
    model = linear_model(2)
    first = sample_rows(model, 20, 4)
    np.testing.assert_array_equal(first, sample_rows(model, 20, 4))
    assert not np.isin(sample_rows(model, 20, 5), first).any()


def test_codes_decode_to_their_expected_row() -> None:
    linear = linear_gaussian()
    codes = np.random.default_rng(0).normal(size=(7, K))
    expected = linear.mean + codes @ linear.loadings.T
    np.testing.assert_allclose(decode_codes(linear_model(), codes), expected)
    both = linear_model(2)
    both.params["decoder.bias"][1] += 3.0
    np.testing.assert_allclose(decode_codes(both, codes), expected + 1.5)
