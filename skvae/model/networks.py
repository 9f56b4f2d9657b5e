"""Parameters with a member axis, and the one network shape that the models use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from skvae._backend import number

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "logistic": torch.sigmoid,
}


# The same functions with their derivatives, for passes without autograd. Each takes
# (h, slope): h comes as the layer's input and leaves as its activation, slope is
# overwritten by the derivative there.


def _relu(h: Tensor, slope: Tensor) -> None:
    torch.sign(torch.relu_(h), out=slope)


def _silu(h: Tensor, slope: Tensor) -> None:
    h.mul_(torch.sigmoid(h, out=slope))
    torch.lerp(h, number(1.0, h), slope, out=slope)  # h + s (1 - h)


def _gelu(h: Tensor, slope: Tensor) -> None:
    normal = torch.exp(-0.5 * h.square()) / math.sqrt(2.0 * math.pi)
    cumulated = torch.special.ndtr(h)
    torch.addcmul(cumulated, h, normal, out=slope)
    h.mul_(cumulated)


def _elu(h: Tensor, slope: Tensor) -> None:
    torch.clamp(h, max=0.0, out=slope).exp_()
    functional.elu(h, inplace=True)


def _tanh(h: Tensor, slope: Tensor) -> None:
    h.tanh_()
    torch.addcmul(number(1.0, h), h, h, value=-1.0, out=slope)


def _softplus(h: Tensor, slope: Tensor) -> None:
    torch.sigmoid(h, out=slope)
    h.copy_(functional.softplus(h))


def _logistic(h: Tensor, slope: Tensor) -> None:
    h.sigmoid_()
    torch.addcmul(h, h, h, value=-1.0, out=slope)


SLOPES: dict[str, Callable[[Tensor, Tensor], None]] = {
    "relu": _relu,
    "silu": _silu,
    "gelu": _gelu,
    "elu": _elu,
    "tanh": _tanh,
    "softplus": _softplus,
    "logistic": _logistic,
}


# Standard deviations; see `Network`.
REACH = 4.0


class Parameters:
    """Named tensors with a leading member axis, all views of one flat buffer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of each tensor without the member axis.
    flat : Tensor of shape (n_members, size)
        The buffer; every named tensor is a view of it.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], flat: Tensor) -> None:
        self.shapes = dict(shapes)
        self.flat = flat
        self._views: dict[str, Tensor] = {}
        stop = 0
        for name, shape in self.shapes.items():
            start, stop = stop, stop + torch.Size(shape).numel()
            self._views[name] = flat[:, start:stop].view(len(flat), *shape)

    @classmethod
    def zeros(cls, shapes: Mapping[str, tuple[int, ...]], n_members: int) -> Parameters:
        """All-zero float64 parameters on the CPU."""
        size = sum(torch.Size(shape).numel() for shape in shapes.values())
        return cls(shapes, torch.zeros(n_members, size, dtype=torch.float64))

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def with_flat(self, flat: Tensor) -> Parameters:
        """The same names over another buffer of the same shape."""
        return Parameters(self.shapes, flat)

    def leaves(self, frozen: tuple[str, ...] = ()) -> Parameters:
        """The same tensors as autograd leaves, those named in ``frozen`` as constants.

        Separate leaves, because the backward of a view of one big leaf would fill a
        zero buffer for each view.
        """
        leaves = self.with_flat(self.flat.detach())
        for name, view in leaves._views.items():
            leaves._views[name] = view.detach().requires_grad_(name not in frozen)
        return leaves

    def mask(self, chosen: Callable[[str], bool]) -> Tensor:
        """1 where the tensor's name is chosen, else 0; shape (1, size)."""
        marks = self.with_flat(torch.zeros_like(self.flat))
        for name in self.shapes:
            if chosen(name):
                marks[name].fill_(1.0)
        return marks.flat[:1]


