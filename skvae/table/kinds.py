"""Kinds of columns: how the numbers of each are recognised, learned and coded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from skvae.table.statistics import Statistics

__all__ = [
    "COUNTS",
    "DENSITIES",
    "KINDS",
    "LEVELLED",
    "REQUESTABLE",
    "SCALINGS",
    "Coding",
    "tolerance",
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

NORMAL_RANGE = 3.29
"""Distance between the 5% and 95% quantiles of a normal variable, in its stds."""

LARGEST_LOG = float(np.log(np.finfo(np.float64).max))


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

    Parameters
    ----------
    density : str
        The model's name for the distribution of the coded values; "" for none.
    """

    rule: str
    """What `admits` asks, for the error message."""

    has_levels = False
    """Whether codes are those of a column's levels, which a `Codebook` knows."""

    is_boundless = False
    """Whether it takes any number, and codes it whatever the observed bounds are."""

    def __init__(self, density: str = "") -> None:
        self.density = density

    @property
    def modelled(self) -> bool:
        """Whether the coded table holds such columns."""
        return bool(self.density)

    @abstractmethod
    def admits(self, statistics: Statistics) -> Mask:
        """Tell which columns of a table can be of this kind, text aside, (d,)."""

    @abstractmethod
    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        """Return centre and scale, each (m,), of the columns at these positions."""

    def nearest(self, x: Array, low: Array) -> Array:
        """Return the nearest values that the kind admits; `low` was observed."""
        return x

    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        """Return the coded values of admitted cells; missing ones (NaN) stay so."""
        return x

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        """Return the user's values: the inverse of `encode`."""
        return coded

    def log_jacobian(self, x: Array, centre: Array, scale: Array) -> Array:
        """Return log |d coded / d x|; broadcasts to (n, m), 0 for a mass function."""
        return np.zeros_like(scale)


class _Continuous(Coding):
    rule = "holds real numbers"
    is_boundless = True

    def admits(self, statistics: Statistics) -> Mask:
        return np.ones(len(statistics.mean), dtype=bool)

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        centre, scale = SCALINGS[scaling](statistics)
        return centre[at], scale[at]

    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        return (x - centre) / scale

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        return coded * scale + centre

    def log_jacobian(self, x: Array, centre: Array, scale: Array) -> Array:
        return -np.log(scale)


class _LogNormal(_Continuous):
    """Real numbers after the logarithm."""

    rule = "holds positive numbers"
    is_boundless = False

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.low > 0

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        return _sampled(statistics, np.log, scaling, at)

    def nearest(self, x: Array, low: Array) -> Array:
        return np.where(x <= 0, low, x)

    def encode(self, x: Array, centre: Array, scale: Array) -> Array:
        return (np.log(x) - centre) / scale

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        return np.exp(np.minimum(coded * scale + centre, LARGEST_LOG))

    def log_jacobian(self, x: Array, centre: Array, scale: Array) -> Array:
        return -np.log(scale) - np.log(x)


class _Binary(Coding):
    rule = "holds only 0 and 1"

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.binary

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        return np.zeros(len(at)), np.ones(len(at))

    def nearest(self, x: Array, low: Array) -> Array:
        return np.clip(np.rint(x), 0.0, 1.0)


class _Count(Coding):
    """Counts as they are; centre and scale are those of log(1 + count)."""

    rule = "holds whole numbers >= 0"

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.whole & (statistics.low >= 0)

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        return _sampled(statistics, np.log1p, "standard", at)

    def nearest(self, x: Array, low: Array) -> Array:
        return np.maximum(np.rint(x), 0.0)

    def decode(self, coded: Array, centre: Array, scale: Array) -> Array:
        return np.maximum(coded, 0.0)


class _Level(Coding):
    """Codes 0, 1, ... of levels; centre and scale are those of the codes if ordered.

    The schema's codebooks do the coding.
    """

    rule = "holds levels"
    has_levels = True

    def admits(self, statistics: Statistics) -> Mask:
        return np.ones(len(statistics.mean), dtype=bool)

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        return np.zeros(len(at)), np.ones(len(at))


class _Constant(_Continuous):
    """A point mass; its scale is the distance that still counts as equal."""

    rule = "holds a single value, up to rounding"
    is_boundless = False

    def admits(self, statistics: Statistics) -> Mask:
        return statistics.std <= statistics.rounding * statistics.magnitude

    def learn(
        self, statistics: Statistics, scaling: str, at: Positions
    ) -> tuple[Array, Array]:
        centre = statistics.mean[at]
        reach = np.maximum(statistics.high[at] - centre, centre - statistics.low[at])
        return centre, np.maximum(reach, tolerance(centre, statistics.rounding))

    def log_jacobian(self, x: Array, centre: Array, scale: Array) -> Array:
        return np.zeros_like(scale)


def _sampled(
    statistics: Statistics,
    transform: Callable[[Any], Any],
    scaling: str,
    at: Positions,
) -> tuple[Array, Array]:
    """Return centre and scale of a function of the sampled rows.

    Coding constants need no more: the model learns what the sample was off by.
    """
    values = transform(statistics.sample[:, at])
    own = Statistics.of(values, statistics.sample_weight)
    own = replace(own, rounding=statistics.rounding)
    centre, scale = SCALINGS[scaling](own)
    # Where all sampled rows agree, though others do not.
    reach = transform(statistics.high[at]) - transform(statistics.low[at])
    return centre, np.where(scale > 0, scale, reach)


def tolerance(centre: Array, rounding: float) -> Array:
    """Return the rounding level of values at `centre`, taking 1 as the size of 0."""
    size = np.where(centre == 0, 1.0, np.abs(centre))
    return np.maximum(rounding * size, np.finfo(np.float64).tiny)


KINDS: Mapping[str, Coding] = {
    "gaussian": _Continuous("gaussian"),
    "student_t": _Continuous("student_t"),
    "lognormal": _LogNormal("gaussian"),
    "bernoulli": _Binary("bernoulli"),
    "categorical": _Level("categorical"),
    "ordinal": _Level("ordinal"),
    "poisson": _Count("poisson"),
    "negative_binomial": _Count("negative_binomial"),
    "multinomial": _Count("multinomial"),
    "constant": _Constant(),
}
"""The coding of every kind of column."""

DENSITIES = tuple(dict.fromkeys(c.density for c in KINDS.values() if c.modelled))
"""The model's names of distributions, in the order of the coded columns."""

COUNTS = tuple(kind for kind, c in KINDS.items() if isinstance(c, _Count))
"""Kinds of whole numbers >= 0."""

LEVELLED = tuple(kind for kind, c in KINDS.items() if c.has_levels)
"""Kinds whose columns hold levels."""

REQUESTABLE = [kind for kind, coding in KINDS.items() if coding.modelled]
"""What a user may name; whether a column is constant is for its values to say."""
