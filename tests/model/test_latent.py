"""Terms of the latent-variable model against SciPy and Gaussian closed forms."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis, probabilistic_pca
from skvae.model.priors import FullNormal
from skvae.model.terms import Terms

D, K, ROWS, DRAWS = 5, 2, 6, 4
FLOOR = 1e-6


def gaussian_table(n: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=D) + rng.uniform(0.3, 1.0, D) * rng.normal(size=(n, D))
    return mean + rng.normal(size=(n, K)) @ rng.normal(size=(K, D))


def linear_gaussian(noise: str = "column") -> LinearGaussian:
    X = gaussian_table()
    fit = probabilistic_pca if noise == "shared" else factor_analysis
    return fit(X.mean(0), np.cov(X, rowvar=False), K, floor=0.1)


def build(hidden: tuple[int, ...] = (), members: int = 1, **kwargs: Any) -> LatentModel:
    given = {
        "kinds": ("gaussian",) * D,
        "variance_floor": np.full(D, FLOOR),
        "n_free_scales": D,
        **kwargs,
    }
    return LatentModel.build(
        n_components=K, hidden=hidden, activation="silu", n_members=members, **given
    )


def linear_model(hidden: tuple[int, ...] = (), noise: str = "column") -> LatentModel:
    free = {"column": D, "shared": 1, "network": None}[noise]
    model = build(hidden, n_free_scales=free)
    model.start_random([0], network_only=True)
    model.start_linear(linear_gaussian(noise))
    return model


def random_model(members: int = 1, seed: int = 0, **kwargs: Any) -> LatentModel:
    """A model whose every parameter has some random value."""
    model = build((7,), members, **kwargs)
    flat = 0.3 * np.random.default_rng(seed).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


def normal(*shape: int, seed: int = 2) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def rows(n: int = ROWS, members: int = 1) -> Tensor:
    return torch.as_tensor(gaussian_table()[:n]).expand(members, -1, -1)


# -- the terms of any model ------------------------------------------------------------

models = pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"n_free_scales": None},
        {"n_free_scales": 1},
        {"kinds": ("gaussian",) * 3 + ("bernoulli",) * 2, "n_free_scales": 3},
    ],
    ids=["column", "network", "shared", "mixed"],
)


def terms_of(model: LatentModel, observed: Tensor | None = None) -> Terms:
    members = model.n_members
    x, unit = rows(members=members), normal(members, DRAWS, ROWS, K)
    return model(x, unit, observed=observed)


@models
def test_draws_and_log_qz_are_those_of_the_posterior(kwargs: dict[str, Any]) -> None:
    terms = terms_of(random_model(2, **kwargs))
    std = np.exp(0.5 * terms.log_variance.numpy())[:, None]
    posterior = stats.norm(terms.mean.numpy()[:, None], std)
    unit = normal(2, DRAWS, ROWS, K).numpy()
    z = terms.z.numpy()
    np.testing.assert_allclose(z, posterior.ppf(stats.norm.cdf(unit)), rtol=1e-6)
    assert terms.log_qz.shape == (2, DRAWS, ROWS)
    np.testing.assert_allclose(terms.log_qz.numpy(), posterior.logpdf(z).sum(-1))


@models
def test_log_pz_is_scipys(kwargs: dict[str, Any]) -> None:
    terms = terms_of(random_model(2, **kwargs))
    theirs = stats.multivariate_normal(np.zeros(K)).logpdf(terms.z.numpy())
    np.testing.assert_allclose(terms.log_pz.numpy(), theirs)


def test_log_pz_of_another_prior_is_scipys() -> None:
    model = random_model(2)
    mean, cholesky = normal(2, K), torch.tensor([[1.5, 0.0], [0.7, 0.3]]).double()
    model.prior = FullNormal(mean, cholesky.expand(2, K, K))
    terms = terms_of(model)
    for member in range(2):
        theirs = stats.multivariate_normal(mean[member], cholesky @ cholesky.T)
        np.testing.assert_allclose(
            terms.log_pz[member].numpy(), theirs.logpdf(terms.z[member].numpy())
        )


@models
def test_kl_is_torchs(kwargs: dict[str, Any]) -> None:
    terms = terms_of(random_model(2, **kwargs))
    posterior = Normal(terms.mean, torch.exp(0.5 * terms.log_variance))
    theirs = kl_divergence(posterior, Normal(torch.zeros(K), torch.ones(K)))
    assert terms.kl.shape == (2, ROWS, K)
    torch.testing.assert_close(terms.kl, theirs)
    assert (terms.kl > 0).all()


def test_kl_is_the_mean_of_its_draws() -> None:
    n = 40_000
    model = random_model()
    terms = model(rows(), normal(1, n, ROWS, K))
    single = (terms.log_qz - terms.log_pz)[0]
    error = single.std(0) / math.sqrt(n)
    off = single.mean(0) - terms.kl[0].sum(-1)
    assert (off.abs() < 4.0 * error).all()


@models
def test_log_px_is_the_density_of_the_decoded_cells(kwargs: dict[str, Any]) -> None:
    model = random_model(2, **kwargs)
    terms = terms_of(model)
    location, log_scale = model.decode(terms.z)
    std = np.sqrt(np.exp(2.0 * log_scale.numpy()) + FLOOR)
    n_scales = std.shape[-1] if std.shape[-1] > 1 else D
    cells = rows(members=2).numpy()[:, None]
    x, m = cells[..., :n_scales], location.numpy()[..., :n_scales]
    mine = terms.log_px.numpy()
    assert mine.shape == (2, DRAWS, ROWS, D)
    np.testing.assert_allclose(mine[..., :n_scales], stats.norm(m, std).logpdf(x))
    logit, x = location.numpy()[..., n_scales:], cells[..., n_scales:]
    theirs = x * special.log_expit(logit) + (1 - x) * special.log_expit(-logit)
    np.testing.assert_allclose(mine[..., n_scales:], theirs, rtol=1e-9)


@models
def test_log_weight_puts_the_terms_together(kwargs: dict[str, Any]) -> None:
    terms = terms_of(random_model(2, **kwargs))
    theirs = terms.log_px.numpy().sum(-1) + (terms.log_pz - terms.log_qz).numpy()
    np.testing.assert_allclose(terms.log_weight.numpy(), theirs)


@pytest.mark.parametrize("full_prior", [False, True])
def test_defensive_draws_are_of_the_mixture_that_log_qz_tells(full_prior: bool) -> None:
    model, n_prior = random_model(2), 2
    prior_mean, cholesky = np.zeros((2, K)), np.eye(K)
    if full_prior:
        prior_mean = normal(2, K, seed=4).numpy()
        cholesky = np.array([[1.5, 0.0], [0.7, 0.3]])
        model.prior = FullNormal(
            torch.as_tensor(prior_mean),
            torch.as_tensor(cholesky).expand(2, K, K).contiguous(),
        )
    unit = normal(1, DRAWS, 1, K)  # shared by members and rows, as in scoring
    terms = model(rows(members=2), unit, n_prior=n_prior)
    plain = model(rows(members=2), unit)
    z = terms.z.numpy()
    assert z.shape == (2, DRAWS + n_prior, ROWS, K)
    torch.testing.assert_close(terms.z[:, :DRAWS], plain.z)
    share = n_prior / (DRAWS + n_prior)
    std = np.exp(0.5 * terms.log_variance.numpy())
    for member in range(2):
        expected = prior_mean[member] + unit[0, :n_prior].numpy() @ cholesky.T
        own = z[member, DRAWS:]
        np.testing.assert_allclose(own, np.broadcast_to(expected, own.shape))
        prior = stats.multivariate_normal(prior_mean[member], cholesky @ cholesky.T)
        posterior = stats.norm(terms.mean[member].numpy(), std[member])
        density = share * prior.pdf(z[member])
        density += (1.0 - share) * posterior.pdf(z[member]).prod(-1)
        mine = terms.log_qz[member].numpy()
        np.testing.assert_allclose(mine, np.log(density), rtol=1e-8)


def test_no_draws_means_the_posterior_mean() -> None:
    terms = random_model()(rows(), None)
    assert torch.equal(terms.z, terms.mean[:, None])
    assert terms.log_px.shape == (1, 1, ROWS, D)


def test_draws_shared_by_all_rows_are_those_repeated() -> None:
    model, unit = random_model(), normal(1, DRAWS, 1, K)
    shared = model(rows(), unit)
    repeated = model(rows(), unit.expand(-1, -1, ROWS, -1))
    torch.testing.assert_close(shared.log_weight, repeated.log_weight)


def test_wild_rows_keep_the_terms_finite() -> None:
    model = random_model()
    x = 1e6 * rows()
    terms = model(x, normal(1, DRAWS, ROWS, K))
    assert terms.log_weight.isfinite().all()
    assert terms.kl.isfinite().all()


# -- the linear-Gaussian model, where everything is known ------------------------------

linear_models = pytest.mark.parametrize("noise", ["column", "shared", "network"])
with_network = pytest.mark.parametrize("hidden", [(), (6,)], ids=["linear", "network"])


@linear_models
@with_network
def test_every_draw_of_a_linear_start_weighs_the_exact_density(
    noise: str, hidden: tuple[int, ...]
) -> None:
    linear, model = linear_gaussian(noise), linear_model(hidden, noise)
    terms = model(rows(), normal(1, DRAWS, ROWS, K))
    dense = linear.loadings @ linear.loadings.T + np.diag(linear.noise_variance)
    exact = stats.multivariate_normal(linear.mean, dense).logpdf(rows()[0].numpy())
    np.testing.assert_allclose(linear.log_prob(rows()[0]), exact, rtol=1e-9)
    np.testing.assert_allclose(
        terms.log_weight[0].numpy(), np.broadcast_to(exact, (DRAWS, ROWS)), rtol=1e-9
    )
    logmeanexp = special.logsumexp(terms.log_weight[0].numpy(), axis=0, b=1 / DRAWS)
    np.testing.assert_allclose(logmeanexp, exact, rtol=1e-9)


def test_shared_scale_is_one_in_the_units_of_the_offset() -> None:
    units = np.array([1.0, 10.0, 0.1, 3.0, 0.5])
    X = gaussian_table()
    linear = probabilistic_pca(X.mean(0), np.cov(X.T), K, units=units)
    model = build(n_free_scales=1, scale_offset=-np.log(units))
    model.start_linear(linear)
    variance = model.likelihood.variance(model.decode(normal(1, 1, 1, K)))
    own = variance.numpy().ravel() * units**2
    np.testing.assert_allclose(own, own[0], rtol=1e-3)  # the floor is not shared
    np.testing.assert_allclose(own, linear.noise_variance * units**2, rtol=1e-3)
    log_weight = model(rows(), normal(1, DRAWS, ROWS, K)).log_weight[0]
    exact = np.broadcast_to(linear.log_prob(rows()[0]), (DRAWS, ROWS))
    np.testing.assert_allclose(log_weight.numpy(), exact, rtol=1e-3)


def holes(seed: int = 5) -> np.ndarray:
    """1 where observed; at least one observed cell a row."""
    observed = np.random.default_rng(seed).random((ROWS, D)) < 0.6
    observed[:, 0] = True
    return observed


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_missing_cells_leave_the_joint_density_of_the_observed(fill: float) -> None:
    # log p(x_observed, z) of each draw, wherever the posterior put it.
    linear, model = linear_gaussian(), linear_model()
    observed, x = holes(), rows()[0].numpy()
    filled = torch.as_tensor(np.where(observed, x, fill))[None]
    mask = torch.as_tensor(observed.astype(float))[None]
    terms = model(filled, normal(1, DRAWS, ROWS, K), observed=mask)
    assert (terms.log_px[:, :, ~torch.as_tensor(observed)] == 0).all()
    joint = (terms.log_px.sum(-1) + terms.log_pz)[0].numpy()
    loadings = np.vstack([linear.loadings, np.eye(K)])
    covariance = loadings @ loadings.T
    covariance[:D, :D] += np.diag(linear.noise_variance)
    mean = np.concatenate([linear.mean, np.zeros(K)])
    for i in range(ROWS):
        kept = np.concatenate([np.flatnonzero(observed[i]), D + np.arange(K)])
        theirs = stats.multivariate_normal(mean[kept], covariance[np.ix_(kept, kept)])
        for draw in range(DRAWS):
            z = terms.z[0, draw, i].numpy()
            point = np.concatenate([x[i, observed[i]], z])
            assert joint[draw, i] == pytest.approx(theirs.logpdf(point), rel=1e-9)


def test_weights_of_incomplete_rows_average_to_the_marginal_likelihood() -> None:
    linear, model = linear_gaussian(), linear_model()
    observed, x = holes(), rows()[0].numpy()
    # broader than the prior, so that the weights of its draws have a small variance
    model.params["encoder.bias"][..., K:] = math.log(2.0)
    n = 60_000
    terms = model(
        torch.as_tensor(np.where(observed, x, linear.mean))[None],
        normal(1, n, ROWS, K),
        observed=torch.as_tensor(observed.astype(float))[None],
    )
    log_weight = terms.log_weight[0].numpy()
    estimate = special.logsumexp(log_weight, axis=0, b=1 / n)
    dense = linear.loadings @ linear.loadings.T + np.diag(linear.noise_variance)
    for i, seen in enumerate(observed):
        exact = stats.multivariate_normal(linear.mean[seen], dense[np.ix_(seen, seen)])
        ratio = np.exp(log_weight[:, i] - exact.logpdf(x[i, seen]))
        error = ratio.std() / math.sqrt(n)
        assert error < 0.05
        assert math.exp(estimate[i] - exact.logpdf(x[i, seen])) == pytest.approx(
            1.0, abs=4.0 * error
        )


def test_binary_columns_start_at_their_frequency() -> None:
    rng = np.random.default_rng(0)
    X = gaussian_table()
    X[:, 3:] = rng.random((len(X), 2)) < [0.1, 0.7]
    model = build(kinds=("gaussian",) * 3 + ("bernoulli",) * 2, n_free_scales=3)
    model.start_linear(factor_analysis(X.mean(0), np.cov(X.T, ddof=0), K))
    mean = model.likelihood.mean(model.decode(torch.zeros(1, 1, 1, K).double()))
    np.testing.assert_allclose(mean.numpy().ravel(), X.mean(0), rtol=1e-9)


def test_projecting_start_reconstructs_as_least_squares() -> None:
    X = gaussian_table()
    linear = probabilistic_pca(X.mean(0), np.cov(X.T), K)
    model = build(n_free_scales=1)
    model.start_linear(linear, project=True)
    terms = model(torch.as_tensor(X)[None], None)
    mine = model.likelihood.mean(terms.params)[0, 0].numpy()
    _, _, axes = np.linalg.svd(X - X.mean(0), full_matrices=False)
    projector = axes[:K].T @ axes[:K]
    np.testing.assert_allclose(mine, X.mean(0) + (X - X.mean(0)) @ projector, atol=1e-8)


@pytest.mark.parametrize("noise", ["column", "shared", "network"])
def test_natural_rates_are_the_deviations_of_codes_and_cells(noise: str) -> None:
    linear, model = linear_gaussian(noise), linear_model((6,), noise)
    rates = model.params.with_flat(model.natural_rates())
    code, cell = np.sqrt(linear.posterior()[2]), np.sqrt(linear.noise_variance)
    for part in ("path", "bias", "head"):
        encoder, decoder = rates[f"encoder.{part}"], rates[f"decoder.{part}"]
        for own, expected in ((encoder[..., :K], code), (decoder[..., :D], cell)):
            rows = np.broadcast_to(expected, own.shape)
            np.testing.assert_allclose(own.numpy(), rows, rtol=1e-4)
        assert (encoder[..., K:] == 1).all()
        assert (decoder[..., D:] == 1).all()
    others = model.params.mask(lambda name: ".weight" in name or "bias0" in name)
    assert (rates.flat[others.bool()] == 1).all()


# -- members ---------------------------------------------------------------------------


@models
def test_members_side_by_side_equal_each_alone(kwargs: dict[str, Any]) -> None:
    both = random_model(2, **kwargs)
    terms = terms_of(both)
    for member in range(2):
        one = build((7,), 1, **kwargs)
        one.params.flat.copy_(both.params.flat[member : member + 1])
        x, unit = rows(), normal(2, DRAWS, ROWS, K)[member : member + 1]
        alone = one(x, unit)
        for name in ("mean", "log_variance", "z", "log_px", "log_weight", "kl"):
            side_by_side = getattr(terms, name)[member]
            torch.testing.assert_close(side_by_side, getattr(alone, name)[0])
        for p, q in zip(one.encode(x), both.encode(x.expand(2, -1, -1)), strict=True):
            torch.testing.assert_close(p[0], q[member])
        for p, q in zip(one.decode(unit), both.decode(unit.expand(2, -1, -1, -1))):
            torch.testing.assert_close(p.expand_as(q[:1])[0], q[member])


def test_members_start_each_from_its_own_seed() -> None:
    both, one = build((7,), 2), build((7,), 1)
    both.start_random([3, 4], network_only=False)
    one.start_random([4], network_only=False)
    assert torch.equal(both.params.flat[1:], one.params.flat)
    assert not torch.equal(both.params.flat[0], both.params.flat[1])


def test_random_weights_are_glorots() -> None:
    model = LatentModel.build(
        kinds=("gaussian",) * 40,
        variance_floor=np.full(40, FLOOR),
        n_components=20,
        hidden=(60,),
        activation="silu",
        n_free_scales=1,
    )
    model.start_random([0], network_only=False)
    for name, shape in model.params.shapes.items():
        own = model.params[name].flatten().numpy()
        if "bias" in name or name == "log_scale":
            assert not own.any()
        else:
            bound = math.sqrt(6.0 / sum(shape))
            uniform = stats.uniform(-bound, 2.0 * bound)
            assert stats.kstest(own, uniform.cdf).pvalue > 1e-3


# -- keeping and moving ----------------------------------------------------------------


@models
@pytest.mark.parametrize("full_prior", [False, True])
def test_pickled_model_answers_alike(kwargs: dict[str, Any], full_prior: bool) -> None:
    model = random_model(2, **kwargs)
    if full_prior:
        model.prior = FullNormal(normal(2, K), torch.eye(K).double().expand(2, K, K))
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(terms_of(model).log_weight, terms_of(again).log_weight)
    assert pickle.dumps(again) == pickle.dumps(model)


def test_copy_in_another_precision_is_a_copy() -> None:
    model = random_model()
    narrow = model.to(torch.float32, torch.device("cpu"))
    before = narrow.params.flat.clone()
    model.params.flat.zero_()
    assert torch.equal(narrow.params.flat, before)
    assert narrow.params.flat.dtype == torch.float32
    terms = narrow(rows().float(), normal(1, DRAWS, ROWS, K).float())
    assert terms.log_weight.dtype == torch.float32
