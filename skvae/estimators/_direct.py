"""Tables that are tensors, asked about where they are.

A question goes by way of the host because the table's columns may be anything: text,
dates, levels, counts. Where all of them are real numbers, coding a table is one shift
and one scale a column, and that is done here on whatever device the table is. Only
NumPy's reader learns what the columns are, so that a fit reads its table on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor, scoring_dtype
from skvae.table.kinds import KINDS
from skvae.table.raw import RawTable
from skvae.table.schema import Schema

_FLOATS = (torch.float32, torch.float64)


def parts_for(estimator: Any, X: Any) -> dict[str, Any] | None:
    """What of a fitted estimator has to be another for it to ask about this tensor.

    Parameters
    ----------
    estimator : Fitted
    X : object
        Rows, or codes.

    Returns
    -------
    parts : dict or None
        Attributes, that know tensors alone; None where X is no tensor, or only the host
        can answer: for columns other than real numbers that vary, for rows that are
        completed first, for a container of other than floats.
    """
    if not (isinstance(X, Tensor) and X.dtype in _FLOATS and X.dim() == 2):
        return None
    if isinstance(estimator._schema, TensorSchema):
        return {}
    schema, container = estimator._schema, estimator._container
    dtype = getattr(torch, container.dtypes[0], None)
    if container.implementation is not None or dtype not in _FLOATS:
        return None
    if not all(KINDS[c.kind].is_boundless and not c.per_day for c in schema.columns):
        return None
    if estimator._completion is not None and bool(X.isnan().any()):
        return None
    return {
        "_schema": TensorSchema.of(schema, X.device),
        "_container": TensorContainer(dtype),
        "device_": str(X.device),
    }


@dataclass(frozen=True)
class TensorContainer:
    """What answers come in; of `Container`, what a table of numbers needs."""

    dtype: torch.dtype

    def restore(self, values: RawTable, *, like: Any = None) -> Tensor:
        """The values in this container."""
        return values.numbers.to(self.dtype)


@dataclass(frozen=True)
class TensorSchema:
    """A schema of real numbers; of `Schema`, what they need.

    Attributes
    ----------
    active : Tensor of shape (n_columns,)
        Positions of the coded columns in the table: all of its columns.
    centre, scale, slope, floor, ceiling : Tensor of shape (n_columns,)
        Of the coded columns; the slope is the log derivative of the coding.
    """

    active: Tensor
    centre: Tensor
    scale: Tensor
    slope: Tensor
    floor: Tensor
    ceiling: Tensor

    @classmethod
    def of(cls, schema: Schema, device: torch.device) -> TensorSchema:
        """A schema of real numbers on a device, in the widest floats it has."""
        wide = scoring_dtype(np.dtype(np.float64), device)
        own = [schema.columns[j] for j in schema.active]
        slope = _CODING.log_jacobian(schema.centre, schema.centre, schema.scale)
        limits = [c.floor for c in own], [c.ceiling for c in own]
        numbers = schema.centre, schema.scale, slope, *map(np.array, limits)
        return cls(
            as_tensor(schema.active, torch.int64, device),
            *(as_tensor(part, wide, device) for part in numbers),
        )

    def unknown(self, raw: RawTable, *, constants: bool = False) -> str:
        """Numbers are never unknown."""
        return ""

    def encode(self, raw: RawTable) -> Tensor:
        """The table coded; missing cells stay NaN."""
        x = raw.numbers.to(self.centre.dtype)[:, self.active]
        coded: Tensor = _CODING.encode(x, self.centre, self.scale)
        return coded

    def decode(self, coded: Tensor) -> RawTable:
        """Coded rows in the user's units, within the bounds that columns keep."""
        coded = coded.to(self.centre.dtype)
        x = _CODING.decode(coded, self.centre, self.scale)
        numbers = torch.empty_like(coded)
        numbers[:, self.active] = x.clip(self.floor, self.ceiling)
        return RawTable(numbers)

    def log_jacobian(self, raw: RawTable) -> Tensor:
        """What turns coded densities into ones in the user's units, a cell each."""
        missing = raw.numbers[:, self.active].isnan()
        return torch.where(missing, torch.zeros_like(self.slope), self.slope)

    def unseen_log_mass(self, raw: RawTable) -> Tensor:
        """There is no number that such a column cannot hold."""
        return torch.zeros(
            raw.shape, dtype=self.centre.dtype, device=self.centre.device
        )


# Shifts and scales whatever is given, NumPy's or not.
_CODING: Any = KINDS["gaussian"]
