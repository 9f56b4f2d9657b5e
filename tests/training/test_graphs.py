"""Steps that are recorded once: the same numbers as the steps themselves.

The recorder stands in for CUDA's: what was recorded sees only the tensors that lay
there, and its result stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from skvae.model.latent import LatentModel
from skvae.model.rows import Rows
from skvae.training import loop
from skvae.training.batches import Batches
from skvae.training.graphs import GraphStep
from skvae.training.objectives import Beta, NegativeElbo
from skvae.training.optimiser import Adam
from skvae.training.steps import AnalyticStep, AutogradStep
from tests.training import test_steps as steps

N_COLUMNS, N_COMPONENTS, N_ROWS, N_MEMBERS = 5, 2, 150, 2


class Recorder:
    """Counts what is recorded and what is replayed."""

    def __init__(self) -> None:
        self.n_recorded = self.n_replayed = 0

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self.n_recorded += 1
        result = work().clone()
        result.fill_(torch.nan)  # recording does no work

        def again() -> None:
            self.n_replayed += 1
            result.copy_(work())

        return result, again


@pytest.fixture
def model() -> LatentModel:
    built = LatentModel.build(
        kinds=("gaussian",) * 3 + ("student_t", "bernoulli"),
        variance_floor=np.full(N_COLUMNS, 1e-2),
        n_components=N_COMPONENTS,
        hidden=(6,),
        activation="silu",
        n_members=N_MEMBERS,
        n_free_scales=4,
        scale_offset=np.zeros(4),
    )
    built.start_random([0, 1], network_only=False)
    return built


def batches(*, holes: bool = False, weights: bool = False) -> Batches:
    """Rows in batches of 64, the last one smaller."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_ROWS, N_COLUMNS))
    x[:, -1] = x[:, -1] > 0
    if holes:
        x[rng.uniform(size=x.shape) < 0.2] = np.nan
    weight = rng.uniform(0.5, 2.0, size=N_ROWS) if weights else None
    rows = Rows.from_coded(x, torch.float64, torch.device("cpu"), weight)
    return Batches(
        rows, batch_size=64, n_draws=1, n_components=N_COMPONENTS, seeds=[0, 1]
    )


BETAS: dict[str, Beta] = {"one": 1.0, "half": 0.5, "each": torch.tensor([[0.3], [2.0]])}


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("trim", [0.0, 0.2])
@pytest.mark.parametrize("rows", [{}, {"holes": True}, {"weights": True}], ids=str)
def test_replayed_steps_are_the_steps(
    model: LatentModel, beta: str, trim: float, rows: dict[str, bool]
) -> None:
    gradients = [torch.full_like(model.params.flat, torch.nan) for _ in range(2)]
    own, other = (AnalyticStep(model, NegativeElbo(), each) for each in gradients)
    record = Recorder()
    recorded = GraphStep(other, record)

    def weigh(losses: Tensor, weight: Tensor | None) -> Tensor | None:
        if not trim:
            return loop.own_weight(losses, weight)
        return loop.trimmed_weight(losses, weight, trim=trim)

    for epoch in range(2):
        for batch in batches(**rows).epoch(epoch):
            expected = own(batch, BETAS[beta], weigh)
            found = recorded(batch, BETAS[beta], weigh)
            torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
            assert torch.equal(*gradients)
            model.params.flat.sub_(0.01 * gradients[0])
    # One recording for the whole batches, one for the last.
    assert (record.n_recorded, record.n_replayed) == (2, 6)


def test_what_the_host_decides_is_recorded_anew(model: LatentModel) -> None:
    record = Recorder()
    gradient = torch.empty_like(model.params.flat)
    step = GraphStep(AnalyticStep(model, NegativeElbo(), gradient), record)
    batch = next(iter(batches().epoch(0)))

    def halves(losses: Tensor, weight: Tensor | None) -> Tensor:
        return torch.full_like(losses, 0.5)

    first = step(batch, 1.0, loop.own_weight).clone()
    for beta in (0.2, 0.4, 0.6):  # a warm-up moves a number: that is no new recording
        step(batch, beta, loop.own_weight)
    assert record.n_recorded == 2
    half = step(batch, 1.0, halves)
    assert record.n_recorded == 3
    torch.testing.assert_close(half, 0.5 * first)


