"""The training loop: what it minimises, when it stops, where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skvae.model.latent import LatentModel
from skvae.model.rows import Rows
from skvae.model.terms import Terms
from skvae.training.batches import Batches
from skvae.training.history import History
from skvae.training.loop import SCHEDULES, NonFiniteLossError, Plan, train
from skvae.training.objectives import NegativeElbo, Objective, Reconstruction
from skvae.training.optimiser import Adam

D, K = 3, 2

ELBO, RECONSTRUCTION = NegativeElbo(), Reconstruction()

# What leaves a linear model one location a column to learn.
ALL_BUT_LOCATION = ("encoder.path", "encoder.bias", "decoder.path", "log_scale")


def table(n: int = 64, seed: int = 0) -> np.ndarray:
    """A curved table: a linear model leaves something to learn."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle)])
    return X + 0.1 * rng.normal(size=(n, D))


def rows(X: np.ndarray, weight: np.ndarray | None = None) -> Rows:
    own = None if weight is None else torch.as_tensor(weight)
    return Rows(torch.as_tensor(X), None, own)


def build(
    members: int = 1, hidden: tuple[int, ...] = (8,), seeds: list[int] | None = None
) -> LatentModel:
    model = LatentModel.build(
        kinds=("gaussian",) * D,
        variance_floor=np.full(D, 1e-4),
        n_components=K,
        hidden=hidden,
        activation="silu",
        n_free_scales=D,
        n_members=members,
    )
    model.start_random(seeds or list(range(members)), network_only=False)
    return model


def plan(**kwargs: Any) -> Plan:
    given = {
        "n_epochs": 5,
        "learning_rate": 0.01,
        "schedule": SCHEDULES["constant"],
        **kwargs,
    }
    return Plan(**given)


def fit(
    model: LatentModel,
    table_rows: Rows,
    how: Plan,
    *,
    objective: Objective = ELBO,
    batch_size: int = 16,
    seeds: list[int] | None = None,
    optimiser: Adam | None = None,
    **kwargs: Any,
) -> History:
    batches = Batches(
        table_rows,
        batch_size=batch_size,
        n_draws=0 if objective is RECONSTRUCTION else 1,
        n_components=K,
        seeds=seeds or list(range(model.n_members)),
    )
    own = Adam(model.params.flat) if optimiser is None else optimiser
    return train(model, objective, batches, own, how, **kwargs)


def value(model: LatentModel, X: np.ndarray) -> float:
    """Mean log density of the rows at their own code."""
    terms = model(torch.as_tensor(X)[None], None)
    return -float(RECONSTRUCTION(terms, 1.0).mean())


class Recorded:
    """An objective that remembers what it was asked."""

    def __init__(self, objective: Objective = ELBO) -> None:
        self.objective = objective
        self.betas: list[float] = []
        self.n_rows: list[int] = []

    def __call__(self, terms: Terms, beta: float) -> Tensor:
        self.betas.append(beta)
        self.n_rows.append(terms.x.shape[1])
        return self.objective(terms, beta)


class RecordedAdam(Adam):
    """An optimiser that remembers its rates."""

    def __init__(self, flat: Tensor) -> None:
        super().__init__(flat)
        self.asked: list[float] = []
        self.limits: list[float | None] = []

    def step(self, learning_rate: float, max_grad_norm: float | None = None) -> None:
        self.asked.append(learning_rate)
        self.limits.append(max_grad_norm)
        super().step(learning_rate, max_grad_norm)


# -- what is minimised -----------------------------------------------------------------


def test_training_lowers_the_loss() -> None:
    model = build()
    history = fit(model, rows(table()), plan(n_epochs=40))
    assert history.n_epochs == len(history.loss) == 40
    assert history.loss[-1] < history.loss[0] - 1.0
    assert history.stopped == "max_iter"
    assert history.best is None
    assert not history.validation


def test_loss_of_an_epoch_is_the_mean_of_its_rows() -> None:
    # At a rate of nearly nothing every row is seen by the same model.
    model, X = build(), table(50)
    before = -value(model, X)
    history = fit(model, rows(X), plan(learning_rate=1e-12), objective=RECONSTRUCTION)
    np.testing.assert_allclose(history.loss, before, rtol=1e-5)


