"""Tables of numbers, text, categories, dates and holes, in every container."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer

ESTIMATORS = [VAETransformer, VAEAnomalyDetector, VAEImputer]
Estimator = VAETransformer | VAEAnomalyDetector | VAEImputer
SMALL: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}
TOWNS = ["Bonn", "Köln", "São Paulo"]
LEVELS = ["S", "M", "L", "XL"]
N = 60


def people(n_rows: int = N, holes: float = 0.15) -> pd.DataFrame:
    """One factor behind columns of every kind; no row is "XL"."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=n_rows)
    near = code[:, None] + 0.7 * rng.normal(size=(n_rows, 6))
    frame = pd.DataFrame(
        {
            "height": 170.0 + 9.0 * near[:, 0],
            "children": np.clip(np.rint(1.5 + near[:, 1]), 0, None),
            "share": 1.0 / (1.0 + np.exp(-near[:, 2])),
            "member": pd.array(near[:, 3] > 0.0, dtype="boolean"),
            "town": pd.Series(np.array(TOWNS)[np.digitize(near[:, 4], [-0.5, 0.7])]),
            "size": pd.Categorical.from_codes(
                np.digitize(near[:, 5], [-0.4, 0.6]), LEVELS, ordered=True
            ),
            "born": pd.Timestamp("1970-06-01")
            + pd.to_timedelta(np.rint(900 * near[:, 0]), "D"),
        }
    )
    frame = frame.astype({"children": "Int16", "town": object})
    return frame.mask(rng.random(frame.shape) < holes)


def objects(frame: pd.DataFrame) -> Any:
    """An array of Python objects, its sizes as text."""
    return frame.astype({"size": object}).astype(object).to_numpy()


CONTAINERS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda frame: frame,
    "pandas strings": lambda frame: frame.astype({"town": "string"}),
    "polars": lambda frame: pl.from_pandas(
        frame.astype({"size": "string"})
    ).with_columns(pl.col("size").cast(pl.Enum(LEVELS))),
    "pyarrow": pa.Table.from_pandas,
}


def told(frame: Any) -> list[str]:
    """Data types of a frame, in words."""
    if isinstance(frame, pa.Table):
        return [str(field.type) for field in frame.schema]
    return [repr(dtype) for dtype in frame.dtypes]


def rows_of(frame: Any) -> pd.DataFrame:
    return frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("container", list(CONTAINERS)[1:])
def test_every_container_gives_the_same_model(
    cls: type[Estimator], container: str
) -> None:
    frame, other = people(), CONTAINERS[container](people())
    # polars does not tell whether categories are ordered.
    model = cls(**SMALL, likelihood={"size": "ordinal"}).fit(frame)
    same = clone(model).fit(other)
    assert same.loss_curve_ == model.loss_curve_
    assert same.likelihood_ == model.likelihood_
    assert model.likelihood_[3:6] == ("bernoulli", "categorical", "ordinal")
    np.testing.assert_array_equal(same.score_samples(other), model.score_samples(frame))
    np.testing.assert_array_equal(
        np.asarray(same.explain(other)), np.asarray(model.explain(frame))
    )
    # Rows are read by what they hold, whatever the table of `fit` came in.
    np.testing.assert_array_equal(
        model.score_samples(other), model.score_samples(frame)
    )


def test_objects_give_the_same_model(cls: type[Estimator]) -> None:
    # An array declares no order of its text, so sizes are left to the next test.
    frame = people().drop(columns="size")
    table = frame.astype(object).to_numpy()
    model, same = cls(**SMALL).fit(frame), cls(**SMALL).fit(table)
    assert same.likelihood_ == model.likelihood_
    assert same.loss_curve_ == model.loss_curve_
    np.testing.assert_array_equal(same.score_samples(table), model.score_samples(frame))
    done = same.impute(table)
    expected = model.impute(frame)
    assert done.dtype == object
    assert done[:, 4].tolist() == expected["town"].tolist()
    assert done[:, 3].tolist() == expected["member"].tolist()
    np.testing.assert_allclose(done[:, 0].astype(float), expected["height"])


def test_objects_come_back_as_what_they_were(cls: type[Estimator]) -> None:
    model = cls(**SMALL).fit(objects(people()))
    drawn = model.sample(40, random_state=1)
    assert drawn.dtype == object
    kinds = [{type(cell) for cell in column} for column in drawn.T]
    assert kinds[:6] == [{float}, {int}, {float}, {bool}, {str}, {str}]
    assert set(drawn[:, 4]) <= set(TOWNS)
    assert set(drawn[:, 5]) <= set(LEVELS[:3])


