"""Time of one training epoch against the loops that a user would write instead.

    python benchmarks/speed/epoch.py

writes the table ``epoch.md`` beside this file. Contenders of equal architecture (128
and 64 units, a code of 8, ReLU, Adam) take turns on one thread. A turn is some passes
over the rows by a model that already exists, so that no one's set-up is timed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import skvae
from skvae.estimators._parameters import resolve_settings
from skvae.model.rows import Rows
from skvae.training.batches import Batches
from skvae.training.fit import CodedTable, make_optimiser, start_model
from skvae.training.loop import train
from skvae.training.objectives import make_objective

HIDDEN, N_COMPONENTS, LEARNING_RATE = (128, 64), 8, 1e-3
WORK = [(2_000, 20, 128), (20_000, 50, 128), (20_000, 50, 512), (20_000, 784, 128)]
OURS, DEFAULT_NOISE = "skvae", "skvae, noise network"
TUTORIAL, MLP = "tutorial loop", "MLPRegressor"
PRODUCTS = "products alone"
GOAL = 2.0
# Rows and columns of one turn; enough that the clock's resolution is nothing.
CELLS_PER_TURN = 400_000

# Makes that many passes over the rows.
Contender = Callable[[int], None]


def make_table(n_rows: int, n_columns: int) -> np.ndarray:
    """Standardised float32 columns around a curved surface."""
    rng = np.random.default_rng(0)
    code = rng.standard_normal((n_rows, N_COMPONENTS))
    table = np.tanh(code @ rng.standard_normal((N_COMPONENTS, n_columns)))
    table += 0.3 * rng.standard_normal(table.shape)
    return ((table - table.mean(0)) / table.std(0)).astype(np.float32)


# -- contenders ------------------------------------------------------------------


def ours(table: np.ndarray, batch_size: int, noise: str) -> Contender:
    """The estimator's training loop with its defaults, all rows, no held-out rows."""
    estimator = skvae.VAETransformer(
        N_COMPONENTS,
        noise=noise,
        hidden_layer_sizes=HIDDEN,
        activation="relu",
        start="random",
        batch_size=batch_size,
        learning_rate_init=LEARNING_RATE,
        learning_rate="constant",
        early_stopping=False,
        device="cpu",
    )
    n_rows, n_columns = table.shape
    kinds = ("gaussian",) * n_columns
    settings = resolve_settings(
        estimator.get_params(),
        kinds=kinds,
        n_rows=n_rows,
        n_components=N_COMPONENTS,
        max_steps=1,
        noise=noise,
    )
    coded = CodedTable(
        table.astype(np.float64), None, kinds, np.ones(n_columns), np.zeros(n_columns)
    )
    model = start_model(coded, settings, seeds=[0])
    model = model.to(torch.float32, settings.device)
    batches = Batches(
        Rows.from_coded(coded.values, torch.float32, settings.device),
        batch_size=settings.batch_size,
        n_draws=1,
        n_components=N_COMPONENTS,
        seeds=[0],
    )
    objective = make_objective(variational=True, n_importance_samples=1, free_bits=0.0)
    optimiser = make_optimiser(model, settings)
    passes = 0

    def run(n_epochs: int) -> None:
        nonlocal passes
        plan = replace(settings.plan, n_epochs=n_epochs)
        train(model, objective, batches, optimiser, plan, first_epoch=passes)
        passes += n_epochs

    return run


class TutorialVAE(nn.Module):
    def __init__(self, n_columns: int) -> None:
        super().__init__()
        wide, narrow = HIDDEN
        self.encoder = nn.Sequential(
            nn.Linear(n_columns, wide),
            nn.ReLU(),
            nn.Linear(wide, narrow),
            nn.ReLU(),
        )
        self.mean = nn.Linear(narrow, N_COMPONENTS)
        self.log_variance = nn.Linear(narrow, N_COMPONENTS)
        self.decoder = nn.Sequential(
            nn.Linear(N_COMPONENTS, narrow),
            nn.ReLU(),
            nn.Linear(narrow, wide),
            nn.ReLU(),
            nn.Linear(wide, n_columns),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def tutorial(table: np.ndarray, batch_size: int) -> Contender:
    """The loop of every introduction: DataLoader, Adam, loss.item()."""
    model = TutorialVAE(table.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    data = TensorDataset(torch.from_numpy(table))
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs):
            total = 0.0
            for (x,) in loader:
                optimiser.zero_grad()
                location, mean, log_variance = model(x)
                error = 0.5 * (x - location).square().sum(1)
                kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
                loss = (error + kl.sum(1)).mean()
                loss.backward()
                optimiser.step()
                total += loss.item()

    return run


def mlp(table: np.ndarray, batch_size: int) -> Contender:
    """scikit-learn's network as a plain auto-encoder."""
    model = MLPRegressor(
        hidden_layer_sizes=(*HIDDEN, N_COMPONENTS, *HIDDEN[::-1]),
        alpha=0.0,
        batch_size=batch_size,
        learning_rate_init=LEARNING_RATE,
        random_state=0,
    )

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs):
            model.partial_fit(table, table)

    return run


