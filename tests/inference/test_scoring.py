"""Scores against closed forms; a row's score depends on nothing but the row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.inference import scoring
from skvae.inference.scoring import (
    SCORES,
    Score,
    draw_bank,
    read,
    read_score,
    score_rows,
)
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis
from skvae.model.priors import FullNormal
from tests.linear_models import covariance_of

D, K = 5, 2
KINDS = ("gaussian",) * 3 + ("bernoulli",) * 2
names = pytest.mark.parametrize("name", SCORES)


def gaussian_table(n: int = 150) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, K)) @ rng.normal(size=(K, D)) + rng.normal(size=(n, D))


def linear_gaussian() -> LinearGaussian:
    X = gaussian_table()
    return factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.3)


def build(hidden: tuple[int, ...] = (), members: int = 1, **kwargs: Any) -> LatentModel:
    given = {"kinds": ("gaussian",) * D, "n_free_scales": D, **kwargs}
    return LatentModel.build(
        variance_floor=np.full(D, 1e-6),
        n_components=K,
        hidden=hidden,
        activation="silu",
        n_members=members,
        **given,
    )


def linear_model(shift: float = 0.0, widen: float = 0.0) -> LatentModel:
    """The exact model, its posterior moved by so many of its standard deviations."""
    linear, model = linear_gaussian(), build()
    model.start_linear(linear)
    std = torch.as_tensor(linear.posterior()[2]).sqrt()
    model.params["encoder.bias"][..., :K] += shift * std
    model.params["encoder.bias"][..., K:] += widen
    return model


def random_model(members: int = 1) -> LatentModel:
    model = build((6,), members, kinds=KINDS, n_free_scales=None)
    flat = 0.4 * np.random.default_rng(1).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


def mixed_table(n: int = 40, holes: bool = True) -> np.ndarray:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, D))
    X[:, 3:] = rng.integers(0, 2, (n, 2))
    if holes:
        X[rng.random((n, D)) < 0.2] = np.nan
    return X


# -- the bank of draws -----------------------------------------------------------------


def test_bank_is_the_seeds_alone() -> None:
    bank = draw_bank(64, 3, 5)
    assert bank.shape == (64, 3)
    assert bank.dtype == np.float64
    np.testing.assert_array_equal(bank, draw_bank(64, 3, 5))
    assert not np.array_equal(bank, draw_bank(64, 3, 6))
    # Longer banks go on from shorter ones: more draws refine the same answer.
    np.testing.assert_array_equal(bank, draw_bank(128, 3, 5)[:64])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5])
def test_bank_is_standard_normal(seed: int) -> None:
    bank = draw_bank(2048, 3, seed)
    assert np.isfinite(bank).all()
    for column in bank.T:
        assert stats.kstest(column, "norm").statistic < 3.0 / 2048  # iid: 0.03
    assert np.abs(np.corrcoef(bank.T) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("k", [1, 4, 16])
def test_bank_is_more_even_than_independent_draws(k: int) -> None:
    even = stats.qmc.discrepancy(stats.norm.cdf(draw_bank(64, k, 0)))
    random = [
        stats.qmc.discrepancy(np.random.default_rng(seed).random((64, k)))
        for seed in range(20)
    ]
    assert even < min(random)


def test_bank_errs_less_than_independent_draws() -> None:
    # E exp(sum(z) / 2) for z ~ N(0, I_3) is exp(3 / 8)
    def error(bank: np.ndarray) -> float:
        return abs(np.exp(bank.sum(1) / 2).mean() - math.exp(3 / 8))

    seeds = range(20)
    even = np.mean([error(draw_bank(256, 3, s)) for s in seeds])
    generators = [np.random.default_rng(s) for s in seeds]
    random = np.mean([error(g.normal(size=(256, 3))) for g in generators])
    assert even < random / 3


# -- what the scores are ---------------------------------------------------------------


def test_log_likelihood_of_a_linear_model_is_exact() -> None:
    X, linear = gaussian_table(), linear_gaussian()
    mine = score_rows(linear_model(), X, draw_bank(2, K, 0), SCORES["log_likelihood"])
    dense = covariance_of(linear)
    theirs = stats.multivariate_normal(linear.mean, dense).logpdf(X)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)


def test_log_likelihood_corrects_a_wrong_posterior() -> None:
    X, exact = gaussian_table(), linear_gaussian().log_prob(gaussian_table())
    model, score = linear_model(0.5, 0.3), SCORES["log_likelihood"]
    errors = [
        np.abs(score_rows(model, X, draw_bank(n, K, 0), score) - exact).mean()
        for n in (16, 256, 4096)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3


@pytest.mark.parametrize("n", [64, 512])
def test_row_whose_posterior_the_encoder_misses_has_its_density(n: int) -> None:
    # Forty deviations off, every draw of q(z|x) says "impossible": some of the prior
    # keep the answer near the truth.
    model, linear, X = linear_model(), linear_gaussian(), gaussian_table()
    exact = linear.log_prob(X)
    model.params["encoder.bias"][..., :K] += 20.0
    mine = score_rows(model, X, draw_bank(n, K, 0), SCORES["log_likelihood"])
    blind = read(model, X, draw_bank(n, K, 0), lambda t: (t.log_weight[0].amax(0),))[0]
    assert np.median(np.abs(blind - exact)) > 50.0
    assert np.median(np.abs(mine - exact)) < 64.0 / n
    # never far above: an average of densities seldom is
    assert (mine - exact).max() < 3.0


def test_defensive_draws_leave_the_linear_limit_close() -> None:
    X, exact = gaussian_table(), linear_gaussian().log_prob(gaussian_table())
    mine = score_rows(linear_model(), X, draw_bank(64, K, 0), SCORES["log_likelihood"])
    assert np.abs(mine - exact).mean() < 0.02


def test_elbo_lies_below_the_density_by_the_kl_of_the_posteriors() -> None:
    X, exact = gaussian_table(), linear_gaussian().log_prob(gaussian_table())
    bound = score_rows(linear_model(0.5, 0.3), X, draw_bank(4096, K, 0), SCORES["elbo"])
    gap = K * 0.5 * (0.5**2 + math.exp(0.3) - 1 - 0.3)
    np.testing.assert_allclose(bound, exact - gap, atol=0.01)


def test_elbo_under_another_prior_is_the_one_of_that_prior() -> None:
    # p(z) = N(0, 4 I) with half the loadings is the same p(x).
    X, model = gaussian_table(), linear_model(0.5, 0.3)
    elbo, bank = SCORES["elbo"], draw_bank(4096, K, 0)
    before = score_rows(model, X, bank, elbo)
    model.params["decoder.path"].mul_(0.5)
    model.params["encoder.path"].mul_(2.0)
    model.params["encoder.bias"][..., :K] *= 2.0
    model.params["encoder.bias"][..., K:] += math.log(4.0)
    model.prior = FullNormal(
        torch.zeros(1, K, dtype=torch.float64), 2.0 * torch.eye(K).double()[None]
    )
    np.testing.assert_allclose(score_rows(model, X, bank, elbo), before, atol=0.01)


def test_reconstruction_probability_is_the_expected_density_of_the_cells() -> None:
    X, linear = gaussian_table(), linear_gaussian()
    mine = score_rows(
        linear_model(), X, draw_bank(4096, K, 0), SCORES["reconstruction_probability"]
    )
    weight, intercept, variance = linear.posterior()
    location = linear.mean + (X @ weight + intercept) @ linear.loadings.T
    noise = linear.noise_variance
    # E (x - mean - W z)^2 under q(z|x), column by column
    squares = (X - location) ** 2 + linear.loadings**2 @ variance
    theirs = -0.5 * (squares / noise + np.log(2 * np.pi * noise)).sum(1)
    np.testing.assert_allclose(mine, theirs, atol=0.01)


def test_reconstruction_is_minus_the_squared_error() -> None:
    X, linear = gaussian_table(), linear_gaussian()
    weight, intercept, _ = linear.posterior()
    location = linear.mean + (X @ weight + intercept) @ linear.loadings.T
    mine = score_rows(linear_model(), X, draw_bank(2, K, 0), SCORES["reconstruction"])
    np.testing.assert_allclose(mine, -((X - location) ** 2).sum(1), rtol=1e-9)


@names
def test_cells_and_a_latent_term_make_the_score(name: str) -> None:
    score, X = SCORES[name], mixed_table()

    def reading(terms: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return score.rows(terms), score.cells(terms)

    rows, cells = read_score(random_model(2), X, draw_bank(32, K, 0), score, reading)
    assert cells.shape == X.shape
    assert (cells[np.isnan(X)] == 0).all()
    if name.startswith("reconstruction") or name == "code_likelihood":
        np.testing.assert_allclose(cells.sum(1), rows)
    else:
        # what is left is minus the divergence of the code from its prior
        assert (rows - cells.sum(1) < 0).mean() > 0.9


def alone(model: LatentModel, member: int) -> LatentModel:
    one = build((6,), kinds=KINDS, n_free_scales=None)
    one.params.flat.copy_(model.params.flat[member : member + 1])
    return one


@names
def test_members_are_a_mixture(name: str) -> None:
    both, X, bank = random_model(2), mixed_table(), draw_bank(32, K, 0)
    single = np.array(
        [score_rows(alone(both, m), X, bank, SCORES[name]) for m in range(2)]
    )
    assert np.abs(single[0] - single[1]).min() > 1e-6
    theirs = single.mean(0)
    if name == "log_likelihood":  # a mixture's density is the mean of densities
        theirs = special.logsumexp(single, axis=0, b=0.5)
    np.testing.assert_allclose(score_rows(both, X, bank, SCORES[name]), theirs)


# -- a row's own affair ----------------------------------------------------------------


@names
@pytest.mark.parametrize("members", [1, 2])
def test_chunks_change_no_answer(
    name: str, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, X, bank = random_model(members), mixed_table(), draw_bank(32, K, 0)
    score: Score = SCORES[name]
    whole = score_rows(model, X, bank, score)
    for chunk in (1, 7 * 32 * members, 10**9):
        monkeypatch.setattr(scoring, "_CHUNK", chunk)
        np.testing.assert_allclose(
            score_rows(model, X, bank, score), whole, rtol=0, atol=1e-9
        )


@names
def test_other_rows_change_no_answer(name: str) -> None:
    model, X, bank = random_model(), mixed_table(300), draw_bank(64, K, 0)
    score = SCORES[name]
    whole = score_rows(model, X, bank, score)
    order = np.random.default_rng(0).permutation(300)
    shuffled = score_rows(model, X[order], bank, score)
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-9)
    for part in (slice(0, 1), slice(17, 93), [5, 5, 299]):
        np.testing.assert_allclose(
            score_rows(model, X[part], bank, score), whole[part], rtol=0, atol=1e-9
        )


def test_answers_have_the_models_precision_and_no_gradient() -> None:
    model, X, bank = random_model(), mixed_table(), draw_bank(8, K, 0)
    score = SCORES["log_likelihood"]
    exact = score_rows(model, X, bank, score)
    assert exact.dtype == np.float64
    narrow = model.to(torch.float32, torch.device("cpu"))
    rough = score_rows(narrow, X, bank, score)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, rtol=1e-4, atol=1e-4)


def test_no_rows_have_no_scores() -> None:
    empty = np.empty((0, D))
    rows = score_rows(random_model(), empty, draw_bank(8, K, 0), SCORES["elbo"])
    assert rows.shape == (0,)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let a device hold so many rows at most; the numbers of rows it is asked for."""
    asked: list[int] = []

    def guarded(answer: Any) -> Any:
        def call(model: LatentModel, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            asked.append(x.shape[-2])
            if x.shape[-2] > most:
                raise torch.cuda.OutOfMemoryError("tried to allocate")
            return answer(model, x, *args, **kwargs)

        return call

    monkeypatch.setattr(LatentModel, "__call__", guarded(LatentModel.__call__))
    monkeypatch.setattr(scoring, "propose", guarded(scoring.propose))
    return asked


@pytest.mark.parametrize("most", [1, 7, 20])
def test_chunks_get_smaller_where_memory_ends(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bank = linear_model(), draw_bank(16, K, 0)
    X = gaussian_table(61)
    X[::3, 1] = np.nan
    expected = score_rows(model, X, bank, SCORES["log_likelihood"])
    asked = short_of_memory(monkeypatch, most)
    scores = score_rows(model, X, bank, SCORES["log_likelihood"])
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert max(asked) > most
    # What was too much once is not tried again: a few halvings for either kind of rows.
    assert sum(n > most for n in asked) <= 2 * 6


def test_memory_for_less_than_a_row_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = short_of_memory(monkeypatch, 0)
    with pytest.raises(MemoryError, match=r"one row .* n_score_samples"):
        score_rows(
            linear_model(), gaussian_table(5), draw_bank(16, K, 0), SCORES["elbo"]
        )
    assert asked == [5, 2, 1]
