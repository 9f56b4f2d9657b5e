"""The estimators' parameters: what they may be, what they mean, what "auto" becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions

from skvae._backend import resolve_device
from skvae.model.networks import ACTIVATIONS, Network
from skvae.table.kinds import COUNTS, REQUESTABLE
from skvae.training.batches import count_rows
from skvae.training.loop import SCHEDULES, Plan
from skvae.training.settings import Settings, n_held_out


@dataclass(frozen=True)
class Defaults:
    """What "auto" is, where the estimators and their uses differ.

    Attributes
    ----------
    continuous, scaling, noise : str
        Of the continuous columns.
    max_steps : callable
        Number of rows and of columns to most steps of training.
    n_components : callable
        Number of columns to number of components.
    hidden : callable
        Number of columns to widths of the encoder's hidden layers.
    least_noise : float
        Least noise of a column, a share of its scale.
    max_batch : callable
        Number of rows to most of them in a training step.
    params : dict
        Values of the parameters that are "auto".
    """

    continuous: str
    scaling: str
    noise: str
    max_steps: Callable[[int, int], int]
    n_components: Callable[[int], int]
    hidden: Callable[[int], tuple[int, ...]]
    least_noise: float = 0.0
    max_batch: Callable[[int], int] = lambda n_rows: 512
    params: Mapping[str, Any] = field(default_factory=dict)

    def settle(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, those of ``params`` that are "auto" replaced."""
        return {
            name: self.params[name]
            if name in self.params and value == "auto"
            else value
            for name, value in params.items()
        }


# Columns from which networks are wide, and a step takes ten times as long.
_MANY_COLUMNS = 200


