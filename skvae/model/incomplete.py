"""Gaussian tables with holes: their moments, and what is expected in a hole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from skvae._backend import generator, sample_positions
from skvae.model.linear import LinearGaussian
from skvae.model.rows import Coded, OnDemand, blocks

# Rows of which the moments are taken, and the multiply-adds that a step may cost: wide
# tables with many holes get fewer rows.
MOST_ROWS, _STEP_WORK = 5000, 2.5e8
_MOST_STEPS, _STEP_TOL = 50, 1e-3
# Share of the cells that is hidden to see when EM should end.
_HIDDEN = 0.1
# Largest noise added to the standardised columns; see `em_moments`.
RIDGE = 1e-2
# Numbers in one batch of little matrices.
CHUNK = 2**18


def column_means(values: Coded) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the observed cells of each column, and their number, (n_columns,)."""
    total = count = np.zeros(values.shape[1])
    for _, part in blocks(values):
        total = total + np.nansum(part, axis=0)
        count = count + np.sum(~np.isnan(part), axis=0)
    return total / count, count


def em_moments(
    values: Coded,
    weight: np.ndarray | None = None,
    *,
    reach: ArrayLike = np.inf,
    ridge: float | None = None,
    tol: float = _STEP_TOL,
    max_steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a Gaussian fitted to rows with holes.

    EM climbs the likelihood of the observed cells (Little and Rubin, "Statistical
    Analysis with Missing Data", section 11.2).

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns) or OnDemand
        NaN where a cell is missing; each column has a cell.
    weight : ndarray of shape (n_rows,) or None
    reach : float or array-like of shape (n_columns,)
        Cells further from zero count as lying there, so that a few gross ones cannot
        carry the moments away.
    ridge : float or None
        Noise, in variances of the column, that is added to the covariance when a hole
        is predicted: where few rows tell how columns go together, predictions are drawn
        to the mean. None: a tenth of n_columns / n_rows, at most 0.01.
    tol : float
        Largest change of a standardised moment at which the steps end.
    max_steps : int or None
        None: as many as predict hidden cells best, at most 50. Where columns are many
        and rows few, the later ones fit noise.

    Returns
    -------
    mean : ndarray of shape (n_columns,)
    covariance : ndarray of shape (n_columns, n_columns)
    """
    n_rows = len(values)
    chosen, values = _affordable(values)
    values = np.clip(values, -np.asarray(reach), reach)
    missing = np.isnan(values)
    share = np.ones(len(chosen)) if weight is None else weight[chosen]
    share = share / share.sum()
    known = share[:, None] * ~missing
    known = known / np.maximum(known.sum(axis=0), np.finfo(float).tiny)
    filled = np.where(missing, 0.0, values)
    centre = (known * filled).sum(axis=0)
    centred = np.where(missing, 0.0, filled - centre)
    spread = np.sqrt((known * centred**2).sum(axis=0))
    spread = np.where(spread > 0.0, spread, 1.0)
    if ridge is None:
        ridge = min(RIDGE, 0.1 * values.shape[1] / n_rows)
    x, empty = torch.as_tensor(centred / spread), torch.as_tensor(missing)
    shares = torch.as_tensor(share)
    if max_steps is None:
        max_steps = _best_steps(x, empty, shares, ridge, tol) if missing.any() else 1
    *_, moments = _climb(x, empty, shares, ridge, tol, max_steps)
    mean, covariance = (moment.numpy() for moment in moments)
    return centre + mean * spread, covariance * np.outer(spread, spread)


def _affordable(values: Coded) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows that EM looks at, of each column a cell, and these rows."""
    n_rows, n_columns = values.shape
    holes, work = np.zeros(n_rows, dtype=np.int32), float(n_columns**2)
    first, known = np.zeros(n_columns, dtype=int), np.zeros(n_columns, dtype=bool)
    whole = isinstance(values, OnDemand) and values.whole
    for rows, part in () if whole else blocks(values):
        observed = ~np.isnan(part)
        own = n_columns - observed.sum(axis=1)
        holes[rows], work = own, work + (own.astype(float) ** 3).sum() / n_rows
        first = np.where(known, first, rows.start + observed.argmax(axis=0))
        known = known | observed.any(axis=0)
    n_wanted = int(max(min(MOST_ROWS, _STEP_WORK / work), 2 * n_columns))
    with_cells = np.flatnonzero(holes < n_columns)
    chosen = with_cells[sample_positions(len(with_cells), n_wanted, 0)]
    # Columns that the chosen rows know nothing of are known from the others.
    lost = np.isnan(values[chosen]).all(axis=0)
    if lost.any():
        chosen = np.union1d(chosen, first[lost])
    # In one memory layout: sums then round alike.
    return chosen, np.ascontiguousarray(values[chosen])


def _best_steps(
    x: Tensor, missing: Tensor, share: Tensor, ridge: float, tol: float
) -> int:
    """Steps after which hidden cells are predicted no better."""
    chance = torch.rand(x.shape, generator=generator(0), dtype=x.dtype)
    hidden = ~missing & (chance < _HIDDEN)
    if not hidden.any():
        return _MOST_STEPS
    empty, best = missing | hidden, torch.inf
    left = torch.where(hidden, 0.0, x)
    climb = _climb(left, empty, share, ridge, tol, _MOST_STEPS)
    for step, (mean, covariance) in enumerate(climb, 1):
        filled, _ = expect(left, empty, share, mean, covariance, ridge)
        error = float((share @ (filled - x).square().where(hidden, 0.0)).sum())
        if error >= best:
            return step - 1
        best = error
    return _MOST_STEPS


def _climb(
    x: Tensor,
    missing: Tensor,
    share: Tensor,
    ridge: float,
    tol: float,
    max_steps: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Moments after each step of EM from means of zero and variances of one."""
    mean, covariance = x.new_zeros(x.shape[1]), torch.eye(x.shape[1]).to(x)
    for _ in range(max_steps):
        before = mean, covariance
        filled, spread = expect(x, missing, share, mean, covariance, ridge)
        mean = share @ filled
        centred = filled - mean
        covariance = (centred * share[:, None]).T @ centred + spread
        yield mean, covariance
        moved = max(
            float((now - then).abs().max())
            for now, then in zip((mean, covariance), before, strict=True)
        )
        if moved < tol:
            break


def expect(
    x: Tensor,
    missing: Tensor,
    share: Tensor,
    mean: Tensor,
    covariance: Tensor,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Rows with their holes at the conditional mean; the mean conditional covariance.

    With P the precision, the holes m of a row given its other cells o have covariance
    ``P_mm^-1`` and mean ``mean_m - P_mm^-1 P_mo (x_o - mean_o)``: the matrices are as
    small as the holes are few.
    """
    one = torch.eye(len(mean)).to(x)
    # Below the ridge of an exact dependency there are only rounding errors.
    precision = torch.linalg.inv(covariance + max(ridge, 1e-10) * one)
    residual = torch.where(missing, 0.0, x - mean)
    pull = residual @ precision
    n_columns = len(mean)
    filled, spread = x.clone(), np.zeros(n_columns**2)
    n_holes = missing.sum(1)
    order = n_holes.argsort()
    order = order[n_holes[order] > 0]
    start = 0
    while start < len(order):
        # Rows of about as many holes go together; `most` of the last is the largest.
        stop = len(order)
        while (stop - start) * int(n_holes[order[stop - 1]]) ** 2 > CHUNK:
            if stop == start + 1:
                break
            stop = start + max(1, (stop - start) // 2)
        rows = order[start:stop]
        start = stop
        most = int(n_holes[rows[-1]])
        holes = torch.argsort(~missing[rows], dim=1, stable=True)
        holes = holes[:, :most]
        real = torch.arange(most) < n_holes[rows][:, None]
        both = real[:, :, None] & real[:, None, :]
        pairs = holes[:, :, None] * n_columns + holes[:, None, :]
        own = precision.flatten()[pairs]
        own = torch.where(both, own, torch.eye(most).to(x))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(own))
        step = inverse @ torch.where(real, pull[rows].gather(1, holes), 0.0)[..., None]
        values = mean[holes] - step[..., 0]
        filled[rows[:, None].expand_as(holes)[real], holes[real]] = values[real]
        inverse = torch.where(both, inverse * share[rows][:, None, None], 0.0)
        spread += np.bincount(
            pairs.numpy().ravel(), inverse.numpy().ravel(), n_columns**2
        )
    return filled, torch.as_tensor(spread).view(n_columns, n_columns)


def fill(linear: LinearGaussian, values: np.ndarray) -> np.ndarray:
    """Rows with each hole at its conditional mean given the row's observed cells.

    The posterior of a linear-Gaussian model has the same mean given the filled row as
    given the observed cells.

    Parameters
    ----------
    linear : LinearGaussian
    values : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    """
    filled = values.copy()
    holed = np.flatnonzero(np.isnan(values).any(axis=1))
    k = linear.loadings.shape[1]
    scaled = linear.loadings / linear.noise_variance[:, None]
    outer = (scaled[:, :, None] * linear.loadings[:, None, :]).reshape(-1, k * k)
    size = max(1, CHUNK // max(k * k, values.shape[1]))
    for start in range(0, len(holed), size):
        rows = holed[start : start + size]
        part = values[rows]
        missing = np.isnan(part)
        residual = np.where(missing, 0.0, part - linear.mean)
        precision = np.eye(k) + (~missing @ outer).reshape(-1, k, k)
        code = np.linalg.solve(precision, (residual @ scaled)[..., None])[..., 0]
        filled[rows] = np.where(missing, linear.mean + code @ linear.loadings.T, part)
    return filled