@dataclass(frozen=True)
class Network:
    """A linear path beside a multilayer perceptron: ``y = x A + a + g(x)``.

    The first ``n_linear`` outputs have the linear path; the ``n_extra`` others
    (log-variances, log-scales) are a bias plus the perceptron. With the perceptron's
    last layer at zero, the network is exactly its linear part.

    The perceptron sees its inputs, which are standardised, no further out than `REACH`:
    beyond the bulk of the rows, where nothing has taught it, it adds what it adds at
    the border, and the linear path goes on alone.

    Parameters
    ----------
    name : str
        Prefix of its tensors' names.
    n_inputs, n_linear, n_extra : int
    hidden : tuple of int
        Widths of the hidden layers; may be empty.
    activation : str
        A key of `ACTIVATIONS`.
    """

    name: str
    n_inputs: int
    n_linear: int
    n_extra: int
    hidden: tuple[int, ...]
    activation: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors, member axis left out."""
        n_outputs = self.n_linear + self.n_extra
        shapes: dict[str, tuple[int, ...]] = {
            f"{self.name}.path": (self.n_inputs, self.n_linear),
            f"{self.name}.bias": (1, n_outputs),
        }
        width = self.n_inputs
        for i, units in enumerate(self.hidden):
            shapes[f"{self.name}.weight{i}"] = (width, units)
            shapes[f"{self.name}.bias{i}"] = (1, units)
            width = units
        if self.hidden:
            shapes[f"{self.name}.head"] = (width, n_outputs)
        return shapes

    @property
    def work(self) -> int:
        """Multiply-adds of one row's forward pass."""
        return sum(shape[0] * shape[1] for shape in self.shapes.values())

    def __call__(
        self,
        params: Parameters,
        x: Tensor,
        *,
        dropout: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[Tensor, Tensor]:
        """Outputs with and without the linear path.

        Parameters
        ----------
        params : Parameters
        x : Tensor of shape (n_members, n_rows, n_inputs)
        dropout : float
            Share of the hidden units that are left out.
        generators : sequence of torch.Generator
            One a member, to draw them from; empty leaves nothing out.

        Returns
        -------
        linear : Tensor of shape (n_members, n_rows, n_linear)
        extra : Tensor of shape (n_members, n_rows or 1, n_extra)
        """
        out = params[f"{self.name}.bias"]
        if self.hidden:
            activation, h = ACTIVATIONS[self.activation], x.clamp(-REACH, REACH)
            for i in range(len(self.hidden)):
                h = activation(
                    torch.baddbmm(
                        params[f"{self.name}.bias{i}"],
                        h,
                        params[f"{self.name}.weight{i}"],
                    )
                )
                if dropout and generators:
                    kept = torch.empty_like(h)
                    for own, generator in zip(kept, generators, strict=True):
                        own.bernoulli_(1.0 - dropout, generator=generator)
                    h = h * kept / (1.0 - dropout)
            out = torch.baddbmm(out, h, params[f"{self.name}.head"])
        linear = torch.baddbmm(
            out[..., : self.n_linear], x, params[f"{self.name}.path"]
        )
        return linear, out[..., self.n_linear :]


class NetworkPass:
    """Forward and backward of a network over batches of one shape, without autograd.

    Every result lies in a buffer that the next batch overwrites.

    Parameters
    ----------
    network : Network
    params : Parameters
    gradient : Parameters
        What `backward` writes to: the same names over the gradient's buffer.
    n_rows : int
    codes_in, codes_out : bool
        Whether its inputs and outputs are codes, which lie as `rows_last` says.

    Attributes
    ----------
    linear : Tensor of shape (n_members, n_rows, n_linear)
    extra : Tensor of shape (n_members, n_rows, n_extra)
        The outputs, as of the network's own call.
    by_linear, by_extra : Tensor
        Derivatives of the loss by them: for the caller to fill before `backward`.
    """

    def __init__(
        self,
        network: Network,
        params: Parameters,
        gradient: Parameters,
        n_rows: int,
        *,
        codes_in: bool = False,
        codes_out: bool = False,
    ) -> None:
        def own(part: str) -> tuple[Tensor, Tensor]:
            name = f"{network.name}.{part}"
            return params[name], gradient[name]

        def buffer(width: int, codes: bool = False) -> Tensor:
            if codes:
                return rows_last(params.flat, n_rows, width)
            return params.flat.new_empty(len(params.flat), n_rows, width)

        n_inputs, n_outputs = network.n_inputs, network.n_linear + network.n_extra
        self._out, self._by_out = (buffer(n_outputs, codes_out) for _ in range(2))
        parts = [network.n_linear, network.n_extra]
        self.linear, self.extra = self._out.split(parts, -1)
        self.by_linear, self.by_extra = self._by_out.split(parts, -1)
        path, by_path = own("path")
        self._bias, by_bias = own("bias")
        self._by_x, self._seen, self._by_seen = (
            buffer(n_inputs, codes_in) for _ in range(3)
        )
        self._along_path = _times(path, self.linear, self.linear)
        self._by_path = _times(self.by_linear, by_path)
        self._through_path = _product(self.by_linear, path.mT, self._by_x)
        self._sum_by_out = _sum_of_rows(self._by_out, by_bias)
        self._activate = SLOPES[network.activation]
        # The layers, the head among them, and what lies between one and the next. The
        # gradient by h takes the place of h, of which nothing is asked by then: what a
        # step touches is to stay in cache.
        self._layers: list[_Layer] = []
        self._hidden: list[tuple[Tensor, Tensor]] = []
        below = self._seen, self._by_seen
        for i, units in enumerate(network.hidden):
            h, slope = buffer(units), buffer(units)
            tensors = own(f"weight{i}"), own(f"bias{i}")
            self._layers.append(_Layer(*tensors, below, (h, h)))
            self._hidden.append((h, slope))
            below = h, h
        if network.hidden:
            above = self._out, self._by_out
            self._layers.append(_Layer(own("head"), own("bias"), below, above))

    def forward(self, x: Tensor) -> None:
        """Outputs of rows (n_members, n_rows, n_inputs), into `linear` and `extra`."""
        self._x = x
        if self._layers:
            torch.clamp(x, -REACH, REACH, out=self._seen)
            for layer, (h, slope) in zip(self._layers, self._hidden, strict=False):
                layer.forward()
                self._activate(h, slope)
            self._layers[-1].forward()
        else:
            self._out.copy_(self._bias)
        self._along_path(x)

    def backward(self, *, to_input: bool) -> Tensor:
        """Gradient of the parameters and, with ``to_input``, of the rows.

        Returns
        -------
        by_x : Tensor of shape (n_members, n_rows, n_inputs)
            Meaningless without ``to_input``.
        """
        self._by_path(self._x.mT)
        if to_input:
            self._through_path()
        if not self._layers:
            self._sum_by_out()
            return self._by_x
        first, *others = self._layers
        for layer, hidden in zip(reversed(others), reversed(self._hidden), strict=True):
            layer.by_bias()
            layer.by_weight()
            layer.by_input()  # over the inputs, which by_weight has read
            by_h, slope = hidden
            by_h.mul_(slope)
        first.by_bias()
        first.by_weight()
        if to_input:
            first.by_input()
            inside = self._seen.eq_(self._x)  # where it was not clamped
            self._by_x.addcmul_(self._by_seen, inside)
        return self._by_x


# Work on tensors that stay where they are, laid out once and done at every batch.
_Call: TypeAlias = Callable[[], object]


class _Layer:
    """An affine layer: its tensors, inputs and outputs, each with the gradient by it.

    Attributes
    ----------
    forward : callable
        Makes the outputs of the inputs.
    by_weight, by_bias, by_input : callable
        Make gradients of that by the outputs.
    """

    def __init__(
        self,
        weights: tuple[Tensor, Tensor],
        biases: tuple[Tensor, Tensor],
        inputs: tuple[Tensor, Tensor],
        outputs: tuple[Tensor, Tensor],
    ) -> None:
        (weight, by_weight), (bias, by_bias) = weights, biases
        (h, by_h), (out, by_out) = inputs, outputs
        self.forward = _product(h, weight, out, bias)
        self.by_weight = _product(h.mT, by_out, by_weight)
        self.by_bias = _sum_of_rows(by_out, by_bias)
        self.by_input = _product(by_out, weight.mT, by_h)


# Below this many columns a product is made as its transpose: BLAS is two to four times
# as fast where rows are long.
_NARROW = 16


def rows_last(like: Tensor, n_rows: int, width: int) -> Tensor:
    """An empty (members, rows, width) that lies in memory as (members, width, rows).

    The layout of codes: they have few columns, and neither matrix products nor
    elementwise loops are quick along those.
    """
    return like.new_empty(len(like), width, n_rows).mT


def _sum_of_rows(values: Tensor, out: Tensor) -> _Call:
    return partial(torch.sum, values, 1, keepdim=True, out=out)


def _product(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None = None) -> _Call:
    """``out = start + a b`` for each member, however ``out`` lies."""
    return partial(_times(b, out, start), a)


def _times(
    b: Tensor, out: Tensor, start: Tensor | None = None
) -> Callable[[Tensor], object]:
    """What makes ``out = start + a b`` of the ``a`` it is given."""
    if out.stride(-1) != 1:
        left, turned = b.mT, out.mT
        if start is None:
            return lambda a: torch.bmm(left, a.mT, out=turned)
        beginning = start.mT
        return lambda a: torch.baddbmm(beginning, left, a.mT, out=turned)
    if start is not None:
        return lambda a: torch.baddbmm(start, a, b, out=out)
    if out.shape[-1] >= _NARROW:
        return lambda a: torch.bmm(a, b, out=out)
    left, flipped = b.mT, out.new_empty(out.mT.shape)
    unflipped = flipped.mT

    def flip(a: Tensor) -> None:
        torch.bmm(left, a.mT, out=flipped)
        out.copy_(unflipped)

    return flip
