"""Time of a default fit, and how far it ends behind a ten times longer one.

    python benchmarks/speed/quality.py --data data

writes the table ``quality.md`` beside this file: evidence lower bounds of held-out rows
under ``VAETransformer()`` as it comes and after ten times as many passes (fewer where
these would take long, as the table says), and its CPU time beside that of PyOD's VAE
for the 30 passes of its defaults. MNIST is the binarised one of Larochelle and Murray,
2011: of grey pixels as real numbers, single rows (a pixel that is hardly ever lit) move
the mean by more than the nat that is asked.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import contenders
import numpy as np
import torch
from epoch import cpu_model
from threadpoolctl import threadpool_limits

import skvae

N_TEST = 2000
PYOD_PASSES, PYOD_ROWS = 30, 5000  # its time is that of a pass over fewer rows, scaled


def splits(
    folder: Path | None,
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Names, how many times longer to train, rows to fit to and rows held out."""
    for n_rows, n_columns, times in (
        (2_000, 20, 10),
        (20_000, 50, 10),
        (200_000, 30, 3),
    ):
        table = contenders.make_table(n_rows + N_TEST, n_columns)
        yield f"{n_rows} x {n_columns}", times, table[:n_rows], table[n_rows:]
    if folder:
        with np.load(folder / "image" / "mnist_binarized_larochelle.npz") as digits:
            train, test = (
                digits[name].astype(np.float32) for name in ("X_train", "X_test")
            )
        # In the file's order the first digits are the easy ones.
        yield "MNIST", 2, train, test[:: len(test) // N_TEST]


def clocked(run: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def pyod_seconds(train: np.ndarray) -> float:
    """Of the passes that PyOD's VAE makes by default, on standardised columns."""
    some = train[:PYOD_ROWS].astype(np.float64)
    varying = some.std(axis=0) > 0
    some = ((some - some.mean(axis=0)) / np.where(varying, some.std(axis=0), 1.0))[
        :, varying
    ].astype(np.float32)
    run = contenders.pyod_default(some)
    run(1)
    return PYOD_PASSES * len(train) / len(some) * clocked(lambda: run(1))


def measure(name: str, times: int, train: np.ndarray, test: np.ndarray) -> str:
    """One line of the table."""
    asked = 1.0 if name == "MNIST" else 0.05
    default = skvae.VAETransformer(random_state=0, device="cpu")
    seconds = clocked(lambda: default.fit(train))
    passes = default.n_iter_
    longer = skvae.VAETransformer(
        random_state=0,
        device="cpu",
        max_iter=times * passes,
        n_iter_no_change=times * passes,
    )
    longer_seconds = clocked(lambda: longer.fit(train))
    bound, other = (float(np.mean(each.elbo(test))) for each in (default, longer))
    behind = other - bound
    short = "" if behind <= asked else f" (short of {asked:g})"
    pyod = pyod_seconds(train)
    return (
        f"| {name} | {passes} | {seconds:.1f} | {bound:.3f} | {times * passes} | "
        f"{longer_seconds:.1f} | {other:.3f} | {behind:.3f}{short} | {pyod:.0f} | "
        f"{pyod / seconds:.1f} |"
    )


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds image/mnist_*.npz")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Time to quality with defaults",
        "",
        "Written by `python benchmarks/speed/quality.py"
        + (" --data FOLDER`." if args.data else "`."),
        "",
        "CPU seconds of one thread and held-out evidence lower bounds, nats a row, of",
        "`VAETransformer()` and of the same with many times its passes, its best",
        "parameters kept; one seed. Behind: how much less the default reaches; asked",
        "are at most 0.05, on MNIST 1, behind ten times the passes: fewer prove less.",
        "PyOD: 30 passes of its VAE with its defaults, scaled from one pass over",
        f"{PYOD_ROWS} rows at most.",
        "",
        "| rows x columns | passes | s | bound | passes | s | bound | behind "
        "| PyOD, s | times |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skvae.VAETransformer(max_iter=1).fit(contenders.make_table(200, 5))  # imports
        for split in splits(args.data):
            lines.append(measure(*split))
            print(lines[-1], file=sys.stderr, flush=True)
    tail = f"{cpu_model()}; torch {torch.__version__}, skvae {skvae.__version__}."
    args.out.write_text("\n".join([*lines, "", tail, ""]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
