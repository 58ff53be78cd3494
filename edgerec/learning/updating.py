"""Updaters at work: asked one by one, never trusted; their states are locked as soon as they are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgerec.interfaces import FAILURES, Settings, Updater, Watch
from edgerec.learning import guard
from edgerec.types import Float32, LearningBatch, Model, State

LEARNED = "learned"
Review = Callable[[str, State, State, LearningBatch], str | None]
"""(updater, state before, state after, batch) → why the step is not taken, None where it is."""


def _locked(state: State) -> State:
    """The state, locked: whoever is shown it cannot change it."""
    for array in state.values():
        array.flags.writeable = False
    return state


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
        if self.owner and verdict == LEARNED:
            state, verdict = self._updated(self.owner, state, batch)
        if self.aside:
            aside = {each.name: self._updated(each, aside[each.name], batch)[0] for each in self.aside}
        return state, aside, verdict

    def _initial(self, updater: Updater) -> State:
        """An updater's first state; no arrays where it has none to give."""
        try:
            return _locked(updater.initial(self.model))
        except FAILURES as error:  # an updater must never stop an app's start
            self._watch.failed(f"updater {updater.name}", error)
            return {}

    def restored(self, updater: Updater, state: State, schema: int) -> State:
        """A stored state, in today's schema; the first one where the updater cannot read it."""
        try:
            return state if schema == updater.schema else _locked(updater.migrate(state, schema))
        except FAILURES as error:
            self._watch.failed(f"updater {updater.name}", error)
            return self._initial(updater)

    def user_vector(self, state: State) -> Float32:
        """`u` of an updater's state, float32 (dim,); zeros where the updater has none."""
        vector = self._vector(state) if self.owner else None
        return np.zeros(self.model.dim, np.float32) if vector is None else vector

    def _vector(self, state: State) -> Float32 | None:
        assert self.owner is not None
        name = f"updater {self.owner.name}"
        if not self._watch.usable(name):
            return None
        try:
            vector = self.owner.user_vector(state)
            if vector is not None and not (vector.shape == (self.model.dim,) and guard.finite(vector)):
                raise ValueError("the user vector has a wrong shape, or is not finite")
            return vector
        except FAILURES as error:  # an updater must never stop serving
            self._watch.failed(name, error)
            return None

    def _updated(self, updater: Updater, old: State, batch: LearningBatch) -> tuple[State, str]:
        """The state after the batch and LEARNED; or the old one, and why the step was refused."""
        name = f"updater {updater.name}"
        if not self._watch.usable(name):
            return old, "refused: updater disabled"
        try:
            new = updater.update(old, batch)
            vectors = self.user_vector(old), updater.user_vector(new) if updater is self.owner else None
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
