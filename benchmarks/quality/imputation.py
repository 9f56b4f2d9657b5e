"""Imputation against means, neighbours, regressions, forests and an EM-Gaussian.

Cells are taken out of tables at random (30 and 50 %, "mcar") or with chances that
depend on the cells of other columns (30 %, "mar"), and filled in again:

- RMSE: of the numeric cells taken out, in units of the standard deviation of their
  column; 0/1 columns are not among them;
- accuracy: share of the right labels among the categorical and 0/1 cells taken out;
- coverage: share of the numeric cells within their interval of 90 % (ours: of the
  first seed).

All methods get the same rows, at most ``--rows`` of a table, and nothing else. The
others work on standardised columns with an indicator for each level; where a label is
missing all of its indicators are, and they do not help to predict one another. The
largest is the answer. The forests are kept small: 10 trees of leaves of 3 rows, each
column from 10 others, 3 rounds. Ours is ``VAEImputer()`` on the frame as it is.

Usage: python benchmarks/quality/imputation.py --data FOLDER [--output FILE.md]
       [--cache FILE.json] [--params JSON] [--only TABLE ...] [--methods METHOD ...]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _baselines import GaussianEM
from _tables import (
    Cache,
    OneHot,
    capped,
    is_category,
    load,
    names,
    remove_cells,
    report,
    with_holes,
)
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

MECHANISMS = {"mcar 30 %": ("mcar", 0.3), "mcar 50 %": ("mcar", 0.5)}
MECHANISMS |= {"mar 30 %": ("mar", 0.3)}
# A label that all but a few rows share tells no methods apart.
ALMOST_CONSTANT = 0.99
# Small numeric tables whose mean is also shown.
SIX = ("banknote", "breast_cancer", "concrete", "diabetes", "energy", "iris")
Filled = tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]


class BlockImputer(IterativeImputer):
    """IterativeImputer in which the indicators of one column ignore one another.

    They sum to one: from the others each would be predicted to stay as it is.
    """

    def fit_blocks(self, coded: np.ndarray, widths: list[int]) -> np.ndarray:
        self._block = np.repeat(np.arange(len(widths)), widths)
        return self.fit_transform(coded)

    def _get_neighbor_feat_idx(
        self, n_features: int, feat_idx: int, abs_corr_mat: np.ndarray | None
    ) -> np.ndarray:
        siblings = self._block == self._block[feat_idx]
        if abs_corr_mat is not None:
            abs_corr_mat = np.where(siblings[:, None], 1e-12, abs_corr_mat)
            abs_corr_mat /= abs_corr_mat.sum(axis=0)
        chosen = super()._get_neighbor_feat_idx(n_features, feat_idx, abs_corr_mat)
        return chosen[~siblings[chosen]]


def mean_mode(code: OneHot, coded: np.ndarray, seed: int) -> np.ndarray:
    return SimpleImputer().fit_transform(coded)


def neighbours(code: OneHot, coded: np.ndarray, seed: int) -> np.ndarray:
    return KNNImputer().fit_transform(coded)


def ridge(code: OneHot, coded: np.ndarray, seed: int) -> np.ndarray:
    imputer = BlockImputer(random_state=seed, max_iter=5)
    return imputer.fit_blocks(coded, code.widths)


def forest(code: OneHot, coded: np.ndarray, seed: int) -> np.ndarray:
    trees = RandomForestRegressor(10, min_samples_leaf=3, random_state=seed)
    imputer = BlockImputer(
        trees, random_state=seed, max_iter=3, n_nearest_features=10, tol=0.0
    )
    return imputer.fit_blocks(coded, code.widths)


def on_code(fill: Callable[[OneHot, np.ndarray, int], np.ndarray]) -> Callable:
    """A method that works on numbers, as one that works on frames."""

    def method(holed: pd.DataFrame, seed: int) -> Filled:
        code = OneHot.of(holed)
        return code.decode(fill(code, code.encode(holed), seed)), None, None

    return method


def gaussian(holed: pd.DataFrame, seed: int) -> Filled:
    code = OneHot.of(holed)
    coded = code.encode(holed)
    filled, deviation = GaussianEM().fit(coded).impute(coded)
    reach = 1.645 * deviation
    return tuple(code.decode(filled + shift) for shift in (0.0, -reach, reach))


def ours(params: dict) -> Callable:
    def method(holed: pd.DataFrame, seed: int) -> Filled:
        from skvae import VAEImputer

        imputer = VAEImputer(random_state=seed, **params)
        filled = imputer.fit_transform(holed)
        if seed:  # solving for quantiles costs as much as the fit
            return filled, None, None
        return filled, *imputer.predictive_interval(holed, 0.9)

    return method


OTHERS = {
    "mean/mode": on_code(mean_mode),
    "KNN": on_code(neighbours),
    "Ridge": on_code(ridge),
    "Forest": on_code(forest),
    "EM": gaussian,
}


def figures(frame: pd.DataFrame, holes: np.ndarray, filled: Filled) -> dict[str, float]:
    """RMSE, accuracy and coverage of the cells taken out; absent without cells."""
    completed, low, high = filled
    errors, hits, covered = [], [], []
    for j, name in enumerate(frame):
        out, truth = holes[:, j], frame[name]
        guess = completed[name].to_numpy()[out]
        if is_category(truth):
            if truth.value_counts(normalize=True).max() > ALMOST_CONSTANT:
                continue
            if pd.api.types.is_numeric_dtype(truth):
                guess = guess.astype(float).round()
            hits.append(guess == truth.to_numpy()[out])
            continue
        values = truth.to_numpy()[out]
        errors.append((guess.astype(float) - values) / truth.std(ddof=0))
        if low is not None:
            below = low[name].to_numpy()[out] <= values
            covered.append(below & (values <= high[name].to_numpy()[out]))
    found = {}
    if errors:
        found["rmse"] = float(np.sqrt(np.square(np.concatenate(errors)).mean()))
    if hits:
        found["accuracy"] = float(np.concatenate(hits).mean())
    if covered:
        found["coverage"] = float(np.concatenate(covered).mean())
    return found


def measure(
    fill: Callable[[pd.DataFrame, int], Filled],
    frame: pd.DataFrame,
    holes: np.ndarray,
    holed: pd.DataFrame,
    seed: int,
) -> dict[str, float]:
    """Figures and seconds of a method."""
    began = time.process_time()
    filled = fill(holed, seed)
    seconds = time.process_time() - began
    return figures(frame, holes, filled) | {"seconds": seconds}


def runs(
    args: argparse.Namespace, methods: dict[str, Callable], cache: Cache
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Table, mechanism, method and figures, from the cache where it has them."""
    for table in args.only or names(args.data):
        frame = capped(load(table, args.data), args.rows)
        for mechanism, (kind, share) in MECHANISMS.items():
            for seed in range(args.seeds):
                holes = remove_cells(frame, kind, share, seed)
                holed = with_holes(frame, holes)
                for method, fill in methods.items():
                    label = json.dumps(args.params) if method == "VAE" else method
                    key = f"{table}|{args.rows}|{mechanism}|{seed}|{label}"
                    task = partial(measure, fill, frame, holes, holed, seed)
                    yield table, mechanism, method, cache(key, task)
        print(table, flush=True)


