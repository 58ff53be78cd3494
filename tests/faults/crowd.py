"""Many threads in several processes on one store: who waits for whom, and is anything lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgerec
from edgerec.errors import StoreBusy
from edgerec_plugins import sgd
from faults.invariants import has_learned
from faults.shim import environment


@dataclass
class Crowd:
    """What the threads of one process did; waits in seconds. `busy`: how often StoreBusy was raised."""

    acknowledged: int = 0
    busy: int = 0
    longest_record: float = 0.0
    longest_read: float = 0.0
    errors: list[str] = field(default_factory=list)


def crowd(bundle: Path, state: Path, name: str, *, threads: int, records: int) -> Crowd:
    """Each thread records so many events and asks for a page after each."""
    done, lock, start = Crowd(), threading.Lock(), threading.Barrier(threads)
    with edgerec.open(bundle, state, plugins=[sgd]) as rec:
        workers = [
            threading.Thread(target=_work, args=(rec, f"{name}.{number}", records, done, lock, start), daemon=True)
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return done


def _work(
    rec: edgerec.Recommender, name: str, records: int, done: Crowd, lock: threading.Lock, start: threading.Barrier
) -> None:
    own = Crowd()
    start.wait()
    try:
        for number in range(records):
            began = time.perf_counter()
            while not _recorded(rec, f"{name}.{number}", own):
                own.busy += 1
            recorded = time.perf_counter()
            page = rec.recommend(5)
            assert len(page) == 5
            own.acknowledged += 1
            own.longest_record = max(own.longest_record, recorded - began)
            own.longest_read = max(own.longest_read, time.perf_counter() - recorded)
    except Exception as error:
        own.errors.append(f"{name}: {type(error).__name__}: {error}")
    with lock:
        done.acknowledged += own.acknowledged
        done.busy += own.busy
        done.longest_record = max(done.longest_record, own.longest_record)
        done.longest_read = max(done.longest_read, own.longest_read)
        done.errors += own.errors


def _recorded(rec: edgerec.Recommender, event_id: str, own: Crowd) -> bool:
    try:
        receipt = rec.record(f"i{hash(event_id) % 60}", "click", event_id=event_id)
    except StoreBusy:
        return False
    assert receipt.status == "stored"
    return True


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
        told = [json.loads(one.communicate(timeout=seconds)[0]) for one in running]
    finally:
        for one in running:
            one.kill()
    took = time.perf_counter() - began
    return {**_together(told), "seconds": took, **_stored(bundle, state)}


def _together(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "acknowledged": sum(one["acknowledged"] for one in told),
        "busy": sum(one["busy"] for one in told),
        "longest_record": max(one["longest_record"] for one in told),
        "longest_read": max(one["longest_read"] for one in told),
        "errors": [error for one in told for error in one["errors"]],
    }


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
    print(json.dumps(crowd(Path(bundle), Path(state), name, threads=int(threads), records=int(records)).__dict__))
