"""What every question to a fitted model begins and ends with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skvae._backend import in_dtype, resolve_device, scoring_dtype
from skvae.estimators._tables import check_levels, in_blocks, read_table
from skvae.inference.explanation import contributions
from skvae.inference.scoring import SCORES, Score, score_rows
from skvae.model.completion import Completion
from skvae.model.latent import LatentModel
from skvae.model.rows import Coded, OnDemand, is_small
from skvae.table.containers import Container
from skvae.table.raw import RawTable
from skvae.table.schema import Schema

# Scales from the centre beyond which all cells are equally far: the square of their
# force on the fit is still finite in float32.
_FAR = 1e10


def encode(schema: Schema, raw: RawTable) -> np.ndarray:
    """Coded cells; those of extreme size are drawn in to where numbers behave."""
    coded: Any = schema.encode(raw)
    library: Any = torch if isinstance(coded, Tensor) else np
    return library.clip(coded, -_FAR, _FAR, out=coded)


def encode_for_fit(schema: Schema, raw: RawTable, places: np.ndarray) -> Coded:
    """Coded cells of the rows at these places, ascending.

    Of a sparse table, and of a large one of numbers, they are made when they are asked
    for. Levels take long to look up: a large table with such is coded once.
    """
    shape = len(places), len(schema.active)
    chosen = None if len(places) == len(raw) else places
    coded = OnDemand(raw, shape[1], partial(encode, schema), chosen)
    if raw.is_sparse or not (is_small(shape) or any(schema.levels)):
        whole = not raw.holed(axis=0).any()
        return replace(coded, whole=whole)
    made = coded.made()
    return made if is_small(shape) else OnDemand.of(made)


class Fitted:
    """A fitted model between the user's table and the coded rows."""

    _schema: Schema
    _container: Container
    _model: LatentModel
    _bank: np.ndarray
    _mean_contributions: np.ndarray
    base_score_: float
    _completion: Completion | None = None
    # Of observed cells, median contribution and that of coded cells, (2, n_active).
    _medians: np.ndarray
    handle_unknown: str
    device_: str
    n_components_: int

    @property
    def _score(self) -> Score:
        """The score that `score_samples` gives."""
        return SCORES["log_likelihood"]

    def _check(self, X: Any) -> RawTable:
        """The cells of a table; its unknown levels are told of here, once a call."""
        check_is_fitted(self)
        raw = read_table(self, X, reset=False)
        check_levels(self._schema, raw, self.handle_unknown)
        return raw

    def _encode(self, raw: RawTable) -> np.ndarray:
        return encode(self._schema, raw)

    def _model_for(self, dtype: Any) -> LatentModel:
        """The model on its device, in the precision of the question."""
        model, device = self._model, resolve_device(self.device_, 0)
        precision = scoring_dtype(dtype, device)
        if model.device == device and model.params.flat.dtype == precision:
            return model
        return model.to(precision, device)

    def _scores(self, raw: RawTable, score: Score) -> np.ndarray:
        model = self._model_for(raw.dtype)

        def as_they_are(part: RawTable, coded: Any) -> Any:
            rows = score_rows(model, coded, self._bank, score)
            if score.has_units:
                rows = rows + self._schema.log_jacobian(part).sum(1)
            return rows + self._schema.unseen_log_mass(part).sum(1)

        def answer(part: RawTable, coded: Any) -> tuple[Any]:
            holed = (coded != coded).any(1) & score.completes
            if not holed.any():
                return (as_they_are(part, coded),)
            rows = np.empty(len(coded))
            parts = self._parts(model, part.take(holed), coded[holed])
            rows[holed] = parts.sum(axis=1) + self.base_score_
            if not holed.all():
                rows[~holed] = as_they_are(part.take(~holed), coded[~holed])
            return (rows,)

        (rows,) = in_blocks(raw, self._encode, answer)
        return in_dtype(rows, raw.dtype)

    def _parts(
        self, model: LatentModel, raw: RawTable, coded: np.ndarray
    ) -> np.ndarray:
        """What each column adds to the score of an average training row.

        Where its cell is missing and the score completes rows: what fills it, but not
        more than the column's median cell. Rows with more and with fewer holes then
        compare: a fill lies where cells are likeliest, and the mean is the work of few
        odd ones.
        """
        score, schema = self._score, self._schema
        mean = self._mean_contributions[schema.active]
        every = schema.unseen_log_mass(raw)
        completion = self._completion if score.completes else None
        coded_parts = contributions(model, coded, self._bank, score, completion)
        parts = coded_parts
        if score.has_units:
            parts = parts + schema.log_jacobian(raw)
        parts = parts - mean
        if score.completes:
            holes = self._medians[0] + np.minimum(coded_parts - self._medians[1], 0.0)
            mass = every[:, schema.active]
            # A level of the table that training had not is less likely than a hole.
            holes = np.where(mass < 0.0, np.minimum(holes - mass, -mean), holes)
            parts = np.where(np.isnan(coded), holes, parts)
        every[:, schema.active] += parts
        constant = np.setdiff1d(np.arange(every.shape[1]), schema.active)
        every[:, constant] -= self._mean_contributions[constant]
        return every

    def _completed(
        self,
        X: Any,
        raw: RawTable,
        coded: np.ndarray,
        source: np.random.Generator | None = None,
    ) -> Any:
        """The user's table with its holes filled.

        ``coded`` are all its rows; of a sparse table those with holes.
        """
        values = self._schema.decode(coded, source=source)
        if raw.is_sparse:
            return self._container.fill(raw, values)
        return self._container.complete(X, values, raw.missing())
