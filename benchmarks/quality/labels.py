"""What the labels of a few rows gain: the detector with and without them.

Tables and families are those of ``outlier.py``, at most ``--rows`` of their rows. Half
of the rows, outliers among them, are for the fit, the others are judged; the labels are
those of some known outliers among the rows of the fit, or of a share of them.

Each figure is appended to ``--results`` as soon as it is there: a run that was stopped
goes on where it was when called again.

Usage: python benchmarks/quality/labels.py --data FOLDER --results FILE.jsonl
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from outlier import FAMILIES, _read, load
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import VAEAnomalyDetector

KNOWN = ("none", "5 outliers", "10 outliers", "5 % of the rows")


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    done = {(r["table"], r["seed"]) for r in _read(args.results, args.rows)}
    with args.results.open("a") as file:
        for seed in range(args.seeds):
            for path in sorted(args.data.glob("*.npz")):
                if (path.stem, seed) not in done:
                    place = {"table": path.stem, "seed": seed, "rows": args.rows}
                    for figures in measure(load(path, args.rows, seed), seed):
                        file.write(json.dumps(place | figures) + "\n")
                    file.flush()
    text = report(_read(args.results, args.rows), args)
    print(text)
    if args.output:
        args.output.write_text(text)


def measure(
    rows: tuple[np.ndarray, np.ndarray] | None, seed: int
) -> list[dict[str, Any]]:
    """Figures of each choice of known rows; none where a half has no outliers."""
    if rows is None:
        return []
    X, y = rows
    order = np.random.default_rng(100 + seed).permutation(len(X))
    fitted, judged = order[: len(X) // 2], order[len(X) // 2 :]
    outliers = np.flatnonzero(y[fitted])
    if len(outliers) < 2 or not y[judged].any():
        return []
    known = {
        "none": outliers[:0],
        "5 outliers": outliers[:5],
        "10 outliers": outliers[:10],
        "5 % of the rows": np.arange(max(2, len(fitted) // 20)),
    }
    figures = []
    for name, places in known.items():
        labels = np.zeros(len(fitted))
        labels[places] = 1.0 - 2.0 * y[fitted][places]
        detector = VAEAnomalyDetector(random_state=seed).fit(X[fitted], labels)
        scores = -detector.score_samples(X[judged])
        figures.append(
            {
                "known": name,
                "auroc": roc_auc_score(y[judged], scores),
                "precision": average_precision_score(y[judged], scores),
            }
        )
    return figures


def report(records: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The table."""
    cells: dict[str, dict[str, list[list[float]]]] = {name: {} for name in KNOWN}
    for r in records:
        family = FAMILIES.get(r["table"], r["table"])
        own = cells[r["known"]].setdefault(family, [])
        own.append([r["auroc"], r["precision"]])
    figures = {
        name: np.array([np.mean(own[family], axis=0) for family in sorted(own)])
        for name, own in cells.items()
    }
    first = figures["none"]
    lines = [
        "# What the labels of a few rows gain\n\nMade by `python "
        "benchmarks/quality/labels.py --data FOLDER --results FILE --rows "
        f"{args.rows} --seeds {args.seeds}` with scikit-learn {sklearn.__version__} "
        f"and torch {torch.__version__}: `VAEAnomalyDetector(random_state=seed)."
        f"fit(X, y)` on half of the rows of {len(first)} families of tables, judged on "
        "the other half. Known outliers have the label -1, normal rows 1, all others "
        "0; of 5 % of the rows some hold no outlier. Wins and losses count the "
        "families; worst is the largest loss of a family.\n",
        "| known | AUROC | change | wins | losses | worst | average precision | change "
        "| wins | losses |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in figures.items():
        auroc, precision = own.mean(axis=0)
        more, finer = (own - first).T
        lines.append(
            f"| {name} | {auroc:.3f} | {more.mean():+.3f} | {(more > 0).sum()} "
            f"| {(more < 0).sum()} | {more.min():+.3f} | {precision:.3f} "
            f"| {finer.mean():+.3f} | {(finer > 0).sum()} | {(finer < 0).sum()} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
