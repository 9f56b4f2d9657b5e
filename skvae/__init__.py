"""Variational autoencoders for tables, as scikit-learn estimators."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skvae._version import __version__

if TYPE_CHECKING:
    from skvae.estimators._callbacks import EpochMonitor
    from skvae.estimators.anomaly import VAEAnomalyDetector
    from skvae.estimators.imputer import VAEImputer
    from skvae.estimators.transformer import VAETransformer
    from skvae.persistence import load

__all__ = [
    "EpochMonitor",
    "VAEAnomalyDetector",
    "VAEImputer",
    "VAETransformer",
    "__version__",
    "load",
]

_HOMES = {
    "EpochMonitor": "skvae.estimators._callbacks",
    "VAEAnomalyDetector": "skvae.estimators.anomaly",
    "VAEImputer": "skvae.estimators.imputer",
    "VAETransformer": "skvae.estimators.transformer",
    "load": "skvae.persistence",
}


def __getattr__(name: str) -> Any:
    # On first use only: `import skvae` stays free of torch and its seconds.
    if name not in _HOMES:
        raise AttributeError(f"module 'skvae' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
