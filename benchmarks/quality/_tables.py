"""Tables for the benchmarks: frames with labels as text, holes, and kept figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn import datasets

BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes")
FOLDERS = ("uci", "mixed")


def bundled(name: str) -> pd.DataFrame:
    """A table of scikit-learn's, without its target."""
    X = getattr(datasets, f"load_{name}")().data
    return pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])


def numeric(path: Path) -> pd.DataFrame:
    """An ``.npz`` file with a table ``X``."""
    X = np.load(path)["X"].astype(np.float64)
    return pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])


def mixed(path: Path) -> pd.DataFrame:
    """An ``.npz`` file with numbers and coded categories, these as columns of text."""
    data = np.load(path)
    levels = json.loads(str(data["cat_levels"]))
    columns = {
        str(name): data["num"][:, j].astype(np.float64)
        for j, name in enumerate(data["num_names"])
    }
    for j, name in enumerate(data["cat_names"]):
        names = np.array([*map(str, levels[str(name)]), None], dtype=object)
        columns[str(name)] = names[data["cat"][:, j]]
    return pd.DataFrame(columns)


def target(path: Path) -> np.ndarray:
    """Class of each row of an ``.npz`` file, as text."""
    return np.load(path)["y"].astype(str).astype(object)


def load(name: str, folder: Path) -> pd.DataFrame:
    """A table by its name, from scikit-learn or the folders `uci` and `mixed`."""
    if name in BUNDLED:
        return bundled(name)
    path = folder / "mixed" / f"{name}.npz"
    return mixed(path) if path.exists() else numeric(folder / "uci" / f"{name}.npz")


def names(folder: Path) -> list[str]:
    """Names of all tables; `uci` and `mixed` share none."""
    found = [path.stem for f in FOLDERS for path in sorted((folder / f).glob("*.npz"))]
    return [*BUNDLED, *found]


def capped(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The same random rows for all, without columns that do not vary in them."""
    chosen = np.random.default_rng(0).permutation(len(frame))[:rows]
    frame = frame.iloc[np.sort(chosen)].reset_index(drop=True)
    return frame.loc[:, frame.nunique() > 1]


def is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def is_category(column: pd.Series) -> bool:
    """Text, or numbers that are all 0 or 1: cells to be guessed right, or not."""
    return is_text(column) or bool(column.dropna().isin((0, 1)).all())


@dataclass(frozen=True)
class OneHot:
    """A frame as numbers: standardised columns and an indicator for each level."""

    like: pd.DataFrame
    centre: pd.Series
    scale: pd.Series

    @classmethod
    def of(cls, frame: pd.DataFrame) -> OneHot:
        numbers = frame.loc[:, [not is_text(frame[name]) for name in frame]]
        scale = numbers.std(ddof=0).replace(0.0, 1.0)
        return cls(frame, numbers.mean(), scale)

    def levels(self, name: str) -> np.ndarray:
        return np.unique(self.like[name].dropna().astype(str))

    @property
    def widths(self) -> list[int]:
        """Number of coded columns of each column."""
        return [
            len(self.levels(name)) if is_text(self.like[name]) else 1
            for name in self.like
        ]

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """(n, sum(widths)); a missing label is missing in all of its indicators."""
        blocks = []
        for name in self.like:
            column = frame[name]
            if is_text(self.like[name]):
                block = (
                    column.to_numpy(dtype=object)[:, None] == self.levels(name)
                ).astype(float)
                block[column.isna().to_numpy()] = np.nan
            else:
                block = ((column - self.centre[name]) / self.scale[name]).to_numpy()
            blocks.append(block.reshape(len(frame), -1))
        return np.hstack(blocks)

    def decode(self, coded: np.ndarray) -> pd.DataFrame:
        """Back to a frame: of each label the level of the largest indicator."""
        columns, start = {}, 0
        for name, width in zip(self.like, self.widths):
            block = coded[:, start : start + width]
            start += width
            if is_text(self.like[name]):
                columns[name] = self.levels(name)[block.argmax(axis=1)].astype(object)
            else:
                columns[name] = block[:, 0] * self.scale[name] + self.centre[name]
        return pd.DataFrame(columns)


def remove_cells(
    frame: pd.DataFrame, mechanism: str, share: float, seed: int
) -> np.ndarray:
    """Cells to take out, (n, d) bool; those that miss already are not among them.

    "mcar" takes each cell with probability `share`. "mar" keeps a third of the columns
    and takes cells of the others with probabilities that follow a logistic regression
    on the kept ones, of mean `share`.
    """
    source = np.random.default_rng([seed, len(frame)])
    n, d = frame.shape
    if mechanism == "mcar":
        chance = np.full((n, d), share)
    else:
        kept = source.permutation(d)[: max(1, d // 3)]
        part = frame.iloc[:, kept]
        causes = np.nan_to_num(OneHot.of(part).encode(part))
        causes = (causes - causes.mean(axis=0)) / (causes.std(axis=0) + 1e-9)
        pull = causes @ source.standard_normal((causes.shape[1], d))
        pull = 2.0 * (pull - pull.mean(axis=0)) / (pull.std(axis=0) + 1e-9)
        chance = _logistic_of_mean(pull, share)
        chance[:, kept] = 0.0
    holes = source.random((n, d)) < chance
    holes[source.permutation(n)[:2]] = False  # no column without two cells
    return holes & frame.notna().to_numpy()


def _logistic_of_mean(pull: np.ndarray, share: float) -> np.ndarray:
    """sigmoid(pull + intercept), the intercept by bisection on the mean of columns."""
    low, high = np.full(pull.shape[1], -20.0), np.full(pull.shape[1], 20.0)
    for _ in range(40):
        middle = (low + high) / 2
        above = (1 / (1 + np.exp(-pull - middle))).mean(axis=0) > share
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 1 / (1 + np.exp(-pull - middle))


def with_holes(frame: pd.DataFrame, holes: np.ndarray) -> pd.DataFrame:
    """The frame without these cells: NaN among numbers, None among labels."""
    columns = {}
    for j, name in enumerate(frame):
        empty = None if is_text(frame[name]) else np.nan
        column = frame[name].to_numpy(copy=True)
        column[holes[:, j]] = empty
        columns[name] = column
    return pd.DataFrame(columns)


class Cache:
    """Figures by key, kept in a file so that a run can be resumed."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        kept = path is not None and path.exists()
        self.figures = json.loads(path.read_text()) if kept else {}

    def __call__(
        self, key: str, measure: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        if key not in self.figures:
            self.figures[key] = measure()
            if self.path:
                self.path.write_text(json.dumps(self.figures))
        return self.figures[key]


def report(title: str, command: str, note: str, tables: str) -> str:
    """What is written to the file: who made it with which versions, and the tables."""
    versions = (
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}, "
        f"NumPy {np.__version__}, Python {sys.version.split()[0]}"
    )
    return f"# {title}\n\nMade by `{command}` with {versions}. {note}\n\n{tables}\n"
