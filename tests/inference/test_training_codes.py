"""Distances of codes against SciPy, and the scores made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.inference.scoring import read
from skvae.inference.training_codes import Neighbours, aggregate_posterior
from skvae.model.priors import AggregatePosterior
from skvae.model.terms import Terms
from skvae.table.raw import RawTable


def table(n_rows: int = 150) -> np.ndarray:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, 5))
    rows = rng.normal(size=(n_rows, 8))
    return rows[:, :3] @ loadings + 0.5 * rows[:, 3:]


def detector(**params: object) -> VAEAnomalyDetector:
    return VAEAnomalyDetector(max_iter=3, random_state=0, **params).fit(table())


def test_distance_is_the_mean_of_the_nearest_of_each_group() -> None:
    fitted = detector()
    score, model = fitted._learned_score, fitted._model
    assert score is not None
    coded = fitted._encode(10.0 * table(7))

    def reading(terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        return score.distance(terms), terms.mean.transpose(0, 1)

    distance, codes = read(model, coded, None, reading)
    own = codes.reshape(7, -1)
    nearest = [cdist(own, group).min(axis=1) for group in score.codes]
    np.testing.assert_allclose(distance, np.mean(nearest, axis=0), rtol=1e-10)


def test_both_parts_spread_alike_over_the_training_rows() -> None:
    fitted = detector()
    score = fitted._learned_score

    def reading(terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        return terms.log_px.mean((0, 1)).sum(-1), score.distance(terms)

    fitted_to = table()[~fitted._kept_back(len(table()))]
    coded = fitted._encode(RawTable.of(fitted_to))
    cells, distance = read(fitted._model, coded, None, reading)
    spreads = [np.ptp(np.quantile(part, [0.05, 0.95])) for part in (cells, distance)]
    assert spreads[0] == pytest.approx(score.weight * spreads[1])


def test_equal_rows_leave_no_distance_to_weigh() -> None:
    fitted = detector()
    model, rows = fitted._model, fitted._encode(np.repeat(table(1), 9, axis=0))
    assert Neighbours.of(model, rows, seed=0).weight == 0.0


@pytest.mark.parametrize("novelty", [False, True])
def test_score_falls_with_the_distance_from_the_table(novelty: bool) -> None:
    fitted = detector(novelty=novelty)
    direction = np.random.default_rng(1).normal(size=5)
    far = np.outer([1e1, 1e2, 1e3, 1e6], direction)
    scores = fitted.score_samples(far)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
    assert scores[0] < fitted.score_samples(table()).min()


@pytest.mark.parametrize("novelty", [False, True])
def test_parts_of_the_default_score_sum_to_it(novelty: bool) -> None:
    fitted, X = detector(novelty=novelty), table()
    total = fitted.explain(X).sum(axis=1) + fitted.base_score_
    np.testing.assert_allclose(total, fitted.score_samples(X), rtol=1e-9)


def test_aggregate_posterior_holds_the_codes_of_training_rows() -> None:
    X = table()
    vae = VAETransformer(2, prior="aggregate", max_iter=3, random_state=0).fit(X)
    prior = vae._model.prior
    assert isinstance(prior, AggregatePosterior)
    known = vae.transform(X)
    assert cdist(prior.mean[0].numpy(), known).min(axis=1).max() < 1e-6
    # Rows that were held out are not in it.
    assert len(prior.mean[0]) == len(X) - 15


def test_aggregate_posterior_keeps_a_thousand_codes_and_no_rows() -> None:
    fitted = detector()
    coded = np.random.default_rng(0).normal(size=(1500, 5))
    prior = aggregate_posterior(fitted._model, coded, seed=0)
    assert prior.mean.shape == (4, 1000, fitted.n_components_)


def test_going_on_trains_under_the_normal_prior() -> None:
    X = table()
    params = {"n_importance_samples": 3, "max_iter": 2, "random_state": 0}
    plain = VAETransformer(2, warm_start=True, **params).fit(X).fit(X)
    other = VAETransformer(2, warm_start=True, prior="aggregate", **params)
    other.fit(X).fit(X)
    assert torch.equal(plain._model.params.flat, other._model.params.flat)
