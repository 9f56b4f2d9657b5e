"""Levels of a column: counted, ordered, grouped where rare, looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.cells import plain_level

__all__ = [
    "MAX_LEVELS",
    "MAX_ORDERED",
    "Codebook",
    "Grouping",
    "count_levels",
    "distinct",
    "merge_levels",
    "order_levels",
]

Array = npt.NDArray[np.float64]

MAX_LEVELS = 100
"""Codes of a categorical column where the user sets no limit: a column of names or
keys then costs no more than this."""

MAX_ORDERED = 1000
"""Levels of an ordinal column: all have a code, and draws look at each of them."""


def count_levels(
    cells: npt.NDArray[Any], weight: Array
) -> tuple[dict[Any, float], int]:
    """Return the weight of each level, and how many cells are observed.

    Parameters
    ----------
    cells : ndarray of object (None = missing) or float (NaN = missing), shape (n,)
    weight : ndarray, shape (n,)
    """
    if cells.dtype != object:
        seen = ~np.isnan(cells)
        values, codes = np.unique(cells[seen], return_inverse=True)
        levels = [plain_level(value) for value in values.tolist()]
        sums = np.bincount(codes, weight[seen], len(levels))
        return dict(zip(levels, sums.tolist(), strict=True)), int(seen.sum())
    labels = cells.tolist()
    levels = list(dict.fromkeys(labels))
    place = {level: i for i, level in enumerate(levels)}
    codes = np.fromiter(map(place.__getitem__, labels), np.intp, len(labels))
    sums = np.bincount(codes, weight, len(levels))
    cells_of = np.bincount(codes, minlength=len(levels))
    counted = dict(zip(levels, sums.tolist(), strict=True))
    missing = int(cells_of[place[None]]) if None in place else 0
    counted.pop(None, None)
    return counted, len(labels) - missing


def merge_levels(a: Mapping[Any, float], b: Mapping[Any, float]) -> dict[Any, float]:
    """Return the weights of the levels of both."""
    return {level: a.get(level, 0.0) + b.get(level, 0.0) for level in {**a, **b}}


def order_levels(levels: Iterable[Any], declared: Sequence[Any] = ()) -> list[Any]:
    """Sort levels as declared; others behind, numbers by size, then text."""
    place = {level: i for i, level in enumerate(declared)}

    def key(level: Any) -> tuple[int, bool, Any]:
        text = isinstance(level, str)
        return (place.get(level, len(place)), text, level)

    return sorted((intern(x) if isinstance(x, str) else x for x in levels), key=key)


@dataclass(frozen=True)
class Grouping:
    """Which levels are too rare to have a code of their own, as in `OneHotEncoder`.

    Parameters
    ----------
    max_categories : int or None
        Most codes of a column, that of the rare levels included; None is 100.
    min_frequency : int, float or None
        Levels of less weight than this are rare; a float in (0, 1) is a share of the
        column's weight.
    """

    max_categories: int | None = None
    min_frequency: float | None = None

    def __post_init__(self) -> None:
        most, least = self.max_categories, self.min_frequency
        if most is not None and (
            isinstance(most, bool) or most != int(most) or most < 2
        ):
            raise ValueError(
                f"max_categories is None or a whole number >= 2, got {most!r}."
            )
        fits = least is None or (
            0 < least < 1 if isinstance(least, float) else int(least) == least >= 1
        )
        if not fits:
            raise ValueError(
                "min_frequency is None, a whole number >= 1 or a float between 0 and "
                f"1, got {least!r}."
            )

    def arrange(self, weights: npt.ArrayLike) -> tuple[list[int], int]:
        """Return the order of the codes, rare levels last, and the number of these.

        One level at least keeps a code of its own, and none is rare alone.
        """
        w = np.asarray(weights, dtype=np.float64)
        least = self.min_frequency or 0.0
        if isinstance(least, float) and least < 1:
            least = least * w.sum()
        heaviest = np.argsort(w, kind="stable")[::-1]  # of ties the later one
        most = MAX_LEVELS if self.max_categories is None else self.max_categories
        rare = w < least
        rare[heaviest[0]] = False
        if (~rare).sum() + rare.any() > most:
            own = [j for j in heaviest if not rare[j]][: most - 1]
            rare[:] = True
            rare[own] = False
        if rare.sum() < 2:
            return list(range(len(w))), 0
        order = [*np.flatnonzero(~rare).tolist(), *np.flatnonzero(rare).tolist()]
        return order, int(rare.sum())


class Codebook:
    """The codes of one column's levels.

    Parameters
    ----------
    levels : sequence
        In the order of their codes; the last `n_rare` share the last code.
    shares : sequence of float
        Of each level among the observed cells.
    n_rare : int
    unlearned : sequence
        Further levels, without a code: they are coded as missing.
    """

    def __init__(
        self,
        levels: Sequence[Any],
        shares: Sequence[float],
        n_rare: int,
        unlearned: Sequence[Any] = (),
    ) -> None:
        self.levels, self.unlearned = tuple(levels), frozenset(unlearned)
        self.n_codes = len(levels) - n_rare + (n_rare > 0)
        codes = np.minimum(np.arange(len(levels)), self.n_codes - 1)
        self.code_of = dict(zip(self.levels, codes.tolist(), strict=True))
        every = (*levels, *unlearned)
        self.is_numeric = not any(isinstance(level, str) for level in every)
        share = np.asarray(shares, dtype=np.float64)
        self.shares = np.bincount(codes, share, self.n_codes)
        # Within the shared code each level keeps its observed share.
        self._first_rare = self.n_codes - 1 if n_rare else len(levels)
        inner = share[self._first_rare :]
        self._log_inner = dict(
            zip(self.levels[self._first_rare :], np.log(inner / inner.sum()).tolist())
        )
        self._cumulated = np.cumsum(inner) / (inner.sum() or 1.0)
        self._likeliest = self._first_rare + int(np.argmax(inner)) if n_rare else 0

    def encode(self, cells: npt.NDArray[Any]) -> Array:
        """Return the codes of labels or numbers, NaN where there is none."""
        return self._look_up(cells, self.code_of)

    def log_share(self, cells: npt.NDArray[Any]) -> Array:
        """Return the log share of each cell's level in its code."""
        if not self._log_inner:
            return np.zeros(len(cells))
        return np.nan_to_num(self._look_up(cells, self._log_inner), nan=0.0)

    def decode(
        self, codes: Array, source: np.random.Generator | None
    ) -> npt.NDArray[Any]:
        """Return labels, or numbers if all levels are numbers.

        A shared code is its likeliest level, or one drawn from `source` by its share.
        """
        holes = np.isnan(codes)
        whole = np.clip(np.rint(np.where(holes, 0.0, codes)), 0, self.n_codes - 1)
        place = whole.astype(np.intp)
        rare = place >= self._first_rare
        if rare.any():
            place[rare] = self._likeliest
            if source is not None:
                drawn = np.searchsorted(self._cumulated, source.random(rare.sum()))
                last = len(self._cumulated) - 1
                place[rare] = self._first_rare + np.minimum(drawn, last)
        if self.is_numeric:
            values = np.array(self.levels, dtype=np.float64)[place]
            return np.where(holes, np.nan, values)
        table = np.empty(len(self.levels), dtype=object)
        table[:] = self.levels
        labels = table[place]
        labels[holes] = None
        return labels

    @staticmethod
    def _look_up(cells: npt.NDArray[Any], book: Mapping[Any, float]) -> Array:
        """Return what `book` says of each cell, NaN for others."""
        if cells.dtype != object:
            values, inverse = np.unique(cells, return_inverse=True)
            known = [book.get(value, np.nan) for value in values.tolist()]
            return np.array(known, dtype=np.float64)[inverse]
        labels = cells.tolist()
        full = {label: book.get(label, np.nan) for label in dict.fromkeys(labels)}
        return np.fromiter(map(full.__getitem__, labels), np.float64, len(labels))


def distinct(cells: npt.NDArray[Any]) -> list[Any]:
    """Return the levels among labels or numbers, missing ones left out."""
    if cells.dtype != object:
        values = np.unique(cells[~np.isnan(cells)])
        return [plain_level(value) for value in values.tolist()]
    return [x for x in dict.fromkeys(cells.tolist()) if x is not None]
