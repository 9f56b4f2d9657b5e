"""Networks and their parameters against plain NumPy and finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from skvae.model.networks import ACTIVATIONS, SLOPES, Network, NetworkPass, Parameters

MEMBERS, ROWS, INPUTS, LINEAR, EXTRA = 2, 6, 4, 3, 2

REFERENCE = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * special.ndtr(x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0.0, x),
    "logistic": special.expit,
}

hiddens = pytest.mark.parametrize("hidden", [(), (5,), (7, 2, 3)], ids=str)


def network(hidden: tuple[int, ...] = (5,), activation: str = "silu") -> Network:
    return Network("net", INPUTS, LINEAR, EXTRA, hidden, activation)


def random_parameters(net: Network) -> Parameters:
    zeros = Parameters.zeros(net.shapes, MEMBERS)
    flat = np.random.default_rng(0).normal(size=zeros.flat.shape)
    return zeros.with_flat(torch.as_tensor(flat))


def rows(seed: int = 1) -> Tensor:
    shape = (MEMBERS, ROWS, INPUTS)
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def by_hand(net: Network, params: Parameters, x: np.ndarray, member: int) -> np.ndarray:
    """y = x A + a + g(x) of one member, (rows, linear + extra)."""
    own = {name: params[name][member].numpy() for name in net.shapes}
    h = x
    for i in range(len(net.hidden)):
        h = REFERENCE[net.activation](h @ own[f"net.weight{i}"] + own[f"net.bias{i}"])
    out = np.repeat(own["net.bias"], len(x), axis=0)
    if net.hidden:
        out = out + h @ own["net.head"]
    out[:, : net.n_linear] += x @ own["net.path"]
    return out


def test_every_activation_is_here() -> None:
    assert set(ACTIVATIONS) == set(REFERENCE)


@pytest.mark.parametrize("name", REFERENCE)
def test_activation(name: str) -> None:
    x = np.linspace(-8.0, 8.0, 101)
    mine = ACTIVATIONS[name](torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(mine, REFERENCE[name](x), rtol=1e-12, atol=1e-15)


def test_every_activation_has_its_derivative() -> None:
    assert set(SLOPES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", SLOPES)
def test_slope_is_the_derivative_of_the_activation(name: str) -> None:
    x = torch.linspace(-60.0, 60.0, 4001, dtype=torch.float64).requires_grad_()
    expected = ACTIVATIONS[name](x)
    (derivative,) = torch.autograd.grad(expected.sum(), x)
    h, slope = x.detach().clone(), torch.full_like(x, math.nan)
    SLOPES[name](h, slope)
    torch.testing.assert_close(h, expected.detach(), rtol=1e-12, atol=1e-15)
    # torch's softplus is a straight line from 20 on: exp(-20) is what that leaves out
    torch.testing.assert_close(slope, derivative, rtol=1e-8, atol=1e-15)


@hiddens
@pytest.mark.parametrize("activation", ["silu", "relu", "logistic"])
def test_outputs_are_those_by_hand(hidden: tuple[int, ...], activation: str) -> None:
    net = network(hidden, activation)
    params, x = random_parameters(net), rows()
    linear, extra = net(params, x)
    assert linear.shape == (MEMBERS, ROWS, LINEAR)
    for member in range(MEMBERS):
        out = torch.cat([linear, extra.expand(-1, ROWS, -1)], -1)[member]
        theirs = by_hand(net, params, x[member].numpy(), member)
        np.testing.assert_allclose(out.numpy(), theirs, rtol=1e-11, atol=1e-12)


@hiddens
def test_zero_head_leaves_the_linear_part(hidden: tuple[int, ...]) -> None:
    net = network(hidden)
    params, x = random_parameters(net), rows()
    if hidden:
        params["net.head"].zero_()
    linear, extra = net(params, x)
    bias = params["net.bias"]
    expected = x @ params["net.path"] + bias[..., :LINEAR]
    torch.testing.assert_close(linear, expected)
    torch.testing.assert_close(
        extra.expand(-1, ROWS, -1), bias[..., LINEAR:].expand(-1, ROWS, -1)
    )


@hiddens
def test_gradients_are_those_of_finite_differences(hidden: tuple[int, ...]) -> None:
    net = network(hidden, "tanh")
    zeros = random_parameters(net)

    def outputs(flat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return net(zeros.with_flat(flat), x)

    inputs = (zeros.flat.requires_grad_(), rows().requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs)


@hiddens
@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_pass_has_the_outputs_and_gradients_of_autograd(
    hidden: tuple[int, ...], activation: str
) -> None:
    net = network(hidden, activation)
    params = random_parameters(net)
    gradient = params.with_flat(torch.full_like(params.flat, math.nan))
    own = NetworkPass(net, params, gradient, ROWS)
    by_linear = torch.as_tensor(np.random.default_rng(5).normal(size=own.linear.shape))
    by_extra = torch.as_tensor(np.random.default_rng(6).normal(size=own.extra.shape))
    for seed in (1, 2):  # nothing of the first batch is left in the second's buffers
        leaves, x = params.leaves(), rows(seed).requires_grad_()
        linear, extra = net(leaves, x)
        loss = (linear * by_linear).sum() + (extra * by_extra).sum()
        loss.backward()
        own.forward(x.detach())
        torch.testing.assert_close(own.linear, linear.detach())
        torch.testing.assert_close(own.extra, extra.detach().expand_as(own.extra))
        own.by_linear.copy_(by_linear)
        own.by_extra.copy_(by_extra)
        torch.testing.assert_close(own.backward(to_input=True), x.grad)
        for name in net.shapes:
            torch.testing.assert_close(gradient[name], leaves[name].grad)


@hiddens
def test_work_counts_the_multiplications(hidden: tuple[int, ...]) -> None:
    widths = (INPUTS, *hidden)
    dense = sum(a * b for a, b in itertools.pairwise(widths))
    head = hidden[-1] * (LINEAR + EXTRA) if hidden else 0
    exact = INPUTS * LINEAR + dense + head
    # biases are additions: a few more at most
    assert exact <= network(hidden).work <= exact + sum(hidden) + LINEAR + EXTRA


# -- dropout ---------------------------------------------------------------------------


def test_dropout_keeps_the_expected_hidden_units() -> None:
    # A head of ones over one layer: the output is the sum of what is kept.
    net = network((40,), "relu")
    params = Parameters.zeros(net.shapes, 1)
    params["net.bias0"].fill_(1.0)
    params["net.head"][..., 0] = 1.0
    n, share = 5000, 0.3
    source = torch.Generator().manual_seed(0)
    x = torch.zeros(1, n, INPUTS, dtype=torch.float64)
    linear, _ = net(params, x, dropout=share, generators=[source])
    sums = linear[0, :, 0].numpy()
    # 40 kept-or-not units, each 1 / (1 - share) where kept
    variance = 40 * share / (1 - share)
    assert abs(sums.mean() - 40.0) < 4.0 * math.sqrt(variance / n)
    assert sums.var() == pytest.approx(variance, rel=4.0 * math.sqrt(2.0 / n))


def test_dropout_needs_a_generator() -> None:
    net = network((5,))
    params, x = random_parameters(net), rows()
    for still in (net(params, x, dropout=0.9), net(params, x)):
        for one, other in zip(still, net(params, x), strict=True):
            assert torch.equal(one, other)
    sources = [torch.Generator().manual_seed(member) for member in range(MEMBERS)]
    dropped, _ = net(params, x, dropout=0.9, generators=sources)
    assert not torch.allclose(dropped, net(params, x)[0])


# -- parameters ------------------------------------------------------------------------

SHAPES = {"a": (2, 3), "b": (1, 4), "c.weight": (3, 1)}


def counted() -> Parameters:
    params = Parameters.zeros(SHAPES, 2)
    params.flat.copy_(torch.arange(26.0).view(2, 13))
    return params


def test_names_are_views_of_one_buffer() -> None:
    params = counted()
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    assert params.flat.shape == (2, sum(sizes))
    starts = np.cumsum([0, *sizes])
    for name, start, size in zip(SHAPES, starts[:-1], sizes, strict=True):
        assert params[name].shape == (2, *SHAPES[name])
        assert params[name].flatten(1).tolist() == [
            list(range(start, start + size)),
            list(range(13 + start, 13 + start + size)),
        ]
    params["b"][1, 0, 2] = -1.0
    assert params.flat[1, 8] == -1.0
    assert "b" in params
    assert "d" not in params


def test_mask_marks_the_chosen_names() -> None:
    marks = counted().mask(lambda name: "weight" in name)
    assert marks.tolist() == [[0.0] * 10 + [1.0] * 3]


def test_leaves_ask_for_gradients_of_what_is_not_frozen() -> None:
    params = counted()
    leaves = params.leaves(frozen=("b",))
    loss = sum((leaves[name] ** 2).sum() for name in SHAPES)
    assert isinstance(loss, Tensor)
    loss.backward()
    for name in SHAPES:
        gradient = leaves[name].grad
        if name == "b":
            assert gradient is None
        else:
            assert gradient is not None
            torch.testing.assert_close(gradient, 2.0 * params[name])
    assert not params.flat.requires_grad
    params.flat.add_(1.0)  # a step of the optimiser is seen through the leaves
    assert torch.equal(leaves["a"], params["a"])
