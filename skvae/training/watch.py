"""Held-out rows: when each member is best, and when it has stopped growing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae._backend import generator
from skvae.model.latent import LatentModel
from skvae.model.rows import Rows
from skvae.training.batches import Batches
from skvae.training.history import History
from skvae.training.objectives import Beta, Objective

# Standard errors of the held-out gain that training must reach to be kept.
_EVIDENCE = 2.0
# Draws of each held-out row; in antithetic pairs.
_HELD_OUT_DRAWS = 2


class Watch:
    """Looks at the held-out rows and remembers the best parameters of each member."""

    def __init__(
        self, model: LatentModel, objective: Objective, rows: Rows, batches: Batches
    ) -> None:
        self.objective, self.rows = objective, rows
        members, n_rows = model.n_members, rows.x.shape[-2]
        self.unit: Tensor | None = None
        if batches.n_draws:
            shape = (members, _HELD_OUT_DRAWS // 2, n_rows, model.n_components)
            pair = torch.zeros(shape)
            keys = zip(pair, batches.seeds, batches.own_components, strict=True)
            for own, seed, k in keys:
                source = generator(seed, 0, 0, 1)
                own[..., :k] = torch.empty((*shape[1:3], k)).normal_(generator=source)
            self.unit = torch.cat([pair, -pair], 1).to(rows.x)
        self.model = model
        self.start = model.params.flat.clone()
        self.best = self.start.clone()
        self.start_value = rows.x.new_full((members, n_rows), -math.inf)
        self.best_value = self.start_value.clone()
        self.latest = rows.x.new_zeros(members)
        # Looks without a gain.
        self.waited = torch.zeros(members, dtype=torch.long)

    @torch.no_grad()
    def look(
        self,
        model: LatentModel,
        members: list[int],
        history: History,
        *,
        beta: Beta,
        tol: float,
        patience: int,
        counting: bool = True,
    ) -> list[bool]:
        """Compare the members in training with their best so far.

        A member whose patience has run out is left as it is. Without ``counting`` a
        look costs no patience.

        Returns
        -------
        running : list of bool
            Whether each of these members has patience left.
        """
        value, at = self._value(model, members, beta), torch.tensor(members)
        self.latest[at] = value.mean(1)
        history.validation.append(float(self.latest.mean()))
        if history.n_epochs == 0:
            self.start_value[at], self.best_value[at] = value, value
            return [True] * len(members)
        gain = (self.latest[at] - self.best_value[at].mean(1)).cpu()
        running = self.waited[at] < patience
        better = running & (gain > 0.0)
        self.best[at[better]] = model.params.flat[better]
        self.best_value[at[better]] = value[better]
        waited = torch.where(gain > tol, 0, self.waited[at] + int(counting))
        self.waited[at] = torch.where(running, waited, self.waited[at])
        return (self.waited[at] < patience).tolist()

    @torch.no_grad()
    def standing(self) -> Tensor:
        """Mean objective at beta = 1 of the best of every member."""
        flat = self.best.clone()
        best = self.model.with_params(self.model.params.with_flat(flat))
        return self._value(best, list(range(len(flat))), 1.0).mean(1)

    def restore(self, model: LatentModel, history: History) -> None:
        """Put the best parameters in place, or the first where nothing was gained."""
        gain = self.best_value - self.start_value
        n_rows = gain.shape[1]
        spread = gain.std(1) if n_rows > 1 else torch.full_like(gain[:, 0], math.inf)
        improved = gain.mean(1) > _EVIDENCE * spread / math.sqrt(n_rows)
        kept = torch.where(improved[:, None], self.best, self.start)
        model.params.flat.copy_(kept)
        value = torch.where(improved[:, None], self.best_value, self.start_value)
        history.best = float(value.mean())
        history.improved = bool(improved.any())

    def _value(self, model: LatentModel, members: list[int], beta: Beta) -> Tensor:
        """Objective of each held-out row, (members, rows)."""

        def own(values: Tensor, shared_dims: int) -> Tensor:
            return values if values.dim() == shared_dims else values[members]

        x = own(self.rows.x, 2).expand(len(members), -1, -1)
        observed = self.rows.observed
        terms = model(
            x,
            None if self.unit is None else self.unit[members],
            seen=own(self.rows.inputs, 2).expand(len(members), -1, -1),
            observed=None if observed is None else own(observed, 2).expand_as(x),
        )
        value = -self.objective(terms, beta)
        if self.rows.weight is not None:
            value = value * own(self.rows.weight, 1)
        return value
