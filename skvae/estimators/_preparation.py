"""What every fit begins with: the table checked, its schema learned, its rows coded."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight

from skvae._backend import fresh_seed, sample_positions
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
        raw, weight, apart = _present(raw, sample_weight, self._apart(y))
        outliers, outlier_weight = None, None
        if apart is not None and apart.any():
            _check_rest(apart, least)
            outliers, raw = raw.take(apart), raw.take(~apart)
            if weight is not None:
                outlier_weight, weight = weight[apart], weight[~apart]
        table, table_weight, kept = raw, weight, self._kept_back(len(raw))
        if kept.any():
            kept = without_lone_cells(raw, kept)
        seed = fresh_seed(self.random_state)
        schema = self._schema if go_on else self._schema_of(raw, weight, kept, outliers)
        if go_on:  # a schema knows all levels of the rows that it was learned from
            for rows in (raw, *([] if outliers is None else [outliers])):
                check_levels(schema, rows, self.handle_unknown)
        used = self._used(~kept, seed, whole=whole)
        if len(used) < len(raw):
            raw, weight = raw.take(used), None if weight is None else weight[used]
        values = encode_for_fit(schema, raw)
        completion = self._completion if go_on else None
        if self._completes and not go_on:
            completion = learn_completion(schema, values, weight)
        coded, known = coded_table(schema, values, weight, completion), None
        if outliers is not None:
            cells = encode(schema, outliers)
            known = coded_table(schema, cells, outlier_weight, completion)
        settings = resolve_settings(
            self._settled,
            kinds=schema.kinds,
            n_rows=len(raw),
            defaults=self._defaults,
        )
        if go_on:
            self._check_same_architecture(settings)
        return Training(
            table,
            table_weight,
            kept,
            raw,
            schema,
            container,
            coded,
            settings,
            seed,
            completion,
            known,
            go_on,
        )

    def _used(self, free: np.ndarray, seed: int, *, whole: bool) -> np.ndarray:
        """Positions of the rows to fit to, of those that are ``free``, ascending.

        No more than training comes to see, unless ``whole``.
        """
        positions = np.flatnonzero(free)
        if whole:
            return positions
        n_wanted = most_rows(self._settled, len(positions), self._defaults)
        return positions[sample_positions(len(positions), n_wanted, seed)]

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
            weight = ~kept * (1.0 if weight is None else weight)
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


def _present(
    raw: RawTable, sample_weight: Any, apart: np.ndarray | None
) -> tuple[RawTable, np.ndarray | None, np.ndarray | None]:
    """The rows that have a weight, their weights, and which of them stand apart."""
    if apart is not None:
        check_consistent_length(raw.numbers, apart)
    if sample_weight is None:
        return raw, None, apart
    weight = _check_sample_weight(
        sample_weight, raw.numbers, dtype=np.float64, ensure_non_negative=True
    )
    present = weight > 0
    if present.sum() < 2:
        raise ValueError(
            f"At least two rows need a positive weight, but sample_weight is "
            f"zero for all rows except {present.sum()}. Give more rows weight."
        )
    if present.all():
        return raw, weight, apart
    apart = None if apart is None else apart[present]
    return raw.take(present), weight[present], apart


def _check_rest(apart: np.ndarray, least: int) -> None:
    """There is a table without the known outliers."""
    n_rest = int((~apart).sum())
    if n_rest < least:
        raise ValueError(
            f"The model learns from the rows that y does not label -1, of which at "
            f"least {least} need a positive weight, but there are {n_rest}, beside "
            f"{apart.sum()} known outliers. Label fewer rows -1, or add normal ones."
        )
