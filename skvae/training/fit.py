"""From a coded table to a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skvae._backend import as_array, generator
from skvae.model.closed_form import (
    column_means,
    finish_autoencoder,
    linear_start,
    noise_floor,
)
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import TableLikelihood
from skvae.model.linear import LinearGaussian
from skvae.model.rows import Coded, OnDemand, change_rows, take_rows
from skvae.training.batches import Batches, count_rows, draw_rows
from skvae.training.history import History
from skvae.training.loop import SCHEDULES, Plan, train
from skvae.training.objectives import Objective, make_objective
from skvae.training.optimiser import Adam

_LEAST_CLOSED_VARIANCE = 1e-16
# Least squared scale of codes in an order, and least dispersion of counts.
_LEAST_SPREAD = 1e-4

# Random draws are keyed on the epoch's number; those of epoch 0 are the start's.
FIRST_EPOCH = 1

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
    max_samples : int, float or None
        How many of the rows, or which share, each member learns from; None: all.
    bootstrap : bool
        Whether these are drawn with replacement.
    """

    n_components: int
    n_members: int
    hidden: tuple[int, ...]
    activation: str
    noise: str
    start: str
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
    least_noise: float = 0.0
    max_samples: int | float | None = None
    bootstrap: bool = False

    @property
    def objective(self) -> Objective:
        """What training minimises."""
        return make_objective(
            variational=self.variational,
            n_importance_samples=self.n_importance_samples,
            free_bits=self.free_bits,
        )

    @property
    def n_draws(self) -> int:
        """Posterior draws of each row in training."""
        return self.n_importance_samples if self.variational else 0

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the tensors that training leaves as they are."""
        return () if self.variational else ("log_scale",)

    def draw_rows(self, n_rows: int, seeds: list[int], epoch: int) -> Tensor | None:
        """Positions of the rows of each member, (n_members, n_drawn); None: all."""
        n_drawn = count_rows(self.max_samples, n_rows)
        if n_drawn == n_rows and not self.bootstrap:
            return None
        return draw_rows(n_rows, n_drawn, seeds, epoch, bootstrap=self.bootstrap)

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
    values : ndarray of shape (n_rows, n_columns) or OnDemand
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,) or None
    kinds : tuple of str of length n_columns
    units : ndarray of shape (n_columns,)
        Size of one coded unit in the user's units, up to a common factor.
    resolution : ndarray of shape (n_columns,)
        Smallest step of each column, coded units.
    levels : tuple of tuple of float
        Shares of the codes of each column that has levels.
    centre, scale : ndarray of shape (n_columns,) or None
        Of the codes of an ordinal column, of log1p of a count.
    """

    values: Coded
    weight: np.ndarray | None
    kinds: tuple[str, ...]
    units: np.ndarray
    resolution: np.ndarray
    levels: tuple[tuple[float, ...], ...] = ()
    centre: np.ndarray | None = None
    scale: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> CodedTable:
        """Some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return replace(self, values=take_rows(self.values, rows), weight=weight)

    def without(self, rows: np.ndarray) -> CodedTable:
        """All rows but some."""
        return self.take(np.delete(np.arange(len(self.values)), rows))

    @property
    def array(self) -> np.ndarray:
        """All values, shape (n_rows, n_columns)."""
        return self.values[:]

    @property
    def holed(self) -> np.ndarray:
        """Whether a cell of a column is missing, bool (n_columns,)."""
        if isinstance(self.values, OnDemand):
            return np.zeros(len(self.kinds), dtype=bool)
        return np.asarray(np.isnan(self.values).any(axis=0))


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
    train_rows, held_out = split_rows(len(table.values), settings, seed, validation)
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
        validation, weight = kept.array, kept.weight
    history = train_model(
        model := model.to(torch.float32, settings.device),
        used,
        settings,
        seeds,
        validation=validation,
        validation_weight=weight,
        on_epoch=on_epoch,
    )
    return Fit(finished(model, table, settings), history, held_out)


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
        first_epoch=FIRST_EPOCH + n_epochs,
    )
    return finished(model, table, settings), history, optimiser.moments()


def train_model(
    model: LatentModel,
    table: CodedTable,
    settings: Settings,
    seeds: list[int],
    *,
    validation: np.ndarray | None = None,
    validation_weight: np.ndarray | None = None,
    optimiser: Adam | None = None,
    first_epoch: int = FIRST_EPOCH,
    on_epoch: Callable[[LatentModel, History], bool] = lambda model, history: False,
) -> History:
    """Train a model of the settings' device and precision in place."""
    if not settings.variational:
        set_unit_noise(model)
    batches = Batches(
        model.rows_for_batches(table.values, table.weight),
        batch_size=settings.batch_size,
        n_draws=settings.n_draws,
        n_components=settings.n_components,
        seeds=seeds,
        chosen=settings.draw_rows(len(table.values), seeds, first_epoch),
    )
    held_out = None
    if validation is not None:
        held_out = model.rows(validation, validation_weight)
    return train(
        model,
        settings.objective,
        batches,
        make_optimiser(model, settings) if optimiser is None else optimiser,
        settings.plan,
        held_out=held_out,
        frozen=settings.frozen,
        on_epoch=lambda epoch, history: on_epoch(model, history),
        first_epoch=first_epoch,
    )


