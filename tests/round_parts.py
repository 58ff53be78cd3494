"""A small federated bundle and its devices' deltas, for tests of rounds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from bundles import tiny_bundle

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import Delta
from edgerec.federation.encoding import encode

N_ITEMS = 60
COUNTS = {"name": "popularity", "kind": "item_counts", "size": N_ITEMS, "bound": 4.0, "unit": 0.0625}
FEDERATED: dict[str, Any] = {
    "blocks": [
        {**COUNTS, "half_life_days": 7.0},
        {"name": "metrics", "kind": "metrics", "size": 32, "bound": 1.0, "unit": 0.0009765625},
    ],
    "weights": {"default": {"taste": 1.0, "neighbours": 0.5, "popular": 1.5}},
}
BLOCKS = (
    BlockSpec("popularity", "item_counts", N_ITEMS, 4.0, 0.0625, 7.0),
    BlockSpec("metrics", "metrics", 32, 1.0, 0.0009765625),
)


def federated_bundle(path: Path, version: int = 1, **changes: Any) -> Path:
    return tiny_bundle(path, N_ITEMS, federated=FEDERATED, version=version, **changes)


def delta(number: int, items: Iterable[int], version: int = 1) -> Delta:
    """What a device sends that took these items; `number` gives it its id."""
    counts = np.zeros(N_ITEMS, np.float32)
    counts[list(items)] = 1.0
    metrics = np.zeros(32, np.float32)
    metrics[:3] = 0.25  # as if default had been tested
    return Delta(f"{number:032x}", version, {"popularity": counts, "metrics": metrics})


def payload(number: int, items: Iterable[int], version: int = 1) -> bytes:
    return encode(delta(number, items, version), BLOCKS)


def write_deltas(folder: Path, numbers: Iterable[int], version: int = 1) -> Path:
    """Devices that all took item 7 and one of their own each."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number:032x}.delta").write_bytes(payload(number, {7, number % N_ITEMS}, version))
    return folder
