"""What the cells of a row should have been."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import _safe_indexing

from skvae.estimators._arrays import to_host
from skvae.plotting._display import Display, documented, floats
from skvae.table.containers import Container
from skvae.table.raw import RawTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skvae.estimators.anomaly import VAEAnomalyDetector

# Half widths of an interval beyond which a cell is drawn at the edge.
_EDGE = 8.0


@documented("Axes.scatter")
class VerdictDisplay(Display):
    """A row against what its other cells tell of each: values seen and expected.

    Each column has a scale of its own: zero is the expected value, and the shaded band
    its 90 % interval.

    Parameters
    ----------
    values, expected, low, high : ndarray of shape (n_features,)
        Of one row, as from ``explain(X, expected=True)``; of a category 0, and an
        infinite value where it is another one than expected.
    labels : sequence of str of length n_features
        What to write at each column.
    title : str

    Attributes
    ----------
    {axes}

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import VerdictDisplay
    >>> X = load_wine(as_frame=True).data
    >>> detector = VAEAnomalyDetector(n_components=2, random_state=0).fit(X)
    >>> display = VerdictDisplay.from_estimator(detector, X)
    >>> display.expected.shape
    (12,)
    """

    _drawn = ("VAEAnomalyDetector",)

    def __init__(
        self,
        values: np.ndarray,
        expected: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        *,
        labels: Sequence[str],
        title: str = "",
    ) -> None:
        self.values, self.expected, self.low, self.high = values, expected, low, high
        self.labels, self.title = labels, title

    @classmethod
    def from_estimator(
        cls,
        estimator: VAEAnomalyDetector,
        X: Any,
        *,
        row: int | None = None,
        max_columns: int = 12,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw one row of X, the columns that tell most against it on top.

        Parameters
        ----------
        estimator : fitted VAEAnomalyDetector
        X : array-like of shape (n_samples, n_features)
        row : int, default=None
            Position in X; None takes the row of the lowest score.
        max_columns : int, default=12
            Columns that are drawn.
        {drawing}

        Raises
        ------
        ValueError
            Where X has no such row.
        """
        cls._check(estimator)
        scores = floats(estimator.score_samples(X))
        place = int(scores.argmin()) if row is None else row
        if not -len(scores) <= place < len(scores):
            raise ValueError(
                f"row is a position in X, which has {len(scores)} rows, got {place}."
            )
        place %= len(scores)
        one = _safe_indexing(X, [place])
        told = estimator.explain(one, expected=True)
        tables = map(to_host, (one, told.expected, told.low, told.high))
        seen, *points = map(Container.read, tables)
        own = np.argsort(floats(told.contributions)[0], kind="stable")
        own = own[:max_columns]
        numbers = [_numbers(table, points[0]) for table in (seen, *points)]
        name = partial(estimator._schema.label, quoted=False)
        word = estimator._schema.word
        chance = float(estimator.outlier_probability(one)[0])
        display = cls(
            *(part[own] for part in numbers),
            labels=[
                f"{name(j)} = {word(seen, 0, j)} ({word(points[0], 0, j)})" for j in own
            ],
            title=f"row {place}: outlier with a chance of {chance:.2g}",
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        {plot}
        """
        ax = self._begin(ax, height=1.4 + 0.3 * len(self.labels))
        place = np.arange(len(self.labels))
        half = np.maximum(0.5 * (self.high - self.low), 1e-12)
        low, high, seen = (
            np.clip((part - self.expected) / half, -_EDGE, _EDGE)
            for part in (self.low, self.high, self.values)
        )
        ax.barh(place, high - low, left=low, height=0.7, color="0.85", label="expected")
        outside = (self.values < self.low) | (self.values > self.high)
        colours = np.where(outside, "tab:red", "tab:blue").tolist()
        style = {"c": colours, "s": 30, "zorder": 3, "label": "seen", **kwargs}
        ax.scatter(seen, place, **style)
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set_yticks(place, self.labels)
        ax.invert_yaxis()
        ax.set_xlim(-1.1 * _EDGE, 1.1 * _EDGE)
        ax.set_xlabel("half widths of the 90 % interval")
        ax.set_title(self.title)
        ax.legend(loc="best")
        return self


def _numbers(row: RawTable, expected: RawTable) -> np.ndarray:
    """Numbers of the one row of a table, of labels whether they are those expected."""
    numbers = row.dense()[0].astype(np.float64)
    for j, labels in row.text.items():
        same = labels[0] is None or labels[0] == expected.text[j][0]
        numbers[j] = 0.0 if same else np.inf
    return numbers
