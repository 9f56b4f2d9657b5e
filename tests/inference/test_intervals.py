"""Intervals against the quantiles of Gaussian conditioning and of quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.inference import scoring
from skvae.inference.intervals import _root, predictive_interval
from skvae.inference.scoring import draw_bank
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian
from tests.linear_models import covariance_of, model_of

LINEAR = LinearGaussian(
    np.array([3.0, 0.0, -1.0, 2.0]),
    np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.5], [1.0, -1.0]]),
    np.ones(4),
)
COUNTS = ("bernoulli", "categorical", "ordinal", "poisson", "negative_binomial")
LEVELS = ((), (0.5, 0.3, 0.2), (0.2, 0.5, 0.3), (), ())


def linear_model() -> LatentModel:
    return model_of(LINEAR)


def discrete_model() -> LatentModel:
    model = LatentModel.build(
        kinds=COUNTS,
        variance_floor=np.full(len(COUNTS), 1e-4),
        n_components=1,
        hidden=(),
        activation="silu",
        n_free_scales=2,
        levels=LEVELS,
    )
    flat = 0.8 * np.random.default_rng(4).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(12, 2)) @ LINEAR.loadings.T
    X = LINEAR.mean + signal + rng.normal(size=(12, 4)) * LINEAR.noise_variance**0.5
    X[rng.random(X.shape) < 0.5] = np.nan
    return X[np.isnan(X).any(1)]


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
def test_missing_cells_have_the_quantiles_of_gaussian_conditioning(
    coverage: float,
) -> None:
    X = rows()
    low, high = predictive_interval(linear_model(), X, draw_bank(2048, 2, 0), coverage)
    dense = covariance_of(LINEAR)
    for row, below, above in zip(X, low, high, strict=True):
        o, m = ~np.isnan(row), np.isnan(row)
        gain = np.linalg.solve(dense[np.ix_(o, o)], dense[np.ix_(o, m)]).T
        mean = LINEAR.mean[m] + gain @ (row[o] - LINEAR.mean[o])
        variance = np.diag(dense[np.ix_(m, m)] - gain @ dense[np.ix_(o, m)])
        law = stats.norm(mean, np.sqrt(variance))
        for mine, level in ((below, 0.5 - coverage / 2), (above, 0.5 + coverage / 2)):
            error = (mine[m] - law.ppf(level)) / law.std()
            assert np.abs(error).max() < 0.03


def test_discrete_cells_have_the_quantiles_of_quadrature() -> None:
    model, n = discrete_model(), len(COUNTS)
    X = np.array([[1.0, np.nan, 2.0, np.nan, np.nan], [np.nan] * 4 + [5.0]])
    low, high = predictive_interval(model, X, draw_bank(1024, 1, 0), 0.8)
    z, step = np.linspace(-8, 8, 2001, retstep=True)
    params = model.decode(torch.as_tensor(z)[None, :, None, None])
    for row, below, above in zip(X, low, high, strict=True):
        seen = ~np.isnan(row)
        cells = torch.as_tensor(np.nan_to_num(row))
        log_px = model.likelihood.log_prob(params, cells)[0, :, 0].numpy()
        weight = np.exp(log_px[:, seen].sum(1)) * stats.norm.pdf(z) * step
        weight /= weight.sum()
        p = weight @ model.likelihood.mean(params)[0, :, 0, 0].numpy()
        np.testing.assert_array_equal([below[0], above[0]], [p > 0.9, p > 0.1])
        levels = model.likelihood.mean(params)[0, :, 0, 1:4].numpy()
        assert below[1] == above[1] == (weight @ levels).argmax()
        for j in (2, 3, 4):
            values = range(3 if j == 2 else 400)
            own = torch.zeros(len(values), 1, n).double()
            own[:, 0, j] = torch.arange(len(values)).double()
            log_mass = torch.stack(
                [model.likelihood.log_prob(params, x)[0, :, 0, j] for x in own]
            )
            cumulated = (log_mass.exp().numpy() @ weight).cumsum()
            for mine, level in ((below[j], 0.1), (above[j], 0.9)):
                near = np.abs(cumulated - level).min() < 2e-3  # either side may win
                assert near or mine == np.searchsorted(cumulated, level)


def test_wider_coverage_contains_the_narrower() -> None:
    model, X, bank = (
        discrete_model(),
        np.full((1, len(COUNTS)), np.nan),
        draw_bank(64, 1, 0),
    )
    ordered = [j for j, kind in enumerate(COUNTS) if kind != "categorical"]
    low, high = predictive_interval(model, X, bank, 0.5)
    wide_low, wide_high = predictive_interval(model, X, bank, 0.95)
    assert (wide_low <= low)[:, ordered].all()
    assert (wide_high >= high)[:, ordered].all()
    assert (wide_low >= 0).all()


def test_rows_and_chunks_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, X, bank = linear_model(), rows(), draw_bank(64, 2, 0)
    whole = np.hstack(predictive_interval(model, X, bank, 0.9))
    some = np.hstack(predictive_interval(model, X[[5, 1]], bank, 0.9))
    np.testing.assert_allclose(some, whole[[5, 1]], rtol=0, atol=1e-9)
    monkeypatch.setattr(scoring, "_CHUNK", 100)
    chunked = np.hstack(predictive_interval(model, X, bank, 0.9))
    np.testing.assert_allclose(chunked, whole, rtol=0, atol=1e-9)


def test_roots_are_found_far_off_and_on_the_whole_numbers() -> None:
    root = torch.tensor([3.0, -1e6, 1e-7, 12345.0, 0.0, 7.2]).double()
    whole = torch.tensor([False, False, False, True, True, True])

    def beyond(x: torch.Tensor) -> torch.Tensor:
        return torch.asinh(x - root) + 0.3 * torch.tanh(x - root)

    start, width = torch.zeros(6).double(), torch.ones(6).double()
    found = _root(beyond, start, width, whole)
    np.testing.assert_allclose(found[:3], root[:3], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found[3:], [12345.0, 0.0, 8.0])
