"""Ensembles: what the members say together, and how far they disagree.

A member is what a detector of one member is that starts from the member's own seed, so
single fits are the oracle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvae import VAEAnomalyDetector, VAEImputer, VAESearchCV
from skvae.training.fit import FIRST_EPOCH, train_model
from skvae.training.start import start_model

QUICK: dict[str, Any] = {
    "n_components": 2,
    "hidden_layer_sizes": (8,),
    "max_iter": 10,
    "start": "random",
}
MEMBERS, SEED = 3, 5


def table(n_rows: int = 150) -> np.ndarray:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(n_rows, 2))
    return np.tanh(codes @ rng.normal(size=(2, 4))) + 0.2 * rng.normal(size=(n_rows, 4))


def ensemble(**params: Any) -> VAEAnomalyDetector:
    params = {**QUICK, "n_estimators": MEMBERS, "random_state": SEED, **params}
    return VAEAnomalyDetector(**params).fit(table())


def alone(many: VAEAnomalyDetector, X: np.ndarray) -> np.ndarray:
    """Scores of single detectors by the points of the ensemble, (MEMBERS, n_rows)."""
    scores = []
    for member in range(MEMBERS):
        single = clone(many).set_params(n_estimators=1, random_state=SEED + member)
        single.fit(table())._bank = many._bank
        scores.append(single.score_samples(X))
    return np.stack(scores)


@pytest.mark.parametrize("prior", ["normal", "aggregate"])
def test_log_likelihood_is_that_of_the_mean_density(prior: str) -> None:
    many = ensemble(prior=prior, anomaly_score="log_likelihood", n_score_samples=16)
    each = alone(many, table())
    found = many.score_samples(table())
    assert_allclose(found, logsumexp(each, axis=0) - np.log(MEMBERS), atol=1e-3)
    assert abs(found - each.mean(0)).max() > 0.1  # not the mean of the logs
    assert_allclose(many.score_std(table()), each.std(axis=0), atol=1e-3)
    assert each.std(axis=0).max() > 0.5
    assert many.score(table()) == pytest.approx(found.mean())


@pytest.mark.parametrize("score", ["code_likelihood", "aggregate", "reconstruction"])
def test_other_scores_are_means_of_the_members(score: str) -> None:
    many = ensemble(anomaly_score=score)
    each = alone(many, table())
    assert_allclose(many.score_samples(table()), each.mean(0), atol=1e-3)
    assert_allclose(many.score_std(table()), each.std(axis=0), atol=1e-3)


def test_members_disagree_most_where_no_row_taught_them() -> None:
    far = table() + np.array([6.0, -6.0, 6.0, -6.0])
    many = ensemble(novelty=True, anomaly_score="aggregate")
    assert many.score_std(far).mean() > 2.0 * many.score_std(table()).mean()
    holed = table()
    holed[::2, 1] = np.nan
    for detector in (many, ensemble()):
        std = detector.score_std(holed)
        assert std.shape == (len(holed),)
        assert (std > 0.0).all()
        assert_allclose(std[1::2], detector.score_std(table())[1::2])


def test_one_member_agrees_with_itself() -> None:
    single = ensemble(n_estimators=1)
    assert_array_equal(single.score_std(table()), 0.0)
    assert single.score_std(table().astype(np.float32)).dtype == np.float32


# -- rows of their own -------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_member_learns_from_its_own_rows_alone(bootstrap: bool) -> None:
    detector = VAEAnomalyDetector(
        **{**QUICK, "random_state": SEED}, n_estimators=MEMBERS
    ).set_params(max_samples=0.4, bootstrap=bootstrap, trim=0.0)
    training = detector._prepare(table(), None, go_on=False)
    settings, seeds = training.settings, [SEED + member for member in range(MEMBERS)]
    n = len(training.coded.values)
    drawn = settings.draw_rows(n, seeds, FIRST_EPOCH)
    assert drawn is not None
    assert drawn.shape == (MEMBERS, int(0.4 * n))
    sizes = [len(own.unique()) for own in drawn]
    assert (max(sizes) < drawn.shape[1]) == bootstrap
    assert not torch.equal(drawn[0].sort().values, drawn[1].sort().values)

    def trained(values: np.ndarray) -> torch.Tensor:
        model = start_model(training.coded, settings, seeds)
        model = model.to(torch.float32, settings.device)
        table = replace(training.coded, values=values)
        train_model(model, table, settings, seeds)
        return model.params.flat

    clean, values = trained(training.coded.values), training.coded.values.copy()
    outside = np.setdiff1d(np.arange(n), drawn[0].numpy())
    values[outside] = 7.0
    changed = trained(values)
    assert torch.equal(changed[0], clean[0])
    assert not torch.equal(changed[1], clean[1])
    values[drawn[0][0]] = 7.0
    assert not torch.equal(trained(values)[0], clean[0])


def test_all_rows_are_the_default() -> None:
    expected = ensemble().score_samples(table())
    for max_samples in (1.0, 10_000, np.int64(150)):
        found = ensemble(max_samples=max_samples).score_samples(table())
        assert_array_equal(found, expected)
    for params in ({"max_samples": 0.5}, {"bootstrap": True}):
        assert (ensemble(**params).score_samples(table()) != expected).all()


def test_the_size_of_a_step_follows_the_rows_that_are_seen() -> None:
    # As after a fit to so few rows: small batches, and eight steps a row at most.
    X = np.random.default_rng(0).normal(size=(2000, 3))
    settings = (
        VAEAnomalyDetector(max_samples=20)._prepare(X, None, go_on=False).settings
    )
    assert settings.batch_size == 20
    assert settings.plan.n_epochs == 160
    imputer = VAEImputer(max_samples=0.5, early_stopping=False, max_iter=1)
    settings = imputer._prepare(X, None, go_on=False).settings
    assert settings.draw_rows(2000, [0], FIRST_EPOCH).shape == (1, 1000)


@pytest.mark.parametrize("value", [0, 0.0, 1.5, "all"])
def test_max_samples_are_a_number_or_a_share(value: Any) -> None:
    with pytest.raises(ValueError, match="'max_samples' parameter"):
        ensemble(max_samples=value)


def test_members_of_a_search_see_their_own_rows() -> None:
    detector = VAEAnomalyDetector(**QUICK, n_estimators=2, random_state=SEED)
    grid = {"max_samples": [0.5], "bootstrap": [False, True], "beta": [0.5, 1.0]}
    alone = GridSearchCV(detector, grid, cv=2, refit=False).fit(table())
    stack = VAESearchCV(detector, grid, cv=2, refit=False).fit(table())
    for key in ("split0_test_score", "split1_test_score"):
        assert_allclose(stack.cv_results_[key], alone.cv_results_[key], atol=1e-4)
        assert len(np.unique(alone.cv_results_[key])) == 4