@pytest.mark.parametrize("container", CONTAINERS)
def test_answers_keep_the_schema(cls: type[Estimator], container: str) -> None:
    table = CONTAINERS[container](people())
    model = cls(**SMALL).fit(table)
    answers = {
        "sample": model.sample(300, random_state=0),
        "impute": model.impute(table),
        "draw": model.impute(table, n_imputations=1, random_state=0)[0],
        "reconstruct": model.reconstruct(table),
    }
    if isinstance(model, VAETransformer):
        answers["inverse"] = model.inverse_transform(model.transform(table))
    for name, answer in answers.items():
        assert type(answer) is type(table), name
        assert told(answer) == told(table), name
        rows = rows_of(answer)
        assert list(rows.columns) == list(people().columns), name
        assert not rows.isna().any(axis=None), name
        assert set(rows["town"]) <= set(TOWNS), name
        assert set(rows["size"]) <= set(LEVELS[:3]), name
        if name in ("sample", "draw"):  # the others are means
            # What was never below 0, or outside [0, 1], stays so.
            assert rows["children"].min() >= 0, name
            assert rows["share"].between(0.0, 1.0).all(), name
    drawn = rows_of(answers["sample"])
    assert drawn["share"].nunique() > 100
    assert set(drawn["town"]) == set(TOWNS)


def test_drawn_levels_have_the_shares_of_the_table(cls: type[Estimator]) -> None:
    frame = people(400, holes=0.0)
    drawn = cls(max_iter=20, random_state=0).fit(frame).sample(4000, random_state=0)
    for name in ("town", "size", "member"):
        share = frame[name].value_counts(normalize=True)
        found = drawn[name].value_counts(normalize=True)
        assert (found - share).abs().max() < 0.08, name


def test_index_and_unused_levels_of_pandas_are_kept(cls: type[Estimator]) -> None:
    frame = people().set_index(pd.Index([f"row {i}" for i in range(N)], name="id"))
    model = cls(**SMALL).fit(frame)
    low, high = model.predictive_interval(frame[7:9])
    for answer in (model.impute(frame[7:9]), model.reconstruct(frame[7:9]), low, high):
        pd.testing.assert_index_equal(answer.index, frame.index[7:9])
        assert answer["size"].cat.categories.tolist() == LEVELS
        assert answer["size"].cat.ordered


def test_unknown_levels_are_missing_with_one_warning(cls: type[Estimator]) -> None:
    frame = people()
    model = cls(**SMALL).fit(frame)
    new, holed = frame.copy(), frame.copy()
    new.loc[3:5, "town"], holed.loc[3:5, "town"] = "Rom", None
    new.loc[7, "size"], holed.loc[7, "size"] = "XL", None
    ask = ["score_samples", "explain", "reconstruct", "impute"]
    for name in [*ask, "transform"] if hasattr(cls, "transform") else ask:
        with pytest.warns(UserWarning, match="'town': 'Rom'.*'size': 'XL'") as caught:
            answer = getattr(model, name)(new)
        assert len(caught) == 1, name
        assert caught[0].filename == __file__, name
        expected = getattr(model, name)(holed)
        if name in ("impute", "transform") and isinstance(answer, pd.DataFrame):
            kept = ~frame.index.isin([3, 4, 5, 7])
            pd.testing.assert_frame_equal(answer[kept], expected[kept])
        else:
            np.testing.assert_array_equal(np.asarray(answer), np.asarray(expected))
    model.set_params(handle_unknown="error")
    with pytest.raises(ValueError, match=r"'town': 'Rom'.*refused"):
        model.score_samples(new)
    assert np.isfinite(model.score_samples(frame)).all()


@pytest.mark.parametrize(
    "name", ["describe", "repair", "predict", "select", "calibrate"]
)
def test_a_verdict_warns_of_unknown_levels_once(name: str) -> None:
    # Of rows far out, so that every question has something to look into.
    frame = people(holes=0.0)
    model = VAEAnomalyDetector(max_iter=3, random_state=0).fit(frame)
    new = frame[:12].copy()
    new["height"] *= 1e3
    new.loc[3:5, "town"] = "Rom"
    with pytest.warns(UserWarning, match="'town': 'Rom'") as caught:
        getattr(model, name)(new)
    assert [each.filename for each in caught] == [__file__]


def test_answers_in_parts_warn_of_unknown_levels_once() -> None:
    frame = people(holes=0.0)
    new = frame[:2].assign(town="Rom")
    model = VAEAnomalyDetector(max_iter=3, random_state=0).fit(frame)
    imputer = VAEImputer(max_iter=1, add_indicator=True).fit(frame)
    asked = [
        lambda: model.explain(new, expected=True),
        lambda: model.elbo(new, decompose=True),
        lambda: imputer.transform(new),
    ]
    for ask in asked:
        with pytest.warns(UserWarning, match="'town': 'Rom'") as caught:
            ask()
        assert [each.filename for each in caught] == [__file__]


