"""A new bundle's models, tried before anybody is served by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerec.bundle.arrays import MOST
from edgerec.bundle.manifest import Manifest
from edgerec.bundle.opened import ENCODER, Bundle
from edgerec.errors import BundleInvalid

MAX_TRIAL = 1 << 40
"""Elementary steps that the golden cases and stories may cost together: some minutes."""

_OLD_DAYS = 7300.0


def check_trials(golden: dict[str, Any], manifest: Manifest, work: int) -> None:
    """Raises BundleInvalid where repeating the golden cases would take for ever; `work`: steps of one query."""
    runs = len(golden["encoder"]) + sum(len(story["events"]) + 1 for story in golden["stories"])
    if runs * (work + manifest.n_items) > MAX_TRIAL:
        raise BundleInvalid(f"golden.json: {runs} cases and events of a model of {work} steps are too many to repeat")


def try_sessions(bundle: Bundle) -> None:
    """Opens the bundle's sessions and asks them what users will. Raises BundleInvalid where onnxruntime does not take
    a model, or where what comes out is not finite, absurdly large, or outside the catalogue."""
    vectors, length = bundle.model.vectors, bundle.manifest.history_length
    kinds = [bundle.manifest.kinds.index(name) for name in bundle.manifest.history_kinds]
    extremes = [
        0,
        len(vectors) - 1,
        int(vectors.argmax()) // vectors.shape[1],
        int(vectors.argmin()) // vectors.shape[1],
    ]
    rows, every = np.resize(np.array(extremes, np.int32), length), np.resize(np.array(kinds, np.int64), length)
    histories = [(rows[:1], np.zeros(1), np.array([kind])) for kind in kinds]
    histories += [(rows, np.linspace(span, 0.0, length), every) for span in (0.0, _OLD_DAYS)]
    for history in histories:
        if np.abs(bundle.encoder.encode(vectors, *history)).max() > MOST:
            raise BundleInvalid(f"{ENCODER}: the query of a plain history lies beyond ±1e12")
    if bundle.retriever is not None:
        for value in (0.0, 1.0, -1.0):
            bundle.retriever(np.full((1, bundle.manifest.dim + 2), value, np.float32))
