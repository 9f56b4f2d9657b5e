"""How normal rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skvae.plotting._display import (
    Display,
    documented,
    floats,
    low_end,
    one_a_row,
    score_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skvae.plotting._display import Estimator


@documented("Axes.hist")
class ScoreDisplay(Display):
    """How normal rows are: a histogram of their scores, with the threshold.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
    offset : float or None
        The threshold; None where there is none.
    y : ndarray of shape (n_samples,) or None
        Labels, one colour each.
    score_name : str

    Attributes
    ----------
    {axes}

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import ScoreDisplay
    >>> X = load_wine().data
    >>> detector = VAEAnomalyDetector(n_components=2, random_state=0).fit(X)
    >>> display = ScoreDisplay.from_estimator(detector, X)
    >>> display.offset == detector.offset_
    True
    """

    def __init__(
        self,
        scores: np.ndarray,
        *,
        offset: float | None = None,
        y: np.ndarray | None = None,
        score_name: str = "score",
    ) -> None:
        self.scores, self.offset, self.y = scores, offset, y
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: Any,
        y: Any = None,
        *,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the scores of the rows of X.

        Parameters
        ----------
        estimator : fitted VAEAnomalyDetector, VAETransformer or VAEImputer
            The latter has no threshold.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            Labels, one colour each.
        {drawing}
        """
        cls._check(estimator)
        scores = floats(estimator.score_samples(X))
        display = cls(
            scores,
            offset=getattr(estimator, "offset_", None),
            y=None if y is None else one_a_row(y, len(scores), "y"),
            score_name=score_name(estimator),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        {plot}
        """
        ax = self._begin(ax)
        low = low_end(self.scores, self.offset)
        shown = np.maximum(self.scores, low)
        bins = np.linspace(low, max(shown.max(), np.nextafter(low, np.inf)), 41)
        style = {"bins": bins, "histtype": "stepfilled", "alpha": 0.6, **kwargs}
        if self.y is None:
            ax.hist(shown, **style)
        else:
            for kind in np.unique(self.y):
                ax.hist(shown[self.y == kind], **{"label": str(kind), **style})
        # Logarithmic, so that a few rows stay visible beside thousands.
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7)
        ax.yaxis.set_major_formatter("{x:.0f}")
        if self.offset is not None:
            label = f"threshold {self.offset:.4g}"
            label += f" ({int((self.scores < self.offset).sum())} rows below)"
            ax.axvline(self.offset, color="black", linestyle="--", label=label)
        if self.y is not None or self.offset is not None:
            ax.legend(loc="upper left")
        name = self.score_name
        if low > self.scores.min():
            name += f"\n(leftmost bar: all rows down to {self.scores.min():.4g})"
        ax.set(xlabel=name, ylabel="rows")
        return self
