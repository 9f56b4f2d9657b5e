"""Fitted estimators in files that hold numbers and text, and no code.

A file is one safetensors file: the arrays, and in its header a JSON description of
everything else, in which the arrays stand by name. Reading it builds objects of a few
known classes only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors
import sklearn
import torch
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays
from sklearn.utils.validation import check_is_fitted

from skvae._version import __version__
from skvae.estimators.anomaly import VAEAnomalyDetector
from skvae.estimators.imputer import VAEImputer
from skvae.estimators.transformer import VAETransformer
from skvae.inference.aggregate import Aggregate
from skvae.inference.donors import Donors
from skvae.model.completion import Completion
from skvae.model.latent import LatentModel
from skvae.table.containers import Container
from skvae.table.schema import Column, Schema

Estimator: TypeAlias = VAETransformer | VAEAnomalyDetector | VAEImputer

FORMAT = 1
"""Raised whenever an older version could not read what this one writes."""

ESTIMATORS: dict[str, type[Estimator]] = {
    cls.__name__: cls for cls in (VAETransformer, VAEAnomalyDetector, VAEImputer)
}
RECORDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (Schema, Column, Container, Completion, Aggregate, Donors)
}

# The digest stands inside what it is a digest of, which for that is written with zeros
# in its place: so no byte of the file escapes the check, the header's included.
_BLANK = "0" * 64
_DIGEST = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')

# What scikit-learn hangs on an estimator to go with one program, not with the model.
_NOT_OURS = ("_skl_callbacks", "_metadata_request", "_parent_callback_ctx")


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator to a file; the function behind its method `save`.

    Parameters
    ----------
    estimator : VAETransformer, VAEAnomalyDetector or VAEImputer
        Fitted.
    path : str or path-like
        An existing file is replaced.

    Raises
    ------
    NotFittedError
        Where the estimator is not fitted.
    TypeError
        For another class, or a parameter that is neither text nor numbers.
    """
    cls = type(estimator)
    if ESTIMATORS.get(cls.__name__) is not cls:
        raise TypeError(
            f"Only {', '.join(ESTIMATORS)} are saved, got {cls.__name__}. Save the "
            f"fitted estimator inside it, or pickle it where you trust the file."
        )
    check_is_fitted(estimator)
    Path(path).write_bytes(_pack(estimator))


def load(path: str | os.PathLike[str]) -> Estimator:
    """Read an estimator that its method `save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    estimator : VAETransformer, VAEAnomalyDetector or VAEImputer
        Fitted, on the CPU. With the same versions of the libraries on the same kind of
        machine every answer is that of the saved one, to the last bit.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where the file is damaged, is not one of ours, or is from a newer version that
        writes what this one can't read.

    Notes
    -----
    Loading runs no code from the file. The checksum finds damage, not forgery: whoever
    can change the file can change the checksum too.

    A `random_state` that is a RandomState instance comes back as None, callbacks and
    metadata requests don't come back.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_wine
    >>> import skvae
    >>> X = load_wine().data
    >>> vae = skvae.VAETransformer(2, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vae.save(Path(folder) / "wine.skvae")
    ...     same = skvae.load(Path(folder) / "wine.skvae")
    >>> bool((same.score_samples(X) == vae.score_samples(X)).all())
    True
    """
    raw = Path(path).read_bytes()
    description = _checked_description(raw, os.fspath(path))
    arrays = read_arrays(raw)
    read = _Reader(arrays)
    name, params = description["class"], read(description["params"])
    if name not in ESTIMATORS:
        raise ValueError(
            f"{path} holds an estimator of class {name!r}, but only "
            f"{', '.join(ESTIMATORS)} are loaded."
        )
    unknown = sorted(set(params) - set(ESTIMATORS[name]._get_param_names()))
    if unknown:
        raise ValueError(
            f"{path} was written by skvae {description['versions']['skvae']} and holds "
            f"parameters that skvae {__version__} does not have: {unknown}. Load it "
            f"with the version that wrote it."
        )
    estimator = ESTIMATORS[name](**params)
    # The estimator's own way back from a pickle: it checks versions and devices.
    state = read(description["state"])
    estimator.__setstate__({**vars(estimator), **state})
    return estimator


