"""One training step: its gradient against finite differences and autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.likelihoods import LIKELIHOODS
from skvae.model.networks import ACTIVATIONS
from skvae.model.rows import Rows
from skvae.model.terms import Terms
from skvae.training import loop
from skvae.training.batches import Batch, Batches
from skvae.training.loop import choose_step
from skvae.training.objectives import (
    NegativeElbo,
    Objective,
    Reconstruction,
    importance_weighted,
)
from skvae.training.optimiser import Adam
from skvae.training.steps import AnalyticStep, AutogradStep, Weigh

D, K, ROWS = 5, 2, 6
MIXED = ("gaussian",) * 2 + ("student_t",) + ("bernoulli",) * 2

MODELS: dict[str, dict[str, Any]] = {
    "column": {"n_free_scales": 3},
    "shared": {"n_free_scales": 1},
    "network": {"n_free_scales": None},
    "linear": {"n_free_scales": 3, "hidden": ()},
    "linear network": {"n_free_scales": None, "hidden": ()},
    "binary": {"kinds": ("bernoulli",) * D, "n_free_scales": 0},
    "real": {"kinds": ("gaussian",) * D, "n_free_scales": D, "hidden": (3, 4)},
    "heavy-tailed": {"kinds": ("student_t",) * D, "n_free_scales": 1},
    "levels": {
        "kinds": ("student_t", "categorical", "categorical", "ordinal", "bernoulli"),
        "levels": ((), (0.4, 0.6), (0.2, 0.5, 0.3), (0.3, 0.7), ()),
        "n_free_scales": 2,
        "flagged": (0, 2),
    },
    "counts": {
        "kinds": ("poisson", "negative_binomial", "gaussian") + ("multinomial",) * 2,
        "n_free_scales": None,
        "flagged": (1,),
    },
}
models = pytest.mark.parametrize("name", MODELS)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def random_model(name: str = "column", members: int = 2, **more: Any) -> LatentModel:
    given = {"kinds": MIXED, "hidden": (4,), "activation": "silu", **MODELS[name]}
    given.update(more)
    n_scales = sum(LIKELIHOODS[kind].has_scale for kind in given["kinds"])
    model = LatentModel.build(
        variance_floor=np.full(D, 1e-2),
        n_components=K,
        n_members=members,
        scale_offset=0.1 * np.arange(float(n_scales)),
        **given,
    )
    model.params.flat.copy_(0.4 * numbers(*model.params.flat.shape, seed=0))
    return model


def batch(
    members: int = 2,
    *,
    draws: int = 1,
    holes: bool = False,
    model: LatentModel | None = None,
) -> Batch:
    x = numbers(members, ROWS, D, seed=1)
    kinds = MIXED if model is None else model.likelihood.kinds
    for j, kind in enumerate(kinds):
        if kind not in ("gaussian", "student_t"):
            x[..., j] = (x[..., j] > 0).double()
    observed = (numbers(members, ROWS, D, seed=2) > -0.5).double()
    unit = numbers(members, draws, ROWS, K, seed=3) if draws else None
    sources = [torch.Generator().manual_seed(member) for member in range(members)]
    given = Batch(x, observed if holes else None, None, unit, sources)
    if model is None or model.n_inputs == D:
        return given
    seen = numbers(members, ROWS, model.n_inputs, seed=4)
    return Batch(x, given.observed, None, unit, sources, seen)


def alike(losses: Tensor, weight: Tensor | None) -> None:
    return None


def unlike(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Some rows count more, one not at all."""
    return torch.arange(float(ROWS)).to(losses).expand_as(losses)


weighs = pytest.mark.parametrize("weigh", [alike, unlike])
OBJECTIVES = [NegativeElbo(), NegativeElbo(0.4), Reconstruction()]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def loss_of(
    model: LatentModel,
    objective: Objective,
    given: Batch,
    beta: float,
    weigh: Weigh,
) -> Callable[[Tensor], Tensor]:
    """The weighted mean loss as a function of the flat parameters."""

    def loss(flat: Tensor) -> Tensor:
        own = model.with_params(model.params.with_flat(flat))
        terms = own(given.x, given.unit, seen=given.inputs, observed=given.observed)
        losses = objective(terms, beta)
        weight = weigh(losses, None)
        return (losses if weight is None else losses * weight).mean(1).sum()

    return loss


