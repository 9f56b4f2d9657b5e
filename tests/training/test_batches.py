"""Minibatches: every row once, and draws that depend on their key alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from skvae import _backend
from skvae.model.rows import Rows, RowsOnHost
from skvae.training.batches import Batch, Batches

K, DRAWS = 2, 3


def rows(n: int, *, holes: bool = False, weighted: bool = False) -> Rows:
    """Rows that tell their number: (i, -i), observed where i is even, weight i."""
    number = torch.arange(n, dtype=torch.float64)
    x = torch.stack([number, -number], 1)
    observed = (x % 2 == 0).double() if holes else None
    return Rows(x, observed, number if weighted else None)


def batches(table: Rows, **kwargs: Any) -> Batches:
    given = {
        "batch_size": 4,
        "n_draws": DRAWS,
        "n_components": K,
        "seeds": [7],
        **kwargs,
    }
    return Batches(table, **given)


def order(batch_list: list[Batch]) -> np.ndarray:
    """Numbers of the rows as they come, (members, rows)."""
    return torch.cat([batch.x[..., 0] for batch in batch_list], 1).numpy().astype(int)


def noise(batch_list: list[Batch]) -> np.ndarray:
    """The draws as they come, (members, draws, rows, components)."""
    units = [batch.unit for batch in batch_list if batch.unit is not None]
    return torch.cat(units, 2).numpy()


# Tables that end within a batch, with a batch, within a second block of batches.
sizes = pytest.mark.parametrize(
    ("n", "batch_size"), [(13, 4), (12, 4), (3, 8), (1, 1), (205, 3), (129, 4)]
)


@sizes
def test_every_row_comes_once_an_epoch(n: int, batch_size: int) -> None:
    source = batches(rows(n), batch_size=batch_size, seeds=[7, 8])
    for epoch in range(3):
        found = list(source.epoch(epoch))
        assert len(found) == source.steps_per_epoch
        assert all(1 <= b.x.shape[1] <= min(batch_size, n) for b in found)
        for member in order(found):
            assert sorted(member) == list(range(n))


@sizes
def test_what_belongs_to_a_row_comes_with_it(n: int, batch_size: int) -> None:
    table = rows(n, holes=True, weighted=True)
    for batch in batches(table, batch_size=batch_size, seeds=[7, 8]).epoch(0):
        number = batch.x[..., 0]
        assert batch.observed is not None
        assert batch.weight is not None
        assert torch.equal(batch.x[..., 1], -number)
        assert torch.equal(batch.weight, number)
        assert torch.equal(batch.observed, (batch.x % 2 == 0).double())
        assert batch.unit is not None
        assert batch.unit.shape == (2, DRAWS, number.shape[1], K)


def test_chosen_rows_go_where_places_are_wanted() -> None:
    table = rows(9)
    for place in ("cpu", "meta"):
        held = RowsOnHost(table, torch.device("cpu"))
        held.places_device = torch.device(place)
        found = Batches(
            held,
            batch_size=4,
            n_draws=1,
            n_components=K,
            seeds=[7],
            chosen=torch.tensor([[1, 5, 7]]),
        )
        assert found.chosen is not None
        assert found.chosen.device.type == place


def test_what_a_table_lacks_its_batches_lack() -> None:
    for batch in batches(rows(9), n_draws=0).epoch(0):
        assert batch.observed is batch.weight is batch.unit is None


def test_orders_are_new_in_each_epoch_and_for_each_member() -> None:
    source = batches(rows(100), seeds=[7, 8])
    orders = [own for epoch in range(3) for own in order(list(source.epoch(epoch)))]
    assert len({tuple(own) for own in orders}) == 6


def test_orders_favour_no_place() -> None:
    source = batches(rows(6), batch_size=6, n_draws=0)
    orders = np.stack([order(list(source.epoch(epoch)))[0] for epoch in range(1200)])
    for number in range(6):
        places = np.bincount(np.argmax(orders == number, axis=1), minlength=6)
        assert stats.chisquare(places).pvalue > 1e-3


def test_epoch_is_the_same_whenever_it_is_asked_for() -> None:
    first, second = batches(rows(150)), batches(rows(150))
    for epoch in (0, 1, 2):
        list(first.epoch(epoch))
    for epoch in (2, 0):
        one, other = list(first.epoch(epoch)), list(second.epoch(epoch))
        np.testing.assert_array_equal(order(one), order(other))
        np.testing.assert_array_equal(noise(one), noise(other))


def test_global_generator_is_neither_read_nor_moved() -> None:
    answers = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            found = list(batches(rows(20)).epoch(0))
            answers.append((order(found), noise(found)))
            assert torch.equal(
                torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state()
            )
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_member_draws_what_it_would_draw_alone() -> None:
    together = list(batches(rows(150), seeds=[7, 8]).epoch(1))
    for member, seed in enumerate((7, 8)):
        alone = list(batches(rows(150), seeds=[seed]).epoch(1))
        np.testing.assert_array_equal(order(together)[member], order(alone)[0])
        np.testing.assert_array_equal(noise(together)[member], noise(alone)[0])


def test_noise_of_a_block_depends_on_its_number_alone() -> None:
    # Batches of one row make blocks of 32: a longer table adds blocks, changes none.
    short = noise(list(batches(rows(64), batch_size=1).epoch(0)))
    long = noise(list(batches(rows(96), batch_size=1).epoch(0)))
    np.testing.assert_array_equal(short, long[:, :, :64])


def test_noise_is_standard_normal_and_never_repeats() -> None:
    source = batches(rows(300), batch_size=4, seeds=[7, 8])
    draws = np.stack([noise(list(source.epoch(epoch))) for epoch in range(2)])
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(draws)) == draws.size
    flat = draws.reshape(4, -1)  # epoch and member
    off_diagonal = np.corrcoef(flat) - np.eye(4)
    assert np.abs(off_diagonal).max() < 4.0 / np.sqrt(flat.shape[1])


def test_noise_has_the_precision_of_the_rows() -> None:
    table = Rows(torch.zeros(5, 2, dtype=torch.float32))
    units = [batch.unit for batch in batches(table).epoch(0)]
    assert all(unit is not None and unit.dtype == torch.float32 for unit in units)


def test_rows_of_a_coded_table() -> None:
    coded = np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, 4.0]])
    cpu = torch.device("cpu")
    weight = np.array([1.0, 2.0, 6.0])
    table = Rows.from_coded(coded, torch.float64, cpu, weight)
    assert table.x.tolist() == [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]
    assert table.inputs is table.x
    assert table.observed is not None
    assert table.observed.tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert table.weight is not None
    np.testing.assert_allclose(table.weight.numpy(), weight / 3.0)
    assert len(table) == 3
    assert np.isnan(coded).sum() == 2  # the caller's array is as it was
    complete = Rows.from_coded(coded[2:], torch.float64, cpu)
    assert complete.observed is None
    complete.x.zero_()
    assert coded[2, 0] == 3.0


def test_what_the_encoder_sees_goes_with_its_row() -> None:
    number = torch.arange(10.0)[:, None]
    table = Rows(number, seen=torch.cat([10.0 * number, -number], 1))
    for batch in batches(table).epoch(0):
        assert torch.equal(batch.inputs[..., :1], 10.0 * batch.x)
        assert torch.equal(batch.inputs[..., 1:], -batch.x)
    plain = next(batches(Rows(number)).epoch(0))
    assert plain.inputs is plain.x


# -- tables that are too large for a device --------------------------------------------


def test_rows_on_the_host_give_the_batches_of_rows_on_the_device() -> None:
    table = rows(205, holes=True, weighted=True)
    far = RowsOnHost(table, torch.device("cpu"))
    pairs = [batches(t, batch_size=3, seeds=[7, 8]).epoch(1) for t in (table, far)]
    for here, there in zip(*pairs, strict=True):
        for name in ("x", "observed", "weight", "unit"):
            assert torch.equal(getattr(here, name), getattr(there, name))


def test_only_the_rows_that_are_asked_for_go_to_the_device() -> None:
    table = rows(50, holes=True, weighted=True)
    far = RowsOnHost(table, torch.device("meta"))
    assert (len(far), far.n_inputs, far.device.type) == (50, 2, "meta")
    block = far.at(torch.tensor([[3, 1, 4]]))
    for part, shape in [(block.x, (1, 3, 2)), (block.weight, (1, 3))]:
        assert part is not None
        assert part.device.type == "meta"
        assert part.shape == shape
    assert block.seen is None
    assert table.x.device.type == "cpu"


def test_a_table_takes_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert _backend.fits(50, cuda)
    assert not _backend.fits(51, cuda)
    assert _backend.fits(10**15, cpu)
