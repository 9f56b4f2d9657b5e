"""A table on its way through a fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skvae._backend import sample_positions
from skvae.model.completion import Completion
from skvae.table.containers import Container
from skvae.table.moments import checked_weight, weighted_quantiles
from skvae.table.raw import RawTable
from skvae.table.schema import Schema
from skvae.training.coded import CodedTable
from skvae.training.settings import Settings

# Rows on which the averages of a fitted model are taken.
_SUMMARY_ROWS = 1000


@dataclass(frozen=True)
class Training:
    """A table on its way through a fit.

    Attributes
    ----------
    table : RawTable
        All rows.
    weight : ndarray of shape (n_rows,) or None
        Their weights.
    kept : ndarray of bool of shape (n_rows,)
        Those that nothing is fitted to.
    used : ndarray of int
        Positions of those that the model is fitted to.
    coded : CodedTable
        These rows.
    outliers : CodedTable or None
        Known ones, in no other table: they only tell what sets them apart.
    go_on : bool
        Whether the fit goes on from an earlier one.
    """

    table: RawTable
    weight: np.ndarray | None
    kept: np.ndarray
    used: np.ndarray
    schema: Schema
    container: Container
    coded: CodedTable
    settings: Settings
    seed: int
    completion: Completion | None = None
    outliers: CodedTable | None = None
    go_on: bool = False

    @cached_property
    def part(self) -> np.ndarray:
        """Positions, among these, of the rows on which averages are taken."""
        return sample_positions(len(self.used), _SUMMARY_ROWS, self.seed)

    @cached_property
    def raw_part(self) -> RawTable:
        """These rows as they came."""
        return self.table.take(self.used[self.part])

    @cached_property
    def weight_of_part(self) -> np.ndarray | None:
        """Their weights."""
        weight = self.coded.weight
        return None if weight is None else weight[self.part]

    @cached_property
    def jacobian(self) -> float:
        """Mean of what turns a row's coded density into one in the user's units."""
        rows = self.log_jacobian_of_part.sum(axis=1)
        return float(np.average(rows, weights=self.weight_of_part))

    @cached_property
    def log_jacobian_of_part(self) -> np.ndarray:
        """What turns the densities of these rows' cells into ones in user's units."""
        return self.schema.log_jacobian(self.raw_part)

    def average_of_part(self, parts: np.ndarray) -> np.ndarray:
        """Weighted mean over these rows (n_rows, n_active), of what they observed.

        Of rows as they come, a missing cell counts as its own zero; of completed ones
        it does not count.
        """
        if self.completion is None:
            return np.average(parts, axis=0, weights=self.weight_of_part)
        return np.average(parts, axis=0, weights=self._weight_of_cells)

    def median_of_part(self, parts: np.ndarray) -> np.ndarray:
        """The same for the weighted median."""
        seen = np.where(self._weight_of_cells > 0.0, parts, np.nan)
        weight = checked_weight(self.weight_of_part, len(parts))
        return weighted_quantiles(seen, weight, (0.5,))[0]

    @cached_property
    def _weight_of_cells(self) -> np.ndarray:
        seen = ~self.raw_part.missing()[:, self.schema.active]
        weight = seen * 1.0
        if self.weight_of_part is not None:
            weight *= self.weight_of_part[:, None]
        # A column that these rows know nothing of has what was put in its holes.
        weight[:, ~(weight > 0.0).any(axis=0)] = 1.0
        return weight
