"""What is known of a model without training: its start, its floor, its noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, sample_positions
from skvae.model.incomplete import column_means, em_moments, fill
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian, factor_analysis, probabilistic_pca
from skvae.model.priors import FullNormal
from skvae.model.rows import Coded, Rows, blocks, take_rows

# Least standard deviations, in those of the column. Rounding counts between the first
# two: below, float32 training falls apart; above, tables of few levels would score
# worse than under factor analysis, which has no floor.
_LEAST_SCALE, _LEAST_RESOLVED = 1e-3, 1e-2

# Noise of a column, as a share of what others leave unexplained of it, that keeps
# components from copying it; and of how many carriers it is half that.
_MOST_UNIQUE, _MANY_CARRIERS = 0.5, 1000

_CONCENTRATION_STEPS = 4
# Relative difference of log-likelihoods within which rows are equal.
_TIED = 1e-9

# Share of a column's variance that other columns leave unexplained, below which it is
# taken for a copy or a sum of them.
_DEPENDENT = 1e-8

# Rows from which moments of the codes are taken after training.
_FINISHING_ROWS = 2048


@dataclass(frozen=True)
class Moments:
    """Weighted mean and unbiased covariance of coded rows."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, values: Coded, weight: np.ndarray | None) -> Moments:
        """Moments of rows; by EM where some have holes (NaN)."""
        n = len(values)
        # Integer weights count as repeated rows, small ones as at least the rows there.
        count = n if weight is None else max(n, weight.sum())
        bessel = count / max(count - 1.0, 1.0)
        mean = sum(share @ part for share, part in _shares(values, weight))
        if np.isnan(mean).any():
            mean, covariance = em_moments(values, weight)
            return cls(mean, bessel * covariance)
        covariance = np.zeros((len(mean), len(mean)))
        for share, part in _shares(values, weight):
            centred = part - mean
            covariance += (centred * (bessel * share)[:, None]).T @ centred
        return cls(mean, covariance)


