"""What the user asked the columns to be, held against what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from sys import intern
from typing import Any

import numpy as np

from skvae.table.kinds import COUNTS, KINDS, LEVELLED, REQUESTABLE
from skvae.table.levels import MAX_ORDERED, order_levels
from skvae.table.statistics import Statistics

__all__ = [
    "check_observed",
    "check_sparse",
    "label",
    "labels_of",
    "named_columns",
    "positions_of",
    "requested_kinds",
    "resolve_kinds",
]

Labels = Sequence[str | None]


def label(name: str | None, position: int, *, quoted: bool = True) -> str:
    """What to call a column: by its name, or by its position where it has none."""
    if not name:
        return f"column {position}"
    return repr(name) if quoted else name


def labels_of(names: Sequence[str] | None, d: int) -> list[str | None]:
    """Return the name of each of d columns, None without names."""
    if names is None:
        return [None] * d
    labels: list[str | None] = [intern(str(name)) for name in names]
    if len(labels) != d:
        raise ValueError(
            f"names holds one name a column, {d} in all, got {len(labels)}."
        )
    return labels


def check_observed(statistics: Statistics, labels: Labels) -> None:
    """Raise ValueError where there is nothing to learn a column from."""
    if statistics.rows == 0:
        raise ValueError(
            "A table needs at least one row of positive weight, got none: it is empty "
            "or every sample_weight is zero."
        )
    empty = np.flatnonzero(statistics.count == 0).tolist()
    if empty:
        named = ", ".join(label(labels[j], j) for j in empty)
        raise ValueError(
            "Every column needs at least one observed cell, got only missing values "
            f"in {named}; drop these columns."
        )


def check_sparse(kinds: Sequence[str]) -> None:
    """Raise ValueError where a sparse table is to hold more than counts."""
    other = sorted(set(kinds) - {"constant", "bernoulli", *COUNTS})
    if other:
        raise ValueError(
            f"A sparse table holds counts, likelihood one of {list(COUNTS)}, got "
            f"{other}; name one of these, or make the table dense with X.toarray()."
        )


def positions_of(what: str, keys: Iterable[Any], labels: Labels) -> list[list[int]]:
    """Return the columns that each key stands for: a position, or a name of some.

    Parameters
    ----------
    what : str
        The parameter that the keys are of, for the message.
    keys : iterable of str or int
    labels : sequence of str or None

    Raises
    ------
    ValueError
        For a key that is neither.
    """
    places: dict[Any, list[int]] = {j: [j] for j in range(len(labels))}
    for j, name in enumerate(labels):
        if name is not None:
            places.setdefault(name, []).append(j)
    found = []
    for key in keys:
        # True is 1, and no position.
        can = isinstance(key, str | Integral) and not isinstance(key, bool)
        if not can or key not in places:
            known = [name for name in labels if name is not None]
            raise ValueError(
                f"{what} names columns by position (0 to {len(labels) - 1}) or by "
                f"name ({known or 'this table has none'}), got {key!r}."
            )
        found.append(places[key])
    return found


def named_columns(categorical_features: Any, labels: Labels) -> set[int]:
    """Return the positions of the columns named as categorical.

    Parameters
    ----------
    categorical_features : "from_dtype", None or sequence of str, int or bool
        The first two name no column.
    """
    if categorical_features is None:
        return set()
    if isinstance(categorical_features, str):
        if categorical_features != "from_dtype":
            raise ValueError(
                "categorical_features is 'from_dtype', None or a list of columns, got "
                f"{categorical_features!r}."
            )
        return set()
    keys = list(categorical_features)
    if keys and all(isinstance(key, (bool, np.bool_)) for key in keys):
        if len(keys) != len(labels):
            raise ValueError(
                "categorical_features as a mask holds one boolean a column, "
                f"{len(labels)} in all, got {len(keys)}."
            )
        return {j for j, named in enumerate(keys) if named}
    return set().union(*positions_of("categorical_features", keys, labels))


def requested_kinds(
    labels: Labels, likelihood: str | Mapping[Any, str], nominal: set[int]
) -> list[str]:
    """Spell out `likelihood`: one kind, or "auto", for each column.

    One kind for all columns of numbers leaves the `nominal` ones "auto".
    """
    if isinstance(likelihood, str):
        _check_kind(likelihood)
        levels = likelihood in LEVELLED
        return [
            "auto" if j in nominal and not levels else likelihood
            for j in range(len(labels))
        ]
    if not isinstance(likelihood, Mapping):
        raise TypeError(
            "likelihood is 'auto', a kind of column or a dict {column: kind}, "
            f"got {likelihood!r}."
        )
    kinds = ["auto"] * len(labels)
    places = positions_of("likelihood", likelihood, labels)
    for kind, own in zip(likelihood.values(), places, strict=True):
        _check_kind(kind)
        for j in own:
            kinds[j] = kind
    return kinds


def _check_kind(kind: str) -> None:
    if kind != "auto" and kind not in REQUESTABLE:
        raise ValueError(
            f"likelihood names kinds among {['auto', *REQUESTABLE]}, got {kind!r}."
        )


def resolve_kinds(
    statistics: Statistics,
    labels: Labels,
    requested: Sequence[str],
    nominal: set[int],
    continuous: str,
) -> list[str]:
    """Settle the kind of each column, or say which cannot be what was asked."""
    admits = {kind: coding.admits(statistics) for kind, coding in KINDS.items()}
    kinds = []
    for j, kind in enumerate(requested):
        text, levels = j in statistics.text, statistics.levels.get(j, {})
        single = len(levels) < 2 if text else bool(admits["constant"][j])
        if single:
            kinds.append("constant")
        elif kind == "auto":
            if text or j in nominal:
                kinds.append("ordinal" if j in statistics.ordered else "categorical")
            else:
                kinds.append("bernoulli" if admits["bernoulli"][j] else continuous)
        elif text and not KINDS[kind].has_levels:
            raise ValueError(
                f"A {kind} column {KINDS[kind].rule}, but {label(labels[j], j)} holds "
                f"text such as {order_levels(levels)[-3:]}; choose "
                "likelihood='categorical' or 'auto' for it, or recode it."
            )
        elif admits[kind][j]:
            kinds.append(kind)
        else:
            raise ValueError(
                f"A {kind} column {KINDS[kind].rule}, but {label(labels[j], j)} "
                f"holds such values as {_offending(statistics, kind, j)}; choose "
                f"likelihood={continuous!r} or 'auto' for it, or recode it."
            )
        if kinds[-1] == "ordinal" and len(levels) > MAX_ORDERED:
            raise ValueError(
                f"An ordinal column holds at most {MAX_ORDERED} levels, but "
                f"{label(labels[j], j)} holds {len(levels)}; merge neighbours, or "
                "choose likelihood='categorical' for it, which groups infrequent ones."
            )
    _check_block(kinds, labels)
    return kinds


def _offending(statistics: Statistics, kind: str, j: int) -> list[float]:
    """Return some values of a column that its kind does not admit."""
    ends = [statistics.low[j], statistics.high[j]]
    seen = np.unique(np.append(statistics.sample[:, j], ends))
    seen = seen[~np.isnan(seen)]
    low = np.full_like(seen, np.inf)  # no value itself
    found: list[float] = seen[KINDS[kind].nearest(seen, low) != seen].tolist()
    return found[:3]


def _check_block(kinds: Sequence[str], labels: Labels) -> None:
    alone = [j for j, kind in enumerate(kinds) if kind == "multinomial"]
    if len(alone) == 1:
        raise ValueError(
            "Multinomial columns share a total and are two or more, got only "
            f"{label(labels[alone[0]], alone[0])}; choose 'poisson' or "
            "'negative_binomial' for it."
        )
