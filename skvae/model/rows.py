"""Coded rows on their way into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_tensor, places_dtype, send

# Cells up to which a coded table is small: looked at as one, and wherever that is
# quicker copied. Of a larger one so many are looked at together as a cache holds.
_FEW_CELLS, _CELLS_PER_BLOCK = 2**22, 2**17
# Cells up to which all rows are coded once for training, 64 MB in float32: a step that
# codes its own takes up to a fifth longer.
_KEPT_CELLS = 2**24


class Stored(Protocol):
    """Rows in any form of which some can be taken."""

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> Any:
        """Some of the rows."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows of an array as what is stored.

    Parameters
    ----------
    array : ndarray of shape (n_rows, n_columns)
    """

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: Any) -> np.ndarray:
        """Some of the rows; slices copy nothing."""
        return self.array[rows]


@dataclass(frozen=True, eq=False)
class OnDemand:
    """A coded table of which only the rows that are asked for are made.

    What is stored stays as it is, sparse, in float32 or wherever else, and some of its
    rows are their positions: indexed by rows, this gives them as an array.

    Parameters
    ----------
    stored : Stored
    n_columns : int
        Of the coded rows.
    code : callable
        From some of what is stored to an array (n_rows, n_columns).
    places : ndarray of int of shape (n_rows,) or None
        Which of what is stored are the table's rows; None: all, in their order.
    whole : bool
        Whether it is known that no cell is missing.
    """

    stored: Stored
    n_columns: int
    code: Callable[[Any], np.ndarray]
    places: np.ndarray | None = None
    whole: bool = False

    @classmethod
    def of(cls, coded: np.ndarray) -> OnDemand:
        """Rows that are coded already."""
        return cls(Kept(coded), coded.shape[1], lambda rows: rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self), self.n_columns

    def __len__(self) -> int:
        return len(self.stored if self.places is None else self.places)

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = rows if self.places is None else self.places[rows]
        return self.code(self.stored.take(places))

    def made(self) -> np.ndarray:
        """All rows, shape (n_rows, n_columns)."""
        array = np.empty(self.shape)
        for rows in _slices(self.shape):
            array[rows] = self[rows]
        return array

    def take(self, rows: Any) -> OnDemand:
        """Some of the rows, by a slice, a mask or positions, still to be made."""
        places = self.places
        if places is None:
            places = np.arange(len(self), dtype=places_dtype(len(self)))
        return replace(self, places=places[rows])

    def then(
        self, change: Callable[[np.ndarray], np.ndarray], n_columns: int | None = None
    ) -> OnDemand:
        """The same with a change of rows, one by one, after their coding."""
        code = self.code
        return replace(
            self,
            code=lambda stored: change(code(stored)),
            n_columns=self.n_columns if n_columns is None else n_columns,
        )


Coded: TypeAlias = np.ndarray | OnDemand
"""Coded rows: what gives an array (n_rows, n_columns) for positions of rows."""


def take_rows(values: Coded, rows: Any) -> Coded:
    """Some of the rows, by a mask or positions, in the form that they have."""
    return values.take(rows) if isinstance(values, OnDemand) else values[rows]


def change_rows(
    values: Coded,
    change: Callable[[np.ndarray], np.ndarray],
    n_columns: int | None = None,
) -> Coded:
    """Rows changed one by one: at once, or when they are asked for.

    ``n_columns`` is what the change makes of them; None: as many as there were.
    """
    if isinstance(values, OnDemand):
        return values.then(change, n_columns)
    return change(values)


def is_small(shape: tuple[int, int]) -> bool:
    """Whether a table of so many rows and columns may be coded and copied at once."""
    return shape[0] * shape[1] <= _FEW_CELLS


def is_kept(shape: tuple[int, int]) -> bool:
    """Whether training keeps all coded rows of such a table."""
    return shape[0] * shape[1] <= _KEPT_CELLS


def blocks(values: Coded) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows in turn, some at a time, and where they stand; all of a small table.

    The same ones for equal tables of either form, whose sums then round alike.
    """
    small = is_small(values.shape)
    for rows in [slice(0, len(values))] if small else _slices(values.shape):
        yield rows, np.ascontiguousarray(values[rows])


def _slices(shape: tuple[int, int]) -> Iterator[slice]:
    """All rows of a table in turn, as many at a time as a cache holds."""
    step = max(1, _CELLS_PER_BLOCK // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


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

    def shaped(self, shape: torch.Size) -> Rows:
        """The same rows, of no weight, with several axes in place of their one."""

        def view(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.reshape(*shape, part.shape[-1])

        x = self.x.reshape(*shape, self.x.shape[-1])
        return Rows(x, view(self.observed), None, view(self.seen))

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
        From coded rows, and their features where these are given, to `Rows`.
    weight : Tensor of shape (n_rows,) or None
        Mean 1, on the host; None where all rows count alike.
    features : Tensor of shape (n_rows, n_features) or None
        Of the rows with holes filled, on the host; None where they are made anew.
    """

    places_device = torch.device("cpu")

    def __init__(
        self,
        table: OnDemand,
        make: Callable[..., Rows],
        weight: Tensor | None = None,
        features: Tensor | None = None,
    ) -> None:
        self.table, self.make, self.weight = table, make, weight
        self.features = features
        first = make(table[:1])
        self.n_inputs, self.device = first.n_inputs, first.device

    def __len__(self) -> int:
        return len(self.table)

    def at(self, places: Tensor) -> Rows:
        """The rows at these places (n_members, n_rows), for each member its own."""
        flat, weight, features = places.flatten(), None, None
        if self.features is not None:
            features = send(self.features[flat], self.device)
        rows = self.make(self.table[flat.numpy()], features=features)
        if self.weight is not None:
            weight = send(_gather(self.weight, places), self.device)
        return replace(rows.shaped(places.shape), weight=weight)


AnyRows: TypeAlias = Rows | RowsOnHost | RowsOnDemand
"""What gives rows on the device for places of rows."""


def _gather(values: Tensor, places: Tensor) -> Tensor:
    """Rows of ``values`` at these places (n_members, n_rows)."""
    picked = values.index_select(0, places.flatten())
    return picked.view(*places.shape, *values.shape[1:])
