"""The detector's defaults against other outlier detectors, on labelled tables.

Tables are ``.npz`` files with ``X`` and ``y`` (1 = outlier), at most ``--rows`` of
their rows, the same for every detector. Protocols: "outliers" fits on all rows and
scores them, never seeing the labels; "novelties" fits on half of the normal rows and
scores all others. Every detector keeps its defaults on every table. Related tables
count once, as one family.

Each figure is appended to ``--results`` as soon as it is there: a run that was stopped
goes on where it was when called again, and ``--only-report`` writes the tables of what
there is.

Usage: python benchmarks/quality/outlier.py --data FOLDER --results FILE.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from scipy.stats import rankdata, studentized_range
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skvae import VAEAnomalyDetector

# Tables of one source: their mean counts as one table.
FAMILIES = {
    "satellite": "statlog",
    "satimage-2": "statlog",
    "landsat": "statlog",
    "WBC": "breastw",
    "thyroid": "annthyroid",
}
PROTOCOLS = ("outliers", "novelties")
OURS = "VAEAnomalyDetector"

# Abnormality of the rows of a second table, by a detector fitted to a first one, with
# the seconds that fit and score took; None stands for the rows of the first itself.
Scorer = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, float, float]]


def ours(X: np.ndarray, other: np.ndarray | None, seed: int) -> Any:
    """The detector of this package."""
    detector = VAEAnomalyDetector(novelty=other is not None, random_state=seed)
    return _timed(detector, X, X if other is None else other)


def of_sklearn(make: Callable[[int, bool], Any]) -> Scorer:
    """A detector of scikit-learn, on standardised columns."""

    def scorer(X: np.ndarray, other: np.ndarray | None, seed: int) -> Any:
        scaler = StandardScaler().fit(X)
        scaled = scaler.transform(X)
        detector = make(seed, other is not None)
        if isinstance(detector, LocalOutlierFactor) and other is None:
            began = time.process_time()
            detector.fit(scaled)
            seconds = time.process_time() - began
            return -detector.negative_outlier_factor_, seconds, seconds
        return _timed(
            detector, scaled, scaled if other is None else scaler.transform(other)
        )

    return scorer


def of_pyod(name: str, **params: Any) -> Scorer:
    """A detector of PyOD, on standardised columns."""

    def scorer(X: np.ndarray, other: np.ndarray | None, seed: int) -> Any:
        from importlib import import_module

        cls = getattr(
            import_module(f"pyod.models.{MODULES.get(name, name.lower())}"), name
        )
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (what PyOD reads)
        known = cls.__init__.__code__.co_varnames
        given = {"random_state": seed} if "random_state" in known else {}
        if name == "DeepSVDD":
            given["n_features"] = X.shape[1]
        scaler = StandardScaler().fit(X)
        detector = cls(**given, **params)
        began = time.process_time()
        detector.fit(scaler.transform(X))
        fitted = time.process_time()
        rows = X if other is None else other
        scores = detector.decision_function(scaler.transform(rows))
        scored = time.process_time()
        if other is None:  # there a row is not its own neighbour
            scores = detector.decision_scores_
        return scores, fitted - began, scored - fitted

    return scorer


MODULES = {"AutoEncoder": "auto_encoder", "DeepSVDD": "deep_svdd"}
FAST: dict[str, Scorer] = {
    OURS: ours,
    "IsolationForest": of_sklearn(lambda seed, _: IsolationForest(random_state=seed)),
    "LocalOutlierFactor": of_sklearn(lambda _, new: LocalOutlierFactor(novelty=new)),
    "OneClassSVM": of_sklearn(lambda *_: OneClassSVM()),
    "GaussianMixture (4)": of_sklearn(
        lambda seed, _: GaussianMixture(4, reg_covar=1e-4, random_state=seed)
    ),
    "PyOD KNN": of_pyod("KNN"),
    "PyOD ECOD": of_pyod("ECOD"),
    "PyOD COPOD": of_pyod("COPOD"),
    "PyOD HBOS": of_pyod("HBOS"),
    "PyOD CBLOF": of_pyod("CBLOF"),
}
SLOW: dict[str, Scorer] = {
    "PyOD VAE": of_pyod("VAE", verbose=0),
    "PyOD AutoEncoder": of_pyod("AutoEncoder", verbose=0),
    "PyOD DeepSVDD": of_pyod("DeepSVDD", verbose=0),
}


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slow-seeds", type=int, default=1)
    parser.add_argument("--detectors", nargs="*", default=[*FAST, *SLOW])
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--only-report", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    records = _read(args.results, args.rows)
    if not args.only_report:
        asked = {n: s for n, s in {**FAST, **SLOW}.items() if n in args.detectors}
        with args.results.open("a") as file:
            for record in run(args, records, dict.fromkeys(PROTOCOLS, asked)):
                file.write(json.dumps(record) + "\n")
                file.flush()
        records = _read(args.results, args.rows)
    text = _head(args) + "".join(report(records, name) for name in PROTOCOLS)
    print(text)
    if args.output:
        args.output.write_text(text)
    if args.picture:
        draw(records, args.picture)


def run(
    args: argparse.Namespace,
    records: list[dict[str, Any]],
    scorers: dict[str, dict[str, Scorer]],
) -> Iterator[dict[str, Any]]:
    """Records of what is not known yet, of the scorers of each protocol."""
    known = {_key(record) for record in records}
    for seed in range(args.seeds):
        for path in sorted(args.data.glob("*.npz")):
            rows = load(path, args.rows, seed)
            for protocol in PROTOCOLS if rows is not None else ():
                X, other, y = divide(*rows, protocol)
                for name, scorer in scorers[protocol].items():
                    record = {
                        "detector": name,
                        "table": path.stem,
                        "protocol": protocol,
                        "seed": seed,
                        "rows": args.rows,
                    }
                    late = name in SLOW and seed >= args.slow_seeds
                    if not late and _key(record) not in known:
                        yield record | _measured(scorer, X, other, y, seed)
            print(seed, path.stem, flush=True)


def load(path: Path, n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Some rows of a table and their labels; None where too few are outliers."""
    data = np.load(path)
    rows = np.random.default_rng(seed).permutation(len(data["X"]))[:n_rows]
    X, y = data["X"][rows].astype(np.float64), data["y"][rows].astype(int)
    return (X, y) if y.sum() >= 2 else None


