"""Saved estimators answer as before, and damaged files are refused."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError

import skvae
from skvae import EpochMonitor, VAEAnomalyDetector, VAEImputer, VAETransformer
from skvae.inference.aggregate import Aggregate
from skvae.inference.donors import Donors
from skvae.model.completion import Completion
from skvae.persistence import _BLANK, _digest

# Such small tables let some fits warn, which is not what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:grad and param do not obey:UserWarning"),
]

rng = np.random.default_rng(0)
TABLE = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 4)) + rng.normal(size=(60, 4))
MIXED = np.column_stack([TABLE, TABLE[:, 0] > 0, np.full(60, 3.0)])
FRAME = pd.DataFrame(TABLE, columns=["a", "ä", "1.5", "d"]).assign(
    flag=TABLE[:, 0] > 0, count=pd.array(rng.integers(0, 9, 60), dtype="Int64")
)
HOLED = FRAME.assign(
    town=rng.choice(["Łódź", "Bonn", None], 60),
    size=pd.Categorical(rng.choice(["S", "M"], 60), ["S", "M", "L"], ordered=True),
    score=pd.Categorical(rng.choice([1.0, 2.5, -1.0], 60)),
    born=pd.Timestamp("1980-01-01") + pd.to_timedelta(rng.integers(0, 900, 60), "D"),
).mask(rng.random((60, 10)) < 0.1)
COUNTED = scipy.sparse.csr_array(rng.poisson([0.5, 1.0, 4.0], (60, 3)))
SMALL: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}

CASES = {
    "array": (VAETransformer(**SMALL), TABLE),
    "float32": (VAETransformer(**SMALL), TABLE.astype(np.float32)),
    "integers": (VAETransformer(**SMALL), (10 * TABLE).astype(np.int16)),
    "0/1 and constant columns": (VAETransformer(**SMALL), MIXED),
    "pandas": (VAETransformer(**SMALL), FRAME),
    "polars": (VAETransformer(**SMALL), pl.from_pandas(FRAME)),
    "pandas out": (VAETransformer(**SMALL).set_output(transform="pandas"), FRAME),
    "numbered frame": (VAETransformer(**SMALL), pd.DataFrame(TABLE)),
    "any table": (VAETransformer(**SMALL, min_frequency=0.4), HOLED),
    "objects": (
        VAETransformer(**SMALL),
        HOLED[["a", "town", "flag"]].to_numpy(dtype=object),
    ),
    "sparse": (VAETransformer(**SMALL, likelihood="poisson"), COUNTED),
    "imputer": (VAEImputer(**SMALL, add_indicator=True), HOLED),
    "linear": (VAETransformer(2, hidden_layer_sizes=(), noise="shared"), TABLE),
    "autoencoder": (VAETransformer(**SMALL, variational=False), TABLE),
    "array parameters": (
        VAETransformer(
            hidden_layer_sizes=np.array([3, 2]),
            likelihood={np.int64(0): "student_t"},
            alpha=np.float32(0.25),
            max_iter=3,
        ),
        TABLE,
    ),
    "detector": (VAEAnomalyDetector(**SMALL), FRAME),
    "ensemble": (VAEAnomalyDetector(**SMALL, n_estimators=2), MIXED),
    "autoencoders": (
        VAEAnomalyDetector(**SMALL, n_estimators=2, variational=False),
        TABLE,
    ),
    "squared error": (
        VAEAnomalyDetector(**SMALL, anomaly_score="reconstruction"),
        TABLE,
    ),
}
QUESTIONS = ("transform", "posterior", "score_samples", "score", "elbo", "explain")
IN_UNITS = ("reconstruct", "impute")
VERDICTS = ("predict", "decision_function", "p_values")


def cells(answer: Any) -> Any:
    return answer.toarray() if scipy.sparse.issparse(answer) else np.asarray(answer)


def parts(answer: Any) -> list[Any]:
    """The arrays of an answer; those of `posterior` are two."""
    return [cells(part) for part in (answer if type(answer) is tuple else [answer])]


def saved(estimator: Any, folder: Path) -> Path:
    path = folder / "model.skvae"
    estimator.save(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(VAEAnomalyDetector(**SMALL).fit(TABLE), tmp_path)


def rewritten(path: Path, change: Any) -> Path:
    """The file with another description, and the checksum that goes with it."""
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    description = json.loads(header["__metadata__"]["skvae"])
    change(description)
    description["sha256"] = _BLANK
    metadata = {"skvae": json.dumps(description)}
    new = write_safetensors(read_safetensors(raw), metadata=metadata)
    path.write_bytes(new.replace(_BLANK.encode(), _digest(new).encode(), 1))
    return path


@pytest.mark.parametrize(("estimator", "X"), CASES.values(), ids=CASES)
def test_every_answer_is_the_same_to_the_bit(
    estimator: Any, X: Any, tmp_path: Path
) -> None:
    estimator.fit(X)
    again = skvae.load(str(saved(estimator, tmp_path)))
    assert type(again) is type(estimator)
    for name, value in estimator.get_params().items():
        assert_array_equal(getattr(again, name), value, err_msg=name)
    questions = [*QUESTIONS, *IN_UNITS]
    if isinstance(estimator, VAEImputer):
        questions.remove("posterior")
    if isinstance(estimator, VAEAnomalyDetector):
        questions += VERDICTS
    for question in questions:
        expected, got = getattr(estimator, question)(X), getattr(again, question)(X)
        assert type(got) is type(expected), question
        for one, other in zip(parts(got), parts(expected), strict=True):
            assert_array_equal(one, other, err_msg=question, strict=True)
        assert str(getattr(got, "dtypes", "")) == str(getattr(expected, "dtypes", ""))
    answers = [each.sample(5, random_state=1) for each in (estimator, again)]
    assert_array_equal(*map(cells, answers), strict=True)
    if not isinstance(estimator, VAEImputer):
        codes = np.array(estimator.transform(X))
        answers = [each.inverse_transform(codes) for each in (estimator, again)]
        assert_array_equal(*map(cells, answers), strict=True)


@pytest.mark.parametrize(("estimator", "X"), CASES.values(), ids=CASES)
def test_every_fitted_attribute_comes_back(
    estimator: Any, X: Any, tmp_path: Path
) -> None:
    estimator.fit(X)
    again = skvae.load(saved(estimator, tmp_path))
    # Pickles of equal values are equal: the estimators hold plain values and arrays.
    assert set(vars(again)) == set(vars(estimator))
    for name, value in vars(estimator).items():
        if isinstance(value, np.ndarray):
            assert_array_equal(vars(again)[name], value, strict=True)
            assert vars(again)[name].flags.writeable
        elif name == "categories_":
            for own, other in zip(vars(again)[name], value, strict=True):
                assert_array_equal(own, other)
        elif isinstance(value, Aggregate | Completion | Donors):
            for part, held in vars(value).items():
                assert_array_equal(getattr(vars(again)[name], part), held)
        elif name != "_model":
            assert vars(again)[name] == value, name


def test_partial_fit_goes_on_where_it_was(tmp_path: Path) -> None:
    estimator = VAETransformer(**SMALL).partial_fit(TABLE[:30])
    again = skvae.load(saved(estimator, tmp_path))
    for each in (estimator, again):
        each.partial_fit(TABLE[30:])
    assert_array_equal(again.score_samples(TABLE), estimator.score_samples(TABLE))


def test_what_belongs_to_one_program_stays_behind(tmp_path: Path) -> None:
    estimator = VAETransformer(
        hidden_layer_sizes=(), random_state=np.random.RandomState(0)
    )
    if hasattr(estimator, "set_callbacks"):
        estimator.set_callbacks(EpochMonitor())
    again = skvae.load(saved(estimator.fit(TABLE), tmp_path))
    assert again.random_state is None
    assert not hasattr(again, "_skl_callbacks")
    assert_array_equal(again.transform(TABLE), estimator.transform(TABLE))


def test_any_safetensors_reader_reads_the_arrays(path: Path) -> None:
    arrays = read_safetensors(path.read_bytes())
    estimator = skvae.load(path)
    assert_array_equal(arrays["state._model.params"], estimator._model.params.flat)


def test_equal_fits_are_equal_files(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    VAEAnomalyDetector(**SMALL).fit(TABLE).save(other)
    assert other.read_bytes() == path.read_bytes()


def test_no_training_row_is_in_the_file(tmp_path: Path) -> None:
    raw = saved(VAETransformer(**SMALL).fit(TABLE), tmp_path).read_bytes()
    cells = TABLE[1:-1]  # the first or last could be a bound of its column
    inner = (cells != TABLE.min(0)) & (cells != TABLE.max(0))
    assert not any(
        cell.tobytes() in raw or repr(float(cell)).encode() in raw
        for cell in cells[inner]
    )


# What is refused


def test_any_flipped_byte_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    damaged = path.with_name("damaged")
    for place in range(0, len(raw), 23):
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match="damaged"):
            skvae.load(damaged)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0"])
def test_other_length_is_noticed(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.skvae is damaged: the SHA-256"):
        skvae.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", pickle.dumps(TABLE), write_safetensors({"a": TABLE})],
    ids=["empty", "text", "pickle", "other safetensors"],
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "something"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a model that skvae saved"):
        skvae.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        skvae.load(tmp_path / "nowhere")


def test_newer_format_asks_for_an_upgrade(path: Path) -> None:
    rewritten(path, lambda description: description.update(format=99))
    with pytest.raises(ValueError, match=r"format 99.*Upgrade skvae"):
        skvae.load(path)


def test_unknown_class_is_refused(path: Path) -> None:
    rewritten(path, lambda description: description.update({"class": "Popen"}))
    with pytest.raises(ValueError, match="class 'Popen'"):
        skvae.load(path)


def test_unknown_parameter_is_named(path: Path) -> None:
    rewritten(path, lambda d: d["params"]["dict"].append(["wings", 2]))
    with pytest.raises(ValueError, match="wings"):
        skvae.load(path)


def test_unknown_kind_of_value_is_refused(path: Path) -> None:
    rewritten(path, lambda d: d["state"]["dict"].append(["x", {"eval": "1"}]))
    with pytest.raises(ValueError, match="'eval'"):
        skvae.load(path)


def test_other_version_warns(path: Path) -> None:
    def older(description: dict[str, Any]) -> None:
        pairs = dict(description["state"]["dict"])
        pairs["_skvae_version"] = "0.0.1"
        description["state"]["dict"] = [list(pair) for pair in pairs.items()]

    rewritten(path, older)
    with pytest.warns(InconsistentVersionWarning, match=r"0\.0\.1") as caught:
        skvae.load(path)
    assert [warning.filename for warning in caught] == [__file__]


def test_rewriting_alone_changes_nothing(path: Path) -> None:
    before = skvae.load(path).score_samples(TABLE)
    rewritten(path, lambda description: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(skvae.load(path).score_samples(TABLE), before)


def test_unfitted_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        VAETransformer().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_subclass_is_refused(tmp_path: Path) -> None:
    class Mine(VAETransformer):
        pass

    with pytest.raises(TypeError, match="got Mine"):
        Mine(hidden_layer_sizes=()).fit(TABLE).save(tmp_path / "model")


def test_foreign_value_is_named(tmp_path: Path) -> None:
    estimator = VAETransformer(hidden_layer_sizes=()).fit(TABLE)
    estimator.tag_ = {"owner": object()}
    with pytest.raises(TypeError, match=r"state\.tag_\.owner is object"):
        estimator.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
