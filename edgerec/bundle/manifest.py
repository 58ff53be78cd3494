"""The bundle's manifest: what a model says about itself, as typed, checked values.

`docs/bundle.md` describes every field; `manifest.schema.json` beside this file is the same as JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from edgerec.bundle.constants import MOST, check_constants, check_names
from edgerec.bundle.strict_json import strict_json
from edgerec.bundle.texts import check_name, shown
from edgerec.errors import BundleInvalid, BundleUnsupported
from edgerec.records import field, record

if TYPE_CHECKING:
    from edgerec.bundle.federated import Federated

FORMAT = 1
SEEN_RULES = ("hide", "show")
MAX_ITEMS = 20_000_000
MAX_DIM = 4096
MAX_KINDS = 256
MAX_SCENARIOS = 64
MAX_SOURCES = 64
MAX_TEXT = 64
_HEXADECIMAL = "0123456789abcdef"


@record
class EventKind:
    """`weight` scales learning (negative: speaks against the item); `consumes`: the item counts as seen; `hides`: it is
    not served any more, None where that is so if the weight is negative."""

    weight: float
    consumes: bool = False
    hides: bool | None = None

    @property
    def dislikes(self) -> bool:
        """Whether the item is hidden from then on."""
        return self.weight < 0 if self.hides is None else self.hides

    def values(self) -> dict[str, Any]:
        """As in the manifest."""
        said = {"weight": self.weight, "consumes": self.consumes}
        return said if self.hides is None else {**said, "hides": self.hides}


@record
class Scenario:
    """`seen`: hide or show items the user consumed; `weights`: the blend's starting weight per source."""

    seen: Literal["hide", "show"]
    weights: Mapping[str, float]


@record
class FileEntry:
    """Digest (hex sha256) and size (bytes) of one file of the bundle."""

    sha256: str
    size: int


@record
class Manifest:
    """Format 1. Constants of sources, blend, guard and updaters are plain mappings of numbers and strings."""

    name: str
    version: int
    created: str
    min_runtime: str
    dim: int
    n_items: int
    event_kinds: Mapping[str, EventKind]
    history_length: int
    history_kinds: tuple[str, ...]
    scenarios: Mapping[str, Scenario]
    encoder_inputs: tuple[str, ...]
    files: Mapping[str, FileEntry]
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blend: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    updater: str = "sgd"
    updaters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_negatives: int = 8
    n_replayed: int = 4
    n_exposed: int = 0
    n_rivals: int = 0
    learn_history: bool = False
    retrieval: Mapping[str, Any] = field(default_factory=lambda: {"kind": "exact"})
    federated: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Event kinds in the manifest's order; a kind's place is its index in the encoder's `kind` input."""
        return tuple(self.event_kinds)

    @property
    def federation(self) -> Federated:
        """`federated` as typed values. Raises BundleInvalid, which it never does for a manifest that `parse` gave."""
        from edgerec.bundle.federated import read_federated  # few bundles have any of it

        return read_federated(self.federated, self.n_items, self.scenarios)