def summary(long: pd.DataFrame) -> str:
    """Methods in rows: means over tables, ranks, and the worst ratio to the best."""
    lines = [
        "| method | rank | "
        + " | ".join(f"RMSE, {m}" for m in MECHANISMS)
        + " | RMSE, six tables | accuracy | coverage | s a table |"
    ]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    ranks = figures_by_table(long).apply(ranked, axis=1)
    for method in ranks.columns:
        part = long[long.method == method]
        mcar = part[(part.mechanism == "mcar 30 %") & part.table.isin(SIX)]
        cells = [method, f"{ranks[method].mean():.2f}"]
        cells += [f"{part[part.mechanism == m].rmse.mean():.3f}" for m in MECHANISMS]
        cells += [f"{mcar.rmse.mean():.3f}", f"{part.accuracy.mean():.3f}"]
        shown = part.groupby(["table", "mechanism"]).coverage.mean().dropna()
        cells += [
            f"{shown.mean():.3f} ({shown.min():.2f} to {shown.max():.2f})"
            if len(shown)
            else ""
        ]
        cells += [f"{part.seconds.mean():.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures_by_table(long: pd.DataFrame) -> pd.DataFrame:
    """RMSE and accuracy, seeds averaged: tables in rows, methods beside one another."""
    wide = long.pivot_table(
        index=["table", "mechanism"],
        columns="method",
        values=["rmse", "accuracy"],
        sort=False,
    )
    parts = {name: wide[name].dropna(how="all") for name in wide.columns.levels[0]}
    parts = {name: parts[name] for name in ("rmse", "accuracy") if name in parts}
    return pd.concat(parts)[list(dict.fromkeys(long.method))]


def ranked(row: pd.Series) -> pd.Series:
    """1 for the least RMSE or the greatest accuracy."""
    values = row if row.name[0] == "rmse" else -row
    return pd.Series(rankdata(values), row.index)


def worse_than_best(row: pd.Series) -> float:
    """Ours to the best of the others; above one where ours is worse."""
    others = row.drop("VAE")
    if row.name[0] == "rmse":
        return row["VAE"] / others.min()
    return others.max() / row["VAE"]


def details(long: pd.DataFrame) -> str:
    """One line for each table, mechanism and figure."""
    found = figures_by_table(long)
    methods = list(found.columns)
    lines = ["| figure | table | mechanism | " + " | ".join(methods) + " | ratio |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for index, row in found.iterrows():
        compared = "VAE" in methods and len(methods) > 1
        ratio = f"{worse_than_best(row):.3f}" if compared else ""
        cells = [*index, *(f"{value:.3f}" for value in row), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--params", type=json.loads, default={})
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    methods = OTHERS | {"VAE": ours(args.params)}
    methods = {m: methods[m] for m in args.methods or methods}
    cache = Cache(args.cache)
    columns = ("table", "mechanism", "method")
    long = pd.DataFrame(
        [dict(zip(columns, run)) | run[3] for run in runs(args, methods, cache)]
    )
    long = long.reindex(columns=[*columns, "rmse", "accuracy", "coverage", "seconds"])
    tables = summary(long) + "\n\n" + details(long)
    print(tables)
    if args.output:
        command = "python benchmarks/quality/imputation.py --data FOLDER --output FILE"
        note = (
            f"At most {args.rows} rows of a table, {args.seeds} seeds. The script "
            "tells what the columns mean; rank is the mean over the lines of the "
            "second table, ratio that of VAE to the best of the others (of accuracies "
            "the inverse): above one VAE is worse. The six tables are "
            f"{', '.join(SIX)}, 30 % mcar. "
            "Seconds are CPU."
        )
        args.output.write_text(report("Imputation", command, note, tables))


if __name__ == "__main__":
    main()