def _density_steps(n_rows: int, n_columns: int) -> int:
    return 5000 if n_columns >= _MANY_COLUMNS else min(max(5000, n_rows // 2), 10_000)


DENSITY = Defaults(
    continuous="gaussian",
    scaling="standard",
    noise="network",
    max_steps=_density_steps,
    n_components=lambda n_columns: min((n_columns + 1) // 2, 32),
    hidden=lambda n_columns: (256, 128) if n_columns >= _MANY_COLUMNS else (64, 64),
    max_batch=lambda n_rows: 1024 if n_rows >= 100_000 else 512,
)
"""Of a description of a table that is trusted."""

# Below this, held-out rows are too few to tell whether training helped.
_FEW_ROWS = 50

# A fit looks at no more rows: beyond, they cost memory and time and tell little.
_MOST_ROWS = 2_560_000

# Steps between looks at the held-out rows, at least: one for so many rows, up to a
# number, or where that is more to a share of all steps. While the rate is high, looks
# that are close mistake its noise for the end.
_LOOK_AFTER, _ROWS_A_STEP, _LOOKS = 25, 20, 100

# Share of the steps before that early stopping does not count looks without a gain:
# where the networks gained on a linear start, they did so from an eighth of the steps
# on at the latest (benchmarks/speed/quality.py).
_PATIENCE_FROM = 0.2

_AUTO = StrOptions({"auto"})
_SHARE = Interval(Real, 0, 1, closed="left")

CONSTRAINTS: dict[str, list[Any]] = {
    "n_components": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "likelihood": [StrOptions({"auto", *REQUESTABLE}), dict],
    "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
    "min_frequency": [
        Interval(Integral, 1, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="neither"),
        None,
    ],
    "max_categories": [Interval(Integral, 2, None, closed="left"), None],
    "handle_unknown": [StrOptions({"missing", "error"})],
    "noise": [StrOptions({"auto", "shared", "column", "network"})],
    "hidden_layer_sizes": [
        "array-like",
        Interval(Integral, 1, None, closed="left"),
        _AUTO,
    ],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "dropout": [_SHARE],
    "start": [StrOptions({"linear", "random"})],
    "variational": ["boolean"],
    "beta": [Interval(Real, 0, None, closed="left")],
    "kl_warmup": [Interval(Real, 0, 1, closed="both")],
    "free_bits": [Interval(Real, 0, None, closed="left")],
    "prior": [StrOptions({"normal", "aggregate"})],
    "n_importance_samples": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    "batch_size": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "learning_rate": [StrOptions(set(SCHEDULES))],
    "max_iter": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "early_stopping": ["boolean", _AUTO],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "n_score_samples": [Interval(Integral, 1, None, closed="left")],
    "device": [str],
    "random_state": ["random_state"],
    "warm_start": ["boolean"],
    "verbose": ["verbose"],
}


# Of the estimators with members.
ENSEMBLE: dict[str, list[Any]] = {
    "max_samples": [
        Interval(Integral, 1, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="right"),
        _AUTO,
    ],
    "bootstrap": ["boolean"],
}


def resolve_settings(
    params: dict[str, Any],
    *,
    kinds: tuple[str, ...],
    n_rows: int,
    defaults: Defaults,
) -> Settings:
    """Turn parameters into what a fit needs, for a table of this shape.

    Parameters
    ----------
    params : dict
        The estimator's parameters, settled.
    kinds : tuple of str of length n_columns
    n_rows : int
    defaults : Defaults

    Raises
    ------
    ValueError
        Where two parameters contradict each other.
    """
    variational = bool(params["variational"])
    noise = defaults.noise if params["noise"] == "auto" else params["noise"]
    if not variational:
        _reject_for_autoencoder(params)
        noise = "column" if params["noise"] == "auto" else noise
    n_importance_samples = params["n_importance_samples"]
    if n_importance_samples == "auto":
        n_importance_samples = 1
    if n_importance_samples > 1 and params["free_bits"]:
        raise ValueError(
            "free_bits bounds the closed-form KL, which the importance-weighted bound "
            f"has not, got free_bits={params['free_bits']} with n_importance_samples="
            f"{n_importance_samples}. Set one of them to its default."
        )
    hidden = _hidden(params["hidden_layer_sizes"], defaults.hidden(len(kinds)))
    few = _is_few(params, n_rows)
    held_out = _held_out(params, n_rows)
    n_components = params["n_components"]
    if n_components == "auto":
        n_components = defaults.n_components(len(kinds))
    n_components = int(n_components)
    max_samples = _max_samples(params)
    # Of all rows, and of those that are not held out, the ones that a member sees.
    n_seen = count_rows(max_samples, n_rows)
    n_learned = count_rows(max_samples, n_rows - n_held_out(n_rows, held_out))
    batch_size = _batch_size(params, n_seen, defaults)
    steps_per_epoch = max(1, math.ceil(n_learned / batch_size))
    max_iter = params["max_iter"]
    if max_iter == "auto":
        n_steps = _max_steps(n_seen, len(kinds), defaults)
        max_iter = math.ceil(n_steps / steps_per_epoch)
    look_every = max(1, n_rows // _ROWS_A_STEP)
    if look_every >= _LOOK_AFTER:
        look_every = max(_LOOK_AFTER, steps_per_epoch * max_iter // _LOOKS)
    network = Network(
        "one", len(kinds), n_components, n_components, hidden, params["activation"]
    )
    work = 2 * network.work * batch_size * params.get("n_estimators", 1)
    return Settings(
        n_components=n_components,
        n_members=params.get("n_estimators", 1),
        hidden=hidden,
        activation=params["activation"],
        noise=noise,
        start=params["start"],
        least_noise=defaults.least_noise,
        variational=variational,
        n_importance_samples=n_importance_samples,
        free_bits=params["free_bits"],
        alpha=params["alpha"],
        l1_ratio=params["l1_ratio"],
        batch_size=batch_size,
        held_out=held_out,
        keep_start=few,
        max_samples=max_samples,
        bootstrap=params.get("bootstrap", False),
        plan=Plan(
            n_epochs=int(max_iter),
            learning_rate=params["learning_rate_init"],
            schedule=SCHEDULES[params["learning_rate"]],
            beta=params["beta"],
            kl_warmup=params["kl_warmup"],
            dropout=params["dropout"],
            trim=params.get("trim", 0.0),
            max_grad_norm=params["max_grad_norm"],
            look_every=look_every,
            patience=params["n_iter_no_change"],
            patience_from=_PATIENCE_FROM,
            tol=params["tol"],
            max_time=params["max_time"],
        ),
        device=resolve_device(params["device"], work),
    )


def most_rows(
    params: dict[str, Any], n_rows: int, n_columns: int, defaults: Defaults
) -> int:
    """How many of a table's rows a fit looks at: no more than its steps can visit.

    Parameters
    ----------
    params, n_rows, defaults
        As of `resolve_settings`.
    n_columns : int
    """
    if params["max_iter"] != "auto" or _max_samples(params) is not None:
        return n_rows
    kept = n_held_out(n_rows, _held_out(params, n_rows))
    n_steps = _max_steps(n_rows, n_columns, defaults)
    n_visited = n_steps * _batch_size(params, n_rows, defaults)
    return min(n_rows, n_visited + kept, _MOST_ROWS)


def _max_samples(params: dict[str, Any]) -> int | float | None:
    max_samples = params.get("max_samples", "auto")
    if max_samples == "auto":
        return None
    # NumPy's integers too.
    return int(max_samples) if isinstance(max_samples, Integral) else max_samples


def _batch_size(params: dict[str, Any], n_seen: int, defaults: Defaults) -> int:
    batch_size = params["batch_size"]
    if batch_size == "auto":
        batch_size = 2 ** max(5, round(math.log2(n_seen / 16)))
        batch_size = min(batch_size, defaults.max_batch(n_seen))
    return int(min(batch_size, n_seen))


def _max_steps(n_seen: int, n_columns: int, defaults: Defaults) -> int:
    return int(np.clip(8 * n_seen, 20, defaults.max_steps(n_seen, n_columns)))


def _is_few(params: dict[str, Any], n_rows: int) -> bool:
    return params["early_stopping"] == "auto" and n_rows < _FEW_ROWS


def _held_out(params: dict[str, Any], n_rows: int) -> float:
    """Share of the rows that is held out for early stopping."""
    if not params["early_stopping"] or _is_few(params, n_rows):
        return 0.0
    # Two rows at least are left to learn from.
    return min(float(params["validation_fraction"]), 1.0 - 2.0 / n_rows)


def counts_only(likelihood: str | dict[Any, str]) -> bool:
    """Whether only counts are asked for: all that a sparse table may hold."""
    kinds = likelihood.values() if isinstance(likelihood, dict) else [likelihood]
    return set(kinds) <= set(COUNTS) and len(kinds) > 0


def _hidden(sizes: Any, default: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(sizes, str):
        return default
    widths = np.atleast_1d(np.asarray(sizes))
    if widths.ndim != 1 or any(
        not isinstance(width, Integral) or width < 1 for width in widths.tolist()
    ):
        raise ValueError(
            f"hidden_layer_sizes must be integers of at least 1, got {sizes!r}. Use () "
            f"for a linear model."
        )
    return tuple(int(width) for width in widths)


def _reject_for_autoencoder(params: dict[str, Any]) -> None:
    contradictions = {
        "noise": params["noise"] == "network",
        "beta": params["beta"] != 1.0,
        "free_bits": params["free_bits"] > 0,
        "kl_warmup": params["kl_warmup"] > 0,
        "n_importance_samples": params["n_importance_samples"] not in ("auto", 1),
    }
    for name, contradicts in contradictions.items():
        if contradicts:
            raise ValueError(
                f"variational=False has no KL and learns its noise after training, so "
                f"{name} must keep its default, got {name}={params[name]!r}. Drop it "
                f"or set variational=True."
            )
