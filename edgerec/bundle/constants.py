"""The manifest's constants that the core itself computes with, and what each may be.

Constants of plugins' own (updaters, filters, further sources) are checked by the plugin that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgerec.bundle.texts import check_name, shown
from edgerec.errors import BundleInvalid

MOST = 1e6
"""Largest weight or constant: its square, times a catalogue, still fits float32."""

MAX_NAME = 64

_TINY = 1e-9
_POSITIVE, _NOT_NEGATIVE, _SHARE, _ANY = (_TINY, MOST), (0.0, MOST), (0.0, 1.0), (-MOST, MOST)
_SOURCES = {
    "neighbours": {
        "half_life_days": _POSITIVE,
        "short_half_life_days": _POSITIVE,
        "short_share": _SHARE,
        "half_life_events": _POSITIVE,
        "last": _NOT_NEGATIVE,
    },
    "popular": {"boost": _ANY, "half_events": _POSITIVE},
    "habit": {"half_life_days": _POSITIVE},
}
_BLEND = {"rate": _NOT_NEGATIVE, "share": _SHARE, "clip": _POSITIVE}
_GUARD = {
    "window": (1.0, MOST),
    "min_count": _NOT_NEGATIVE,
    "margin": _ANY,
    "max_step": _POSITIVE,
    "max_norm": _POSITIVE,
}
_WHOLE = {"last"}

Ranges = Mapping[str, tuple[float, float]]


def check_constants(
    sources: Mapping[str, Mapping[str, Any]], blend: Mapping[str, Any], guard: Mapping[str, Any]
) -> None:
    """Raises BundleInvalid, naming the constant, where the core could not compute with it."""
    for name, constants in sources.items():
        _check(constants, _SOURCES.get(name, {}), f"manifest.json.sources.{name}")
    _check(blend, _BLEND, "manifest.json.blend")
    _check(guard, _GUARD, "manifest.json.guard")


def check_names(names: Mapping[str, Any], most: int, what: str) -> None:
    """At most so many names, each a text of 1 to 64 characters that looks like what it is. Raises BundleInvalid."""
    if len(names) > most:
        raise BundleInvalid(f"{what}: {len(names)} of them, more than {most}")
    for name in names:
        check_name(name, MAX_NAME, f"{what}: the name {shown(name)}")


def _check(constants: Mapping[str, Any], ranges: Ranges, where: str) -> None:
    for name in constants.keys() & ranges:
        value, (low, high) = constants[name], ranges[name]
        if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else (int, float)):
            raise BundleInvalid(f"{where}: '{name}' = {shown(value)} is no {'whole ' * (name in _WHOLE)}number")
        if not low <= value <= high:
            raise BundleInvalid(f"{where}: '{name}' = {shown(value)} lies outside {low:g} … {high:g}")