def test_best_location_is_the_weighted_mean() -> None:
    # A decoder that sees no code has one location: the mean is its maximum likelihood.
    weight = np.random.default_rng(1).uniform(0.1, 3.0, 64)
    X, model = table(), build(hidden=())
    model.params.flat.zero_()
    fit(
        model,
        rows(X, weight / weight.mean()),
        plan(n_epochs=200, learning_rate=0.1, schedule=SCHEDULES["cosine"]),
        objective=RECONSTRUCTION,
        batch_size=64,
        frozen=ALL_BUT_LOCATION,
    )
    location = model.params["decoder.bias"][0, 0].numpy()
    np.testing.assert_allclose(location, weight @ X / weight.sum(), atol=1e-4)
    for name in ALL_BUT_LOCATION:
        assert not model.params[name].any()


def test_trim_leaves_out_the_worst_rows() -> None:
    # 8 of 64 rows lie far off: with that share trimmed the others alone are left.
    X = table()
    X[::8] += 30.0
    inliers = np.delete(X, np.s_[::8], axis=0)
    found = {}
    for trim in (0.0, 1 / 8):
        model = build(hidden=())
        model.params.flat.zero_()
        fit(
            model,
            rows(X),
            plan(
                n_epochs=200,
                learning_rate=0.15,
                schedule=SCHEDULES["cosine"],
                trim=trim,
            ),
            objective=RECONSTRUCTION,
            batch_size=64,
            frozen=ALL_BUT_LOCATION,
        )
        found[trim] = model.params["decoder.bias"][0, 0].numpy()
    np.testing.assert_allclose(found[1 / 8], inliers.mean(0), atol=0.01)
    np.testing.assert_allclose(found[0.0], X.mean(0), atol=0.01)


def test_trimmed_step_weighs_the_kept_rows_alike() -> None:
    # One step of full batches: the gradient is that of the kept rows alone.
    X = table(20)
    X[3] += 50.0
    X[11] -= 50.0
    steps = {}
    for name, own, trim in (
        ("trimmed", X, 0.1),
        ("kept", np.delete(X, [3, 11], 0), 0.0),
    ):
        model = build(hidden=())
        optimiser = Adam(model.params.flat, betas=(0.0, 0.99))
        fit(
            model,
            rows(own),
            # a rate of nothing, so that the first tenth of the steps, untrimmed,
            # leaves the model as it is
            plan(n_epochs=2, learning_rate=0.0, trim=trim),
            objective=RECONSTRUCTION,
            batch_size=20,
            optimiser=optimiser,
        )
        steps[name] = optimiser.moments()[0]
    np.testing.assert_allclose(steps["trimmed"], steps["kept"], rtol=1e-9)


# -- schedules -------------------------------------------------------------------------


def test_kl_warms_up_linearly() -> None:
    recorded = Recorded()
    fit(
        build(),
        rows(table(64)),
        plan(n_epochs=5, beta=3.0, kl_warmup=0.5),
        objective=recorded,
    )
    done = np.arange(20) / 20  # 4 steps an epoch
    np.testing.assert_allclose(recorded.betas, 3.0 * np.minimum(1.0, done / 0.5))


def test_held_out_rows_are_judged_at_full_beta() -> None:
    recorded = Recorded()
    fit(
        build(),
        rows(table(64)),
        plan(n_epochs=3, beta=3.0, kl_warmup=1.0),
        objective=recorded,
        held_out=rows(table(10, seed=5)),
    )
    looks = [b for b, n in zip(recorded.betas, recorded.n_rows, strict=True) if n == 10]
    assert looks == [3.0] * 4


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_follow_the_schedule(name: str) -> None:
    model = build()
    optimiser = RecordedAdam(model.params.flat)
    fit(
        model,
        rows(table(64)),
        plan(learning_rate=0.3, schedule=SCHEDULES[name], max_grad_norm=7.0),
        optimiser=optimiser,
    )
    done = np.arange(20) / 20
    factor = {"constant": np.ones(20), "cosine": (1 + np.cos(np.pi * done)) / 2}[name]
    np.testing.assert_allclose(optimiser.asked, 0.3 * factor)
    assert set(optimiser.limits) == {7.0}


def test_dropout_drops_in_training_and_not_in_looks() -> None:
    X, held = rows(table()), rows(table(10, seed=5))
    losses = {}
    for dropout in (0.0, 0.9):
        history = fit(
            build(),
            X,
            plan(n_epochs=1, learning_rate=1e-12, dropout=dropout),
            held_out=held,
        )
        losses[dropout] = history.loss[0], history.validation[0]
    assert losses[0.0][1] == losses[0.9][1]
    assert abs(losses[0.0][0] - losses[0.9][0]) > 1e-3


# -- early stopping --------------------------------------------------------------------