@models
@objectives
@weighs
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("draws", [0, 1])
def test_analytic_gradient_is_autograds(
    name: str,
    objective: Objective,
    weigh: Weigh,
    holes: bool,
    draws: int,
) -> None:
    model = random_model(name)
    given = batch(draws=draws, holes=holes, model=model)
    loss = loss_of(model, objective, given, 0.7, weigh)
    flat = model.params.flat.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(flat), flat)
    gradient = torch.full_like(model.params.flat, torch.nan)
    step = choose_step(model, objective, gradient, n_draws=draws)
    assert isinstance(step, AnalyticStep)
    mine = step(given, 0.7, weigh)
    assert mine.item() == pytest.approx(loss(flat).item(), rel=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("members", [1, 3])
def test_steps_agree_for_each_activation(activation: str, members: int) -> None:
    model = random_model(members=members, activation=activation, hidden=(4, 3))
    gradients = [torch.full_like(model.params.flat, torch.nan) for _ in range(2)]
    losses = [
        step(model, NegativeElbo(), gradient)(batch(members), 1.0, unlike)
        for step, gradient in zip((AnalyticStep, AutogradStep), gradients, strict=True)
    ]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0.0)
    # torch's softplus is a straight line from 20 on: exp(-20) is what that leaves out
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@models
@objectives
def test_analytic_gradient_is_that_of_finite_differences(
    name: str, objective: Objective
) -> None:
    # Along a few random directions, without autograd anywhere.
    model = random_model(name)
    given = batch(holes=True, model=model)
    gradient = torch.empty_like(model.params.flat)
    choose_step(model, objective, gradient, n_draws=1)(given, 0.7, unlike)
    loss = loss_of(model, objective, given, 0.7, unlike)
    start = model.params.flat
    for seed in range(3):
        direction = numbers(*start.shape, seed=10 + seed)
        up, down = (float(loss(start + s * direction)) for s in (1e-5, -1e-5))
        slope = float((gradient * direction).sum())
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-7)


def test_clamped_log_variance_has_no_gradient() -> None:
    model, given = random_model("real", members=1), batch(1)
    model.params["encoder.bias"][..., K] = 40.0  # far beyond the limit of 30
    model.params["decoder.path"].mul_(1e-7)
    model.params["decoder.head"].mul_(1e-7)
    gradient = torch.empty_like(model.params.flat)
    choose_step(model, NegativeElbo(), gradient, n_draws=1)(given, 1.0, alike)
    by_bias = model.params.with_flat(gradient)["encoder.bias"]
    assert by_bias[..., K] == 0
    assert (by_bias[..., K + 1 :] != 0).all()


@pytest.mark.parametrize("step", [AnalyticStep, AutogradStep])
def test_frozen_tensors_have_no_gradient(step: type[Any]) -> None:
    model, frozen = random_model(), ("encoder.head", "log_scale", "decoder.bias")
    gradients = []
    for names in ((), frozen):
        gradients.append(torch.full_like(model.params.flat, torch.nan))
        step(model, NegativeElbo(), gradients[-1], frozen=names)(batch(), 1.0, alike)
    free, held = (model.params.with_flat(gradient) for gradient in gradients)
    for name in model.params.shapes:
        expected = torch.zeros_like(free[name]) if name in frozen else free[name]
        assert torch.equal(held[name], expected)


@pytest.mark.parametrize("step", [AnalyticStep, AutogradStep])
def test_steps_do_not_remember_each_other(step: type[Any]) -> None:
    # Batches of other sizes in between, and parameters that move.
    model, objective = random_model(), NegativeElbo()
    gradient = torch.empty_like(model.params.flat)
    kept = step(model, objective, gradient)
    whole, part = batch(), batch()
    part = Batch(
        part.x[:, :2],
        None,
        None,
        None if part.unit is None else part.unit[:, :, :2],
        part.sources,
    )
    kept(whole, 1.0, alike)
    kept(part, 0.2, alike)
    model.params.flat.mul_(0.9)
    loss = kept(whole, 1.0, alike).item()
    fresh_gradient = torch.empty_like(gradient)
    fresh = step(model, objective, fresh_gradient)(whole, 1.0, alike).item()
    assert loss == fresh
    assert torch.equal(gradient, fresh_gradient)


@pytest.mark.parametrize("step", [AnalyticStep, AutogradStep])
def test_batch_is_left_as_it_is(step: type[Any]) -> None:
    model, given = random_model(), batch(holes=True)
    assert given.observed is not None
    assert given.unit is not None
    before = given.x.clone(), given.observed.clone(), given.unit.clone()
    start = model.params.flat.clone()
    step(model, NegativeElbo(), torch.empty_like(start))(given, 1.0, unlike)
    for own, kept in zip((given.x, given.observed, given.unit), before, strict=True):
        assert torch.equal(own, kept)
    assert torch.equal(model.params.flat, start)


