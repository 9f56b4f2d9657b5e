"""Fits of tables with levels, counts and holes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skvae.model import latent
from skvae.model.rows import RowsOnHost
from skvae.training.coded import CodedTable
from skvae.training.fit import fit_model, partial_fit_model
from skvae.training.loop import SCHEDULES, Plan
from skvae.training.settings import Settings
from skvae.training.start import start_model

KINDS = ("gaussian",) * 2 + ("bernoulli", "categorical", "categorical", "ordinal")
KINDS += ("poisson", "negative_binomial") + ("multinomial",) * 2
COUNTS = ("poisson", "negative_binomial", "multinomial")


def table(n: int = 200, *, holes: bool = False) -> CodedTable:
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    numeric = z[:, None] + rng.normal(size=(n, 2))
    codes = [np.digitize(z + rng.normal(size=n), cuts) for cuts in ([0], [0], [-1, 1])]
    codes.append(np.digitize(z + rng.normal(size=n), [-0.5, 0.5]))
    counts = rng.poisson(np.exp(0.5 * z[:, None] + [0.2, 1.0, 1.5, 1.0]))
    values = np.column_stack([numeric, *codes, counts]).astype(float)
    levels, centre, scale = [], np.zeros(len(KINDS)), np.ones(len(KINDS))
    for j, kind in enumerate(KINDS):
        own = np.log1p(values[:, j]) if kind in COUNTS else values[:, j]
        if kind in (*COUNTS, "ordinal"):
            centre[j], scale[j] = own.mean(), own.std()
        with_levels = kind in ("categorical", "ordinal")
        shares = np.bincount(values[:, j].astype(int).clip(0)) / n
        levels.append(tuple(shares.tolist()) if with_levels else ())
    if holes:
        values[rng.random(values.shape) < 0.3] = np.nan
    step = np.array([0.01] * 2 + [1.0] * 8)
    one = np.ones(len(KINDS))
    return CodedTable(values, None, KINDS, one, step, tuple(levels), centre, scale)


def settings(**changes: Any) -> Settings:
    given = Settings(
        n_components=2,
        n_members=2,
        hidden=(8,),
        activation="silu",
        noise="column",
        start="linear",
        variational=True,
        n_importance_samples=1,
        free_bits=0.0,
        alpha=0.0,
        l1_ratio=0.0,
        batch_size=50,
        held_out=0.0,
        keep_start=False,
        plan=Plan(5, 5e-3, SCHEDULES["constant"]),
        device=torch.device("cpu"),
    )
    return replace(given, **changes)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"noise": "shared"},
        {"noise": "network"},
        {"start": "random"},
        {"variational": False},
        {"hidden": ()},
        {"n_importance_samples": 3, "held_out": 0.2},
        {"plan": Plan(5, 5e-3, SCHEDULES["constant"], trim=0.1)},
    ],
    ids=lambda changes: " ".join(changes) or "default",
)
def test_every_kind_of_column_trains(changes: dict[str, Any], holes: bool) -> None:
    fit = fit_model(table(holes=holes), settings(**changes), 0)
    assert fit.model.params.flat.isfinite().all()
    assert fit.history.loss[-1] < fit.history.loss[0]
    assert fit.model.flagged == (tuple(range(10)) if holes else ())
    assert (fit.model.filler is not None) == holes


def test_linear_start_knows_more_than_the_columns_alone() -> None:
    def bound(n_components: int) -> float:
        kept = settings(keep_start=True, n_components=n_components, hidden=())
        model = fit_model(table(2000), kept, 0).model
        rows = model.rows(table(2000).values)
        source = torch.Generator().manual_seed(0)
        unit = torch.randn(1, 20, 2000, n_components, generator=source).double()
        members = rows.x.expand(2, -1, -1)
        seen = rows.inputs.expand(2, -1, -1)
        return float(model(members, unit, seen=seen).log_weight.logsumexp(1).mean())

    flat = settings(keep_start=True, n_components=1, hidden=())
    model = fit_model(table(2000), flat, 0).model
    model.params["decoder.path"].zero_()
    model.params["encoder.path"].zero_()
    model.params["encoder.bias"].zero_()
    rows = model.rows(table(2000).values).x.expand(2, -1, -1)
    alone = float(model(rows, None).log_px.sum(-1).mean())
    assert bound(1) - np.log(20.0) > alone + 0.5


def test_a_later_chunk_may_have_holes_that_the_first_had_not() -> None:
    chosen = settings()
    model, _, moments = partial_fit_model(
        table(), chosen, 0, n_epochs=0, model=None, moments=None
    )
    assert model.flagged == ()
    model, history, _ = partial_fit_model(
        table(holes=True), chosen, 0, n_epochs=1, model=model, moments=moments
    )
    assert np.isfinite(history.loss).all()
    assert model.params.flat.isfinite().all()


def test_shared_noise_leaves_counts_and_codes_their_own_scale() -> None:
    model = fit_model(table(), settings(noise="shared", keep_start=True), 0).model
    apart = fit_model(table(), settings(noise="column", keep_start=True), 0).model
    shared = model.params["log_scale"] + model.scale_offset
    assert shared.shape[-1] == 4
    assert torch.equal(shared[..., 0], shared[..., 1])
    assert apart.params["log_scale"].shape[-1] == 4


@pytest.mark.parametrize("holes", [False, True])
def test_a_table_beyond_the_devices_memory_gives_the_same_fit(
    holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(table(holes=holes), weight=np.linspace(0.5, 2.0, 200))
    expected = fit_model(given, settings(held_out=0.1), 0)
    asked: list[int] = []

    def too_large(n_bytes: int, device: torch.device) -> bool:
        asked.append(n_bytes)
        return False

    monkeypatch.setattr(latent, "fits", too_large)
    fit = fit_model(given, settings(held_out=0.1), 0)
    assert torch.equal(fit.model.params.flat, expected.model.params.flat)
    assert fit.history.loss == expected.history.loss
    # What is asked for is what the rows take.
    model = fit.model.to(torch.float32, torch.device("cpu"))
    far = model.rows_for_batches(given.values)
    assert isinstance(far, RowsOnHost)
    parts = (far.rows.x, far.rows.observed, far.rows.seen)
    taken = sum(part.nbytes for part in parts if part is not None)
    assert taken <= asked[-1] <= 2 * taken


def test_rows_of_members_are_drawn_where_host_rows_want_them() -> None:
    # A device that holds no values stands for one that the host cannot index by.
    given = settings(max_samples=7, device=torch.device("meta"))
    drawn = given.draw_rows(20, [0, 1], 1)
    assert drawn is not None
    assert drawn.device.type == "cpu"
    np.testing.assert_array_equal(drawn.unique(dim=1).shape, (2, 7))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_further_pass_keeps_the_rate_of_the_middle_of_a_fit(schedule: str) -> None:
    # Adam's first step has the length of the rate, whatever the gradient.
    coded = table()
    plan = Plan(50, 1e-3, SCHEDULES[schedule])
    own = settings(plan=plan, start="random", batch_size=200, n_members=1)
    before = start_model(coded, own, [0]).to(torch.float32, torch.device("cpu"))
    after, _, _ = partial_fit_model(coded, own, 0, n_epochs=0, model=None, moments=None)
    moved = (after.params.flat - before.params.flat).abs().max()
    assert float(moved) == pytest.approx(
        {"cosine": 5e-4, "constant": 1e-3}[schedule], rel=1e-2
    )
