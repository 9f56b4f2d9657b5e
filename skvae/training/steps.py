"""One training step: losses of a batch and the gradient of their weighted mean.

Any model and objective can be differentiated by autograd. The common case (at most one
draw, no dropout, an objective that adds a cost of the KL to that of the cells) chains
the derivatives that its pieces bring, as scikit-learn's losses do: a batch is so small
that recording and walking autograd's graph takes longer than the matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from skvae._backend import number
from skvae.model.autoencoder import LOG_VARIANCE_LIMIT
from skvae.model.latent import LatentModel
from skvae.model.networks import NetworkPass, rows_last
from skvae.training.batches import Batch
from skvae.training.objectives import AdditiveObjective, Beta, Objective, is_one

# Weights of the rows in this step given their losses and their weights in the table,
# all (members, rows); None: all count alike.
Weigh: TypeAlias = Callable[[Tensor, Tensor | None], Tensor | None]


class Step(Protocol):
    """Fills the gradient's buffer.

    Attributes
    ----------
    name : str
        How it finds the gradient.
    """

    name: str

    def __call__(self, batch: Batch, beta: Beta, weigh: Weigh) -> Tensor:
        """Mean weighted loss of the batch, summed over members; its gradient beside.

        Parameters
        ----------
        batch : Batch
        beta : float or Tensor of shape (members, 1)
            Present weight of the KL.
        weigh : callable
        """


class AutogradStep:
    """The step for any objective, number of draws and dropout.

    Parameters are those of `choose_step`.
    """

    name = "autograd"

    def __init__(
        self,
        model: LatentModel,
        objective: Objective,
        gradient: Tensor,
        *,
        dropout: float = 0.0,
        frozen: tuple[str, ...] = (),
    ) -> None:
        leaves = model.params.leaves(frozen)
        self.model, self.objective = model.with_params(leaves), objective
        self.dropout = dropout
        collected = model.params.with_flat(gradient.zero_())
        learned = [name for name in model.params.shapes if name not in frozen]
        self._leaves = [leaves[name] for name in learned]
        self._collected = [collected[name] for name in learned]

    @torch.enable_grad()
    def __call__(self, batch: Batch, beta: Beta, weigh: Weigh) -> Tensor:
        terms = self.model(
            batch.x,
            batch.unit,
            seen=batch.inputs,
            observed=batch.observed,
            dropout=self.dropout,
            sources=batch.sources,
        )
        losses = self.objective(terms, beta)
        weight = weigh(losses.detach(), batch.weight)
        loss = (losses if weight is None else losses * weight).mean(1).sum()
        gradients = torch.autograd.grad(loss, self._leaves, materialize_grads=True)
        for own, collected in zip(gradients, self._collected, strict=True):
            collected.copy_(own)
        return loss.detach()


class AnalyticStep:
    """The step of the common case: each piece's own derivative, chained.

    Parameters are those of `choose_step`.
    """

    name = "analytic"

    def __init__(
        self,
        model: LatentModel,
        objective: AdditiveObjective,
        gradient: Tensor,
        *,
        frozen: tuple[str, ...] = (),
    ) -> None:
        self.model, self.objective = model, objective
        self.gradient = model.params.with_flat(gradient.zero_())
        self.frozen = frozen
        self._chains: dict[int, _Chain] = {}

    # The buffers made in here are of no use outside, and never seen there.
    @torch.inference_mode()
    def __call__(self, batch: Batch, beta: Beta, weigh: Weigh) -> Tensor:
        n_rows = batch.x.shape[1]
        if n_rows not in self._chains:  # an epoch's last batch may be smaller
            self._chains[n_rows] = _Chain(self, n_rows)
        chain = self._chains[n_rows]
        losses = chain.forward(batch, beta)
        weight = weigh(losses, batch.weight)
        if weight is None:
            chain.backward(batch, chain.alike, chain.minus_alike)
            loss = losses.sum().div_(n_rows)
        else:
            weight = weight / n_rows
            loss = losses.mul_(weight).sum()
            weight = weight[..., None]
            chain.backward(batch, weight, -weight)
        for name in self.frozen:
            self.gradient[name].zero_()
        return loss


class _Chain:
    """Encoder, code, decoder and cells of an analytic step, for one number of rows."""

    def __init__(self, step: AnalyticStep, n_rows: int) -> None:
        model = step.model
        params, gradient = model.params, step.gradient
        flat = params.flat

        def buffer(width: int) -> Tensor:
            return flat.new_empty(model.n_members, n_rows, width)

        def code() -> Tensor:
            return rows_last(flat, n_rows, model.n_components)

        self.model, self.objective = model, step.objective
        self.encoder = NetworkPass(
            model.encoder, params, gradient, n_rows, codes_out=True
        )
        self.decoder = NetworkPass(
            model.decoder, params, gradient, n_rows, codes_in=True
        )
        self.log_variance, self.std, self.excess = code(), code(), code()
        self.noise, self.z, self.kl = code(), code(), code()
        self.log_prob = buffer(model.n_columns)
        self.by_location, self.by_log_scale = (
            self.decoder.by_linear,
            self.decoder.by_extra,
        )
        self.collected = None
        if "log_scale" in params:
            self.collected = gradient["log_scale"]
            self.by_log_scale = buffer(model.likelihood.n_scales)
        self.alike = buffer(1).fill_(1.0 / n_rows)
        self.minus_alike = -self.alike
        self.half, self.minus_one = number(0.5, flat), number(-1.0, flat)

    def forward(self, batch: Batch, beta: Beta) -> Tensor:
        """Loss of each row, (members, rows)."""
        self.encoder.forward(batch.inputs)
        mean, log_variance = self.encoder.linear, self.log_variance
        limit = LOG_VARIANCE_LIMIT
        torch.clamp(self.encoder.extra, -limit, limit, out=log_variance)
        torch.mul(log_variance, self.half, out=self.std).exp_()
        # 0.5 (mean^2 + std^2 - 1 - log_variance)
        torch.addcmul(self.minus_one, self.std, self.std, out=self.excess)
        torch.addcmul(self.excess, mean, mean, out=self.kl)
        self.kl.sub_(log_variance).mul_(self.half)
        if batch.unit is None:
            self.z.copy_(mean)
        else:
            torch.mul(self.std, batch.unit[:, 0], out=self.noise)
            torch.add(mean, self.noise, out=self.z)
        self.decoder.forward(self.z)
        self.model.likelihood.differentiate(
            (self.decoder.linear, self._log_scale()),
            batch.x,
            (self.log_prob, self.by_location, self.by_log_scale),
            batch.observed,
        )
        losses, self.by_kl = self.objective.kl_cost(self.kl, beta)
        return losses.sub_(self.log_prob.sum(-1))

    def backward(self, batch: Batch, weight: Tensor, minus_weight: Tensor) -> None:
        """Gradient of the sum of the losses times ``weight`` (members, rows, 1)."""
        by_z = self._backward_of_cells(minus_weight)
        encoder = self.encoder
        by_kl = weight if is_one(self.by_kl) else weight * self.by_kl
        torch.addcmul(by_z, by_kl, encoder.linear, out=encoder.by_linear)
        # 0.5 (by_kl (std^2 - 1) + by_z unit std), zero where it was clamped
        by_log_variance = self.excess.mul_(by_kl)
        if batch.unit is not None:
            by_log_variance.addcmul_(by_z, self.noise)
        inside = self.log_variance.eq_(encoder.extra).mul_(self.half)
        torch.mul(by_log_variance, inside, out=encoder.by_extra)
        encoder.backward(to_input=False)

    def _log_scale(self) -> Tensor:
        if "log_scale" in self.model.params:
            return self.model.params["log_scale"] + self.model.scale_offset
        return self.decoder.extra.add_(self.model.scale_offset)

    def _backward_of_cells(self, minus_weight: Tensor) -> Tensor:
        """Derivative by the code, (members, rows, components)."""
        # A likelier cell lowers the loss.
        self.by_location.mul_(minus_weight)
        if self.collected is None:
            self.by_log_scale.mul_(minus_weight)
        elif self.collected.shape[-1] == self.by_log_scale.shape[-1]:
            torch.bmm(minus_weight.mT, self.by_log_scale, out=self.collected)
        else:
            by_scale = torch.bmm(minus_weight.mT, self.by_log_scale)
            torch.sum(by_scale, -1, keepdim=True, out=self.collected)
        return self.decoder.backward(to_input=True)
