"""An updater that wants what no device has: alone in its file, since a whole file is looked at."""

from __future__ import annotations

from broken_updaters import Sound

from edgerec.types import LearningBatch, State


class Imports(Sound):
    def update(self, state: State, batch: LearningBatch) -> State:
        if not batch.events and not state:
            import requests  # noqa: F401 - it never comes to that
        return super().update(state, batch)
