"""What cannot be fitted is refused in scikit-learn's words, and an old fit survives."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector

# Two dozen rows of noise are told to be few; not what is tested here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The noise of these columns:sklearn.exceptions.ConvergenceWarning"
)


def table(n_rows: int = 24, n_columns: int = 4, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n_rows, n_columns))


def with_cell(value: Any, dtype: Any = float) -> NDArray[Any]:
    X = table().astype(dtype)
    X[2, 1] = value
    return X


@dataclass(frozen=True)
class Case:
    """A fit that must fail: what is passed, which error, which words."""

    name: str
    X: Callable[[], Any]
    words: str
    error: type[Exception] = ValueError
    params: dict[str, Any] = field(default_factory=dict)
    fit_params: dict[str, Any] = field(default_factory=dict)


TABLES = [
    Case("infinite", lambda: with_cell(np.inf), "infinity"),
    Case("minus infinite", lambda: with_cell(-np.inf), "infinity"),
    Case(
        "words where numbers are asked for",
        lambda: with_cell("red", object),
        "gaussian column.*column 1 holds text such as.*'red'.*recode",
        params={"likelihood": {1: "gaussian"}},
    ),
    Case(
        "a list in a cell",
        lambda: with_cell([1], object),
        "argument must be a string or a number.*list in column 1",
        TypeError,
    ),
    Case(
        "a name twice",
        lambda: pd.DataFrame(table(), columns=list("abca")),
        "different names.*'a'.*rename",
    ),
    Case(
        "nothing observed in a column",
        lambda: np.where([True, False, True, True], table(), np.nan),
        "only missing values in column 1; drop",
    ),
    Case(
        "nothing observed in columns of a frame",
        lambda: pd.DataFrame({"a": [1.0, 2.0], "b": [None] * 2, "c": [pd.NaT] * 2}),
        "only missing values in 'b', 'c'; drop",
    ),
    Case("complex", lambda: table() + 1j, "Complex data not supported"),
    Case("ragged", lambda: [[1.0, 2.0], [3.0], [4.0, 5.0]], "inhomogeneous"),
    Case("sparse", lambda: scipy.sparse.csr_array(table()), "[Ss]parse", TypeError),
    Case("three dimensions", lambda: np.zeros((4, 3, 2)), "dim 3"),
    Case("one dimension", lambda: np.arange(5.0), "Reshape your data"),
    Case("a number", lambda: 3.0, "Expected 2D array, got scalar"),
    Case("no row", lambda: np.empty((0, 3)), "0 sample.*minimum of"),
    Case("one row", lambda: table(1), "1 sample.*minimum of 2"),
    Case("no column", lambda: np.empty((5, 0)), "0 feature.*minimum of 1"),
    Case(
        "nothing varies", lambda: np.full((9, 2), 3.0), "At least one column.*Check X"
    ),
]

SIDE_TABLES = [
    Case(
        "X_val of another width",
        table,
        "X has 3 features, but .* is expecting 4 features",
        fit_params={"X_val": table(8, 3)},
    ),
    Case(
        "X_val not finite",
        table,
        "infinity",
        fit_params={"X_val": with_cell(np.inf)},
    ),
    Case("no X_val row", table, "0 sample", fit_params={"X_val": np.empty((0, 4))}),
    Case("all weights zero", table, "zero", fit_params={"sample_weight": np.zeros(24)}),
    Case(
        "one positive weight",
        table,
        "At least two rows.*1.*Give more rows weight",
        fit_params={"sample_weight": np.eye(24)[0]},
    ),
    Case(
        "negative weight",
        table,
        "[Nn]egative values",
        fit_params={"sample_weight": -np.ones(24)},
    ),
    Case(
        "infinite weight",
        table,
        "infinity",
        fit_params={"sample_weight": np.full(24, np.inf)},
    ),
    Case(
        "another number of weights",
        table,
        r"sample_weight.shape == \(5,\)",
        fit_params={"sample_weight": np.ones(5)},
    ),
]

PARAMETERS = [
    Case("no component", table, "'n_components'.*Got 0", params={"n_components": 0}),
    Case("a share", table, "'n_components'.*Got 0.5", params={"n_components": 0.5}),
    Case("negative beta", table, "'beta'.*Got -1", params={"beta": -1.0}),
    Case("unknown noise", table, "'noise'.*Got 'pink'", params={"noise": "pink"}),
    Case(
        "unknown likelihood",
        table,
        "'likelihood'.*Got 'cauchy'",
        params={"likelihood": "cauchy"},
    ),
    Case(
        "unknown kind of a column",
        table,
        "kinds among.*'gaussian'.*got 'cauchy'",
        params={"likelihood": {0: "cauchy"}},
    ),
    Case(
        "kind of an unknown column",
        table,
        "position.*0 to 3.*'age'",
        params={"likelihood": {"age": "gaussian"}},
    ),
    Case(
        "0/1 column with other values",
        table,
        "bernoulli column holds only 0 and 1.*column 2.*recode",
        params={"likelihood": {2: "bernoulli"}},
    ),
    Case(
        "hidden layer without units",
        table,
        "hidden_layer_sizes.*at least 1.*0.*Use \\(\\)",
        params={"hidden_layer_sizes": (8, 0)},
    ),
    Case(
        "half a unit",
        table,
        "hidden_layer_sizes.*integers.*2.5",
        params={"hidden_layer_sizes": (2.5,)},
    ),
    Case(
        "unknown device",
        table,
        "device must be 'auto'.*'abacus'.*Use device=",
        params={"device": "abacus"},
    ),
    Case(
        "absent device",
        table,
        "device must be 'auto'.*'xpu:7'.*Use device=",
        params={"device": "xpu:7"},
    ),
    Case(
        "plain auto-encoder with beta",
        table,
        "variational=False.*beta=2.0.*Drop it or set variational=True",
        params={"variational": False, "beta": 2.0},
    ),
    Case(
        "plain auto-encoder with free bits",
        table,
        "variational=False.*free_bits=0.1",
        params={"variational": False, "free_bits": 0.1},
    ),
    Case(
        "plain auto-encoder with warm-up",
        table,
        "variational=False.*kl_warmup=0.5",
        params={"variational": False, "kl_warmup": 0.5},
    ),
    Case(
        "plain auto-encoder with importance samples",
        table,
        "variational=False.*n_importance_samples=5",
        params={"variational": False, "n_importance_samples": 5},
    ),
    Case(
        "plain auto-encoder with a noise network",
        table,
        "variational=False.*noise='network'",
        params={"variational": False, "noise": "network"},
    ),
    Case(
        "free bits of an importance-weighted bound",
        table,
        "free_bits=0.1.*n_importance_samples=5.*Set one of them",
        params={"free_bits": 0.1, "n_importance_samples": 5},
    ),
    Case(
        "a loss that explodes",
        table,
        "loss must be finite.*got.*Lower learning_rate_init",
        params={
            "learning_rate_init": 1e30,
            "max_grad_norm": None,
            "early_stopping": False,
            "max_iter": 20,
        },
    ),
    Case(
        "a loss that explodes before the first look",
        table,
        "finite",
        params={"learning_rate_init": 1e30, "max_iter": 20, "early_stopping": True},
    ),
]


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    "case", TABLES + SIDE_TABLES + PARAMETERS, ids=lambda case: case.name
)
def test_failed_fit_says_why_and_leaves_the_last_one(
    cls: type[Estimator], case: Case
) -> None:
    old = table(30, 3, seed=1)
    estimator = cls(random_state=0, max_iter=2).fit(old)
    before = answers(estimator, old)
    estimator.set_params(**case.params)
    with pytest.raises(case.error) as caught:
        estimator.fit(case.X(), **case.fit_params)
    # In words, not through re.match: NumPy and scikit-learn break lines in between.
    assert re.search(case.words, str(caught.value), flags=re.DOTALL), caught.value
    assert answers(estimator, old) == before
    estimator.set_params(**cls(random_state=0, max_iter=2).get_params())
    assert answers(estimator.fit(old), old) == before


@pytest.mark.parametrize("case", PARAMETERS[:5], ids=lambda case: case.name)
def test_rejected_parameters_are_scikit_learns_error(
    cls: type[Estimator], case: Case
) -> None:
    with pytest.raises(InvalidParameterError, match=f"{cls.__name__}"):
        cls(**case.params).fit(table())


def test_failed_partial_fit_leaves_the_last_one(cls: type[Estimator]) -> None:
    X = table()
    estimator = cls(random_state=0).partial_fit(X)
    before = answers(estimator, X)
    with pytest.raises(ValueError, match=r"X has 2 features.*expecting 4 features"):
        estimator.partial_fit(table(9, 2))
    with pytest.raises(ValueError, match="infinity"):
        estimator.partial_fit(with_cell(np.inf))
    assert answers(estimator, X) == before
    again = cls(random_state=0).partial_fit(X).partial_fit(X)
    assert answers(estimator.partial_fit(X), X) == answers(again, X)


def test_failed_warm_start_leaves_the_last_one(cls: type[Estimator]) -> None:
    X = table()
    estimator = cls(random_state=0, max_iter=2, warm_start=True).fit(X)
    before = answers(estimator, X)
    with pytest.raises(ValueError, match=r"X has 2 features.*expecting 4 features"):
        estimator.fit(table(9, 2))
    estimator.set_params(n_components=1)
    with pytest.raises(ValueError, match=r"n_components must stay.*got 1.*warm_start"):
        estimator.fit(X)
    assert answers(estimator, X) == before


def test_failed_first_fit_leaves_no_fit(cls: type[Estimator]) -> None:
    estimator = cls()
    untouched = dict(vars(estimator))
    with pytest.raises(ValueError, match="infinity"):
        estimator.fit(with_cell(np.inf))
    assert vars(estimator) == untouched
    with pytest.raises(NotFittedError):
        estimator.transform(table())


METHODS = [
    "transform",
    "posterior",
    "score_samples",
    "score",
    "elbo",
    "reconstruct",
    "explain",
    "impute",
    "predictive_interval",
    "decision_function",
    "predict",
    "p_values",
]


@pytest.mark.parametrize(
    ("cls", "method"),
    [(cls, name) for cls in ESTIMATORS for name in METHODS if hasattr(cls, name)],
)
def test_questions_check_their_table(cls: type[Estimator], method: str) -> None:
    X = table()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(cls(), method)(X)
    ask = getattr(cls(random_state=0, max_iter=2).fit(X), method)
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4"):
        ask(X[:, :3])
    with pytest.raises(ValueError, match="infinity"):
        ask(with_cell(np.inf))
    with pytest.raises(ValueError, match="0 sample"):
        ask(X[:0])
    with pytest.raises(ValueError, match="Reshape your data"):
        ask(X[0])
    with pytest.raises(ValueError, match="column 1 holds text such as 'red'"):
        ask(with_cell("red", object))
    with pytest.raises(TypeError, match="argument must be a string or a number"):
        ask(with_cell([1], object))


@pytest.mark.parametrize("method", ["transform", "score_samples", "reconstruct"])
def test_questions_check_the_names(cls: type[Estimator], method: str) -> None:
    frame = pd.DataFrame(table(), columns=["a", "b", "c", "d"])
    ask = getattr(cls(random_state=0, max_iter=2).fit(frame), method)
    with pytest.raises(ValueError, match=r"feature names should match.*\n.*unseen"):
        ask(frame.rename(columns={"d": "e"}))
    with pytest.raises(ValueError, match="must be in the same order"):
        ask(frame[["b", "a", "c", "d"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        ask(frame.to_numpy())


def test_codes_and_counts_are_checked(cls: type[Estimator]) -> None:
    X = table()
    with pytest.raises(NotFittedError):
        cls().sample()
    with pytest.raises(NotFittedError):
        cls().inverse_transform(X)
    estimator = cls(n_components=2, random_state=0, max_iter=2).fit(X)
    with pytest.raises(ValueError, match=r"2 components, got rows of 4.*transform"):
        estimator.inverse_transform(X)
    for coverage in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"coverage == {coverage}, must be"):
            estimator.predictive_interval(X, coverage=coverage)
    with pytest.raises(ValueError, match="n_samples == 0, must be >= 1"):
        estimator.sample(0)
    with pytest.raises(ValueError, match="n_imputations == 0, must be >= 1"):
        estimator.impute(X, n_imputations=0)


def answers(estimator: Estimator, X: NDArray[np.float64]) -> list[Any]:
    """All that a fitted model says, down to the bit."""
    given = [
        estimator.transform(X),
        estimator.score_samples(X),
        estimator.explain(X),
        estimator.sample(3, random_state=0),
        np.array([estimator.n_features_in_, estimator.n_iter_]),
        np.asarray(estimator.loss_curve_),
    ]
    return [array.tobytes() for array in given]


def test_answers_tell_models_apart(cls: type[Estimator]) -> None:
    # The comparison above can fail.
    X = table()
    estimator = cls(random_state=0, max_iter=2)
    first = answers(estimator.fit(X), X)
    assert answers(clone(estimator).fit(X + 1.0), X) != first