@pytest.mark.parametrize(
    ("objective", "draws", "dropout"),
    [
        (importance_weighted, 4, 0.0),
        (NegativeElbo(), 3, 0.0),
        (NegativeElbo(), 1, 0.5),
    ],
    ids=["importance weighted", "several draws", "dropout"],
)
def test_other_steps_are_differentiated_by_autograd(
    objective: Objective, draws: int, dropout: float
) -> None:
    model, given = random_model(), batch(draws=draws)
    gradient = torch.full_like(model.params.flat, torch.nan)
    step = choose_step(model, objective, gradient, n_draws=draws, dropout=dropout)
    loss = step(given, 0.7, unlike)
    assert not loss.requires_grad
    assert gradient.isfinite().all()
    if dropout:
        given = batch(draws=draws)
        again = torch.empty_like(gradient)
        choose_step(model, objective, again, n_draws=draws, dropout=dropout)(
            given, 0.7, unlike
        )
        assert torch.equal(again, gradient)
        still = torch.empty_like(gradient)
        choose_step(model, objective, still, n_draws=draws)(given, 0.7, unlike)
        assert not torch.allclose(still, gradient)
        return
    direct = loss_of(model, objective, given, 0.7, unlike)
    assert loss.item() == pytest.approx(float(direct(model.params.flat)))
    start, direction = model.params.flat, numbers(*model.params.flat.shape, seed=10)
    up, down = (float(direct(start + s * direction)) for s in (1e-5, -1e-5))
    slope = float((gradient * direction).sum())
    assert math.isclose(slope, (up - down) / 2e-5, rel_tol=1e-6)


@pytest.mark.parametrize("step", [AnalyticStep, AutogradStep])
def test_steps_work_where_gradients_are_switched_off(step: type[Any]) -> None:
    # A caller's torch.no_grad() is the caller's: fit trains all the same.
    model = random_model()
    gradients = [torch.full_like(model.params.flat, torch.nan) for _ in range(2)]
    step(model, NegativeElbo(), gradients[0])(batch(), 1.0, alike)
    with torch.no_grad():
        step(model, NegativeElbo(), gradients[1])(batch(), 1.0, alike)
    assert torch.equal(*gradients)


# -- in the loop -----------------------------------------------------------------------


class Unknown:
    """An objective of which nothing but its value is known."""

    def __call__(self, terms: Terms, beta: float) -> Tensor:
        return NegativeElbo()(terms, beta)


def test_objective_of_unknown_derivative_is_differentiated_by_autograd() -> None:
    model = random_model()
    gradient = torch.empty_like(model.params.flat)
    for objective, expected in (
        (NegativeElbo(), AnalyticStep),
        (Unknown(), AutogradStep),
    ):
        step = choose_step(model, objective, gradient, n_draws=1)
        assert type(step) is expected


def train_one_epoch(
    model: LatentModel,
    objective: Objective,
    on_epoch: Callable[..., bool] = lambda epoch, history: False,
    **how: Any,
) -> list[float]:
    """A pass over a table with holes and weights; its last batch is a smaller one."""
    rng, n_rows = np.random.default_rng(2), 300
    x = np.tanh(rng.normal(size=(n_rows, K)) @ rng.normal(size=(K, D)))
    x += 0.1 * rng.normal(size=x.shape)
    x[:, -2:] = x[:, -2:] > 0
    x[rng.uniform(size=x.shape) < 0.1] = np.nan
    weight = rng.uniform(0.5, 1.5, size=n_rows)
    dtype = model.params.flat.dtype
    batches = Batches(
        Rows.from_coded(x, dtype, torch.device("cpu"), weight),
        batch_size=32,
        n_draws=1,
        n_components=K,
        seeds=list(range(model.n_members)),
    )
    plan = loop.Plan(1, 3e-3, loop.SCHEDULES["cosine"], max_grad_norm=10.0, **how)
    optimiser = Adam(model.params.flat)
    history = loop.train(model, objective, batches, optimiser, plan, on_epoch=on_epoch)
    return history.loss


@pytest.mark.parametrize("name", ["shared", "column", "network"])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("trim", [0.0, 0.05])
def test_both_steps_train_the_same_model(name: str, members: int, trim: float) -> None:
    start = random_model(name, members)
    single = partial(start.to, torch.float32, torch.device("cpu"))
    models = single(), single()
    losses = [
        train_one_epoch(model, objective, trim=trim)
        for model, objective in zip(models, (NegativeElbo(), Unknown()), strict=True)
    ]
    one, other = (model.params.flat for model in models)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert not torch.allclose(one, single().params.flat, atol=1e-3)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [NegativeElbo(), Unknown()])
def test_model_is_left_with_ordinary_tensors(objective: Objective) -> None:
    model = random_model()
    seen: list[bool] = []

    def look(epoch: int, history: object) -> bool:
        seen.append(model.params.flat.is_inference())
        return False

    train_one_epoch(model, objective, look)
    assert seen == [False]
    # A caller may go on with them: autograd, changes in place.
    flat = model.params.flat.requires_grad_()
    terms = model.with_params(model.params.with_flat(flat))(batch().x, None)
    terms.log_px.sum().backward()
    assert flat.grad is not None
    flat.detach().add_(1.0)
