"""Levels and counts against SciPy, sums, finite differences and their draws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from skvae.model.likelihoods import LIKELIHOODS, TableLikelihood

SHARES = (0.5, 0.2, 0.3)
COUNTS = ("poisson", "negative_binomial")
FLOOR = 0.04
LOG_SCALES = [-6.0, -1.0, 0.0, 1.5]


def own(
    kind: str, n: int = 1, levels: Any = None, floor: float = FLOOR
) -> TableLikelihood:
    """Some columns of one kind."""
    with_levels = kind in ("categorical", "ordinal")
    return TableLikelihood(
        (kind,) * n,
        torch.full((n,), floor, dtype=torch.float64),
        (levels or (SHARES,) * n) if with_levels else (),
        torch.full((n,), 0.3, dtype=torch.float64),
        torch.full((n,), 1.7, dtype=torch.float64),
        trials=6.0,
    )


def params(
    likelihood: TableLikelihood, *shape: int, seed: int = 0, size: float = 1.0
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(
        torch.as_tensor(size * rng.normal(size=(*shape, width)))
        for width in (likelihood.n_locations, likelihood.n_scales)
    )  # type: ignore[return-value]


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scipy_count(kind: str, location: float, log_scale: float) -> Any:
    mean = math.exp(location)
    if kind == "poisson":
        return stats.poisson(mean)
    dispersion = math.exp(2.0 * log_scale) + FLOOR
    return stats.nbinom(1.0 / dispersion, 1.0 / (1.0 + dispersion * mean))


def count_params(kind: str, location: float, log_scale: float) -> tuple[Tensor, Tensor]:
    return at(location), at(log_scale)[:, : own(kind).n_scales]


def ordinal_masses(eta: float, log_scale: float, shares: Any = SHARES) -> np.ndarray:
    scale = math.sqrt(math.exp(2.0 * log_scale) + FLOOR)
    cuts = special.logit(np.cumsum(shares)[:-1])
    below = [0.0, *stats.logistic.cdf((cuts - eta) / scale), 1.0]
    return np.diff(below)


# -- log_prob ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("location", [-4.0, 0.0, 1.3, 5.0])
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_counts_are_scipys(kind: str, location: float, log_scale: float) -> None:
    partner = scipy_count(kind, location, log_scale)
    x = np.array([0.0, 1.0, 2.0, 7.0, 40.0, 300.0])
    given = count_params(kind, location, log_scale)
    mine = own(kind).log_prob(given, at(*x))[:, 0]
    np.testing.assert_allclose(mine, partner.logpmf(x), rtol=1e-9, atol=1e-9)
    assert own(kind).mean(given).item() == pytest.approx(partner.mean(), rel=1e-12)
    cdf = own(kind).cdf(given, at(*x, 2.5, -1.0))[:, 0]
    np.testing.assert_allclose(cdf, partner.cdf([*x, 2.5, -1.0]), atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 15.9, 16.1, 1e3, 1e6])
def test_negative_binomial_is_scipys_for_any_size(size: float) -> None:
    # SciPy loses digits at large sizes itself: there the limit is Poisson's.
    likelihood = TableLikelihood(
        ("negative_binomial",), torch.zeros(1, dtype=torch.float64)
    )
    x = np.array([0.0, 1.0, 5.0, 60.0])
    given = at(1.0), at(-0.5 * math.log(size))
    partner = stats.nbinom(size, size / (size + math.e))
    mine = likelihood.log_prob(given, at(*x))[:, 0]
    np.testing.assert_allclose(mine, partner.logpmf(x), rtol=1e-7, atol=1e-7)


def test_negative_binomial_in_single_precision() -> None:
    # lgamma of the size alone would be wrong by whole nats.
    likelihood = own("negative_binomial", floor=1e-6).to(
        torch.float32, torch.device("cpu")
    )
    x = torch.tensor([0.0, 3.0, 20.0])[:, None]
    given = torch.tensor([[2.0]]), torch.tensor([[-20.0]])
    partner = stats.poisson(math.exp(2.0)).logpmf([0, 3, 20])
    np.testing.assert_allclose(likelihood.log_prob(given, x)[:, 0], partner, rtol=1e-3)


@pytest.mark.parametrize("eta", [-30.0, -2.0, 0.0, 0.4, 25.0])
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_ordinal_masses_are_differences_of_the_logistic(
    eta: float, log_scale: float
) -> None:
    likelihood, given = own("ordinal"), (at(eta), at(log_scale))
    mine = likelihood.log_prob(given, at(0.0, 1.0, 2.0))[:, 0]
    expected = ordinal_masses(eta, log_scale)
    np.testing.assert_allclose(mine.exp(), expected, atol=1e-12)
    assert mine.isfinite().all()
    assert likelihood.mean(given).item() == pytest.approx(
        expected @ [0, 1, 2], abs=1e-9
    )


def test_ordinal_without_a_code_has_the_observed_shares() -> None:
    # At location 0 and scale 1 the cutpoints are the logits of the shares themselves.
    likelihood = own("ordinal", 2, levels=(SHARES, (0.1, 0.9)), floor=0.0)
    given = (
        torch.zeros(1, 2, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.float64),
    )
    cells = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    masses = likelihood.log_prob(given, cells).exp()
    np.testing.assert_allclose(masses[:, 0], SHARES, rtol=1e-12)
    np.testing.assert_allclose(masses[:, 1], [0.1, 0.9, 0.9], rtol=1e-12)


def test_categorical_columns_are_softmaxes_side_by_side() -> None:
    levels = ((0.2, 0.8), (0.1,) * 10, SHARES)
    likelihood = own("categorical", 3, levels)
    location, none = params(likelihood, 4)
    parts = np.split(location.numpy(), [2, 12], axis=1)
    cells = torch.tensor([[0, 9, 2], [1, 0, 0], [1, 4, 1], [0, 5, 2]]).double()
    mine = likelihood.log_prob((location, none), cells).numpy()
    for j, part in enumerate(parts):
        each = special.log_softmax(part, axis=1)
        expected = each[np.arange(4), cells[:, j].long().numpy()]
        np.testing.assert_allclose(mine[:, j], expected, rtol=1e-12)
    mean = likelihood.mean((location, none)).numpy()
    np.testing.assert_allclose(
        mean, np.concatenate([special.softmax(p, axis=1) for p in parts], axis=1)
    )
    assert likelihood.n_levels == (2, 10, 3)
    assert likelihood.n_locations == 15


@pytest.mark.parametrize("holes", [False, True])
def test_multinomial_row_is_scipys(holes: bool) -> None:
    likelihood = own("multinomial", 4)
    location, none = params(likelihood, 1)
    x = torch.tensor([[3.0, 0.0, 5.0, 2.0]], dtype=torch.float64)
    observed = torch.ones_like(x)
    if holes:
        observed[0, 2], x[0, 2] = 0.0, 0.0
    seen = observed[0].numpy() > 0
    p = special.softmax(location[0].numpy()[seen])
    mine = likelihood.log_prob((location, none), x, observed)
    expected = stats.multinomial(int(x.sum()), p).logpmf(x[0].numpy()[seen])
    assert mine.sum().item() == pytest.approx(expected, rel=1e-10)
    assert (mine[observed == 0.0] == 0.0).all()


@pytest.mark.parametrize("kind", [*COUNTS, "ordinal", "categorical", "bernoulli"])
@pytest.mark.parametrize("seed", range(4))
def test_masses_sum_to_one(kind: str, seed: int) -> None:
    likelihood = own(kind)
    codes = max(likelihood.n_levels) or 4000
    given = params(likelihood, 1, seed=seed)
    log_prob = likelihood.log_prob(given, torch.arange(float(codes)).double()[:, None])
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


# -- derivatives -------------------------------------------------------------------


def cells_of(kind: str, *shape: int) -> Tensor:
    rng = np.random.default_rng(1)
    if kind in ("gaussian", "student_t"):
        return torch.as_tensor(rng.normal(size=shape))
    top = {"bernoulli": 2, "categorical": 3, "ordinal": 3}.get(kind, 9)
    return torch.as_tensor(rng.integers(0, top, shape).astype(float))


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_derivatives_are_those_of_finite_differences(kind: str) -> None:
    likelihood = own(kind, 2)
    x, given = cells_of(kind, 5, 2), params(likelihood, 5)
    out = (
        torch.full_like(x, torch.nan),
        *(torch.full_like(part, torch.nan) for part in given),
    )
    likelihood.differentiate(given, x, out)
    expected = likelihood.log_prob(given, x)
    torch.testing.assert_close(out[0], expected, rtol=1e-12, atol=1e-12)
    for i, derivative in enumerate(out[1:]):
        for j in range(derivative.shape[1]):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [part.clone() for part in given]
                moved[i][:, j] += step
                sides.append(likelihood.log_prob(tuple(moved), x).sum(-1))
            numeric = (sides[0] - sides[1]) / 2e-6
            torch.testing.assert_close(derivative[:, j], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("holes", [False, True])
def test_derivatives_are_autograds(kind: str, holes: bool) -> None:
    likelihood = own(kind, 3)
    x, given = cells_of(kind, 6, 3), params(likelihood, 6, size=2.0)
    observed = None
    if holes:
        observed = torch.as_tensor(np.random.default_rng(2).integers(0, 2, (6, 3)))
        observed = observed.to(x)
        x = x * observed
    out = (torch.empty_like(x), *(torch.empty_like(part) for part in given))
    likelihood.differentiate(given, x, out, observed)
    leaves = tuple(part.clone().requires_grad_() for part in given)
    log_prob = likelihood.log_prob(leaves, x, observed)
    torch.testing.assert_close(out[0], log_prob.detach(), rtol=1e-12, atol=1e-12)
    used = leaves[: 1 + bool(likelihood.n_scales)]
    for mine, theirs in zip(
        out[1:], torch.autograd.grad(log_prob.sum(), used), strict=False
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_extreme_parameters_stay_finite(kind: str, dtype: torch.dtype) -> None:
    likelihood = own(kind, 2, floor=1e-8).to(dtype, torch.device("cpu"))
    sizes = [-1e4, -60.0, 0.0, 60.0, 1e4]
    for first, last, log_scale in itertools.product(sizes, sizes, sizes):
        location = torch.full((1, likelihood.n_locations), last, dtype=dtype)
        location[0, 0] = first
        scales = torch.full((1, likelihood.n_scales), log_scale, dtype=dtype)
        leaves = (location.requires_grad_(), scales.requires_grad_())
        for x in (0.0, 1.0):
            cells = torch.full((1, 2), x, dtype=dtype)
            log_prob = likelihood.log_prob(leaves, cells)
            assert log_prob.isfinite().all()
            used = leaves[: 1 + bool(likelihood.n_scales)]
            for part in torch.autograd.grad(log_prob.sum(), used):
                assert part.isfinite().all()
            detached = tuple(leaf.detach() for leaf in leaves)
            out = (torch.empty_like(cells), *map(torch.empty_like, detached))
            likelihood.differentiate(detached, cells, out)
            assert all(part.isfinite().all() for part in out)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_information_is_the_variance_of_the_score(kind: str) -> None:
    # The score's covariance over draws is the Fisher information by the locations.
    likelihood = own(kind, 2)
    location, log_scale = params(likelihood, 1, seed=4)
    given = location.expand(20_000, -1), log_scale.expand(20_000, -1)
    cells = likelihood.sample(given, source(1))
    if kind == "multinomial":
        given = location.expand(20_000, -1), log_scale.expand(20_000, -1)
    out = (torch.empty_like(cells), *(torch.empty_like(part) for part in given))
    likelihood.differentiate(given, cells, out)
    score = out[1].numpy()
    slopes = torch.eye(likelihood.n_locations, dtype=torch.float64)[None]
    rooted = likelihood.root_information((location, log_scale), slopes)[0]
    mine = (rooted @ rooted.mT).numpy()
    products = score[:, :, None] * score[:, None, :]
    error = products.std(axis=0) / math.sqrt(20_000)
    assert (np.abs(products.mean(axis=0) - mine) < 5.0 * error + 1e-9).all()


# -- draws and masses of parts -----------------------------------------------------


@pytest.mark.parametrize("kind", [*COUNTS, "ordinal", "categorical", "multinomial"])
def test_draws_have_the_masses(kind: str) -> None:
    likelihood = own(kind, 2)
    location, log_scale = params(likelihood, 1, seed=2)
    n = 6000
    wide = location.expand(n, -1), log_scale.expand(n, -1)
    draws = likelihood.sample(wide, source(3))
    assert draws.shape == (n, 2)
    if kind == "multinomial":
        assert (draws.sum(1) == 6.0).all()
        p = special.softmax(location[0].numpy())[0]
        masses = stats.binom(6, p).pmf(np.arange(7))
    else:
        codes = torch.arange(60.0 if kind in COUNTS else 3.0).double()[:, None]
        masses = likelihood.log_prob((location, log_scale), codes.expand(-1, 2))
        masses = masses[:, 0].exp().numpy()
    seen = np.bincount(draws[:, 0].long().numpy(), minlength=len(masses))[: len(masses)]
    common = masses * n > 5.0
    expected = np.append(masses[common], 1.0 - masses[common].sum()).clip(1e-12) * n
    observed = np.append(seen[common], n - seen[common].sum())
    if expected[-1] < 1.0:
        expected, observed = expected[:-1], observed[:-1]
    test = stats.chisquare(observed, expected * observed.sum() / expected.sum())
    assert test.pvalue > 1e-3


RANGES = [
    (-math.inf, math.inf),
    (1.0, 2.0),
    (2.0, math.inf),
    (-math.inf, 0.5),
    (9.0, 12.0),
]


@pytest.mark.parametrize(
    "kind", [*COUNTS, "gaussian", "student_t", "ordinal", "bernoulli"]
)
@pytest.mark.parametrize("bounds", RANGES, ids=str)
def test_mass_and_draws_of_a_range(kind: str, bounds: tuple[float, float]) -> None:
    likelihood = own(kind)
    location, log_scale = at(0.4), at(-0.3)[:, : likelihood.n_scales]
    low, high = (at(bound) for bound in bounds)
    mine = likelihood.log_mass((location, log_scale), low, high).item()
    if kind in ("gaussian", "student_t"):
        scale = math.sqrt(math.exp(-0.6) + FLOOR)
        partner = stats.norm if kind == "gaussian" else stats.t(2)
        a, b = ((bound - 0.4) / scale for bound in bounds)
        expected = (
            partner.cdf(b) - partner.cdf(a) if b < 0 else partner.sf(a) - partner.sf(b)
        )
    else:
        codes = np.arange(max(likelihood.n_levels) or 400.0)
        inside = codes[(codes >= bounds[0]) & (codes <= bounds[1])]
        each = likelihood.log_prob((location, log_scale), at(*inside))
        expected = each.exp().sum().item()
    assert math.exp(mine) == pytest.approx(expected, rel=1e-8)
    if expected == 0.0:
        return
    n = 3000
    wide = location.expand(n, 1), log_scale.expand(n, -1)
    draws = likelihood.sample_within(wide, low, high, source(5))[:, 0]
    assert (draws >= low).all()
    assert (draws <= high).all()

    def share(x: float) -> float:
        part = likelihood.log_mass((location, log_scale), low, at(x).clamp(low, high))
        return math.exp(part.item() - mine)

    for quantile in (0.2, 0.5, 0.9):
        x = float(np.quantile(draws, quantile))
        below = float((draws <= x).double().mean())
        assert abs(below - share(x)) < 4.5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "negative_binomial"])
def test_ranges_far_in_the_tail_keep_their_mass(kind: str) -> None:
    likelihood, given = own(kind), (at(0.0), at(-9.0)[:, : own(kind).n_scales])
    low, high = at(60.0), at(math.inf)
    mass = likelihood.log_mass(given, low, high)
    assert mass.isfinite().all()
    assert mass.item() < -100.0
    wide = tuple(part.expand(50, -1) for part in given)
    draws = likelihood.sample_within(wide, low, high, source())
    assert (draws >= 60.0).all()
    assert (draws < 70.0).all()


# -- features, statistics, decisions -----------------------------------------------


def mixed() -> TableLikelihood:
    kinds = (
        "gaussian",
        "bernoulli",
        "categorical",
        "categorical",
        "ordinal",
        "poisson",
    )
    return TableLikelihood(
        kinds,
        torch.full((6,), 0.01, dtype=torch.float64),
        ((), (), (0.2, 0.8), SHARES, SHARES, ()),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.8, 1.1], dtype=torch.float64),
        torch.tensor([1.0, 1.0, 1.0, 1.0, 0.9, 0.5], dtype=torch.float64),
    )


def test_features_are_one_to_one_with_the_locations() -> None:
    likelihood = mixed()
    x = torch.tensor([[-0.4, 1.0, 1.0, 2.0, 0.0, 6.0]], dtype=torch.float64)
    expected = [-0.4, 1.0, 0, 1, 0, 0, 1, -0.8 / 0.9, (math.log(7.0) - 1.1) / 0.5]
    np.testing.assert_allclose(likelihood.features(x)[0], expected, rtol=1e-12)
    holed = torch.full_like(x, torch.nan)
    assert likelihood.features(holed).isnan().all()
    np.testing.assert_array_equal(
        likelihood.statistic(x)[0], [-0.4, 1.0, 0, 1, 0, 0, 1, 0.0, 6.0]
    )
    assert torch.equal(likelihood.decide(likelihood.statistic(x)), x)
    torch.testing.assert_close(
        likelihood.features_of(likelihood.statistic(x)), likelihood.features(x)
    )
    np.testing.assert_array_equal(likelihood.owner, [0, 1, 2, 2, 3, 3, 3, 4, 5])
    counted = likelihood.collapse(torch.ones(9, dtype=torch.float64))
    np.testing.assert_array_equal(counted, [1, 1, 2, 3, 1, 1])


def test_reference_features_are_what_the_others_leave() -> None:
    likelihood = mixed()
    np.testing.assert_array_equal(likelihood.reference.nonzero()[:, 0], [3, 4])
    x = torch.tensor([[-0.4, 1.0, 1.0, 2.0, 0.0, 6.0]], dtype=torch.float64)
    features = likelihood.features(x)
    rebuilt = likelihood.with_reference(features[:, ~likelihood.reference])
    torch.testing.assert_close(rebuilt, features)


def test_numeric_tables_pass_through_untouched() -> None:
    likelihood = own("gaussian", 3)
    x = torch.zeros(4, 3, dtype=torch.float64)
    assert likelihood.features(x) is x
    assert likelihood.statistic(x) is x
    assert likelihood.collapse(x) is x
    assert likelihood.spread(x) is x
