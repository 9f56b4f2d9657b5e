"""Expected cells against the closed form, and the fewest cells that mend a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from skvae.inference.repair import Judge, mend, points_of_cells
from skvae.inference.scoring import draw_bank
from skvae.model.linear import factor_analysis
from tests.linear_models import covariance_of, model_of

D, K = 4, 2


def test_expected_cells_are_those_of_the_gaussian() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, K)) @ rng.normal(size=(K, D))
    X += 0.5 * rng.normal(size=X.shape)
    start = factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.01)
    model = model_of(start)
    wanted = np.ones((20, D), dtype=bool)
    wanted[::2, 1] = False
    low, middle, high = points_of_cells(model, X[:20], draw_bank(64, K, 0), wanted)
    assert_array_equal(np.isnan(middle), ~wanted)
    # x_j given the others: the precision matrix tells mean and variance
    covariance = covariance_of(start)
    precision = np.linalg.inv(covariance)
    scale = 1.0 / np.diag(precision)
    mean = X[:20] - (X[:20] - start.mean) @ precision * scale
    deviation = np.sqrt(scale)
    error = ((middle - mean) / deviation)[wanted]
    assert np.abs(error).max() < 0.5
    assert np.abs(error.mean()) < 0.05
    width = ((high - low) / deviation).ravel()[wanted.ravel()]
    assert_allclose(width.mean(), 2 * 1.645, rtol=0.08)


def zeroed(
    coded: np.ndarray, parts_of: Callable[[np.ndarray], np.ndarray] | None = None
) -> Judge:
    """Fill with zeros; the score is minus the summed distance from zero."""

    def judge(rows: np.ndarray, replaced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        filled = np.where(replaced, 0.0, coded[rows])
        parts = -np.abs(filled)
        return parts if parts_of is None else parts_of(filled), parts.sum(1)

    return judge


def test_fewest_cells_are_replaced() -> None:
    coded = np.array([[0.1, 9.0, 0.2, 0.1], [8.0, 0.1, 7.0, 0.1], [0.1, 0.2, 0.1, 0.0]])
    replaced = mend(
        np.zeros(coded.shape, dtype=bool),
        zeroed(coded),
        offset=-1.0,
    )
    expected = [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert_array_equal(replaced, np.array(expected, dtype=bool))


def test_what_a_wrong_reason_replaced_is_put_back() -> None:
    # Reasons point to the first columns, but the last cell is at fault.
    coded = np.array([[0.1, 0.1, 0.1, 0.1, 9.0]])
    replaced = mend(
        np.zeros(coded.shape, dtype=bool),
        zeroed(coded, lambda rows: np.tile(np.arange(5.0) - 5.0, (len(rows), 1))),
        offset=-1.0,
    )
    assert_array_equal(replaced, [[False, False, False, False, True]])


def test_row_that_nothing_mends_is_replaced_whole() -> None:
    replaced = mend(
        np.zeros((1, 3), dtype=bool),
        lambda rows, replaced: (-1.0 * replaced, np.full(len(rows), -5.0)),
        offset=-1.0,
    )
    assert replaced.all()


def test_wrong_cells_are_replaced_from_the_start_and_stay_so() -> None:
    # The row passes as soon as its wrong cell is replaced, though that one scores well.
    coded = np.array([[0.1, 0.1, 0.1], [0.1, 5.0, 0.1]])
    replaced = mend(
        np.array([[True, False, False], [True, False, False]]),
        zeroed(coded),
        offset=-1.0,
    )
    assert_array_equal(replaced, [[True, False, False], [True, True, False]])
