"""Explanations: they add up, and name the cell that is at fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skvae.inference import scoring
from skvae.inference.explanation import contributions
from skvae.inference.scoring import SCORES, draw_bank, read_score, score_rows
from skvae.model.completion import Completion
from skvae.model.latent import LatentModel
from skvae.model.linear import factor_analysis
from skvae.model.terms import Terms

D, K = 5, 2
KINDS = ("gaussian",) * 3 + ("bernoulli",) * 2
names = pytest.mark.parametrize("name", SCORES)


def table(n: int = 60, holes: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, D))
    X[:, 3:] = rng.integers(0, 2, (n, 2))
    if holes:
        X[rng.random((n, D)) < 0.25] = np.nan
    return X


def random_model(members: int = 1) -> LatentModel:
    model = LatentModel.build(
        kinds=KINDS,
        variance_floor=np.full(D, 1e-6),
        n_components=K,
        hidden=(6,),
        activation="silu",
        n_free_scales=None,
        n_members=members,
    )
    flat = 0.4 * np.random.default_rng(1).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    return model


@names
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("holes", [False, True])
def test_contributions_sum_to_the_score(name: str, members: int, holes: bool) -> None:
    model, X, bank = random_model(members), table(holes=holes), draw_bank(32, K, 0)
    parts = contributions(model, X, bank, SCORES[name])
    assert parts.shape == X.shape
    whole = score_rows(model, X, bank, SCORES[name])
    np.testing.assert_allclose(parts.sum(1), whole, rtol=0, atol=1e-9)


@names
def test_missing_cells_contribute_nothing(name: str) -> None:
    X = table(holes=True)
    parts = contributions(random_model(), X, draw_bank(32, K, 0), SCORES[name])
    some = ~np.isnan(X).all(1)
    assert not parts[some][np.isnan(X[some])].any()


@names
def test_row_of_holes_is_explained_evenly(name: str) -> None:
    X = np.full((1, D), np.nan)
    parts = contributions(random_model(), X, draw_bank(32, K, 0), SCORES[name])
    np.testing.assert_allclose(parts, np.broadcast_to(parts[:, :1], (1, D)))


@pytest.mark.parametrize("name", ["log_likelihood", "elbo"])
@pytest.mark.parametrize("members", [1, 3])
def test_latent_term_is_shared_by_the_squared_steps(name: str, members: int) -> None:
    # The documented rule: a cell's share is the squared length of the step that it
    # alone makes the code take along the encoder's linear path.
    model, X, bank = random_model(members), table(), draw_bank(32, K, 0)
    score = SCORES[name]
    rows, cells = read_score(
        model, X, bank, score, lambda terms: (score.rows(terms), score.cells(terms))
    )
    latent = rows - cells.sum(1)
    steps = np.zeros_like(X)
    path = model.params["encoder.path"].numpy()
    origin = model.prior_mean_row().numpy()  # what is expected at z = 0
    for j in range(D):
        only = np.zeros((len(path), *X.shape))
        only[..., j] = X[:, j] - origin[:, [j]]
        steps[:, j] = ((only @ path) ** 2).sum(-1).mean(0)
    shares = steps / steps.sum(1, keepdims=True)
    parts = contributions(model, X, bank, score)
    np.testing.assert_allclose(parts, cells + latent[:, None] * shares, rtol=1e-9)


def test_where_no_cell_moves_the_code_the_shares_are_even() -> None:
    model, X, bank = random_model(), table(), draw_bank(32, K, 0)
    model.params["encoder.path"].zero_()
    score = SCORES["elbo"]
    rows, cells = read_score(
        model, X, bank, score, lambda terms: (score.rows(terms), score.cells(terms))
    )
    expected = cells + ((rows - cells.sum(1)) / D)[:, None]
    np.testing.assert_allclose(contributions(model, X, bank, score), expected)


def test_cells_of_the_log_likelihood_are_importance_weighted() -> None:
    model, X, bank = random_model(2), table(), draw_bank(32, K, 0)

    def reading(terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        # members and draws after the rows
        return terms.log_weight.permute(2, 0, 1), terms.log_px.permute(2, 0, 1, 3)

    score = SCORES["log_likelihood"]
    log_weight, log_px = read_score(model, X, bank, score, reading)
    flat = log_weight.reshape(len(X), -1)
    weight = np.exp(flat - flat.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    theirs = np.einsum("rl,rlc->rc", weight, log_px.reshape(len(X), -1, D))
    (mine,) = read_score(model, X, bank, score, lambda t: (score.cells(t),))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)


@names
def test_damaged_cell_is_named(name: str) -> None:
    # One cell of each row is moved by ten noise deviations: against the row as it was,
    # that column loses most.
    rng = np.random.default_rng(0)
    d, n = 6, 120
    X = rng.normal(size=(n, K)) @ rng.normal(size=(K, d)) + 0.5 * rng.normal(
        size=(n, d)
    )
    model = LatentModel.build(
        kinds=("gaussian",) * d,
        variance_floor=np.full(d, 1e-6),
        n_components=K,
        hidden=(),
        activation="silu",
        n_free_scales=d,
    )
    model.start_linear(factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.1))
    damaged, column = X.copy(), np.arange(n) % d
    damaged[np.arange(n), column] += 5.0
    bank, score = draw_bank(64, K, 0), SCORES[name]
    lost = contributions(model, X, bank, score) - contributions(
        model, damaged, bank, score
    )
    assert (lost.argmax(1) == column).mean() > 0.8


def completion_of(model: LatentModel, X: np.ndarray) -> Completion:
    return Completion.of(X, model.likelihood, None)


@names
@pytest.mark.parametrize("holes", [False, True])
def test_charged_parts_sum_to_the_score(name: str, holes: bool) -> None:
    model, X, bank = random_model(3), table(holes=holes), draw_bank(32, K, 0)
    completion, score = completion_of(model, table()), SCORES[name]
    parts = contributions(model, X, bank, score, completion)
    plain = contributions(model, completion(X), bank, score)
    np.testing.assert_allclose(parts.sum(1), plain.sum(1), rtol=0, atol=1e-9)


def test_cell_that_fits_least_pays_for_the_others() -> None:
    # Which cell that is, and where the others expect it, by regressing each column on
    # the others; the ridge of the completion is a 0.01 of every variance.
    X, bank = table(), draw_bank(32, K, 0)
    X = np.delete(X, [3, 4], axis=1) @ np.array([[1, 0.9, 0], [0, 1, 0.5], [0, 0, 1]])
    model = LatentModel.build(
        kinds=("gaussian",) * 3,
        variance_floor=np.full(3, 1e-6),
        n_components=K,
        hidden=(),
        activation="silu",
        n_free_scales=3,
    )
    model.start_linear(factor_analysis(X.mean(0), np.cov(X.T), K, floor=0.1))
    completion, score = completion_of(model, X), SCORES["code_likelihood"]
    covariance = np.cov(X.T, bias=True) * (1.0 + 0.01 * np.eye(3))
    expected, far = np.empty_like(X), np.empty_like(X)
    for j in range(3):
        rest = np.delete(np.arange(3), j)
        slopes = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, j])
        expected[:, j] = X[:, j].mean() + (X[:, rest] - X[:, rest].mean(0)) @ slopes
        spread = covariance[j, j] - covariance[j, rest] @ slopes
        far[:, j] = (X[:, j] - expected[:, j]) ** 2 / spread
    worst = far.argmax(1)
    rows = np.arange(len(X))
    mended = X.copy()
    mended[rows, worst] = expected[rows, worst]
    theirs = contributions(model, mended, bank, score)
    lost = score_rows(model, X, bank, score) - score_rows(model, mended, bank, score)
    theirs[rows, worst] += lost
    mine = contributions(model, X, bank, score, completion)
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9)


def test_levels_without_an_order_pay_for_nothing() -> None:
    model = LatentModel.build(
        kinds=("categorical", "categorical"),
        variance_floor=np.full(2, 1e-6),
        n_components=K,
        hidden=(),
        activation="silu",
        n_free_scales=0,
        levels=((0.9, 0.05, 0.05), (0.5, 0.3, 0.2)),
    )
    flat = 0.4 * np.random.default_rng(1).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    X = np.random.default_rng(0).integers(0, 3, (20, 2)).astype(float)
    bank, score = draw_bank(8, K, 0), SCORES["code_likelihood"]
    parts = contributions(model, X, bank, score, completion_of(model, X))
    np.testing.assert_allclose(parts, contributions(model, X, bank, score), atol=1e-12)


@names
def test_chunks_and_other_rows_change_no_answer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, X, bank = random_model(2), table(holes=True), draw_bank(32, K, 0)
    whole = contributions(model, X, bank, SCORES[name])
    part = contributions(model, X[[7, 30]], bank, SCORES[name])
    np.testing.assert_allclose(part, whole[[7, 30]], rtol=0, atol=1e-9)
    monkeypatch.setattr(scoring, "_CHUNK", 64)
    chunked = contributions(model, X, bank, SCORES[name])
    np.testing.assert_allclose(chunked, whole, rtol=0, atol=1e-9)


@names
def test_columns_of_every_kind_are_explained(name: str) -> None:
    kinds = ("student_t", "categorical", "categorical", "ordinal", "poisson")
    model = LatentModel.build(
        kinds=kinds,
        variance_floor=np.full(D, 1e-4),
        n_components=K,
        hidden=(4,),
        activation="silu",
        n_free_scales=None,
        levels=((), (0.5, 0.3, 0.2), (0.6, 0.4), (0.2, 0.5, 0.3), ()),
        flagged=(1, 4),
    )
    flat = 0.4 * np.random.default_rng(1).normal(size=model.params.flat.shape)
    model.params.flat.copy_(torch.as_tensor(flat))
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=20), *rng.integers(0, 2, (4, 20))])
    X[rng.random(X.shape) < 0.2] = np.nan
    bank, score = draw_bank(16, K, 0), SCORES[name]
    parts = contributions(model, X, bank, score)
    assert parts.shape == X.shape
    assert not parts[np.isnan(X)].any()
    whole = score_rows(model, X, bank, score)
    np.testing.assert_allclose(parts.sum(1), whole, rtol=0, atol=1e-9)
    # The step that a cell alone makes the code take, one row and column at a time.
    complete, likelihood = ~np.isnan(X).any(1), model.likelihood
    origin = likelihood.features_of(model.prior_mean_row())[0]
    away = (likelihood.features(torch.as_tensor(X[complete])) - origin).numpy()
    owner = likelihood.owner.numpy()
    path = model.params["encoder.path"][0, : len(owner)].numpy()
    steps = np.column_stack(
        [
            ((away[:, owner == j] @ path[owner == j]) ** 2).sum(1)
            for j in range(len(kinds))
        ]
    )
    cells = read_score(model, X, bank, score, lambda t: (score.cells(t),))[0]
    latent = (whole - cells.sum(1))[complete, None]
    expected = cells[complete] + latent * steps / steps.sum(1, keepdims=True)
    np.testing.assert_allclose(parts[complete], expected, atol=1e-9)
