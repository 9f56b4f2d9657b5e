"""What the commands tell of rows, in words and pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from skvae.estimators.anomaly import VAEAnomalyDetector


WIDTH = 88
"""Characters of a line of output."""


def reasons(
    names: Sequence[str],
    values: np.ndarray,
    contributions: np.ndarray,
    *,
    most: int = 3,
    width: int | None = None,
) -> str:
    """The columns that lower a row's score most: "name = value (nats), ...".

    Parameters
    ----------
    names : sequence of str of length n_columns
    values : ndarray of shape (n_columns,)
        Numbers, texts or dates.
    contributions : ndarray of shape (n_columns,)
    most : int
        Columns to name; fewer where fewer lower the score.
    width : int or None
        Characters; of the columns after the first only those that fit are named.
    """
    told = ""
    for j in np.argsort(contributions, kind="stable")[:most]:
        if contributions[j] >= 0:
            break
        more = f"{names[j]} = {_told(values[j])} ({contributions[j]:.1f})"
        more = f"{told}, {more}" if told else more
        if told and width is not None and len(more) > width:
            break
        told = more
    return told


def _told(value: Any) -> str:
    if value is None or value != value:
        return "missing"
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def paragraph(text: str, indent: int) -> str:
    """Text in lines of at most `WIDTH` characters, indented from the second on."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent)


def drawable(path: Path) -> str | None:
    """What keeps a picture from being drawn to a file; None where nothing does."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "plots need matplotlib, which is not installed: pip install skvae[plot]"
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().lstrip(".") not in known:
        return f"{path} must end in one of .{', .'.join(known)}"
    return writable(path)


def writable(path: Path) -> str | None:
    """What keeps a file from being written; None where nothing is known to."""
    if path.is_dir():
        return f"{path} is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return None


def draw(
    detector: VAEAnomalyDetector,
    X: np.ndarray,
    path: Path,
    *,
    title: str,
    y: Any = None,
) -> None:
    """Draw the codes and scores of a table to a file."""
    from matplotlib.figure import Figure

    from skvae.plotting import LatentDisplay, ScoreDisplay

    # A figure of its own: no window, no change to pyplot's state.
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    LatentDisplay.from_estimator(detector, X, y=y, ax=left)
    ScoreDisplay.from_estimator(detector, X, y, ax=right)
    left.set_title("codes")
    right.set_title("scores")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