def test_unknown_levels_of_many_rows_are_told_of_once() -> None:
    # More rows than are answered at once.
    frame = pd.DataFrame({"a": ["x", "y"] * 10, "b": np.arange(20.0)})
    model = VAETransformer(1, hidden_layer_sizes=(), max_iter=1, random_state=0)
    model.fit(frame)
    many = pd.concat([frame] * 900, ignore_index=True)
    many.loc[[0, 17_000], "a"] = "z"
    with pytest.warns(UserWarning, match="'a': 'z'") as caught:
        scores = model.score_samples(many)
    assert len(caught) == 1
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("most", [0, 1, 2.5])
def test_a_column_has_two_categories_at_least(most: float) -> None:
    frame = pd.DataFrame({"a": ["x", "y"] * 10})
    words = rf"'max_categories'.*range \[2, inf\) or None\. Got {most} instead"
    with pytest.raises(ValueError, match=words):
        VAETransformer(max_categories=most).fit(frame)


def test_infrequent_levels_share_a_code_and_keep_their_shares() -> None:
    rng = np.random.default_rng(0)
    town = np.repeat(["A", "B", "c", "d", "e"], [60, 40, 8, 4, 2])
    frame = pd.DataFrame({"town": town, "x": rng.normal(size=len(town))})
    for params in ({"max_categories": 3}, {"min_frequency": 10}):
        model = VAETransformer(1, **SMALL, **params).fit(frame)
        whole = VAETransformer(1, **SMALL).fit(frame)
        assert model.categories_[0].tolist() == ["A", "B", "c", "d", "e"]
        drawn = model.sample(6000, random_state=0)["town"].value_counts()
        rare = drawn[["c", "d", "e"]]
        np.testing.assert_allclose(
            rare / rare.sum(), [8 / 14, 4 / 14, 2 / 14], atol=0.06
        )
        # The shares are part of the score: rarer members are less likely by them.
        rows = pd.DataFrame({"town": ["c", "d", "e"], "x": [0.1] * 3})
        scores = model.score_samples(rows)
        np.testing.assert_allclose(np.diff(scores), np.log([0.5, 0.5]), atol=1e-6)
        assert not np.allclose(np.diff(whole.score_samples(rows)), np.log([0.5, 0.5]))
        # What a hole is filled with is a level, not a group of them.
        assert set(model.impute(rows.assign(town=None))["town"]) <= set("ABcde")


def test_score_sums_to_one_over_the_levels_and_cells() -> None:
    # Of a table of levels alone: every row there can be, infrequent levels included.
    rng = np.random.default_rng(0)
    code = rng.normal(size=200)
    frame = pd.DataFrame(
        {
            "town": np.array(list("ABcde"))[np.digitize(code, [-0.3, 0.6, 1.3, 1.8])],
            "size": pd.Categorical.from_codes(
                np.digitize(code + rng.normal(size=200), [-0.5, 0.5]), LEVELS[:3], True
            ),
            "member": code + rng.normal(size=200) > 0,
        }
    )
    model = VAETransformer(
        1, max_categories=3, n_score_samples=2000, max_iter=3, random_state=0
    ).fit(frame)
    every = pd.MultiIndex.from_product(
        [list("ABcde"), LEVELS[:3], [False, True]], names=frame.columns
    ).to_frame(index=False)
    every = every.astype({"size": frame["size"].dtype})
    mass = np.exp(model.score_samples(every))
    assert mass.sum() == pytest.approx(1.0, abs=0.01)
    # A missing cell is summed over.
    holed = every.assign(town=None)
    expected = mass.reshape(5, 3, 2).sum(axis=0).ravel()
    np.testing.assert_allclose(
        np.exp(model.score_samples(holed))[:6], expected, rtol=0.05
    )


def test_columns_by_name_position_or_mask_are_categorical() -> None:
    frame = people(holes=0.0)[["height", "children", "town"]]
    for columns in (["children"], [1], [False, True, False]):
        model = VAETransformer(1, categorical_features=columns, **SMALL).fit(frame)
        assert model.likelihood_ == ("gaussian", "categorical", "categorical")
        assert model.sample(3, random_state=0).dtypes.equals(frame.dtypes)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_no_warning_on_the_way(cls: type[Estimator], container: str) -> None:
    table = CONTAINERS[container](people(holes=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cls(n_components=1, random_state=0, max_iter=5).fit(table)
        model.partial_fit(table)
        model.score(table)
        model.elbo(table, decompose=True)
        model.explain(table)
        model.sample(3)
        model.predictive_interval(table)
