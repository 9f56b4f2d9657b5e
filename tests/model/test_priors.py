"""Densities of codes against SciPy, and their draws against their moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from skvae.model.priors import (
    AggregatePosterior,
    FullNormal,
    Prior,
    StandardNormal,
    normal_log_prob,
)

K = 3
MEAN = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, -0.5]])
COVARIANCE = np.array(
    [
        [[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]],
        [[0.1, 0.0, 0.05], [0.0, 4.0, -1.0], [0.05, -1.0, 1.5]],
    ]
)


def full_normal() -> FullNormal:
    return FullNormal(
        torch.as_tensor(MEAN), torch.as_tensor(np.linalg.cholesky(COVARIANCE))
    )


# A prior of two members, and its means and covariances.
PRIORS: dict[str, tuple[Prior, np.ndarray, np.ndarray]] = {
    "standard": (
        StandardNormal(),
        np.zeros((2, K)),
        np.broadcast_to(np.eye(K), (2, K, K)),
    ),
    "full": (full_normal(), MEAN, COVARIANCE),
}
priors = pytest.mark.parametrize("name", PRIORS)


def like(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(0, dtype=dtype)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@priors
@pytest.mark.parametrize("shape", [(2, 4, K), (2, 5, 4, K)], ids=str)
def test_log_prob_is_scipys(name: str, shape: tuple[int, ...]) -> None:
    prior, mean, covariance = PRIORS[name]
    z = 2.0 * np.random.default_rng(1).normal(size=shape)
    mine = prior.log_prob(torch.as_tensor(z))
    theirs = [
        stats.multivariate_normal(m, c).logpdf(own)
        for m, c, own in zip(mean, covariance, z, strict=True)
    ]
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-11)


@priors
def test_draws_have_the_distribution(name: str) -> None:
    prior, mean, covariance = PRIORS[name]
    n = 6000
    draws = prior.sample((2, 1, n, K), like(), source()).numpy()[:, 0]
    for m, c, own in zip(mean, covariance, draws, strict=True):
        # Hotelling's T^2: chi-square of K degrees for a mean of known covariance
        off = own.mean(0) - m
        assert stats.chi2(K).sf(n * off @ np.linalg.solve(c, off)) > 1e-3
        # the standard error of an entry of the covariance of normal rows
        error = np.sqrt((c**2 + np.outer(np.diag(c), np.diag(c))) / n)
        assert np.abs((np.cov(own.T) - c) / error).max() < 4.0
        for j in range(K):
            cdf = stats.norm(m[j], math.sqrt(c[j, j])).cdf
            assert stats.kstest(own[:, j], cdf).pvalue > 1e-3
    together = np.corrcoef(draws[0].T, draws[1].T)[:K, K:]
    assert np.abs(together).max() < 4.0 / math.sqrt(n)  # members draw for themselves


@priors
def test_codes_are_put_where_standard_normal_ones_belong(name: str) -> None:
    # Deviations that are whitened to the same density again, up to the determinant.
    prior, mean, covariance = PRIORS[name]
    unit = np.random.default_rng(1).normal(size=(2, 5, 4, K))
    z = prior.at(torch.as_tensor(unit)).numpy()
    for member in range(2):
        cholesky = np.linalg.cholesky(covariance[member])
        expected = mean[member] + unit[member] @ cholesky.T
        np.testing.assert_allclose(z[member], expected, rtol=1e-12, atol=1e-12)


@priors
def test_draws_are_those_of_the_generator(name: str) -> None:
    prior = PRIORS[name][0]
    first, again = (prior.sample((2, 1, 9, K), like(), source(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, prior.sample((2, 1, 9, K), like(), source(5)))


@priors
def test_precision_is_that_of_the_question(name: str) -> None:
    prior = PRIORS[name][0].to(torch.float32, torch.device("cpu"))
    z = prior.sample((2, 1, 5, K), like(torch.float32), source())
    assert z.dtype == prior.log_prob(z).dtype == torch.float32
    exact = PRIORS[name][0].log_prob(z.double())
    torch.testing.assert_close(prior.log_prob(z).double(), exact, rtol=1e-5, atol=1e-5)


@given(unit=st.floats(-1e3, 1e3), log_v=st.floats(-20.0, 20.0))
def test_normal_log_prob_is_scipys(unit: float, log_v: float) -> None:
    mine = normal_log_prob(*torch.tensor([unit, log_v], dtype=torch.float64))
    theirs = stats.norm(0.0, math.exp(log_v / 2)).logpdf(unit * math.exp(log_v / 2))
    np.testing.assert_allclose(mine.item(), theirs, rtol=1e-9, atol=1e-9)


def aggregate(n_codes: int = 6) -> AggregatePosterior:
    rng = np.random.default_rng(2)
    return AggregatePosterior(
        torch.as_tensor(3.0 * rng.normal(size=(2, n_codes, K))),
        torch.as_tensor(rng.normal(size=(2, n_codes, K))),
    )


@pytest.mark.parametrize("shape", [(2, 4, K), (2, 5, 4, K)], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_aggregate_is_a_mixture_of_normals(shape: tuple[int, ...], size: float) -> None:
    prior = aggregate()
    z = size * np.random.default_rng(1).normal(size=shape)
    mine = prior.log_prob(torch.as_tensor(z)).numpy()
    for member in range(2):
        spread = np.exp(0.5 * prior.log_variance[member].numpy())
        each = stats.norm(prior.mean[member].numpy(), spread).logpdf(
            z[member][..., None, :]
        )
        theirs = logsumexp(each.sum(-1), axis=-1) - math.log(6)
        np.testing.assert_allclose(mine[member], theirs, rtol=1e-10)


def test_aggregate_draws_have_the_distribution() -> None:
    prior, n = aggregate(), 6000
    draws = prior.sample((2, 1, n, K), like(), source()).numpy()[:, 0]
    for member in range(2):
        for j in range(K):
            mean = prior.mean[member, :, j].numpy()
            spread = np.exp(0.5 * prior.log_variance[member, :, j].numpy())
            each = stats.norm(mean, spread)
            uniform = each.cdf(draws[member, :, j, None]).mean(1)
            assert stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_aggregate_normal_has_the_moments_of_the_mixture() -> None:
    prior = aggregate()
    normal = prior.normal()
    draws = prior.sample((2, 1, 200_000, K), like(), source()).numpy()[:, 0]
    for member, own in enumerate(draws):
        np.testing.assert_allclose(normal.mean[member], own.mean(0), atol=0.05)
        root = normal.cholesky[member].numpy()
        np.testing.assert_allclose(root @ root.T, np.cov(own.T), rtol=0.05, atol=0.2)
