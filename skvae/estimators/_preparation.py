"""What every fit begins with: the table checked, its schema learned, its rows coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight

from skvae._backend import fresh_seed, places_dtype, sample_positions
from skvae.estimators._fitted import encode, encode_for_fit
from skvae.estimators._parameters import Defaults, most_rows, resolve_settings
from skvae.estimators._questions import Questions
from skvae.estimators._summary import coded_table, learn_completion
from skvae.estimators._tables import check_levels, read_table, without_lone_cells
from skvae.estimators._training import Training
from skvae.table.containers import Container
from skvae.table.raw import RawTable
from skvae.table.schema import Schema
from skvae.training.settings import Settings

# What a fit that goes on from an earlier one can't change.
ARCHITECTURE = (
    "n_components",
    "n_members",
    "hidden",
    "activation",
    "noise",
    "variational",
)


class Preparation(Questions, BaseEstimator):
    """From a table and the parameters to a `Training`."""

    likelihood: str | dict[Any, str]
    categorical_features: Any
    min_frequency: int | float | None
    max_categories: int | None
    random_state: Any
    _architecture: dict[str, Any]

    @property
    def _defaults(self) -> Defaults:
        """What "auto" is for this estimator."""
        raise NotImplementedError

    @property
    def _settled(self) -> dict[str, Any]:
        """The parameters without those "auto" that no table is needed for."""
        return self._defaults.settle(self.get_params(deep=False))

    def _prepare(
        self,
        X: Any,
        sample_weight: Any,
        *,
        go_on: bool,
        whole: bool = False,
        y: Any = None,
    ) -> Training:
        """Check the table, learn the schema, code the rows, settle the parameters.

        With ``whole`` all rows are to be learned from, however many. Of rows
        that ``y`` sets apart it is learned that their levels exist, no more.
        """
        least = 1 if go_on else 2
        raw = read_table(self, X, reset=not go_on, min_rows=least)
        container = self._container if go_on else Container.of(X)
        normal, outliers = _parted(raw, sample_weight, self._apart(y), least)
        kept = self._kept_back(len(normal.cells))
        if kept.any():
            kept = without_lone_cells(normal.cells, kept)
        seed = fresh_seed(self.random_state)
        schema = self._known_schema(normal, kept, outliers, go_on=go_on)
        used = self._used(~kept, seed, len(schema.kinds), whole=whole)
        values = encode_for_fit(schema, normal.cells, used)
        weight = None if normal.weight is None else normal.weight[used]
        completion = self._completion if go_on else None
        if self._completes and not go_on:
            completion = learn_completion(schema, values, weight)
        coded, known = coded_table(schema, values, weight, completion), None
        if outliers is not None:
            cells = encode(schema, outliers.cells)
            known = coded_table(schema, cells, outliers.weight, completion)
        return Training(
            normal.cells,
            normal.weight,
            kept,
            used,
            schema,
            container,
            coded,
            self._resolved(schema, len(used), go_on=go_on),
            seed,
            completion,
            known,
            go_on,
        )

    def _resolved(self, schema: Schema, n_rows: int, *, go_on: bool) -> Settings:
        """The settings of a fit to so many rows."""
        settings = resolve_settings(
            self._settled,
            kinds=schema.kinds,
            n_rows=n_rows,
            defaults=self._defaults,
        )
        if go_on:
            self._check_same_architecture(settings)
        return settings

    def _used(
        self, free: np.ndarray, seed: int, n_columns: int, *, whole: bool
    ) -> np.ndarray:
        """Positions of the rows to fit to, of those that are ``free``, ascending.

        No more than training comes to see, unless ``whole``.
        """
        n_free = n_wanted = int(free.sum())
        if not whole:
            n_wanted = most_rows(self._settled, n_free, n_columns, self._defaults)
        chosen = sample_positions(n_free, n_wanted, seed)
        if n_free == len(free):
            return chosen
        return np.arange(len(free), dtype=places_dtype(len(free)))[free][chosen]

    @property
    def _completes(self) -> bool:
        """Whether rows are completed before the model sees them."""
        return False

    def _kept_back(self, n_rows: int) -> np.ndarray:
        """Which rows nothing is fitted to, bool (n_rows,)."""
        return np.zeros(n_rows, dtype=bool)

    def _apart(self, y: Any) -> np.ndarray | None:
        """Which rows are known outliers, bool (n_rows,); None where none is."""
        return None

    def _check_same_architecture(self, settings: Settings) -> None:
        """Going on from an earlier fit keeps the shape of the model."""
        for name, earlier in self._architecture.items():
            wanted = getattr(settings, name)
            if wanted != earlier:
                raise ValueError(
                    f"To go on from an earlier fit {name} must stay at {earlier!r}, "
                    f"got {wanted!r}. Set it back, or fit afresh with warm_start=False."
                )

    def _known_schema(
        self,
        normal: _Rows,
        kept: np.ndarray,
        outliers: _Rows | None,
        *,
        go_on: bool,
    ) -> Schema:
        """Learned from the rows that are not kept back, and knows the levels of all.

        That of an earlier fit that goes on stays as it is.
        """
        apart = None if outliers is None else outliers.cells
        if not go_on:
            return self._schema_of(normal.cells, normal.weight, kept, apart)
        # A schema knows all levels of the rows that it was learned from.
        for rows in (normal.cells, *([] if apart is None else [apart])):
            check_levels(self._schema, rows, self.handle_unknown)
        return self._schema

    def _schema_of(
        self,
        raw: RawTable,
        weight: np.ndarray | None,
        kept: np.ndarray,
        outliers: RawTable | None,
    ) -> Schema:
        """Learned from the rows that are not kept back; knows the levels of all."""
        names = getattr(self, "feature_names_in_", None)
        if kept.any():  # a row of no weight is none
            weight = ~kept if weight is None else ~kept * weight
        schema = self._learn_schema(raw, names, weight)
        if kept.any():
            schema = schema.knowing(raw.take(kept))
        if outliers is not None:
            schema = schema.knowing(outliers, bounds=False)
        return schema

    def _learn_schema(
        self, raw: RawTable, names: Any, weight: np.ndarray | None
    ) -> Schema:
        schema = Schema.learn(
            raw,
            names=names,
            likelihood=self.likelihood,
            categorical_features=self.categorical_features,
            min_frequency=self.min_frequency,
            max_categories=self.max_categories,
            continuous=self._defaults.continuous,
            sample_weight=weight,
            scaling=self._defaults.scaling,
        )
        if not len(schema.active):
            raise ValueError(
                f"At least one column must vary by more than the rounding of "
                f"{raw.dtype}, but all {len(schema.columns)} are constant. Check X; of "
                f"numbers far from 0, subtract the mean in float64."
            )
        return schema


@dataclass(frozen=True)
class _Rows:
    """Some rows of the user's table and their weights."""

    cells: RawTable
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> _Rows:
        """Some of them."""
        if rows.all():
            return self
        weight = None if self.weight is None else self.weight[rows]
        return _Rows(self.cells.take(rows), weight)


