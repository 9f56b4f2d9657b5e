"""Densities of cells against SciPy, quadrature, finite differences and their draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import Tensor

from skvae.model.likelihoods import Likelihood, TableLikelihood
from skvae.model.likelihoods.continuous import Gaussian, StudentT
from skvae.model.likelihoods.discrete import Bernoulli

Scipy = Callable[[float, float, float], Any]

# A likelihood with a scale, and SciPy's distribution of the same location, log-scale
# and floor.
CONTINUOUS: dict[str, Scipy] = {
    "gaussian": lambda m, s, floor: stats.norm(m, math.sqrt(math.exp(2 * s) + floor)),
    "student_t": lambda m, s, floor: stats.t(2, m, math.sqrt(math.exp(2 * s) + floor)),
}
# (location, log-scale, floor)
CASES = [
    (0.0, 0.0, 1e-8),
    (0.3, -1.0, 0.01),
    (-2.5, 0.7, 0.4),
    (1e3, -3.0, 1e-6),
    (0.1, -60.0, 0.04),
    (0.0, 12.0, 1e-8),
]

continuous = pytest.mark.parametrize("kind", CONTINUOUS)
LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
}
cases = pytest.mark.parametrize("case", CASES, ids=str)


def tensor(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def likelihood(
    kind: str, floor: float = 0.0, dtype: torch.dtype = torch.float64
) -> Likelihood:
    cls = LIKELIHOODS[kind]
    return cls(tensor(floor, dtype=dtype)) if cls.has_scale else cls()


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@continuous
@cases
def test_log_prob_is_scipys(kind: str, case: tuple[float, float, float]) -> None:
    m, s, floor = case
    partner = CONTINUOUS[kind](m, s, floor)
    x = partner.ppf([1e-6, 0.01, 0.3, 0.5, 0.8, 1 - 1e-6])
    mine = likelihood(kind, floor).log_prob((tensor(m), tensor(s)), tensor(*x))
    np.testing.assert_allclose(mine.numpy(), partner.logpdf(x), rtol=1e-10, atol=1e-10)


@continuous
@given(
    x=st.floats(-1e6, 1e6),
    m=st.floats(-1e6, 1e6),
    s=st.floats(-20.0, 20.0),
    floor=st.floats(1e-8, 10.0),
)
def test_log_prob_is_scipys_anywhere(
    kind: str, x: float, m: float, s: float, floor: float
) -> None:
    mine = likelihood(kind, floor).log_prob((tensor(m), tensor(s)), tensor(x))
    theirs = CONTINUOUS[kind](m, s, floor).logpdf(x)
    np.testing.assert_allclose(mine.item(), theirs, rtol=1e-9, atol=1e-9)


@continuous
@cases
def test_density_integrates_to_one(kind: str, case: tuple[float, float, float]) -> None:
    m, s, floor = case
    mine = likelihood(kind, floor)
    width = math.sqrt(math.exp(2 * s) + floor)

    def density(unit: float) -> float:
        x = tensor(m + width * unit)
        return math.exp(mine.log_prob((tensor(m), tensor(s)), x).item()) * width

    mass, _ = integrate.quad(density, -np.inf, np.inf)
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("logit", [-700.0, -40.0, -3.0, 0.0, 0.2, 5.0, 40.0, 700.0])
def test_bernoulli_log_prob_is_scipys(logit: float) -> None:
    zero, one = Bernoulli().log_prob((tensor(logit),), tensor(0.0, 1.0)).tolist()
    # torch's softplus is a straight line from 20 on: exp(-20) is what that leaves out
    exact = {"rel": 1e-12, "abs": math.exp(-20.0)}
    assert one == pytest.approx(special.log_expit(logit), **exact)
    assert zero == pytest.approx(special.log_expit(-logit), **exact)
    assert math.exp(zero) + math.exp(one) == pytest.approx(1.0, **exact)
    if abs(logit) < 30:
        theirs = stats.bernoulli(special.expit(logit)).logpmf([0, 1])
        np.testing.assert_allclose([zero, one], theirs, rtol=1e-10)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    x = tensor(0.0, 1.0, 1.0) if kind == "bernoulli" else tensor(-2.0, 0.1, 3.0)
    params = [tensor(-1.0, 0.1, 2.0), tensor(-0.5, 0.0, 1.0)]
    if kind == "bernoulli":
        params.pop()
    inputs = [p.requires_grad_() for p in (*params, x)]

    def log_prob(*inputs: Tensor) -> Tensor:
        return likelihood(kind, 0.05).log_prob(inputs[:-1], inputs[-1])

    assert torch.autograd.gradcheck(log_prob, inputs)


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(6, 3), (1, 3)], ids=["own scales", "one scale"])
def test_derivatives_are_autograds(kind: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.normal(size=(6, 3)) * [0.1, 1.0, 30.0])
    params = [torch.as_tensor(rng.normal(size=size)) for size in ((6, 3), shape)]
    if kind == "bernoulli":
        x, params = (x > 0).double(), params[:1]
    own, out = likelihood(kind, 0.05), [torch.full_like(x, math.nan) for _ in range(3)]
    own.differentiate(tuple(params), x, tuple(out[: 1 + len(params)]))
    leaves = [p.expand_as(x).clone().requires_grad_() for p in params]
    log_prob = own.log_prob(tuple(leaves), x)
    torch.testing.assert_close(out[0], log_prob.detach(), rtol=1e-12, atol=1e-12)
    derivatives = torch.autograd.grad(log_prob.sum(), leaves)
    for mine, theirs in zip(out[1:], derivatives, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_floor_keeps_the_gradient_of_the_scale(kind: str) -> None:
    # A clamp at the floor would have none: a scale below it could never come back.
    log_scale = tensor(-3.0).requires_grad_()
    log_prob = likelihood(kind, 0.1).log_prob((tensor(0.0), log_scale), tensor(2.0))
    log_prob.sum().backward()
    assert log_scale.grad is not None
    assert log_scale.grad.item() > 0.0


@continuous
@cases
def test_draws_follow_scipys_cdf(kind: str, case: tuple[float, float, float]) -> None:
    m, s, floor = case
    location = torch.full((4000, 1), m, dtype=torch.float64)
    draws = likelihood(kind, floor).sample((location, tensor(s)), source())
    partner = CONTINUOUS[kind](m, s, floor)
    assert stats.kstest(draws[:, 0].numpy(), partner.cdf).pvalue > 1e-3


@pytest.mark.parametrize("logit", [-4.0, -0.5, 0.0, 2.0])
def test_bernoulli_draws_have_their_frequency(logit: float) -> None:
    n, p = 4000, special.expit(logit)
    draws = Bernoulli().sample(
        (torch.full((n, 1), logit, dtype=torch.float64),), source()
    )
    ones = int(draws.sum())
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    observed, expected = [n - ones, ones], [n * (1 - p), n * p]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_draws_are_those_of_the_generator() -> None:
    params = (torch.zeros(50, 3, dtype=torch.float64), tensor(0.0, 0.0, 0.0))
    for own in (likelihood("gaussian", 0.1), likelihood("student_t", 0.1)):
        first, again = (own.sample(params, source(5)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, own.sample(params, source(6)))


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_mean_is_the_centre_of_the_density(kind: str) -> None:
    mean = likelihood(kind, 0.1).mean((tensor(-1.5, 2.0), tensor(0.3, 0.3)))
    medians = [CONTINUOUS[kind](m, 0.3, 0.1).median() for m in (-1.5, 2.0)]
    np.testing.assert_allclose(mean.numpy(), medians, atol=1e-12)


def test_mean_of_a_binary_cell_is_its_probability() -> None:
    logit = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    mean = Bernoulli().mean((tensor(*logit),))
    np.testing.assert_allclose(mean.numpy(), special.expit(logit), rtol=1e-12)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_variance_is_squared_scale_plus_floor(kind: str) -> None:
    own = likelihood(kind, 0.25)
    assert isinstance(own, Gaussian | StudentT)
    variance = own.variance((tensor(0.0), tensor(-200.0, 0.0)))
    np.testing.assert_allclose(variance.numpy(), [0.25, 1.25], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_extreme_parameters_stay_finite(kind: str, dtype: torch.dtype) -> None:
    location = tensor(-1e4, -50.0, 0.0, 50.0, 1e4, dtype=dtype)[:, None]
    log_scale = tensor(-1e4, -80.0, 0.0, 30.0, dtype=dtype)
    x = tensor(0.0, 1.0, dtype=dtype)[:, None, None]
    params = [location, log_scale] if LIKELIHOODS[kind].has_scale else [location]
    for p in params:
        p.requires_grad_()
    log_prob = likelihood(kind, 1e-8, dtype).log_prob(tuple(params), x)
    log_prob.sum().backward()
    assert log_prob.dtype == dtype
    assert log_prob.isfinite().all()
    for p in params:
        assert p.grad is not None
        assert p.grad.isfinite().all()


# -- mixed columns ---------------------------------------------------------------------

KINDS = ("gaussian", "gaussian", "student_t", "bernoulli", "bernoulli")
FLOOR = (0.01, 0.02, 0.03, 0.0, 0.0)


def mixed(n: int = 7, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Locations (n, 5), log-scales (n, 3) and cells (n, 5)."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(n, 5))
    cells[:, 3:] = rng.integers(0, 2, (n, 2))
    return rng.normal(size=(n, 5)), rng.normal(size=(n, 3)), cells


def mixed_scipy(
    kinds: tuple[str, ...], floor: tuple[float, ...], location: Any, log_scale: Any
) -> list[list[Any]]:
    """SciPy's distribution of every cell, by row and column."""
    table = []
    for m, s in zip(location, log_scale, strict=True):
        scales = iter(s)
        table.append(
            [
                CONTINUOUS[kind](m[j], next(scales), floor[j])
                if kind in CONTINUOUS
                else stats.bernoulli(special.expit(m[j]))
                for j, kind in enumerate(kinds)
            ]
        )
    return table


