"""Time of one training epoch against the loops that a user would write instead.

    python benchmarks/speed/epoch.py

writes the table ``epoch.md`` beside this file. The contenders (``contenders.py``) take
turns on one thread. A turn is some passes over the rows by a model that already exists,
so that no one's set-up is timed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import contenders
import numpy as np
import torch
from contenders import Contender
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import skvae

# Rows, columns and rows of a batch.
Work = tuple[int, int, int]
WORK: list[Work] = [
    (2_000, 20, 128),
    (20_000, 50, 128),
    (20_000, 50, 512),
    (20_000, 784, 128),
]
PEERS = {
    "PyOD VAE": contenders.pyod_vae,
    "PyOD AutoEncoder": contenders.pyod_autoencoder,
    "pythae": contenders.pythae_vae,
    "skorch": contenders.skorch_vae,
    "tutorial loop": contenders.tutorial,
    "MLPRegressor": contenders.mlp,
}
OURS = ("plain", "transformer", "detector")
# Asked of the plain model, row by row: times a peer's, and share of the floor.
TIMES = {
    "PyOD VAE": [6.0, 6.0, 4.0, 2.5],
    "MLPRegressor": [1.6, 1.6, 1.6, 1.6],
    "tutorial loop": [2.0, 2.0, 2.0, 2.0],
}
SHARES = {
    "plain": [0.45, None, 0.65, 0.70],
    "transformer": [0.40, 0.60, 0.60, None],
    "detector": [0.40, 0.60, 0.60, None],
}
# Cells of one turn; enough that the clock's resolution is nothing.
CELLS_PER_TURN = 400_000

# Seconds of CPU of one pass: name of the contender to its rounds.
Seconds = dict[str, list[float]]


def measure(work: Work, n_rounds: int) -> Seconds:
    """Let the contenders take turns."""
    n_rows, n_columns, batch_size = work
    table = contenders.make_table(n_rows, n_columns)
    estimators = {
        "plain": contenders.plain(batch_size),
        "transformer": skvae.VAETransformer(contenders.N_COMPONENTS),
        "detector": skvae.VAEAnomalyDetector(n_components=contenders.N_COMPONENTS),
    }
    runs: dict[str, Contender] = {}
    for name, estimator in estimators.items():
        estimator.set_params(batch_size=batch_size)
        runs[name], model = contenders.ours(estimator, table)
        if name != "plain":
            runs[floor_of(name)] = contenders.own_products(model, table, batch_size)
    runs[floor_of("plain")] = contenders.plain_products(table, batch_size)
    for name, peer in PEERS.items():
        runs[name] = peer(table, batch_size)
    n_epochs = max(1, round(CELLS_PER_TURN / table.size))
    for run in runs.values():
        run(1)
    seconds: Seconds = {name: [] for name in runs}
    for _ in range(n_rounds):
        for name, run in runs.items():
            start = time.process_time()
            run(n_epochs)
            seconds[name].append((time.process_time() - start) / n_epochs)
    return seconds


def floor_of(name: str) -> str:
    return f"products of {name}"


def ratio(seconds: Seconds, slow: str, fast: str) -> float:
    """Median over rounds: what slows the machine slows all who share a round."""
    return statistics.median(np.divide(seconds[slow], seconds[fast]).tolist())


# -- report ----------------------------------------------------------------------


def report(results: dict[Work, Seconds], command: str) -> str:
    """The tables, and what of the asked is not met."""
    lines = [
        "# Time of one training epoch",
        "",
        f"Written by `{command}`.",
        "",
        "CPU time of one pass over the rows, one thread; every figure is the median",
        "over rounds in which all took turns.",
        "",
        "## Times as long as skvae's plain model",
        "",
        *_table(["ms, skvae", *PEERS], results, _times),
        "",
        f"Asked: {_asked(TIMES)}.",
        "",
        "## Share of the time that the model's own matrix products take alone",
        "",
        *_table([*OURS, "plain, ms of products", "tutorial loop"], results, _shares),
        "",
        f"Asked: {_asked(SHARES)}.",
        "",
        "All peers and plain: hidden layers of 128 and 64 units, a code of 8, ReLU,",
        "Adam, float32. Plain also carries a linear path beside both networks and one",
        "learned noise; its floor is the products of the peers' model, without the",
        "paths. The peers have unit noise; AutoEncoder and MLPRegressor draw nothing",
        "and have no KL; PyOD's have neither dropout nor batch normalisation and drop",
        "the last rows of a pass. transformer and detector are our estimators' default",
        "models with their noise, penalty, clipping and (detector) Student-t cells and",
        "trimming, at the row's batch; their floor counts their linear paths",
        "and the detector's members.",
        "",
        f"{cpu_model()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[1]:.1f}; Python {platform.python_version()},",
        ", ".join(
            f"{name} {version(name)}"
            for name in ("torch", "scikit-learn", "numpy", "pyod", "pythae", "skorch")
        )
        + f", skvae {skvae.__version__}.",
        "",
    ]
    return "\n".join(lines)


def _table(header: list[str], results: dict[Work, Seconds], cells: object) -> list[str]:
    columns = ["rows x columns, batch", *header]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row, (work, seconds) in enumerate(results.items()):
        name = "{} x {}, {}".format(*work)
        lines.append("| " + " | ".join([name, *cells(row, seconds)]) + " |")
    return lines


def _times(row: int, seconds: Seconds) -> list[str]:
    ms = f"{1e3 * statistics.median(seconds['plain']):.1f}"
    return [ms, *(_cell(ratio(seconds, n, "plain"), TIMES.get(n), row) for n in PEERS)]


def _shares(row: int, seconds: Seconds) -> list[str]:
    floor = floor_of("plain")
    return [
        *(_cell(ratio(seconds, floor_of(n), n), SHARES[n], row) for n in OURS),
        f"{1e3 * statistics.median(seconds[floor]):.1f}",
        f"{ratio(seconds, floor, 'tutorial loop'):.2f}",
    ]


def _cell(value: float, asked: list[float] | None, row: int) -> str:
    """A figure, marked where less than what is asked."""
    least = None if asked is None else asked[row]
    return f"{value:.2f}" + ("" if least is None or value >= least else " (short)")


def _asked(goals: dict[str, list[float]]) -> str:
    return "; ".join(
        f"{name} " + ", ".join("-" if g is None else f"{g:g}" for g in goal)
        for name, goal in goals.items()
    )


def cpu_model() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    """Measure, print the ratios, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[Work, Seconds] = {}
    with threadpool_limits(1):
        for row, work in enumerate(WORK):
            results[work] = seconds = measure(work, args.rounds)
            print(*work, *_times(row, seconds), "|", *_shares(row, seconds), flush=True)
    command = " ".join(["python benchmarks/speed/epoch.py", *sys.argv[1:]])
    args.out.write_text(report(results, command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
