"""Pictures of a fitted model: codes, scores, reasons and the course of training.

Displays in scikit-learn's manner: `from_estimator` asks the estimator and draws,
`plot` draws again elsewhere, and the numbers drawn are attributes. Needs matplotlib
(``pip install skvae[plot]``), which is imported when something is drawn.
"""

from __future__ import annotations

from skvae.plotting._contribution import ContributionDisplay
from skvae.plotting._display import SCORE_NAMES
from skvae.plotting._latent import LatentDisplay
from skvae.plotting._loss import LossDisplay
from skvae.plotting._score import ScoreDisplay
from skvae.plotting._verdict import VerdictDisplay

__all__ = [
    "SCORE_NAMES",
    "ContributionDisplay",
    "LatentDisplay",
    "LossDisplay",
    "ScoreDisplay",
    "VerdictDisplay",
]
