"""The fits of a search, one for each candidate and fold, from rows to scores."""

from __future__ import annotations

import time
import traceback
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params

from skvae.estimators._arrays import to_host
from skvae.estimators._base import BaseVAE
from skvae.estimators._training import Training
from skvae.model.latent import LatentModel
from skvae.training.loop import NonFiniteLossError
from skvae.training.stack import Job, fit_together
from skvae.training.start import start_model

# Shares of the passes after which halving drops the worse half of the candidates.
_RUNGS = (0.0625, 0.125, 0.25, 0.5)

# Cells of a sparse table's folds, dense, that a stack may hold at once.
_MOST_CELLS = 2**28

# Positions of the rows that a fold trains on, and of those that it tests on.
Split: TypeAlias = tuple[np.ndarray, np.ndarray]
# Number of free parameters, then minus alpha and minus beta.
Simplicity: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Data:
    """What a search was given to fit."""

    X: Any
    y: Any
    fit_params: dict[str, Any]

    @property
    def on_host(self) -> Data:
        """The same in arrays of NumPy."""
        params = {name: to_host(value) for name, value in self.fit_params.items()}
        return Data(to_host(self.X), to_host(self.y), params)


@dataclass
class Try:
    """One candidate on one fold.

    Attributes
    ----------
    estimator : BaseVAE or Pipeline
    train, test : ndarray of int
    params : dict
        What the candidate sets; its values are the search's own objects.
    before : Pipeline or None
        The fitted steps before the last.
    training : Training or None
        The fold on its way through the fit; None where that failed.
    model : LatentModel or None
    error : str or None
        Traceback of what failed.
    fit_time : float
    held_out : ndarray of int or None
        The rows of the fold that early stopping held out.
    """

    estimator: Any
    train: np.ndarray
    test: np.ndarray
    params: dict[str, Any]
    before: Any = None
    training: Training | None = None
    model: LatentModel | None = None
    error: str | None = None
    fit_time: float = 0.0
    held_out: np.ndarray | None = None

    @property
    def last(self) -> BaseVAE:
        """The estimator of this package."""
        return last_step(self.estimator)

    @property
    def key_before(self) -> Hashable:
        """Equal for tries whose steps before the last are equal."""
        own = f"{self.estimator.steps[-1][0]}__"
        others = {k: id(v) for k, v in self.params.items() if not k.startswith(own)}
        return id(self.train), frozenset(others.items())

    @property
    def simplicity(self) -> Simplicity:
        """What tells simple candidates from others; least for the simplest."""
        if self.training is None:
            return (np.inf, 0.0, 0.0)
        settings = self.training.settings
        sized = replace(settings, start="random", n_members=1)
        size = start_model(self.training.coded, sized, [0]).params.flat.shape[1]
        beta = self.last.beta
        return (float(size * settings.n_members), -settings.alpha, -beta)

    def result(
        self, data: Data, error_score: Any, *, train_too: bool
    ) -> dict[str, Any]:
        """What scikit-learn's searches keep of one fit."""
        began, scores = time.time(), {"test_scores": error_score}
        if train_too:
            scores["train_scores"] = error_score
        if self.error is not None and error_score == "raise":
            raise ValueError(f"A fit of the search failed:\n{self.error}")
        if self.error is None:
            scores["test_scores"] = self._score(data, self.test)
        score_time = time.time() - began
        if self.error is None and train_too:
            scores["train_scores"] = self._score(data, self.train)
        return {
            **scores,
            "fit_error": self.error,
            "n_test_samples": len(self.test),
            "fit_time": self.fit_time,
            "score_time": score_time,
        }

    def _score(self, data: Data, rows: np.ndarray) -> float:
        X = _safe_indexing(data.X, rows)
        if self.before is not None:
            X = self.before.transform(X)
        return self._fitted.score(X)

    @cached_property
    def _fitted(self) -> BaseVAE:
        """The last step as a fit alone would leave it, as far as scores need it."""
        assert self.training is not None
        assert self.model is not None
        assert self.held_out is not None
        learned = self.training.coded.without(self.held_out).values
        answering = self.last._answering(self.training, self.model, learned)
        return self.last._with(answering)


