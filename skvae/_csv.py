"""Users' CSV files: tables out of them, scores beside them. Standard library only."""

from __future__ import annotations

import csv
import datetime
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

DELIMITERS = ",;\t|"
EMPTY = {"", "na", "n/a", "nan", "null", "none", "?"}
"""What an empty cell may hold, in lower case."""

TRUTH = {"true": 1.0, "false": 0.0}
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d\S*)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")

# Rows by which the delimiter is recognised.
_SEEN_ROWS = 20


class TableError(ValueError):
    """A file that can't be read as a table; the message says where."""


@dataclass
class _ColumnCells:
    """What the cells of one column are."""

    name: str
    values: array[float] = field(default_factory=lambda: array("d"))
    n_empty: int = 0
    n_text: int = 0
    n_dates: int = 0
    """Of those that hold text."""
    first_text: tuple[int, str] = (0, "")
    first_undated: tuple[int, str] = (0, "")
    """The first cell that holds something, and no date."""

    def take(self, cell: str, line: int, *, decimal_comma: bool) -> bool:
        """Add a cell, NaN where it is no number; True if its comma was a point."""
        cell = cell.strip()
        comma = decimal_comma and DECIMAL_COMMA.fullmatch(cell) is not None
        number = as_number(cell.replace(",", ".") if comma else cell)
        if number is None:
            number = np.nan
            if cell.lower() in EMPTY:
                self.n_empty += 1
            else:
                self._take_text(cell, line)
        elif not self.first_undated[0]:
            self.first_undated = line, cell
        self.values.append(number)
        return comma

    def _take_text(self, cell: str, line: int) -> None:
        if not self.n_text:
            self.first_text = line, cell
        if as_date(cell) is not None:
            self.n_dates += 1
        elif not self.first_undated[0]:
            self.first_undated = line, cell
        self.n_text += 1

    @property
    def n_numbers(self) -> int:
        return len(self.values) - self.n_empty - self.n_text

    @property
    def is_text(self) -> bool:
        """Whether most of its cells are words."""
        return self.n_text > self.n_numbers

    @property
    def is_dated(self) -> bool:
        """Whether most of its cells are dates."""
        return 2 * self.n_dates > self.n_text + self.n_numbers

    def counts_rows(self) -> bool:
        """Whether the cells are the numbers of the rows, as an index written along."""
        own = np.frombuffer(self.values)
        return len(own) > 1 and bool((np.diff(own) == 1.0).all())


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as a table.

    Attributes
    ----------
    path : Path
    delimiter : str
    decimal_comma : bool
        Whether numbers are written as 3,14.
    has_header : bool
    width : int
        Number of columns in the file.
    names : tuple of str
        Of the columns that are used.
    values : ndarray of shape (n_rows, n_used)
        Floats, NaN where a cell is empty; objects where some columns hold text or
        dates, None where such a cell is empty.
    lines : ndarray of int of shape (n_rows,)
        Line of the file that each row ends on, the first line being 1.
    left_out : dict of str to list of str
        Columns that are not among `names`, by the reason why.
    """

    path: Path
    delimiter: str
    decimal_comma: bool
    has_header: bool
    width: int
    names: tuple[str, ...]
    values: np.ndarray
    lines: np.ndarray
    left_out: dict[str, list[str]]

    def text_of(self, number: float) -> str:
        """A number as the file writes them."""
        text = f"{number:.6g}"
        return text.replace(".", ",") if self.decimal_comma else text

    def write(self, path: Path, columns: dict[str, Sequence[str]]) -> None:
        """Write the file's rows again, with more columns behind them.

        Parameters
        ----------
        path : Path
            Not the table's own.
        columns : dict of str to sequence of str of length n_rows
        """
        with (
            opened(self.path) as source,
            path.open("w", encoding="utf-8", newline="") as to,
        ):
            rows = _rows(source, self.delimiter)
            writer = csv.writer(to, delimiter=self.delimiter, lineterminator="\n")
            header = next(rows)[1] if self.has_header else None
            held = header or [f"column {j + 1}" for j in range(self.width)]
            # A second column of the same name would be read for the first.
            prefix = "skvae_" if set(held) & set(columns) else ""
            writer.writerow([*held, *(prefix + name for name in columns)])
            for (_, row), *more in zip(rows, *columns.values(), strict=True):
                writer.writerow([*row, *more])


def read_csv(path: Path, *, ignore: Sequence[str] = ()) -> CsvTable:
    """Read a CSV file's columns of numbers, of dates and of text.

    The delimiter is recognised among comma, semicolon, tab and bar; in files with
    another one than the comma, 3,14 is a number. Dates are those of ISO 8601, with or
    without a time. A first row of numbers, or of numbers and dates, is data, unless it
    counts the columns.

    Parameters
    ----------
    path : Path
    ignore : sequence of str
        Names of columns to leave out.

    Raises
    ------
    OSError
        Where the file can't be opened.
    TableError
        Where it holds no rows, rows of different lengths, or text in a column of
        numbers or dates.
    """
    with opened(path) as source:
        sample = [text for text in islice(source, _SEEN_ROWS) if text.strip()]
        if not sample:
            raise TableError(f"{path} is empty.")
        delimiter = _delimiter(sample)
        source.seek(0)
        rows = _rows(source, delimiter)
        line, first = next(rows)
        columns, has_header = _columns(first)
        lines, commas = array("q"), False
        if not has_header:
            rows = _chained((line, first), rows)
        for line, row in rows:
            if len(row) != len(columns):
                raise TableError(
                    f"{path}, line {line}: {len(row)} cells, but the first line has "
                    f"{len(columns)}. Give every row the same number of cells."
                )
            lines.append(line)
            for column, cell in zip(columns, row):
                commas |= column.take(cell, line, decimal_comma=delimiter != ",")
    if not lines:
        raise TableError(f"{path} has a header, but no rows.")
    used, left_out = _sorted_out(path, columns, ignore)
    held = {place: np.frombuffer(columns[place].values) for place in used}
    worded = [place for place in used if columns[place].is_text]
    cells: dict[int, Any] = dict(held)
    if worded:
        with opened(path) as source:
            own = {place: columns[place] for place in worded}
            cells |= _texts(_rows(source, delimiter), own, skip=has_header)
    named = {place: columns[place].name for place in used}
    # Where each row has another text, it names the row.
    for place in worded:
        if not columns[place].is_dated and len(set(cells[place])) == len(lines):
            left_out.setdefault("another text in each row", []).append(named.pop(place))
    if not named:
        raise TableError(
            f"{path} has no column to learn from. Left out: "
            + "; ".join(f"{why}: {', '.join(some)}" for why, some in left_out.items())
            + "."
        )
    return CsvTable(
        path=path,
        delimiter=delimiter,
        decimal_comma=commas,
        has_header=has_header,
        width=len(columns),
        names=tuple(named.values()),
        values=np.column_stack([cells[place] for place in named]),
        lines=np.frombuffer(lines, dtype=np.int64),
        left_out=left_out,
    )


def _texts(
    rows: Iterator[tuple[int, list[str]]],
    columns: dict[int, _ColumnCells],
    *,
    skip: bool,
) -> dict[int, np.ndarray]:
    """Cells of the columns at these places, None where they are empty.

    Texts, or dates where a column holds such.
    """
    kept: dict[int, list[Any]] = {place: [] for place in columns}
    dated = {place for place, column in columns.items() if column.is_dated}
    for _, row in islice(rows, int(skip), None):
        for place, cells in kept.items():
            cell = row[place].strip()
            if cell.lower() in EMPTY:
                cells.append(None)
            else:
                cells.append(as_date(cell) if place in dated else cell)
    return {place: np.array(cells, dtype=object) for place, cells in kept.items()}


def as_number(cell: str) -> float | None:
    """The number that a cell holds, true and false being 1 and 0; None if none."""
    try:
        number = float(cell)
    except ValueError:
        return TRUTH.get(cell.lower())
    # Python takes 1_000 for a number, and inf; a table of measurements does not.
    return number if np.isfinite(number) and "_" not in cell else None


def as_date(cell: str) -> datetime.date | None:
    """The date, or date and time, that a cell holds in ISO 8601; None if none."""
    if not ISO_DATE.fullmatch(cell):
        return None
    try:
        if len(cell) == len("2024-01-31"):
            return datetime.date.fromisoformat(cell)
        return datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as text; what keeps it from being read becomes a TableError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not text in UTF-8 (byte {error.start}: {error.reason}). Save "
            f"it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise TableError(f"{path} can't be read as CSV: {error}.") from error


def _rows(source: Any, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line that each ends on."""
    reader = csv.reader(source, delimiter=delimiter)
    for row in reader:
        if len(row) > 1 or any(map(str.strip, row)):
            yield reader.line_num, row


