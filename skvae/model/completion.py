"""What to put into the holes of rows before there is a model of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

from skvae._backend import sample_positions
from skvae.model.incomplete import (
    CHUNK,
    MOST_ROWS,
    RIDGE,
    column_means,
    em_moments,
    expect,
)
from skvae.model.likelihoods import TableLikelihood
from skvae.model.networks import REACH
from skvae.model.rows import Coded, OnDemand, blocks, change_rows

# Columns beyond which a hole is filled without a look at the others.
_WIDE = 256


@dataclass(frozen=True, eq=False)
class Completion:
    """What to put into the holes of coded rows, before there is a model of them.

    A hole gets its mean given the observed cells under a Gaussian fitted by EM, and
    that of a column without an order its commonest code. Where it is learned, no real
    number counts as lying further out than networks see.

    Parameters
    ----------
    mean : ndarray of shape (n_columns,)
        Of a column without an order, the commonest code.
    covariance : ndarray of shape (n_columns, n_columns)
        Such a column stands apart from all others.
    whole : ndarray of bool of shape (n_columns,)
        Columns of whole numbers, from zero on.
    most : ndarray of shape (n_columns,)
        Their largest ones; infinite for counts.
    """

    mean: np.ndarray
    covariance: np.ndarray
    whole: np.ndarray
    most: np.ndarray

    @classmethod
    def of(
        cls, coded: Coded, likelihood: TableLikelihood, weight: np.ndarray | None
    ) -> Completion:
        """Learn from coded rows (n_rows, n_columns), holes or not."""
        reach = np.where(likelihood.continuous, REACH, np.inf)
        if coded.shape[1] > _WIDE:
            if isinstance(coded, OnDemand) and coded.whole:
                # What holes others will have is worth no look at all rows.
                coded = coded[sample_positions(len(coded), MOST_ROWS, 0)]
            coded = change_rows(coded, lambda part: np.clip(part, -reach, reach))
            mean, count = column_means(coded)
            squares = (np.square(part - mean) for _, part in blocks(coded))
            total = sum(np.nansum(part, axis=0) for part in squares)
            covariance = np.diag(total / count)
        else:
            mean, covariance = em_moments(coded, weight, reach=reach)
        for j in np.flatnonzero(~np.array(likelihood.ordered, bool)):
            mean[j] = np.argmax(likelihood.levels[j])
            covariance[j], covariance[:, j] = 0.0, 0.0
            covariance[j, j] = 1.0
        most = np.array([n - 1.0 if n else np.inf for n in likelihood.n_levels])
        return cls(mean, covariance, ~np.array(likelihood.continuous, bool), most)

    def __call__(self, coded: np.ndarray) -> np.ndarray:
        """The rows with their holes filled; a copy where there are any."""
        missing = np.isnan(coded)
        holed = missing.any(axis=1)
        if not holed.any():
            return coded
        scale = self._scale
        rows = np.where(missing[holed], 0.0, (coded[holed] - self.mean) / scale)
        filled, _ = expect(
            torch.as_tensor(rows),
            torch.as_tensor(missing[holed]),
            torch.zeros(int(holed.sum()), dtype=torch.float64),
            torch.zeros(len(scale), dtype=torch.float64),
            torch.as_tensor(self._correlation),
            RIDGE,
        )
        values = self._values(filled.numpy() * scale + self.mean)
        completed = coded.copy()
        completed[holed] = np.where(missing[holed], values, coded[holed])
        return completed

    @property
    def _scale(self) -> np.ndarray:
        """Standard deviation of each column, (n_columns,); 1 where it did not vary."""
        variance = np.diag(self.covariance)
        return np.sqrt(np.where(variance > np.finfo(float).tiny, variance, 1.0))

    @cached_property
    def _correlation(self) -> np.ndarray:
        """Of the columns, (n_columns, n_columns)."""
        return np.asarray(self.covariance / np.outer(self._scale, self._scale))

    @cached_property
    def _noisy(self) -> np.ndarray:
        """The same with the noise that holes are filled with."""
        return np.asarray(self._correlation + RIDGE * np.eye(len(self.mean)))

    @cached_property
    def _precision(self) -> np.ndarray:
        """Its inverse; of uncorrelated columns the diagonal alone."""
        variance = np.diag(self._noisy)
        if np.count_nonzero(self._noisy) == np.count_nonzero(variance):
            return 1.0 / variance
        return np.asarray(np.linalg.inv(self._noisy))

    def __getstate__(self) -> dict[str, Any]:
        # Cached arrays stay out of pickles, so that these tell the value alone.
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _values(self, cells: np.ndarray) -> np.ndarray:
        """The cells nearest to these that their columns can hold."""
        whole = np.rint(np.clip(cells, 0.0, self.most))
        return np.where(self.whole, whole, cells)

    def mended(
        self, coded: np.ndarray, completed: np.ndarray, asked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows with one cell each replaced: the one that fits the others least.

        Parameters
        ----------
        coded : ndarray of shape (n_rows, n_columns)
            NaN where a cell is missing.
        completed : ndarray of shape (n_rows, n_columns)
            The same rows with their holes filled.
        asked : ndarray of bool of shape (n_rows, n_columns)
            Observed cells to choose from; where a row has none it stays as it is.

        Returns
        -------
        mended : ndarray of shape (n_rows, n_columns)
            Complete rows: holes are what the replaced cell makes of them.
        cell : ndarray of int of shape (n_rows,)
            Which column; the first of those that fit alike.
        """
        pull, own = self._pull(coded)
        cell = np.where(asked, pull**2 / own, -1.0).argmax(axis=1)
        values = self._values(completed - pull / own * self._scale)
        rows = np.flatnonzero(asked.any(axis=1))
        mended = completed.copy()
        mended[rows, cell[rows]] = values[rows, cell[rows]]
        holed = rows[np.isnan(coded[rows]).any(axis=1)]
        mended[holed] = self(np.where(np.isnan(coded[holed]), np.nan, mended[holed]))
        return mended, cell

    def _pull(self, coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How cells lie to their mean given the other observed cells of their row.

        With P the precision of a row's observed cells and r the row less the mean,
        cell j lies (P r)_j / P_jj off its mean given the others, whose variance is
        1 / P_jj.

        Returns
        -------
        pull : ndarray of shape (n_rows, n_columns)
            P r, of standardised columns.
        own : ndarray of shape (n_rows, n_columns)
            Diagonal of P.
        """
        missing, precision = np.isnan(coded), self._precision
        away = np.where(missing, 0.0, (coded - self.mean) / self._scale)
        if precision.ndim == 1:
            return away * precision, np.broadcast_to(precision, away.shape)
        pull = away @ precision
        own = np.broadcast_to(np.diag(precision), away.shape).copy()
        holed = np.flatnonzero(missing.any(axis=1))
        size = max(1, CHUNK // precision.size)
        one = np.eye(len(precision))
        for start in range(0, len(holed), size):
            rows = holed[start : start + size]
            seen = ~missing[rows]
            # Holes stand apart from all other columns.
            both = seen[:, :, None] & seen[:, None, :]
            inverse = np.linalg.inv(np.where(both, self._noisy, one))
            pull[rows] = np.matmul(inverse, away[rows][..., None])[..., 0]
            own[rows] = np.diagonal(inverse, axis1=1, axis2=2)
        return pull, own
