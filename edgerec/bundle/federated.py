"""What a manifest says of federation: the blocks that a device may send, and the weights that a round's bundle takes.

Read only where a manifest has such a section; docs/delta-format.md says what the blocks mean and how they travel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from math import frexp
from typing import Any

from edgerec.bundle.constants import MOST, check_constants, check_names
from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid
from edgerec.records import field, record

ITEM_COUNTS, PAIR_SKETCH, METRICS = "item_counts", "pair_sketch", "metrics"
KINDS = (ITEM_COUNTS, PAIR_SKETCH, METRICS)
MAX_BLOCKS = 16
MAX_FOCUS = 65_536
MAX_PAYLOAD = 65_536
"""Bytes that a delta may take on its way, whatever its blocks."""
LARGEST = 32_767
"""Of a value in units, on either side of 0: what 16 bits hold."""
OPEN_WIDTH, RING_WIDTH = 2, 4
"""Bytes of a value that travels openly, and of one in a share."""
METRICS_LEAST = 18
BLOCK_NAME = r"[a-z][a-z0-9_]{0,31}"

_HEAD, _PART, _CHECKSUM = 31, 9, 4
_TINY = 2.0**-30
_WHAT = "manifest.json.federated"


@record
class BlockSpec:
    """One block of a delta, float32 (size,).

    `bound`: the L2 norm that it is clipped to on the device · `unit`: its values travel as whole multiples of it, a
    power of two · `half_life_days`: of old counts, when a round adds new ones; None: they do not fade · `seed`: of a
    sketch's hashes · `focus`: catalogue rows, one of which each counted pair must hold; empty: every pair counts.
    """

    name: str
    kind: str
    size: int
    bound: float
    unit: float
    half_life_days: float | None = None
    seed: int = 0
    focus: tuple[int, ...] = ()

    def values(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> BlockSpec:
        """What `values` gave. Raises KeyError or TypeError for something else."""
        return cls(**{**values, "focus": tuple(values["focus"])})


@record
class Federated:
    """`blocks`: in the order in which they travel; those of an unknown kind too, which are sent empty · `weights`:
    scenario → source → weight of the blend in a bundle that a round makes · `sources`: source → constants that are
    others in it."""

    blocks: tuple[BlockSpec, ...] = ()
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, kind: str) -> BlockSpec | None:
        """The first block of a kind."""
        return next((spec for spec in self.blocks if spec.kind == kind), None)


def read_federated(section: Mapping[str, Any], n_items: int, scenarios: Collection[str]) -> Federated:
    """The section as typed values. Raises BundleInvalid, naming the place that is wrong.

    Unknown fields are ignored, and blocks of a kind that this runtime does not know are kept: what is newer must not
    keep an older device out.
    """
    blocks = section.get("blocks", [])
    if not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
        raise BundleInvalid(f"{_WHAT}.blocks must be a list of at most {MAX_BLOCKS} objects")
    specs = tuple([_block(one, f"{_WHAT}.blocks[{n}]", n_items) for n, one in enumerate(blocks)])
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BundleInvalid(f"{_WHAT}.blocks: two of them are called {shown(twice)}")
    if (size := payload_size(specs)) > MAX_PAYLOAD:
        raise BundleInvalid(f"{_WHAT}.blocks: a delta would take {size} bytes, more than {MAX_PAYLOAD}")
    return Federated(specs, _weights(section.get("weights", {}), scenarios), _sources(section.get("sources", {})))


def payload_size(specs: Sequence[BlockSpec], width: int = OPEN_WIDTH) -> int:
    """Bytes that a delta of these blocks takes on its way, for values of `width` bytes."""
    return _HEAD + sum(_PART + len(spec.name) + width * spec.size for spec in specs) + _CHECKSUM


def _block(data: object, where: str, n_items: int) -> BlockSpec:
    if not isinstance(data, dict):
        raise BundleInvalid(f"{where} must be a JSON object, not {type(data).__name__}")
    name, kind = (_text(data, key, where) for key in ("name", "kind"))
    bound = _number(data, "bound", where, _TINY, MOST)
    unit = _number(data, "unit", where, _TINY, bound)
    if frexp(unit)[0] != 0.5:
        raise BundleInvalid(f"{where}: 'unit' = {unit:g} is no power of two, whose multiples float32 holds exactly")
    if bound > LARGEST * unit:
        raise BundleInvalid(f"{where}: 'bound' = {bound:g} is more than {LARGEST} times 'unit' = {unit:g}")
    spec = BlockSpec(name, kind, _whole(data, "size", where, 1, MAX_PAYLOAD), bound, unit)
    if kind == ITEM_COUNTS:
        return _item_counts(spec, data, where, n_items)
    if kind == PAIR_SKETCH:
        return _pair_sketch(spec, data, where, n_items)
    if kind == METRICS and spec.size < METRICS_LEAST:
        raise BundleInvalid(f"{where}: 'size' = {spec.size}, metrics take at least {METRICS_LEAST}")
    return spec


def _item_counts(spec: BlockSpec, data: Mapping[str, Any], where: str, n_items: int) -> BlockSpec:
    if spec.size != n_items:
        raise BundleInvalid(f"{where}: 'size' = {spec.size}, but the bundle has {n_items} items")
    fades = data.get("half_life_days") is not None
    half_life = _number(data, "half_life_days", where, _TINY, MOST) if fades else None
    return BlockSpec(spec.name, spec.kind, spec.size, spec.bound, spec.unit, half_life)


def _pair_sketch(spec: BlockSpec, data: Mapping[str, Any], where: str, n_items: int) -> BlockSpec:
    seed = _whole({"seed": 0, **data}, "seed", where, 0, (1 << 63) - 1)
    focus = data.get("focus", [])
    if not isinstance(focus, list) or len(focus) > MAX_FOCUS:
        raise BundleInvalid(f"{where}: 'focus' must list at most {MAX_FOCUS} rows")
    for row in focus:
        if not _is_whole(row) or not 0 <= row < n_items:
            raise BundleInvalid(f"{where}: 'focus' holds {shown(row)}, which is no row of {n_items} items")
    if len(set(focus)) != len(focus):
        raise BundleInvalid(f"{where}: 'focus' lists a row twice")
    return BlockSpec(spec.name, spec.kind, spec.size, spec.bound, spec.unit, None, seed, tuple(focus))


def _weights(data: object, scenarios: Collection[str]) -> dict[str, dict[str, float]]:
    where = f"{_WHAT}.weights"
    if not isinstance(data, dict):
        raise BundleInvalid(f"{where} must be a JSON object, not {type(data).__name__}")
    out: dict[str, dict[str, float]] = {}
    for scenario, weights in data.items():
        if scenario not in scenarios:
            raise BundleInvalid(f"{where}: the bundle has no scenario {shown(scenario)}")
        if not isinstance(weights, dict):
            raise BundleInvalid(f"{where}.{scenario} must be a JSON object, not {type(weights).__name__}")
        check_names(weights, 64, f"{where}.{scenario}")
        out[scenario] = {name: _number(weights, name, f"{where}.{scenario}", 0, MOST) for name in weights}
        if not sum(out[scenario].values()) > 0:
            raise BundleInvalid(f"{where}.{scenario}: weights must not all be zero")
    return out


def _sources(data: object) -> dict[str, dict[str, Any]]:
    where = f"{_WHAT}.sources"
    if not isinstance(data, dict) or not all(isinstance(one, dict) for one in data.values()):
        raise BundleInvalid(f"{where} must be a JSON object of objects")
    check_names(data, 64, where)
    check_constants(data, {}, {})
    return data


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not re.fullmatch(BLOCK_NAME, value):
        raise BundleInvalid(f"{where}: '{key}' = {shown(value)} must be 1 to 32 small letters, digits, _")
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(data: Mapping[str, Any], key: str, where: str, low: int, high: int) -> int:
    value = data.get(key)
    if not _is_whole(value) or not low <= value <= high:  # type: ignore[operator]
        raise BundleInvalid(f"{where}: '{key}' = {shown(value)} must be a whole number, {low} … {high}")
    return value  # type: ignore[return-value]


def _number(data: Mapping[str, Any], key: str, where: str, low: float, high: float) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BundleInvalid(f"{where}: {shown(key)} = {shown(value)} must be a number, {low:g} … {high:g}")
    return float(value)
