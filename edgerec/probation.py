"""A new bundle's probation: compared with the one before on what the user does from then on, and rolled back if worse.

Everything happens after a record was committed, or at open, and never in the way of either: whatever fails here is
logged and leaves the bundle that runs.
"""

from __future__ import annotations

import math
import threading

from edgerec import lifecycle, log
from edgerec.device import Device
from edgerec.errors import EdgeRecError, StoreError
from edgerec.lifecycle import BundleInfo
from edgerec.records import changed
from edgerec.store import EventTable
from edgerec.trials import GIVEN_UP, KEPT, ON, Probation, compared, probation, save_probation

_LEAST_STEP = 5
"""The events of a kind that counts are not counted again before so many more came in."""

_PAUSE = 20
"""So many events later it is tried again where the store was busy."""

_WARM = 500
"""Both bundles learn from so many events before the switch, and are compared on those after it: a bound on the time."""


class Watch:
    """Follows which bundle runs, and looks at the one on probation when it is due."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._digest = ""
        self._left = math.inf
        self._looking = threading.Lock()

    def after(self, count: int, running: BundleInfo) -> BundleInfo:
        """Call when `count` events were committed; returns the bundle that runs from now on. Never raises."""
        self._left -= count
        try:
            digest = self._device.snapshot().engine.bundle.digest
            if digest == self._digest == running.digest and self._left > 0:
                return running
            if digest != running.digest:
                running = lifecycle.running(self._device)
            if not self._looking.acquire(blocking=False):
                return running
            try:
                self._digest, self._left = digest, math.inf
                return self._look(digest) or running
            finally:
                self._looking.release()
        except Exception as error:  # what was recorded is recorded
            log.warning("a bundle on probation could not be looked at: %s", type(error).__name__)
            self._left = _PAUSE
            return running

    def _look(self, digest: str) -> BundleInfo | None:
        """What runs after a look that was due, None where nothing changed."""
        device, now = self._device, round(self._device.clock() * 1e6)
        if not device.config.automatic_rollback:
            return None
        with device.database.read() as connection:
            one = probation(connection)
            if one is None or one.digest != digest or one.status != ON:
                return None
            learned = EventTable.learned_since(connection, one.at)
        if now < one.at:  # the clock went back: the window begins anew
            one = self._save(one, changed(one, at=now, until=now + one.until - one.at))
        kinds = device.snapshot().engine.bundle.manifest.event_kinds
        positives = sum(count for kind, count in learned.items() if kind in kinds and kinds[kind].weight > 0)
        checkpoint = one.due(positives, now)
        if checkpoint is None:
            self._left = max(one.remaining(positives), _LEAST_STEP)
            return None
        try:
            return self._decided(one, checkpoint, positives)
        except StoreError:
            raise
        except EdgeRecError as error:
            self._give_up(one, str(error))
        except Exception as error:
            self._give_up(one, type(error).__name__)
        return None

    def _decided(self, one: Probation, checkpoint: int, positives: int) -> BundleInfo | None:
        device = self._device
        old, _ = lifecycle.previous(device)
        new = device.snapshot().engine
        if (old.bundle.digest, new.bundle.digest) != (one.previous, one.digest):
            return None
        events = device.events()
        before = sum(1 for row in events if row.received <= one.at)
        recent = events[max(before - _WARM, 0) :]
        trial = compared(old, new, recent, since=one.at, looks=len(one.checkpoints))
        if trial.refuses:
            version = new.bundle.manifest.version
            why = f"version {version} did worse on this user's events"
            back = lifecycle.rollback(device, expected=one.digest, why=why, trial=trial)
            log.warning("bundle version %s did worse than the one before and was rolled back", version)
            return back
        if checkpoint < one.checkpoints[-1]:
            self._save(one, changed(one, looked=checkpoint))
            self._left = max(one.remaining(positives), _LEAST_STEP)
        else:
            self._save(one, changed(one, looked=checkpoint, status=KEPT, reason=f"after {positives} events: {trial}"))
        return None

    def _give_up(self, one: Probation, reason: str) -> None:
        log.warning("the bundle on probation stays without being compared: %s", reason)
        self._save(one, changed(one, status=GIVEN_UP, reason=reason))

    def _save(self, seen: Probation, then: Probation) -> Probation:
        """Keeps what became of it, unless another process did something with it meanwhile."""
        with self._device.database.write() as connection:
            if probation(connection) == seen:
                save_probation(connection, then)
        return then
