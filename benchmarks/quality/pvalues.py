"""Do the detector's p-values hold, and does `select` keep its false-discovery rate?

On real tables: the detector is fitted to half of the normal rows. Null: the p-value of
one more normal row is uniform over fits to fresh halves. Discoveries: of the other half
of the normal rows with a tenth of planted outliers, `select` picks some, and the share
of normal rows among the picked is the realised false-discovery rate.

Usage: python benchmarks/quality/pvalues.py --data FOLDER [--output FILE.md]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from _planted import KINDS, normal_tables, planted
from scipy.stats import kstest

from skvae import VAEAnomalyDetector

LEVELS = (0.01, 0.05, 0.1, 0.2)
SHARE = 0.1


def null_p_values(normal: np.ndarray, n_seeds: int) -> np.ndarray:
    """P-values of one normal row each, of fits to fresh rows, (n_seeds,)."""
    answers = []
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(len(normal))
        detector = VAEAnomalyDetector(random_state=seed).fit(normal[order[1:400]])
        answers.append(detector.p_values(normal[order[:1]])[0])
    return np.array(answers)


def discoveries(
    normal: np.ndarray, outliers: np.ndarray, n_seeds: int
) -> dict[float, list[tuple[float, float]]]:
    """False-discovery proportion and power of each run, by level."""
    runs: dict[float, list[tuple[float, float]]] = {level: [] for level in LEVELS}
    for seed in range(n_seeds):
        source = np.random.default_rng(seed)
        order, half = source.permutation(len(normal)), len(normal) // 2
        detector = VAEAnomalyDetector(random_state=seed).fit(normal[order[:half]])
        fresh = normal[order[half:]]
        n_planted = round(SHARE * len(fresh) / (1.0 - SHARE))
        for kind in KINDS:
            rows = planted(kind, normal, outliers, n_planted, source)
            if rows is None:
                continue
            judged = np.vstack([fresh, rows])
            for level in LEVELS:
                picked = detector.select(judged, fdr=level)
                false, true = picked[: len(fresh)].sum(), picked[len(fresh) :].sum()
                runs[level].append(
                    (false / max(false + true, 1), true / max(len(rows), 1))
                )
    return runs


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    tables = list(normal_tables(args.data, most_rows=2000, most_columns=40))
    runs: dict[float, list[tuple[float, float]]] = {level: [] for level in LEVELS}
    by_table: dict[float, list[float]] = {level: [] for level in LEVELS}
    for name, normal, outliers in tables:
        for level, own in discoveries(normal, outliers, args.seeds).items():
            runs[level] += own
            by_table[level].append(float(np.mean(own, axis=0)[0]))
        print(name, flush=True)
    lines = [
        "| nominal rate | realised | standard error | power |",
        "|---|---|---|---|",
    ]
    for level in LEVELS:
        rate, power = np.mean(runs[level], axis=0)
        error = np.std(by_table[level], ddof=1) / np.sqrt(len(by_table[level]))
        lines.append(f"| {level} | {rate:.4f} | {error:.4f} | {power:.2f} |")
    lines += [
        "",
        "| table, null rows | KS p | p <= .05 | p <= .1 | p <= .2 |",
        "|---|---|---|---|---|",
    ]
    for name, normal, _ in tables:
        if name not in ("vowels", "annthyroid", "uci/power"):
            continue
        p = null_p_values(normal, 200)
        shares = " | ".join(f"{(p <= level).mean():.3f}" for level in LEVELS[1:])
        lines.append(f"| {name} | {kstest(p, 'uniform').pvalue:.2f} | {shares} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        head = "# P-values and false discoveries\n\nMade by `python "
        head += "benchmarks/quality/pvalues.py --data FOLDER --output FILE --seeds "
        head += f"{args.seeds}`: {len(tables)} real tables, the detector's defaults "
        head += (
            "fitted to half of the normal rows of a table (at most 1000, a third of "
        )
        head += "which calibrates), judged on the other half with a tenth of planted "
        head += "outliers of four kinds. The standard error is over tables. Below, the "
        head += "p-values of one normal row a fit, 200 fits to 399 rows.\n\n"
        args.output.write_text(head + text)


if __name__ == "__main__":
    main()
