"""From a coded table to a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from skvae._backend import as_array, generator
from skvae.model.closed_form import (
    finish_autoencoder,
    linear_start,
    noise_floor,
)
from skvae.model.latent import LatentModel
from skvae.model.rows import Rows
from skvae.training.batches import Batches
from skvae.training.history import History
from skvae.training.loop import SCHEDULES, Plan, train
from skvae.training.objectives import make_objective
from skvae.training.optimiser import Adam

_LEAST_CLOSED_VARIANCE = 1e-16

# Of the members with mixed starts.
_LINEAR_SHARE = 0.5

# Held-out rows beyond these tell nothing more about when to stop.
_MAX_HELD_OUT = 4096


@dataclass(frozen=True)
class Settings:
    """Every choice that shapes a fit, resolved.

    Attributes
    ----------
    n_components, n_members : int
    hidden : tuple of int
    activation : str
    noise : {"shared", "column", "network"}
    start : {"linear", "random", "mixed"}
    least_noise : float
        Least noise of a column, a share of its scale.
    variational : bool
    n_importance_samples : int
    free_bits, alpha, l1_ratio : float
    batch_size : int
    held_out : float
        Share of the rows that is held out for early stopping; 0 for none.
    keep_start : bool
        Whether the linear start is kept as it is.
    plan : Plan
    device : torch.device
    """

    n_components: int
    n_members: int
    hidden: tuple[int, ...]
    activation: str
    noise: str
    start: str
    least_noise: float
    variational: bool
    n_importance_samples: int
    free_bits: float
    alpha: float
    l1_ratio: float
    batch_size: int
    held_out: float
    keep_start: bool
    plan: Plan
    device: torch.device

    @property
    def n_linear(self) -> int:
        """How many of the members, the first ones, start linear."""
        share = {"linear": 1.0, "random": 0.0, "mixed": _LINEAR_SHARE}[self.start]
        return math.ceil(share * self.n_members)


@dataclass(frozen=True)
class CodedTable:
    """A table as the model sees it.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns)
    weight : ndarray of shape (n_rows,) or None
    kinds : tuple of str of length n_columns
    units : ndarray of shape (n_columns,)
        Size of one coded unit in the user's units, up to a common factor.
    resolution : ndarray of shape (n_columns,)
        Smallest step of each column, coded units.
    """

    values: np.ndarray
    weight: np.ndarray | None
    kinds: tuple[str, ...]
    units: np.ndarray
    resolution: np.ndarray

    def take(self, rows: np.ndarray) -> CodedTable:
        """Some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return CodedTable(
            self.values[rows], weight, self.kinds, self.units, self.resolution
        )


@dataclass(frozen=True)
class Fit:
    """A trained model (float64, on the CPU) and how it got there.

    Attributes
    ----------
    model : LatentModel
    history : History
    held_out : ndarray of int
        Rows that training did not see. The linear start is that of all rows, so that
        what they must gain by training is more than what any other start could show.
    """

    model: LatentModel
    history: History
    held_out: np.ndarray


def fit_model(
    table: CodedTable,
    settings: Settings,
    seed: int,
    *,
    validation: np.ndarray | None = None,
    model: LatentModel | None = None,
    on_epoch: Callable[[LatentModel, History], bool] = lambda model, history: False,
) -> Fit:
    """Fit a model to a coded table.

    Parameters
    ----------
    table : CodedTable
    settings : Settings
    seed : int
    validation : ndarray of shape (n, n_columns) or None
        Coded rows for early stopping; None holds some of the table's out.
    model : LatentModel or None
        Go on from here instead of a fresh start.
    on_epoch : callable
        True stops.
    """
    train_rows, held_out = _split(len(table.values), settings, seed, validation)
    used, weight = table, None
    if len(held_out):
        used, kept = table.take(train_rows), table.take(held_out)
    seeds = [seed + member for member in range(settings.n_members)]
    if model is None:
        if validation is not None:
            settings = replace(settings, keep_start=False)
        if is_closed_form(table.kinds, settings):
            return _closed_form_fit(table, settings, seeds, on_epoch)
        model = start_model(table, settings, seeds)
    if len(held_out):
        validation, weight = kept.values, kept.weight
    history = train_model(
        model := model.to(torch.float32, settings.device),
        used,
        settings,
        seeds,
        validation=validation,
        validation_weight=weight,
        on_epoch=on_epoch,
    )
    model = model.to(torch.float64, torch.device("cpu"))
    if not settings.variational:
        finish_autoencoder(model, table.values, table.weight, table.units)
    return Fit(model, history, held_out)


