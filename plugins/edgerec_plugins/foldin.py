"""Exact fold-in: the user vector that explains the recent positive events best, by recency-weighted ridge regression.

With V_R the vectors of the kept events' items (k = 1 … K), q the newest query, a_k the age in days back from the
newest kept event, w_k = weight_k · 0.5^(a_k / half_life_days) and W = diag(w), the loss

    Σ_k w_k (target - (q·v_k + b_k) - u·v_k)²  +  alpha Σ_i (u·v_i)²  +  l2 |u|²

has its minimum where

    (V_Rᵀ W V_R + alpha VᵀV + l2 I) u = V_Rᵀ W (target - (V_R q + b_R)).

`use_query = false` leaves out q·v_k + b_k: u then explains the events alone. The sum over the whole catalogue is the
background of implicit feedback: with c_k = alpha + w_k and target = c_k / w_k this is eq. 4 of Hu, Koren & Volinsky
(2008), in the form of Rendle et al. (2022, "Revisiting the performance of iALS"). An item bought twice counts twice;
events of negative weight are left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from datetime import datetime
from math import inf, isfinite

import numpy as np

from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, UpdaterFactory
from edgerec.types import Event, Float32, Float64, LearningBatch, Model, State
from edgerec_plugins.settings import SettingsReader

DAY_S = 86400.0
BLOCK = 65536


class FoldIn:
    """Updater `foldin`. State: `u` float32 (dim,), and the kept events, oldest first: `rows` int32 (<= last,),
    `at` float64 (<= last,) POSIX seconds, `weight` float32 (<= last,)."""

    name = "foldin"
    schema = 1
    item_space = True

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("foldin", settings)
        self.l2 = take.number("l2", 1.0, 0, 1e9, above_low=True)
        self.half_life_days = take.number("half_life_days", 60.0, 0, 1e6, above_low=True)
        self.last = take.whole("last", 50, 1, 10_000)
        self.target = take.number("target", 1.0, -1e6, 1e6)
        self.use_query = take.flag("use_query", True)
        self.alpha = take.number("alpha", 0.0, 0, 1e6)
        take.done()
        self._gram: tuple[weakref.ref[Float32], Float64] | None = None

    def initial(self, model: Model) -> State:
        return {
            "u": np.zeros(model.dim, np.float32),
            "rows": np.zeros(0, np.int32),
            "at": np.zeros(0, np.float64),
            "weight": np.zeros(0, np.float32),
        }

    @np.errstate(all="ignore")  # a solution that is not finite is not taken
    def update(self, state: State, batch: LearningBatch) -> State:
        """Keeps the newest `last` positive events of known items and solves anew."""
        events = [
            (row, at, weight)
            for row, weight, event in zip(batch.rows.tolist(), batch.weight.tolist(), batch.events, strict=True)
            if row >= 0 and 0 < weight < inf and isfinite(at := _seconds(event, batch.now))
        ]
        if not events:
            return state
        new = np.array(events, [("rows", np.int32), ("at", np.float64), ("weight", np.float32)])
        kept = {name: np.append(state[name], new[name]) for name in ("rows", "at", "weight")}
        newest = np.argsort(kept["at"], kind="stable")[-self.last :]
        kept = {name: array[newest] for name, array in kept.items()}
        u = self._solve(kept, batch.query[-1], batch.model)
        return {"u": state["u"] if u is None else u, **kept}

    def user_vector(self, state: State) -> Float32:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        raise PluginError(f"foldin cannot read a state of schema {old_schema}")

    def _solve(self, kept: State, query: Float32, model: Model) -> Float32 | None:
        vectors = np.asarray(model.vectors)[kept["rows"]].astype(np.float64)  # (K, dim)
        age_days = (kept["at"].max() - kept["at"]) / DAY_S
        weighted = vectors.T * (kept["weight"] * 0.5 ** (age_days / self.half_life_days))  # (dim, K)
        gram = weighted @ vectors
        gram.flat[:: model.dim + 1] += self.l2
        if self.alpha:
            gram += self.alpha * self._background(model)
        missing = np.full(len(vectors), self.target)
        if self.use_query:
            missing -= vectors @ query + model.bias[kept["rows"]]
        try:
            u = np.linalg.solve(gram, weighted @ missing).astype(np.float32)
        except np.linalg.LinAlgError:
            return None
        return u if np.isfinite(u).all() else None

    def _background(self, model: Model) -> Float64:
        """VᵀV, float64 (dim, dim); kept while the same vectors are in use."""
        known = self._gram
        if known is None or known[0]() is not model.vectors:
            gram = np.zeros((model.dim, model.dim))
            for start in range(0, model.n_items, BLOCK):
                block = model.vectors[start : start + BLOCK].astype(np.float64)
                gram += block.T @ block
            self._gram = known = weakref.ref(model.vectors), gram
        return known[1]


def _seconds(event: Event, now: float) -> float:
    if event.at is None:
        return now
    return event.at.timestamp() if isinstance(event.at, datetime) else float(event.at)


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {FoldIn.name: FoldIn}
