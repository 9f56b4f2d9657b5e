"""From scores to verdicts: shares, thresholds, p-values and chances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

# Quantiles of the abnormality that place and scale its normal bulk: outliers up to
# three tenths of the rows do not reach the last of them.
_BULK = (0.1, 0.5, 0.7)
# Of the normal rows of a table at most _TAIL * c ** -_DECAY lie more than c bulk widths
# above the median abnormality: what tables of labelled normal rows were found to hold.
_TAIL, _DECAY = 0.5, 2.5
# More outliers than that would be the bulk.
_MOST = 0.5


@dataclass(frozen=True)
class Tail:
    """Where the bulk of the abnormality (minus the score) ends, and how it decays.

    Parameters
    ----------
    middle : float
        Median abnormality.
    width : float
        Of its bulk, positive.
    """

    middle: float
    width: float

    @classmethod
    def of(cls, scores: np.ndarray, weight: np.ndarray | None = None) -> Tail:
        """Read off the bulk of the scores of training rows."""
        abnormal = -np.asarray(scores, dtype=np.float64)
        low, middle, high = _quantiles(abnormal, _BULK, weight)
        # A bulk of ties has no width; any step away from it is then far.
        least = 1e-12 * max(1.0, abs(middle))
        return cls(float(middle), float(max(high - low, least)))

    def normal_share(self, scores: np.ndarray) -> np.ndarray:
        """Most normal rows that may score as low or lower, as a share in [0, 1]."""
        with np.errstate(divide="ignore", over="ignore"):
            far = (-np.asarray(scores, dtype=np.float64) - self.middle) / self.width
            share = np.minimum(1.0, _TAIL * np.maximum(far, 0.0) ** -_DECAY)
        return np.asarray(share)


def outlier_share(scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Share of outliers among rows, when nobody knows it.

    Normal rows of real tables have heavy tails. The bulk of the scores tells how many
    of them may lie how far out (`Tail`), and the outliers are the largest excess over
    that anywhere: with F the share of rows at or below a score and N the most that
    normal rows could have there, max (F - N) / (1 - N), the two-group model's bound
    (Genovese and Wasserman, Annals of Statistics 2004) with N in place of the p-value.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Higher for more normal rows.
    weight : ndarray of shape (n_rows,) or None

    Returns
    -------
    float
        In [0, 0.5].
    """
    found, normal = _distribution(scores, weight)
    far = normal < 0.5
    excess = (found[far] - normal[far]) / (1.0 - normal[far])
    return float(np.clip(excess.max(initial=0.0), 0.0, _MOST))


def threshold(
    scores: np.ndarray, share: float, weight: np.ndarray | None = None
) -> float:
    """Score below which this share of the rows lies."""
    return float(_quantiles(np.asarray(scores, np.float64), (share,), weight)[0])


@dataclass(frozen=True)
class Chances:
    """Chance that a row is an outlier, by its score: it falls with it.

    Parameters
    ----------
    scores : ndarray of shape (n_knots,)
        Ascending, of training rows; linear between them.
    values : ndarray of shape (n_knots,)
        Chances, descending.
    tail : Tail
    """

    scores: np.ndarray
    values: np.ndarray
    tail: Tail

    @classmethod
    def of(
        cls, scores: np.ndarray, share: float, weight: np.ndarray | None = None
    ) -> Chances:
        """Estimate from the scores of training rows and their share of outliers.

        One minus the local false-discovery rate (Efron, "Large-Scale Inference",
        2010): the density of the scores against that of normal ones, on the axis where
        normal rows are uniform (`Tail.normal_share`), estimated under the order that a
        lower score is never less suspicious (Grenander, 1956).
        """
        found, normal = _distribution(scores, weight)
        normal, last = np.unique(normal, return_index=True)
        # Rows of one abscissa are one step; `found` ends it, so take the last of them.
        ends = np.r_[last[1:] - 1, len(found) - 1] if len(last) else last
        rise = np.diff(np.r_[0.0, found[ends]])
        run = np.maximum(np.diff(np.r_[0.0, normal]), 1e-300)
        density = isotonic_regression(rise / run, weights=run, increasing=False).x
        chance = 1.0 - (1.0 - share) / np.maximum(density, 1e-300)
        # Less than rounding is none.
        chance = np.where(chance < 1e-9, 0.0, np.minimum(chance, 1.0))
        distinct = np.unique(np.asarray(scores, np.float64))
        starts = np.r_[0, ends[:-1] + 1]
        knots = np.stack([distinct[starts], distinct[ends]], axis=1)
        return cls(knots.ravel(), np.repeat(chance, 2), Tail.of(scores, weight))

    def at(self, scores: np.ndarray) -> np.ndarray:
        """Chances of rows with these scores, (n_rows,).

        Below all training rows the chance of a normal one goes on falling as the tail
        of normal rows does.
        """
        chance = np.interp(scores, self.scores, self.values, right=0.0)
        lowest = self.scores[:1]
        beyond = np.minimum(np.asarray(scores, np.float64), lowest)
        edge = np.maximum(self.tail.normal_share(lowest), 1e-300)
        fallen = np.minimum(self.tail.normal_share(beyond) / edge, 1.0)
        return np.asarray(1.0 - (1.0 - chance) * fallen)


