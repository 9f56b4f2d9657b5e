"""Real tables of normal rows, and outliers to plant in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

KINDS = ("uniform", "cells", "noise", "real")
# Tables of one source, of which one is enough.
_COPIES = ("WBC", "thyroid", "satimage-2", "landsat", "uci/yeast")


def normal_tables(
    data: Path, *, most_rows: int, most_columns: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, normal rows and outliers of each table under ``data``, small ones first.

    From ``data/outlier`` the rows that are labelled normal and those that are not; from
    ``data/uci`` all rows, with no outliers.
    """
    paths = [*(data / "outlier").glob("*.npz"), *(data / "uci").glob("*.npz")]
    for path in sorted(paths, key=lambda path: (path.stat().st_size, path.name)):
        name = path.stem if path.parent.name == "outlier" else f"uci/{path.stem}"
        file = np.load(path)
        X = file["X"].astype(np.float64)
        if name in _COPIES or X.shape[1] > most_columns:
            continue
        labels = file["y"] if path.parent.name == "outlier" else np.zeros(len(X))
        X = X[:, X[labels == 0].std(0) > 0]
        order = np.random.default_rng(0).permutation(len(X))
        normal, outliers = order[labels[order] == 0], order[labels[order] == 1]
        yield name, X[normal[:most_rows]], X[outliers]


def planted(
    kind: str,
    normal: np.ndarray,
    outliers: np.ndarray,
    n_rows: int,
    source: np.random.Generator,
) -> np.ndarray | None:
    """Outliers of a kind, (n_rows, n_columns); None where there are not so many.

    "uniform" rows in the box of the normal ones; "cells", a fifth of a normal row's
    cells moved by 4 to 8 deviations; "noise", normal rows with noise of two deviations
    on every cell; "real", the table's own.
    """
    deviation = normal.std(0)
    shape = (n_rows, normal.shape[1])
    if kind == "uniform":
        return source.uniform(normal.min(0), normal.max(0), shape)
    if kind == "real":
        if len(outliers) < n_rows:
            return None
        return outliers[source.permutation(len(outliers))[:n_rows]]
    rows = normal[source.integers(0, len(normal), n_rows)]
    if kind == "noise":
        return rows + 2.0 * deviation * source.normal(size=shape)
    n_moved = max(1, shape[1] // 5)
    moved = source.permuted(np.tile(np.arange(shape[1]), (n_rows, 1)), axis=1)
    moved = moved[:, :n_moved]
    step = source.choice([-1.0, 1.0], moved.shape) * source.uniform(4, 8, moved.shape)
    values = np.take_along_axis(rows, moved, axis=1) + step * deviation[moved]
    np.put_along_axis(rows, moved, values, axis=1)
    return rows