def last_step(estimator: Any) -> Any:
    """The estimator itself, or the last of a Pipeline."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def candidate_of(estimator: Any, params: dict[str, Any]) -> Any:
    """An unfitted copy with these parameters."""
    return clone(estimator).set_params(**clone(params, safe=False))


def unstackable(
    estimator: Any,
    candidates: Sequence[dict[str, Any]],
    fit_params: dict[str, Any],
    X: Any,
    n_splits: int,
) -> str | None:
    """The first thing that has no place in a stack of fits; None: all have.

    In a stack the rows of all folds are there at once, and dense: one fit alone takes
    those of a sparse table batch by batch.

    Raises
    ------
    TypeError
        Where a candidate is none of this package's estimators.
    """
    name = "sample_weight"
    if isinstance(estimator, Pipeline):
        name = f"{estimator.steps[-1][0]}__sample_weight"
    for given in fit_params:
        if given not in (name, "groups"):
            return f"fit's {given}"
    n_cells = n_splits * np.prod(X.shape, dtype=float) if issparse(X) else 0.0
    if n_cells > _MOST_CELLS:
        return f"a sparse table whose folds have {n_cells:.1e} cells"
    for params in candidates:
        last = last_step(candidate_of(estimator, params))
        if not isinstance(last, BaseVAE):
            raise TypeError(
                f"VAESearchCV searches the parameters of this package's estimators, "
                f"got {type(last).__name__}. Use scikit-learn's GridSearchCV for "
                f"others."
            )
        if last.max_time is not None:
            return "max_time"
        if getattr(last, "_skl_callbacks", None):
            return "a callback"
        if type(last).fit is not BaseVAE.fit:
            return f"{type(last).__name__}.fit"
    return None


def prepare(tries: Sequence[Try], data: Data) -> None:
    """Fit the steps before the last, learn the schemas, code the rows."""
    steps_before: dict[Hashable, tuple[Any, Any]] = {}
    for each in tries:
        began = time.time()
        try:
            X = _safe_indexing(data.X, each.train)
            y = None if data.y is None else _safe_indexing(data.y, each.train)
            if isinstance(each.estimator, Pipeline) and len(each.estimator.steps) > 1:
                before = each.estimator[:-1]
                key = each.key_before
                if key not in steps_before:
                    steps_before[key] = before, before.fit_transform(X, y)
                each.before, X = steps_before[key]
            params = _check_method_params(data.X, data.fit_params, each.train)
            weight = next(iter(params.values()), None)
            each.last._validate_params()
            each.training = each.last._prepare(X, weight, go_on=False, y=y)
        except Exception:
            # Told of below, as scikit-learn's searches do: others may still fit.
            each.error = traceback.format_exc()
        each.fit_time = time.time() - began


def train(tries: Sequence[Try], **halving: Any) -> None:
    """Train all fits that could be prepared."""
    ready = [each for each in tries if each.training is not None]
    trainings = [each.training for each in ready if each.training is not None]
    jobs = [Job(each.coded, each.settings, each.seed) for each in trainings]
    for each, outcome in zip(ready, fit_together(jobs, **halving), strict=True):
        each.model, each.held_out = outcome.model, outcome.held_out
        each.fit_time += outcome.seconds
        if outcome.model is None:
            each.error = (
                f"{NonFiniteLossError.__name__}: Training left the finite numbers. "
                f"Lower learning_rate_init or max_grad_norm, or look for cells of "
                f"extreme size in X."
            )


def train_with_halving(tries: Sequence[Try], n_splits: int) -> list[bool]:
    """Train with successive halving; whether each candidate was never stopped."""
    halving = _Halving(tries, n_splits)
    train(tries, rungs=_RUNGS, cut=halving.cut)
    return halving.survived


class _Halving:
    """Drops the worse half of the candidates, by the mean over their folds."""

    def __init__(self, tries: Sequence[Try], n_splits: int) -> None:
        trainings = [each.training for each in tries]
        ready = [i for i, training in enumerate(trainings) if training is not None]
        self._candidate = np.array([i // n_splits for i in ready], dtype=int)
        self._jacobian = np.array(
            [each.jacobian for each in trainings if each is not None]
        )
        self.survived = [True] * (len(tries) // n_splits)
        kinds = {each.settings.variational for each in trainings if each is not None}
        if len(kinds) > 1:
            raise ValueError(
                "halving compares candidates by their training objective, which "
                "variational=True and False do not share. Search them apart, or set "
                "halving=False."
            )

    def cut(self, standing: list[float | None]) -> list[bool]:
        """Which jobs go on."""
        # Fits in closed form are finished: there is nothing to stop, or to rank.
        training = np.array([s is not None for s in standing])
        values = np.array([0.0 if s is None else s for s in standing])
        values = np.nan_to_num(values + self._jacobian, nan=-np.inf, posinf=np.inf)
        ranks = np.unique(self._candidate[training])
        alive = [c for c in ranks if self.survived[c]]
        means = {c: values[training & (self._candidate == c)].mean() for c in alive}
        ranked = sorted(alive, key=lambda c: -means[c])
        for loser in ranked[(len(ranked) + 1) // 2 :]:
            self.survived[loser] = False
        return [self.survived[c] for c in self._candidate]
