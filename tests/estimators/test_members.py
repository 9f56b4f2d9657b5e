"""Ensembles: what the members say together, and how far they disagree.

A member is what a detector of one member is that starts from the member's own seed, so
single fits are the oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from skvae import VAEAnomalyDetector

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


def alone(X: np.ndarray, **params: Any) -> np.ndarray:
    """Scores of single detectors, (MEMBERS, n_rows)."""
    return np.stack(
        [
            VAEAnomalyDetector(
                **{**QUICK, "n_estimators": 1, "random_state": SEED + member, **params}
            )
            .fit(table())
            .score_samples(X)
            for member in range(MEMBERS)
        ]
    )


@pytest.mark.parametrize("prior", ["normal", "aggregate"])
def test_log_likelihood_is_that_of_the_mean_density(prior: str) -> None:
    # Each fit draws its own points: so many that their error is small.
    params = {"anomaly_score": "log_likelihood", "n_score_samples": 512}
    many, each = ensemble(prior=prior, **params), alone(table(), prior=prior, **params)
    found = many.score_samples(table())
    assert_allclose(found, logsumexp(each, axis=0) - np.log(MEMBERS), atol=0.1)
    assert abs(found - each.mean(0)).max() > 0.3  # not the mean of the logs
    assert_allclose(many.score_std(table()), each.std(axis=0), atol=0.1)
    assert each.std(axis=0).max() > 0.5
    assert many.score(table()) == pytest.approx(found.mean())


@pytest.mark.parametrize("score", ["code_likelihood", "reconstruction"])
def test_other_scores_are_means_of_the_members(score: str) -> None:
    many, each = ensemble(anomaly_score=score), alone(table(), anomaly_score=score)
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
