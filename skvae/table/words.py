"""Cells in words: as a reader writes them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skvae.table.asked import label
from skvae.table.cells import DAY_NANOSECONDS, NANOSECONDS
from skvae.table.columns import Column
from skvae.table.kinds import KINDS
from skvae.table.layout import Layout
from skvae.table.levels import distinct
from skvae.table.raw import RawTable

__all__ = ["check_numbers", "check_width", "unknown_levels", "word"]

SHOWN_LEVELS = 3
"""Unknown levels of a column that a warning names."""

_DAY_SECONDS = DAY_NANOSECONDS // NANOSECONDS["s"]
# Days that a date of seconds holds by far.
_FARTHEST_DAY = 1e8


def word(raw: RawTable, row: int, j: int, column: Column) -> str:
    """Return what `Schema.word` tells."""
    if j in raw.text:
        text = raw.text[j][row]
        return "missing" if text is None else str(text)
    number = float(raw.column(j)[row])
    if np.isnan(number):
        return "missing"
    ticks = column.per_day
    if ticks and abs(number) < _FARTHEST_DAY:
        moment = np.datetime64(round(number * _DAY_SECONDS), "s")
        day = moment.astype("M8[D]")
        return str(day if ticks == 1 else moment).replace("T", " ")
    return f"{number:.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def unknown_levels(
    raw: RawTable, columns: Sequence[Column], layout: Layout, *, constants: bool
) -> str:
    """Return what `Schema.unknown` tells."""
    books = {own.position: own.book.code_of for own in layout.levels}
    if constants:
        books |= {j: {level: 0} for j, level in layout.text_constants}
    told = []
    for j, book in books.items():
        known = {None, *book, *columns[j].unlearned}
        new = [x for x in distinct(raw.column(j)) if x not in known]
        if new:
            shown = ", ".join(map(repr, new[:SHOWN_LEVELS]))
            more = len(new) - SHOWN_LEVELS
            shown += f" and {more} more" if more > 0 else ""
            told.append(f"{label(columns[j].name, j)}: {shown}")
    return "; ".join(told)


def check_numbers(raw: RawTable, columns: Sequence[Column]) -> None:
    """Raise ValueError for text in a column of numbers."""
    for j, cells in raw.text.items():
        column = columns[j]
        if KINDS[column.kind].has_levels or column.is_text:
            continue
        cell = next((x for x in cells if isinstance(x, str)), None)
        if cell is not None:
            raise ValueError(
                f"A column that held numbers in fit holds numbers, but "
                f"{label(column.name, j)} holds text such as {cell!r}; correct these "
                f"cells or make them missing."
            )


def check_width(shape: tuple[int, ...], width: int, what: str) -> None:
    """Raise ValueError for a table of another width."""
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(
            f"{what} of this schema has {width} columns, shape (n, {width}), "
            f"got shape {tuple(shape)}."
        )
