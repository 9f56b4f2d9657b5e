"""Rows that meet conditions, against truncated normals and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.inference.generation import Conditions, sample_given
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian
from skvae.model.priors import FullNormal
from tests.linear_models import covariance_of, model_of

LINEAR = LinearGaussian(
    np.array([3.0, 0.0, -1.0, 2.0]),
    np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.5], [1.0, -1.0]]),
    np.ones(4),
)
DENSE = covariance_of(LINEAR)
D, N = 4, 4000
MIXED = ("gaussian", "bernoulli", "categorical", "poisson")
LEVELS = ((), (), (0.4, 0.3, 0.2, 0.1), ())


def linear_model(members: int = 1) -> LatentModel:
    return model_of(LINEAR, members)


def mixed_model() -> LatentModel:
    model = LatentModel.build(
        kinds=MIXED,
        variance_floor=np.full(len(MIXED), 1e-4),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=1,
        levels=LEVELS,
    )
    flat = 0.8 * np.random.default_rng(2).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


def conditions(
    n_columns: int = D,
    ranges: dict[int, tuple[float, float]] | None = None,
    **members: list[float],
) -> Conditions:
    """Ranges by position, members as ``c2=[...]``."""
    low, high = np.full(n_columns, -np.inf), np.full(n_columns, np.inf)
    for column, (least, most) in (ranges or {}).items():
        low[column], high[column] = least, most
    given = {int(name[1:]): np.array(values) for name, values in members.items()}
    return Conditions(low, high, given)


def assert_normal(rows: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    unit = np.linalg.solve(np.linalg.cholesky(covariance), (rows - mean).T).T
    for column in unit.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert stats.kstest((unit**2).sum(1), stats.chi2(len(mean)).cdf).pvalue > 1e-3


def test_cells_that_equal_a_value_leave_the_conditional_normal() -> None:
    rows, size = sample_given(
        linear_model(), conditions(c1=[2.0], c3=[-1.5]), N, seed=0
    )
    assert rows.shape == (N, D)
    assert size > N
    assert (rows[:, 1] == 2.0).all()
    assert (rows[:, 3] == -1.5).all()
    o, m = [1, 3], [0, 2]
    gain = np.linalg.solve(DENSE[np.ix_(o, o)], DENSE[np.ix_(o, m)]).T
    mean = LINEAR.mean[m] + gain @ ([2.0, -1.5] - LINEAR.mean[o])
    assert_normal(rows[:, m], mean, DENSE[np.ix_(m, m)] - gain @ DENSE[np.ix_(o, m)])


@pytest.mark.parametrize("bounds", [(3.5, 4.0), (9.0, math.inf), (-math.inf, 1.0)])
@pytest.mark.parametrize("prior", [False, True])
def test_range_leaves_the_truncated_normal(
    bounds: tuple[float, float], prior: bool
) -> None:
    model, mean, dense = linear_model(), LINEAR.mean, DENSE
    if prior:
        centre, root = np.array([1.0, 0.5]), np.array([[0.5, 0.0], [0.4, 1.5]])
        model.prior = FullNormal(
            torch.as_tensor(centre)[None], torch.as_tensor(root)[None]
        )
        loadings = LINEAR.loadings @ root
        mean = LINEAR.mean + LINEAR.loadings @ centre
        dense = loadings @ loadings.T + np.diag(LINEAR.noise_variance)
    rows, size = sample_given(model, conditions(ranges={0: bounds}), N, seed=1)
    assert size > N / 2
    std = math.sqrt(dense[0, 0])
    cut = [(bound - mean[0]) / std for bound in bounds]
    assert (rows[:, 0] >= bounds[0]).all()
    assert (rows[:, 0] <= bounds[1]).all()
    law = stats.truncnorm(*cut, loc=mean[0], scale=std)
    assert stats.kstest(rows[:, 0], law.cdf).pvalue > 1e-3
    # The others given that cell are as ever.
    slope = dense[0, 1:] / dense[0, 0]
    left = rows[:, 1:] - mean[1:] - (rows[:, :1] - mean[0]) * slope
    assert_normal(
        left, np.zeros(3), dense[1:, 1:] - np.outer(slope, slope) * dense[0, 0]
    )


def test_sets_and_counts_follow_quadrature() -> None:
    model = mixed_model()
    wanted = conditions(len(MIXED), {3: (1.0, 3.0)}, c2=[1.0, 3.0], c0=[0.0, 1.5])
    rows, _ = sample_given(model, wanted, N, seed=0)
    z, step = np.linspace(-8, 8, 2001, retstep=True)
    params = model.decode(torch.as_tensor(z)[None, :, None, None])
    expected, cells = [], []
    for number in (0.0, 1.5):
        for bit in (0.0, 1.0):
            for level in (1.0, 3.0):
                for count in (1.0, 2.0, 3.0):
                    cell = [number, bit, level, count]
                    log_px = model.likelihood.log_prob(params, torch.tensor(cell))
                    density = np.exp(log_px[0, :, 0].sum(-1).numpy())
                    cells.append(cell)
                    expected.append((density * stats.norm.pdf(z)).sum() * step)
    share = np.array(expected) / np.sum(expected)
    observed = [(rows == cell).all(1).sum() for cell in cells]
    assert sum(observed) == N  # nothing else is drawn
    many = share * N > 5
    assert many.sum() > 6
    left = [sum(np.array(observed)[~many])], [share[~many].sum() * N]
    counts = np.append(np.array(observed)[many], left[0])
    theirs = np.append(share[many] * N, left[1])
    # Draws share codes: a little more spread than of independent ones.
    theirs = (theirs + 1) * (counts + 1).sum() / (theirs + 1).sum()
    assert stats.chisquare(counts + 1, theirs).pvalue > 1e-4


def test_members_are_mixed_by_how_well_they_meet_the_conditions() -> None:
    model = linear_model(2)
    model.params["decoder.bias"][1, :, 1] += 1000.0
    rows, _ = sample_given(model, conditions(ranges={1: (500.0, math.inf)}), 200, 0)
    assert (rows[:, 1] > 900.0).all()
    rows, _ = sample_given(model, conditions(c1=[0.0]), 200, 0)
    assert (np.abs(rows[:, 0] - 3.0) < 10.0).all()


def test_range_of_one_value_is_that_value() -> None:
    first, _ = sample_given(linear_model(), conditions(ranges={1: (2.0, 2.0)}), 50, 0)
    second, _ = sample_given(linear_model(), conditions(c1=[2.0]), 50, 0)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("ranges", [{0: (1e5, 2e5)}, {0: (3.0, 3.1), 2: (1e4, 2e4)}])
def test_conditions_of_no_probability_are_an_error(
    ranges: dict[int, tuple[float, float]],
) -> None:
    with pytest.raises(ValueError, match="must be possible, got ranges and sets"):
        sample_given(linear_model(), conditions(ranges=ranges), 10, 0)


def test_set_without_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value, got none"):
        sample_given(linear_model(), conditions(c1=[]), 10, 0)


def test_rows_are_those_of_the_seed() -> None:
    wanted = conditions(ranges={0: (3.0, 4.0)})
    first, again, other = (
        sample_given(linear_model(), wanted, 20, seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()


def test_no_condition_at_all_is_the_models_own_law() -> None:
    rows, _ = sample_given(linear_model(), conditions(), N, 0)
    assert_normal(rows, LINEAR.mean, DENSE)