def divide(
    X: np.ndarray, y: np.ndarray, protocol: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Rows to fit, rows to score (None: the same), labels of the scored ones."""
    if protocol == "outliers":
        return X, None, y
    normal = np.flatnonzero(y == 0)
    fitted = np.zeros(len(X), dtype=bool)
    fitted[normal[: len(normal) // 2]] = True
    return X[fitted], X[~fitted], y[~fitted]


def _measured(
    scorer: Scorer, X: np.ndarray, other: np.ndarray | None, y: np.ndarray, seed: int
) -> dict[str, Any]:
    try:
        scores, fit, score = scorer(X, other, seed)
        scores = np.nan_to_num(np.asarray(scores, dtype=np.float64))
    except (ValueError, RuntimeError) as error:
        # As good as a guess: what a user without labels would be left with.
        scores, fit, score = np.zeros(len(y)), np.nan, np.nan
        print("failed:", error)
    return {
        "auroc": roc_auc_score(y, scores),
        "precision": average_precision_score(y, scores),
        "fit": fit,
        "score": score,
    }


def _timed(detector: Any, X: np.ndarray, rows: np.ndarray) -> Any:
    began = time.process_time()
    detector.fit(X)
    fitted = time.process_time()
    scores = -detector.score_samples(rows)
    return scores, fitted - began, time.process_time() - fitted


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[k] for k in ("detector", "table", "protocol", "seed"))


def _read(path: Path, n_rows: int) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["rows"] == n_rows]


def family_means(records: list[dict[str, Any]], protocol: str) -> dict[str, np.ndarray]:
    """Figures (n_families, 4) of each detector that has them for all families.

    AUROC, average precision, seconds of fit and of score: means over the tables of a
    family and the seeds.
    """
    cells: dict[str, dict[str, list[list[float]]]] = {}
    for r in records:
        if r["protocol"] == protocol:
            family = FAMILIES.get(r["table"], r["table"])
            cells.setdefault(r["detector"], {}).setdefault(family, []).append(
                [r["auroc"], r["precision"], r["fit"], r["score"]]
            )
    families = sorted({family for own in cells.values() for family in own})
    return {
        name: np.array([np.nanmean(own[family], axis=0) for family in families])
        for name, own in cells.items()
        if len(own) == len(families)
    }


def ranks(figures: dict[str, np.ndarray]) -> np.ndarray:
    """Rank by AUROC of each detector on each family, 1 = best."""
    auroc = np.array([values[:, 0] for values in figures.values()])
    return np.asarray(rankdata(-auroc, axis=0))


def critical_difference(n_detectors: int, n_families: int) -> float:
    """Difference of mean ranks that chance exceeds in 5 % of the runs (Nemenyi)."""
    q = studentized_range.ppf(0.95, n_detectors, np.inf) / np.sqrt(2.0)
    return float(q * np.sqrt(n_detectors * (n_detectors + 1) / (6.0 * n_families)))


def report(records: list[dict[str, Any]], protocol: str) -> str:
    """A table of one protocol."""
    figures = family_means(records, protocol)
    rank, families = ranks(figures).mean(axis=1), figures[OURS]
    difference = critical_difference(len(figures), len(families))
    lines = [
        f"\n## {protocol.capitalize()}, {len(families)} families\n",
        "| detector | AUROC | average precision | mean rank | worst decile | wins of "
        "ours | fit, s | score, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place in np.argsort(-np.array([f[:, 0].mean() for f in figures.values()])):
        name = list(figures)[place]
        auroc, precision, fit, score = figures[name].T
        wins = int((figures[OURS][:, 0] > auroc).sum())
        lines.append(
            f"| {name} | {auroc.mean():.3f} | {precision.mean():.3f} | "
            f"{rank[place]:.2f} | {np.quantile(auroc, 0.1):.3f} | {wins} | "
            f"{np.nanmean(fit):.2f} | {np.nanmean(score):.3f} |"
        )
    lines.append(
        f"\nMean ranks {difference:.2f} apart differ beyond chance (Nemenyi, 5 %).\n"
    )
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Mean ranks of both protocols with their critical difference."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PROTOCOLS), figsize=(10, 4), squeeze=False)
    for axis, protocol in zip(axes[0], PROTOCOLS, strict=True):
        figures = family_means(records, protocol)
        rank, families = ranks(figures).mean(axis=1), figures[OURS]
        order = np.argsort(-rank)
        half = critical_difference(len(figures), len(families)) / 2.0
        axis.errorbar(rank[order], range(len(order)), xerr=half, fmt="o")
        axis.set_yticks(range(len(order)), [list(figures)[i] for i in order])
        axis.set_title(protocol)
        axis.set_xlabel("mean rank; bars that overlap may be chance")
    figure.tight_layout()
    figure.savefig(path)


def _head(args: argparse.Namespace) -> str:
    import pyod

    return (
        "# Outlier detectors, all at their defaults\n\nMade by `python "
        "benchmarks/quality/outlier.py --data FOLDER --results FILE --rows "
        f"{args.rows} --seeds {args.seeds} --slow-seeds {args.slow_seeds}` with "
        f"scikit-learn {sklearn.__version__}, PyOD {pyod.version.__version__} and "
        f"torch {torch.__version__} on one core. Means over families of related "
        "tables; PyOD's networks have as many seeds as --slow-seeds says. Worst "
        "decile: the AUROC that nine families "
        "in ten exceed. Wins of ours: families on which VAEAnomalyDetector has the "
        "higher AUROC. Seconds are CPU, of a table.\n"
    )


if __name__ == "__main__":
    main()
