"""Objectives against closed forms: their values, their signs, where they pull."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis
from skvae.model.terms import Terms
from skvae.training.objectives import (
    AdditiveObjective,
    NegativeElbo,
    Objective,
    Reconstruction,
    importance_weighted,
    make_objective,
)

D, K, ROWS, MEMBERS = 4, 2, 5, 2

negative_elbo, reconstruction = NegativeElbo(), Reconstruction()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def build(hidden: tuple[int, ...] = (6,), n_free_scales: int | None = D) -> LatentModel:
    return LatentModel.build(
        kinds=("gaussian",) * D,
        variance_floor=np.full(D, 1e-6),
        n_components=K,
        hidden=hidden,
        activation="silu",
        n_free_scales=n_free_scales,
        n_members=MEMBERS,
    )


def random_model(**kwargs: Any) -> LatentModel:
    model = build(**kwargs)
    model.params.flat.copy_(0.4 * numbers(*model.params.flat.shape))
    return model


def terms_of(model: LatentModel, draws: int = 3) -> Terms:
    return model(
        numbers(MEMBERS, ROWS, D, seed=1), numbers(MEMBERS, draws, ROWS, K, seed=2)
    )


def parts(terms: Terms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(x|z), log p(z), log q(z|x) of every draw, by SciPy."""
    location, log_scale = (p.detach().numpy() for p in terms.params)
    std = np.sqrt(np.exp(2 * log_scale) + 1e-6)
    log_px = stats.norm(location, std).logpdf(terms.x.numpy()[:, None]).sum(-1)
    z = terms.z.detach().numpy()
    mean = terms.mean.detach().numpy()[:, None]
    spread = np.exp(0.5 * terms.log_variance.detach().numpy())[:, None]
    log_qz = stats.norm(mean, spread).logpdf(z).sum(-1)
    return log_px, stats.norm.logpdf(z).sum(-1), log_qz


# -- values ----------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_elbo_is_expected_density_less_beta_kl(beta: float) -> None:
    terms = terms_of(random_model())
    log_px, _, _ = parts(terms)
    m, v = terms.mean.numpy(), np.exp(terms.log_variance.numpy())
    kl = 0.5 * (m**2 + v - 1 - np.log(v)).sum(-1)
    loss = NegativeElbo()(terms, beta)
    assert loss.shape == (MEMBERS, ROWS)
    np.testing.assert_allclose(loss.numpy(), beta * kl - log_px.mean(1), rtol=1e-10)


def test_closed_form_kl_is_the_mean_of_the_draws() -> None:
    n, terms = 40_000, terms_of(random_model(), 40_000)
    log_px, log_pz, log_qz = parts(terms)
    single = log_px + log_pz - log_qz
    control = log_px.mean(1) - (log_qz - log_pz).mean(1)
    np.testing.assert_allclose(control, single.mean(1))
    off = -NegativeElbo()(terms, 1.0).numpy() - control
    error = (log_qz - log_pz).std(1) / math.sqrt(n)
    assert (np.abs(off) < 4.0 * error).all()


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_importance_weighted_bound_is_a_logmeanexp(beta: float) -> None:
    terms = terms_of(random_model())
    log_px, log_pz, log_qz = parts(terms)
    theirs = special.logsumexp(log_px + beta * (log_pz - log_qz), axis=1, b=1 / 3)
    np.testing.assert_allclose(-importance_weighted(terms, beta).numpy(), theirs)


def test_one_draw_makes_the_importance_weighted_bound_the_elbo_on_average() -> None:
    terms = terms_of(random_model(), 1)
    log_px, log_pz, log_qz = parts(terms)
    single = (log_px + log_pz - log_qz)[:, 0]
    np.testing.assert_allclose(-importance_weighted(terms, 1.0).numpy(), single)


def test_reconstruction_knows_no_latent_term() -> None:
    terms = terms_of(random_model())
    loss = Reconstruction()(terms, 5.0)
    np.testing.assert_allclose(-loss.numpy(), parts(terms)[0].mean(1))


@pytest.mark.parametrize("free_bits", [0.05, 0.5, 100.0])
def test_free_bits_are_a_floor_under_each_components_mean_kl(free_bits: float) -> None:
    terms = terms_of(random_model())
    mean_kl = terms.kl.numpy().mean(1)
    kept = np.maximum(mean_kl, free_bits).sum(-1)
    if free_bits == 0.5:  # the case in between has components on both sides
        assert (mean_kl > free_bits).any()
        assert (mean_kl < free_bits).any()
    log_px = parts(terms)[0].mean(1)
    loss = NegativeElbo(free_bits)(terms, 1.0)
    np.testing.assert_allclose(loss.numpy().mean(1), kept - log_px.mean(1))


def test_component_below_its_free_bits_is_not_squeezed() -> None:
    terms = terms_of(random_model())
    mean = terms.mean.clone().requires_grad_()
    own = replace(terms, mean=mean)
    mean_kl = own.kl.detach().mean(1)
    bits = float(mean_kl.mean())
    NegativeElbo(bits)(own, 1.0).mean(1).sum().backward()
    assert mean.grad is not None
    pulled = mean.grad.abs().amax(1) > 0
    assert torch.equal(pulled, mean_kl > bits)
    assert 0 < int(pulled.sum()) < pulled.numel()


