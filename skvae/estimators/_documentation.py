"""What the parameters and attributes mean, in the words of the docstrings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from textwrap import indent
from typing import TypeVar

T = TypeVar("T", bound=type)

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
    infrequent ones. Ordinal columns keep all levels, of which they hold at most 1000.
max_categories : int, default=None
    Most levels that a column may have before the infrequent ones are grouped, two or
    more; None allows 100.
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
prior : {{"normal", "aggregate"}}, default="normal"
    Density of the codes: standard normal, or with "aggregate", once training has
    ended, the mean of the posteriors of at most 1000 training rows. New rows then
    resemble those; where posteriors are narrow, rows that were not among them get
    next to no density.
n_importance_samples : int or "auto", default="auto"
    Draws of each row in training. 1 is the ELBO, more the importance-weighted bound
    (Burda et al., 2016), that of the observed cells where others are missing (Mattei
    and Frellsen, 2019). "auto" is 1.
alpha : float, default={alpha}
    Strength of the penalty on the networks' weights, decoupled from the gradient
    (AdamW). The linear paths, biases and scales are free.
l1_ratio : float, default=0.0
    Share of `alpha` that is an L1 penalty; the rest is L2.
batch_size : int or "auto", default="auto"
    Rows of a training step; at most all. "auto" is 32 to {auto_batch}.
learning_rate_init : float, default={learning_rate_init}
    Largest learning rate.
learning_rate : {{"cosine", "constant"}}, default="cosine"
    Its course over training.
max_iter : int or "auto", default="auto"
    Passes over the rows. {auto_max_iter}
    Of a table of more rows than these visit, or more than 2,560,000, a random part is
    learned from; levels, scales and thresholds are those of all rows.
max_time : float or None, default=None
    Seconds after which training ends, at the end of a pass.
early_stopping : bool or "auto", default="auto"
    Whether to hold out `validation_fraction` of the rows, stop once their objective
    stops growing, and keep the best parameters. {auto_stopping}
validation_fraction : float, default=0.1
    Share of the rows held out, at most 4096 rows; not used where `X_val` is given.
n_iter_no_change : int, default=10
    Looks at the held-out rows without a gain of `tol` before training stops. A look
    comes after a pass and after at least 25 steps and a hundredth of all (less on
    tables under 500 rows); in the first fifth of the passes none counts.
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
    Levels of each column in an array, None where it has none; last those that only
    rows hold which a detector keeps back for its p-values, or known outliers.
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
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 5000 in\n    all; half a '
    "step a row where that is more, to 10000, under 200 columns.",
    "auto_hidden": "(64, 64), and (256, 128) from 200 columns",
    "auto_batch": "512, growing with the\n    table; 1024 from 100,000 rows",
    "auto_stopping": '"auto" does so from 50 rows; with\n    fewer, nothing could show '
    "that training helped, and a linear start is kept as it is.",
    "start_options": '{"linear", "random"}, default="linear"',
    "mixed_start": "",
    "alpha": "0.01",
    "learning_rate_init": "0.01",
    "max_grad_norm": "100.0",
}
_IMPUTER_WORDS = {
    **_TRANSFORMER_WORDS,
    "auto_noise": '"auto" is "column".',
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 2000 in all.',
    "auto_batch": "512, growing with the\n    table",
    "alpha": "0.0",
}
_DETECTOR_WORDS = {
    **_TRANSFORMER_WORDS,
    "learning_rate_init": "0.002",
    "auto_likelihood": '"auto" is bernoulli for\n    0 and 1, categorical for text, '
    "ordinal for ordered categories, student_t for\n    other numbers.",
    "auto_noise": '"auto" is "column".',
    "auto_max_iter": '"auto" allows eight steps a row, 20 to 200\n    in all, for '
    "outliers are learned last (300 for novelties).",
    "auto_hidden": "(64,)",
    "auto_batch": "128, growing with the\n    table",
    "auto_stopping": '"auto" does not:\n    training is short as it is.',
    "start_options": '{"auto", "linear", "random", "mixed"}, default="auto"',
    "mixed_start": '\n    "mixed" starts half of the members linear, the others at '
    'random.\n    "auto" is "mixed", for novelties "linear".',
}


_WORDS = {
    "transformer": _TRANSFORMER_WORDS,
    "imputer": _IMPUTER_WORDS,
    "detector": _DETECTOR_WORDS,
}


_MEMBERS = """\
max_samples : int, float or "auto", default="auto"
    Rows that each member learns from, drawn for each its own: an int is their number,
    at most all, a float their share. So 1 is a single row, and 1.0 is all, as "auto"
    is. Scaling and a linear start are those of all rows.
bootstrap : bool, default=False
    Whether they are drawn with replacement.
"""


def documented(words: str) -> Callable[[T], T]:
    """Put the shared documentation in place of its "{marks}"."""

    def decorate(cls: T) -> T:
        parameters = _DOCS.format(**_WORDS[words])
        texts = {"parameters": parameters, "attributes": _ATTRIBUTES}
        texts["members"] = _MEMBERS
        cls.__doc__ = filled(cls.__doc__, texts)
        return cls

    return decorate


def filled(doc: str | None, texts: Mapping[str, str]) -> str:
    """A docstring with texts in place of their "{marks}", as far in as these stand."""
    for mark, text in texts.items():
        parts = re.split(rf"^( *)\{{{mark}\}}$", doc or "", flags=re.MULTILINE)
        parts[1::2] = [indent(text.rstrip(), margin) for margin in parts[1::2]]
        doc = "".join(parts)
    return doc or ""
