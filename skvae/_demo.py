"""What ``python -m skvae demo`` does, as lines of text."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae._report import draw, paragraph, reasons
from skvae._version import __version__
from skvae.estimators.anomaly import VAEAnomalyDetector
from skvae.estimators.transformer import VAETransformer

_MALIGNANT = 20
_OTHER_DIGITS = 10
_DRAWS = 3
_DIGITS = range(10)
_WORST = 6

Task = tuple[np.ndarray, np.ndarray]


def demo(seed: int, plot: Path | None) -> Iterator[str]:
    """Fit both estimators beside their classical counterparts and tell how they did.

    Parameters
    ----------
    seed : int
        Of every draw and fit.
    plot : Path or None
        Where to draw codes and scores.
    """
    cells = load_breast_cancer()
    tasks = [nuclei(seed + i) for i in range(_DRAWS)]
    X, outlier = tasks[0]
    # Radius, perimeter and area follow from each other, which the fits notice.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        yield f"skvae {__version__}, random state {seed}"
        yield ""
        yield "1. OUTLIERS. Every method fits and scores all rows, and sees no label."
        yield paragraph(
            f"   nuclei: scikit-learn's breast_cancer, {X.shape[1]} measurements of "
            f"cell nuclei. Normal are the {(~outlier).sum()} benign rows, outliers "
            f"{_MALIGNANT} malignant ones, drawn at random; mean of {_DRAWS} draws.",
            3,
        )
        yield paragraph(
            f"   digits: scikit-learn's digits, 64 pixels. Normal are the images of "
            f"one digit, outliers {_OTHER_DIGITS} images of others, drawn at random; "
            f"mean over the ten digits.",
            3,
        )
        yield ""
        yield from _contest("nuclei", tasks, seed)
        yield ""
        yield from _contest("digits", [digit(d, seed + d) for d in _DIGITS], seed)
        yield ""
        yield from _density(cells.data[cells.target == 1], seed)
        yield ""
        detector = VAEAnomalyDetector(random_state=seed).fit(X)
    yield from _worst(detector, X, outlier, cells.feature_names)
    if plot is not None:
        labels = np.where(outlier, "malignant", "benign")
        draw(detector, X, plot, title="breast_cancer of scikit-learn", y=labels)
        yield f"\nDrawn: {plot}"


def nuclei(seed: int) -> Task:
    """The benign rows of breast_cancer and a few malignant ones; True for these."""
    data = load_breast_cancer()
    return _among(data.data, data.target == 1, _MALIGNANT, seed)


def digit(wanted: int, seed: int) -> Task:
    """All images of one digit and a few of the others; True for these."""
    data = load_digits()
    return _among(data.data, data.target == wanted, _OTHER_DIGITS, seed)


def _among(X: np.ndarray, normal: np.ndarray, n_outliers: int, seed: int) -> Task:
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.flatnonzero(~normal), n_outliers, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(normal), drawn]))
    return X[rows], ~normal[rows]


def _contest(name: str, tasks: list[Task], seed: int) -> Iterator[str]:
    """Means over the tasks, one line a method."""
    yield f"   {name:22}   AUROC   average precision   fit and score"
    methods: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "VAEAnomalyDetector": _vae,
        "IsolationForest": _forest,
        "PCA, squared error": _pca,
    }
    for method, score in methods.items():
        results, began = [], time.perf_counter()
        for i, (X, outlier) in enumerate(tasks):
            abnormal = -score(X, seed + i)
            results.append(
                (
                    roc_auc_score(outlier, abnormal),
                    average_precision_score(outlier, abnormal),
                )
            )
        seconds = (time.perf_counter() - began) / len(tasks)
        area, precision = np.mean(results, axis=0)
        yield f"     {method:20}   {area:5.3f}   {precision:17.3f}   {seconds:11.2f} s"


def _vae(X: np.ndarray, seed: int) -> np.ndarray:
    return VAEAnomalyDetector(random_state=seed).fit(X).score_samples(X)


def _forest(X: np.ndarray, seed: int) -> np.ndarray:
    return IsolationForest(random_state=seed).fit(X).score_samples(X)


def _pca(X: np.ndarray, seed: int) -> np.ndarray:
    """As many components as the detector takes, of standardised columns."""
    varying = (X.max(axis=0) > X.min(axis=0)).sum()
    pca = PCA(1 + int(np.sqrt(varying)))
    Z = StandardScaler().fit_transform(X)
    return -np.square(Z - pca.inverse_transform(pca.fit_transform(Z))).sum(axis=1)


def _density(X: np.ndarray, seed: int) -> Iterator[str]:
    """Held-out log-likelihood and reconstruction, beside those of PCA."""
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    scale = train.std(axis=0)
    began = time.perf_counter()
    vae = VAETransformer(random_state=seed).fit(train)
    seconds = time.perf_counter() - began
    pca = make_pipeline(StandardScaler(), PCA(vae.n_components_))
    began = time.perf_counter()
    pca.fit(train)
    pca_seconds = time.perf_counter() - began

    def line(name: str, score: float, rows: Any, seconds: float) -> str:
        error = np.square((test - rows) / scale).mean()
        return f"     {name:20}   {score:14.2f}   {error:13.3f}   {seconds:5.2f} s"

    yield paragraph(
        f"2. DENSITY. Fitted to {len(train)} benign rows, {vae.n_components_} "
        f"components, asked of the other {len(test)}. The squared error is that of the "
        f"reconstruction, mean cell, standardised columns.",
        3,
    )
    yield f"   {'':22}   log p(x), nats   squared error       fit"
    yield line("VAETransformer", vae.score(test), vae.reconstruct(test), seconds)
    # In the units of the table, as the other is.
    density = pca.score(test) - np.log(scale).sum()
    back = pca.inverse_transform(pca.transform(test))
    yield line("PCA, standardised", density, back, pca_seconds)


def _worst(
    detector: VAEAnomalyDetector, X: np.ndarray, outlier: np.ndarray, names: Any
) -> Iterator[str]:
    """The rows of the lowest scores, and why."""
    scores, parts = detector.score_samples(X), detector.explain(X)
    flagged = detector.predict(X) == -1
    yield (
        f"3. REASONS. Of the {len(X)} rows of the first draw the detector flags "
        f"{flagged.sum()}, {(flagged & outlier).sum()} of them malignant."
    )
    yield f"   Its {_WORST} least likely rows:"
    yield "   row    score  truth      reasons: value (nats against the mean row)"
    for i in np.argsort(scores)[:_WORST]:
        truth = "malignant" if outlier[i] else "benign"
        why = reasons(names, X[i], parts[i], width=60)
        yield f"   {i:3}  {scores[i]:7.1f}  {truth:9}  {why}"
