"""Adam against torch's own, its penalties against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from skvae.training.optimiser import Adam

MEMBERS, SIZE = 2, 5


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def gradients(n: int = 20) -> list[Tensor]:
    """Some gradients, of very different length."""
    return [10.0 ** (i % 4 - 2) * numbers(i, MEMBERS, SIZE) for i in range(n)]


def torchs(start: Tensor, decay: Tensor) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """torch's AdamW with a group for each parameter, since decays are its group's."""
    parameters = [own.clone().requires_grad_() for own in start.flatten()]
    groups = [
        {"params": [p], "weight_decay": float(d)}
        for p, d in zip(parameters, decay.expand_as(start).flatten(), strict=True)
    ]
    return parameters, torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8)


@pytest.mark.parametrize(
    "decay",
    [None, torch.tensor([[0.0, 0.1, 0.5, 0.0, 2.0]], dtype=torch.float64)],
    ids=["plain", "decay"],
)
def test_steps_are_those_of_torchs_adamw(decay: Tensor | None) -> None:
    start = numbers(99, MEMBERS, SIZE)
    mine = Adam(start.clone(), decay=decay)
    none = torch.zeros(1, SIZE, dtype=torch.float64)
    parameters, theirs = torchs(start, none if decay is None else decay)
    for i, gradient in enumerate(gradients()):
        rate = 0.01 * (1.0 + 0.5 * i)
        mine.gradient.copy_(gradient)
        mine.step(rate)
        for p, own in zip(parameters, gradient.flatten(), strict=True):
            p.grad = own
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
        expected = torch.stack(parameters).detach().view(MEMBERS, SIZE)
        torch.testing.assert_close(mine.flat, expected, rtol=1e-11, atol=1e-12)


def test_factor_of_the_rate_is_a_change_of_the_parameters_unit() -> None:
    # w = s u: the gradient by u is s times that by w, and a step of u is s times one of
    # w. (Up to eps, which is negligible beside these gradients.)
    unit = torch.tensor([[0.1, 1.0, 3.0, 10.0, 0.5]], dtype=torch.float64)
    start = numbers(99, MEMBERS, SIZE)
    mine = Adam(start.clone(), rates=unit)
    none = torch.zeros(1, SIZE, dtype=torch.float64)
    parameters, theirs = torchs(start / unit, none)
    for gradient in gradients():
        mine.gradient.copy_(gradient)
        mine.step(0.01)
        for p, own in zip(parameters, (gradient * unit).flatten(), strict=True):
            p.grad = own
        for group in theirs.param_groups:
            group["lr"] = 0.01
        theirs.step()
        expected = unit * torch.stack(parameters).detach().view(MEMBERS, SIZE)
        torch.testing.assert_close(mine.flat, expected, rtol=1e-5, atol=1e-6)


def test_step_is_made_in_the_same_buffer() -> None:
    flat = numbers(0, MEMBERS, SIZE)
    before, optimiser = flat.clone(), Adam(flat)
    optimiser.gradient.fill_(1.0)
    optimiser.step(0.1)
    assert optimiser.flat is flat
    assert not flat.is_inference()
    # a first step has the length of the rate, whatever the gradient's
    torch.testing.assert_close(flat, before - 0.1, rtol=1e-6, atol=1e-6)


def test_l1_penalty_is_a_soft_threshold_after_the_step() -> None:
    start = torch.tensor([[3.0, 0.04, -0.04, -3.0, 0.5]], dtype=torch.float64)
    start = start.repeat(MEMBERS, 1)
    sparsity = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    mine, plain = Adam(start.clone(), sparsity=sparsity), Adam(start.clone())
    for gradient in gradients(3):
        plain.flat.copy_(mine.flat)
        for optimiser in (mine, plain):
            optimiser.gradient.copy_(gradient)
            optimiser.step(0.05)
        stepped, threshold = plain.flat.numpy(), 0.05 * sparsity.numpy()
        # argmin of t |w| + (w - v)^2 / 2
        expected = np.where(
            np.abs(stepped) > threshold,
            stepped - threshold * np.sign(stepped),
            0.0,
        )
        np.testing.assert_allclose(mine.flat.numpy(), expected, atol=1e-15)


def test_l1_penalty_makes_exact_zeros() -> None:
    optimiser = Adam(
        torch.full((1, 2), 0.3, dtype=torch.float64),
        sparsity=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
    )
    for _ in range(40):
        optimiser.step(0.01)
    assert optimiser.flat.tolist() == [[0.0, 0.3]]


def test_each_members_gradient_is_shortened_on_its_own() -> None:
    # The first moments after one step are (1 - beta1) times the clipped gradient.
    optimiser = Adam(torch.zeros(3, SIZE, dtype=torch.float64))
    gradient = numbers(1, 3, SIZE)
    lengths = np.array([0.5, 2.0, 1e6])
    gradient *= torch.as_tensor(lengths)[:, None] / gradient.norm(dim=1, keepdim=True)
    optimiser.gradient.copy_(gradient)
    optimiser.step(0.1, max_grad_norm=2.5)
    seen = optimiser.moments()[0] / 0.1
    factor = np.minimum(1.0, 2.5 / lengths)
    np.testing.assert_allclose(seen, gradient.numpy() * factor[:, None], rtol=1e-9)


def test_clipping_leaves_a_zero_gradient_finite() -> None:
    optimiser = Adam(numbers(0, MEMBERS, SIZE))
    before = optimiser.flat.clone()
    optimiser.step(0.1, max_grad_norm=1.0)
    assert torch.equal(optimiser.flat, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_moments_take_another_optimiser_to_the_same_place(dtype: torch.dtype) -> None:
    steps = [g.to(dtype) for g in gradients()]
    through = Adam(numbers(99, MEMBERS, SIZE).to(dtype))
    first = Adam(numbers(99, MEMBERS, SIZE).to(dtype))
    for gradient in steps[:10]:
        first.gradient.copy_(gradient)
        first.step(0.05)
    second = Adam(first.flat.clone())
    second.set_moments(first.moments())
    for gradient in steps[10:]:
        first.gradient.copy_(gradient)  # that the first goes on must not matter
        first.step(0.05)
        second.gradient.copy_(gradient)
        second.step(0.05)
    for gradient in steps:
        through.gradient.copy_(gradient)
        through.step(0.05)
    assert torch.equal(second.flat, through.flat)


def test_moments_are_not_those_of_the_optimiser_that_goes_on() -> None:
    # What partial_fit keeps between calls, and a copy of the estimator shares.
    optimiser = Adam(numbers(99, MEMBERS, SIZE))
    optimiser.gradient.fill_(1.0)
    optimiser.step(0.1)
    kept = optimiser.moments()
    before = [np.copy(part) for part in kept]
    optimiser.gradient.fill_(1.0)
    optimiser.step(0.1)
    for one, other in zip(kept, before, strict=True):
        np.testing.assert_array_equal(one, other)
