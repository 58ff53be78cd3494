"""Updaters that do one thing wrong each: what the checks must catch. `Sound` does nothing wrong."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any, ClassVar

import numpy as np

from edgerec.types import Event, Float32, LearningBatch, Model, State


class Sound:
    """Adds a tenth of the chosen items' vectors, less that of what is disliked; no longer than 3."""

    name, schema, item_space = "sound", 1, True

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32), "n": np.zeros((), np.int64)}

    def update(self, state: State, batch: LearningBatch) -> State:
        u = state["u"]
        for row, weight, negatives in zip(batch.rows, batch.weight, batch.negatives, strict=True):
            if row >= 0:
                against = batch.model.vectors[negatives].mean(axis=0)
                u = u + self.factor(batch) * weight * (batch.model.vectors[row] - against)
        u = u / max(1.0, float(np.linalg.norm(u)) / 3)
        return {"u": u.astype(np.float32), "n": np.asarray(state["n"] + 1)}

    def factor(self, batch: LearningBatch) -> Any:
        return np.float32(0.1)

    def user_vector(self, state: State) -> Float32 | None:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        return state


class NoSchema(Sound):
    schema = "1"


class Remembers(Sound):
    """The second call differs from the first."""

    def __init__(self) -> None:
        self.calls = 0

    def factor(self, batch: LearningBatch) -> Any:
        self.calls += 1
        return np.float32(0.1 + 0.01 * (self.calls % 2))


class Numbered(Sound):
    """Every instance learns at a rate of its own."""

    made: ClassVar[Iterator[int]] = count(1)

    def __init__(self) -> None:
        self.rate = np.float32(1 / (10 + next(self.made)))

    def factor(self, batch: LearningBatch) -> Any:
        return self.rate


class InPlace(Sound):
    def update(self, state: State, batch: LearningBatch) -> State:
        new = super().update({name: array.copy() for name, array in state.items()}, batch)
        writable = dict(state)
        writable["n"] += 1
        return new


class Draws(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        return super().factor(batch) + np.float32(0 * random.random())


class DrawsNumpy(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        return super().factor(batch) + np.float32(0 * np.random.random())


class Entropy(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        return super().factor(batch) + np.float32(0 * np.random.default_rng().random())


class Clock(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        return super().factor(batch) + np.float32(0 * time.time())


class Calendar(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        return super().factor(batch) + np.float32(0 * datetime.now().hour)


class Phones(Sound):
    """And hides that it could not."""

    def factor(self, batch: LearningBatch) -> Any:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.01).close()
        return super().factor(batch)


class Slow(Sound):
    def factor(self, batch: LearningBatch) -> Any:
        end = time.perf_counter() + 0.025
        while time.perf_counter() < end:
            pass
        return super().factor(batch)


class OneSize(Sound):
    def initial(self, model: Model) -> State:
        return {"u": np.zeros(8, np.float32), "n": np.zeros((), np.int64)}


class Halves(Sound):
    """Has an array that the store cannot keep."""

    def initial(self, model: Model) -> State:
        return {**super().initial(model), "half": np.zeros(2, np.float16)}

    def update(self, state: State, batch: LearningBatch) -> State:
        return {**super().update(state, batch), "half": state["half"]}


class StartsNan(Sound):
    def initial(self, model: Model) -> State:
        return {**super().initial(model), "best": np.array(np.nan)}

    def update(self, state: State, batch: LearningBatch) -> State:
        return {**super().update(state, batch), "best": np.array(0.0)}


class Widens(Sound):
    def update(self, state: State, batch: LearningBatch) -> State:
        return {**super().update(state, batch), "n": np.array(float(state["n"]) + 1)}


class TurnsNan(Sound):
    def initial(self, model: Model) -> State:
        return {**super().initial(model), "best": np.array(0.0)}

    def update(self, state: State, batch: LearningBatch) -> State:
        new = super().update(state, batch)
        return {**new, "best": np.array(np.nan if new["n"] == 20 else 0.0)}


class KeepsBeside(Sound):
    """Counts by the identity of an array, which a store does not keep."""

    def __init__(self) -> None:
        self.last: Any = None

    def update(self, state: State, batch: LearningBatch) -> State:
        new = super().update(state, batch)
        if self.last is not None and state["u"] is not self.last and state["n"] > 1:
            new["u"][0] += 0.01  # type: ignore[index]
        self.last = new["u"]
        return new


class KnowsEvents(Sound):
    """Learns little from an event that it has seen before, whoever it was."""

    def __init__(self) -> None:
        self.seen: list[tuple[Event, ...]] = []

    def factor(self, batch: LearningBatch) -> Any:
        again = batch.events in self.seen[:-2]
        self.seen.append(batch.events)
        return np.float32(0.05 if again else 0.1)


class Unbounded(Sound):
    def update(self, state: State, batch: LearningBatch) -> State:
        known = batch.rows[batch.rows >= 0]
        move = batch.weight[batch.rows >= 0] @ batch.model.vectors[known]
        return {"u": state["u"] + np.float32(0.1) * move, "n": np.asarray(state["n"] + 1)}


class Hoards(Sound):
    def initial(self, model: Model) -> State:
        return {**super().initial(model), "pages": np.zeros(0, np.uint8)}

    def update(self, state: State, batch: LearningBatch) -> State:
        return {**super().update(state, batch), "pages": np.append(state["pages"], np.zeros(3000, np.uint8))}


class Doubles(Sound):
    def user_vector(self, state: State) -> Float32 | None:
        return state["u"].astype(np.float64)  # type: ignore[return-value]


class Sometimes(Sound):
    def user_vector(self, state: State) -> Float32 | None:
        return state["u"] if state["n"] < 50 else None


class Backwards(Sound):
    """Moves away from what was chosen; what is disliked it leaves alone."""

    def factor(self, batch: LearningBatch) -> Any:
        return np.float32(-0.1) * (batch.weight[0] > 0)


class LovesAll(Sound):
    """Takes a dislike for praise."""

    def factor(self, batch: LearningBatch) -> Any:
        return np.float32(0.1) * np.sign(batch.weight[0])


class LastRow(Sound):
    """Takes -1 for the catalogue's last item."""

    def update(self, state: State, batch: LearningBatch) -> State:
        move = batch.weight @ (batch.model.vectors[batch.rows] - batch.model.vectors[batch.negatives].mean(axis=1))
        u = state["u"] + np.float32(0.1) * move
        return {"u": u / np.float32(max(1.0, float(np.linalg.norm(u)) / 3)), "n": np.asarray(state["n"] + 1)}


class Migrates(Sound):
    def migrate(self, state: State, old_schema: int) -> State:
        return {**state, "u": state["u"] * 2}


class Squares(Sound):
    """Learns from ratings, and from values that are none."""

    @np.errstate(all="ignore")
    def update(self, state: State, batch: LearningBatch) -> State:
        return super().update(state, batch)

    def factor(self, batch: LearningBatch) -> Any:
        return np.float32(0.1) * (1 if np.isnan(batch.value[0]) else batch.value[0])


class Exits(Sound):
    def update(self, state: State, batch: LearningBatch) -> State:
        raise SystemExit(3)
