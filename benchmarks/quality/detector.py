"""The detector's defaults, each changed for itself: what every ingredient gains.

Tables, protocols, families and results are those of ``outlier.py``.

Usage: python benchmarks/quality/detector.py --data FOLDER --results FILE.jsonl
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
from outlier import PROTOCOLS, Scorer, _read, _timed, family_means, run

from skvae import VAEAnomalyDetector

ALTERNATIVES: dict[str, dict[str, dict[str, Any]]] = {
    "outliers": {
        "defaults": {},
        "novelty=True": {"novelty": True},
        'start="random"': {"start": "random"},
        'start="linear"': {"start": "linear"},
        "n_estimators=1": {"n_estimators": 1},
        "n_estimators=2": {"n_estimators": 2},
        "n_estimators=8": {"n_estimators": 8},
        '"reconstruction_probability"': {"anomaly_score": "reconstruction_probability"},
        '"elbo"': {"anomaly_score": "elbo"},
        '"log_likelihood"': {"anomaly_score": "log_likelihood"},
        '"aggregate"': {"anomaly_score": "aggregate"},
        "trim=0": {"trim": 0.0},
        "trim=0.1": {"trim": 0.1},
        'likelihood="gaussian"': {"likelihood": "gaussian"},
        'noise="network"': {"noise": "network"},
        "hidden_layer_sizes=(64, 64)": {"hidden_layer_sizes": (64, 64)},
        "early_stopping=True": {"early_stopping": True},
    },
    "novelties": {
        "defaults": {},
        "novelty=False": {"novelty": False},
        '"elbo"': {"anomaly_score": "elbo"},
        '"log_likelihood"': {"anomaly_score": "log_likelihood"},
        '"code_likelihood"': {"anomaly_score": "code_likelihood"},
        'start="random"': {"start": "random"},
        "max_iter=1": {"max_iter": 1},
        "n_estimators=4": {"n_estimators": 4},
        "trim=0.1": {"trim": 0.1},
        'likelihood="gaussian"': {"likelihood": "gaussian"},
        'noise="network"': {"noise": "network"},
        "early_stopping=True": {"early_stopping": True},
    },
}


def scorer_of(params: dict[str, Any]) -> Scorer:
    """The detector with these parameters."""

    def scorer(X: np.ndarray, other: np.ndarray | None, seed: int) -> Any:
        own = {"novelty": other is not None, "random_state": seed, **params}
        return _timed(VAEAnomalyDetector(**own), X, X if other is None else other)

    return scorer


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--only-report", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    records = _read(args.results, args.rows)
    if not args.only_report:
        scorers = {
            protocol: {name: scorer_of(params) for name, params in own.items()}
            for protocol, own in ALTERNATIVES.items()
        }
        with args.results.open("a") as file:
            for record in run(args, records, scorers):
                file.write(json.dumps(record) + "\n")
                file.flush()
    text = (
        "# The detector's defaults, each changed for itself\n\nMade by `python "
        "benchmarks/quality/detector.py --data FOLDER --results FILE --rows "
        f"{args.rows} --seeds {args.seeds}` with scikit-learn {sklearn.__version__} "
        f"and torch {torch.__version__}; tables and protocols are those of "
        "[outlier.md](outlier.md). Differences are to the defaults; wins count the "
        "families on which the change is better. Seconds are CPU, of a table, fit and "
        "score.\n"
    )
    records = _read(args.results, args.rows)
    text += "".join(report(records, protocol) for protocol in PROTOCOLS)
    print(text)
    if args.output:
        args.output.write_text(text)


def report(records: list[dict[str, Any]], protocol: str) -> str:
    """The table of one protocol."""
    figures = family_means(records, protocol)
    first = figures["defaults"]
    lines = [
        f"\n## {protocol.capitalize()}, {len(first)} families\n",
        "| | AUROC | change | average precision | change | wins | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ALTERNATIVES[protocol]:
        if name not in figures:
            continue
        own = figures[name]
        auroc, precision = own[:, :2].mean(axis=0)
        more, finer = (own - first)[:, :2].mean(axis=0)
        wins = int((own[:, 0] > first[:, 0]).sum())
        lines.append(
            f"| {name} | {auroc:.3f} | {more:+.3f} | {precision:.3f} | {finer:+.3f} "
            f"| {wins} | {own[:, 2:].sum(axis=1).mean():.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
