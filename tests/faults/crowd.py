"""Many threads in several processes on one store: who waits for whom, and is anything lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import edgerec
from edgerec.errors import StoreBusy
from edgerec_plugins import sgd
from faults.invariants import has_learned
from faults.shim import environment


@dataclass
class Crowd:
    """What the threads of one process did; waits in seconds. `busy`: how often StoreBusy was raised; such a record is
    repeated, and `longest_record` counts all of it, `longest_call` each call."""

    acknowledged: int = 0
    busy: int = 0
    longest_call: float = 0.0
    longest_record: float = 0.0
    longest_read: float = 0.0
    errors: list[str] = field(default_factory=list)


class Thread(threading.Thread):
    """Records so many events and asks for a page after each, once all its fellows are ready."""

    def __init__(self, rec: edgerec.Recommender, name: str, records: int, start: threading.Barrier) -> None:
        super().__init__(name=name, daemon=True)
        self.rec, self.records, self.ready = rec, records, start
        self.done = Crowd()

    def run(self) -> None:
        self.ready.wait()
        try:
            for number in range(self.records):
                self.done.longest_record = max(self.done.longest_record, self._record(f"{self.name}.{number}"))
                began = time.perf_counter()
                assert len(self.rec.recommend(5)) == 5
                self.done.longest_read = max(self.done.longest_read, time.perf_counter() - began)
        except Exception as error:
            self.done.errors.append(f"{self.name}: {type(error).__name__}: {error}")

    def _record(self, event_id: str) -> float:
        """Records one event, however often it takes; the seconds it took."""
        began = time.perf_counter()
        while True:
            tried = time.perf_counter()
            try:
                receipt = self.rec.record(f"i{hash(event_id) % 60}", "click", event_id=event_id)
                assert receipt.status == "stored"
                self.done.acknowledged += 1
                return time.perf_counter() - began
            except StoreBusy:
                self.done.busy += 1
            finally:
                self.done.longest_call = max(self.done.longest_call, time.perf_counter() - tried)


def crowd(bundle: Path, state: Path, name: str, *, threads: int, records: int) -> Crowd:
    """The threads of one process."""
    start = threading.Barrier(threads)
    with edgerec.open(bundle, state, plugins=[sgd]) as rec:
        workers = [Thread(rec, f"{name}.{number}", records, start) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return together([worker.done for worker in workers])


def together(crowds: Sequence[Crowd]) -> Crowd:
    """What several did."""
    return Crowd(
        sum(one.acknowledged for one in crowds),
        sum(one.busy for one in crowds),
        max(one.longest_call for one in crowds),
        max(one.longest_record for one in crowds),
        max(one.longest_read for one in crowds),
        [error for one in crowds for error in one.errors],
    )


def crowds(bundle: Path, state: Path, *, processes: int, threads: int, records: int, seconds: float) -> dict[str, Any]:
    """Several processes at once; what they did, together, and what the store then holds.

    Raises TimeoutExpired, having ended them, where they do not end in time.
    """
    command = [sys.executable, "-m", "faults.crowd", str(bundle), str(state), str(threads), str(records)]
    began = time.perf_counter()
    running = [
        subprocess.Popen([*command, f"p{n}"], stdout=subprocess.PIPE, text=True, env=environment())
        for n in range(processes)
    ]
    try:
        told = [Crowd(**json.loads(one.communicate(timeout=seconds)[0])) for one in running]
    finally:
        for one in running:
            one.kill()
    took = time.perf_counter() - began
    return {**asdict(together(told)), "seconds": took, **_stored(bundle, state)}


def _stored(bundle: Path, state: Path) -> dict[str, Any]:
    with edgerec.open(bundle, state, plugins=[sgd]) as rec:
        rows = rec._device.events()
        return {
            "stored": len({row.event_id for row in rows}),
            "steps": rec._device.snapshot().learned.steps,
            "agrees": has_learned(rec),
        }


if __name__ == "__main__":
    bundle, state, threads, records, name = sys.argv[1:]
    done = crowd(Path(bundle), Path(state), name, threads=int(threads), records=int(records))
    print(json.dumps(asdict(done)))
