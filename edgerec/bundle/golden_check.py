"""The form of golden.json, checked before anybody computes with it; docs/bundle.md describes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgerec.bundle.arrays import MOST
from edgerec.bundle.manifest import Manifest
from edgerec.bundle.strict_json import strict_json
from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid

FILE = "golden.json"
MAX_CASES = 256
MAX_EVENTS = 10_000
MAX_RANKED = 1000


def parse_golden(data: bytes) -> dict[str, Any]:
    """golden.json as an object with the lists `encoder` and `stories`. Raises BundleInvalid."""
    parsed = strict_json(data, FILE)
    if not isinstance(parsed, dict) or not all(isinstance(parsed.get(key), list) for key in ("encoder", "stories")):
        raise BundleInvalid(f"{FILE}: must be an object with the lists 'encoder' and 'stories'")
    return parsed


def check_golden_form(golden: dict[str, Any], manifest: Manifest) -> None:
    """Raises BundleInvalid, naming the case or story, unless every field is there with its type and shape."""
    cases, stories = golden["encoder"], golden["stories"]
    if max(len(cases), len(stories)) > MAX_CASES:
        raise BundleInvalid(f"golden.json: more than {MAX_CASES} cases or stories")
    for number, case in enumerate(cases):
        _check_case(_Part(case, f"golden.json encoder case {number}"), manifest)
    for number, story in enumerate(stories):
        _check_story(_Part(story, f"golden.json story {number}"), manifest)


class _Part:
    """One JSON object, and the place that complaints name."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise BundleInvalid(f"{where}: must be an object")
        self.data = data
        self.where = where

    def refuse(self, key: str, wanted: str) -> BundleInvalid:
        return BundleInvalid(f"{self.where}: {key!r} must be {wanted}")

    def take(self, key: str, kind: type | tuple[type, ...], wanted: str, default: Any = None) -> Any:
        value = self.data.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.refuse(key, wanted)
        return value

    def numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Numbers of that shape within ±1e12, float64."""
        try:
            array = np.array(self.data.get(key), np.float64)
        except (ValueError, TypeError, OverflowError):
            array = np.empty(0)
        if array.shape != shape or not (np.abs(array) <= MOST).all():
            raise self.refuse(key, f"numbers within ±1e12 of shape {shape}")
        return array

    def whole(self, key: str, shape: tuple[int, ...], below: int) -> None:
        array = self.numbers(key, shape)
        if (array != np.floor(array)).any() or (array < 0).any() or (array >= below).any():
            raise self.refuse(key, f"whole numbers from 0 to {below - 1}")


def _check_case(case: _Part, manifest: Manifest) -> None:
    length, dim = manifest.history_length, manifest.dim
    case.numbers("history", (length, dim))
    case.numbers("age_days", (length,))
    case.whole("kind", (length,), len(manifest.kinds))
    case.whole("mask", (length,), 2)
    case.numbers("query", (dim,))


def _check_story(story: _Part, manifest: Manifest) -> None:
    events = story.take("events", list, "a list")
    if len(events) > MAX_EVENTS:
        raise story.refuse("events", f"at most {MAX_EVENTS}")
    for number, event in enumerate(events):
        _check_event(_Part(event, f"{story.where} event {number}"), manifest)
    story.numbers("user_vector", (manifest.dim,))
    rankings = story.take("rankings", dict, "an object")
    if not rankings or not set(rankings) <= set(manifest.scenarios):
        raise story.refuse("rankings", "of scenarios of the manifest, at least one")
    for name, ranking in rankings.items():
        part = _Part(ranking, f"{story.where} ranking {shown(name)}")
        items = part.take("items", list, "a list of texts")
        if len(items) > MAX_RANKED or not all(isinstance(item, str) for item in items):
            raise part.refuse("items", f"at most {MAX_RANKED} texts")
        part.numbers("scores", (len(items),))


def _check_event(event: _Part, manifest: Manifest) -> None:
    for key in ("item", "event_id"):
        event.take(key, str, "text")
    if event.take("kind", str, "text") not in manifest.event_kinds:
        raise event.refuse("kind", "an event kind of the manifest")
    if not 0 <= event.take("at", (int, float), "a number") < 1e11:
        raise event.refuse("at", "POSIX seconds")
    if event.data.get("group") is not None:
        event.take("group", str, "text")
    if event.data.get("value") is not None and not math.isfinite(event.take("value", (int, float), "a number")):
        raise event.refuse("value", "finite")
