"""Parameters with a member axis, and the one network shape that the models use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "logistic": torch.sigmoid,
}


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

    def leaves(self, gradient: Tensor, frozen: tuple[str, ...] = ()) -> Parameters:
        """The same tensors as autograd leaves that collect into ``gradient``.

        Those named in ``frozen`` collect nothing.
        ``gradient`` has the buffer's shape. Separate leaves, because the backward
        of a view of one big leaf would fill a zero buffer for each view.
        """
        collected = self.with_flat(gradient)
        leaves = Parameters.__new__(Parameters)
        leaves.shapes, leaves.flat = self.shapes, self.flat
        leaves._views = {}
        for name, view in self._views.items():
            leaf = view.detach()
            if name not in frozen:
                leaf.requires_grad_().grad = collected[name]
            leaves._views[name] = leaf
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
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs with and without the linear path.

        Parameters
        ----------
        params : Parameters
        x : Tensor of shape (n_members, n_rows, n_inputs)
        dropout : float
            Share of the hidden units that are left out; drawn from ``generator``.
        generator : torch.Generator or None
            None leaves nothing out.

        Returns
        -------
        linear : Tensor of shape (n_members, n_rows, n_linear)
        extra : Tensor of shape (n_members, n_rows or 1, n_extra)
        """
        out = params[f"{self.name}.bias"]
        if self.hidden:
            activation, h = ACTIVATIONS[self.activation], x
            for i in range(len(self.hidden)):
                h = activation(
                    torch.baddbmm(
                        params[f"{self.name}.bias{i}"],
                        h,
                        params[f"{self.name}.weight{i}"],
                    )
                )
                if dropout and generator is not None:
                    kept = torch.empty_like(h).bernoulli_(
                        1.0 - dropout, generator=generator
                    )
                    h = h * kept / (1.0 - dropout)
            out = torch.baddbmm(out, h, params[f"{self.name}.head"])
        linear = torch.baddbmm(
            out[..., : self.n_linear], x, params[f"{self.name}.path"]
        )
        return linear, out[..., self.n_linear :]
