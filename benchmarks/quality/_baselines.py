"""What the benchmarks compare with, where scikit-learn has it not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from _tables import OneHot, is_text
from scipy.special import ndtr, ndtri
from sklearn.mixture import GaussianMixture


class GaussianEM:
    """Gaussian fitted by EM to rows with missing cells (Dempster et al. 1977).

    `ridge` is added to the variances; the columns should be standardised.
    """

    def __init__(self, ridge: float = 1e-2, max_iter: int = 20) -> None:
        self.ridge = ridge
        self.max_iter = max_iter

    def fit(self, X: np.ndarray) -> GaussianEM:
        d = X.shape[1]
        self.mean_ = np.nanmean(X, axis=0)
        self.covariance_ = np.diag(np.nanvar(X, axis=0) + self.ridge)
        patterns = list(_patterns(X))
        for _ in range(self.max_iter):
            filled, spread = np.empty_like(X), np.zeros((d, d))
            for rows, missing in patterns:
                filled[rows], extra = self._conditional(X[rows], missing)
                spread[np.ix_(missing, missing)] += len(rows) * extra
            mean = filled.mean(axis=0)
            covariance = (filled - mean).T @ (filled - mean) + spread
            covariance /= len(X)
            covariance[np.diag_indices(d)] += self.ridge
            change = np.abs(mean - self.mean_).max()
            change = max(change, np.abs(covariance - self.covariance_).max())
            self.mean_, self.covariance_ = mean, covariance
            if change < 1e-3:
                break
        return self

    def impute(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Conditional means (n, d) and standard deviations (n, d), 0 where observed."""
        filled, deviation = np.empty_like(X), np.zeros_like(X)
        for rows, missing in _patterns(X):
            filled[rows], extra = self._conditional(X[rows], missing)
            deviation[np.ix_(rows, np.flatnonzero(missing))] = np.sqrt(np.diag(extra))
        return filled, deviation

    def _conditional(
        self, X: np.ndarray, missing: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows filled by their conditional mean, and the covariance of the filled."""
        seen, filled, cov = ~missing, X.copy(), self.covariance_
        across = cov[np.ix_(seen, missing)]
        slopes = np.linalg.solve(cov[np.ix_(seen, seen)], across)
        filled[:, missing] = self.mean_[missing] + (X[:, seen] - self.mean_[seen]) @ (
            slopes
        )
        return filled, cov[np.ix_(missing, missing)] - across.T @ slopes


def _patterns(X: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that miss the same cells, and these cells."""
    missing = np.isnan(X)
    packed = np.ascontiguousarray(np.packbits(missing, axis=1))
    key = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))[:-1]
    for start, rows in zip(first, np.split(order, ends)):
        yield rows, missing[start]


class GaussianCopula:
    """Empirical marginals joined by the correlations of their normal scores.

    Levels of a label share out (0, 1) by their frequencies, the commonest first; within
    its part a label is spread evenly, as in the Synthetic Data Vault (Patki et al.
    2016).
    """

    def fit(self, frame: pd.DataFrame, seed: int) -> GaussianCopula:
        source = np.random.default_rng(seed)
        n = len(frame)
        self.frame_, uniform = frame, np.empty(frame.shape)
        for j, name in enumerate(frame):
            column = frame[name]
            if is_text(column):
                shares = column.value_counts(normalize=True)
                low = dict(zip(shares.index, shares.cumsum() - shares))
                width = column.map(shares) * source.random(n)
                uniform[:, j] = column.map(low) + width
            else:
                # Ties in random order: equal numbers share out their part of (0, 1).
                order = np.lexsort((source.random(n), column.to_numpy()))
                uniform[order, j] = (np.arange(n) + 0.5) / n
        scores = ndtri(uniform.clip(0.5 / n, 1 - 0.5 / n))
        self.correlation_ = np.corrcoef(scores, rowvar=False)
        return self

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        source = np.random.default_rng(seed)
        zero = np.zeros(len(self.correlation_))
        uniform = ndtr(
            source.multivariate_normal(zero, self.correlation_, n, method="eigh")
        )
        columns = {}
        for j, name in enumerate(self.frame_):
            column = self.frame_[name]
            if is_text(column):
                shares = column.value_counts(normalize=True)
                ends = shares.cumsum().to_numpy()[:-1]
                codes = np.searchsorted(ends, uniform[:, j], side="right")
                columns[name] = shares.index.to_numpy(dtype=object)[codes]
            else:
                columns[name] = np.quantile(column, uniform[:, j])
        return pd.DataFrame(columns)


class OneHotMixture:
    """Gaussian mixture of the standardised and one-hot columns, components by BIC."""

    def fit(self, frame: pd.DataFrame, seed: int) -> OneHotMixture:
        self.code_ = OneHot.of(frame)
        coded = self.code_.encode(frame)
        mixtures = [
            GaussianMixture(c, reg_covar=1e-3, random_state=seed).fit(coded)
            for c in (1, 5, 10, 20)
        ]
        self.mixture_ = min(mixtures, key=lambda mixture: mixture.bic(coded))
        return self

    def sample(self, n: int, seed: int) -> pd.DataFrame:
        self.mixture_.random_state = seed
        coded, _ = self.mixture_.sample(n)
        return self.code_.decode(np.random.default_rng(seed).permutation(coded))
