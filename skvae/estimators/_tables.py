"""The user's table on its way in: checked as scikit-learn does, read as cells."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from skvae._backend import Numbers, joined
from skvae.table.containers import Container, is_frame
from skvae.table.raw import RawTable
from skvae.table.schema import Schema

FLOATS = (np.float64, np.float32)

# Rows coded and answered at a time, and their cells: what an answer needs beside the
# table stays small.
_BLOCK_ROWS, _BLOCK_CELLS = 16_384, 2**22
_SPARSE = ("csr", "csc")
# Packages in which a public call may pass through several lines.
_WITHIN = ("skvae", "sklearn")

# What scikit-learn is told of the numbers that `transform` returns.
PRESERVED_DTYPES = ["float64", "float32"]


def read_table(
    estimator: BaseEstimator, X: Any, *, reset: bool, min_rows: int = 1
) -> RawTable:
    """Check a table and read its cells.

    Parameters
    ----------
    estimator : BaseEstimator
        Learns names and width with ``reset``, holds the table to them without.
    X : table
        Whatever `Container` knows; or a tensor of floats, which stays one.
    reset : bool
    min_rows : int

    Raises
    ------
    ValueError, TypeError
        As scikit-learn's own validation.
    """
    if isinstance(X, np.ma.MaskedArray):
        X = _unmasked(X)
    # One memory layout: sums then round alike, and equal tables give equal fits.
    checks = {
        "dtype": FLOATS,
        "order": "C",
        "ensure_all_finite": "allow-nan",
        "ensure_min_samples": min_rows,
    }
    if isinstance(X, Tensor):
        checks["dtype"] = None
        return RawTable(validate_data(estimator, X, reset=reset, **checks))
    if not is_frame(X):
        # Series of polars have a data type of their own.
        typed = hasattr(getattr(X, "dtype", None), "kind")
        dtype = X.dtype if typed else np.asarray(X).dtype
        if dtype.kind not in "OUSTM":
            accepted = _SPARSE if get_tags(estimator).input_tags.sparse else False
            table = validate_data(
                estimator, X, reset=reset, accept_sparse=accepted, **checks
            )
            return RawTable.of(table)
        check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=min_rows)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    raw = Container.read(X)
    check_array(raw.numbers, estimator=estimator, input_name="X", **checks)
    return raw


def _unmasked(X: np.ma.MaskedArray) -> np.ndarray:
    """A masked array's numbers, missing where they are masked."""
    if X.dtype.kind not in "fiub":
        raise TypeError(
            f"Masked arrays are read where they hold numbers, got one of {X.dtype}. "
            f"Pass X.filled(...) with what stands for a missing cell, such as None."
        )
    return np.ma.filled(X if X.dtype.kind == "f" else X.astype(np.float64), np.nan)


def in_blocks(
    raw: RawTable,
    encode: Callable[[RawTable], Any],
    answer: Callable[[RawTable, Any], tuple[Numbers, ...]],
) -> tuple[Numbers, ...]:
    """Answer for some rows at a time, so that memory does not grow with the table.

    Rows of a sparse table are dense where they are answered for.

    Parameters
    ----------
    raw : RawTable
    encode : callable
        Codes rows.
    answer : callable
        From some rows, and these coded, to arrays whose first axis is theirs.
    """
    parts = []
    step = max(1, min(_BLOCK_ROWS, _BLOCK_CELLS // raw.shape[1]))
    for start in range(0, max(len(raw), 1), step):
        rows = slice(start, start + step)
        part = raw.take(rows)
        if part.is_sparse:
            part = RawTable(part.dense())
        parts.append(answer(part, encode(part)))
    return tuple(joined(part) for part in zip(*parts, strict=True))


def without_lone_cells(raw: RawTable, apart: np.ndarray) -> np.ndarray:
    """Which rows to keep back, bool (n_rows,): none that alone holds a column's cells.

    Of a column that the others know nothing of there is nothing to learn, and nothing
    that rows with it could be compared by.
    """
    if raw.is_sparse:
        return apart
    known = np.zeros(raw.shape[1], dtype=bool)
    for start in range(0, len(raw), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        known |= ~raw.take(rows).missing()[~apart[rows]].all(axis=0)
    if known.all():
        return apart
    places = np.flatnonzero(apart)
    observed = ~raw.take(places).missing(~known)
    kept = apart.copy()
    kept[places[observed.any(axis=1)]] = False
    return kept


def check_levels(schema: Schema, raw: RawTable, unknown: str) -> None:
    """Warn of levels that are unknown, or raise ValueError with ``unknown="error"``."""
    told = schema.unknown(raw, constants=unknown == "error")
    if not told:
        return
    message = f"Levels that fit never observed ({told})"
    if unknown == "error":
        raise ValueError(
            f"{message} are refused; correct these cells, make them missing, or "
            f"fit on rows that hold them."
        )
    warnings.warn(
        f"{message} are taken as missing.", UserWarning, stacklevel=users_level()
    )


def users_level() -> int:
    """``stacklevel`` of a warning that its caller gives, to point at the user's line.

    That is the first one outside of this package and scikit-learn's wrappers.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _WITHIN:
            break
        frame, level = frame.f_back, level + 1
    return level
