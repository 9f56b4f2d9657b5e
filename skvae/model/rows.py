"""Coded rows on their way into a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor


@dataclass(frozen=True)
class Rows:
    """Coded rows as tensors.

    Attributes
    ----------
    x : Tensor of shape (n_rows, n_columns)
        Missing cells hold 0.
    observed : Tensor of shape (n_rows, n_columns) or None
        1 where a cell is observed, 0 where it is missing; None where all are observed.
    weight : Tensor of shape (n_rows,) or None
        Mean 1; None where all rows count alike.
    seen : Tensor of shape (n_rows, n_inputs)
        What the encoder sees; `x` itself where None is given.
    """

    x: Tensor
    observed: Tensor | None = None
    weight: Tensor | None = None
    seen: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if cast("Tensor | None", self.seen) is None:
            object.__setattr__(self, "seen", self.x)

    def __len__(self) -> int:
        return len(self.x)

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