def partial_fit_model(
    table: CodedTable,
    settings: Settings,
    seed: int,
    *,
    n_epochs: int,
    model: LatentModel | None,
    moments: tuple[np.ndarray, np.ndarray, int] | None,
) -> tuple[LatentModel, History, tuple[np.ndarray, np.ndarray, int]]:
    """Make one pass over some rows at a constant learning rate.

    Parameters
    ----------
    table, settings, seed
        As in `fit_model`.
    n_epochs : int
        Passes made before, on which the random draws are keyed.
    model : LatentModel or None
        Where to go on from; None starts.
    moments : tuple or None
        The optimiser's, from the pass before.

    Returns
    -------
    model : LatentModel
    history : History
    moments : tuple
    """
    seeds = [seed + member for member in range(settings.n_members)]
    if model is None:
        model = start_model(table, settings, seeds)
    model = model.to(torch.float32, settings.device)
    optimiser = make_optimiser(model, settings)
    if moments is not None:
        optimiser.set_moments(moments)
    one_pass = replace(
        settings.plan,
        n_epochs=1,
        schedule=SCHEDULES["constant"],
        kl_warmup=settings.plan.kl_warmup if n_epochs == 0 else 0.0,
        trim_from=settings.plan.trim_from if n_epochs == 0 else 0.0,
    )
    history = train_model(
        model,
        table,
        replace(settings, plan=one_pass),
        seeds,
        optimiser=optimiser,
        first_epoch=n_epochs + 1,
    )
    model = model.to(torch.float64, torch.device("cpu"))
    if not settings.variational:
        finish_autoencoder(model, table.values, table.weight, table.units)
    return model, history, optimiser.moments()


def train_model(
    model: LatentModel,
    table: CodedTable,
    settings: Settings,
    seeds: list[int],
    *,
    validation: np.ndarray | None = None,
    validation_weight: np.ndarray | None = None,
    optimiser: Adam | None = None,
    first_epoch: int = 1,
    on_epoch: Callable[[LatentModel, History], bool] = lambda model, history: False,
) -> History:
    """Train a model of the settings' device and precision in place."""
    if not settings.variational:
        # A plain auto-encoder minimises the squared error in coded units: unit noise.
        floor = as_array(model.likelihood.floor)
        model.set_noise(1.0 + floor[np.array(model.likelihood.scaled)])
    dtype, device = model.params.flat.dtype, model.device
    batches = Batches(
        Rows.from_coded(table.values, dtype, device, table.weight),
        batch_size=settings.batch_size,
        n_draws=settings.n_importance_samples if settings.variational else 0,
        n_components=settings.n_components,
        seeds=seeds,
    )
    held_out = None
    if validation is not None:
        held_out = Rows.from_coded(validation, dtype, device, validation_weight)
    return train(
        model,
        make_objective(
            variational=settings.variational,
            n_importance_samples=settings.n_importance_samples,
            free_bits=settings.free_bits,
        ),
        batches,
        make_optimiser(model, settings) if optimiser is None else optimiser,
        settings.plan,
        held_out=held_out,
        frozen=() if settings.variational else ("log_scale",),
        on_epoch=lambda epoch, history: on_epoch(model, history),
        first_epoch=first_epoch,
    )


def make_optimiser(model: LatentModel, settings: Settings) -> Adam:
    """Adam with the penalties on the networks' weights.

    The linear paths, the biases and the noise are free: a penalty then draws the
    model towards its linear part, not away from it.
    """
    decay = sparsity = None
    if settings.alpha:
        on_weights = model.params.mask(lambda name: ".weight" in name or "head" in name)
        decay = settings.alpha * (1.0 - settings.l1_ratio) * on_weights
        sparsity = settings.alpha * settings.l1_ratio * on_weights
    rates = None
    if settings.n_linear:
        rates = model.natural_rates()
        rates[settings.n_linear :] = 1.0
    return Adam(
        model.params.flat,
        decay=decay if settings.l1_ratio < 1.0 else None,
        sparsity=sparsity if settings.l1_ratio > 0.0 else None,
        rates=rates,
    )


