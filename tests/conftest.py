"""What holds for every test: quiet threads, repeatable examples, no global effects."""

from __future__ import annotations

import os

# Set before anything imports NumPy, torch or matplotlib. The tables of the tests are
# small: one thread is the fastest way through them, and the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.distributions import Distribution

# The same examples in every run, and no deadline: no test depends on a clock.
settings.register_profile(
    "skvae", database=None, deadline=None, derandomize=True, max_examples=50
)
settings.load_profile("skvae")


def global_state() -> dict[str, object]:
    """What a library must leave as it found it, by name."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's thread count": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's checks of distributions": Distribution._validate_args,
        "NumPy's error handling": np.geterr(),
    }


@pytest.fixture(autouse=True)
def no_global_effects() -> Iterator[None]:
    """Fail a test that leaves a changed global state behind.

    Tests draw from ``np.random.default_rng(seed)`` or from a ``torch.Generator`` of
    their own, and the package from private generators: nothing moves the global one.
    """
    before = global_state()
    yield
    after = global_state()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        pytest.fail(f"the test, or what it tests, changed {', '.join(changed)}")
