"""The estimators' parameters: what they may be, what they mean, what "auto" becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions

from skvae._backend import resolve_device
from skvae.model.networks import ACTIVATIONS, Network
from skvae.table.kinds import COUNTS, REQUESTABLE
from skvae.training.fit import Settings
from skvae.training.loop import SCHEDULES, Plan

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Defaults:
    """What "auto" is, where the estimators and their uses differ.

    Attributes
    ----------
    continuous, scaling, noise : str
        Of the continuous columns.
    max_steps : int
    n_components : callable
        Number of columns to number of components.
    hidden : callable
        Number of columns to widths of the encoder's hidden layers.
    least_noise : float
        Least noise of a column, a share of its scale.
    max_batch : int
        Most rows of a training step.
    params : dict
        Values of the parameters that are "auto".
    """

    continuous: str
    scaling: str
    noise: str
    max_steps: int
    n_components: Callable[[int], int]
    hidden: Callable[[int], tuple[int, ...]]
    least_noise: float = 0.0
    max_batch: int = 512
    params: Mapping[str, Any] = field(default_factory=dict)

    def settle(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, those of ``params`` that are "auto" replaced."""
        return {
            name: self.params[name]
            if name in self.params and value == "auto"
            else value
            for name, value in params.items()
        }


DENSITY = Defaults(
    continuous="gaussian",
    scaling="standard",
    noise="network",
    max_steps=5000,
    n_components=lambda n_columns: min((n_columns + 1) // 2, 32),
    hidden=lambda n_columns: (256, 128) if n_columns >= 200 else (64, 64),
)
"""Of a description of a table that is trusted."""

# Below this, held-out rows are too few to tell whether training helped.
_FEW_ROWS = 50

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
    "max_categories": [Interval(Integral, 1, None, closed="left"), None],
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

_DOCS = """\
likelihood : str or dict, default="auto"
    What the columns are: for real numbers "gaussian", "student_t" (heavy tails),
    "lognormal" (positive); for 0/1 "bernoulli"; for levels "categorical", "ordinal"
    (in their order); for counts "poisson", "negative_binomial", "multinomial" (all
    such columns share a total). One name for all columns of numbers, or a dict from
    column name or position to a name, the other columns "auto". {auto_likelihood}
categorical_features : "from_dtype", array-like or None, default="from_dtype"
    Columns that hold categories: those of text and of categorical dtypes, or names,
    positions or a mask of them beside these. None takes columns of text alone.
min_frequency : int or float, default=None
    Rows, or the share of rows, below which a level is grouped with the other
    infrequent ones.
max_categories : int, default=None
    Most levels that a column may have before the infrequent ones are grouped; None
    allows 100.
handle_unknown : {{"missing", "error"}}, default="missing"
    What a level is that the column did not show in `fit`: missing, with a warning, or
    an error.
noise : {{"auto", "shared", "column", "network"}}, default="auto"
    Scale of the continuous columns: one in the units of X ("shared", probabilistic
    PCA in the linear limit), one a column ("column", factor analysis), or a function
    of the code ("network"). {auto_noise}
hidden_layer_sizes : int, array-like of int or "auto", default="auto"
    Widths of the encoder's hidden layers; the decoder mirrors them. None at all, (),
    leaves a linear model. "auto" is {auto_hidden}.
activation : str, default="silu"
    Of the hidden layers: "relu", "silu", "gelu", "elu", "tanh", "softplus" or
    "logistic".
dropout : float, default=0.0
    Share of the hidden units left out in each training step, in [0, 1).
start : {start_options}
    "linear" starts at the closed-form solution of the linear model (probabilistic
    PCA or factor analysis), with the networks at zero; training is kept only where it
    beats that on held-out rows. "random" starts everywhere at random.{mixed_start}
variational : bool, default=True
    False trains a plain auto-encoder (deterministic codes, no KL, squared error in
    standardised units); its density is put together after training.
beta : float, default=1.0
    Weight of the KL divergence in training (Higgins et al., 2017). Scores are always
    those of beta = 1.
kl_warmup : float, default=0.0
    Share of the training steps over which the KL's weight rises from 0 to `beta`.
free_bits : float, default=0.0
    Nats of KL that each component may spend for free (Kingma et al., 2016).
prior : {prior_options}
    Density of the codes: standard normal, or with "aggregate", once training has
    ended, the mean of the posteriors of at most 1000 training rows. {auto_prior}
n_importance_samples : int or "auto", default="auto"
    Draws of each row in training. 1 is the ELBO, more the importance-weighted bound
    (Burda et al., 2016), that of the observed cells where others are missing (Mattei
    and Frellsen, 2019). "auto" is 1.
alpha : float, default=0.01
    Strength of the penalty on the networks' weights, decoupled from the gradient
    (AdamW). The linear paths, biases and scales are free.
l1_ratio : float, default=0.0
    Share of `alpha` that is an L1 penalty; the rest is L2.
batch_size : int or "auto", default="auto"
    Rows of a training step; at most all. "auto" is 32 to {auto_batch}, growing with the
    table.
learning_rate_init : float, default={learning_rate_init}
    Largest learning rate.
learning_rate : {{"cosine", "constant"}}, default="cosine"
    Its course over training.
max_iter : int or "auto", default="auto"
    Passes over the rows. {auto_max_iter}
max_time : float or None, default=None
    Seconds after which training ends, at the end of a pass.
early_stopping : bool or "auto", default="auto"
    Whether to hold out `validation_fraction` of the rows, stop once their objective
    stops growing, and keep the best parameters. {auto_stopping}
validation_fraction : float, default=0.1
    Share of the rows held out, at most 4096 rows; not used where `X_val` is given.
n_iter_no_change : int, default=10
    Looks at the held-out rows without a gain of `tol` before training stops. A look
    comes after a pass and after at least 25 steps (fewer on tables under 500 rows).
tol : float, default=1e-4
    Least gain, nats a row.
max_grad_norm : float or None, default={max_grad_norm}
    Longer gradients are shortened to this length; None leaves them.
n_score_samples : int, default=64
    Draws from the posterior behind each score. More are more exact and cost more.
device : str, default="auto"
    "auto", or what torch calls a device. "auto" takes a GPU where there is one and a
    training step is large enough to gain from it.
random_state : int, RandomState instance or None, default=None
    Makes fits repeatable. No global random state is read or changed.
warm_start : bool, default=False
    Whether `fit` goes on from the last fit's parameters and scaling. `n_iter_` and
    `loss_curve_` then tell of the last fit alone.
verbose : int, default=0
    Prints a line for every so many passes.
"""

_ATTRIBUTES = """\
n_components_ : int
    Number of components of the code.
likelihood_ : tuple of str of length n_features
    Kind of each column; "constant" columns are left out of the model.
categories_ : list of length n_features
    Levels of each column in an array, None where it has none.
noise_variance_ : float or ndarray of shape (n_features,)
    Noise variance of the columns in the units of X squared, for Student's t the
    squared scale (its mean over training rows where it depends on the code); one
    number for noise="shared", NaN for 0/1 columns.
kl_per_component_ : ndarray of shape (n_components,)
    Mean KL divergence of each component from the prior over training rows, nats.
n_active_components_ : int
    Components whose posterior mean varies over the rows (variance above 0.01).
loss_curve_ : list of float
    Mean training loss of each pass, nats a row, in the units of X; empty where the
    closed form was kept without training.
validation_scores_ : list of float
    Held-out objective at each look, nats a row; the first is that of the start.
best_validation_score_ : float or None
    That of the parameters that were kept; None where nothing was held out.
base_score_ : float
    Mean score of (at most 1000) training rows, to which `explain` refers.
n_iter_ : int
    Passes over the rows.
device_ : str
    Where the model runs.
n_features_in_ : int
    Number of columns of the table.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the columns, where all are strings.
"""

_TRANSFORMER_WORDS = {
    "auto_likelihood": '"auto" is bernoulli for\n    0 and 1, categorical for text, '
    "ordinal for ordered categories, gaussian for\n    other numbers.",
    "auto_noise": '"auto" is "network", and "column" for a\n    plain auto-encoder.',
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 5000 in all.',
    "auto_hidden": "(64, 64), and (256, 128) from 200 columns",
    "auto_batch": "512",
    "auto_stopping": '"auto" does so from 50 rows; with\n    fewer, nothing could show '
    "that training helped, and a linear start is kept as it is.",
    "prior_options": '{"normal", "aggregate"}, default="normal"',
    "auto_prior": "",
    "start_options": '{"linear", "random"}, default="linear"',
    "mixed_start": "",
    "learning_rate_init": "0.002",
    "max_grad_norm": "100.0",
}
_IMPUTER_WORDS = {
    **_TRANSFORMER_WORDS,
    "auto_noise": '"auto" is "column".',
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 2000 in all.',
    "learning_rate_init": "0.005",
}
_DETECTOR_WORDS = {
    **_TRANSFORMER_WORDS,
    "auto_likelihood": '"auto" is bernoulli for\n    0 and 1, categorical for text, '
    "ordinal for ordered categories, student_t for\n    other numbers (gaussian for "
    "novelties).",
    "auto_noise": '"auto" is "column".',
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 200\n    in all, for '
    "outliers are learned last (300 for novelties).",
    "auto_hidden": "(64,)",
    "auto_batch": "128",
    "auto_stopping": '"auto" does not:\n    training is short as it is.',
    "prior_options": '{"auto", "normal", "aggregate"}, default="auto"',
    "auto_prior": '\n    "auto" is "normal", for novelties "aggregate".',
    "start_options": '{"auto", "linear", "random", "mixed"}, default="auto"',
    "mixed_start": '\n    "mixed" starts half of the members linear, the others at '
    'random.\n    "auto" is "mixed", for novelties "linear".',
}
_WORDS = {
    "transformer": _TRANSFORMER_WORDS,
    "imputer": _IMPUTER_WORDS,
    "detector": _DETECTOR_WORDS,
}


def documented(words: str) -> Callable[[T], T]:
    """Put the shared documentation in place of "{parameters}" and "{attributes}"."""

    def decorate(cls: T) -> T:
        parameters = _DOCS.format(**_WORDS[words])
        for mark, text in (("parameters", parameters), ("attributes", _ATTRIBUTES)):
            indented = text.replace("\n", "\n    ").rstrip()
            cls.__doc__ = (cls.__doc__ or "").replace(f"{{{mark}}}", indented)
        return cls

    return decorate


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
    few = params["early_stopping"] == "auto" and n_rows < _FEW_ROWS
    held_out = 0.0
    if params["early_stopping"] and not few:
        # Two rows at least are left to learn from.
        held_out = min(float(params["validation_fraction"]), 1.0 - 2.0 / n_rows)
    n_components = params["n_components"]
    if n_components == "auto":
        n_components = defaults.n_components(len(kinds))
    n_components = int(n_components)
    batch_size = params["batch_size"]
    if batch_size == "auto":
        batch_size = 2 ** max(5, round(math.log2(n_rows / 16)))
        batch_size = min(batch_size, defaults.max_batch)
    batch_size = int(min(batch_size, n_rows))
    steps_per_epoch = max(1, math.ceil(n_rows * (1.0 - held_out) / batch_size))
    max_iter = params["max_iter"]
    if max_iter == "auto":
        max_iter = math.ceil(
            int(np.clip(8 * n_rows, 20, defaults.max_steps)) / steps_per_epoch
        )
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
        plan=Plan(
            n_epochs=int(max_iter),
            learning_rate=params["learning_rate_init"],
            schedule=SCHEDULES[params["learning_rate"]],
            beta=params["beta"],
            kl_warmup=params["kl_warmup"],
            dropout=params["dropout"],
            trim=params.get("trim", 0.0),
            max_grad_norm=params["max_grad_norm"],
            look_every=int(np.clip(n_rows // 20, 1, 25)),
            patience=params["n_iter_no_change"],
            tol=params["tol"],
            max_time=params["max_time"],
        ),
        device=resolve_device(params["device"], work),
    )


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
