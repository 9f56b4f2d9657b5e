"""Kinds of columns: how each is recognised, learned, coded and decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.statistics import Statistics

__all__ = [
    "KINDS",
    "SCALINGS",
    "Coding",
    "check_observed",
    "resolve_kinds",
    "tolerance",
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NORMAL_RANGE = 3.29
"""Distance between the 5% and 95% quantiles of a normal variable, in its stds."""


def _standard(statistics: Statistics) -> tuple[Array, Array]:
    return statistics.mean, statistics.std


def _robust(statistics: Statistics) -> tuple[Array, Array]:
    low, median, high = statistics.quantiles([0.05, 0.5, 0.95])
    scale = (high - low) / NORMAL_RANGE
    size = np.maximum(np.abs(low), np.abs(high))
    spread = scale > statistics.rounding * size  # False also where NaN
    return (
        np.where(np.isnan(median), statistics.mean, median),
        np.where(spread, scale, statistics.std),
    )


SCALINGS: Mapping[str, Callable[[Statistics], tuple[Array, Array]]] = {
    "standard": _standard,
    "robust": _robust,
}


class Coding(ABC):
    """How the columns of one kind are learned and coded, all of them at once.

    A new kind of column is one subclass and one line in `KINDS`. Tables are
    (n, m), `centre` and `scale` (m,), for the m columns of the kind.
    """

    rule: str
    """What `admits` asks, for the error message."""

    modelled = True
    """Whether the coded table holds such columns."""

    @abstractmethod
    def admits(self, statistics: Statistics) -> Mask:
        """Tell which columns of a table can be of this kind, shape (d,)."""

    @abstractmethod
    def learn(self, statistics: Statistics, scaling: str) -> tuple[Array, Array]:
        """Return centre and scale, each (d,), of all columns as if of this kind."""

    @abstractmethod
    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        """Return the coded values; a missing cell (NaN) stays missing."""

    @abstractmethod
    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        """Return the user's values: the inverse of `encode`, clipping nothing."""

    @abstractmethod
    def log_jacobian(self, centre: Array, scale: Array) -> Array:
        """Return log |d coded / d x|, shape (m,); 0 for a mass function."""


class _Continuous(Coding):
    rule = "holds real numbers"

    def admits(self, statistics: Statistics) -> Mask:
        return np.ones(len(statistics.mean), dtype=bool)

    def learn(self, statistics: Statistics, scaling: str) -> tuple[Array, Array]:
        return SCALINGS[scaling](statistics)

    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        return (x - centre) / scale

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        return coded * scale + centre

    def log_jacobian(self, centre: Array, scale: Array) -> Array:
        return -np.log(scale)


class _Binary(Coding):
    rule = "holds only 0 and 1"

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.binary

    def learn(self, statistics: Statistics, scaling: str) -> tuple[Array, Array]:
        return np.zeros_like(statistics.mean), np.ones_like(statistics.mean)

    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        return np.clip(np.rint(x), 0.0, 1.0)  # of values never seen, the nearer one

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        return coded

    def log_jacobian(self, centre: Array, scale: Array) -> Array:
        return np.zeros_like(scale)


class _Constant(_Continuous):
    """A point mass; its scale is the distance that still counts as equal."""

    rule = "holds a single value, up to rounding"
    modelled = False

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.std <= statistics.rounding * statistics.magnitude

    def learn(self, statistics: Statistics, scaling: str) -> tuple[Array, Array]:
        centre = statistics.mean
        reach = np.maximum(statistics.high - centre, centre - statistics.low)
        return centre, np.maximum(reach, tolerance(centre, statistics.rounding))

    def log_jacobian(self, centre: Array, scale: Array) -> Array:
        return np.zeros_like(scale)


def tolerance(centre: Array, rounding: float) -> Array:
    """Return the rounding level of values at `centre`, taking 1 as the size of 0."""
    size = np.where(centre == 0, 1.0, np.abs(centre))
    return np.maximum(rounding * size, np.finfo(np.float64).tiny)


_CONTINUOUS = _Continuous()
KINDS: Mapping[str, Coding] = {
    "gaussian": _CONTINUOUS,
    "student_t": _CONTINUOUS,
    "bernoulli": _Binary(),
    "constant": _Constant(),
}
"""The coding of every kind of column."""

REQUESTABLE = [kind for kind, coding in KINDS.items() if coding.modelled]
"""What a user may name; whether a column is constant is for its values to say."""


def _label(name: str | None, position: int) -> str:
    return f"column {position}" if name is None else repr(name)


def check_observed(statistics: Statistics, labels: Sequence[str | None]) -> None:
    """Raise ValueError where there is nothing to learn a column from."""
    if statistics.rows == 0:
        raise ValueError(
            "A table needs at least one row of positive weight, got none: it is empty "
            "or every sample_weight is zero."
        )
    empty = np.flatnonzero(statistics.count == 0).tolist()
    if empty:
        named = ", ".join(_label(labels[j], j) for j in empty)
        raise ValueError(
            "Every column needs at least one observed cell, got only missing values "
            f"in {named}; drop these columns."
        )


def _requested(
    labels: Sequence[str | None], likelihood: str | Mapping[Any, str]
) -> list[str]:
    """Spell out `likelihood`: one kind, or "auto", for each column."""
    if isinstance(likelihood, str):
        _check_kind(likelihood)
        return [likelihood] * len(labels)
    if not isinstance(likelihood, Mapping):
        raise TypeError(
            "likelihood is 'auto', a kind of column or a dict {column: kind}, "
            f"got {likelihood!r}."
        )
    places: dict[Any, list[int]] = {j: [j] for j in range(len(labels))}
    for j, name in enumerate(labels):
        if name is not None:
            places.setdefault(name, []).append(j)
    kinds = ["auto"] * len(labels)
    for key, kind in likelihood.items():
        _check_kind(kind)
        if key not in places:
            known = [name for name in labels if name is not None]
            raise ValueError(
                f"likelihood names columns by position (0 to {len(labels) - 1}) or by "
                f"name ({known or 'this table has none'}), got {key!r}."
            )
        for j in places[key]:
            kinds[j] = kind
    return kinds


def _check_kind(kind: str) -> None:
    if kind != "auto" and kind not in REQUESTABLE:
        raise ValueError(
            f"likelihood names kinds among {['auto', *REQUESTABLE]}, got {kind!r}."
        )


def resolve_kinds(
    statistics: Statistics,
    labels: Sequence[str | None],
    likelihood: str | Mapping[Any, str],
    continuous: str,
) -> list[str]:
    """Settle the kind of each column, or say which cannot be what was asked."""
    admits = {kind: coding.admits(statistics) for kind, coding in KINDS.items()}
    automatic = ("constant", "bernoulli", continuous)
    kinds = _requested(labels, likelihood)
    for j, kind in enumerate(kinds):
        if kind == "auto" or admits["constant"][j]:
            kinds[j] = next(kind for kind in automatic if admits[kind][j])
        elif not admits[kind][j]:
            seen = [statistics.low[j], statistics.high[j], *statistics.sample[:, j]]
            values = sorted({float(v) for v in seen if not np.isnan(v)} - {0.0, 1.0})
            raise ValueError(
                f"A {kind} column {KINDS[kind].rule}, but {_label(labels[j], j)} "
                f"holds such values as {values[:3]}; choose likelihood={continuous!r} "
                "or 'auto' for it, or recode it."
            )
    return kinds
