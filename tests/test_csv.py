"""Users' CSV files as tables, against what they hold and what pandas reads."""

from __future__ import annotations

import csv
import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine

from skvae._csv import TableError, as_number, read_csv

WINE = load_wine(as_frame=True).data[["alcohol", "hue", "proline", "flavanoids"]]
OLD = date(1999, 12, 31)


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [1, 2]),
        ("\ufeffa,b\r\n1,2\r\n3,4\r\n", ("a", "b"), [1, 2]),
        ("a\tb\n1\t2,5\n3\t4\n", ("a", "b"), [1, 2.5]),
        ("a|b\n1|2\n3|4\n", ("a", "b"), [1, 2]),
        ('"a, b";c\n1,5;2\n3;4\n', ("a, b", "c"), [1.5, 2]),
        ("a,b;c\n1,5;2\n3;4\n", ("a,b", "c"), [1.5, 2]),
        ("a\n1.5\n\n2\n", ("a",), [1.5]),
        ("1,2\n3,4\n", ("column 1", "column 2"), [1, 2]),
        ("1,2,3\n4,5,6\n", ("1", "2", "3"), [4, 5, 6]),
        ("0,1,2\n4,5,6\n", ("0", "1", "2"), [4, 5, 6]),
        ("a,\n1,2\n3,4\n", ("a", "column 2"), [1, 2]),
        (",a\n0,5\n1,6\n2,7\n", ("a",), [5]),
        ("i,a\n0,5\n1,6\n2,7\n", ("i", "a"), [0, 5]),
        ("a,b\nTrue, 1e3\nfalse,-.5\n", ("a", "b"), [1, 1000]),
        ("a,b\nNA,1\n2,?\n", ("a", "b"), [math.nan, 1]),
        ('a,b\n"1",x\n"2","y\nz"\n', ("a",), [1]),
    ],
)
def test_tables_of_all_sorts_are_read(
    text: str, names: tuple[str, ...], first: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    table = read_csv(path)
    assert table.names == names
    assert_allclose(table.values[0], first)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2024-01-31", "NA", "1999-12-31"], [date(2024, 1, 31), None, OLD]),
        (["1999-12-31 12:30", "1999-12-31"], [datetime(1999, 12, 31, 12, 30), OLD]),
        (["1999-12-31T00:00:00.5"], [datetime(1999, 12, 31, microsecond=500_000)]),
        (["1999-12-31 01:00+01:00"], [datetime(1999, 12, 31, tzinfo=UTC)]),
        # No dates: of a month, of another order, few among words.
        *((cells, cells) for cells in (["2024-01"] * 2, ["31/01/2024"] * 2)),
        (["1999-12-31", "never", "never"], ["1999-12-31", "never", "never"]),
    ],
)
def test_cells_of_iso_8601_are_dates(
    cells: list[str], expected: list[Any], tmp_path: Path
) -> None:
    table = read_csv(written(tmp_path, "\n".join(["a", *cells, *cells]))).values
    assert table[:, 0].tolist() == [*expected, *expected]
    kinds = [type(cell) for cell in table[: len(cells), 0]]
    assert kinds == [type(wanted) for wanted in expected]


def test_a_first_row_of_numbers_and_dates_is_data(tmp_path: Path) -> None:
    table = read_csv(written(tmp_path, "1999-12-31,1\n1999-12-31,2\n"))
    assert table.values.tolist() == [[OLD, 1.0], [OLD, 2.0]]
    table = read_csv(written(tmp_path, "1999-12-31,2000-12-31\n1,2\n3,4\n"))
    assert table.names == ("1999-12-31", "2000-12-31")


def test_reading_gives_back_what_pandas_wrote(tmp_path: Path) -> None:
    table = read_csv(written(tmp_path, WINE.to_csv(index=False)))
    assert table.names == tuple(WINE.columns)
    assert (table.values == WINE.to_numpy()).all()


def test_lines_count_those_within_cells(tmp_path: Path) -> None:
    path = written(tmp_path, 'a,b\n1,"x\ny"\n\n2,z\n')
    assert read_csv(path).lines.tolist() == [3, 5]


def test_ignored_column_may_hold_anything(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n3,x\n5,6\n")
    assert read_csv(path, ignore=["b"]).names == ("a",)
    with pytest.raises(TableError, match="no column 'c'"):
        read_csv(path, ignore=["c"])


def test_writing_keeps_every_cell(tmp_path: Path) -> None:
    text = 'a,b\n01,"x, ""y"""\n2.50,\n'
    path, output = written(tmp_path, text), tmp_path / "out.csv"
    read_csv(path).write(output, {"n": ["1", "2"]})
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["a", "b", "n"], ["01", 'x, "y"', "1"], ["2.50", "", "2"]]


@pytest.mark.parametrize("cell", ["", "x", "1_0", "inf", "-Infinity", "nan", "1e999"])
def test_what_is_no_number(cell: str) -> None:
    assert as_number(cell) is None