@pytest.mark.parametrize("free_bits", [0.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_slope_of_the_kls_cost_is_its_derivative(free_bits: float, beta: float) -> None:
    kl = terms_of(random_model()).kl.requires_grad_()
    objectives: list[AdditiveObjective] = [NegativeElbo(free_bits), Reconstruction()]
    for objective in objectives:
        cost, slope = objective.kl_cost(kl, beta)
        (theirs,) = torch.autograd.grad(cost.sum() + 0.0 * kl.sum(), kl)
        expected = torch.as_tensor(slope).expand_as(kl)
        torch.testing.assert_close(expected.to(theirs), theirs)


# -- where they pull -------------------------------------------------------------------


OBJECTIVES: dict[str, Objective] = {
    "elbo": NegativeElbo(),
    "free bits": NegativeElbo(0.01),
    "importance weighted": importance_weighted,
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("n_free_scales", [None, D, 1])
def test_gradient_reaches_every_parameter(name: str, n_free_scales: int | None) -> None:
    model = random_model(n_free_scales=n_free_scales)
    flat = model.params.flat.requires_grad_()
    own = model.with_params(model.params.with_flat(flat))
    loss = OBJECTIVES[name](terms_of(own), 1.0).mean(1).sum()
    (gradient,) = torch.autograd.grad(loss, flat)
    for tensor in model.params.shapes:
        assert (model.params.with_flat(gradient)[tensor] != 0).all(), tensor


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    model = random_model()

    def loss(flat: Tensor) -> Tensor:
        own = model.with_params(model.params.with_flat(flat))
        return OBJECTIVES[name](terms_of(own), 0.7)

    assert torch.autograd.gradcheck(loss, model.params.flat.requires_grad_())


def blind_model() -> LatentModel:
    """A decoder that does not look at the code: the KL alone moves the bound."""
    model = build(hidden=())
    model.params["encoder.path"][:] = 0.3 * numbers(MEMBERS, D, K)
    return model


@pytest.mark.parametrize("objective", [NegativeElbo(), importance_weighted])
def test_raising_the_kl_raises_the_loss(objective: Objective) -> None:
    losses, kls = [], []
    for factor in (0.5, 1.0, 2.0, 4.0):
        model = blind_model()
        model.params["encoder.path"].mul_(factor)
        terms = terms_of(model, 500)
        losses.append(objective(terms, 1.0).mean().item())
        kls.append(terms.kl.sum(-1).mean().item())
    assert np.all(np.diff(kls) > 0)
    assert np.all(np.diff(losses) > 0)


def test_beta_really_scales_the_pull_of_the_kl() -> None:
    pulls = []
    for beta in (1.0, 3.0):
        model = blind_model()
        flat = model.params.flat.requires_grad_()
        terms = terms_of(model.with_params(model.params.with_flat(flat)))
        (gradient,) = torch.autograd.grad(NegativeElbo()(terms, beta).sum(), flat)
        pulls.append(model.params.with_flat(gradient)["encoder.path"])
    assert (pulls[0] != 0).any()
    torch.testing.assert_close(pulls[1], 3.0 * pulls[0])


# -- bounds of a known density ---------------------------------------------------------


def linear_gaussian() -> LinearGaussian:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, K)) @ rng.normal(size=(K, D)) + rng.normal(size=(200, D))
    return factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.1)


def wrong_posterior() -> tuple[LinearGaussian, LatentModel]:
    linear, model = linear_gaussian(), build(hidden=())
    model.start_linear(linear)
    std = torch.as_tensor(linear.posterior()[2]).sqrt()
    model.params["encoder.bias"][..., :K] += 0.7 * std
    model.params["encoder.bias"][..., K:] += 0.5
    return linear, model


def test_elbo_lies_below_the_density_by_the_kl_of_the_posteriors() -> None:
    linear, model = wrong_posterior()
    terms = terms_of(model, 20_000)
    # of q = N(0.7, exp(0.5)) from N(0, 1), in the exact posterior's own units
    gap = K * 0.5 * (0.7**2 + math.exp(0.5) - 1 - 0.5)
    bound = -NegativeElbo()(terms, 1.0).numpy()
    exact = np.array([linear.log_prob(own) for own in terms.x.numpy()])
    error = parts(terms)[0].std(1) / math.sqrt(20_000)
    assert (np.abs(exact - bound - gap) < 5.0 * error).all()


def test_more_draws_tighten_the_bound_up_to_the_density() -> None:
    linear, model = wrong_posterior()
    terms = terms_of(model, 40_000)
    exact = np.array([linear.log_prob(own) for own in terms.x.numpy()])
    gaps = []
    for k in (1, 4, 16, 64):
        # many bounds of k draws each, from the same model and rows
        n = 40_000 // k
        parted = model(
            terms.x.repeat_interleave(n, 1),
            terms.unit[:, : n * k]
            .view(MEMBERS, n, k, ROWS, K)
            .permute(0, 2, 3, 1, 4)
            .reshape(MEMBERS, k, ROWS * n, K),
        )
        bound = -importance_weighted(parted, 1.0).view(MEMBERS, ROWS, n).mean(-1)
        gaps.append((exact - bound.numpy()).mean())
    assert np.all(np.diff(gaps) < 0)
    assert gaps[0] > 0.3
    assert 0.0 < gaps[-1] < 0.02


# -- what the estimator's parameters ask for -------------------------------------------


@pytest.mark.parametrize(
    ("asked", "formula"),
    [
        ((True, 1, 0.0), NegativeElbo()),
        ((True, 1, 0.3), NegativeElbo(0.3)),
        ((True, 5, 0.0), importance_weighted),
        ((False, 1, 0.0), Reconstruction()),
    ],
    ids=["elbo", "free bits", "importance weighted", "auto-encoder"],
)
def test_objective_is_the_one_asked_for(
    asked: tuple[bool, int, float], formula: Objective
) -> None:
    variational, n_importance_samples, free_bits = asked
    objective = make_objective(
        variational=variational,
        n_importance_samples=n_importance_samples,
        free_bits=free_bits,
    )
    terms = terms_of(random_model())
    assert torch.equal(objective(terms, 0.8), formula(terms, 0.8))
