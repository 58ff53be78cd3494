"""Updaters at work: asked one by one, never trusted; their states are locked as soon as they are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgerec.interfaces import FAILURES, Settings, Updater, Watch
from edgerec.learning import guard
from edgerec.store.blob import encode_state
from edgerec.types import Float32, LearningBatch, Model, State

LEARNED = "learned"
Review = Callable[[str, State, State, LearningBatch], str | None]
"""(updater, state before, state after, batch) → why the step is not taken, None where it is."""


def _locked(state: State) -> State:
    """The state, locked: whoever is shown it cannot change it."""
    for array in state.values():
        array.flags.writeable = False
    return state


def _dtypes(state: State) -> dict[str, str]:
    return {name: array.dtype.str for name, array in state.items()}


def _lock_batch(batch: LearningBatch) -> None:
    """What one updater is shown, the others and the reviewers are shown too."""
    replayed = batch.replayed
    for array in (batch.rows, batch.weight, batch.value, batch.negatives, batch.rivals, replayed.rows, replayed.weight):
        array.flags.writeable = False


def _vector(updater: Updater, state: State) -> Float32 | None:
    """`u`, float32. Raises TypeError where it is no array of numbers."""
    vector: Any = updater.user_vector(state)
    if vector is None or getattr(vector, "dtype", None) == np.float32:
        return vector  # type: ignore[no-any-return]
    vector = np.asarray(vector)
    if vector.dtype.kind not in "fiu":
        raise TypeError(f"the user vector is of dtype {vector.dtype}")
    return vector.astype(np.float32)  # type: ignore[no-any-return]


class Updaters:
    """The updater that owns the user vector, and those whose states a candidate source reads."""

    def __init__(
        self,
        model: Model,
        owner: Updater | None,
        aside: Sequence[Updater],
        bounds: Settings,
        *,
        watch: Watch,
        review: Review | None = None,
    ) -> None:
        """`owner` None: no user vector · `bounds`: the guard's constants · `watch`: is told of what goes wrong."""
        self.model = model
        self.owner = owner
        self.aside = tuple(aside)
        self._bounds = bounds
        self._watch = watch
        self._review = review
        self._first: dict[str, State] = {}
        self._nothing: Float32 = np.zeros(model.dim, np.float32)
        self._nothing.flags.writeable = False

    def __bool__(self) -> bool:
        return self.owner is not None or bool(self.aside)

    def initial(self) -> tuple[State, dict[str, State]]:
        """The owner's first state, and those of the others by name."""
        return self._initial(self.owner) if self.owner else {}, {each.name: self._initial(each) for each in self.aside}

    def updated(
        self, state: State, aside: Mapping[str, State], batch: LearningBatch, verdict: str
    ) -> tuple[State, Mapping[str, State], str]:
        """The owner's state and the others' after a batch, and what became of the owner's step.

        `verdict`: LEARNED, or why an earlier run refused the step, which is obeyed.
        """
        _lock_batch(batch)
        if self.owner and verdict == LEARNED:
            state, verdict = self._updated(self.owner, state, batch)
        if self.aside:
            aside = {each.name: self._updated(each, aside[each.name], batch)[0] for each in self.aside}
        return state, aside, verdict

    def _initial(self, updater: Updater) -> State:
        """An updater's first state, asked for once; no arrays where it has none to give."""
        if updater.name not in self._first:
            try:
                self._first[updater.name] = self._sound(updater.initial(self.model))
            except FAILURES as error:  # an updater must never stop an app's start
                self._watch.failed(f"updater {updater.name}", error)
                return {}
        return self._first[updater.name]

    def _sound(self, state: State) -> State:
        """The state, locked. Raises TypeError or ValueError where it cannot be kept."""
        if (reason := guard.refusal(state, state, (self._nothing, None), self._bounds)) is not None:
            raise ValueError(reason)
        if not all(isinstance(name, str) for name in state):
            raise TypeError("the arrays of a state are named by texts")
        encode_state(state)
        return _locked(state)

    def restored(self, updater: Updater, state: State, schema: int) -> State:
        """A stored state, in today's schema; the first one where the updater cannot read it, has other arrays today, or
        makes no user vector of it."""
        first = self._initial(updater)
        try:
            if schema != updater.schema:
                state = self._sound(updater.migrate(state, schema))
            if first and _dtypes(state) != _dtypes(first):
                raise ValueError(f"a stored state has the arrays {_dtypes(state)} instead of {_dtypes(first)}")
            if updater is self.owner:
                self._read_vector(state)
            return state
        except FAILURES as error:
            self._watch.failed(f"updater {updater.name}", error)
            return first

    def user_vector(self, state: State) -> Float32:
        """`u` of an updater's state, float32 (dim,); zeros where the updater has none."""
        if self.owner is None or not self._watch.usable(f"updater {self.owner.name}"):
            return self._nothing
        try:
            return self._read_vector(state)
        except FAILURES as error:  # an updater must never stop serving
            self._watch.failed(f"updater {self.owner.name}", error)
            return self._nothing

    def _read_vector(self, state: State) -> Float32:
        """The owner's `u`, checked. Raises what the updater raises, TypeError or ValueError."""
        assert self.owner is not None
        vector = _vector(self.owner, state)
        if vector is None:
            return self._nothing
        if vector.shape != (self.model.dim,) or not guard.finite(vector):
            raise ValueError("the user vector has a wrong shape, or is not finite")
        return vector

    def _updated(self, updater: Updater, old: State, batch: LearningBatch) -> tuple[State, str]:
        """The state after the batch and LEARNED; or the old one, and why the step was refused."""
        name = f"updater {updater.name}"
        if not self._watch.usable(name):
            return old, "refused: updater disabled"
        try:
            new = updater.update(old, batch)
            owns = updater is self.owner
            vectors = (self.user_vector(old), _vector(updater, new)) if owns else (self._nothing, None)
            reason = guard.refusal(old, new, vectors, self._bounds)
        except FAILURES as error:  # an updater must never stop recording
            self._watch.failed(name, error)
            reason = f"updater failed: {type(error).__name__}"
        else:
            if reason is not None and reason.startswith(guard.FAULTS):
                self._watch.failed(name, ValueError(reason))
            elif reason is None and self._review is not None:
                veto = self._review(updater.name, old, new, batch)
                reason = None if veto is None else f"vetoed by {veto}"
        return (_locked(new), LEARNED) if reason is None else (old, f"refused: {reason}")
