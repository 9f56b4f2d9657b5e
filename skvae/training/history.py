"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """Curve of a training run.

    Attributes
    ----------
    loss : list of float
        Mean training loss of each epoch, nats a row, coded units; mean over members.
    validation : list of float
        Mean held-out objective (minus the loss) at each look, the first before the
        first step.
    n_epochs : int
        Passes over the rows.
    best : float or None
        Held-out objective of the parameters that were kept.
    improved : bool
        Whether training ended better than it began, by more than two standard errors
        of the held-out rows' gain; True where nothing was held out.
    stopped : str
        Why it ended: "max_iter", "no_change", "max_time" or "callback".
    gradient : str
        How the last step found its gradient: "analytic", "autograd" or "analytic, as a
        CUDA graph"; empty where nothing was trained.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    n_epochs: int = 0
    best: float | None = None
    improved: bool = True
    stopped: str = "max_iter"
    gradient: str = ""
