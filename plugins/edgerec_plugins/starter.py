"""Plugin `starter`: the first page of a user who has done nothing shows popular items that differ from one another.

Off unless `spread` (0 … 1) is set. Of the `pool` (100) most popular items, one is chosen after the other, each the best
by maximal marginal relevance (Carbonell & Goldstein 1998, with λ = 1 - spread): (1 - spread) · popularity − spread ·
the largest cosine with what was chosen before. They stand first, in that order; all others follow by popularity.
"""

from __future__ import annotations

import numpy as np

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings
from edgerec.types import Float32, Int64, Model
from edgerec_plugins.settings import SettingsReader


@hookimpl
def edgerec_cold_start(model: Model, settings: Settings) -> Float32 | None:
    take = SettingsReader("starter", settings)
    spread, pool = take.number("spread", 0.0, 0, 1), take.whole("pool", 100, 1, 1000)
    take.done()
    if not spread or not np.ptp(model.popularity):
        return None
    popularity = (model.popularity - model.popularity.min()) / np.ptp(model.popularity)
    rows = np.argsort(-popularity, kind="stable")[:pool]
    scores: Float32 = popularity.astype(np.float32)
    scores[_spread_out(rows, popularity, model.vectors, spread)] = np.linspace(2.0, 1.0, len(rows), dtype=np.float32)
    return scores


def _spread_out(rows: Int64, popularity: Float32, vectors: Float32, spread: float) -> list[int]:
    """The rows in the order in which they are chosen."""
    units = vectors[rows] / np.maximum(np.linalg.norm(vectors[rows], axis=1, keepdims=True), 1e-12)
    worth = (1 - spread) * popularity[rows]
    closest = np.full(len(rows), -1.0)
    left, order = np.ones(len(rows), np.bool_), []
    for _ in rows:
        # before the first choice every item is equally far from nothing
        place = int(np.where(left, worth - spread * closest, -np.inf).argmax())
        left[place] = False
        order.append(int(rows[place]))
        closest = np.maximum(closest, units @ units[place])
    return order
