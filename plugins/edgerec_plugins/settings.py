"""Settings of one plugin, read by name with default and range; what is wrong is named in a ConfigError."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from edgerec.errors import ConfigError
from edgerec.interfaces import Settings


class SettingsReader:
    """Takes settings one by one; `done` refuses the names that nobody asked for."""

    def __init__(self, owner: str, settings: Settings) -> None:
        self._owner = owner
        self._left = dict(settings)
        self._known: list[str] = []

    def number(self, name: str, default: float, low: float, high: float, *, above_low: bool = False) -> float:
        """A finite number in low … high; `above_low` excludes `low` itself."""
        value = self._take(name, default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not math.isfinite(value) or not low <= value <= high or (above_low and value == low):
            raise self._wrong(name, value, f"a number from {low:g}{' (excluded)' if above_low else ''} to {high:g}")
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(name, value, f"one of {', '.join(sorted(choices))}")
        return value

    def text(self, name: str, default: str) -> str:
        """A text; an empty one by default alone."""
        value = self._take(name, default)
        if not isinstance(value, str) or (not value and value != default):
            raise self._wrong(name, value, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty by default."""
        value = self._take(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self._wrong(name, value, "a list of texts")
        return tuple(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def done(self) -> None:
        if self._left:
            unknown = ", ".join(sorted(map(str, self._left)))
            raise ConfigError(f"{self._owner}: unknown setting {unknown}", hint=f"known: {', '.join(self._known)}")

    def _take(self, name: str, default: Any) -> Any:
        self._known.append(name)
        return self._left.pop(name, default)

    def _wrong(self, name: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"{self._owner}: '{name}' cannot be {value!r}", hint=f"it must be {expected}")
