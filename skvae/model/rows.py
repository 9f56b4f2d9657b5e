"""Coded rows on their way into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor, send

# Cells that are looked at together where a whole table is gone through.
_CELLS_PER_BLOCK = 2**22


class Stored(Protocol):
    """Rows in any form of which some can be taken."""

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> Any:
        """Some of the rows."""


@dataclass(frozen=True, eq=False)
class OnDemand:
    """A coded table of which only the rows that are asked for are made.

    A sparse table stays sparse: indexed by rows, this gives them as an array.

    Parameters
    ----------
    stored : Stored
        Without a missing cell.
    n_columns : int
        Of the coded rows.
    code : callable
        From some of what is stored to an array (n_rows, n_columns).
    """

    stored: Stored
    n_columns: int
    code: Callable[[Any], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self.stored), self.n_columns

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.code(self.stored.take(rows))

    def take(self, rows: Any) -> OnDemand:
        """Some of the rows, still to be made."""
        return replace(self, stored=self.stored.take(rows))

    def then(self, change: Callable[[np.ndarray], np.ndarray]) -> OnDemand:
        """The same with a change of rows, one by one, after their coding."""
        code = self.code
        return replace(self, code=lambda stored: change(code(stored)))


Coded: TypeAlias = np.ndarray | OnDemand
"""Coded rows: what gives an array (n_rows, n_columns) for positions of rows."""


def take_rows(values: Coded, rows: Any) -> Coded:
    """Some of the rows, by a mask or positions, in the form that they have."""
    return values.take(rows) if isinstance(values, OnDemand) else values[rows]


def change_rows(values: Coded, change: Callable[[np.ndarray], np.ndarray]) -> Coded:
    """Rows changed one by one: at once, or when they are asked for."""
    return values.then(change) if isinstance(values, OnDemand) else change(values)


def blocks(values: Coded) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows in turn, some at a time, and where they stand.

    The same ones for equal tables of either form, whose sums then round alike.
    """
    step = max(1, _CELLS_PER_BLOCK // max(values.shape[1], 1))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        yield rows, np.ascontiguousarray(values[rows])


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

    @property
    def n_inputs(self) -> int:
        """Number of what the encoder sees of a row."""
        return self.inputs.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.x.device

    @property
    def places_device(self) -> torch.device:
        """Where `at` wants its places."""
        return self.device

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
            _gather(self.x, places),
            None if self.observed is None else _gather(self.observed, places),
            None if self.weight is None else _gather(self.weight, places),
            None if self.seen is None else _gather(self.seen, places),
        )

    def to(self, device: torch.device) -> Rows:
        """The same rows of the host on a device."""

        def sent(part: Tensor | None) -> Tensor | None:
            return None if part is None else send(part, device)

        return Rows(
            send(self.x, device),
            sent(self.observed),
            sent(self.weight),
            sent(self.seen),
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
        return cls(x, observed, scaled_weight(weight, dtype, device))


def scaled_weight(
    weight: np.ndarray, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Weights of rows, of mean 1."""
    return as_tensor(weight / weight.mean(), dtype, device)


class RowsOnHost:
    """Rows that stay on the host and move to a device when they are asked for.

    Parameters
    ----------
    rows : Rows
        On the host.
    device : torch.device
    """

    places_device = torch.device("cpu")

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.rows, self.device, self.n_inputs = rows, device, rows.n_inputs

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Tensor) -> Rows:
        """The rows at these places (n_members, n_rows), for each member its own."""
        return self.rows.at(places).to(self.device)


class RowsOnDemand:
    """Rows that become tensors when they are asked for.

    Parameters
    ----------
    table : OnDemand
    make : callable
        From coded rows to `Rows`.
    weight : Tensor of shape (n_rows,) or None
        Mean 1, on the host; None where all rows count alike.
    """

    places_device = torch.device("cpu")

    def __init__(
        self,
        table: OnDemand,
        make: Callable[[np.ndarray], Rows],
        weight: Tensor | None = None,
    ) -> None:
        self.table, self.make, self.weight = table, make, weight
        first = make(table[:1])
        self.n_inputs, self.device = first.n_inputs, first.device

    def __len__(self) -> int:
        return len(self.table)

    def at(self, places: Tensor) -> Rows:
        """The rows at these places (n_members, n_rows), for each member its own."""
        rows, weight = self.make(self.table[places.flatten().numpy()]), None
        if self.weight is not None:
            weight = send(_gather(self.weight, places), self.device)
        here = torch.arange(places.numel(), device=self.device).view(places.shape)
        return replace(rows.at(here), weight=weight)


AnyRows: TypeAlias = Rows | RowsOnHost | RowsOnDemand
"""What gives rows on the device for places of rows."""


def _gather(values: Tensor, places: Tensor) -> Tensor:
    """Rows of ``values`` at these places (n_members, n_rows)."""
    picked = values.index_select(0, places.flatten())
    return picked.view(*places.shape, *values.shape[1:])
