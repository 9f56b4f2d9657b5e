"""Training codes as half of the prior, against sums written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats

import skvae
from skvae import VAEImputer, VAESearchCV
from skvae.estimators import _base, imputer
from skvae.inference import donors as module
from skvae.inference.donors import Donors, mark_rows
from skvae.inference.imputation import conditional_draws, conditional_mean
from skvae.inference.intervals import predictive_interval
from skvae.inference.scoring import draw_bank
from skvae.model.latent import LatentModel
from skvae.model.linear import LinearGaussian
from skvae.table.raw import RawTable
from tests.linear_models import covariance_of, model_of

D, K, N = 5, 2, 40
RNG = np.random.default_rng(0)
LOADINGS = np.linalg.qr(RNG.normal(size=(D, K)))[0] * [2.0, 1.5]
LINEAR = LinearGaussian(RNG.normal(size=D), LOADINGS, np.full(D, 0.3))
CODES = np.array([1.5, -1.0]) * RNG.choice([-1.0, 1.0], size=(N, 1)) + 0.2 * (
    RNG.normal(size=(N, K))
)
SHARE = RNG.dirichlet(np.full(N, 5.0))
BANK = draw_bank(1024, K, 0)


def model() -> LatentModel:
    return model_of(LINEAR)


def donors(mark: np.ndarray | None = None, times: int = 1) -> Donors:
    """Every code so many times, of a share as much smaller: the same prior."""
    mark = np.full(N, 1e9) if mark is None else mark
    return Donors(
        np.repeat(CODES[None], times, 1),
        np.repeat(np.log(SHARE / times), times),
        np.repeat(mark, times),
    )


def rows() -> np.ndarray:
    rng = np.random.default_rng(1)
    truth = LINEAR.mean + CODES[:12] @ LINEAR.loadings.T
    X = truth + rng.normal(size=truth.shape) * LINEAR.noise_variance**0.5
    X[rng.random(X.shape) < 0.5] = np.nan
    return X[np.isnan(X).any(1)]


def by_hand(row: np.ndarray, share: np.ndarray = SHARE) -> np.ndarray:
    """Mean of the missing cells under half a Gaussian and half the codes."""
    o, m = ~np.isnan(row), np.isnan(row)
    dense = covariance_of(LINEAR)
    places = LINEAR.mean + CODES @ LINEAR.loadings.T
    away = row[o] - LINEAR.mean[o]
    gaussian = dense[np.ix_(m, o)] @ np.linalg.solve(dense[np.ix_(o, o)], away)
    evidence = 0.0
    if o.any():
        evidence = stats.multivariate_normal(np.zeros(o.sum()), dense[np.ix_(o, o)])
        evidence = evidence.logpdf(away)
    scale = np.sqrt(LINEAR.noise_variance[o])
    log_weight = np.log(share) + stats.norm(places[:, o], scale).logpdf(row[o]).sum(1)
    weight = special.softmax(np.append(log_weight, evidence))
    return weight[:-1] @ places[:, m] + weight[-1] * (LINEAR.mean[m] + gaussian)


@pytest.mark.parametrize(("n_draws", "atol"), [(64, 0.1), (5000, 0.02)])
def test_mean_is_that_of_both_halves(
    n_draws: int, atol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DRAWS", n_draws)
    X = np.vstack([rows(), np.full(D, np.nan)])
    mine = conditional_mean(model(), X, BANK, donors(times=125))
    for row, filled in zip(X, mine, strict=True):
        np.testing.assert_allclose(filled[np.isnan(row)], by_hand(row), atol=atol)


def test_a_row_is_none_of_its_own_donors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAWS", 5000)
    X, mark = rows(), np.full(N, 1e9)
    mark[: len(X)] = mark_rows(X)
    mine = conditional_mean(model(), X, BANK, donors(mark, times=125))
    for i, (row, filled) in enumerate(zip(X, mine, strict=True)):
        others = np.where(np.arange(N) == i, 1e-300, SHARE)
        hole = np.isnan(row)
        np.testing.assert_allclose(filled[hole], by_hand(row, others), atol=0.02)
    light = model().to(torch.float32, torch.device("cpu"))
    rounded = conditional_mean(light, X, BANK, donors(mark, times=125))
    np.testing.assert_allclose(rounded, mine, atol=1e-3)
    # Another hole makes another row of it.
    X = X[~np.isnan(X).all(1)]
    further = X.copy()
    further[np.arange(len(X)), (~np.isnan(X)).argmax(1)] = np.nan
    assert not np.isclose(mark_rows(further), mark_rows(X)).any()


def test_draws_and_intervals_know_the_clusters() -> None:
    built, X = model(), np.full((1, D), np.nan)
    mine = donors()
    draws = conditional_draws(built, X, BANK, 4000, 0, mine)[:, 0]
    places = LINEAR.mean + CODES @ LINEAR.loadings.T
    scale = LINEAR.noise_variance**0.5
    prior = stats.norm(LINEAR.mean, np.sqrt((LINEAR.loadings**2).sum(1) + scale**2))
    low, high = (bound[0] for bound in predictive_interval(built, X, BANK, 0.8, mine))
    for j in range(D):

        def cdf(x: np.ndarray, j: int = j) -> np.ndarray:
            codes = stats.norm(places[:, j], scale[j]).cdf(np.asarray(x)[..., None])
            gaussian = stats.norm(prior.mean()[j], prior.std()[j]).cdf(x)
            return 0.5 * gaussian + 0.5 * codes @ SHARE

        assert stats.kstest(draws[:, j], cdf).statistic < 0.04
        np.testing.assert_allclose([cdf(low[j]), cdf(high[j])], [0.1, 0.9], atol=0.02)


def test_rows_and_chunks_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    X, built = rows(), model()
    mine = donors()
    whole = conditional_mean(built, X, BANK, mine)
    np.testing.assert_allclose(
        conditional_mean(built, X[[3, 1]], BANK, mine), whole[[3, 1]], atol=1e-9
    )
    monkeypatch.setattr(module, "_CHUNK", 1)
    np.testing.assert_allclose(conditional_mean(built, X, BANK, mine), whole, atol=1e-9)


def test_an_imputer_keeps_codes_and_saves_them(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    X[:, 2] += X[:, 0] - X[:, 1]
    X[::4, 1] = np.nan
    fitted = VAEImputer(max_iter=2, random_state=0).fit(X)
    mine = fitted.transform(X)
    fitted.save(tmp_path / "imputer")
    loaded = skvae.load(tmp_path / "imputer")
    np.testing.assert_allclose(loaded.transform(X), mine, rtol=1e-9)
    loaded._donors = None
    assert np.abs(loaded.transform(X) - mine)[::4, 1].min() > 0.0


def test_donors_are_the_rows_trained_on_and_learned_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    weight, learned, held_out = np.linspace(1.0, 2.0, 60), [], []
    learn, fit = imputer.learn_donors, _base.fit_model

    def watched(model: Any, coded: Any, share: Any, seed: int) -> Donors:
        learned.append((coded, share))
        return learn(model, coded, share, seed)

    def fitting(*args: Any, **kwargs: Any) -> Any:
        done = fit(*args, **kwargs)
        held_out.append(done.held_out)
        return done

    monkeypatch.setattr(imputer, "learn_donors", watched)
    monkeypatch.setattr(_base, "fit_model", fitting)
    fitted = VAEImputer(max_iter=2, early_stopping=True, random_state=0)
    fitted.fit(X, sample_weight=weight)
    ((coded, share),), (out,) = learned, held_out
    assert len(out) == 6
    np.testing.assert_array_equal(share, np.delete(weight, out))
    rows = fitted._encode(RawTable(np.delete(X, out, 0)))
    np.testing.assert_allclose(coded, rows, atol=1e-6)
    # A search scores its tries by densities, which have no need of donors.
    learned.clear()
    search = VAESearchCV(VAEImputer(max_iter=2, random_state=0), {"beta": [1.0, 2.0]})
    search.fit(X)
    assert len(learned) == 1


def test_codes_stay_out_where_another_prior_is_asked_for() -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    fitted = VAEImputer(max_iter=1, prior="aggregate", random_state=0).fit(X)
    assert fitted._donors is None