def _chained(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _delimiter(sample: list[str]) -> str:
    """The delimiter that cuts the rows into most cells, equally many in each."""

    def cells(delimiter: str) -> tuple[bool, int]:
        counts = [len(row) for _, row in _rows(sample, delimiter)]
        return len(set(counts)) == 1 and counts[0] > 1, counts[0]

    return max(DELIMITERS, key=cells)  # the first of equals: the comma


def _columns(first: list[str]) -> tuple[list[_ColumnCells], bool]:
    """Columns named by the first row, and whether it does name them."""
    cells = [cell.strip() for cell in first]
    numbers = [as_number(cell) for cell in cells]
    # Frames without names are written with a header of 0, 1, 2, ...
    counted = len(cells) > 2 and numbers in (
        [*range(len(cells))],
        [*range(1, len(cells) + 1)],
    )
    is_data = any(number is not None for number in numbers) and all(
        number is not None or not cell or as_date(cell)
        for number, cell in zip(numbers, cells)
    )
    has_header = counted or not is_data
    names = cells if has_header else [""] * len(cells)
    columns = [_ColumnCells(name or f"column {j + 1}") for j, name in enumerate(names)]
    return columns, has_header


def _sorted_out(
    path: Path, columns: list[_ColumnCells], ignore: Sequence[str]
) -> tuple[list[int], dict[str, list[str]]]:
    """Places of the columns to use, and the names of the others by the reason why."""
    unknown = sorted(set(ignore) - {column.name for column in columns})
    if unknown:
        raise TableError(
            f"{path} has no column {', '.join(map(repr, unknown))} to ignore. Its "
            f"columns: {', '.join(column.name for column in columns)}."
        )
    used, left_out = [], dict[str, list[str]]()
    for place, column in enumerate(columns):
        if column.name in ignore:
            reason = "ignored as asked"
        elif not column.n_numbers and not column.n_text:
            reason = "empty"
        elif place == 0 and column.name == "column 1" and column.counts_rows():
            reason = "numbers of the rows"
        else:
            used.append(place)
            continue
        left_out.setdefault(reason, []).append(column.name)
    for place in used:
        _check_alike(path, columns[place])
    return used, left_out


def _check_alike(path: Path, column: _ColumnCells) -> None:
    """Raise where a column of numbers or of dates holds some other cells."""
    if column.is_dated and column.first_undated[0]:
        wanted, n_wanted, (line, cell) = "date", column.n_dates, column.first_undated
    elif column.n_text and not column.is_text:
        wanted, n_wanted, (line, cell) = "number", column.n_numbers, column.first_text
    else:
        return
    n_others = len(column.values) - column.n_empty - n_wanted
    raise TableError(
        f"{path}, line {line}, column {column.name!r}: {cell!r} is not a {wanted} "
        f"({n_others} such in this column, {n_wanted} {wanted}s). Correct or empty the "
        f"cells, or leave the column out: --ignore {column.name!r}."
    )
