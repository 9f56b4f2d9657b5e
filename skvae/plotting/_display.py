"""What the displays share: axes, names of scores, ends of scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skvae.estimators.anomaly import VAEAnomalyDetector
    from skvae.estimators.transformer import VAETransformer

    Estimator: TypeAlias = VAETransformer | VAEAnomalyDetector

SCORE_NAMES = {
    "log_likelihood": "log p(x), nats",
    "elbo": "evidence lower bound, nats",
    "reconstruction_probability": "reconstruction log-probability, nats",
    "reconstruction": "minus squared error, scaled units",
    "aggregate": "lower bound among training codes, nats",
    "code_likelihood": "log-probability at the code, nats",
}

# Scores this many interquartile ranges below the median share the end of a scale, so
# that a few extreme rows don't press all others together.
_REACH = 6.0


class Display:
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


def score_name(estimator: Estimator) -> str:
    """What `score_samples` of an estimator gives, with its unit."""
    settled = estimator._settled
    return SCORE_NAMES[settled.get("anomaly_score", "log_likelihood")]


def one_a_row(values: Any, n_rows: int, what: str) -> np.ndarray:
    """The values as an array of shape (n_rows,)."""
    array = np.asarray(values)
    if array.shape != (n_rows,):
        raise ValueError(
            f"{what} must hold one value for each row, shape ({n_rows},), got shape "
            f"{array.shape}."
        )
    return array


def low_end(scores: np.ndarray, offset: float | None = None) -> float:
    """Where a scale begins: the least score, unless few rows are far below the rest."""
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    reach = middle - _REACH * (high - low)
    if offset is not None:
        reach = min(reach, 2.0 * offset - middle)
    return float(max(scores.min(), reach))
