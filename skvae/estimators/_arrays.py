"""Arrays of other libraries, such as torch's tensors: on their way in, and back.

Where scikit-learn dispatches by array library (``array_api_dispatch``), an estimator
keeps its arrays in the library and on the device of the table it was fitted to, and
gives its answers there. The table is read with NumPy; only a torch tensor of real
numbers is not, by the questions that `_direct` can ask of it. Everything that knows of
scikit-learn's private helpers for this is in this file.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from sklearn import config_context, get_config
from sklearn.utils._array_api import (
    _convert_to_numpy,
    _max_precision_float_dtype,
    get_namespace_and_device,
)

from skvae.estimators._direct import parts_for

Method = TypeVar("Method", bound=Callable[..., Any])
T = TypeVar("T")

# An array that every fit leaves behind: where it lives, the estimator does.
_WITNESS = "_bank"
# Of an estimator that was kept as NumPy's: the library whose arrays it takes too.
_LIBRARY = "_library"


def learns(method: Method) -> Method:
    """Let a method learn from arrays of any library.

    The estimator's own arrays then live where the first argument does.
    """
    return _learning(method, moves=True)


def learns_more(method: Method) -> Method:
    """Let a method learn from any array first, from where fit did where there was one.

    The estimator's own arrays stay there.
    """
    return _learning(method, moves=False)


def _learning(method: Method, *, moves: bool) -> Method:
    @wraps(method)
    def learn(self: Any, *args: Any, **kwargs: Any) -> Any:
        first, witness = _first(args, kwargs), _witness(self)
        before = after = _Home.of_any(witness)
        if moves or witness is None:
            after = _Home.of(first)
        elif get_config()["array_api_dispatch"]:
            after = _home_for(self, first, method.__name__)
        self.__dict__.update(state_on_host(self))
        home = before
        try:
            result = method(self, *map(to_host, args), **_each(to_host, kwargs))
            home = after
            if moves or home is not None:
                self.__dict__.pop(_LIBRARY, None)
        finally:
            if home is not None:
                self.__dict__.update(_each(home.bring, _arrays(self)))
        return result

    return learn  # type: ignore[return-value]


def answers(method: Method) -> Method:
    """Let a method take a table, if any, from where fit did, and answer there."""
    return _answering(method, directly=False)


def answers_directly(method: Method) -> Method:
    """The same, without the host in between where there is a way (`_direct`)."""
    return _answering(method, directly=True)


def _answering(method: Method, *, directly: bool) -> Method:
    asks = "X" in inspect.signature(method).parameters

    @wraps(method)
    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        home = _Home.of(_witness(self))
        if asks and hasattr(self, _WITNESS) and get_config()["array_api_dispatch"]:
            X = _first(args, kwargs)
            home = _home_for(self, X, method.__name__)
            parts = parts_for(self, X) if directly and home is not None else None
            if home is not None and parts is not None:
                own = _each(home.bring, _arrays(self))
                there = copy_with(self, {**own, **parts})
                tensors = _each(_detached, kwargs)
                return home.bring(method(there, *map(_detached, args), **tensors))
        moved = state_on_host(self)
        host = copy_with(self, moved) if moved else self
        result = method(host, *map(to_host, args), **_each(to_host, kwargs))
        return result if home is None else home.bring(result)

    return answer  # type: ignore[return-value]


def to_host(value: Any) -> Any:
    """Another library's array as NumPy's; anything else as it is.

    Raises
    ------
    TypeError
        For numbers of a data type that NumPy lacks; for an array on another device than
        the CPU where scikit-learn does not dispatch by array library.
    """
    if not _is_foreign(value):
        return value
    dtype = getattr(value, "dtype", None)
    if "bfloat16" in str(dtype):
        raise TypeError(
            f"Arrays are of a data type that NumPy has, got {type(value).__name__} of "
            f"{dtype}. Convert it to float32; of torch, with its method float()."
        )
    if get_config()["array_api_dispatch"]:
        return _as_numpy(value)
    try:
        return np.asarray(_detached(value))
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"Arrays that NumPy can't read are taken only where scikit-learn "
            f"dispatches by array library, got {type(value).__name__} on device "
            f"{getattr(value, 'device', 'unknown')} ({error}). Set the environment "
            f"variable SCIPY_ARRAY_API=1 before Python starts and call "
            f"sklearn.set_config(array_api_dispatch=True), or pass a copy on the CPU."
        ) from error


def kept_state(estimator: Any) -> dict[str, Any]:
    """Fitted arrays as NumPy's, and what library they were of: good on any machine."""
    home = _Home.of_any(_witness(estimator))
    library = {} if home is None else {_LIBRARY: home.library}
    return {**state_on_host(estimator), **library}