class _Reader:
    """Takes typed fields out of one JSON object and names the place of whatever is wrong."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise BundleInvalid(f"{where} must be a JSON object, not {type(data).__name__}")
        self.data: dict[str, Any] = data
        self.where = where

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self.data:
            if default is ...:
                raise BundleInvalid(f"{self.where}: '{key}' is missing")
            return default
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BundleInvalid(f"{self.where}: '{key}' has the wrong type {type(value).__name__}")
        return value

    def whole(self, key: str, low: int, high: int, default: Any = ...) -> int:
        value = cast(int, self.take(key, int, default))
        if not low <= value <= high:
            raise BundleInvalid(f"{self.where}: '{key}' = {value} lies outside {low} … {high}")
        return value

    def number(self, key: str) -> float:
        value = self.take(key, (int, float))
        if not -MOST <= value <= MOST:
            raise BundleInvalid(f"{self.where}: {shown(key)} = {value:g} lies outside {-MOST:g} … {MOST:g}")
        return float(value)

    def name(self, key: str, default: Any = ...) -> str:
        value = self.take(key, str, default)
        check_name(value, MAX_TEXT, f"{self.where}: '{key}'")
        return cast(str, value)

    def names(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values) or len(set(values)) != len(values):
            raise BundleInvalid(f"{self.where}: '{key}' must list strings, each of them once")
        return tuple(values)

    def section(self, key: str, default: Any = ...) -> _Reader:
        return _Reader(self.take(key, dict, default), f"{self.where}.{key}")

    def sections(self, key: str, most: int, default: Any = ...) -> dict[str, _Reader]:
        inner = self.section(key, default)
        check_names(inner.data, most, inner.where)
        return {name: inner.section(name) for name in inner.data}


def parse(data: bytes) -> Manifest:
    """The manifest from its JSON, in UTF-8. Raises BundleInvalid or BundleUnsupported."""
    top = _Reader(strict_json(data, "manifest.json"), "manifest.json")
    if (version := top.whole("format", 1, 1 << 31)) > FORMAT:
        raise BundleUnsupported(f"bundle format {version} is newer than this runtime's {FORMAT}", hint="update edgerec")
    kinds = {
        name: EventKind(part.number("weight"), part.take("consumes", bool, False), part.take("hides", bool, None))
        for name, part in top.sections("event_kinds", MAX_KINDS).items()
    }
    history = top.section("history")
    manifest = Manifest(
        name=top.name("name"),
        version=top.whole("version", 1, 1 << 53),
        created=top.name("created"),
        min_runtime=top.name("min_runtime"),
        dim=top.whole("dim", 1, MAX_DIM),
        n_items=top.whole("n_items", 1, MAX_ITEMS),
        event_kinds=kinds,
        history_length=history.whole("length", 1, 4096),
        history_kinds=history.names("kinds"),
        scenarios={name: _scenario(part) for name, part in top.sections("scenarios", MAX_SCENARIOS).items()},
        encoder_inputs=top.names("encoder_inputs"),
        files=_files(top.section("files").data),
        sources={name: part.data for name, part in top.sections("sources", MAX_SOURCES, {}).items()},
        blend=top.take("blend", dict, {}),
        guard=top.take("guard", dict, {}),
        updater=top.name("updater", "sgd"),
        updaters={name: part.data for name, part in top.sections("updaters", MAX_SOURCES, {}).items()},
        n_negatives=top.whole("n_negatives", 1, 1024, 8),
        n_replayed=top.whole("n_replayed", 0, 1024, 4),
        n_exposed=top.whole("n_exposed", 0, 1024, 0),
        n_rivals=top.whole("n_rivals", 0, 1024, 0),
        learn_history=top.take("learn_history", bool, False),
        retrieval=top.take("retrieval", dict, {"kind": "exact"}),
        federated=top.take("federated", dict, {}),
        metrics=top.take("metrics", dict, {}),
        content=top.take("content", dict, {}),
        filters={name: part.data for name, part in top.sections("filters", MAX_SOURCES, {}).items()},
    )
    _check(manifest)
    return manifest


def _files(data: Mapping[str, Any]) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    for name, entry in data.items():
        part = _Reader(entry, f"manifest.json.files.{shown(name)}")
        digest = part.take("sha256", str)
        if len(digest) != 64 or digest.strip(_HEXADECIMAL):
            raise BundleInvalid(f"{part.where}: 'sha256' must be 64 hexadecimal digits in lower case")
        files[name] = FileEntry(digest, part.whole("size", 0, 1 << 40))
    return files


def _scenario(part: _Reader) -> Scenario:
    seen = part.take("seen", str)
    if seen not in SEEN_RULES:
        raise BundleInvalid(f"{part.where}: 'seen' must be 'hide' or 'show', not {shown(seen)}")
    weights = part.section("weights")
    check_names(weights.data, MAX_SOURCES, weights.where)
    values = {name: weights.number(name) for name in weights.data}
    if not values or min(values.values()) < 0 or sum(values.values()) <= 0:
        raise BundleInvalid(f"{weights.where}: weights must be non-negative and not all zero")
    return Scenario(cast(Literal["hide", "show"], seen), values)


def _check(manifest: Manifest) -> None:
    if "default" not in manifest.scenarios:
        raise BundleInvalid("manifest.json: there must be a scenario named 'default'")
    unknown = set(manifest.history_kinds) - set(manifest.event_kinds)
    if unknown or not manifest.history_kinds:
        raise BundleInvalid(f"manifest.json.history: unknown event kinds {shown(sorted(unknown))}")
    check_constants(manifest.sources, manifest.blend, manifest.guard)
    if manifest.federated:
        _ = manifest.federation


def dump(manifest: Manifest) -> str:
    """The JSON text that `parse` reads back."""
    data = {
        "format": FORMAT,
        **{key: getattr(manifest, key) for key in ("name", "version", "created", "min_runtime", "dim", "n_items")},
        "event_kinds": {name: kind.values() for name, kind in manifest.event_kinds.items()},
        "history": {"length": manifest.history_length, "kinds": list(manifest.history_kinds)},
        "scenarios": {n: {"seen": s.seen, "weights": dict(s.weights)} for n, s in manifest.scenarios.items()},
        "encoder_inputs": list(manifest.encoder_inputs),
        **{key: getattr(manifest, key) for key in ("sources", "blend", "guard", "updater", "updaters")},
        **{key: getattr(manifest, key) for key in ("n_negatives", "n_replayed", "n_exposed", "n_rivals")},
        "learn_history": manifest.learn_history,
        **{key: getattr(manifest, key) for key in ("retrieval", "federated", "metrics", "content", "filters")},
        "files": {n: {"sha256": f.sha256, "size": f.size} for n, f in sorted(manifest.files.items())},
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
