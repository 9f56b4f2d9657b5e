"""Tables as they come: odd values, shapes, memory layouts and containers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skvae import VAEAnomalyDetector, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector]
Estimator = VAETransformer | VAEAnomalyDetector
Table = NDArray[Any]

pytestmark = [
    # Small tables, copies and sums are told of: legitimate, and not what is tested.
    pytest.mark.filterwarnings("ignore:The noise of these columns"),
    pytest.mark.filterwarnings("ignore:No component of the code carries information"),
]


def plain(n_rows: int = 40, n_columns: int = 4, seed: int = 0) -> Table:
    """One factor and some noise."""
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(n_rows, 1))
    return code * np.linspace(0.5, 2.0, n_columns) + rng.normal(
        size=(n_rows, n_columns)
    )


def with_columns(*columns: Table) -> Table:
    return np.column_stack([plain(len(columns[0])), *columns])


def cauchy() -> Table:
    return np.random.default_rng(1).standard_cauchy(size=(60, 3))


def bits(n_columns: int = 5) -> Table:
    return (plain(60, n_columns) > 0.3).astype(float)


HARD: dict[str, Callable[[], Table]] = {
    "constant column": lambda: with_columns(np.full(40, 7.3)),
    "constant columns but one": lambda: np.column_stack(
        [np.full(40, 1e9), plain(40, 1), np.zeros(40)]
    ),
    "duplicate column": lambda: with_columns(plain()[:, 0]),
    "column that is a sum": lambda: with_columns(plain().sum(axis=1)),
    "huge column": lambda: with_columns(1e12 * plain(40, 1, 2)),
    "tiny column": lambda: with_columns(1e-12 * plain(40, 1, 2)),
    "far from zero": lambda: with_columns(1e12 + plain(40, 1, 2)),
    "one huge cell": lambda: with_columns(np.where(np.arange(40) == 7, 1e12, 0.5)),
    "one cell differs": lambda: with_columns(np.where(np.arange(40) == 7, 3.0, 2.0)),
    "heavy tails": cauchy,
    # Their variances, in the user's units, are still floats.
    "largest floats": lambda: with_columns(1e150 * plain(40, 1, 2)),
    "smallest floats": lambda: with_columns(1e-150 * plain(40, 1, 2)),
    "integers": lambda: np.random.default_rng(0).integers(-3, 9, size=(50, 4)),
    "unsigned bytes": lambda: (
        np.random.default_rng(0).integers(0, 256, size=(50, 4)).astype(np.uint8)
    ),
    "0/1 column": lambda: with_columns((plain()[:, 0] > 0).astype(float)),
    "0/1 column, almost all 0": lambda: with_columns(
        (np.arange(40) == 3).astype(float)
    ),
    "0/1 columns only": bits,
    "booleans": lambda: bits().astype(bool),
    "one 0/1 column": lambda: bits(1),
    "fewer rows than a batch": lambda: plain(20),
    "nine rows": lambda: plain(9),
    "three rows": lambda: plain(3),
    "two rows": lambda: plain(2),
    "two rows, one column": lambda: plain(2, 1),
    "two different rows, many times": lambda: np.repeat(plain(2), 20, axis=0),
    "one column": lambda: plain(40, 1),
    "more columns than rows": lambda: plain(12, 30),
    "float32": lambda: plain().astype(np.float32),
    "float16": lambda: plain().astype(np.float16),
}


def ask_everything(estimator: Estimator, X: Any) -> dict[str, Any]:
    """Every answer to a table, as its method gives it."""
    Z = estimator.transform(X)
    mean, std = estimator.posterior(X)
    reconstruction, kl = estimator.elbo(X, decompose=True)
    given = {
        "transform": Z,
        "posterior mean": mean,
        "posterior std": std,
        "inverse_transform": estimator.inverse_transform(Z),
        "score_samples": estimator.score_samples(X),
        "score": estimator.score(X),
        "elbo": estimator.elbo(X),
        "reconstruction": reconstruction,
        "kl": kl,
        "explain": estimator.explain(X),
        "reconstruct": estimator.reconstruct(X),
        "sample": estimator.sample(9, random_state=0),
        "noise_variance_": estimator.noise_variance_,
        "kl_per_component_": estimator.kl_per_component_,
        "loss_curve_": estimator.loss_curve_,
        "base_score_": estimator.base_score_,
    }
    if isinstance(estimator, VAEAnomalyDetector):
        given["decision_function"] = estimator.decision_function(X)
        given["predict"] = estimator.predict(X)
        given["p_values"] = estimator.p_values(X)
        given["offset_"] = estimator.offset_
    return given


def check_answers(estimator: Estimator, X: Table, given: dict[str, Any]) -> None:
    n, d, k = *X.shape, estimator.n_components_
    shapes = {
        "transform": (n, k),
        "posterior std": (n, k),
        "inverse_transform": (n, d),
        "score_samples": (n,),
        "elbo": (n,),
        "explain": (n, d),
        "reconstruct": (n, d),
        "sample": (9, d),
        "kl_per_component_": (k,),
    }
    for name, answer in given.items():
        values = np.asarray(answer, dtype=np.float64)
        if name == "noise_variance_":  # of the columns that have one
            kinds = np.array(estimator.likelihood_)
            values = np.broadcast_to(values, d)[kinds != "bernoulli"]
        assert np.isfinite(values).all(), f"{name} holds {values[~np.isfinite(values)]}"
        assert values.shape == shapes.get(name, values.shape), name
    assert (np.asarray(given["posterior std"]) > 0).all()
    if isinstance(estimator, VAEAnomalyDetector):
        assert set(np.unique(given["predict"])) <= {-1, 1}
        assert (given["p_values"] > 0).all()
        assert (given["p_values"] <= 1).all()
    size = np.abs(given["explain"]).sum(axis=1) + abs(given["base_score_"])
    gap = given["explain"].sum(axis=1) + given["base_score_"] - given["score_samples"]
    single = X.dtype == np.float32
    assert (np.abs(gap) <= (1e-4 if single else 1e-8) * (1.0 + size)).all()


def check_imputation(estimator: Estimator, X: Table) -> None:
    """Holes are filled with finite numbers, the other cells are left alone."""
    holes = np.random.default_rng(0).random(X.shape) < 0.3
    if X.shape[1] == 1:
        holes[:] = np.arange(len(X))[:, None] % 2
    kept = X.astype(np.float64 if X.dtype.kind in "biu" else X.dtype)
    given = np.where(holes, kept.dtype.type(np.nan), kept)
    completed = estimator.impute(given)
    assert np.isfinite(np.asarray(completed, dtype=float)).all()
    np.testing.assert_array_equal(completed[~holes], X[~holes])
    draws = estimator.impute(given, n_imputations=2, random_state=0)
    assert len(draws) == 2
    for draw in draws:
        assert np.isfinite(np.asarray(draw, dtype=float)).all()
        np.testing.assert_array_equal(draw[~holes], X[~holes])


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("name", HARD)
def test_every_answer_is_finite(cls: type[Estimator], name: str) -> None:
    X = HARD[name]()
    estimator = cls(random_state=0, max_iter=10).fit(X)
    check_answers(estimator, X, ask_everything(estimator, X))
    check_imputation(estimator, X)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(
    "params",
    [
        {"noise": "shared"},
        {"start": "random"},
        {"variational": False, "hidden_layer_sizes": (8,)},
        {"n_components": 6},
    ],
    ids=lambda params: "-".join(params),
)
def test_every_answer_is_finite_elsewhere(name: str, params: dict[str, Any]) -> None:
    X = HARD[name]()
    estimator = VAETransformer(random_state=0, max_iter=5).set_params(**params).fit(X)
    check_answers(estimator, X, ask_everything(estimator, X))


@pytest.mark.parametrize("name", ["constant column", "two rows", "heavy tails"])
def test_partial_fit_takes_hard_tables(cls: type[Estimator], name: str) -> None:
    X = HARD[name]()
    estimator = cls(random_state=0).partial_fit(X).partial_fit(X)
    check_answers(estimator, X, ask_everything(estimator, X))


def test_copies_and_sums_are_named(cls: type[Estimator]) -> None:
    X = with_columns(plain()[:, 0])
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d", "again"])
    with pytest.warns(ConvergenceWarning, match=r"floor: .*\bagain\b.*Drop copies"):
        cls(random_state=0, max_iter=2).fit(frame)
    with pytest.warns(ConvergenceWarning, match=r"floor: .*\bcolumn 4\b") as caught:
        cls(random_state=0, max_iter=2).fit(X)
    # It points at the user's line, not into a library.
    assert {warning.filename for warning in caught} == {__file__}


def test_columns_that_vary_within_rounding_are_told_of() -> None:
    X = 1e6 + 0.1 * plain()  # float32 tells these numbers to 0.06
    VAETransformer(1, max_iter=1).fit(X)
    with pytest.raises(ValueError, match=r"rounding of float32.*subtract the mean"):
        VAETransformer(1, max_iter=1).fit(X.astype(np.float32))


def test_unrelated_columns_are_told_of() -> None:
    X = np.random.default_rng(0).normal(size=(300, 4))
    with pytest.warns(ConvergenceWarning, match="posterior collapsed.*beta=50"):
        VAETransformer(1, beta=50.0, random_state=0).fit(X)


# -- what must not matter ----------------------------------------------------------


def test_constant_columns_change_nothing_else(cls: type[Estimator]) -> None:
    X = plain()
    wide = np.column_stack([np.full(40, 7.3), X, np.zeros(40)])
    estimator = cls(2, random_state=0) if cls is VAETransformer else cls(random_state=0)
    narrow, estimator = clone(estimator).fit(X), estimator.fit(wide)
    for method in ("transform", "score_samples"):
        np.testing.assert_allclose(
            getattr(estimator, method)(wide), getattr(narrow, method)(X), rtol=1e-6
        )
    for answer in (estimator.reconstruct(wide), estimator.sample(5, random_state=0)):
        np.testing.assert_array_equal(answer[:, 0], 7.3)
        np.testing.assert_array_equal(answer[:, -1], 0.0)
    np.testing.assert_array_equal(estimator.explain(wide)[:, [0, -1]], 0.0)
    assert estimator.likelihood_[0] == estimator.likelihood_[-1] == "constant"
    # A cell that leaves the constant makes its row less likely, by that column.
    odd = wide.copy()
    odd[0, 0] = 8.0
    drop = estimator.score_samples(odd) - estimator.score_samples(wide)
    assert drop[0] < 0.0
    np.testing.assert_array_equal(drop[1:], 0.0)
    assert estimator.explain(odd)[0, 0] == pytest.approx(drop[0])


@pytest.mark.parametrize("exponent", [-490, -40, 40, 490])
def test_units_change_the_score_by_their_jacobian(
    cls: type[Estimator], exponent: int
) -> None:
    # Powers of two change no digit, so that the fits are the same to the bit.
    X, factor = plain(), np.array([1.0, 2.0**exponent, 2.0, 0.25])
    estimator = cls(random_state=0, max_iter=20)
    here, there = clone(estimator).fit(X), estimator.fit(X * factor)
    np.testing.assert_array_equal(there.transform(X * factor), here.transform(X))
    np.testing.assert_allclose(
        there.score_samples(X * factor) + np.log(factor).sum(),
        here.score_samples(X),
        rtol=1e-9,
    )
    np.testing.assert_array_equal(
        there.reconstruct(X * factor) / factor, here.reconstruct(X)
    )


def memmapped(X: Table, folder: Path) -> Table:
    path = folder / "table.dat"
    X.tofile(path)
    return np.memmap(path, dtype=X.dtype, mode="r", shape=X.shape)


LAYOUTS: dict[str, Callable[[Table, Path], Any]] = {
    "Fortran order": lambda X, folder: np.asfortranarray(X),
    "read-only": lambda X, folder: np.frombuffer(X.tobytes()).reshape(X.shape),
    "read-only memory map": memmapped,
    "negative strides": lambda X, folder: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second row of a table": lambda X, folder: np.repeat(X, 2, axis=0)[::2],
    "big-endian": lambda X, folder: X.astype(">f8"),
    "list of lists": lambda X, folder: X.tolist(),
    "objects": lambda X, folder: X.astype(object),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_changes_no_answer(
    cls: type[Estimator], layout: str, tmp_path: Path
) -> None:
    X = plain()
    other, before = LAYOUTS[layout](X, tmp_path), X.copy()
    estimator = cls(random_state=0, max_iter=3)
    wanted = ask_everything(clone(estimator).fit(X), X)
    found = ask_everything(estimator.fit(other), other)
    for name, answer in wanted.items():
        np.testing.assert_array_equal(found[name], answer, err_msg=name)
    np.testing.assert_array_equal(np.asarray(other, dtype=float), before)


def test_arguments_are_not_changed(cls: type[Estimator]) -> None:
    X, weight, X_val = plain(), np.linspace(0.0, 2.0, 40), plain(8, seed=3)
    copies = X.copy(), weight.copy(), X_val.copy()
    estimator = cls(random_state=0, max_iter=3).fit(X, None, weight, X_val=X_val)
    ask_everything(estimator, X)
    holes = np.where(X > 1.0, np.nan, X)
    kept = holes.copy()
    estimator.impute(holes)
    estimator.impute(holes, n_imputations=2)
    np.testing.assert_array_equal(holes, kept)
    for array, copy in zip((X, weight, X_val), copies):
        np.testing.assert_array_equal(array, copy)


def test_chunks_change_no_answer(cls: type[Estimator]) -> None:
    X = plain(150)
    estimator = cls(random_state=0, max_iter=2).fit(X)
    whole = ask_everything(estimator, X)
    for name in ("transform", "score_samples", "elbo", "explain", "reconstruct"):
        parts = [getattr(estimator, name)(X[i : i + 7]) for i in range(0, 150, 7)]
        np.testing.assert_allclose(
            np.concatenate(parts), whole[name], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_keep_their_precision(cls: type[Estimator], dtype: Any) -> None:
    X = plain().astype(dtype)
    given = ask_everything(cls(random_state=0, max_iter=3).fit(X), X)
    exact = {"score", "loss_curve_", "base_score_", "offset_", "noise_variance_"}
    exact |= {"kl_per_component_", "predict", "p_values"}
    for name in given.keys() - exact:
        assert given[name].dtype == dtype, name


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_whole_numbers_come_back_whole(cls: type[Estimator], dtype: str) -> None:
    X = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (40, 3))
    X = X.astype(dtype)
    estimator = cls(random_state=0, max_iter=3).fit(X)
    for answer in (
        estimator.reconstruct(X),
        estimator.sample(50, random_state=0),
        estimator.inverse_transform(estimator.transform(X)),
    ):
        assert answer.dtype == dtype


def test_drawn_cells_of_0_1_columns_are_0_or_1(cls: type[Estimator]) -> None:
    X = with_columns((plain()[:, 0] > 0).astype(float))
    estimator = cls(random_state=0, max_iter=3).fit(X)
    assert estimator.likelihood_[-1] == "bernoulli"
    holes = X.copy()
    holes[::2, -1] = np.nan
    answers = [estimator.sample(50, random_state=0), estimator.impute(holes)]
    answers += estimator.impute(holes, n_imputations=3, random_state=0)
    for answer in answers:
        assert set(np.unique(answer[:, -1])) == {0.0, 1.0}
    # An expected row is a row: it holds the likelier of the two.
    assert set(np.unique(estimator.reconstruct(X)[:, -1])) == {0.0, 1.0}
    # A mass, not a density: no row can be more likely than its other columns are.
    explained = estimator.explain(X)[:, -1]
    assert np.ptp(explained) > 0.0


def test_no_other_warning_on_the_way() -> None:
    # The filters above let two messages through; on a plain table there is none.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in ESTIMATORS:
            X = plain(200, 6)
            estimator = cls(n_components=1, random_state=0).fit(X)
            ask_everything(estimator, X)


@pytest.mark.parametrize("size", [1e3, 1e9, 1e20, 1e90])
def test_one_extreme_cell_hides_no_other_outlier(size: float) -> None:
    X = np.random.default_rng(1).normal(size=(600, 4))
    X[50, 2], X[7, 2] = 12.0, size
    detector = VAEAnomalyDetector(random_state=0).fit(X)
    assert list(np.argsort(detector.score_samples(X))[:2]) == [7, 50]
    assert list(detector.predict(X)[[7, 50]]) == [-1, -1]
