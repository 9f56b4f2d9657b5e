"""``python -m skvae``: a demonstration, and outliers in a CSV file."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skvae._csv import CsvTable, TableError, read_csv
from skvae._report import WIDTH, drawable, paragraph, reasons, writable
from skvae._version import __version__

# The estimators, and torch with them, are imported once there is something to fit:
# help and complaints come at once.
if TYPE_CHECKING:
    from skvae.estimators.anomaly import VAEAnomalyDetector

# With fewer rows there is nothing to tell what is normal from.
_LEAST_ROWS = 10

DESCRIPTION = "Variational autoencoders for tables."
DEMO = """\
Fits both estimators to tables that come with scikit-learn, beside IsolationForest and
PCA, and tells how well and how fast each did. Takes well under a minute, needs no
network and writes no file unless asked to."""
DETECT = """\
Fits an outlier detector to a CSV file and prints its least likely rows with the
columns that make them so. Columns of text are categories, those of dates such as
2024-01-31 or 2024-01-31 12:30 are days, empty cells are missing. The delimiter (comma,
semicolon, tab, bar) is recognised."""
SCORED = """\
With --output the file's rows are written again, all of them in their order, with these
columns behind them:
  score    log-density of the row's cells at its code, nats; higher is more normal
  p_value  how often a row like those of the table scores as low
  outlier  1 or 0
  reason   the columns that lower the score most: value (nats against the mean row)
Exit status: 0, or 2 after an error."""


class CommandError(Exception):
    """What the user has to change; printed without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0, or 2 after an error, which is told on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        for line in arguments.run(arguments):
            print(line, flush=True)
    except (CommandError, TableError) as error:
        print(f"skvae {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"skvae {arguments.command}: {where}{error.strerror}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m skvae", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="fit example tables beside classical methods",
        description=DEMO,
        formatter_class=plain,
    )
    demo.set_defaults(run=_demo)
    detect = commands.add_parser(
        "detect",
        help="find the outliers of a CSV file",
        description=DETECT,
        epilog=SCORED,
        formatter_class=plain,
    )
    detect.set_defaults(run=_detect)
    add = detect.add_argument
    add("table", metavar="TABLE.csv", type=Path, help="in UTF-8")
    add("--output", metavar="FILE", type=Path, help="write the scored table here")
    add(
        "--contamination",
        metavar="SHARE",
        type=_share,
        default="auto",
        help="share of outliers among the rows, above 0 and at most 0.5; "
        "default: found from the scores",
    )
    add(
        "--top",
        metavar="N",
        type=_count,
        default=10,
        help="rows to print, the least likely first; default: 10",
    )
    add(
        "--ignore",
        metavar="COLUMN",
        action="append",
        default=[],
        help="a column to leave out, such as an identifier; may be repeated",
    )
    for each in (demo, detect):
        each.add_argument(
            "--plot",
            metavar="FILE",
            type=Path,
            help="draw codes and scores here, e.g. to a .png (needs matplotlib)",
        )
        each.add_argument(
            "--random-state",
            metavar="N",
            type=_count,
            default=0,
            help="seed; the same seed gives the same answer; default: 0",
        )
    return parser


def _share(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0.0 < share <= 0.5:
        raise argparse.ArgumentTypeError(
            f"must be above 0 and at most 0.5, or 'auto', got {text!r}"
        )
    return share


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, got {text!r}"
        )
    return int(text)


def _demo(arguments: argparse.Namespace) -> Iterator[str]:
    _refuse(arguments.plot and drawable(arguments.plot))
    from skvae._demo import demo

    yield from demo(arguments.random_state, arguments.plot)


