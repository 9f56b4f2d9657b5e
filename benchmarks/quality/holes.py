"""Outlier detection on tables with holes.

AUROC of ``VAEAnomalyDetector()`` and of IsolationForest on labelled outlier tables
(``X``, ``y`` with 1 = outlier, in the ``.npz`` files of a folder), fitted without the
labels on all rows, at most ``--rows`` of them: on the whole table, on the table without
a share of its cells that were taken out at random, and on that table filled in by
KNNImputer. Related tables count once, as one family.

Usage: python benchmarks/quality/holes.py --data FOLDER [--output FILE.md]
       [--seeds N] [--cache FILE.json] [--params JSON] [--detectors DETECTOR ...]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import Cache, report
from outlier import FAMILIES
from sklearn.base import OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.impute import KNNImputer
from sklearn.metrics import roc_auc_score

SHARE = 0.3
TABLES = ("whole", "with holes", "filled by KNN")


def contender(name: str, seed: int, params: dict) -> OutlierMixin:
    """An unfitted detector."""
    if name == "IsolationForest":
        return IsolationForest(random_state=seed)
    from skvae import VAEAnomalyDetector

    return VAEAnomalyDetector(random_state=seed, **params)


def variants(X: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The table whole, with holes, and filled in; no column and no row loses all."""
    source = np.random.default_rng([seed, len(X)])
    holes = source.random(X.shape) < SHARE
    holes[np.arange(len(X)), source.integers(X.shape[1], size=len(X))] = False
    holed = np.where(holes, np.nan, X)
    filled = KNNImputer(keep_empty_features=True).fit_transform(holed)
    return dict(zip(TABLES, (X, holed, filled)))


def measure(
    name: str, X: np.ndarray, y: np.ndarray, seed: int, params: dict
) -> dict[str, float]:
    """AUROC on the three tables, and the seconds of all."""
    found, seconds = {}, 0.0
    for kind, table in variants(X, seed).items():
        began = time.process_time()
        normality = contender(name, seed, params).fit(table).score_samples(table)
        seconds += time.process_time() - began
        found[kind] = float(roc_auc_score(y, -normality))
    return found | {"s": seconds}


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--params", type=json.loads, default={})
    parser.add_argument(
        "--detectors", nargs="*", default=["IsolationForest", "VAEAnomalyDetector"]
    )
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    cache = Cache(args.cache)
    rows = []
    for path in sorted(args.data.glob("*.npz")):
        data = np.load(path)
        X, y = data["X"].astype(np.float64), data["y"]
        chosen = np.random.default_rng(0).permutation(len(X))[: args.rows]
        X, y = X[chosen], y[chosen]
        if y.sum() < 2:
            continue
        family = FAMILIES.get(path.stem, path.stem)
        for seed in range(args.seeds):
            for name in args.detectors:
                label = name + (json.dumps(args.params) if name[0] == "V" else "")
                found = cache(
                    f"{path.stem}|{args.rows}|{seed}|{label}",
                    partial(measure, name, X, y, seed, args.params),
                )
                row = {"family": family, "table": path.stem, "detector": name}
                rows.append(row | found)
        print(path.stem, flush=True)
    long = pd.DataFrame(rows)
    tables = summary(long) + "\n\n" + details(long)
    print(tables)
    if args.output:
        command = (
            "python benchmarks/quality/holes.py --data FOLDER "
            f"--seeds {args.seeds} --output FILE"
        )
        note = (
            f"AUROC on {long.family.nunique()} families of ADBench's tables, at most "
            f"{args.rows} rows, {args.seeds} seeds; {SHARE:.0%} of the cells taken out "
            "at random; fall is what that costs. Seconds are CPU, of fit and score of "
            "the three tables."
        )
        title = "Outlier detection on tables with holes"
        args.output.write_text(report(title, command, note, tables))


def summary(long: pd.DataFrame) -> str:
    """Detectors in rows: AUROC, mean over families, and what the holes cost."""
    lines = [
        f"| detector | {' | '.join(TABLES)} | fall | s |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in long.groupby("detector", sort=False):
        families = part.groupby("family")[[*TABLES, "s"]].mean().mean()
        cells = [name, *(f"{families[kind]:.4f}" for kind in TABLES)]
        cells += [f"{families['whole'] - families['with holes']:.4f}"]
        lines.append("| " + " | ".join([*cells, f"{families['s']:.1f}"]) + " |")
    return "\n".join(lines)


def details(long: pd.DataFrame) -> str:
    """One line for each table."""
    names = list(dict.fromkeys(long.detector))
    wide = long.pivot_table(index="table", columns="detector", values=list(TABLES))
    columns = [(kind, name) for name in names for kind in TABLES]
    lines = ["| table | " + " | ".join(f"{n}, {k}" for k, n in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for table, row in wide.iterrows():
        cells = [table, *(f"{row[column]:.3f}" for column in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
