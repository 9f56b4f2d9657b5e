"""What the displays share: axes, names of scores, ends of scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

import skvae
from skvae.estimators._arrays import to_host
from skvae.estimators._documentation import filled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skvae.estimators.anomaly import VAEAnomalyDetector
    from skvae.estimators.imputer import VAEImputer
    from skvae.estimators.transformer import VAETransformer

    Estimator: TypeAlias = VAETransformer | VAEAnomalyDetector | VAEImputer

SCORE_NAMES = {
    "log_likelihood": "log p(x), nats",
    "elbo": "evidence lower bound, nats",
    "reconstruction_probability": "reconstruction log-probability, nats",
    "reconstruction": "minus squared error, scaled units",
    "aggregate": "log-probability among training codes, nats",
    "code_likelihood": "log-probability at the code, nats",
}

# Scores this many interquartile ranges below the median share the end of a scale, so
# that a few extreme rows don't press all others together.
_REACH = 6.0


_AXES = """\
ax_ : matplotlib Axes
figure_ : matplotlib Figure
"""
_FROM_ESTIMATOR = """\
ax : matplotlib Axes, default=None
    None makes a figure.
**kwargs : dict
    For ``{method}``.

Returns
-------
display : {display}
"""
_PLOT = """\
Parameters
----------
ax : matplotlib Axes, default=None
    Where to draw; None makes a new figure.
**kwargs : dict
    Passed on to ``{method}``.

Returns
-------
self : object
    With the attributes `ax_` and `figure_`.
"""

D = TypeVar("D", bound="type[Display]")


def documented(method: str) -> Callable[[D], D]:
    """Put the shared documentation of a display in place of the marks in its own.

    Parameters
    ----------
    method : str
        What the display draws with, and passes further arguments to.
    """

    def decorate(cls: D) -> D:
        from_estimator = _FROM_ESTIMATOR.format(method=method, display=cls.__name__)
        cls.__doc__ = filled(cls.__doc__, {"axes": _AXES})
        for function, mark, text in (
            (vars(cls)["from_estimator"].__func__, "drawing", from_estimator),
            (vars(cls)["plot"], "plot", _PLOT.format(method=method)),
        ):
            function.__doc__ = filled(function.__doc__, {mark: text})
        return cls

    return decorate


class Display:
    """Something drawn: where, once it is drawn."""

    ax_: Axes
    figure_: Figure

    # Whose fitted models it draws.
    _drawn: ClassVar[tuple[str, ...]] = (
        "VAETransformer",
        "VAEAnomalyDetector",
        "VAEImputer",
    )

    @classmethod
    def _check(cls, estimator: Any) -> None:
        """Raise where an estimator is none that it draws."""
        if not isinstance(estimator, tuple(getattr(skvae, n) for n in cls._drawn)):
            raise TypeError(
                f"{cls.__name__} draws a fitted {' or '.join(cls._drawn)}, got "
                f"{type(estimator).__name__}. Of a search pass its best_estimator_, of "
                f"a Pipeline its last step."
            )

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


def floats(values: Any) -> np.ndarray:
    """Numbers of any array library as float64 on the host."""
    return np.asarray(to_host(values), dtype=np.float64)


def one_a_row(values: Any, n_rows: int, what: str) -> np.ndarray:
    """The values as an array of shape (n_rows,)."""
    array = np.asarray(to_host(values))
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
