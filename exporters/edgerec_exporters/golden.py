"""golden.json: what a host must compute to be this bundle's host. docs/bundle.md describes the format.

All of it is made up from the bundle itself: a real user's history has no business in a file that everybody gets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec_exporters.parity import History, pad

if TYPE_CHECKING:
    from edgerec.bundle import Bundle, Manifest

SEED = 20_111_209
START = 1_700_000_000
_HOUR = 3600


def encoder_cases(bundle: Bundle) -> list[dict[str, Any]]:
    """Inputs and the query they give: nothing, one event, a history shorter than L, one longer.

    Each case holds one history: `history` (L, dim), `age_days` (L,), `kind` (L,), `mask` (L,) of 0 and 1, and
    `query` (dim,), as onnxruntime computes it.
    """
    length = bundle.manifest.history_length
    return [_case(bundle, _made_up(bundle, count)) for count in (0, 1, (length + 1) // 2, length + 3)]


def _made_up(bundle: Bundle, count: int) -> History:
    rng = np.random.default_rng([SEED, count])
    kinds = [bundle.manifest.kinds.index(name) for name in bundle.manifest.history_kinds]
    age = np.sort(rng.exponential(60.0, count))[::-1]
    return History(
        rng.integers(0, bundle.manifest.n_items, count).astype(np.int32),
        (age - age[-1:]).round(3).astype(np.float32) if count else age.astype(np.float32),
        rng.choice(kinds, count).astype(np.int64),
    )


def _case(bundle: Bundle, past: History) -> dict[str, Any]:
    inputs = pad([past], bundle.model.vectors, bundle.manifest.history_length)
    query = bundle.encoder(*inputs)
    history, age_days, kind, mask = (array[0] for array in inputs)
    return {
        "history": _short(history),
        "age_days": _short(age_days),
        "kind": kind.tolist(),
        "mask": mask.astype(int).tolist(),
        "query": _short(query[0]),
    }


def _short(values: np.ndarray[Any, Any]) -> Any:
    """Nested lists of the shortest decimals that give the same float32 again."""
    if values.ndim > 1:
        return [_short(part) for part in values]
    return [float(str(value)) for value in values]


def story_events(manifest: Manifest, items: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Events of four made-up users: nobody yet, single events, groups with repeats, more events than L."""
    rng = np.random.default_rng(SEED)
    length = min(manifest.history_length, 200)
    shapes = [(0, 1), (6, 1), (5, 3), (length // 2 + 1, 2)]
    return [_user(rng, manifest, items, number, *shape) for number, shape in enumerate(shapes)]


def _user(
    rng: np.random.Generator, manifest: Manifest, items: Sequence[str], number: int, groups: int, size: int
) -> list[dict[str, Any]]:
    favourites = rng.choice(len(items), min(len(items), 8), replace=False)
    at = START
    events: list[dict[str, Any]] = []
    for group in range(groups):
        at += int(rng.integers(1, 24 * 20)) * _HOUR
        kind = manifest.kinds[int(rng.integers(len(manifest.kinds)))]
        for row in rng.choice(favourites, min(size, len(favourites)), replace=False):
            event = {"item": items[row], "kind": kind, "at": at, "event_id": f"golden-{number}-{len(events)}"}
            events.append({**event, "group": f"golden-{number}-group-{group}"} if size > 1 else event)
    return events


def tell_stories(folder: Path) -> list[dict[str, Any]]:
    """Plays `story_events` through the runtime itself, on the bundle in `folder`, and tells what follows."""
    import tempfile

    from edgerec.bundle import load_bundle
    from edgerec.config import Config
    from edgerec.engine import Engine
    from edgerec.golden import story
    from edgerec.plugins import Plugins

    with tempfile.TemporaryDirectory() as cache, load_bundle(folder, cache) as bundle:
        rows = np.random.default_rng(SEED).choice(bundle.manifest.n_items, min(40, bundle.manifest.n_items), False)
        items = [item for item, _ in bundle.catalogue.items(rows)]
        engine = Engine(bundle, Plugins(), Config())
        return [story(engine, events) for events in story_events(bundle.manifest, items)]


def to_json(cases: Sequence[Mapping[str, Any]], stories: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of golden.json."""
    return (json.dumps({"encoder": cases, "stories": stories}, allow_nan=False) + "\n").encode()
