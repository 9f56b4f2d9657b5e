"""Codes of rows with holes against Gaussian conditioning, SciPy's optimiser, torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.distributions import MultivariateNormal, kl_divergence

from skvae.inference import proposals, scoring
from skvae.inference.imputation import conditional_mean
from skvae.inference.scoring import (
    SCORES,
    draw_bank,
    posterior_of,
    read,
    read_weighted,
    reconstruct,
    score_rows,
)
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis
from skvae.model.priors import FullNormal, Prior, StandardNormal
from skvae.model.terms import Terms
from tests.linear_models import covariance_of, model_of

D, K = 6, 2
MIXED = (
    "gaussian",
    "student_t",
    "bernoulli",
    "categorical",
    "ordinal",
    "poisson",
    "negative_binomial",
)
LEVELS = ((), (), (), (0.5, 0.3, 0.2), (0.2, 0.5, 0.3), (), ())
names = pytest.mark.parametrize("name", SCORES)


def gaussian_table(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n, K)) @ rng.normal(size=(K, D))
    return 1.0 + signal + 0.7 * rng.normal(size=(n, D))


def holed(n: int = 30, share: float = 0.4) -> np.ndarray:
    X = gaussian_table()[:n].copy()
    X[np.random.default_rng(1).random(X.shape) < share] = np.nan
    return X[np.isnan(X).any(1)]


def linear_gaussian() -> LinearGaussian:
    X = gaussian_table()
    return factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.2)


def linear_model() -> LatentModel:
    return model_of(linear_gaussian())


def full_normal() -> FullNormal:
    mean = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    return FullNormal(mean, torch.tensor([[[2.0, 0.0], [1.0, 0.3]]]).double())


def mixed_model(members: int = 1, n_free_scales: int | None = None) -> LatentModel:
    model = LatentModel.build(
        kinds=MIXED,
        variance_floor=np.full(len(MIXED), 1e-4),
        n_components=K,
        hidden=(6,),
        activation="silu",
        n_free_scales=n_free_scales,
        levels=LEVELS,
        n_members=members,
    )
    flat = 0.4 * np.random.default_rng(1).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


def mixed_table(n: int = 40, share: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(3)
    X = np.column_stack(
        [
            rng.normal(size=(n, 2)),
            rng.integers(0, 2, n),
            rng.integers(0, 3, (n, 2)),
            rng.poisson(1.5, (n, 2)),
        ]
    ).astype(float)
    X[rng.random(X.shape) < share] = np.nan
    return X


def given(row: np.ndarray, prior: FullNormal | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the code given the observed cells."""
    linear, seen = linear_gaussian(), ~np.isnan(row)
    mean, precision = np.zeros(K), np.eye(K)
    if prior is not None:
        root = prior.cholesky[0].numpy()
        mean, precision = prior.mean[0].numpy(), np.linalg.inv(root @ root.T)
    loadings = linear.loadings[seen] / linear.noise_variance[seen, None]
    covariance = np.linalg.inv(precision + loadings.T @ linear.loadings[seen])
    away = row[seen] - linear.mean[seen] - linear.loadings[seen] @ mean
    return mean + covariance @ loadings.T @ away, covariance


# -- the linear limit ------------------------------------------------------------------


