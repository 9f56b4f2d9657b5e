"""How time and memory grow with the number of rows.

    python benchmarks/speed/growth.py

writes the table ``growth.md`` beside this file: CPU time of fit and of scoring with the
default estimators, and the most memory that either takes beside the table itself, a
float32 array of 30 columns. Every point is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from epoch import cpu_model
from scoring import forget_peak, peak_megabytes
from threadpoolctl import threadpool_limits

import skvae

N_COLUMNS, N_CODES, BLOCK = 30, 8, 100_000
ROWS = [10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000, 5_000_000]
# One draw a row: the default 64 take 64 times as long at every number of rows.
ESTIMATORS = {
    "VAETransformer": lambda: skvae.VAETransformer(n_score_samples=1, random_state=0),
    "VAEAnomalyDetector": lambda: skvae.VAEAnomalyDetector(random_state=0),
}
ASKED_EXPONENT = 1.05

# What one process measures, by name.
Point = dict[str, float]


def make_table(n_rows: int) -> np.ndarray:
    """Rows around a curved surface, made in blocks: no float64 copy of them all."""
    rng = np.random.default_rng(0)
    slopes = rng.standard_normal((N_CODES, N_COLUMNS)).astype(np.float32)
    table = np.empty((n_rows, N_COLUMNS), dtype=np.float32)
    for start in range(0, n_rows, BLOCK):
        part = table[start : start + BLOCK]
        rng.standard_normal(out=part, dtype=np.float32)
        code = rng.standard_normal((len(part), N_CODES), dtype=np.float32)
        part *= 0.3
        part += np.tanh(code @ slopes)
    return table


def measure(name: str, n_rows: int) -> Point:
    """One fit and one scoring of the same table."""
    torch.set_num_threads(1)
    few = make_table(2000)
    warm = ESTIMATORS[name]().set_params(max_iter=1).fit(few)  # imports and caches
    warm.score_samples(few)
    table, estimator = make_table(n_rows), ESTIMATORS[name]()
    point = {"table": table.nbytes / 2**20}
    with threadpool_limits(1):
        for part, run in (("fit", estimator.fit), ("score", estimator.score_samples)):
            before = forget_peak()
            start = time.process_time()
            run(table)
            point[part] = time.process_time() - start
            point[f"{part} MB"] = peak_megabytes() - before
    return point


def measure_apart(name: str, n_rows: int) -> Point:
    """The same in a process whose memory nothing else has touched."""
    command = [sys.executable, __file__, "--point", name, str(n_rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# -- report ----------------------------------------------------------------------


def exponent(points: dict[int, Point], part: str) -> float:
    """Slope of log time over log rows, by least squares."""
    times = [point[part] for point in points.values()]
    return float(np.polyfit(np.log(list(points)), np.log(times), 1)[0])


def section(name: str, points: dict[int, Point]) -> list[str]:
    """The table of one estimator."""
    lines = [
        f"## {name}",
        "",
        "| rows | table, MB | fit, s | score, s | fit, MB more | score, MB more |",
        "|---|---|---|---|---|---|",
    ]
    for n_rows, point in points.items():
        lines.append(
            f"| {n_rows:,} | {point['table']:.0f} | {point['fit']:.1f} | "
            f"{point['score']:.2f} | {point['fit MB']:.0f} | {point['score MB']:.0f} |"
        )
    told = []
    for part in ("fit", "score"):
        value = exponent(points, part)
        told.append(
            f"{part} {value:.2f}{'' if value <= ASKED_EXPONENT else ' (short)'}"
        )
    return [*lines, "", f"Exponent of time: {', '.join(told)}.", ""]


def report(results: dict[str, dict[int, Point]], command: str) -> str:
    """The tables, and what was asked."""
    lines = [
        "# Growth with the number of rows",
        "",
        f"Written by `{command}`.",
        "",
        f"CPU seconds of one thread for float32 arrays of {N_COLUMNS} columns, default",
        "parameters but for one draw a row (`n_score_samples=1`) of the transformer;",
        "and the most memory held beyond that before the call, among it what a call",
        "keeps of each row: its score, weight and place.",
        "",
        f"Asked: time grows at most as rows to the power of {ASKED_EXPONENT:g}; memory",
        "beside the table is a constant.",
        "",
    ]
    for name, points in results.items():
        lines += section(name, points)
    lines += [f"{cpu_model()}; torch {torch.__version__}, skvae {skvae.__version__}."]
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=ROWS[-1], help="most rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--point", nargs=2, help="an estimator and a number of rows")
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(args.point[0], int(args.point[1]))))
        return 0
    results: dict[str, dict[int, Point]] = {name: {} for name in ESTIMATORS}
    for n_rows in ROWS:
        if n_rows <= args.most:
            for name, points in results.items():
                points[n_rows] = measure_apart(name, n_rows)
                print(name, n_rows, points[n_rows], flush=True)
    own = [arg for arg in sys.argv[1:] if not arg.startswith("--out")]
    text = report(results, " ".join(["python benchmarks/speed/growth.py", *own]))
    print(text)
    args.out.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
