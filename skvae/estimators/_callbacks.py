"""scikit-learn's callbacks (from 1.9); on older versions nothing happens.

Everything that knows of that experimental interface is in this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["CallbackSupportMixin", "EpochMonitor", "FitTask"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""


class FitTask:
    """The callbacks' view of one fit: a task with a subtask for each pass.

    Parameters
    ----------
    estimator : estimator
    X, y : what fit was given
    n_epochs : int
        Most passes over the rows.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, n_epochs: int) -> None:
        self._estimator, self._data = estimator, {"X": X, "y": y}
        self._root: Any = None
        self._epoch: Any = None
        if getattr(estimator, "_skl_callbacks", None):
            self._root = estimator._init_callback_context(max_subtasks=n_epochs)
            self._root.call_on_fit_task_begin(estimator=estimator, **self._data)
            self._begin_epoch(1)

    def epoch_ended(
        self,
        epoch: int,
        fitted_attributes: Callable[[], dict[str, Any]],
        *,
        last: bool = False,
    ) -> bool:
        """Tell the callbacks; True where one of them asks to stop.

        Parameters
        ----------
        epoch : int
            Number of the pass, from 1.
        fitted_attributes : callable
            Makes the attributes of an estimator fitted up to here; called only where
            a callback wants them.
        last : bool
            Whether it is known that no pass follows.
        """
        if self._root is None or self._epoch is None:
            return False
        stop = self._epoch.call_on_fit_task_end(
            estimator=self._estimator,
            reconstruction_attributes=fitted_attributes,
            **self._data,
        )
        if not (stop or last) and epoch < self._root.max_subtasks:
            self._begin_epoch(epoch + 1)
        return bool(stop)

    def ended(self) -> None:
        """Tell the callbacks that the fit has ended."""
        if self._root is not None:
            self._root.call_on_fit_task_end(estimator=self._estimator, **self._data)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = self._root.subcontext(task_name=f"epoch {epoch}")
        self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._data)


class EpochMonitor:
    """Callback that scores the model after every pass, with no need of a target.

    scikit-learn's ``ScoringMonitor`` records nothing where y is None; this one calls
    the estimator's own ``score``. Needs scikit-learn 1.9.

    Parameters
    ----------
    X : array-like, default=None
        Rows to score; None takes the rows of the fit.

    Attributes
    ----------
    scores_ : list of float
        Score after each pass of the latest fit, nats a row.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import EpochMonitor, VAETransformer
    >>> monitor = EpochMonitor()
    >>> vae = VAETransformer(max_iter=3, random_state=0)
    >>> if hasattr(vae, "set_callbacks"):
    ...     vae = vae.set_callbacks(monitor).fit(load_iris().data)
    ...     assert len(monitor.scores_) == vae.n_iter_
    """

    def __init__(self, X: Any = None) -> None:
        self.X = X
        self.scores_: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        """Forget the last fit."""
        self.scores_ = []

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        fitted_estimator: Any = None,
    ) -> None:
        """Score the model as it stands."""
        if fitted_estimator is not None:
            rows = X if self.X is None else self.X
            self.scores_.append(fitted_estimator.score(rows))
