"""What every fit ends with: the attributes that a trained model makes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvae.estimators._preparation import ARCHITECTURE, Preparation
from skvae.estimators._summary import at_floor, noise_variance, summarise
from skvae.estimators._tables import users_level
from skvae.estimators._training import Training
from skvae.inference.aggregate import aggregate_posterior
from skvae.inference.explanation import contributions
from skvae.inference.scoring import Score, draw_bank
from skvae.model.latent import LatentModel
from skvae.model.rows import Coded
from skvae.training.coded import CodedTable
from skvae.training.history import History

# Burda et al. (2016) call a component active above this variance of its mean.
_ACTIVE_VARIANCE = 0.01


class Outcome(Preparation):
    """From a `Training` and the model that came of it to a fitted estimator."""

    beta: float
    variational: bool
    n_score_samples: int
    n_active_components_: int

    def _fitted(
        self,
        training: Training,
        model: LatentModel,
        history: History,
        held_out: np.ndarray,
    ) -> dict[str, Any]:
        """All attributes of an estimator with this model."""
        schema, settings = training.schema, training.settings
        jacobian, part = training.jacobian, training.part
        learned = training.coded.without(held_out)
        answering = self._answering(training, model, learned.values)
        coded = training.coded.values[part]
        summary = summarise(model, coded, training.weight_of_part)
        score = self._learn_score(model, learned, training)
        completion = training.completion if score.completes else None
        coded_parts = contributions(model, coded, answering["_bank"], score, completion)
        parts = coded_parts
        if score.has_units:
            parts = parts + training.log_jacobian_of_part
        contribution = np.zeros(len(schema.columns))
        contribution[schema.active] = training.average_of_part(parts)
        medians = np.zeros((2, len(schema.active)))
        if score.completes:
            medians[0] = training.median_of_part(parts) - contribution[schema.active]
            medians[1] = training.median_of_part(coded_parts)
        validation = np.asarray(history.validation) + jacobian
        return {
            **answering,
            **self._state_of(score),
            "_architecture": {name: getattr(settings, name) for name in ARCHITECTURE},
            "_mean_contributions": contribution,
            "_medians": medians,
            "base_score_": float(contribution.sum()),
            "n_iter_": history.n_epochs,
            "loss_curve_": [loss - jacobian for loss in history.loss],
            "validation_scores_": validation.tolist(),
            "best_validation_score_": (
                None if history.best is None else history.best + jacobian
            ),
            "likelihood_": tuple(column.kind for column in schema.columns),
            "categories_": [
                np.array([*column.levels, *column.unlearned], dtype=object)
                if column.levels
                else None
                for column in schema.columns
            ],
            "noise_variance_": noise_variance(
                schema, settings.noise, model.likelihood.continuous, summary.noise
            ),
            "kl_per_component_": summary.kl,
            "n_active_components_": int((summary.spread > _ACTIVE_VARIANCE).sum()),
        }

    def _answering(
        self, training: Training, model: LatentModel, learned: Coded
    ) -> dict[str, Any]:
        """The attributes that answer questions; the others tell of the fit.

        ``learned`` are the coded rows that were trained on.
        """
        settings = training.settings
        if self._settled["prior"] == "aggregate":
            model.prior = aggregate_posterior(model, learned, training.seed)
        return {
            "_schema": training.schema,
            "_container": training.container,
            "_model": model,
            "_completion": training.completion,
            "_bank": draw_bank(
                self.n_score_samples, settings.n_components, training.seed
            ),
            "n_components_": settings.n_components,
            "device_": str(settings.device),
        }

    def _learn_score(
        self, model: LatentModel, learned: CodedTable, training: Training
    ) -> Score:
        """What `score_samples` is to give, learned from the rows trained on."""
        return self._score

    def _state_of(self, score: Score) -> dict[str, Any]:
        """The attributes that hold what was learned for the score."""
        return {}

    def _warn(self, training: Training) -> None:
        """Say what a user may want to act on."""
        if self.variational and self.n_active_components_ == 0:
            warnings.warn(
                f"No component of the code carries information: the posterior "
                f"collapsed onto the prior (beta={self.beta}). Lower beta, set "
                f"free_bits, or look whether the columns are related at all.",
                ConvergenceWarning,
                stacklevel=users_level(),
            )
        low = at_floor(training.schema, self._model, training.coded)
        if low:
            warnings.warn(
                f"The noise of these columns is at its floor: {', '.join(low)}. They "
                f"follow exactly from other columns, and their density is as large as "
                f"that floor allows. Drop copies and sums of columns.",
                ConvergenceWarning,
                stacklevel=users_level(),
            )
