"""How training went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skvae.plotting._display import Display, documented, floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from skvae.plotting._display import Estimator


@documented("Axes.plot")
class LossDisplay(Display):
    """How training went: the loss of each pass, and that of held-out rows.

    Parameters
    ----------
    loss_curve : ndarray of shape (n_passes,)
    validation_loss : ndarray of shape (n_looks,)
        Minus the held-out objective; the first before the first pass. May be empty.

    Attributes
    ----------
    {axes}

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
        estimator : fitted VAETransformer, VAEAnomalyDetector or VAEImputer
        {drawing}

        Raises
        ------
        ValueError
            Where nothing was trained: the linear model has a closed form.
        """
        cls._check(estimator)
        check_is_fitted(estimator)
        loss = floats(estimator.loss_curve_)
        if not len(loss):
            raise ValueError(
                "A training curve needs at least one pass, but loss_curve_ is empty: "
                "this model is linear and has a closed form."
            )
        held_out = -floats(estimator.validation_scores_)
        return cls(loss, held_out).plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the display.

        The looks at the held-out rows are drawn evenly from the start to the last pass.

        {plot}
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
