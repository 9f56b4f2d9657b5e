"""From scores to verdicts: thresholds and p-values."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv

# Share of normal rows that the automatic threshold gives away.
_FALSE_ALARMS = 0.01
# Quantiles of the abnormality that describe its normal bulk even where a quarter of the
# rows are outliers.
_BULK = np.array([0.05, 0.40, 0.75])


def automatic_threshold(scores: np.ndarray) -> float:
    """Score below which a row is an outlier, when nobody knows the share of outliers.

    The abnormality (minus the score) of normal rows is close to a shifted gamma
    variable: exactly so for Gaussian rows, where it is half a chi-square. Its shape is
    read off the skewness of the bulk of the rows, which outliers hardly touch, and the
    threshold is its 99 % point.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Scores of the training rows, higher for more normal ones.
    """
    low, middle, high = np.quantile(-scores.astype(np.float64), _BULK)
    if not high > low:
        return float(np.nextafter(-high, -np.inf))

    def skewness(log_shape: float) -> float:
        a, b, c = gammaincinv(np.exp(log_shape), _BULK)
        return float((c - b) / (b - a))

    wanted, bounds = (high - middle) / max(middle - low, 1e-12), (-1.5, 8.0)
    if wanted >= skewness(bounds[0]):
        log_shape = bounds[0]
    elif wanted <= skewness(bounds[1]):
        log_shape = bounds[1]
    else:
        log_shape = brentq(lambda s: skewness(s) - wanted, *bounds)
    shape = np.exp(log_shape)
    bulk_low, bulk_high, top = gammaincinv(
        shape, [_BULK[0], _BULK[2], 1.0 - _FALSE_ALARMS]
    )
    scale = (high - low) / (bulk_high - bulk_low)
    return float(-(high + scale * (top - bulk_high)))


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """P-values of rows against rows that were not trained on.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
    calibration : ndarray of shape (n_calibration,)
        Ascending scores of normal rows.

    Returns
    -------
    ndarray of shape (n_rows,)
        (1 + number of calibration scores at or below) / (n_calibration + 1): under
        exchangeability at most p with a chance of at most p (Vovk, Gammerman and
        Shafer, "Algorithmic Learning in a Random World", 2005).
    """
    below = np.searchsorted(calibration, scores, side="right")
    return (1.0 + below) / (len(calibration) + 1.0)