@pytest.mark.parametrize("prior", [None, full_normal()], ids=["standard", "full"])
def test_linear_rows_have_their_exact_posterior_density_and_bound(
    prior: FullNormal | None,
) -> None:
    model, X, linear = linear_model(), holed(), linear_gaussian()
    model.prior = prior or model.prior
    mean, std = posterior_of(model, X)
    bank = draw_bank(4, K, 0)  # too few for a defensive share: the rest is exact
    score = score_rows(model, X, bank, SCORES["log_likelihood"])
    many = draw_bank(4096, K, 0)
    bound = score_rows(model, X, many, SCORES["elbo"])
    for i, row in enumerate(X):
        seen = ~np.isnan(row)
        expected, covariance = given(row, prior)
        np.testing.assert_allclose(mean[i], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(std[i], np.sqrt(covariance.diagonal()), rtol=1e-8)
        start, root = np.zeros(K), np.eye(K)
        if prior is not None:
            start, root = prior.mean[0].numpy(), prior.cholesky[0].numpy()
        loadings = linear.loadings @ root
        dense = loadings @ loadings.T + np.diag(linear.noise_variance)
        exact = stats.multivariate_normal(
            (linear.mean + linear.loadings @ start)[seen], dense[np.ix_(seen, seen)]
        ).logpdf(row[seen])
        np.testing.assert_allclose(score[i], exact, rtol=1e-8)
        # closed-form divergence, cells over many draws
        np.testing.assert_allclose(bound[i], exact, atol=0.01)


def test_complete_rows_ask_the_encoder_and_keep_their_place() -> None:
    X, bank = gaussian_table()[:20].copy(), draw_bank(16, K, 0)
    score, model = SCORES["log_likelihood"], linear_model()
    model.params["encoder.bias"][..., :K] += 0.3  # no longer the exact posterior
    whole, (mean, _) = score_rows(model, X, bank, score), posterior_of(model, X)
    X[3:7, 2] = np.nan
    mixed, (codes, _) = score_rows(model, X, bank, score), posterior_of(model, X)
    rest = np.r_[:3, 7:20]
    np.testing.assert_allclose(mixed[rest], whole[rest], rtol=1e-12)
    np.testing.assert_allclose(codes[rest], mean[rest], rtol=1e-12)
    for i in range(3, 7):
        np.testing.assert_allclose(codes[i], given(X[i], None)[0], rtol=1e-8)


# -- rows of which nothing is known ----------------------------------------------------


@names
def test_row_of_holes_has_no_score(name: str) -> None:
    X = np.vstack([np.full(len(MIXED), np.nan), mixed_table(3)])
    bank = draw_bank(64, K, 0)
    assert score_rows(mixed_model(2), X, bank, SCORES[name])[0] == 0.0


@pytest.mark.parametrize("prior", [None, full_normal()], ids=["standard", "full"])
def test_row_of_holes_lies_where_the_prior_does(prior: FullNormal | None) -> None:
    model = mixed_model()
    model.prior = prior or model.prior
    mean, std = posterior_of(model, np.full((1, len(MIXED)), np.nan))
    expected = np.zeros(K) if prior is None else prior.mean[0].numpy()
    spread = np.ones(K)
    if prior is not None:
        spread = np.sqrt((prior.cholesky[0] ** 2).sum(-1).numpy())
    np.testing.assert_allclose(mean[0], expected, atol=1e-12)
    np.testing.assert_allclose(std[0], spread, rtol=1e-12)


# -- the mode --------------------------------------------------------------------------


@pytest.mark.parametrize("n_free_scales", [None, 4], ids=["network", "column"])
def test_mode_is_where_scipy_finds_it(n_free_scales: int | None) -> None:
    model, X = mixed_model(n_free_scales=n_free_scales), mixed_table(16)
    X = X[np.isnan(X).any(1)]
    mine, _ = posterior_of(model, X)

    def minus_joint(z: np.ndarray, row: np.ndarray) -> float:
        code, seen = torch.as_tensor(z).view(1, 1, 1, K), ~np.isnan(row)
        cells = torch.as_tensor(np.nan_to_num(row))
        log_px = model.likelihood.log_prob(model.decode(code), cells).flatten()
        return float(0.5 * z @ z - log_px[torch.as_tensor(seen)].sum())

    for row, code in zip(X, mine, strict=True):
        best = optimize.minimize(minus_joint, code, (row,), method="Nelder-Mead")
        assert minus_joint(code, row) - best.fun < 1e-5
        np.testing.assert_allclose(code, best.x, atol=5e-3)


def test_slopes_are_those_of_finite_differences() -> None:
    model = mixed_model(2)
    model.prior = FullNormal(
        full_normal().mean.expand(2, -1), full_normal().cholesky.expand(2, -1, -1)
    )
    u = torch.as_tensor(np.random.default_rng(0).normal(size=(2, 5, K)))
    by_location, by_log_scale = proposals._slopes(model, model.prior.at(u))
    assert by_log_scale is not None
    for j in range(K):
        move = torch.zeros_like(u)
        move[..., j] = 1e-6
        up, down = (
            model.decode(model.prior.at(u + sign * move)[:, None]) for sign in (1, -1)
        )
        for mine, high, low in zip((by_location, by_log_scale), up, down, strict=True):
            np.testing.assert_allclose(
                mine[:, :, j], (high - low)[:, 0] / 2e-6, rtol=1e-6, atol=1e-8
            )


def test_score_is_that_of_quadrature() -> None:
    # Two components, so that a grid is an independent way to p(observed cells).
    model, X = mixed_model(), mixed_table(8)
    mine = score_rows(model, X, draw_bank(4096, K, 0), SCORES["log_likelihood"])
    axis, step = np.linspace(-7.0, 7.0, 281, retstep=True)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, K)
    params = model.decode(torch.as_tensor(z)[None, :, None])
    weight = stats.norm.pdf(z).prod(1) * step**2
    for row, own in zip(X, mine, strict=True):
        seen = ~np.isnan(row)
        cells = torch.as_tensor(np.nan_to_num(row))
        log_px = model.likelihood.log_prob(params, cells)[0, :, 0].numpy()
        exact = np.log(weight @ np.exp(log_px[:, seen].sum(1)))
        assert own == pytest.approx(exact, abs=0.02)


