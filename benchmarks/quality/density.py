"""Held-out density and reconstruction against PCA, factor analysis, mixtures, kernels.

Five-fold cross-validation on scikit-learn's bundled tables and on the ``.npz`` tables
(key ``X``) of a folder. Columns that are constant in the whole table are left out.
Log-likelihoods are mean nats a row, in the units of the table:

- PCA: the better of probabilistic PCA on the table and on its standardised columns
  (plus the log-Jacobian of that scaling);
- FA: factor analysis of the standardised columns, likewise. A star marks tables with
  exact linear dependencies, where its noise runs into scikit-learn's constant of 1e-12
  and its likelihood, which has no upper bound there, says only where it was stopped;
- GMM: Gaussian mixture with full covariances, 1 to 10 components by BIC;
- KDE: kernel density, bandwidth by cross-validation;
- VAE: ``VAETransformer()``, all defaults but ``n_components``, which all models
  share, and ``likelihood="gaussian"``: the mass of a 0/1 column is no density, and
  could not be compared with that of the others.

Reconstruction errors are mean squares over standardised held-out cells, in units of
PCA's: of a plain auto-encoder (``variational=False``) and of the VAE.

Usage: python benchmarks/quality/density.py [--data FOLDER] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer

BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
# Rows of a training fold for the slow mixtures and kernels.
SLOW_ROWS = 5000


def tables(folder: Path | None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and tables, without constant columns."""
    for name in BUNDLED:
        yield name, _varying(getattr(datasets, f"load_{name}")().data)
    for path in sorted(folder.glob("*.npz")) if folder else []:
        yield path.stem, _varying(np.load(path)["X"].astype(np.float64))


def _varying(X: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(X[:, X.std(axis=0) > 0])


def fold_scores(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
    """All figures of one fold."""
    d = train.shape[1]
    k = min((d + 1) // 2, 32)
    scaler = StandardScaler().fit(train)
    scaled, held_out = scaler.transform(train), scaler.transform(test)
    jacobian = -np.log(scaler.scale_).sum()
    pca = PCA(k).fit(scaled)
    kernel = GridSearchCV(
        KernelDensity(), {"bandwidth": np.geomspace(0.05, 1.0, 8)}, cv=3
    ).fit(scaled[:SLOW_ROWS])
    mixtures = [
        GaussianMixture(c, reg_covar=1e-4, random_state=seed).fit(scaled[:SLOW_ROWS])
        for c in range(1, 11)
        if len(scaled) > 2 * c
    ]
    mixture = min(mixtures, key=lambda m: m.bic(scaled[:SLOW_ROWS]))
    began = time.process_time()
    settings = {"n_components": k, "likelihood": "gaussian", "random_state": seed}
    vae = VAETransformer(**settings).fit(train)
    seconds = time.process_time() - began
    plain = VAETransformer(**settings, variational=False).fit(train)
    factors = FactorAnalysis(k).fit(scaled)

    def error(rows: np.ndarray) -> float:
        return float(np.square(scaler.transform(rows) - held_out).mean())

    projected = pca.inverse_transform(pca.transform(held_out))
    return {
        "PCA": max(pca.score(held_out) + jacobian, PCA(k).fit(train).score(test)),
        "FA": factors.score(held_out) + jacobian,
        "least noise": factors.noise_variance_.min(),
        "GMM": mixture.score(held_out) + jacobian,
        "KDE": kernel.best_estimator_.score_samples(held_out).mean() + jacobian,
        "VAE": vae.score(test),
        "PCA error": error(scaler.inverse_transform(projected)),
        "AE error": error(plain.reconstruct(test)),
        "VAE error": error(vae.reconstruct(test)),
        "seconds": seconds,
    }


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=None)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    header = (
        "| table | rows | columns | k | PCA | FA | GMM | KDE | VAE | margin a column "
        "| AE error | VAE error | s a fit |"
    )
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    print(header)
    for name, X in tables(args.data):
        if args.only and name not in args.only:
            continue
        folds = KFold(5, shuffle=True, random_state=0).split(X)
        scores = [fold_scores(X[a], X[b], seed) for seed, (a, b) in enumerate(folds)]
        mean = {key: np.mean([s[key] for s in scores]) for key in scores[0]}
        d = X.shape[1]
        margin = (mean["VAE"] - max(mean["PCA"], mean["FA"])) / d
        cells = [name, len(X), d, min((d + 1) // 2, 32)]
        cells += [f"{mean[key]:.2f}" for key in ("PCA", "FA", "GMM", "KDE", "VAE")]
        cells[5] += "*" if mean["least noise"] < 1e-10 else ""
        cells += [f"{margin:+.3f}"]
        for key in ("AE error", "VAE error"):
            cells += [f"{mean[key] / mean['PCA error']:.3f}"]
        cells += [f"{mean['seconds']:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    if args.output:
        command = "python benchmarks/quality/density.py --data FOLDER --output FILE"
        versions = (
            f"scikit-learn {sklearn.__version__}, torch {torch.__version__}, "
            f"NumPy {np.__version__}, Python {sys.version.split()[0]}"
        )
        text = "# Held-out density and reconstruction\n\n"
        text += (
            f"Made by `{command}` with {versions}, on the tables of scikit-learn and "
        )
        text += "ten of the UCI repository. The script tells what the columns mean.\n\n"
        text += "\n".join(lines) + "\n"
        args.output.write_text(text)


if __name__ == "__main__":
    main()
