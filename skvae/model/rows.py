"""Coded rows on their way into a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor


@dataclass(frozen=True)
class Rows:
    """Coded rows as tensors.

    Attributes
    ----------
    x : Tensor of shape (n_rows, n_columns) or (n_members, n_rows, n_columns)
        Missing cells hold 0.
    observed : Tensor of the same shape or None
        1 where a cell is observed, 0 where it is missing; None where all are observed.
    weight : Tensor of shape (n_rows,) or (n_members, n_rows) or None
        Mean 1; None where all rows count alike.
    seen : Tensor of shape (n_rows, n_inputs) or None
        What the encoder sees; None where that is `x` itself.
    """

    x: Tensor
    observed: Tensor | None = None
    weight: Tensor | None = None
    seen: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the encoder sees."""
        return self.x if self.seen is None else self.seen

    def __len__(self) -> int:
        return self.x.shape[-2]

    @classmethod
    def concatenate(cls, tables: Sequence[Rows]) -> Rows:
        """Tables one below the other."""

        def below(parts: list[Tensor | None], like: list[Tensor]) -> Tensor | None:
            if all(part is None for part in parts):
                return None
            pairs = zip(parts, like, strict=True)
            return torch.cat([torch.ones_like(x) if p is None else p for p, x in pairs])

        x = [rows.x for rows in tables]
        apart = any(rows.seen is not None for rows in tables)
        return cls(
            torch.cat(x),
            below([rows.observed for rows in tables], x),
            below([rows.weight for rows in tables], [each[:, 0] for each in x]),
            torch.cat([rows.inputs for rows in tables]) if apart else None,
        )

    def at(self, places: Tensor) -> Rows:
        """The rows at these places (n_members, n_rows), for each member its own."""
        return Rows(
            self.x[places],
            None if self.observed is None else self.observed[places],
            None if self.weight is None else self.weight[places],
            None if self.seen is None else self.seen[places],
        )

    @classmethod
    def from_coded(
        cls,
        coded: np.ndarray,
        dtype: torch.dtype,
        device: torch.device,
        weight: np.ndarray | None = None,
    ) -> Rows:
        """Rows of a coded table.

        Parameters
        ----------
        coded : ndarray of shape (n_rows, n_columns)
            NaN where a cell is missing.
        dtype, device
        weight : ndarray of shape (n_rows,) or None
            Scaled here to mean 1.
        """
        x, observed = as_tensor(coded, dtype, device), None
        missing = x.isnan()
        if bool(missing.any()):
            observed = (~missing).to(dtype)
            x = torch.where(missing, 0.0, x)
        if weight is None:
            return cls(x, observed)
        return cls(x, observed, as_tensor(weight / weight.mean(), dtype, device))
