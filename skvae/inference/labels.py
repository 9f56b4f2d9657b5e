"""What a few known outliers add to a score: a weight and a slope for each column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skvae._backend import as_tensor, sample_positions
from skvae.inference.scoring import Score, read_score
from skvae.model.latent import LatentModel
from skvae.model.rows import Coded
from skvae.model.terms import Terms
from skvae.table.moments import weighted_quantiles

# Prior standard deviation of what labels change, per column, in units of a score that
# runs over the bulk of the rows: measured in benchmarks/quality/labels.md.
_TRUST = 0.3
# Cells further out than this pull no harder, and so many scales are one of them.
_FAR, _UNIT = 5.0, 3.0
# Bulk widths from the median beyond which the scores and cells of rows that are learned
# from are drawn in.
_LOW, _HIGH = -3.0, 6.0
# Rows that stand for the normal ones.
_MOST_ROWS = 5000


@dataclass(frozen=True, eq=False)
class Labelled(Score):
    """Another score, its columns weighed by what known outliers have in common.

    Parameters
    ----------
    score : Score
    weights : ndarray of shape (2, n_columns)
        By how much the weight of each column's part is raised, and what one coded unit
        of its cell adds.
    """

    score: Score
    weights: np.ndarray

    def __post_init__(self) -> None:
        # Whatever a score says of itself holds of this one too.
        for fact in Score.__annotations__:
            object.__setattr__(self, fact, getattr(self.score, fact))

    def rows(self, terms: Terms) -> Tensor:
        return self.score.rows(terms) + self._added(terms).sum(-1)

    def cells(self, terms: Terms) -> Tensor:
        return self.score.cells(terms) + self._added(terms)

    def _added(self, terms: Terms) -> Tensor:
        raised, slope = as_tensor(self.weights, terms.z.dtype, terms.z.device)
        return raised * self.score.cells(terms) + slope * _placed(terms)


def _placed(terms: Terms) -> Tensor:
    """Cells of continuous columns, (n_rows, n_columns); those far out drawn in."""
    placed = terms.x[0].clamp(-_FAR, _FAR)
    placed = placed * torch.tensor(terms.likelihood.continuous).to(placed)
    return placed if terms.observed is None else placed * terms.observed[0]


def learn_weights(
    model: LatentModel,
    coded: Coded,
    outliers: np.ndarray,
    bank: np.ndarray,
    score: Score,
    seed: int,
    *,
    weight: np.ndarray | None = None,
    outlier_weight: np.ndarray | None = None,
) -> np.ndarray:
    """What sets known outliers apart from the rows that a model was trained on.

    A logistic regression of both, equally heavy, on the score, the parts of its columns
    and their cells. It is drawn to the score as it is, which one label moves little;
    each label counts as much as any other of its weight.

    Parameters
    ----------
    model : LatentModel
    coded : ndarray of shape (n_rows, n_columns)
        Rows trained on, nearly all of them normal.
    outliers : ndarray of shape (n_outliers, n_columns)
    bank : ndarray of shape (n_draws, n_components)
    score : Score
    seed : int
    weight : ndarray of shape (n_rows,) or None
    outlier_weight : ndarray of shape (n_outliers,) or None
        In units of the mean of ``weight``.

    Returns
    -------
    ndarray of shape (2, n_columns)
        For `Labelled`.
    """

    def reading(terms: Terms) -> tuple[Tensor, ...]:
        return score.rows(terms), score.cells(terms), _placed(terms)

    part = sample_positions(len(coded), _MOST_ROWS, seed)
    normal, mass = coded[part], np.ones(len(part))
    if weight is not None:
        mass = weight[part] / weight.mean()
    odd = np.ones(len(outliers))
    if outlier_weight is not None:
        odd = outlier_weight / (1.0 if weight is None else weight.mean())
    rows = np.concatenate([normal, outliers])
    total, cells, placed = read_score(model, rows, bank, score, reading)
    bulk = np.column_stack([total, cells])[: len(normal)]
    quantiles = weighted_quantiles(bulk, mass, (0.05, 0.5, 0.95))
    (low, middle, high), centre = quantiles[:, 0], quantiles[1, 1:]
    width = max(high - low, 1e-9 * max(1.0, abs(middle)))

    def drawn_in(values: np.ndarray, centre: np.ndarray) -> np.ndarray:
        return np.clip((centre - values) / width, _LOW, _HIGH)

    abnormal = drawn_in(total, middle)
    parts = drawn_in(cells, centre)
    sign = np.repeat([-1.0, 1.0], [len(normal), len(outliers)])
    weights = np.concatenate([mass * (odd.sum() / mass.sum()), odd])
    features = np.concatenate([parts, placed / _UNIT], axis=1)
    change = _logistic(abnormal, features, sign, weights).reshape(2, -1)
    return np.stack([change[0], change[1] * (-width / _UNIT)])


def _logistic(
    offset: np.ndarray, features: np.ndarray, sign: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Coefficients beside an offset whose own coefficient is one.

    The first half of them, weights to be raised, end above -1. Rows of sign 1 are
    outliers, those of -1 normal.
    """
    n = features.shape[1]

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        change = p[1:]
        margin = sign * (offset + features @ change + p[0])
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        value = weight @ np.logaddexp(0.0, -margin)
        value += 0.5 * change @ change / _TRUST**2
        return float(value), np.r_[slope.sum(), slope @ features + change / _TRUST**2]

    bounds = [(None, None)] + [(-1.0, None)] * (n // 2) + [(None, None)] * (n - n // 2)
    found = minimize(loss, np.zeros(1 + n), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x[1:])