def _parted(
    raw: RawTable, sample_weight: Any, apart: np.ndarray | None, least: int
) -> tuple[_Rows, _Rows | None]:
    """Of the rows that have a weight the normal ones, and those known as outliers."""
    if apart is not None:
        check_consistent_length(raw.numbers, apart)
    rows = _Rows(raw, None)
    if sample_weight is not None:
        rows, present = _present(raw, sample_weight)
        apart = None if apart is None else apart[present]
    if apart is None or not apart.any():
        return rows, None
    _check_rest(apart, least)
    return rows.take(~apart), rows.take(apart)


def _present(raw: RawTable, sample_weight: Any) -> tuple[_Rows, np.ndarray]:
    """The rows that have a weight, and which these are."""
    weight = _check_sample_weight(
        sample_weight, raw.numbers, dtype=np.float64, ensure_non_negative=True
    )
    present = weight > 0
    if present.sum() < 2:
        raise ValueError(
            f"At least two rows need a positive weight, but sample_weight is "
            f"zero for all rows except {present.sum()}. Give more rows weight."
        )
    return _Rows(raw, weight).take(present), present


def _check_rest(apart: np.ndarray, least: int) -> None:
    """There is a table without the known outliers."""
    n_rest = int((~apart).sum())
    if n_rest < least:
        raise ValueError(
            f"The model learns from the rows that y does not label -1, of which at "
            f"least {least} need a positive weight, but there are {n_rest}, beside "
            f"{apart.sum()} known outliers. Label fewer rows -1, or add normal ones."
        )