@pytest.mark.parametrize(
    "order", [(0, 1, 2, 3, 4), (3, 4, 0, 1, 2), (2, 0, 3, 1, 4), (2,), (3, 4)], ids=str
)
def test_each_column_has_the_likelihood_of_its_kind(order: tuple[int, ...]) -> None:
    location, log_scale, cells = mixed()
    scales = [j for j in order if j < 3]
    kinds, floor = tuple(KINDS[j] for j in order), tuple(FLOOR[j] for j in order)
    location, cells = location[:, order], cells[:, order]
    log_scale = log_scale[:, scales]
    table = TableLikelihood(kinds, tensor(*floor))
    params = (torch.as_tensor(location), torch.as_tensor(log_scale))
    partners = mixed_scipy(kinds, floor, location, log_scale)

    def theirs(ask: Callable[[Any, float], float]) -> list[list[float]]:
        return [
            [ask(partner, x) for partner, x in zip(row, own, strict=True)]
            for row, own in zip(partners, cells, strict=True)
        ]

    log_prob = table.log_prob(params, torch.as_tensor(cells))
    expected = theirs(
        lambda d, x: d.logpmf(x) if hasattr(d.dist, "logpmf") else d.logpdf(x)
    )
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=1e-10)
    # the median of a continuous cell, since Student's t of 2 degrees has no spread
    means = theirs(lambda d, x: d.mean() if hasattr(d.dist, "logpmf") else d.median())
    np.testing.assert_allclose(table.mean(params).numpy(), means, atol=1e-12)
    assert table.n_scales == len(scales)
    if scales:
        variance = np.exp(2 * log_scale) + [FLOOR[j] for j in scales]
        np.testing.assert_allclose(table.variance(params).numpy(), variance)