def _shares(
    values: Coded, weight: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All rows in turn, some at a time, and the share of the whole that each has."""
    total = None if weight is None else weight.sum()
    for rows, part in blocks(values):
        if weight is None:
            yield np.full(len(part), 1.0 / len(values)), part
        else:
            yield weight[rows] / total, part


def noise_floor(values: Coded, resolution: np.ndarray, *, robust: bool) -> np.ndarray:
    """Least noise variance of each column of a model with networks, coded units.

    Rounding to steps of r adds a variance of r^2 / 12 (Sheppard's correction); the
    floor is that, held between two bounds. And where a column's variance v is the work
    of few rows, their small noise is luck: with ``m = sum(x^2)^2 / sum(x^4)`` rows that
    carry it, the floor is at least v / m^3 (a rule of thumb).

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    resolution : ndarray of shape (n_columns,)
    robust : bool
        Whether odd rows are left out of the fit, and have no say here either.
    """
    floor = np.clip(resolution**2 / 12.0, _LEAST_SCALE**2, _LEAST_RESOLVED**2)
    if robust:
        return floor
    variance, carriers = _carried_variance(values)
    return np.maximum(floor, variance / carriers**3)


def _carried_variance(values: Coded) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each column, and how many rows carry it, each (n_columns,)."""
    mean, count = column_means(values)
    second = fourth = np.zeros(values.shape[1])
    for _, part in blocks(values):
        square = part - mean
        np.square(square, out=square)
        square[np.isnan(square)] = 0.0
        second = second + square.sum(axis=0)
        fourth = fourth + np.square(square, out=square).sum(axis=0)
    return second / count, second**2 / fourth


def dependent_columns(values: Coded) -> np.ndarray:
    """Positions of the columns that are linear in the others, up to rounding.

    Their share of unexplained variance is 1 / (R^-1)_jj of the correlation matrix R.
    Where there are no more complete rows than columns, the question has no answer.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        Rows with a hole (NaN) have no say.
    """
    n_columns = values.shape[1]
    holed = [np.isnan(part).any(axis=1) for _, part in blocks(values)]
    complete = ~np.concatenate(holed)
    if complete.sum() <= n_columns or n_columns < 2:
        return np.empty(0, dtype=np.intp)
    if not complete.all():
        values = take_rows(values, complete)
    covariance = Moments.of(values, None).covariance
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale) + 1e-12 * np.eye(n_columns)
    unexplained = 1.0 / np.diag(np.linalg.inv(correlation))
    return np.flatnonzero(unexplained < _DEPENDENT)


def linear_start(
    values: Coded,
    weight: np.ndarray | None,
    n_components: int,
    *,
    floor: np.ndarray,
    shared: bool,
    units: np.ndarray | None,
    trim: float = 0.0,
    copies: bool = True,
) -> LinearGaussian:
    """Probabilistic PCA (one noise, in ``units``) or factor analysis (one a column).

    ``values`` are the features of a table, NaN where a cell is missing.
    With ``trim`` the least likely share of the rows is left out, by concentration steps
    as in Rousseeuw and Van Driessen, "A Fast Algorithm for the Minimum Covariance
    Determinant Estimator", 1999: each fit chooses the rows of the next.
    Without ``copies`` no component may copy a column whose variance many rows carry.
    Training hardly ever parts from such a component, though the networks tell better
    what there is to know of the column; of a few odd cells they learn too little.
    """
    least_unique: float | np.ndarray = 0.0
    if not copies:
        _, carriers = _carried_variance(values)
        least_unique = _MOST_UNIQUE * carriers / (carriers + _MANY_CARRIERS)
    chosen, own = values, weight
    for _ in range(_CONCENTRATION_STEPS if trim else 1):
        moments = Moments.of(chosen, own)
        if shared:
            linear = probabilistic_pca(
                moments.mean, moments.covariance, n_components, floor=floor, units=units
            )
        else:
            linear = factor_analysis(
                moments.mean,
                moments.covariance,
                n_components,
                floor=floor,
                least_unique=least_unique,
            )
        if trim:
            # A filled hole adds nothing to a row's distance from the model.
            scores = np.concatenate(
                [linear.log_prob(fill(linear, part)) for _, part in blocks(values)]
            )
            least = np.quantile(scores, trim, weights=weight, method="inverted_cdf")
            # Equal rows differ by rounding, and stay or go together.
            kept = scores >= least - _TIED * (1.0 + abs(least))
            chosen = take_rows(values, kept)
            own = None if weight is None else weight[kept]
    return linear


@torch.no_grad()
def finish_autoencoder(
    model: LatentModel,
    values: Coded,
    weight: np.ndarray | None,
    units: np.ndarray,
) -> None:
    """Make a density of a trained plain auto-encoder, in place.

    Training sets its codes and reconstructions. Here the noise becomes that of the
    residuals, the prior the normal density of the training codes, and the posterior
    variance that of the decoder's linearisation at the codes.
    """
    chosen = sample_positions(len(values), _FINISHING_ROWS, 0)
    dtype = model.params.flat.dtype
    rows = model.rows(values[chosen], None if weight is None else weight[chosen])
    share = torch.full_like(rows.x[:, :1], 1.0 / len(rows))
    if rows.weight is not None:
        share = share * rows.weight[:, None]
    code, _ = model.encode(rows.inputs.expand(model.n_members, -1, -1))
    model.set_noise(_finished_noise(model, rows, code, share, units))

    mean = (code * share).sum(1)
    centred = code - mean[:, None]
    covariance = (centred * share).transpose(1, 2) @ centred
    # Components that the decoder does not use have no variance: keep a little.
    spread = covariance.diagonal(dim1=-2, dim2=-1)
    ridge = 1e-6 * spread.mean(-1, keepdim=True) + torch.finfo(dtype).tiny
    covariance = covariance + torch.diag_embed(ridge.expand_as(spread))
    model.prior = FullNormal(mean, torch.linalg.cholesky(covariance).contiguous())

    precision = 1.0 / model.prior.cholesky.square().sum(-1)
    params = tuple(part[:, 0] for part in model.decode(code[:, None]))
    for j in range(model.n_components):
        step_size = 0.1 * spread[:, j].sqrt()[:, None, None]
        move = torch.zeros_like(code)
        move[..., j : j + 1] = step_size
        up = model.decode((code + move)[:, None])[0][:, 0]
        down = model.decode((code - move)[:, None])[0][:, 0]
        slope = (up - down) / (2.0 * step_size).clamp(min=1e-30)
        rooted = model.likelihood.root_information(
            params, slope[..., None, :], rows.x, rows.observed
        )
        precision[:, j] += (rooted[..., 0, :].square() * share).sum((1, 2))
    model.params["encoder.bias"][:, 0, model.n_components :] = -precision.log()
    if "encoder.head" in model.params:
        # Never trained: without this a random start's would stay random.
        model.params["encoder.head"][..., model.n_components :] = 0.0


def _finished_noise(
    model: LatentModel, rows: Rows, code: Tensor, share: Tensor, units: np.ndarray
) -> np.ndarray:
    """Squared scales (n_scales,) that fit the cells best at these codes."""
    likelihood = model.likelihood
    scaled = np.array(likelihood.scaled, dtype=bool)
    continuous = np.array(likelihood.continuous, dtype=bool)
    squared = _likeliest_scales(model, rows, code, share)
    if continuous.any():
        params = model.decode(code[:, None])
        expected = likelihood.collapse(likelihood.mean(params))[:, 0]
        square = (rows.x - expected).square()
        if rows.observed is None:
            residual = (square * share).sum(1).mean(0)
        else:
            weight = share * rows.observed
            residual = (square * weight).sum(1).mean(0) / weight.sum(0)
        variance = as_array(residual + likelihood.floor)[continuous]
        if model.params["log_scale"].shape[-1] == 1:
            own = units[continuous]
            variance = (variance * own**2).mean() / own**2
        squared[continuous] = variance
    return squared[scaled]


def _likeliest_scales(
    model: LatentModel, rows: Rows, code: Tensor, share: Tensor
) -> np.ndarray:
    """Squared scale of each column among a few; for those that have no closed form."""
    likelihood = model.likelihood
    scaled = np.array(likelihood.scaled, dtype=bool)
    squared = np.ones(len(scaled))
    if (scaled & ~np.array(likelihood.continuous, dtype=bool)).any():
        location = model.decode(code[:, None])[0][:, 0]
        tried = torch.linspace(-4.0, 2.0, 25, dtype=location.dtype)
        heights = []
        for log_scale in tried:
            params = location, log_scale.expand(likelihood.n_scales)
            log_prob = likelihood.log_prob(params, rows.x, rows.observed)
            heights.append((log_prob * share).sum(1).mean(0))
        best = tried[torch.stack(heights).argmax(0)]
        squared = as_array(torch.exp(2.0 * best) + likelihood.floor)
    return squared
