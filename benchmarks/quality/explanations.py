"""Does `explain` name the corrupted column?

Real tables: the detector is fitted to half of the normal rows; one random cell of each
other row is moved by 4 to 8 standard deviations of its column. Of the rows that
`predict` flags: how often the corrupted column is the most negative one, or among the
first three. Beside it SHAP's values of an IsolationForest (``pip install shap``; left
out where it is not installed) and ECOD's contributions by column (``pip install pyod``)
on the same rows.

Usage: python benchmarks/quality/explanations.py --data FOLDER [--output FILE.md]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _planted import normal_tables
from sklearn.ensemble import IsolationForest

from skvae import VAEAnomalyDetector

Explain = Callable[[np.ndarray], np.ndarray]
MOST_JUDGED = 1000


def by_detector(X: np.ndarray) -> tuple[Explain, Explain]:
    """Contributions of the columns, lower for guiltier; which rows are flagged."""
    detector = VAEAnomalyDetector(random_state=0).fit(X)
    return detector.explain, lambda rows: detector.predict(rows) < 0


def by_shap(X: np.ndarray) -> Explain:
    """SHAP's values of an IsolationForest's score."""
    from shap import TreeExplainer

    forest = IsolationForest(random_state=0).fit(X)
    explainer = TreeExplainer(forest)
    return lambda rows: np.asarray(explainer.shap_values(rows))


def by_ecod(X: np.ndarray) -> Explain:
    """ECOD's tail log-probabilities by column, of rows beside the training rows."""
    from pyod.models.ecod import ECOD

    def explain(rows: np.ndarray) -> np.ndarray:
        model = ECOD().fit(X)
        model.decision_function(rows)
        return -np.asarray(model.O)[-len(rows) :]

    return explain


def corrupted(
    normal: np.ndarray, source: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with one cell moved, and which."""
    rows, n = normal.copy(), np.arange(len(normal))
    column = source.integers(0, normal.shape[1], len(normal))
    step = source.choice([-1.0, 1.0], len(n)) * source.uniform(4.0, 8.0, len(n))
    rows[n, column] += step * normal.std(0)[column]
    return rows, column


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    others = {"ECOD, contributions": ("pyod", by_ecod)}
    others["SHAP on IsolationForest"] = ("shap", by_shap)
    others = {
        name: make
        for name, (package, make) in others.items()
        if importlib.util.find_spec(package)
    }
    figures: dict[str, list[tuple[float, float, float]]] = {}
    flagged_rows, n_rows = [], []
    for name, normal, _ in normal_tables(args.data, most_rows=2000, most_columns=100):
        if normal.shape[1] < 4:
            continue
        half = len(normal) // 2
        train, fresh = normal[:half], normal[half:][:MOST_JUDGED]
        rows, column = corrupted(fresh, np.random.default_rng(0))
        explain, is_flagged = by_detector(train)
        flagged = is_flagged(rows)
        if flagged.sum() < 5:
            continue
        flagged_rows.append(flagged.mean())
        n_rows.append(len(rows))
        contenders = {"VAEAnomalyDetector.explain": explain}
        contenders |= {other: make(train) for other, make in others.items()}
        for contender, explain in contenders.items():
            began = time.process_time()
            parts = explain(rows)
            seconds = time.process_time() - began
            own = np.take_along_axis(parts, column[:, None], axis=1)
            place = (parts < own).sum(1)[flagged]
            figures.setdefault(contender, []).append(
                ((place == 0).mean(), (place < 3).mean(), seconds)
            )
        print(name, flush=True)
    lines = [
        "| explanation | first | in the first three | worst table, first | us a row |",
        "|---|---|---|---|---|",
    ]
    for contender, tables in figures.items():
        first, three, seconds = np.mean(tables, axis=0)
        micro = 1e6 * seconds / np.mean(n_rows)
        worst = min(table[0] for table in tables)
        lines.append(
            f"| {contender} | {first:.3f} | {three:.3f} | {worst:.2f} | {micro:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        head = "# Explanations\n\nMade by `python benchmarks/quality/explanations.py "
        head += (
            f"--data FOLDER --output FILE` on {len(flagged_rows)} real tables: means "
        )
        head += f"over tables; {np.mean(flagged_rows):.0%} of the rows were flagged. "
        head += "One cell of each row is moved by 4 to 8 deviations of its column. "
        head += "Each explains all rows of a table in one call, at most "
        head += f"{MOST_JUDGED}, after a call by which rows were flagged; the forest "
        head += (
            "has its default 100 trees. Microseconds are CPU, one core, all tables by "
        )
        head += "all their rows"
        head += ".\n\n" if "SHAP on IsolationForest" in others else "; shap was not "
        head += "" if "SHAP on IsolationForest" in others else "installed.\n\n"
        args.output.write_text(head + text)


if __name__ == "__main__":
    main()