# -- terms of a full covariance --------------------------------------------------------


@pytest.mark.parametrize(
    "prior", [StandardNormal(), full_normal()], ids=["std", "full"]
)
def test_divergence_is_torchs(prior: StandardNormal | FullNormal) -> None:
    rng = np.random.default_rng(0)
    mean = torch.as_tensor(rng.normal(size=(1, 4, K)))
    spread = torch.as_tensor(rng.normal(size=(1, 4, K, K)))
    covariance = spread @ spread.mT
    centre, root = torch.zeros(K).double(), torch.eye(K).double()
    if isinstance(prior, FullNormal):
        centre, root = prior.mean[0], prior.cholesky[0]
    p = MultivariateNormal(centre, scale_tril=root)
    log_variance = covariance.diagonal(dim1=-2, dim2=-1).log()
    kl = prior.kl(mean, log_variance, spread)
    expected = kl_divergence(MultivariateNormal(mean, covariance), p)
    np.testing.assert_allclose(kl.sum(-1), expected, rtol=1e-9)
    diagonal = torch.diag_embed(log_variance.exp())
    kl = prior.kl(mean, log_variance)
    expected = kl_divergence(MultivariateNormal(mean, diagonal), p)
    np.testing.assert_allclose(kl.sum(-1), expected, rtol=1e-9)


def test_divergence_without_a_formula_is_that_of_the_draws() -> None:
    class Bare(StandardNormal):
        def kl(self, *given: object) -> None:  # type: ignore[override]
            return None

    X, bank = holed(), draw_bank(4096, K, 0)

    def reading(terms: Terms) -> tuple[torch.Tensor]:
        return (terms.kl.sum(-1)[0],)

    model = linear_model()
    exact = read(model, X, bank, reading)[0]
    model.prior = Bare()
    np.testing.assert_allclose(read(model, X, bank, reading)[0], exact, atol=0.02)


