"""What scikit-learn's users expect and its checks do not ask for."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest
from sklearn.base import clone, is_outlier_detector
from sklearn.ensemble import IsolationForest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def table(n_rows: int = 90) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 5)) + rng.normal(
        size=(n_rows, 5)
    )


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- signatures and documentation --------------------------------------------------


def sections(text: str) -> dict[str, str]:
    """The parts of a numpydoc docstring, by title."""
    parts = re.split(r"^(\w[\w ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def entries(section: str) -> list[str]:
    """Names of the entries of a section: `name : type` at its margin."""
    heads = re.findall(r"^(\w[\w, ]*) : ", section, flags=re.M)
    return [name.strip() for head in heads for name in head.split(",")]


def test_every_parameter_is_documented_and_constrained(cls: type[Estimator]) -> None:
    parameters = list(inspect.signature(cls).parameters)
    assert sorted(entries(sections(cls.__doc__ or "")["Parameters"])) == sorted(
        parameters
    )
    assert set(cls._parameter_constraints) == set(parameters)
    assert "{" not in (cls.__doc__ or "").replace('{"', "").replace("{n", "")


def test_documented_defaults_are_the_defaults(cls: type[Estimator]) -> None:
    told = re.findall(
        r"^(\w+) : .*default=(.+)$", sections(cls.__doc__ or "")["Parameters"], re.M
    )
    defaults = inspect.signature(cls).parameters
    for name, text in told:
        assert ast.literal_eval(text.strip()) == defaults[name].default, name
    assert len(told) == len(defaults)


def test_every_fitted_attribute_is_documented(cls: type[Estimator]) -> None:
    fitted = cls(random_state=0, max_iter=1).fit(table())
    public = {
        name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")
    }
    documented = set(entries(sections(cls.__doc__ or "")["Attributes"]))
    assert documented - {"feature_names_in_"} == public


def test_every_public_method_is_documented(cls: type[Estimator]) -> None:
    inherited = set(dir(IsolationForest)) | set(dir(StandardScaler))
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_") or name in inherited - set(dir(VAETransformer)):
            continue
        if not method.__module__.startswith("skvae"):
            continue
        parts = sections(method.__doc__ or "")
        arguments = [
            key for key in inspect.signature(method).parameters if key != "self"
        ]
        assert entries(parts.get("Parameters", "")) == arguments, name
        assert "Returns" in parts or name == "save", name


def test_detector_takes_all_that_the_transformer_takes() -> None:
    ours = inspect.signature(VAETransformer).parameters
    theirs = inspect.signature(VAEAnomalyDetector).parameters
    assert set(theirs) - set(ours) == {
        "contamination",
        "novelty",
        "n_estimators",
        "max_samples",
        "bootstrap",
        "anomaly_score",
        "trim",
    }
    assert set(ours) <= set(theirs)
    different = {name for name in ours if ours[name].default != theirs[name].default}
    # Where a detector has reasons of its own; all others mean the same in both.
    assert different <= {"start", "prior", "learning_rate_init"}


def test_parameters_are_plain_and_keyword_only(cls: type[Estimator]) -> None:
    for name, parameter in inspect.signature(cls).parameters.items():
        assert parameter.default is None or isinstance(
            parameter.default, bool | int | float | str | tuple
        )
        positional = cls is VAETransformer and name == "n_components"
        assert positional or parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_tags(cls: type[Estimator]) -> None:
    tags = get_tags(cls())
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
    assert not tags.target_tags.required
    assert not tags.input_tags.sparse
    assert not tags.non_deterministic
    assert is_outlier_detector(cls()) is (cls is VAEAnomalyDetector)


# -- randomness --------------------------------------------------------------------


def test_random_state_makes_fits_repeatable(cls: type[Estimator]) -> None:
    X = table()
    estimator = cls(max_iter=3, random_state=7)
    first, second = clone(estimator).fit(X), clone(estimator).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.fit(X).transform(X), second.transform(X))
    other = clone(estimator).set_params(random_state=8, start="random").fit(X)
    assert not np.allclose(other.transform(X), first.transform(X))


def test_random_state_may_be_a_generator(cls: type[Estimator]) -> None:
    X = table()
    legacy = np.random.RandomState(0)
    first = cls(max_iter=2, start="random", random_state=legacy).fit(X)
    second = cls(max_iter=2, start="random", random_state=legacy).fit(X)
    assert not np.allclose(first.transform(X), second.transform(X))
    again = cls(max_iter=2, start="random", random_state=np.random.RandomState(0)).fit(
        X
    )
    np.testing.assert_array_equal(again.transform(X), first.transform(X))


def test_no_random_state_is_another_fit_each_time(cls: type[Estimator]) -> None:
    X = table()
    first, second = (cls(max_iter=2, start="random").fit(X) for _ in range(2))
    assert not np.allclose(first.transform(X), second.transform(X))
    assert not np.allclose(first.sample(3), first.sample(3))
    np.testing.assert_array_equal(
        first.sample(3, random_state=1), first.sample(3, random_state=1)
    )


def test_numpys_global_generator_is_left_alone(cls: type[Estimator]) -> None:
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    fitted = cls(max_iter=2).fit(table())
    fitted.sample(3)
    fitted.impute(np.where(table() > 1.0, np.nan, table()), n_imputations=2)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


# -- answers depend on the row alone -----------------------------------------------


@pytest.mark.parametrize(
    "method", ["transform", "score_samples", "elbo", "explain", "reconstruct", "impute"]
)
def test_order_and_company_of_rows_do_not_matter(
    cls: type[Estimator], method: str
) -> None:
    X = table()
    ask = getattr(cls(max_iter=3, random_state=0).fit(X), method)
    if method == "impute":
        X = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    order = np.random.default_rng(0).permutation(len(X))
    whole = ask(X)
    np.testing.assert_allclose(ask(X[order]), whole[order], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ask(X[17:18])[0], whole[17], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ask(X), whole)


# -- in scikit-learn's company -----------------------------------------------------


def two_classes() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    X, rng = table(200), np.random.default_rng(3)
    y = np.ones(200, dtype=np.int64)
    y[:20] = -1
    X[:20] = rng.uniform(-9.0, 9.0, size=(20, 5))
    return X, y


def test_codes_feed_a_classifier() -> None:
    X = table(150)
    y = (X[:, 0] > 0.0).astype(int)
    model = make_pipeline(
        FeatureUnion([("vae", VAETransformer(2, random_state=0))]), LogisticRegression()
    )
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8


def test_detector_is_scored_by_scikit_learns_metrics() -> None:
    X, y = two_classes()
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    detector = VAEAnomalyDetector(random_state=0)
    scores = cross_val_score(detector, X, y, cv=folds, scoring="roc_auc")
    assert scores.min() > 0.9
    forest = IsolationForest(random_state=0).fit(X)
    fitted = detector.fit(X)
    assert roc_auc_score(y, fitted.decision_function(X)) > 0.9
    assert set(np.unique(fitted.predict(X))) == set(np.unique(forest.predict(X)))
    np.testing.assert_array_equal(clone(detector).fit_predict(X), fitted.predict(X))


def test_decision_function_is_the_score_above_the_offset() -> None:
    X, _ = two_classes()
    for contamination, expected in ((0.1, 20), (0.25, 50)):
        detector = VAEAnomalyDetector(contamination=contamination, random_state=0)
        detector.fit(X)
        decision = detector.decision_function(X)
        np.testing.assert_allclose(
            decision, detector.score_samples(X) - detector.offset_
        )
        np.testing.assert_array_equal(
            detector.predict(X), np.where(decision < 0, -1, 1)
        )
        assert (detector.predict(X) == -1).sum() == expected


def test_contamination_moves_the_offset_only() -> None:
    X, _ = two_classes()
    loose, strict = (
        VAEAnomalyDetector(contamination=share, random_state=0).fit(X)
        for share in (0.2, 0.02)
    )
    np.testing.assert_array_equal(loose.score_samples(X), strict.score_samples(X))
    assert loose.offset_ > strict.offset_


def test_p_values_of_new_rows_are_uniform() -> None:
    # Conformal: against rows that training held out, if the new ones are like them.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    detector = VAEAnomalyDetector(validation_fraction=0.4, random_state=0).fit(X[:1000])
    assert kstest(detector.p_values(X[1000:]), "uniform").pvalue > 1e-3


def test_permutation_importance_reads_the_score(cls: type[Estimator]) -> None:
    # The last column is unrelated to the others: permuting it changes least.
    rng = np.random.default_rng(0)
    code = rng.normal(size=(200, 1))
    X = np.column_stack([code + 0.2 * rng.normal(size=(200, 3)), rng.normal(size=200)])
    fitted = cls(n_components=1, random_state=0).fit(X)
    found = permutation_importance(
        fitted, X, np.zeros(200), n_repeats=2, random_state=0
    ).importances_mean
    assert found.argmin() == 3
    assert found[:3].min() > 10.0 * abs(found[3])


def test_score_is_the_mean_log_likelihood(cls: type[Estimator]) -> None:
    X = table()
    fitted = cls(max_iter=2, random_state=0).fit(X)
    if cls is VAEAnomalyDetector:
        fitted = clone(fitted).set_params(anomaly_score="log_likelihood").fit(X)
    assert fitted.score(X) == pytest.approx(fitted.score_samples(X).mean())
    assert isinstance(fitted.score(X), float)
    assert fitted.score(X, np.zeros(len(X))) == fitted.score(X)
