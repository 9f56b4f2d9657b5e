"""What every fit begins with: the table checked, its schema learned, its rows coded."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight

from skvae._backend import fresh_seed
from skvae.estimators._fitted import encode_for_fit
from skvae.estimators._parameters import Defaults, resolve_settings
from skvae.estimators._questions import Questions
from skvae.estimators._summary import coded_table, learn_completion
from skvae.estimators._tables import check_levels, read_table, without_lone_cells
from skvae.estimators._training import Training
from skvae.model.rows import change_rows
from skvae.table.containers import Container
from skvae.table.raw import RawTable
from skvae.table.schema import Schema
from skvae.training.fit import Settings

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

    def _prepare(self, X: Any, sample_weight: Any, *, go_on: bool) -> Training:
        """Check the table, learn the schema, code the rows, settle the parameters."""
        raw = read_table(self, X, reset=not go_on, min_rows=1 if go_on else 2)
        container = self._container if go_on else Container.of(X)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, raw.numbers, dtype=np.float64, ensure_non_negative=True
            )
            present = weight > 0
            if present.sum() < 2:
                raise ValueError(
                    f"At least two rows need a positive weight, but sample_weight is "
                    f"zero for all rows except {present.sum()}. Give more rows weight."
                )
            if not present.all():
                raw, weight = raw.take(present), weight[present]
        kept, kept_weight, apart = None, None, self._kept_back(len(raw))
        if apart.any():
            apart = without_lone_cells(raw, apart)
            kept, raw = raw.take(apart), raw.take(~apart)
            if weight is not None:
                kept_weight, weight = weight[apart], weight[~apart]
        names = getattr(self, "feature_names_in_", None)
        schema = self._schema if go_on else self._learn_schema(raw, names, weight)
        if kept is not None and not go_on:
            schema = schema.knowing(kept)
        check_levels(schema, raw, self.handle_unknown)
        values = encode_for_fit(schema, raw)
        completion = self._completion if go_on else None
        if self._completes and not go_on:
            completion = learn_completion(schema, values, weight)
        if completion is not None:
            values = change_rows(values, completion)
        settings = resolve_settings(
            self._settled,
            kinds=schema.kinds,
            n_rows=len(raw),
            defaults=self._defaults,
        )
        if go_on:
            self._check_same_architecture(settings)
        coded = coded_table(schema, values, weight)
        seed = fresh_seed(self.random_state)
        return Training(
            raw,
            schema,
            container,
            coded,
            settings,
            seed,
            kept,
            kept_weight,
            completion,
        )

    @property
    def _completes(self) -> bool:
        """Whether rows are completed before the model sees them."""
        return False

    def _kept_back(self, n_rows: int) -> np.ndarray:
        """Which rows nothing is fitted to, bool (n_rows,)."""
        return np.zeros(n_rows, dtype=bool)

    def _check_same_architecture(self, settings: Settings) -> None:
        """Going on from an earlier fit keeps the shape of the model."""
        for name, earlier in self._architecture.items():
            wanted = getattr(settings, name)
            if wanted != earlier:
                raise ValueError(
                    f"To go on from an earlier fit {name} must stay at {earlier!r}, "
                    f"got {wanted!r}. Set it back, or fit afresh with warm_start=False."
                )

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
                f"At least one column must vary, but all {len(schema.columns)} are "
                f"constant. Check X."
            )
        return schema