def _quantiles(
    values: np.ndarray, shares: Sequence[float], weight: np.ndarray | None
) -> np.ndarray:
    """Quantiles of numbers (n_rows,), linear between the rows as NumPy's are.

    So a share of the rows lies below the threshold, as with IsolationForest. Equal
    weights give NumPy's quantiles, and whole numbers those of the rows repeated so many
    times.
    """
    if weight is None:
        return np.quantile(values, shares)
    order = np.argsort(values, kind="stable")
    order = order[weight[order] > 0]
    # The unit of "one row" is the mean weight unless weights count rows.
    counts = weight[order]
    unit = 1.0 if (counts == np.round(counts)).all() else counts.mean()
    ends = np.cumsum(counts) / unit
    place = np.asarray(shares) * (ends[-1] - 1.0)
    ranks = np.stack([ends - counts / unit, np.maximum(ends - 1.0, 0.0)], axis=1)
    ranks[:, 1] = np.maximum(ranks[:, 1], ranks[:, 0])
    return np.interp(place, ranks.ravel(), np.repeat(values[order], 2))


def _distribution(
    scores: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """At each distinct score, ascending: share of rows, most of the normal ones."""
    if weight is None:
        ordered = np.sort(scores)
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        distinct, found = ordered[ends], (ends + 1) / len(ordered)
    else:
        distinct, place = np.unique(scores, return_inverse=True)
        counts = np.bincount(place, weights=weight, minlength=len(distinct))
        found = np.cumsum(counts) / counts.sum()
    return found, Tail.of(scores, weight).normal_share(distinct)


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """P-values of rows against rows that the fit has not seen.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
    calibration : ndarray of shape (n_calibration,)
        Ascending scores of normal rows; where there are none every p-value is 1.

    Returns
    -------
    ndarray of shape (n_rows,)
        (1 + number of calibration scores at or below) / (n_calibration + 1): under
        exchangeability at most p with a chance of at most p (Vovk, Gammerman and
        Shafer, "Algorithmic Learning in a Random World", 2005).
    """
    below = np.searchsorted(calibration, scores, side="right")
    return np.asarray((1.0 + below) / (len(calibration) + 1.0))


def discoveries(p_values: np.ndarray, fdr: float) -> np.ndarray:
    """Rows that Benjamini and Hochberg (1995) select.

    Conformal p-values that share their calibration rows depend on one another in the
    way that the procedure allows (Bates et al., Annals of Statistics 2023): among the
    selected rows the expected share of normal ones is at most ``fdr``.

    Parameters
    ----------
    p_values : ndarray of shape (n_rows,)
    fdr : float

    Returns
    -------
    ndarray of bool of shape (n_rows,)
    """
    ordered = np.sort(p_values)
    passed = ordered <= fdr * np.arange(1, len(ordered) + 1) / len(ordered)
    if not passed.any():
        return np.zeros(len(p_values), dtype=bool)
    return np.asarray(p_values <= ordered[np.flatnonzero(passed)[-1]])
