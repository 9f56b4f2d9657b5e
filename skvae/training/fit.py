"""From a coded table to a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from skvae._backend import as_array
from skvae.model.closed_form import finish_autoencoder
from skvae.model.latent import LatentModel
from skvae.training.batches import Batches
from skvae.training.coded import CodedTable
from skvae.training.history import History
from skvae.training.loop import train
from skvae.training.optimiser import Adam
from skvae.training.settings import Settings, split_rows
from skvae.training.start import is_closed_form, start_model

# Random draws are keyed on the epoch's number; those of epoch 0 are the start's.
FIRST_EPOCH = 1


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
    seeds = [seed + member for member in range(settings.n_members)]
    if model is None:
        if validation is not None:
            settings = replace(settings, keep_start=False)
        if is_closed_form(table.kinds, settings):
            return _closed_form_fit(table, settings, seeds, on_epoch)
        model = start_model(table, settings, seeds)
    used, weight = table, None
    if len(held_out):
        used, kept = table.take(train_rows), table.take(held_out)
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
    """Make one pass over some rows at the learning rate of the middle of a fit.

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
    middle = settings.plan.schedule(0.5)
    one_pass = replace(
        settings.plan,
        n_epochs=1,
        schedule=lambda done: middle,
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
        model.rows_for_batches(
            table.values,
            table.weight,
            once=settings.plan.n_epochs * settings.n_members == 1,
        ),
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
