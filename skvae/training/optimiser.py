"""Adam over one flat buffer, in a few public torch operations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, number

_LEAST_RATE = 1e-37


class Adam:
    """Adam with decoupled weight decay over flat parameters (members, size).

    ``torch.optim`` would import the compiler stack at its first use and walk over
    every tensor at every step; here a step is a handful of operations whatever the
    number of tensors, and rates are one a member.

    Parameters
    ----------
    flat : Tensor of shape (n_members, size)
        Updated in place.
    decay : Tensor of shape (n_members or 1, size)
        L2 penalty of each parameter.
    sparsity : Tensor of shape (n_members or 1, size)
        L1 penalty of each parameter.
    rates : Tensor of shape (n_members or 1, size)
        Factor of each parameter's learning rate. Adam's steps have the same length
        whatever the gradient's, so a factor s is Adam on the parameter divided by s.
    betas : tuple of float
    eps : float

    Notes
    -----
    Kingma and Ba, "Adam", ICLR 2015; Loshchilov and Hutter, "Decoupled Weight Decay
    Regularization", ICLR 2019. The L1 penalty is its proximal step (soft threshold).
    """

    def __init__(
        self,
        flat: Tensor,
        *,
        decay: Tensor | None = None,
        sparsity: Tensor | None = None,
        rates: Tensor | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self.flat = flat
        self.gradient = torch.zeros_like(flat)
        self.decay, self.sparsity, self.rates = decay, sparsity, rates
        self.betas, self.eps = betas, eps
        # A rate of zero is one of no effect: infinity times zero would be none at all.
        self._slowness = None if rates is None else 1.0 / rates.clamp(min=_LEAST_RATE)
        self._eps = number(eps, flat)
        if self._slowness is not None:
            self._eps = eps * self._slowness
        self._beta2 = number(betas[1], flat)
        self._first = torch.zeros_like(flat)
        self._second = torch.zeros_like(flat)
        self._denominator = torch.empty_like(flat)
        self._n_steps = 0

    @torch.inference_mode()
    def step(self, learning_rate: float, max_grad_norm: float | None = None) -> None:
        """One update from ``self.gradient``, for the next step to overwrite.

        Parameters
        ----------
        learning_rate : float
        max_grad_norm : float or None
            Each member's gradient is shortened to at most this length.
        """
        gradient, (beta1, beta2) = self.gradient, self.betas
        if max_grad_norm is not None:
            length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.div_(length.mul_(1.0 / max_grad_norm).clamp_(min=1.0))
        self._n_steps += 1
        self._first.lerp_(gradient, 1.0 - beta1)
        self._second.mul_(self._beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        unbiased = (1.0 - beta2**self._n_steps) ** -0.5
        rate = learning_rate / (1.0 - beta1**self._n_steps)
        if self.decay is not None:
            self.flat.addcmul_(self.decay, self.flat, value=-learning_rate)
        # (eps + root of the unbiased second moment) / rates
        root = torch.sqrt(self._second, out=self._denominator)
        if self._slowness is None:
            torch.add(self._eps, root, alpha=unbiased, out=root)
        else:
            torch.addcmul(self._eps, self._slowness, root, value=unbiased, out=root)
        self.flat.addcdiv_(self._first, root, value=-rate)
        if self.sparsity is not None:
            threshold = learning_rate * self.sparsity
            self.flat.copy_(
                self.flat.sign() * (self.flat.abs() - threshold).clamp_(min=0.0)
            )

    def of(self, members: list[int], flat: Tensor) -> Adam:
        """The optimiser of some of the members, whose parameters are ``flat``."""

        def part(values: Tensor | None) -> Tensor | None:
            return values if values is None or len(values) == 1 else values[members]

        other = Adam(
            flat,
            decay=part(self.decay),
            sparsity=part(self.sparsity),
            rates=part(self.rates),
            betas=self.betas,
            eps=self.eps,
        )
        other._first.copy_(self._first[members])
        other._second.copy_(self._second[members])
        other._n_steps = self._n_steps
        return other

    def moments(self) -> tuple[np.ndarray, np.ndarray, int]:
        """What a later optimiser needs to go on from here."""
        first, second = (as_array(m).copy() for m in (self._first, self._second))
        return first, second, self._n_steps

    def set_moments(self, moments: tuple[np.ndarray, np.ndarray, int]) -> None:
        """Go on from another optimiser's `moments`."""
        first, second, self._n_steps = moments
        self._first.copy_(torch.as_tensor(first))
        self._second.copy_(torch.as_tensor(second))
