"""Why rows score as they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skvae.estimators._arrays import to_host
from skvae.plotting._display import Display, documented, floats, score_name
from skvae.table.containers import Container

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skvae.plotting._display import Estimator

_LOW, _HIGH = "tab:red", "tab:blue"


@documented("Axes.barh")
class ContributionDisplay(Display):
    """Why rows score as they do: the columns that add most to it or take most from it.

    Parameters
    ----------
    contributions : ndarray of shape (n_rows, n_features)
        From `explain`.
    values : sequence of sequence of str, of shape (n_rows, n_features)
        The cells.
    names : sequence of str of length n_features
    rows : sequence of int
        Positions of the rows, for the legend.
    scores : ndarray of shape (n_rows,)
    unit : str
        Of the contributions.
    max_columns : int
        Columns with a bar of their own; the others share one.

    Attributes
    ----------
    {axes}

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import ContributionDisplay
    >>> X = load_wine(as_frame=True).data
    >>> detector = VAEAnomalyDetector(n_components=2, random_state=0).fit(X)
    >>> display = ContributionDisplay.from_estimator(detector, X)
    >>> display.contributions.shape
    (1, 13)
    """

    def __init__(
        self,
        contributions: np.ndarray,
        values: Sequence[Sequence[str]],
        *,
        names: Sequence[str],
        rows: Sequence[int],
        scores: np.ndarray,
        unit: str = "nats",
        max_columns: int = 10,
    ) -> None:
        self.contributions, self.values = contributions, values
        self.names, self.rows, self.scores = names, rows, scores
        self.unit, self.max_columns = unit, max_columns

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: Any,
        *,
        row: int | Sequence[int] | None = None,
        max_columns: int = 10,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the contributions of the columns to the score of some rows of X.

        Parameters
        ----------
        estimator : fitted VAEAnomalyDetector, VAETransformer or VAEImputer
        X : array-like of shape (n_samples, n_features)
        row : int or sequence of int, default=None
            Positions in X; None takes the row of the lowest score.
        max_columns : int, default=10
            Columns with a bar of their own; the others share one.
        {drawing}
        """
        cls._check(estimator)
        scores = floats(estimator.score_samples(X))
        rows = np.atleast_1d(scores.argmin() if row is None else np.asarray(row, int))
        outside = rows[(rows < -len(scores)) | (rows >= len(scores))]
        if len(outside):
            raise ValueError(
                f"row names positions in X, which has {len(scores)} rows, got "
                f"{outside.tolist()}."
            )
        cells = Container.read(to_host(X))
        columns, word = range(cells.shape[1]), estimator._schema.word
        display = cls(
            floats(estimator.explain(X))[rows],
            [[word(cells, i, j) for j in columns] for i in rows.tolist()],
            names=[estimator._schema.label(j, quoted=False) for j in columns],
            rows=rows.tolist(),
            scores=scores[rows],
            unit=score_name(estimator).rsplit(", ")[-1],
            max_columns=max_columns,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        {plot}
        """
        names, lengths = self._bars()
        ax = self._begin(ax, height=1.4 + 0.3 * len(names))
        n_rows = len(self.rows)
        place, height = np.arange(len(names), dtype=float), 0.8 / n_rows
        for i, own in enumerate(lengths):
            colours: Any = f"C{i % 10}"
            if n_rows == 1:
                colours = np.where(own < 0, _LOW, _HIGH).tolist()
            where = place + (i - (n_rows - 1) / 2) * height
            label = f"row {self.rows[i]}: {self.scores[i]:.4g}"
            style = {"height": height, "color": colours, "label": label, **kwargs}
            bars = ax.barh(where, own, **style)
            if n_rows == 1:
                ax.bar_label(bars, fmt="{:+.2g}", padding=3)
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set_yticks(place, names)
        ax.invert_yaxis()
        ax.margins(x=0.15)
        against = self.scores - self.contributions.sum(axis=1)
        ax.set_xlabel(f"{self.unit}, added to the average score {against[0]:.4g}")
        if n_rows == 1:
            ax.set_title(f"row {self.rows[0]}, score {self.scores[0]:.4g}")
        else:
            ax.legend(title="row: score", loc="best")
        return self

    def _bars(self) -> tuple[list[str], np.ndarray]:
        """Names and lengths (n_rows, n_bars) of the bars, the longest first."""
        order = np.argsort(-np.abs(self.contributions).max(axis=0), kind="stable")
        own, others = order[: self.max_columns], order[self.max_columns :]
        names = [str(self.names[j]) for j in own]
        if len(self.rows) == 1:
            names = [f"{self.names[j]} = {self.values[0][j]}" for j in own]
        lengths = self.contributions[:, own]
        if len(others):
            names.append(f"{len(others)} other columns")
            rest = self.contributions[:, others].sum(axis=1, keepdims=True)
            lengths = np.hstack([lengths, rest])
        return names, lengths
