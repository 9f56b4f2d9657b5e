"""Models before their first step: linear, random or mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from skvae._backend import as_array
from skvae.model.closed_form import linear_start, noise_floor
from skvae.model.incomplete import column_means
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import TableLikelihood
from skvae.model.linear import LinearGaussian
from skvae.model.rows import change_rows
from skvae.training.coded import CodedTable
from skvae.training.settings import Settings

_LEAST_CLOSED_VARIANCE = 1e-16
# Least squared scale of codes in an order, and least dispersion of counts.
_LEAST_SPREAD = 1e-4


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
            values,
            lambda x: as_array(own.features(torch.as_tensor(x)))[:, kept],
            int(kept.sum()),
        )
        units = as_array(own.spread(torch.as_tensor(units)))[kept]
        features_floor = features_floor[kept]
    shared = settings.noise == "shared"
    trained = (
        settings.noise == "network" and settings.hidden and not settings.keep_start
    )
    return linear_start(
        values,
        table.weight,
        settings.n_components,
        floor=features_floor,
        units=units if shared else None,
        shared=shared or not settings.variational,
        trim=settings.plan.trim,
        copies=not trained,
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
