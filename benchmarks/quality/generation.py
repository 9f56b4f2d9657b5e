"""Generated rows against real ones.

Each generator is fitted to a half of the table, its target among the columns as a
label, and draws as many rows as it saw; the other half is the test:

- TSTR: AUC on the test rows of a gradient-boosted classifier of the target that was
  trained on the generated rows; the row "real" trains on the fitted rows themselves;
- C2ST: cross-validated AUC of such a classifier that tells generated from test rows:
  0.5 if it cannot, 1 if always. Of the real fitted rows it shows what chance allows;
- marginals: mean over columns of the Kolmogorov-Smirnov distance of numbers and the
  total variation distance of labels;
- pairs: mean absolute difference of correlations between the standardised and one-hot
  columns of different columns.

Rows with holes are left out: the other generators cannot take them.

Usage: python benchmarks/quality/generation.py --data FOLDER [--output FILE.md]
       [--cache FILE.json] [--params JSON] [--methods METHOD ...]

TVAE takes part where the package ctgan is installed.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _baselines import GaussianCopula, OneHotMixture
from _tables import Cache, OneHot, capped, is_text, load, report, target
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

TABLES = {
    "adult": "mixed/adult.npz",
    "telco_churn": "mixed/telco_churn.npz",
    "phoneme": "uci/phoneme.npz",
    "banknote": "uci/banknote.npz",
}
FIGURES = ("TSTR", "C2ST", "marginals", "pairs")


def real(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    return train


def copula(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    return GaussianCopula().fit(train, seed).sample(len(train), seed)


def mixture(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    return OneHotMixture().fit(train, seed).sample(len(train), seed)


def tvae(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    from ctgan import TVAE

    torch.manual_seed(seed)
    # Its sampling draws from NumPy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    model = TVAE(enable_gpu=False)
    model.fit(train, [name for name in train if is_text(train[name])])
    return model.sample(len(train))


def ours(params: dict) -> Callable[[pd.DataFrame, int], pd.DataFrame]:
    def generate(train: pd.DataFrame, seed: int) -> pd.DataFrame:
        from skvae import VAETransformer

        vae = VAETransformer(random_state=seed, **params).fit(train)
        return vae.sample(len(train), random_state=seed)

    return generate


def compare(
    made: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, seed: int
) -> dict[str, float]:
    """The figures of generated rows."""
    code = OneHot.of(pd.concat([train, test]))
    inputs = [name for name in train if name != "target"]
    judge = _boosting(code, inputs, seed).fit(_ordinal(code, made[inputs]), made.target)
    chance = judge.predict_proba(_ordinal(code, test[inputs]))[:, 1]
    both = pd.concat([made[list(train)], test])
    is_made = np.repeat([1, 0], [len(made), len(test)])
    guess = cross_val_predict(
        _boosting(code, list(train), seed),
        _ordinal(code, both),
        is_made,
        cv=5,
        method="predict_proba",
    )[:, 1]
    block = np.repeat(np.arange(len(code.widths)), code.widths)
    others = block[:, None] != block
    pairs = _correlations(code.encode(made)) - _correlations(code.encode(test))
    return {
        "TSTR": roc_auc_score(test.target == judge.classes_[1], chance),
        "C2ST": roc_auc_score(is_made, guess),
        "marginals": float(np.mean([_distance(made[c], test[c]) for c in train])),
        "pairs": float(np.abs(pairs[others]).mean()),
    }


def _boosting(
    code: OneHot, columns: list[str], seed: int
) -> HistGradientBoostingClassifier:
    labels = [j for j, name in enumerate(columns) if is_text(code.like[name])]
    return HistGradientBoostingClassifier(
        categorical_features=labels, early_stopping=False, random_state=seed
    )


def _ordinal(code: OneHot, frame: pd.DataFrame) -> np.ndarray:
    """Numbers as they are, labels by the number of their level."""
    columns = []
    for name in frame:
        values = frame[name].to_numpy()
        if is_text(code.like[name]):
            values = np.searchsorted(code.levels(name), values.astype(str))
        columns.append(values.astype(np.float64))
    return np.stack(columns, axis=1)


def _correlations(X: np.ndarray) -> np.ndarray:
    X = X - X.mean(axis=0)
    scale = np.sqrt(np.square(X).mean(axis=0))
    return (
        np.divide(X, scale, out=np.zeros_like(X), where=scale > 0).T
        @ X
        / (len(X) * np.where(scale > 0, scale, 1.0))
    )


def _distance(made: pd.Series, test: pd.Series) -> float:
    if not is_text(test):
        return ks_2samp(made, test).statistic
    shares = [part.value_counts(normalize=True) for part in (made, test)]
    return shares[0].sub(shares[1], fill_value=0.0).abs().sum() / 2


def halves(name: str, folder: Path, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to fit and rows to test."""
    frame = load(name, folder).assign(target=target(folder / TABLES[name])).dropna()
    frame = capped(frame, 2 * rows)
    chosen = np.random.default_rng(1).permutation(len(frame))
    middle = len(frame) // 2
    return frame.iloc[chosen[:middle]], frame.iloc[chosen[middle:]]


def measure(
    generate: Callable[[pd.DataFrame, int], pd.DataFrame],
    train: pd.DataFrame,
    test: pd.DataFrame,
) -> dict[str, float]:
    """Figures and seconds of a generator."""
    began = time.process_time()
    made = generate(train, 0)
    seconds = time.process_time() - began
    return compare(made, train, test, 0) | {"s": seconds}


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--params", type=json.loads, default={})
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    methods = {"real": real, "copula": copula, "mixture": mixture, "TVAE": tvae}
    methods |= {"VAE": ours(args.params)}
    cache = Cache(args.cache)
    lines = [f"| table | rows | generator | {' | '.join(FIGURES)} | s |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    print(lines[0])
    for name in args.only or TABLES:
        train, test = halves(name, args.data, args.rows)
        for method in args.methods or methods:
            label = json.dumps(args.params) if method == "VAE" else method
            task = partial(measure, methods[method], train, test)
            try:
                found = cache(f"{name}|{args.rows}|{label}", task)
            except ImportError:
                continue
            cells = [name, str(len(train)), method]
            cells += [f"{found[figure]:.3f}" for figure in FIGURES]
            lines.append("| " + " | ".join([*cells, f"{found['s']:.1f}"]) + " |")
            print(lines[-1], flush=True)
    if args.output:
        command = "python benchmarks/quality/generation.py --data FOLDER --output FILE"
        note = (
            "One seed. TVAE is that of the package ctgan, with its defaults. The "
            "script tells what the columns mean; less is better but for TSTR. Seconds "
            "are CPU, of fit and sample."
        )
        title = "Generated rows against real ones"
        args.output.write_text(report(title, command, note, "\n".join(lines)))


if __name__ == "__main__":
    main()
