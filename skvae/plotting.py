"""Pictures of a fitted model: codes, scores, reasons and the course of training.

Displays in scikit-learn's manner: `from_estimator` asks the estimator and draws,
`plot` draws again elsewhere, and the numbers drawn are attributes. Needs matplotlib
(``pip install skvae[plot]``), which is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skvae.table.containers import Container

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skvae.estimators.anomaly import VAEAnomalyDetector
    from skvae.estimators.transformer import VAETransformer

    Estimator: TypeAlias = VAETransformer | VAEAnomalyDetector

__all__ = ["ContributionDisplay", "LatentDisplay", "LossDisplay", "ScoreDisplay"]

SCORE_NAMES = {
    "log_likelihood": "log p(x), nats",
    "elbo": "evidence lower bound, nats",
    "reconstruction_probability": "reconstruction log-probability, nats",
    "reconstruction": "minus squared error, scaled units",
    "tempered_elbo": "tempered lower bound, nats",
    "neighbours": "log-probability less code distance, nats",
}

# Up to so many different labels are colours with names; more are a scale.
_MOST_LABELS = 10
# Scores this many interquartile ranges below the median share the end of a scale, so
# that a few extreme rows don't press all others together.
_REACH = 6.0
_LOW, _HIGH = "tab:red", "tab:blue"


class _Display:
    """Something drawn: where, once it is drawn."""

    ax_: Axes
    figure_: Figure

    def _begin(self, ax: Axes | None, *, height: float = 4.2) -> Axes:
        """The axes given, or those of a new figure; remembered."""
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError(
                    "Plots need matplotlib, which is not installed: pip install "
                    "skvae[plot]."
                ) from error
            ax = pyplot.subplots(figsize=(6.4, height), layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return ax


class LatentDisplay(_Display):
    """Where rows lie: two components of their codes, coloured by score or label.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, 2)
    colours : ndarray of shape (n_samples,)
        Numbers, or labels where they are few.
    code_names : tuple of str
        Of the two axes.
    colour_name : str
        What the colours mean.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import LatentDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> vae = VAETransformer(3, random_state=0).fit(X)
    >>> display = LatentDisplay.from_estimator(vae, X, y=y)
    >>> display.codes.shape
    (178, 2)
    """

    def __init__(
        self,
        codes: np.ndarray,
        colours: np.ndarray,
        *,
        code_names: tuple[str, str] = ("component 0", "component 1"),
        colour_name: str = "",
    ) -> None:
        self.codes, self.colours = codes, colours
        self.code_names, self.colour_name = code_names, colour_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: Any,
        *,
        y: Any = None,
        scores: Any = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the two components that carry most about the rows of X.

        Parameters
        ----------
        estimator : fitted VAETransformer or VAEAnomalyDetector
            With one component only, the second axis is the score.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            Labels to colour by.
        scores : array-like of shape (n_samples,), default=None
            Numbers to colour by; None takes the estimator's own scores.
        ax : matplotlib Axes, default=None
            None makes a figure.
        **kwargs : dict
            For ``Axes.scatter``.

        Returns
        -------
        display : LatentDisplay

        Raises
        ------
        ValueError
            Where both labels and scores are given, or not one a row.
        """
        if y is not None and scores is not None:
            raise ValueError(
                "Codes are coloured by y or by scores, got both. Drop one of them."
            )
        codes = np.asarray(estimator.posterior(X)[0], dtype=np.float64)
        names = [
            f"component {j}  (KL {nats:.2g} nats)"
            for j, nats in enumerate(estimator.kl_per_component_)
        ]
        first = np.argsort(-estimator.kl_per_component_, kind="stable")[:2].tolist()
        colours, meaning = (y, "label") if y is not None else (scores, "score")
        if colours is None:
            colours, meaning = estimator.score_samples(X), _score_name(estimator)
        if len(first) == 1:
            codes = np.column_stack([codes[:, 0], estimator.score_samples(X)])
            names, first = [names[0], _score_name(estimator)], [0, 1]
        display = cls(
            codes[:, first],
            _one_a_row(colours, len(codes), meaning),
            code_names=(names[first[0]], names[first[1]]),
            colour_name=meaning,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed on to ``Axes.scatter``.

        Returns
        -------
        self : object
            With the attributes `ax_` and `figure_`.
        """
        ax = self._begin(ax)
        style = {"s": 16, "linewidths": 0, **kwargs}
        kinds, counts = np.unique(self.colours, return_counts=True)
        if len(kinds) <= _MOST_LABELS or self.colours.dtype.kind not in "fiu":
            for i, kind in enumerate(kinds):
                # The rarest on top.
                own = {"color": f"C{i % 10}", "zorder": 2.0 + 1.0 / counts[i]}
                chosen = self.codes[self.colours == kind]
                ax.scatter(*chosen.T, **{"label": str(kind), **own, **style})
            ax.legend(title=self.colour_name, loc="best", framealpha=0.9)
        else:
            order = np.argsort(-self.colours)  # the lowest on top
            low = _low_end(self.colours)
            scale = {"c": self.colours[order], "cmap": "viridis", "vmin": low}
            points = ax.scatter(*self.codes[order].T, **{**scale, **style})
            extend = "min" if low > self.colours.min() else "neither"
            self.figure_.colorbar(points, ax=ax, label=self.colour_name, extend=extend)
        ax.set(xlabel=self.code_names[0], ylabel=self.code_names[1])
        return self


class ScoreDisplay(_Display):
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
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

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
        estimator : fitted VAEAnomalyDetector or VAETransformer
            The latter has no threshold.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            Labels, one colour each.
        ax : matplotlib Axes, default=None
            None makes a figure.
        **kwargs : dict
            For ``Axes.hist``.

        Returns
        -------
        display : ScoreDisplay
        """
        scores = np.asarray(estimator.score_samples(X), dtype=np.float64)
        display = cls(
            scores,
            offset=getattr(estimator, "offset_", None),
            y=None if y is None else _one_a_row(y, len(scores), "y"),
            score_name=_score_name(estimator),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed on to ``Axes.hist``.

        Returns
        -------
        self : object
            With the attributes `ax_` and `figure_`.
        """
        ax = self._begin(ax)
        low = _low_end(self.scores, self.offset)
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


class ContributionDisplay(_Display):
    """Why rows score as they do: the columns that add most to it or take most from it.

    Parameters
    ----------
    contributions : ndarray of shape (n_rows, n_features)
        From `explain`.
    values : ndarray of shape (n_rows, n_features)
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
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

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
        values: np.ndarray,
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
        estimator : fitted VAEAnomalyDetector or VAETransformer
        X : array-like of shape (n_samples, n_features)
        row : int or sequence of int, default=None
            Positions in X; None takes the row of the lowest score.
        max_columns : int, default=10
            Columns with a bar of their own; the others share one.
        ax : matplotlib Axes, default=None
            None makes a figure.
        **kwargs : dict
            For ``Axes.barh``.

        Returns
        -------
        display : ContributionDisplay
        """
        scores = np.asarray(estimator.score_samples(X), dtype=np.float64)
        rows = np.atleast_1d(scores.argmin() if row is None else np.asarray(row, int))
        outside = rows[(rows < -len(scores)) | (rows >= len(scores))]
        if len(outside):
            raise ValueError(
                f"row names positions in X, which has {len(scores)} rows, got "
                f"{outside.tolist()}."
            )
        values = Container.to_array(X)
        named = [f"column {j}" for j in range(values.shape[1])]
        display = cls(
            np.asarray(estimator.explain(X), dtype=np.float64)[rows],
            values[rows],
            names=list(getattr(estimator, "feature_names_in_", named)),
            rows=rows.tolist(),
            scores=scores[rows],
            unit=_score_name(estimator).rsplit(", ")[-1],
            max_columns=max_columns,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed on to ``Axes.barh``.

        Returns
        -------
        self : object
            With the attributes `ax_` and `figure_`.
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
            names = [f"{self.names[j]} = {self.values[0, j]:.4g}" for j in own]
        lengths = self.contributions[:, own]
        if len(others):
            names.append(f"{len(others)} other columns")
            rest = self.contributions[:, others].sum(axis=1, keepdims=True)
            lengths = np.hstack([lengths, rest])
        return names, lengths


class LossDisplay(_Display):
    """How training went: the loss of each pass, and that of held-out rows.

    Parameters
    ----------
    loss_curve : ndarray of shape (n_passes,)
    validation_loss : ndarray of shape (n_looks,)
        Minus the held-out objective; the first before the first pass. May be empty.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import LossDisplay
    >>> vae = VAETransformer(2, random_state=0).fit(load_wine().data)
    >>> display = LossDisplay.from_estimator(vae)
    >>> len(display.loss_curve) == vae.n_iter_
    True
    """

    def __init__(self, loss_curve: np.ndarray, validation_loss: np.ndarray) -> None:
        self.loss_curve, self.validation_loss = loss_curve, validation_loss

    @classmethod
    def from_estimator(
        cls, estimator: Estimator, *, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Draw how the training of an estimator went.

        Parameters
        ----------
        estimator : fitted VAETransformer or VAEAnomalyDetector
        ax : matplotlib Axes, default=None
            None makes a figure.
        **kwargs : dict
            For ``Axes.plot``.

        Returns
        -------
        display : LossDisplay

        Raises
        ------
        ValueError
            Where nothing was trained: the linear model has a closed form.
        """
        check_is_fitted(estimator)
        loss = np.asarray(estimator.loss_curve_, dtype=np.float64)
        if not len(loss):
            raise ValueError(
                "A training curve needs at least one pass, but loss_curve_ is empty: "
                "this model is linear and has a closed form."
            )
        held_out = -np.asarray(estimator.validation_scores_, dtype=np.float64)
        return cls(loss, held_out).plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        The looks at the held-out rows are drawn evenly from the start to the last pass.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed on to ``Axes.plot``.

        Returns
        -------
        self : object
            With the attributes `ax_` and `figure_`.
        """
        ax = self._begin(ax)
        n_passes, n_looks = len(self.loss_curve), len(self.validation_loss)
        # The loss of a pass is its mean over the steps: that of its middle.
        middle = np.arange(n_passes) + 0.5
        style = {"marker": "." if n_passes < 30 else "", **kwargs}
        ax.plot(middle, self.loss_curve, label="training rows", **style)
        if n_looks:
            looks = np.linspace(0.0, n_passes, n_looks)
            best = int(self.validation_loss.argmin())
            style = {"marker": "." if n_looks < 30 else "", **kwargs}
            ax.plot(looks, self.validation_loss, label="held-out rows", **style)
            least = self.validation_loss[best]
            ax.plot(looks[best], least, "ko", label=f"their least, {least:.4g}")
            ax.legend(loc="best")
        ax.locator_params(axis="x", integer=True)
        ax.set(xlabel="passes over the rows", ylabel="loss, nats a row")
        return self


def _score_name(estimator: Estimator) -> str:
    settled = estimator._settled
    return SCORE_NAMES[settled.get("anomaly_score", "log_likelihood")]


def _one_a_row(values: Any, n_rows: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n_rows,):
        raise ValueError(
            f"{what} must hold one value for each row, shape ({n_rows},), got shape "
            f"{array.shape}."
        )
    return array


def _low_end(scores: np.ndarray, offset: float | None = None) -> float:
    """Where a scale begins: the least score, unless few rows are far below the rest."""
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    reach = middle - _REACH * (high - low)
    if offset is not None:
        reach = min(reach, 2.0 * offset - middle)
    return float(max(scores.min(), reach))
