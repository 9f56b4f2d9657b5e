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

from skvae.model.latent import LOG_VARIANCE_LIMIT, LatentModel
from skvae.model.networks import NetworkPass
from skvae.training.batches import Batch
from skvae.training.objectives import AdditiveObjective, Beta, Objective

# Weights of the rows given their losses, both (members, rows); None: all count alike.
Weigh: TypeAlias = Callable[[Tensor], Tensor | None]


class Step(Protocol):
    """Fills the gradient's buffer."""

    def __call__(self, batch: Batch, beta: Beta, weigh: Weigh) -> Tensor:
        """Mean weighted loss of the batch, summed over members; its gradient beside.

        Parameters
        ----------
        batch : Batch
        beta : float or Tensor of shape (members, 1)
            Present weight of the KL.
        weigh : callable
        """


def choose_step(
    model: LatentModel,
    objective: Objective,
    gradient: Tensor,
    *,
    n_draws: int,
    dropout: float = 0.0,
    frozen: tuple[str, ...] = (),
) -> Step:
    """The fastest step that can do what is asked.

    Parameters
    ----------
    model : LatentModel
    objective : Objective
    gradient : Tensor of shape (n_members, size)
        Overwritten by each step.
    n_draws : int
        Posterior draws of each row; 0 for the posterior mean.
    dropout : float
    frozen : tuple of str
        Names of tensors whose gradient is zero.
    """
    if isinstance(objective, AdditiveObjective) and n_draws <= 1 and not dropout:
        return AnalyticStep(model, objective, gradient, frozen=frozen)
    return AutogradStep(model, objective, gradient, dropout=dropout, frozen=frozen)


class AutogradStep:
    """The step for any objective, number of draws and dropout.

    Parameters are those of `choose_step`.
    """

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
            seen=batch.seen,
            observed=batch.observed,
            dropout=self.dropout,
            sources=batch.sources,
        )
        losses = self.objective(terms, beta)
        weight = weigh(losses.detach())
        loss = (losses if weight is None else losses * weight).mean(1).sum()
        gradients = torch.autograd.grad(loss, self._leaves, materialize_grads=True)
        for own, collected in zip(gradients, self._collected, strict=True):
            collected.copy_(own)
        return loss.detach()


class AnalyticStep:
    """The step of the common case: each piece's own derivative, chained.

    Parameters are those of `choose_step`.
    """

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
        weight = weigh(losses)
        if weight is None:
            chain.backward(batch, chain.alike)
            loss = losses.sum() / n_rows
        else:
            weight = weight / n_rows
            chain.backward(batch, weight[..., None])
            loss = (losses * weight).sum()
        for name in self.frozen:
            self.gradient[name].zero_()
        return loss


class _Chain:
    """Encoder, code, decoder and cells of an analytic step, for one number of rows."""

    def __init__(self, step: AnalyticStep, n_rows: int) -> None:
        model = step.model
        params, gradient = model.params, step.gradient

        def buffer(width: int) -> Tensor:
            return params.flat.new_empty(model.n_members, n_rows, width)

        self.model, self.objective = model, step.objective
        self.gradient = gradient
        self.encoder = NetworkPass(model.encoder, params, gradient, n_rows)
        self.decoder = NetworkPass(model.decoder, params, gradient, n_rows)
        n_components = model.n_components
        self.std, self.z, self.kl = (buffer(n_components) for _ in range(3))
        self.cells = buffer(model.n_columns), buffer(model.n_locations)
        self.by_log_scale = buffer(model.likelihood.n_scales)
        self.alike = buffer(1).fill_(1.0 / n_rows)

    def forward(self, batch: Batch, beta: Beta) -> Tensor:
        """Loss of each row, (members, rows)."""
        self.encoder.forward(batch.seen)
        mean, log_variance = self.encoder.linear, self.encoder.extra
        log_variance.clamp_(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        torch.mul(log_variance, 0.5, out=self.std).exp_()
        # 0.5 (mean^2 + std^2 - 1 - log_variance)
        torch.addcmul(log_variance, self.std, self.std, value=-1.0, out=self.kl)
        self.kl.addcmul_(mean, mean, value=-1.0).add_(1.0).mul_(-0.5)
        if batch.unit is None:
            self.z.copy_(mean)
        else:
            torch.addcmul(mean, self.std, batch.unit[:, 0], out=self.z)
        self.decoder.forward(self.z)
        self.model.likelihood.differentiate(
            (self.decoder.linear, self._log_scale()),
            batch.x,
            (*self.cells, self.by_log_scale),
            batch.observed,
        )
        losses, self.by_kl = self.objective.kl_cost(self.kl, beta)
        return losses.sub_(self.cells[0].sum(-1))

    def backward(self, batch: Batch, weight: Tensor) -> None:
        """Gradient of the sum of the losses times ``weight`` (members, rows, 1)."""
        by_z = self._backward_of_cells(weight)
        encoder, by_kl = self.encoder, weight * self.by_kl
        mean, log_variance = encoder.linear, encoder.extra
        inside = log_variance.abs() < LOG_VARIANCE_LIMIT
        torch.addcmul(by_z, by_kl, mean, out=encoder.by_linear)
        # 0.5 (by_kl (std^2 - 1) + by_z unit std), zero where it was clamped
        by_log_variance = torch.mul(self.std, self.std, out=self.kl).sub_(1.0)
        by_log_variance.mul_(by_kl)
        if batch.unit is not None:
            by_log_variance.addcmul_(by_z, self.std.mul_(batch.unit[:, 0]))
        torch.mul(by_log_variance.mul_(0.5), inside, out=encoder.by_extra)
        encoder.backward(to_input=False)

    def _log_scale(self) -> Tensor:
        if "log_scale" in self.model.params:
            return self.model.params["log_scale"] + self.model.scale_offset
        return self.decoder.extra.add_(self.model.scale_offset)

    def _backward_of_cells(self, weight: Tensor) -> Tensor:
        """Derivative by the code, (members, rows, components)."""
        decoder, raised = self.decoder, -weight  # a likelier cell lowers the loss
        torch.mul(self.cells[1], raised, out=decoder.by_linear)
        if "log_scale" in self.model.params:
            collected = self.gradient["log_scale"]
            by_scale = torch.bmm(raised.mT, self.by_log_scale)
            collected.copy_(by_scale.sum_to_size(collected.shape))
        else:
            torch.mul(self.by_log_scale, raised, out=decoder.by_extra)
        return decoder.backward(to_input=True)