def overfitted() -> tuple[LatentModel, History, np.ndarray]:
    """A fit of few rows that goes on long after the held-out rows got worse."""
    model, held_out = build(hidden=(32,)), table(40, seed=9)
    history = fit(
        model,
        rows(table(8)),
        plan(n_epochs=150, learning_rate=0.02, patience=1000),
        objective=RECONSTRUCTION,
        batch_size=8,
        held_out=rows(held_out),
    )
    return model, history, held_out


def test_model_ends_where_the_held_out_rows_were_likeliest() -> None:
    model, history, held_out = overfitted()
    assert len(history.validation) == 151
    best = max(history.validation)
    assert history.validation[-1] < best - 0.5  # training went on beyond it
    assert history.best == pytest.approx(best, rel=1e-9)
    assert value(model, held_out) == pytest.approx(best, rel=1e-9)
    assert history.improved


def test_first_look_is_before_the_first_step() -> None:
    held_out, model = table(40, seed=9), build()
    start = value(model, held_out)
    history = fit(
        model, rows(table(8)), plan(), objective=RECONSTRUCTION, held_out=rows(held_out)
    )
    assert history.validation[0] == pytest.approx(start, rel=1e-9)


def test_training_stops_once_patience_has_run_out() -> None:
    _, long, _ = overfitted()
    model, patience = build(hidden=(32,)), 7
    history = fit(
        model,
        rows(table(8)),
        plan(n_epochs=150, learning_rate=0.02, patience=patience, tol=0.0),
        objective=RECONSTRUCTION,
        batch_size=8,
        held_out=rows(table(40, seed=9)),
    )
    curve = np.array(long.validation)
    assert history.stopped == "no_change"
    best = int(np.argmax(history.validation))
    assert history.n_epochs == best + patience
    np.testing.assert_allclose(history.validation, curve[: history.n_epochs + 1])


def test_gains_below_tol_do_not_count_as_gains() -> None:
    history = fit(
        build(),
        rows(table()),
        plan(n_epochs=50, learning_rate=1e-6, patience=3, tol=0.1),
        objective=RECONSTRUCTION,
        held_out=rows(table(40, seed=9)),
    )
    assert np.all(np.diff(history.validation) > 0)  # it does gain, a little
    assert history.stopped == "no_change"
    assert history.n_epochs == 3


def test_model_reverts_to_its_start_where_nothing_was_gained() -> None:
    model = build(hidden=())
    model.params.flat.zero_()
    before = model.params.flat.clone()
    history = fit(
        model,
        rows(table() + 3.0),
        plan(n_epochs=3),
        objective=RECONSTRUCTION,
        frozen=ALL_BUT_LOCATION,
        # on the other side of the start: each step makes these rows less likely
        held_out=rows(table(40, seed=9) - 3.0),
    )
    assert np.all(np.diff(history.validation) < 0)
    assert torch.equal(model.params.flat, before)
    assert not history.improved
    assert history.best == history.validation[0]


def test_gain_within_its_standard_error_is_none() -> None:
    # One held-out row gains a lot, the others lose a little: the mean gain is positive,
    # but less than its standard error.
    model = build(hidden=())
    model.params.flat.zero_()
    before = model.params.flat.clone()
    held_out = np.zeros((40, D))
    held_out[0] = 10.0
    history = fit(
        model,
        rows(np.full((16, D), 1.0)),
        plan(n_epochs=5, learning_rate=0.01),
        objective=RECONSTRUCTION,
        frozen=ALL_BUT_LOCATION,
        held_out=rows(held_out),
    )
    assert max(history.validation) > history.validation[0]
    assert torch.equal(model.params.flat, before)
    assert not history.improved


def test_held_out_weights_count() -> None:
    held_out = table(10, seed=9)
    weight = np.arange(10.0) / 4.5
    model = build()
    each = -RECONSTRUCTION(model(torch.as_tensor(held_out)[None], None), 1.0)[0].numpy()
    history = fit(
        model,
        rows(table()),
        plan(n_epochs=1),
        objective=RECONSTRUCTION,
        held_out=rows(held_out, weight),
    )
    expected = np.average(each, weights=weight)
    assert history.validation[0] == pytest.approx(expected, rel=1e-9)


def test_looks_come_every_so_many_steps_and_at_the_end() -> None:
    recorded = Recorded(RECONSTRUCTION)
    history = fit(
        build(),
        rows(table(64)),  # 4 steps an epoch
        plan(n_epochs=7, look_every=8),
        objective=recorded,
        held_out=rows(table(10, seed=9)),
    )
    looks = np.flatnonzero(np.array(recorded.n_rows) == 10)
    # at the start, after epochs 2, 4, 6 and at the end
    assert looks.tolist() == [0, 9, 18, 27, 32]
    assert len(history.validation) == 5


