"""Rows scored in a second, and the memory that it takes.

    python benchmarks/speed/scoring.py

writes the table ``scoring.md`` beside this file: the evidence lower bound with one draw
against PyOD's ``decision_function``, both of a model of 128 and 64 hidden units and a
code of 8, and against the matrix products of that model alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import contenders
import numpy as np
import torch
from epoch import cpu_model
from pyod.models.vae import VAE
from threadpoolctl import threadpool_limits

import skvae

N_COLUMNS = 30
# Rows of a turn; PyOD is too slow for all of ours, and as fast on fewer.
N_ROWS, N_PYOD_ROWS, N_LARGE = 200_000, 10_000, 1_000_000
# Rows of the products that bound scoring: what a cache holds.
BOUND_ROWS = 2048
ASKED_TIMES, ASKED_SHARE, ASKED_MEGABYTES = 10.0, 0.35, 64.0


def detector() -> skvae.VAEAnomalyDetector:
    """Ours, of the peers' shape; a linear path and learned noise stay."""
    return skvae.VAEAnomalyDetector(
        n_components=contenders.N_COMPONENTS,
        n_estimators=1,
        anomaly_score="elbo",
        n_score_samples=1,
        likelihood="gaussian",
        hidden_layer_sizes=contenders.HIDDEN,
        activation="relu",
        start="random",
        max_iter=1,
        early_stopping=False,
        device="cpu",
        random_state=0,
    )


def bound(n_rows: int, dtype: torch.dtype = torch.float32) -> int:
    """The products of that many rows alone."""
    wide, narrow = contenders.HIDDEN
    code = contenders.N_COMPONENTS
    widths = [
        (N_COLUMNS, wide),
        (wide, narrow),
        (narrow, 2 * code),
        (code, narrow),
        (narrow, wide),
        (wide, N_COLUMNS),
    ]
    pairs = [
        (torch.zeros(BOUND_ROWS, i, dtype=dtype), torch.zeros(i, o, dtype=dtype))
        for i, o in widths
    ]
    results = [torch.mm(a, b) for a, b in pairs]
    for _ in range(0, n_rows, BOUND_ROWS):
        for (a, b), out in zip(pairs, results, strict=True):
            torch.mm(a, b, out=out)
    return n_rows


def measure(n_rounds: int) -> dict[str, list[float]]:
    """Rows a second of CPU time, the contenders taking turns."""
    table = contenders.make_table(N_ROWS, N_COLUMNS)
    few, wide = table[:N_PYOD_ROWS], list(contenders.HIDDEN)
    double = table.astype(np.float64)
    ours = detector().fit(few)
    pyod = VAE(
        epoch_num=1,
        encoder_neuron_list=wide,
        decoder_neuron_list=wide[::-1],
        latent_dim=contenders.N_COMPONENTS,
        verbose=0,
    ).fit(few)
    runs = {
        "skvae, float32": lambda: len(ours.score_samples(table)),
        "skvae, float64": lambda: len(ours.score_samples(double)),
        "PyOD VAE": lambda: len(pyod.decision_function(few)),
        "PyOD VAE, batch of 512": lambda: len(pyod.decision_function(few, 512)),
        "products alone": lambda: bound(N_ROWS),
        "products alone, float64": lambda: bound(N_ROWS, torch.float64),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(n_rounds):
        for name, run in runs.items():
            start = time.process_time()
            n_rows = run()
            rates[name].append(n_rows / (time.process_time() - start))
    return rates


def extra_megabytes() -> float:
    """Peak memory of scoring the large table above what was held before."""
    table = np.random.default_rng(0).standard_normal(
        (N_LARGE, N_COLUMNS), dtype=np.float32
    )
    ours = detector().fit(table[:2000])
    ours.score_samples(table[:20_000])
    before = forget_peak()
    ours.score_samples(table)
    return peak_megabytes() - before


def forget_peak() -> float:
    """Let the present memory of this process be its peak; that memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_megabytes()


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status must have a VmHWM line. Run this on Linux.")


def report(rates: dict[str, list[float]], megabytes: float, command: str) -> str:
    """The table, and what was asked."""

    def ratio(name: str, other: str) -> float:
        return statistics.median(np.divide(rates[name], rates[other]).tolist())

    lines = [
        "# Scoring",
        "",
        f"Written by `{command}`.",
        "",
        "Rows a second of CPU time, one thread, median over rounds in which all took",
        f"turns; {N_ROWS} x {N_COLUMNS}, evidence lower bound with one draw.",
        "",
        "| | rows a second | times PyOD VAE | share of products alone |",
        "|---|---|---|---|",
    ]
    for name, own in rates.items():
        lines.append(
            f"| {name} | {statistics.median(own):,.0f} | {ratio(name, 'PyOD VAE'):.1f} "
            f"| {ratio(name, 'products alone'):.2f} |"
        )
    lines += [
        "",
        f"Asked: {ASKED_TIMES:g} times PyOD's decision_function, a share of "
        f"{ASKED_SHARE:g}. PyOD scores in batches of 32 by default.",
        "",
        f"Peak memory above what was held before, {N_LARGE} x {N_COLUMNS} float32: "
        f"{megabytes:.0f} MB;",
        f"asked: under {ASKED_MEGABYTES:g} MB. The answer itself is "
        f"{8 * N_LARGE / 2**20:.0f} MB in float64.",
        "",
        f"{cpu_model()}; torch {torch.__version__}, skvae {skvae.__version__}.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        megabytes = extra_megabytes()
        rates = measure(args.rounds)
    command = " ".join(["python benchmarks/speed/scoring.py", *sys.argv[1:]])
    text = report(rates, megabytes, command)
    print(text)
    args.out.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
