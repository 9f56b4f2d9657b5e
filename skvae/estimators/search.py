"""Hyper-parameter search whose candidates and folds train side by side."""

from __future__ import annotations

import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    ParameterSampler,
    check_cv,
)
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures
from sklearn.utils import indexable
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_method_params

from skvae.estimators._tables import users_level
from skvae.estimators._tries import (
    Data,
    Simplicity,
    Split,
    Try,
    candidate_of,
    prepare,
    train,
    train_with_halving,
    unstackable,
)


class VAESearchCV(BaseSearchCV):
    """Search over parameters by cross-validation, all fits trained side by side.

    The interface, attributes and meaning of scikit-learn's GridSearchCV or, with
    `n_iter`, RandomizedSearchCV without `scoring`: candidates are compared by the
    estimator's own `score`, the held-out log-likelihood. Each member of the search is
    what a fit of that candidate to that fold would give alone, from the same random
    draws, up to the rounding of float32; but the members take their training steps
    together, which halves the time on small tables. `halving` takes far less.

    Fits that differ in `n_components`, `beta`, `learning_rate_init`, `alpha`,
    `l1_ratio`, `random_state` and rows share a stack. Any other parameter may be
    searched too: its values train in stacks of their own. What has no place in a stack
    (`max_time`, callbacks, `X_val`, a sparse table whose folds would be too large as
    dense ones) makes the search fit one by one, with a warning that names it.

    Parameters
    ----------
    estimator : VAETransformer, VAEAnomalyDetector, VAEImputer or Pipeline
        The Pipeline's last step is one of the three; its other steps are fitted to
        each fold.
    param_grid_or_distributions : dict or list of dict
        Parameter names to the values to try, all combinations of them; with `n_iter`,
        to values or distributions to draw from.
    n_iter : int, default=None
        Number of candidates drawn; None tries all.
    cv : int, cross-validation generator or iterable, default=None
        As in GridSearchCV; None takes five folds.
    refit : bool, "one_standard_error" or callable, default=True
        Whether to fit the best candidate to all rows. "one_standard_error" takes the
        simplest candidate whose mean score is within one standard error (of the mean
        over folds) of the best: the one with the fewest free parameters (which grow
        with `n_components` and the hidden layers), among those the one of largest
        `alpha`, then of largest `beta`, then of best score. A callable takes
        `cv_results_` and returns the index of its choice.
    error_score : "raise" or float, default=nan
        Score of a fit that fails.
    random_state : int, RandomState instance or None, default=None
        Of the draws of `n_iter` candidates.
    verbose : int, default=0
        Prints how many fits there are.
    return_train_score : bool, default=False
        Whether to score the training rows too.
    halving : bool, default=False
        Successive halving: after a sixteenth, an eighth, a quarter and half of the
        passes, the worse half of the candidates stops with what it has: worse by the
        mean over folds of the held-out objective at beta = 1, on the rows that early
        stopping holds out of each training fold. The best is chosen among those that
        were never stopped; `cv_results_["survived"]` tells them. The scores of the
        others are those of their unfinished training. A detector holds rows out only
        with `early_stopping=True`.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in GridSearchCV. Times are wall-clock seconds; a stack's are shared equally
        among its fits.
    best_estimator_ : estimator
        Fitted to all rows; only with `refit`.
    best_index_ : int
    best_score_ : float
        Its mean score over the folds; not where `refit` is a callable.
    best_params_ : dict
    n_splits_ : int
    refit_time_ : float
        Seconds; only with `refit`.
    scorer_ : callable
    multimetric_ : bool
        False.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    References
    ----------
    Breiman et al., "Classification and Regression Trees", 1984 (one standard error).
    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", AISTATS 2016 (successive halving).

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAESearchCV, VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6))
    >>> X += 0.1 * rng.normal(size=X.shape)
    >>> vae = VAETransformer(max_iter=3, random_state=0)
    >>> search = VAESearchCV(vae, {"n_components": [1, 2]}, cv=3).fit(X)
    >>> search.best_params_
    {'n_components': 2}
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit"])],
        "param_grid_or_distributions": [dict, list],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "cv": ["cv_object"],
        "refit": ["boolean", StrOptions({"one_standard_error"}), callable],
        "error_score": [StrOptions({"raise"}), Real],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "return_train_score": ["boolean"],
        "halving": ["boolean"],
    }

    # What scikit-learn's search asks of itself, and this one has no choice of.
    scoring = None
    n_jobs = None
    pre_dispatch = 1

    def __init__(
        self,
        estimator: Any,
        param_grid_or_distributions: Any,
        *,
        n_iter: int | None = None,
        cv: Any = None,
        refit: Any = True,
        error_score: Any = np.nan,
        random_state: Any = None,
        verbose: int = 0,
        return_train_score: bool = False,
        halving: bool = False,
    ) -> None:
        self.estimator = estimator
        self.param_grid_or_distributions = param_grid_or_distributions
        self.n_iter = n_iter
        self.cv = cv
        self.refit = refit
        self.error_score = error_score
        self.random_state = random_state
        self.verbose = verbose
        self.return_train_score = return_train_score
        self.halving = halving

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit all candidates to all folds and, with `refit`, the best to all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            For the splitter and the other steps of a Pipeline.
        **params : dict
            For the estimator's `fit`, such as `sample_weight` (in a Pipeline
            `<step>__sample_weight`), or `groups` for the splitter.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            Where the (last) estimator is none of this package's.
        ValueError
            For an unknown parameter name, where there is no candidate or no fold, or
            where all fits of all candidates fail.
        """
        candidates = self._draw()
        X, y = indexable(X, y)
        params = _check_method_params(X, params)
        routed = self._get_routed_params_for_fit(params)
        cv = check_cv(self.cv, y, classifier=False)
        splits = list(cv.split(X, y, **routed.splitter.split))
        if not (candidates and splits):
            raise ValueError(
                f"A search needs a candidate and a fold at least, got "
                f"{len(candidates)} candidates and {len(splits)} folds. Look at "
                f"param_grid_or_distributions and cv."
            )
        data = Data(X, y, routed.estimator.fit)
        cause = unstackable(self.estimator, candidates, params, X, len(splits))
        if cause is None:
            results, simplicity = self._side_by_side(candidates, splits, data.on_host)
        else:
            results, simplicity = self._one_by_one(candidates, splits, data, cause)
        self.n_splits_ = len(splits)
        self._keep_best(results, simplicity)
        if self.refit:
            self._refit_best(data)
        self.scorer_, self.multimetric_ = check_scoring(self.estimator), False
        self.cv_results_ = results
        return self

    def _draw(self) -> list[dict[str, Any]]:
        """The candidates."""
        space = self.param_grid_or_distributions
        if self.n_iter is None:
            return list(ParameterGrid(space))
        return list(
            ParameterSampler(space, self.n_iter, random_state=self.random_state)
        )

    def _side_by_side(
        self, candidates: list[dict[str, Any]], splits: list[Split], data: Data
    ) -> tuple[dict[str, Any], list[Simplicity]]:
        """What ``cv_results_`` is to hold, and how simple each candidate is."""
        if self.verbose > 0:
            print(
                f"Fitting {len(splits)} folds for each of {len(candidates)} "
                f"candidates, totalling {len(splits) * len(candidates)} fits"
            )
        tries = [
            Try(candidate_of(self.estimator, candidate), rows, test, candidate)
            for candidate in candidates
            for rows, test in splits
        ]
        prepare(tries, data)
        more = None
        if self.halving:
            more = {"survived": train_with_halving(tries, len(splits))}
        else:
            train(tries)
        out = [
            each.result(data, self.error_score, train_too=self.return_train_score)
            for each in tries
        ]
        _warn_or_raise_about_fit_failures(out, self.error_score)
        results = self._format_results(candidates, len(splits), out, more)
        return results, self._simplicity(tries[:: len(splits)])

    def _one_by_one(
        self,
        candidates: list[dict[str, Any]],
        splits: list[Split],
        data: Data,
        cause: str,
    ) -> tuple[dict[str, Any], list[Simplicity]]:
        """The same where ``cause`` has no place in a stack."""
        if self.halving:
            raise ValueError(
                f"halving needs all fits in stacks, in which {cause} has no place. "
                f"Leave it out, or set halving=False."
            )
        warnings.warn(
            f"{cause} has no place in a stack of fits: the candidates are fitted one "
            f"by one, as GridSearchCV does. Leave it out for a faster search.",
            UserWarning,
            stacklevel=users_level(),
        )
        search = GridSearchCV(
            self.estimator,
            [{name: [value] for name, value in each.items()} for each in candidates],
            cv=splits,
            refit=False,
            error_score=self.error_score,
            verbose=self.verbose,
            return_train_score=self.return_train_score,
        ).fit(data.X, data.y, **data.fit_params)
        tries = [
            Try(candidate_of(self.estimator, candidate), *splits[0], candidate)
            for candidate in candidates
        ]
        if self.refit == "one_standard_error":
            prepare(tries, data.on_host)
        return search.cv_results_, self._simplicity(tries)

    def _simplicity(self, tries: list[Try]) -> list[Simplicity]:
        """What orders the candidates, the simplest first; one try of each."""
        if self.refit != "one_standard_error":
            return []
        return [each.simplicity for each in tries]

    def _keep_best(self, results: dict[str, Any], simplicity: list[Simplicity]) -> None:
        best = self._choose(results, simplicity)
        self.best_index_, self.best_params_ = best, results["params"][best]
        if not callable(self.refit):
            self.best_score_ = results["mean_test_score"][best]

    def _choose(self, results: dict[str, Any], simplicity: list[Simplicity]) -> int:
        """Position of the candidate that the search's rule prefers."""
        if callable(self.refit):
            return int(self._select_best_index(self.refit, "score", results))
        mean = np.where(
            results.get("survived", True), results["mean_test_score"], np.nan
        )
        if np.isnan(mean).all():
            mean = np.zeros_like(mean)
        best = int(np.nanargmax(mean))
        if self.refit != "one_standard_error":
            return best
        folds = [results[f"split{i}_test_score"][best] for i in range(self.n_splits_)]
        error = np.std(folds, ddof=1) / np.sqrt(len(folds)) if len(folds) > 1 else 0.0
        near = [i for i in range(len(mean)) if mean[i] >= mean[best] - error]
        return min(near, key=lambda i: (simplicity[i], -mean[i]))

    def _refit_best(self, data: Data) -> None:
        self.best_estimator_ = candidate_of(self.estimator, self.best_params_)
        began = time.time()
        self.best_estimator_.fit(data.X, data.y, **data.fit_params)
        self.refit_time_ = time.time() - began
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