# -- other ends ------------------------------------------------------------------------


def test_callback_ends_training() -> None:
    seen: list[tuple[int, int]] = []

    def stop(epoch: int, history: History) -> bool:
        seen.append((epoch, history.n_epochs))
        return len(seen) == 3

    history = fit(build(), rows(table()), plan(n_epochs=9), on_epoch=stop)
    assert seen == [(0, 1), (1, 2), (2, 3)]
    assert history.stopped == "callback"
    assert history.n_epochs == 3


def test_time_ends_training_at_the_end_of_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock: Iterator[float] = iter(range(1000))  # each question takes a second
    fake = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("skvae.training.loop.time", fake)
    history = fit(build(), rows(table()), plan(n_epochs=9, max_time=2.5))
    assert history.stopped == "max_time"
    assert history.n_epochs == 3


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda X: 1e200 * X, 0.01),  # its square is infinite
        (lambda X: np.where(X[3, 1] == X, np.nan, X), 0.01),
        (lambda X: X, 1e250),  # the first step leaves the finite numbers
    ],
    ids=["rows", "nan", "rate"],
)
def test_infinite_loss_is_an_error(
    make: Callable[[np.ndarray], np.ndarray], rate: float
) -> None:
    with pytest.raises(NonFiniteLossError, match="learning_rate_init"):
        fit(build(), rows(make(table())), plan(learning_rate=rate))


def test_infinite_start_of_the_held_out_rows_is_an_error() -> None:
    with pytest.raises(NonFiniteLossError, match="X_val"):
        fit(build(), rows(table()), plan(), held_out=rows(1e200 * table(5)))


def test_same_seed_trains_the_same_model() -> None:
    models = [build() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        how = plan(dropout=0.2)
        fit(model, rows(table()), how, seeds=[seed], held_out=rows(table(10)))
    assert torch.equal(models[0].params.flat, models[1].params.flat)
    assert not torch.equal(models[0].params.flat, models[2].params.flat)


def test_training_goes_on_with_the_draws_of_its_epoch() -> None:
    through, parted = build(), build()
    fit(through, rows(table()), plan(n_epochs=4))
    optimiser = Adam(parted.params.flat)
    for first in (0, 2):
        how = plan(n_epochs=2)
        fit(parted, rows(table()), how, optimiser=optimiser, first_epoch=first)
    assert torch.equal(through.params.flat, parted.params.flat)


# -- members ---------------------------------------------------------------------------


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Let torch give each of its warnings, not only the first of a kind."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("every_warning")
def test_members_train_without_a_warning() -> None:
    fit(build(2), rows(table()), plan(n_epochs=1))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"max_grad_norm": 0.1},
        {"trim": 0.2},
        {"beta": 0.3, "kl_warmup": 0.5},
        {"dropout": 0.3},
    ],
    ids=str,
)
def test_members_side_by_side_train_as_each_alone(how: dict[str, float]) -> None:
    both = build(2, seeds=[3, 4])
    fit(both, rows(table()), plan(**how), seeds=[3, 4])
    for member, seed in enumerate((3, 4)):
        alone = build(1, seeds=[seed])
        fit(alone, rows(table()), plan(**how), seeds=[seed])
        own = both.params.flat[member]
        torch.testing.assert_close(own, alone.params.flat[0], rtol=1e-8, atol=1e-9)


def test_each_member_ends_where_it_was_best() -> None:
    # Seeds whose best looks differ; patience is longer than the training.
    held_out, how = (
        table(40, seed=9),
        plan(n_epochs=60, learning_rate=0.02, patience=99),
    )
    both = build(2, (32,), [3, 4])

    def train_one(model: LatentModel, seeds: list[int]) -> History:
        return fit(
            model,
            rows(table(8)),
            how,
            objective=RECONSTRUCTION,
            batch_size=8,
            seeds=seeds,
            held_out=rows(held_out),
        )

    together = train_one(both, [3, 4])
    bests = []
    for member, seed in enumerate((3, 4)):
        alone = build(1, (32,), [seed])
        bests.append(train_one(alone, [seed]).best)
        own = both.params.flat[member]
        torch.testing.assert_close(own, alone.params.flat[0], rtol=1e-8, atol=1e-9)
    assert together.best is not None
    assert together.best == pytest.approx(math.fsum(b or 0.0 for b in bests) / 2)