def test_draws_have_the_density_that_they_are_weighed_by() -> None:
    model, X, bank = mixed_model(), mixed_table(5), draw_bank(16, K, 0)

    def reading(terms: Terms) -> tuple[torch.Tensor, ...]:
        assert terms.spread is not None
        parts = terms.z[0].movedim(1, 0), terms.log_qz[0].T
        return (terms.mean[0], terms.spread[0], *parts)

    holes = X[np.isnan(X).any(1)]
    for mean, root, z, log_q in zip(
        *read_weighted(model, holes, bank, reading), strict=True
    ):
        assert len(z) == 18  # sixteen of its own, two of the prior
        own = stats.multivariate_normal(mean, root @ root.T).pdf(z)
        prior = stats.multivariate_normal(np.zeros(K)).pdf(z)
        np.testing.assert_allclose(np.exp(log_q), (16 * own + 2 * prior) / 18)


# -- a row's own affair ----------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2])
def test_rows_chunks_and_company_change_no_answer(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, X, bank = mixed_model(members), mixed_table(20), draw_bank(32, K, 0)

    def answers(rows: np.ndarray) -> np.ndarray:
        scores = [score_rows(model, rows, bank, score) for score in SCORES.values()]
        return np.column_stack(
            [
                *scores,
                *posterior_of(model, rows),
                reconstruct(model, rows),
                conditional_mean(model, rows, bank),
            ]
        )

    whole = answers(X)
    assert np.isfinite(whole).all()
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(answers(X[order]), whole[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(answers(X[[13]]), whole[[13]], rtol=0, atol=1e-9)
    monkeypatch.setattr(scoring, "_CHUNK", 200 * members)
    np.testing.assert_allclose(answers(X), whole, rtol=0, atol=1e-9)


# -- a prior that is no Gaussian -------------------------------------------------------


class TwoNormals(Prior):
    """Half N(shift, I), half N(-shift, I): no formula for its divergence."""

    shift = torch.tensor([1.2, -0.8], dtype=torch.float64)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        one, other = (
            StandardNormal().log_prob(z + s) for s in (self.shift, -self.shift)
        )
        return torch.logaddexp(one, other) - np.log(2.0)

    def sample(self, *given: object) -> torch.Tensor:
        raise NotImplementedError

    def normal(self) -> FullNormal:
        covariance = torch.eye(K) + torch.outer(self.shift, self.shift)
        return FullNormal(
            torch.zeros(1, K).double(), torch.linalg.cholesky(covariance)[None]
        )


def test_prior_that_is_no_gaussian_is_proposed_by_one_and_weighed_by_itself() -> None:
    model, X, linear = linear_model(), holed(12), linear_gaussian()
    model.prior = TwoNormals()
    bank, bound = draw_bank(4096, K, 0), SCORES["elbo"]
    score = score_rows(model, X, bank, SCORES["log_likelihood"])
    assert (score_rows(model, X, bank, bound) < score + 1e-3).all()
    filled = conditional_mean(model, X, bank)
    dense = covariance_of(linear)
    for row, own, cells in zip(X, score, filled, strict=True):
        o, m = ~np.isnan(row), np.isnan(row)
        gain = np.linalg.solve(dense[np.ix_(o, o)], dense[np.ix_(o, m)]).T
        density, mean = [], []
        for sign in (1.0, -1.0):
            centre = linear.mean + sign * linear.loadings @ TwoNormals.shift.numpy()
            law = stats.multivariate_normal(centre[o], dense[np.ix_(o, o)])
            density.append(0.5 * law.pdf(row[o]))
            mean.append(centre[m] + gain @ (row[o] - centre[o]))
        assert own == pytest.approx(np.log(sum(density)), abs=0.02)
        exact = np.average(mean, axis=0, weights=density)
        np.testing.assert_allclose(cells[m], exact, atol=0.05)
    nothing = np.full((1, D), np.nan)
    for name in SCORES:
        assert score_rows(model, nothing, bank[:64], SCORES[name])[0] == 0.0
    np.testing.assert_allclose(posterior_of(model, nothing)[0], 0.0, atol=1e-12)
