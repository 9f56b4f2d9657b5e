"""The price of cells that their column cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skvae.table.columns import Column
from skvae.table.kinds import tolerance
from skvae.table.layout import Layout
from skvae.table.raw import RawTable, as_floats
from skvae.table.statistics import relative_rounding

__all__ = ["unseen_log_mass"]

OWN_UNIT = ("constant", "lognormal")
"""Kinds whose distances are measured by the size of their values, not by 1."""


def unseen_log_mass(
    raw: RawTable, columns: Sequence[Column], layout: Layout
) -> npt.NDArray[np.float64]:
    """Return what `Schema.unseen_log_mass` tells, shape (n, d)."""
    table = raw.dense()
    mass = np.zeros(table.shape)
    # A constant learned in float64 is met by its float32 neighbour too.
    rounding = relative_rounding(table.dtype)
    kinds = np.array([column.kind for column in columns])
    constant = np.flatnonzero(kinds == "constant")
    known = [(constant, layout.centre[constant][None])]
    for group in layout.groups:
        x = as_floats(table[:, group.place])
        near = group.coding.nearest(x, group.low)
        if near is not x:
            known.append((group.positions, near))
    for at, near in known:
        x = as_floats(table[:, at])
        rows, places = np.nonzero((x != near) & ~np.isnan(x))
        own, value = at[places], np.broadcast_to(near, x.shape)[rows, places]
        sized = np.isin(kinds[own], OWN_UNIT)
        equal = tolerance(np.where(sized, value, 1.0), rounding)
        reach = np.where(kinds[own] == "constant", layout.scale[own], 0.0)
        equal = np.maximum(equal, reach)
        away = np.fmax(np.abs(x[rows, places] - value), equal)
        mass[rows, own] = np.log(equal) - np.log(away)
    for levels in layout.levels:
        if levels.book.unlearned:
            j, cells = levels.position, raw.column(levels.position).tolist()
            strange = [x in levels.book.unlearned for x in cells]
            mass[strange, j] = np.log(columns[j].novelty)
    for j, level in layout.text_constants:
        cells = raw.column(j).tolist()
        other = [x is not None and x == x and x != level for x in cells]
        mass[other, j] = np.log(tolerance(np.ones(1), rounding))
    return mass
