"""What a fit tells of itself: averages over training rows, in the user's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skvae.inference.scoring import read
from skvae.model.closed_form import dependent_columns
from skvae.model.completion import Completion
from skvae.model.latent import LatentModel
from skvae.model.likelihoods import TableLikelihood
from skvae.model.rows import Coded, OnDemand, change_rows
from skvae.model.terms import Terms
from skvae.table.raw import RawTable
from skvae.table.schema import Schema
from skvae.training.coded import CodedTable

_GRID = 2.0**26


@dataclass(frozen=True)
class Summary:
    """Averages over training rows: one number a component, or a scaled column."""

    kl: np.ndarray
    spread: np.ndarray
    noise: np.ndarray


def summarise(
    model: LatentModel, coded: np.ndarray, weight: np.ndarray | None
) -> Summary:
    """Weighted averages over some coded rows."""

    def reading(terms: Terms) -> tuple[torch.Tensor, ...]:
        variance = terms.of_draws(model.likelihood.variance(terms.params))
        return terms.kl.mean(0), terms.mean[0], variance.mean(0)

    share = np.full(len(coded), 1.0) if weight is None else weight
    share = share / share.sum()

    kl, mean, noise = read(model, coded, None, reading)
    return Summary(share @ kl, share @ np.square(mean - share @ mean), share @ noise)


def coded_table(
    schema: Schema,
    values: Coded,
    weight: np.ndarray | None,
    completion: Completion | None,
) -> CodedTable:
    """The coded rows, completed, with what a fit has to know of their columns.

    Their cells are put on a grid, far finer than training's float32: a table in other
    units, coded with other rounding errors, is then the same numbers, and training,
    which enlarges small differences, ends in the same place.
    """
    if completion is not None:
        values = _completed(values, completion)
    values = change_rows(values, _on_grid)
    scale = schema.scale
    resolution = [schema.columns[j].resolution for j in schema.active]
    return CodedTable(
        values,
        weight,
        schema.kinds,
        scale / np.exp(np.log(scale).mean()),
        np.array(resolution) / scale,
        levels=schema.levels,
        centre=schema.centre.copy(),  # the schema's own are read-only
        scale=scale.copy(),
    )


def _completed(values: Coded, completion: Completion) -> Coded:
    """Rows with their holes filled; of a large table once, as that takes long."""
    values = change_rows(values, completion)
    if not isinstance(values, OnDemand) or values.whole:
        return values
    raw = values.stored
    sparse = isinstance(raw, RawTable) and raw.is_sparse
    return values if sparse else OnDemand.of(values.made())


def _on_grid(values: np.ndarray) -> np.ndarray:
    """The nearest values on the grid."""
    values = values * _GRID
    np.rint(values, out=values)
    values /= _GRID
    return values


def learn_completion(
    schema: Schema, values: Coded, weight: np.ndarray | None
) -> Completion:
    """What to put into holes of coded rows like these."""
    floor = torch.zeros(len(schema.kinds), dtype=torch.float64)
    likelihood = TableLikelihood(schema.kinds, floor, schema.levels)
    return Completion.of(values, likelihood, weight)


def noise_variance(
    schema: Schema, noise: str, continuous: Sequence[bool], coded: np.ndarray
) -> Any:
    """Noise variance in the user's units: a number if shared, else one a column.

    Parameters
    ----------
    schema : Schema
    noise : str
    continuous : sequence of bool of length n_active
        Which of the coded columns have such a variance.
    coded : ndarray of shape (n_continuous,)
    """
    constant = [column.kind == "constant" for column in schema.columns]
    variance = np.where(constant, 0.0, np.nan)
    chosen = np.array(continuous, dtype=bool)
    positions = schema.active[chosen]
    variance[positions] = coded * schema.scale[chosen] ** 2
    if noise == "shared" and len(positions):
        return float(variance[positions].max())
    return variance


def at_floor(schema: Schema, model: LatentModel, table: CodedTable) -> list[str]:
    """Names of columns that are copies or sums of others, their noise at its floor."""
    likelihood = model.likelihood
    continuous = np.array(likelihood.continuous, dtype=bool)
    if not continuous.any():
        return []
    # Of the member in which it is least: what follows exactly in one, does.
    noise = model.start_noise().amin((0, 1)).numpy()
    positions = schema.active[continuous]
    reached = noise <= 1.1 * likelihood.floor.numpy()[continuous]
    if not reached.any():
        return []
    # Codes of categories follow from nothing in a line.
    values = change_rows(
        table.values, lambda x: x[:, continuous], int(continuous.sum())
    )
    low = np.intersect1d(positions[reached], positions[dependent_columns(values)])
    return [schema.label(j, quoted=False) for j in low]
