"""Where rows lie in latent space."""

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

    from skvae.estimators.anomaly import VAEAnomalyDetector
    from skvae.estimators.transformer import VAETransformer

# Up to so many different labels are colours with names; more are a scale.
_MOST_LABELS = 10


@documented("Axes.scatter")
class LatentDisplay(Display):
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
    {axes}

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

    _drawn = ("VAETransformer", "VAEAnomalyDetector")

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
        estimator: VAETransformer | VAEAnomalyDetector,
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
        {drawing}

        Raises
        ------
        TypeError
            For another estimator: the rows of a VAEImputer are tables, not codes.
        ValueError
            Where both labels and scores are given, or not one a row.
        """
        cls._check(estimator)
        if y is not None and scores is not None:
            raise ValueError(
                "Codes are coloured by y or by scores, got both. Drop one of them."
            )
        codes = floats(estimator.posterior(X)[0])
        carried = floats(estimator.kl_per_component_)
        names = [
            f"component {j}  (KL {nats:.2g} nats)"
            for j, nats in enumerate(carried.tolist())
        ]
        first = np.argsort(-carried, kind="stable")[:2].tolist()
        colours, meaning = (y, "label") if y is not None else (scores, "score")
        if colours is None:
            colours, meaning = estimator.score_samples(X), score_name(estimator)
        if len(first) == 1:
            codes = np.column_stack([codes[:, 0], floats(estimator.score_samples(X))])
            names, first = [names[0], score_name(estimator)], [0, 1]
        display = cls(
            codes[:, first],
            one_a_row(colours, len(codes), meaning),
            code_names=(names[first[0]], names[first[1]]),
            colour_name=meaning,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        {plot}
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
            low = low_end(self.colours)
            scale = {"c": self.colours[order], "cmap": "viridis", "vmin": low}
            points = ax.scatter(*self.codes[order].T, **{**scale, **style})
            extend = "min" if low > self.colours.min() else "neither"
            self.figure_.colorbar(points, ax=ax, label=self.colour_name, extend=extend)
        ax.set(xlabel=self.code_names[0], ylabel=self.code_names[1])
        return self