def finished(model: LatentModel, table: CodedTable, settings: Settings) -> LatentModel:
    """The trained model as it answers: float64, on the CPU, with a density."""
    model = model.to(torch.float64, torch.device("cpu"))
    if not settings.variational:
        finish_autoencoder(model, table.values, table.weight, table.units)
    return model


def set_unit_noise(model: LatentModel) -> None:
    """What a plain auto-encoder minimises: the squared error in coded units."""
    floor = as_array(model.likelihood.floor)
    model.set_noise(1.0 + floor[np.array(model.likelihood.scaled)])


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
    return settings.start == "linear" and (settings.keep_start or bool(at_maximum))


def start_model(table: CodedTable, settings: Settings, seeds: list[int]) -> LatentModel:
    """An untrained model on the CPU, float64: linear, random or mixed start."""
    if 0 < settings.n_linear < len(seeds):
        return _mixed_start(table, settings, seeds)
    own = _likelihood(table, np.zeros(len(table.kinds)))
    continuous = np.array(own.continuous, dtype=bool)
    linear, floor = None, _least_noise(table, settings, own)
    holes = table.holed
    if settings.n_linear or holes.any():
        linear = _linear_start(table, settings, own, floor)
    if settings.noise == "network":
        # A scale that depends on z must not collapse onto ties.
        typical = np.full(len(floor), 0.09)
        if linear is not None and settings.start == "linear":
            typical = np.ones(own.n_locations)
            typical[~as_array(own.reference)] = linear.noise_variance
            typical = as_array(own.collapse(torch.as_tensor(typical)))
        floor = np.where(continuous, np.maximum(floor, 0.01 * typical), floor)
    scaled = np.array(own.scaled, dtype=bool)
    offset = np.zeros(own.n_scales)
    if settings.noise == "shared":
        offset = np.where(continuous, -np.log(table.units), 0.0)[scaled]
    tied = np.array(own.tied, dtype=bool)
    trials = column_means(table.values)[0][tied].sum() if tied.any() else 0.0
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
        levels=table.levels,
        centre=table.centre,
        scale=table.scale,
        trials=float(trials),
        flagged=tuple(np.flatnonzero(holes).tolist()),
    )
    model.start_random(seeds, network_only=settings.start == "linear")
    if linear is not None and settings.start == "linear":
        model.start_linear(linear, project=not settings.variational)
    if holes.any():
        model.filler = linear
    return model


def _likelihood(table: CodedTable, floor: np.ndarray) -> TableLikelihood:
    """What is known of the columns before there is a model."""
    centre, scale = (
        None if part is None else torch.as_tensor(part, dtype=torch.float64)
        for part in (table.centre, table.scale)
    )
    return TableLikelihood(
        table.kinds, torch.as_tensor(floor), table.levels, centre, scale
    )


def _least_noise(
    table: CodedTable, settings: Settings, own: TableLikelihood
) -> np.ndarray:
    """Least squared scale of each column, coded units."""
    resolution = table.resolution
    if settings.noise == "shared":
        # One noise for all columns has one floor: that of the finest column.
        resolution = (resolution * table.units).min() / table.units
    if settings.hidden:
        floor = noise_floor(table.values, resolution, robust=settings.plan.trim > 0.0)
        floor = np.maximum(floor, settings.least_noise**2)
    else:
        # The closed form is fitted in float64, whose rounding is the only limit.
        floor = np.full(len(resolution), _LEAST_CLOSED_VARIANCE)
    return np.where(own.plain, floor, _LEAST_SPREAD)


def _linear_start(
    table: CodedTable, settings: Settings, own: TableLikelihood, floor: np.ndarray
) -> LinearGaussian:
    """The linear-Gaussian model of the features."""
    values, units = table.values, table.units
    features_floor = as_array(own.feature_floor(torch.as_tensor(floor)))
    if not all(own.plain):
        kept = ~as_array(own.reference)
        values = change_rows(
            values, lambda x: as_array(own.features(torch.as_tensor(x)))[:, kept]
        )
        units = as_array(own.spread(torch.as_tensor(units)))[kept]
        features_floor = features_floor[kept]
    shared = settings.noise == "shared"
    return linear_start(
        values,
        table.weight,
        settings.n_components,
        floor=features_floor,
        units=units if shared else None,
        shared=shared or not settings.variational,
        trim=settings.plan.trim,
    )


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
    model = finished(start_model(table, settings, seeds), table, settings)
    history = History(n_epochs=1)
    on_epoch(model, history)
    return Fit(model, history, np.empty(0, dtype=int))


def split_rows(
    n_rows: int, settings: Settings, seed: int, validation: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to hold out, both ascending."""
    n_kept = 0 if validation is not None else n_held_out(n_rows, settings.held_out)
    order = torch.randperm(n_rows, generator=generator(seed, 0, 0, 2)).numpy()
    return np.sort(order[n_kept:]), np.sort(order[:n_kept])


def n_held_out(n_rows: int, share: float) -> int:
    """How many rows are held out where that share of them is asked for."""
    return min(max(1, round(share * n_rows)), _MAX_HELD_OUT) if share else 0
