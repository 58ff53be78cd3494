"""What checks say and compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgerec.types import State

Call = Callable[..., Any]
"""(function, *arguments) → result: how a run makes its calls."""


class CheckFailed(AssertionError):
    """An implementation does not do what its interface asks for."""


def expect(condition: object, message: str) -> None:
    """Raises CheckFailed with the message where the condition is not met."""
    if not condition:
        raise CheckFailed(message)


def direct(function: Callable[..., Any], *arguments: Any) -> Any:
    """A plain call."""
    return function(*arguments)


def fingerprint(value: Any) -> Any:
    """What two values have in common that are equal bit for bit: dtypes, shapes and bytes of all arrays within."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), fingerprint(one)) for name, one in value.items()))
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, tuple(fingerprint(getattr(value, name)) for name in value.__match_args__)
    if isinstance(value, list | tuple):
        return tuple(map(fingerprint, value))
    return repr(value)


def state_of(value: object) -> State:
    """The value, where it is a state: a mapping of names to arrays. Raises CheckFailed."""
    expect(isinstance(value, Mapping), f"a state must be a mapping of arrays, not {type(value).__name__}")
    assert isinstance(value, Mapping)
    for name, array in value.items():
        expect(isinstance(name, str), f"a state's names must be text, not {name!r}")
        expect(isinstance(array, np.ndarray), f"{name!r} in the state must be an array, not {type(array).__name__}")
    return value


def expect_finite(array: np.ndarray[Any, Any], what: str) -> None:
    """Raises CheckFailed where a value is NaN or infinite."""
    expect(array.dtype.kind != "f" or np.isfinite(array).all(), f"{what} is not finite")