def products(table: np.ndarray, batch_size: int) -> Contender:
    """The matrix products of these layers and nothing else: no loop can be faster."""
    n_rows, n_columns = table.shape
    wide, narrow = HIDDEN
    widths = [
        (n_columns, wide),
        (wide, narrow),
        (narrow, 2 * N_COMPONENTS),
        (N_COMPONENTS, narrow),
        (narrow, wide),
        (wide, n_columns),
    ]
    pairs = []
    for i, (n_in, n_out) in enumerate(widths):
        x, weight = torch.randn(batch_size, n_in), torch.randn(n_in, n_out)
        by_out = torch.randn(batch_size, n_out)
        pairs += [(x, weight), (x.T, by_out)]
        if i:  # nobody needs the gradient of the rows
            pairs.append((by_out, weight.T))
    results = [torch.mm(a, b) for a, b in pairs]

    def run(n_epochs: int) -> None:
        for _ in range(n_epochs * -(-n_rows // batch_size)):
            for (a, b), out in zip(pairs, results, strict=True):
                torch.mm(a, b, out=out)

    return run


# -- timing ----------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Median seconds of one pass, and its median ratio to ours in the same round."""

    cpu: float
    wall: float
    ratio: float


def compare(
    n_rows: int, n_columns: int, batch_size: int, n_rounds: int
) -> dict[str, Timing]:
    """Let the contenders take turns."""
    table = make_table(n_rows, n_columns)
    contenders = {
        OURS: ours(table, batch_size, "column"),
        DEFAULT_NOISE: ours(table, batch_size, "network"),
        TUTORIAL: tutorial(table, batch_size),
        MLP: mlp(table, batch_size),
        PRODUCTS: products(table, batch_size),
    }
    n_epochs = max(1, round(CELLS_PER_TURN / table.size))
    for run in contenders.values():
        run(1)
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(n_rounds):
        for name, run in contenders.items():
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            run(n_epochs)
            cpu[name].append((time.process_time() - cpu_start) / n_epochs)
            wall[name].append((time.perf_counter() - wall_start) / n_epochs)
    return {
        name: Timing(
            statistics.median(cpu[name]),
            statistics.median(wall[name]),
            # A round is short: what slows the machine slows all who share it.
            statistics.median(np.divide(cpu[name], cpu[OURS]).tolist()),
        )
        for name in contenders
    }


# -- report ----------------------------------------------------------------------


def report(results: dict[tuple[int, int, int], dict[str, Timing]], command: str) -> str:
    lines = [
        "# Time of one training epoch",
        "",
        f"Written by `{command}`.",
        "",
        "Milliseconds of CPU (wall clock) for one pass over the rows, one thread, "
        "median over rounds in",
        "which the contenders took turns; times = median ratio of CPU time to skvae "
        "in the same round.",
        "",
    ]
    names = [OURS, DEFAULT_NOISE, TUTORIAL, MLP, PRODUCTS]
    header = ["rows x columns, batch", f"{OURS}, us a step", *names]
    header += [f"{name}, times" for name in names[1:]]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for (n_rows, n_columns, batch_size), timings in results.items():
        step = 1e6 * timings[OURS].cpu / -(-n_rows // batch_size)
        cells = [f"{n_rows} x {n_columns}, {batch_size}", f"{step:.0f}"]
        for name in names:
            cells.append(
                f"{1e3 * timings[name].cpu:.1f} ({1e3 * timings[name].wall:.1f})"
            )
        cells += [f"{timings[name].ratio:.2f}" for name in names[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    missed = [
        f"{n_rows} x {n_columns}, {batch_size}"
        for (n_rows, n_columns, batch_size), timings in results.items()
        if timings[TUTORIAL].ratio < GOAL
    ]
    lines += [
        "",
        f"Asked: the tutorial loop takes at least {GOAL:g} times as long in each row: "
        + (f"not met at {'; '.join(missed)}." if missed else "met."),
        "The products of these layers alone, which every loop must make, bound that "
        "ratio: tutorial loop",
        "over products "
        + ", ".join(
            f"{timings[TUTORIAL].ratio / timings[PRODUCTS].ratio:.1f}"
            for timings in results.values()
        )
        + ", row by row.",
        "",
        "Equal in all: hidden layers of 128 and 64 units, a code of 8, ReLU, Adam,",
        "float32. skvae also carries its defaults: a linear path beside both networks,",
        "learned noise (one scale a column; or, under noise network, a function of the",
        "code, which doubles the decoder's outputs), weight decay, gradient clipping.",
        "The tutorial loop has unit noise, MLPRegressor neither noise nor KL.",
        "",
        f"{cpu_model()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[1]:.1f}; Python {platform.python_version()},",
        f"skvae {skvae.__version__}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, numpy {np.__version__}.",
        "",
    ]
    return "\n".join(lines)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    with threadpool_limits(1):
        for work in WORK:
            results[work] = compare(*work, args.rounds)
            times = {n: f"{t.ratio:.2f}" for n, t in results[work].items()}
            print(*work, times, flush=True)
    command = " ".join(["python benchmarks/speed/epoch.py", *sys.argv[1:]])
    args.out.write_text(report(results, command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
