"""What a delta's blocks are made of: this device's own events since the last delta, each counted once.

Of a user's several devices each counts what it recorded itself; what came in from another by `import_profile`, or was
recovered from a damaged store, never is. Events that an event filter set aside, and those of items or kinds that the
bundle does not know, count for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np

from edgerec.bundle.federated import ITEM_COUNTS, METRICS, PAIR_SKETCH, BlockSpec
from edgerec.bundle.manifest import Manifest
from edgerec.federation import metrics
from edgerec.federation.sketch import sketch
from edgerec.records import record
from edgerec.store import EventRow
from edgerec.types import Float32, Int32, Int64

MOST_OF_UNIT = 256
"""Items of one basket that make pairs, the newest: a basket of more says little of what goes with what."""
_CLOSE = 1e-12


@record
class Consumed:
    """An item that was consumed: its catalogue row, the basket or the event it came in, and whether it is new."""

    item: int
    unit: str
    fresh: bool


def consumed(rows: Sequence[EventRow], items: Int32, manifest: Manifest, fresh: Collection[str]) -> list[Consumed]:
    """What was consumed by stored events, in the order of their time. `items` int32: their catalogue rows, -1 unknown ·
    `fresh`: ids of those that no delta has counted."""
    kinds = {name for name, kind in manifest.event_kinds.items() if kind.consumes}
    found = [
        (row.at, row.event_id, Consumed(item, row.event_id if row.group is None else row.group, row.event_id in fresh))
        for row, item in zip(rows, items.tolist(), strict=True)
        if 0 <= item < manifest.n_items and row.kind in kinds and not row.set_aside
    ]
    return [one for *_, one in sorted(found, key=lambda each: each[:2])]


def blocks_of(
    specs: Sequence[BlockSpec], events: Sequence[Consumed], tests: metrics.Tests | None
) -> dict[str, Float32]:
    """Every declared block, float32 (size,), no longer than its bound; of a kind that is not known here, zeros."""
    return {spec.name: clipped(_block(spec, events, tests), spec.bound) for spec in specs}


def _block(spec: BlockSpec, events: Sequence[Consumed], tests: metrics.Tests | None) -> Float32:
    if spec.kind == ITEM_COUNTS:
        block = np.zeros(spec.size, np.float32)
        block[[one.item for one in events if one.fresh]] = 1
        return block
    if spec.kind == PAIR_SKETCH:
        found = pairs(events, spec.focus)
        return sketch(spec, found[:, 0], found[:, 1])
    if spec.kind == METRICS:
        return metrics.block_of(spec, tests)
    return np.zeros(spec.size, np.float32)


def clipped(block: Float32, bound: float) -> Float32:
    """The block, scaled down to the bound where it is longer."""
    length = float(np.sqrt(np.square(block, dtype=np.float64).sum()))
    return block if length <= bound else (block * (bound / length * (1 - _CLOSE))).astype(np.float32)


def pairs(events: Sequence[Consumed], focus: Collection[int] = ()) -> Int64:
    """Pairs of different items that were consumed together or one after the other, at least one of the two events being
    new; int64 (p, 2), the lower row first, each pair once. `focus`: one of the two must be among these; empty: any.
    """
    units: dict[str, dict[int, bool]] = {}
    for one in events:
        items = units.setdefault(one.unit, {})
        items[one.item] = items.get(one.item, False) or one.fresh
    baskets = [_basket(items) for items in units.values()]
    beside = [*((basket, basket) for basket in baskets), *pairwise(baskets)]
    found = [_joined(left, right) for left, right in beside if left[1].any() or right[1].any()]
    keys = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    out = np.stack((keys >> 32, keys & 0xFFFFFFFF), axis=1)
    return out[np.isin(out, np.fromiter(focus, np.int64)).any(axis=1)] if focus else out


def _basket(items: Mapping[int, bool]) -> tuple[Int64, Int64]:
    """Rows, int64 (m,), and whether each is new, 0 or 1."""
    newest = list(items.items())[-MOST_OF_UNIT:]
    return np.array([row for row, _ in newest], np.int64), np.array([fresh for _, fresh in newest], np.int64)


def _joined(left: tuple[Int64, Int64], right: tuple[Int64, Int64]) -> Int64:
    """Every pair of one item here and another there, at least one of them new, as lower row · 2^32 + higher row."""
    one, other = left[0][:, None], right[0][None, :]
    wanted = (one != other) & ((left[1][:, None] | right[1][None, :]) > 0)
    keys: Int64 = ((np.minimum(one, other) << 32) | np.maximum(one, other))[wanted]
    return keys
