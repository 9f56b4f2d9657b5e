"""The detector's defaults against their alternatives, and against IsolationForest.

AUROC on labelled outlier tables (``X``, ``y`` with 1 = outlier, in the ``.npz`` files
of a folder), fitted without the labels on all rows, at most ``--rows`` of them. Related
tables count once, as one family.

Usage: python benchmarks/quality/detector.py --data FOLDER [--output FILE.md]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import VAEAnomalyDetector

# Tables of one source: their mean counts as one table.
FAMILIES = {
    "satellite": "statlog",
    "satimage-2": "statlog",
    "landsat": "statlog",
    "WBC": "breastw",
    "thyroid": "annthyroid",
}
ALTERNATIVES = {
    "defaults": {},
    "trim=0.1": {"trim": 0.1},
    "trim=0": {"trim": 0.0},
    'start="random"': {"start": "random"},
    'likelihood="gaussian"': {"likelihood": "gaussian"},
    'noise="network"': {"noise": "network"},
    '"reconstruction_probability"': {"anomaly_score": "reconstruction_probability"},
    '"log_likelihood"': {"anomaly_score": "log_likelihood"},
    '"reconstruction"': {"anomaly_score": "reconstruction"},
    "4 members": {"n_estimators": 4},
}


def contenders() -> dict[str, object]:
    """Names and unfitted detectors."""
    forest = {"IsolationForest": IsolationForest(random_state=0)}
    return forest | {
        name: VAEAnomalyDetector(random_state=0, **params)
        for name, params in ALTERNATIVES.items()
    }


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    figures: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for path in sorted(args.data.glob("*.npz")):
        data = np.load(path)
        X, y = data["X"].astype(np.float64), data["y"]
        rows = np.random.default_rng(0).permutation(len(X))[: args.rows]
        X, y = X[rows], y[rows]
        if y.sum() < 2:
            continue
        family = FAMILIES.get(path.stem, path.stem)
        for name, detector in contenders().items():
            began = time.process_time()
            abnormality = -detector.fit(X).score_samples(X)
            seconds = time.process_time() - began
            figures.setdefault(name, {}).setdefault(family, []).append(
                (
                    roc_auc_score(y, abnormality),
                    average_precision_score(y, abnormality),
                    seconds,
                )
            )
        print(path.stem, flush=True)
    lines = [
        "| detector | AUROC | average precision | wins against IsolationForest | s |",
        "|---|---|---|---|---|",
    ]
    forest = _means(figures["IsolationForest"])
    for name, families in figures.items():
        means = _means(families)
        wins = int((means[:, 0] > forest[:, 0]).sum())
        auroc, precision, seconds = means.mean(axis=0)
        lines.append(
            f"| {name} | {auroc:.3f} | {precision:.3f} | {wins} of {len(means)} "
            f"| {seconds:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        head = "# The detector's defaults and their alternatives\n\n"
        head += "Made by `python benchmarks/quality/detector.py --data FOLDER --output "
        head += f"FILE --rows {args.rows}` with scikit-learn {sklearn.__version__} and "
        head += f"torch {torch.__version__}, on {len(forest)} families of ADBench's "
        head += "tables; one seed. Seconds are CPU, fit and score of a table.\n\n"
        args.output.write_text(head + text)


def _means(families: dict[str, list[tuple[float, float, float]]]) -> np.ndarray:
    """Mean figures of each family, (n_families, 3)."""
    return np.array([np.mean(tables, axis=0) for tables in families.values()])


if __name__ == "__main__":
    main()