def test_batch_is_copied_to_where_the_recorded_step_reads(model: LatentModel) -> None:
    step = GraphStep(
        AnalyticStep(model, NegativeElbo(), torch.empty_like(model.params.flat)),
        Recorder(),
    )
    batch = next(iter(batches(holes=True, weights=True).epoch(0)))
    loss = step(batch, 1.0, loop.own_weight).clone()
    batch.x.fill_(torch.nan)  # the first batch's memory is its owner's again
    other = next(iter(batches(holes=True, weights=True).epoch(0)))
    assert torch.equal(step(other, 1.0, loop.own_weight), loss)


def test_blocks_with_and_without_holes_are_recorded_apart(model: LatentModel) -> None:
    record = Recorder()
    gradients = [torch.full_like(model.params.flat, torch.nan) for _ in range(2)]
    own, other = (AnalyticStep(model, NegativeElbo(), each) for each in gradients)
    recorded = GraphStep(other, record)
    # Rows made block by block have marks of holes where their block has holes.
    whole, holed = (
        next(iter(batches(holes=holes).epoch(0))) for holes in (False, True)
    )
    for batch in (whole, holed, whole, holed):
        expected = own(batch, 1.0, loop.own_weight)
        assert torch.equal(recorded(batch, 1.0, loop.own_weight), expected)
        assert torch.equal(*gradients)
    assert record.n_recorded == 2


class NoCapture(TorchDispatchMode):
    """Refuses what CUDA refuses while it records: numbers to or from the host."""

    REFUSED = ("lift", "scalar_tensor", "_local_scalar_dense", "nonzero", "_to_copy")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        # Of a number beside tensors, `where` makes a tensor on the host.
        assert not any(f"aten.{each}" in name for each in self.REFUSED), name
        assert "aten.where.Scalar" not in name, name
        if name.startswith(("aten.index.", "aten.index_put")):  # not by marks
            places = [each for each in args[1] if each is not None]
            assert all(each.dtype != torch.bool for each in places), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", steps.MODELS)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("free_bits", [0.0, 0.1])
def test_a_step_can_be_recorded_from_its_second_call_on(
    name: str, holes: bool, free_bits: float
) -> None:
    own = steps.random_model(name)
    step = AnalyticStep(own, NegativeElbo(free_bits), torch.empty_like(own.params.flat))
    batch = steps.batch(holes=holes, model=own)
    trimmed = partial(loop.trimmed_weight, trim=0.2)
    for weigh, beta in product((loop.own_weight, trimmed), BETAS.values()):
        step(batch, beta, weigh)
        with NoCapture():
            step(batch, beta, weigh)


def test_fit_with_recorded_steps_is_the_same_fit(
    model: LatentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(choose: Any) -> tuple[Tensor, str]:
        own = model.with_params(model.params.with_flat(model.params.flat.clone()))
        with monkeypatch.context() as patch:
            patch.setattr(loop, "choose_step", choose)
            history = loop.train(
                own,
                NegativeElbo(),
                batches(weights=True),
                Adam(own.params.flat),
                loop.Plan(
                    4,
                    3e-3,
                    loop.SCHEDULES["cosine"],
                    kl_warmup=0.5,
                    trim=0.1,
                    max_grad_norm=10.0,
                ),
            )
        return own.params.flat, history.gradient

    def recorded(*args: Any, **kwargs: Any) -> GraphStep:
        kwargs.pop("n_draws"), kwargs.pop("dropout")
        return GraphStep(AnalyticStep(*args, **kwargs), Recorder())

    expected, name = fit(loop.choose_step)
    assert name == "analytic"
    found, name = fit(recorded)
    assert name == "analytic, as a CUDA graph"
    assert torch.equal(found, expected)


def test_only_a_gpu_records(model: LatentModel) -> None:
    class OnGPU:
        """Stands in for a gradient on a GPU: a graph is recorded at the first step."""

        device = torch.device("cuda")

        def __init__(self, gradient: Tensor) -> None:
            self.gradient = gradient

        def zero_(self) -> Tensor:
            return self.gradient.zero_()

    gradient = torch.empty_like(model.params.flat)
    step = loop.choose_step(model, NegativeElbo(), gradient, n_draws=1)
    assert type(step) is AnalyticStep
    on_gpu: Any = OnGPU(gradient)
    step = loop.choose_step(model, NegativeElbo(), on_gpu, n_draws=1)
    assert type(step) is GraphStep
    # Its draws are the generators' own: they would be the same at every replay.
    step = loop.choose_step(model, NegativeElbo(), on_gpu, n_draws=1, dropout=0.5)
    assert type(step) is AutogradStep