def test_draws_of_mixed_columns_follow_their_own_distribution() -> None:
    location, log_scale, _ = mixed(1)
    params = (
        torch.as_tensor(location).expand(4000, 5),
        torch.as_tensor(log_scale),
    )
    draws = TableLikelihood(KINDS, tensor(*FLOOR)).sample(params, source()).numpy()
    for j, partner in enumerate(mixed_scipy(KINDS, FLOOR, location, log_scale)[0]):
        if KINDS[j] == "bernoulli":
            p = partner.mean()
            counts = np.bincount(draws[:, j].astype(int), minlength=2)
            test = stats.chisquare(counts, 4000 * np.array([1 - p, p]))
        else:
            test = stats.kstest(draws[:, j], partner.cdf)
        assert test.pvalue > 1e-3
    ranks = np.abs(stats.spearmanr(draws).statistic - np.eye(5))
    assert ranks.max() < 4.0 / math.sqrt(4000)  # no column borrows another's numbers


def test_scales_broadcast_over_draws_and_members() -> None:
    location, log_scale, cells = (torch.as_tensor(a) for a in mixed())
    table = TableLikelihood(KINDS, tensor(*FLOOR))
    shared = log_scale[:1]
    stacked = location.expand(2, 3, -1, -1)
    wide = table.log_prob((stacked, shared[None, None]), cells[None, None])
    narrow = table.log_prob((location, shared.expand(7, -1)), cells)
    assert wide.shape == (2, 3, 7, 5)
    assert torch.equal(wide, narrow.expand(2, 3, -1, -1))


def test_another_precision_keeps_the_floor() -> None:
    table = TableLikelihood(KINDS, tensor(*FLOOR))
    narrow = table.to(torch.float32, torch.device("cpu"))
    assert narrow.floor.dtype == torch.float32
    location, log_scale, cells = (torch.as_tensor(a) for a in mixed())
    exact = table.log_prob((location, log_scale), cells)
    rough = narrow.log_prob((location.float(), log_scale.float()), cells.float())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=1e-5)