def state_on_host(estimator: Any) -> dict[str, Any]:
    """Those of the fitted arrays that are not NumPy's, as NumPy's."""
    own = _arrays(estimator)
    return {name: _as_numpy(a) for name, a in own.items() if _is_foreign(a)}


def copy_with(estimator: T, changed: dict[str, Any]) -> T:
    """A copy of an estimator with these attributes.

    Not copy.copy, which goes by way of the pickled state, where there is no device.
    """
    other = object.__new__(type(estimator))
    other.__dict__.update({**vars(estimator), **changed})
    return other


@dataclasses.dataclass(frozen=True)
class _Home:
    """An array library and one of its devices."""

    xp: Any
    device: Any

    @classmethod
    def of(cls, array: Any) -> _Home | None:
        """Where an array lives; None for NumPy, and where nothing is dispatched."""
        return cls.of_any(array) if get_config()["array_api_dispatch"] else None

    @classmethod
    def of_any(cls, array: Any) -> _Home | None:
        """Where an array lives, dispatched or not; None for NumPy."""
        if not _is_foreign(array):
            return None
        with config_context(array_api_dispatch=True):
            xp, _, device = get_namespace_and_device(array)
        return cls(xp, device)

    @property
    def library(self) -> str:
        """Name of the array library."""
        return str(self.xp.__name__).rpartition(".")[2]

    def bring(self, value: Any) -> Any:
        """NumPy's numbers here, single ones and whatever else as they are."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            narrow = _max_precision_float_dtype(self.xp, self.device) == self.xp.float32
            if narrow and value.dtype == np.float64:
                value = value.astype(np.float32)
            # Neither negative strides nor memory that may not be written to.
            value = np.require(value, requirements=["C", "W"])
            return self.xp.asarray(value, device=self.device)
        if isinstance(value, tuple | list):
            return type(value)(self.bring(each) for each in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            moved = {name: self.bring(getattr(value, name)) for name in names}
            return dataclasses.replace(value, **moved)
        return value


def _home_for(estimator: Any, X: Any, name: str) -> _Home | None:
    """Where the estimator lives, and the table has to.

    An estimator that came back from a file or a pickle is NumPy's, and lives wherever a
    table of the library is that it was fitted to.
    """
    home, other = _Home.of(_witness(estimator)), _Home.of(X)
    kept = vars(estimator).get(_LIBRARY)
    if home is None and other is not None and other.library == kept:
        return other
    if other != home:
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{name}() must use the same "
            f"namespace and the same device as those passed to fit(): those were "
            f"{_told(home)}, got {_told(other)}. Convert X, or fit again."
        )
    return home


def _told(home: _Home | None) -> str:
    if home is None:
        return "NumPy's"
    return f"{home.xp.__name__}'s on {home.device}"


def _is_foreign(value: Any) -> bool:
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray)


def _detached(array: Any) -> Any:
    """The array without what its library needs for gradients."""
    return array.detach() if hasattr(array, "detach") else array


def _as_numpy(array: Any) -> np.ndarray:
    with config_context(array_api_dispatch=True):
        xp, _, _ = get_namespace_and_device(array)
        return np.asarray(_convert_to_numpy(_detached(array), xp))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("X")


def _each(change: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in values.items()}


def _witness(estimator: Any) -> Any:
    return vars(estimator).get(_WITNESS)


def _arrays(estimator: Any) -> dict[str, Any]:
    """The fitted arrays; parameters are the user's."""
    given = estimator._get_param_names()
    return {
        name: value
        for name, value in vars(estimator).items()
        if name not in given and (isinstance(value, np.ndarray) or _is_foreign(value))
    }
