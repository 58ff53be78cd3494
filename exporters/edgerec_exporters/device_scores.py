"""What the device's own sources say before a basket, computed by the runtime's own code."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgerec.interfaces import CandidateSource
from edgerec.types import Model, Profile, Request
from edgerec_exporters.examples import Baskets

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
_NOTHING = np.empty(0, np.float32)


def scores(baskets: Baskets, chosen: Rows, source: CandidateSource) -> Float32:
    """A source's scores before each of the chosen baskets, float32 (n, n_items); it may look at the history alone."""
    model = Model(np.empty((baskets.n_items, 0), np.float32), _NOTHING, _NOTHING)
    request = Request("default", "hide", 0.0)
    out = np.zeros((len(chosen), baskets.n_items), np.float32)
    for row, profile in zip(out, profiles(baskets, chosen), strict=True):
        found = source.score(request, profile, model)
        row[slice(None) if found.rows is None else found.rows] = found.values
    return out


def profiles(baskets: Baskets, chosen: Rows) -> Iterator[Profile]:
    """Users as their devices see them before each of the baskets, without queries and user vectors."""
    for basket in chosen.tolist():
        past = slice(int(baskets.first[basket]), int(baskets.start[basket]))
        group = np.searchsorted(baskets.start, np.arange(past.start, past.stop), "right")
        at = np.maximum.accumulate(baskets.at[past])  # within a basket events are ordered by item
        rows, kinds = baskets.item[past].astype(np.int32), baskets.kind[past]
        yield Profile(rows, at, kinds, group, baskets.consumes[past], _NOTHING, _NOTHING)