def _pack(estimator: Estimator) -> bytes:
    state = estimator.__getstate__()
    params = estimator.get_params(deep=False)
    if isinstance(params["random_state"], np.random.RandomState):
        # A stream that other code shares can't be put into a file and be shared again.
        params["random_state"] = None
    fitted = {
        name: value
        for name, value in state.items()
        if name not in params and name not in _NOT_OURS
    }
    write = _Writer()
    description = {
        "sha256": _BLANK,
        "format": FORMAT,
        "versions": {
            "skvae": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "safetensors": safetensors.__version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
        },
        "class": type(estimator).__name__,
        "params": write(params, "params"),
        "state": write(fitted, "state"),
    }
    text = json.dumps(description, allow_nan=False)
    raw: bytes = write_arrays(write.arrays, metadata={"skvae": text})
    return raw.replace(_BLANK.encode(), _digest(raw).encode(), 1)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _checked_description(raw: bytes, path: str) -> dict[str, Any]:
    """The JSON description of a file, once its checksum and version are checked."""
    stop = 8 + int.from_bytes(raw[:8], "little")
    found = _DIGEST.search(raw, 8, min(stop, len(raw)))
    if found is None:
        raise ValueError(
            f"{path} is not a model that skvae saved, or its beginning is damaged. "
            f"Pass a file that the method save of an estimator wrote."
        )
    kept = found[1].decode()
    blank = raw[: found.start(1)] + _BLANK.encode() + raw[found.end(1) :]
    if _digest(blank) != kept:
        raise ValueError(
            f"{path} is damaged: the SHA-256 of its {len(raw)} bytes is not the one "
            f"it was saved with. Save the model again, or copy the file again."
        )
    header = json.loads(raw[8:stop])
    description: dict[str, Any] = json.loads(header["__metadata__"]["skvae"])
    if description["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {description['format']}, written by skvae "
            f"{description['versions']['skvae']}, but skvae {__version__} reads "
            f"formats up to {FORMAT}. Upgrade skvae to load it."
        )
    return description


class _Writer:
    """Python values to JSON; arrays go to a side table under the name of their place.

    Whatever JSON has no form for is an object of one member, whose key says what it is.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def __call__(self, value: Any, place: str) -> Any:
        """The JSON form of a value; ``place`` names it in messages and arrays."""
        if value is None or isinstance(value, str | bool | np.bool_):
            return bool(value) if isinstance(value, np.bool_) else value
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, float | np.floating):
            number = float(value)
            return number if math.isfinite(number) else {"float": repr(number)}
        if isinstance(value, list):
            return self._each(value, place)
        if isinstance(value, tuple):
            return {"tuple": self._each(value, place)}
        if isinstance(value, dict):
            pairs = [
                [self(key, place), self(item, f"{place}.{key}")]
                for key, item in value.items()
            ]
            return {"dict": pairs}
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, LatentModel):
            spec, arrays = value.state()
            return {"model": [self(spec, place), self(arrays, place)]}
        if RECORDS.get(type(value).__name__) is type(value):
            fields = [field.name for field in dataclasses.fields(value)]
            items = {name: getattr(value, name) for name in fields}
            return {type(value).__name__: self(items, place)}
        raise TypeError(
            f"Only numbers, text and arrays are saved, but {place} is "
            f"{type(value).__name__}. Set it to plain values before the fit."
        )

    def _each(self, values: Any, place: str) -> list[Any]:
        return [self(item, f"{place}.{i}") for i, item in enumerate(values)]

    def _array(self, value: np.ndarray, place: str) -> Any:
        if value.dtype.kind in "OU":  # names of columns
            return {"strings": self._each(value.tolist(), place)}
        # The order of the axes in memory decides how matrix products round.
        axes = sorted(range(value.ndim), key=lambda axis: -value.strides[axis])
        self.arrays[place] = value.transpose(axes)
        if axes == list(range(value.ndim)):
            return {"array": place}
        return {"transposed": [{"array": place}, axes]}


class _Reader:
    """The way back: JSON and arrays to Python values."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self._makers: dict[str, Callable[[Any], Any]] = {
            "float": float,
            "tuple": tuple,
            "dict": dict,
            "strings": lambda names: np.array(names, dtype=object),
            # Copies: what safetensors gives are views of the file's bytes.
            "array": lambda name: self.arrays[name].copy(),
            "transposed": lambda parts: parts[0].transpose(np.argsort(parts[1])),
            "model": lambda parts: LatentModel.from_state(*parts),
        }

    def __call__(self, value: Any) -> Any:
        """The value of a JSON form."""
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, dict):
            ((kind, content),) = value.items()
            if kind in RECORDS:
                return RECORDS[kind](**self(content))
            if kind not in self._makers:
                raise ValueError(
                    f"A saved model holds values of the kinds "
                    f"{sorted({*self._makers, *RECORDS})}, got {kind!r}. Load it with "
                    f"the version that wrote it."
                )
            return self._makers[kind](self(content))
        return value