def _detect(arguments: argparse.Namespace) -> Iterator[str]:
    output, plot = arguments.output, arguments.plot
    if output is not None and _same_file(output, arguments.table):
        raise CommandError(f"--output must be another file than the table, {output}")
    _refuse(output and writable(output))
    _refuse(plot and drawable(plot))
    table = read_csv(arguments.table, ignore=arguments.ignore)
    X = table.values
    yield f"{table.path}: {len(X)} rows, {len(table.names)} columns"
    yield from _notes(table)
    if len(X) < _LEAST_ROWS:
        raise CommandError(
            f"{table.path} has {len(X)} rows, but {_LEAST_ROWS} are needed to learn "
            f"what is normal"
        )
    detector, seconds, warned = _fitted(X, table.names, arguments)
    yield from warned
    scores = detector.score_samples(X)
    flagged = scores < detector.offset_  # as predict does, which would score again
    yield (
        f"{flagged.sum()} of {len(X)} rows are outliers: score below "
        f"{detector.offset_:.4g} nats (fitted in {seconds:.1f} s)"
    )
    shown = np.argsort(scores, kind="stable")[: arguments.top]
    if len(shown):
        yield "\n   line     score  outlier  reasons: value (nats against the mean row)"
    parts = detector.explain(X[shown]) if len(shown) else ()
    for i, part in zip(shown, parts, strict=True):
        verdict = "yes" if flagged[i] else "no"
        why = reasons(table.names, X[i], part, width=WIDTH - 28)
        yield f"{table.lines[i]:7}  {scores[i]:8.1f}  {verdict:7}  {why}"
    if len(shown) and flagged.sum() > flagged[shown].sum():
        yield f"   ...  more outliers: {flagged.sum() - flagged[shown].sum()}"
    if output is not None:
        _write_scored(table, output, detector, scores)
        yield f"\nScored table: {output}"
    if plot is not None:
        from skvae._report import draw

        draw(detector, X, plot, title=table.path.name)
        yield f"Drawn: {plot}" if output else f"\nDrawn: {plot}"


def _note(text: str) -> str:
    return paragraph(f"note: {text}", 6)


def _refuse(complaint: str | None) -> None:
    if complaint:
        raise CommandError(complaint)


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _notes(table: CsvTable) -> Iterator[str]:
    """What was left out of the table, and read in a way that may surprise."""
    if not table.has_header:
        yield _note("the first line holds numbers only, so it is taken for a row")
    if table.decimal_comma:
        yield _note("numbers such as 3,14 are read with a decimal comma")
    for reason, names in table.left_out.items():
        yield _note(f"left out ({reason}): {_some(names)}")


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _fitted(
    X: np.ndarray, names: Sequence[str], arguments: argparse.Namespace
) -> tuple[VAEAnomalyDetector, float, list[str]]:
    """A detector, the seconds that it took, and what it warned of."""
    from skvae.estimators.anomaly import VAEAnomalyDetector

    detector = VAEAnomalyDetector(
        contamination=arguments.contamination, random_state=arguments.random_state
    )

    def named(found: re.Match[str]) -> str:
        return repr(names[int(found[1])])

    began = time.perf_counter()
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            detector.fit(X)
        except ValueError as error:
            # The detector got an array, and speaks of its columns by position.
            told = re.sub(r"\bcolumn (\d+)", named, str(error))
            raise CommandError(f"{arguments.table}: {told}") from error
    lines = [re.sub(r"\bcolumn (\d+)", named, str(each.message)) for each in caught]
    return detector, time.perf_counter() - began, [_note(line) for line in lines]


def _write_scored(
    table: CsvTable, output: Path, detector: VAEAnomalyDetector, scores: np.ndarray
) -> None:
    X = table.values

    def numbers(values: Any) -> list[str]:
        return [table.text_of(value) for value in values]

    parts = detector.explain(X)
    why = [reasons(table.names, x, part) for x, part in zip(X, parts)]
    table.write(
        output,
        {
            "score": numbers(scores),
            "p_value": numbers(detector.p_values(X)),
            "outlier": numbers(scores < detector.offset_),
            "reason": why,
        },
    )


if __name__ == "__main__":
    # Read when torch is loaded. Threads that wait for each other would otherwise spin,
    # and where the cores are shared with other work take many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names in the table may hold characters that the terminal lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