def is_closed_form(kinds: tuple[str, ...], settings: Settings) -> bool:
    """Whether the linear start is kept: by choice or as the objective's maximum."""
    plan = settings.plan
    at_maximum = (
        not settings.hidden
        and settings.noise != "network"
        and set(kinds) == {"gaussian"}
        and plan.beta == 1.0
        and plan.trim == 0.0
        and settings.free_bits == 0.0
    )
    return settings.start == "linear" and (settings.keep_start or at_maximum)


def start_model(table: CodedTable, settings: Settings, seeds: list[int]) -> LatentModel:
    """An untrained model on the CPU, float64: linear, random or mixed start."""
    if 0 < settings.n_linear < len(seeds):
        return _mixed_start(table, settings, seeds)
    linear, resolution = None, table.resolution
    if settings.noise == "shared":
        # One noise for all columns has one floor: that of the finest column.
        resolution = (resolution * table.units).min() / table.units
    if settings.hidden:
        floor = noise_floor(table.values, resolution, robust=settings.plan.trim > 0.0)
        floor = np.maximum(floor, settings.least_noise**2)
    else:
        # The closed form is fitted in float64, whose rounding is the only limit.
        floor = np.full(len(resolution), _LEAST_CLOSED_VARIANCE)
    if settings.n_linear:
        linear = linear_start(
            table.values,
            table.weight,
            settings.n_components,
            floor=floor,
            units=table.units if settings.noise == "shared" else None,
            shared=settings.noise == "shared" or not settings.variational,
            trim=settings.plan.trim,
        )
    if settings.noise == "network":
        # A scale that depends on z must not collapse onto ties.
        typical = 0.09 if linear is None else linear.noise_variance
        floor = np.maximum(floor, 0.01 * typical)
    scaled = np.array([kind != "bernoulli" for kind in table.kinds], dtype=bool)
    offset = np.zeros(int(scaled.sum()))
    if settings.noise == "shared":
        offset = -np.log(table.units[scaled])
    model = LatentModel.build(
        kinds=table.kinds,
        variance_floor=floor,
        n_components=settings.n_components,
        hidden=settings.hidden,
        activation=settings.activation,
        n_free_scales={"shared": 1, "column": len(offset), "network": None}[
            settings.noise
        ],
        scale_offset=offset,
        n_members=settings.n_members,
    )
    model.start_random(seeds, network_only=linear is not None)
    if linear is not None:
        model.start_linear(linear, project=not settings.variational)
    return model


def _mixed_start(
    table: CodedTable, settings: Settings, seeds: list[int]
) -> LatentModel:
    """The members of a linear start, then those of a random one."""
    split = settings.n_linear
    parts = [
        start_model(table, replace(settings, start=start, n_members=len(own)), own)
        for start, own in (("linear", seeds[:split]), ("random", seeds[split:]))
    ]
    flat = torch.cat([part.params.flat for part in parts])
    return parts[0].with_params(parts[0].params.with_flat(flat))


def _closed_form_fit(
    table: CodedTable,
    settings: Settings,
    seeds: list[int],
    on_epoch: Callable[[LatentModel, History], bool],
) -> Fit:
    model = start_model(table, settings, seeds)
    if not settings.variational:
        finish_autoencoder(model, table.values, table.weight, table.units)
    history = History(n_epochs=1)
    on_epoch(model, history)
    return Fit(model, history, np.empty(0, dtype=int))


def _split(
    n_rows: int, settings: Settings, seed: int, validation: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to hold out, both ascending."""
    n_held_out = 0
    if validation is None and settings.held_out:
        n_held_out = min(max(1, round(settings.held_out * n_rows)), _MAX_HELD_OUT)
    order = torch.randperm(n_rows, generator=generator(seed, 0, 0, 2)).numpy()
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
