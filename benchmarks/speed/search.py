"""CPU time of a search against scikit-learn's, over the same candidates and folds.

    python benchmarks/speed/search.py

writes the table ``search.md`` beside this file: GridSearchCV(n_jobs=1), VAESearchCV and
VAESearchCV with halving on 24 candidates, and a detector of 16 members against single
ones. All run on one thread; times are CPU seconds.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid
from threadpoolctl import threadpool_limits

from skvae import VAEAnomalyDetector, VAESearchCV, VAETransformer

GRID = {
    "n_components": [2, 4, 6, 8],
    "beta": [0.5, 1.0, 2.0],
    "learning_rate_init": [0.001, 0.002],
}
N_ROWS, N_COLUMNS, N_FOLDS, N_MEMBERS = 2_000, 20, 5, 16


def make_table() -> np.ndarray:
    """Columns around a curved surface of four dimensions."""
    rng = np.random.default_rng(0)
    code = rng.standard_normal((N_ROWS, 4))
    table = np.tanh(code @ rng.standard_normal((4, N_COLUMNS)))
    return table + 0.3 * rng.standard_normal(table.shape)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of a call, and what it returned."""
    began = time.process_time()
    answer = work()
    return time.process_time() - began, answer


def fold_scores(search: Any, n_folds: int) -> np.ndarray:
    """Scores of all candidates (rows) on all folds (columns)."""
    results = search.cv_results_
    return np.stack([results[f"split{i}_test_score"] for i in range(n_folds)], 1)


def compare_searches(X: np.ndarray, n_folds: int) -> list[str]:
    """Rows of the table of searches.

    GridSearchCV goes fold by fold, the other searches between its folds, so that a
    machine that slows down slows all of them down.
    """
    # All searches share the first folds of five.
    folds = list(KFold(N_FOLDS).split(X))[:n_folds]
    vae = VAETransformer(random_state=0)
    searches = {
        "VAESearchCV": VAESearchCV(vae, GRID, cv=folds, refit=False),
        "VAESearchCV(halving=True)": VAESearchCV(
            vae, GRID, cv=folds, refit=False, halving=True
        ),
    }
    waiting, done = list(searches), {}
    alone, parts = 0.0, []
    for fold in folds:
        one = GridSearchCV(vae, GRID, cv=[fold], refit=False)
        seconds, found = cpu_seconds(lambda one=one: one.fit(X))
        alone, parts = alone + seconds, [*parts, fold_scores(found, 1)]
        print(f"GridSearchCV, fold {len(parts)}: {seconds:.1f}", flush=True)
        last = len(parts) == n_folds
        for name in waiting if last else waiting[:1]:
            search = searches[name]
            done[name] = cpu_seconds(lambda search=search: search.fit(X))
            print(f"{name}: {done[name][0]:.1f}", flush=True)
        waiting = waiting[1:]
    expected = np.concatenate(parts, 1)
    mean = expected.mean(1)
    best, params = int(mean.argmax()), list(ParameterGrid(GRID))
    lines = [
        f"| GridSearchCV(n_jobs=1) | {alone:.0f} | 1.0 | {params[best]} | 0.000 | "
        f"0.0000 | 0.0000 |"
    ]
    for name, (seconds, found) in done.items():
        scores = fold_scores(found, n_folds)
        survived = found.cv_results_.get("survived", np.ones(len(scores), dtype=bool))
        apart = np.abs(scores - expected)[survived]
        lines.append(
            f"| {name} | {seconds:.0f} | {alone / seconds:.1f} | "
            f"{found.best_params_} | {mean[best] - mean[found.best_index_]:.3f} | "
            f"{np.median(apart):.4f} | {apart.max():.4f} |"
        )
    error = expected[best].std(ddof=1) / np.sqrt(n_folds) if n_folds > 1 else np.nan
    lines.append("")
    lines.append(
        f"One standard error of the best candidate's mean score: {error:.3f} nats."
    )
    return lines


def compare_ensembles(X: np.ndarray) -> list[str]:
    """Cost of an ensemble in single fits, as (default) and up to 2000 steps."""
    lines = []
    for name, kwargs in {"default": {}, "max_iter=100": {"max_iter": 100}}.items():
        seconds: dict[int, list[float]] = {1: [], N_MEMBERS: []}
        for turn in range(3):
            for n in seconds:
                detector = VAEAnomalyDetector(
                    n_estimators=n, random_state=turn, **kwargs
                )
                took, _ = cpu_seconds(lambda detector=detector: detector.fit(X))
                seconds[n].append(took)
        single, many = (float(np.median(took)) for took in seconds.values())
        lines.append(f"| {name} | {single:.2f} | {many:.2f} | {many / single:.1f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run both comparisons and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=N_FOLDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    X = make_table()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        VAETransformer(max_iter=1, random_state=0).fit(X)  # imports and caches
        ensembles, searches = compare_ensembles(X), compare_searches(X, args.folds)
    lines = [
        "# Searches and ensembles",
        "",
        "Written by `python benchmarks/speed/search.py`.",
        "",
        f"{N_ROWS} rows of {N_COLUMNS} columns, one thread, CPU seconds. scikit-learn "
        f"{sklearn.__version__}, torch {torch.__version__}, {platform.machine()}.",
        "",
        f"## 24 candidates, {args.folds} of {N_FOLDS} folds, VAETransformer",
        "",
        "`behind` is how far the chosen candidate's mean score lies behind the best, "
        "by GridSearchCV's scores; `apart` compares fold scores with GridSearchCV's "
        "(those of the candidates that halving kept).",
        "",
        "| search | CPU s | times faster | chosen | behind | median apart | apart at "
        "most |",
        "|---|---|---|---|---|---|---|",
        *searches,
        "",
        f"## A detector of {N_MEMBERS} members",
        "",
        "| VAEAnomalyDetector | one member | 16 members | cost in single fits |",
        "|---|---|---|---|",
        *ensembles,
        "",
    ]
    args.out.write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    main()
