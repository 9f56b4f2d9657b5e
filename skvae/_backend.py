"""Where numbers live: device, dtype, scoped randomness, arrays to tensors and back."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

# What is asked of a model, and answered in the same: on the host, or on a device.
Numbers = TypeVar("Numbers", np.ndarray, Tensor)

# Not measured: below so many multiply-adds a step, starting the kernels is expected to
# cost a GPU more than the arithmetic.
_DEVICE_WORK = 50_000_000
# Not measured: a table takes this share of a device's free memory at most, so that
# training has room beside it.
_TABLE_SHARE = 0.5
# Rows whose positions four bytes hold.
_MOST_NARROW = 2**31


def fresh_seed(random_state: Any) -> int:
    """One integer from what scikit-learn calls a ``random_state``.

    ``None`` asks the operating system for entropy instead of NumPy's global stream,
    so that fitting or sampling never moves the caller's random state.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A private generator that depends on the key alone, never on place or order."""
    # A digest mixes a key ten times as fast as a SeedSequence, and a pass over a small
    # table asks for several.
    state = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(
        int.from_bytes(state, "little") >> 1
    )


def number(value: float, like: Tensor) -> Tensor:
    """A constant as a tensor, made once.

    Torch makes a tensor of a float at every call, which in a training step takes longer
    than the arithmetic.
    """
    return _number(value, like.dtype, like.device)


@cache
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # of use where gradients are taken, too
        return torch.tensor(value, dtype=dtype, device=device)


def sample_positions(n_rows: int, n_wanted: int, seed: int) -> np.ndarray:
    """Positions of at most so many rows, drawn without replacement, ascending.

    Drawn, because every n-th row would follow the period of a table that has one.
    """
    if n_wanted >= n_rows:
        return np.arange(n_rows, dtype=places_dtype(n_rows))
    order = random_order(n_rows, generator(seed, 0, 0, 3)).numpy()
    return np.sort(order[:n_wanted])


def random_order(n_rows: int, source: torch.Generator) -> Tensor:
    """Positions of so many rows in a random order, (n_rows,)."""
    dtype = getattr(torch, places_dtype(n_rows).name)
    return torch.randperm(n_rows, generator=source, dtype=dtype)


def places_dtype(n_rows: int) -> np.dtype[Any]:
    """The narrowest integers that hold positions of so many rows."""
    return np.dtype(np.int32 if n_rows <= _MOST_NARROW else np.int64)


def resolve_device(name: str, work: int) -> torch.device:
    """The device that ``name`` asks for; ``"auto"`` weighs the work of one step.

    Parameters
    ----------
    name : str
        "auto", or anything ``torch.device`` takes.
    work : int
        Multiply-adds of one training step.

    Raises
    ------
    ValueError
        Where the device is unknown or not available.
    """
    if name == "auto":
        if work < _DEVICE_WORK:
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be 'auto' or a device that torch can reach here, got "
            f"{name!r} ({str(error).splitlines()[0]}). Use device='auto' or 'cpu'."
        ) from error
    return device


def fits(n_bytes: int, device: torch.device) -> bool:
    """Whether a table of this size may lie on a device as a whole.

    Always where the device's memory is the host's.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= _TABLE_SHARE * free


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host doesn't wait until it is there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def scoring_dtype(
    dtype: np.dtype[Any] | torch.dtype, device: torch.device
) -> torch.dtype:
    """The precision of an answer: that of the question, where the device has it."""
    if dtype in (np.float32, torch.float32) or device.type == "mps":
        return torch.float32
    return torch.float64


def as_tensor(
    array: np.ndarray | Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor with the array's values; never a view of the caller's memory."""
    if isinstance(array, Tensor):
        return array.detach().to(device, dtype, copy=True).contiguous()
    return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device)


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values on the host."""
    return tensor.detach().cpu().numpy()


def as_asked(answer: Tensor, question: Numbers) -> Numbers:
    """The answer on the host, unless the question is a tensor too."""
    return answer if isinstance(question, Tensor) else as_array(answer)


def in_dtype(values: Numbers, dtype: Any) -> Numbers:
    """The same in a data type of their library, without a copy where they are."""
    if isinstance(values, Tensor):
        return values.to(dtype)
    return values.astype(dtype, copy=False)


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Arrays, or tensors, one below the other."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return np.concatenate(parts)
