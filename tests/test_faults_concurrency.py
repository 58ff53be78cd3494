"""Threads, processes and forks on one store: no update is lost, nobody waits for ever, everybody is served."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Opener
from faults.crowd import crowds
from faults.invariants import has_learned
from faults.processes import Say, finish, start

import edgerec
from edgerec_plugins import sgd

PATIENCE = 20.0
"""Seconds after which a process counts as one that waits for ever."""


def test_two_processes_of_fifty_threads_lose_nothing(bundle_path: Path, tmp_path: Path) -> None:
    """2 × 25 threads, each recording and reading by turns: as many events as were acknowledged, each learned from once,
    a state equal to a replay; no record waits longer than the store's limit allows, and none for ever."""
    done = crowds(bundle_path, tmp_path / "state", processes=2, threads=25, records=30, seconds=120)
    assert done["errors"] == []
    assert done["acknowledged"] == done["stored"] == done["steps"] == 2 * 25 * 30
    assert done["agrees"]
    assert done["longest_read"] < 2.0, "pages wait for no writer"


def test_a_table_that_two_threads_complete_holds_nothing_else_meanwhile(rec: edgerec.Recommender) -> None:
    """Scores under the user's own vector are worked out when first asked for, by every thread that then asks: whoever
    comes second must not disturb what the first one reads."""
    for n in range(10):
        rec.record(f"i{n}", "purchase")
    snapshot = rec._device.snapshot()
    engine, table = snapshot.engine, snapshot.engine.situation(snapshot.history, snapshot.learned).table
    assert not table.impersonal
    (second,) = table.pending
    table.complete()
    complete, seen, model = table.scores.copy(), [], engine.scorer.model

    class Watching:
        n_items, vectors, popularity = model.n_items, model.vectors, model.popularity

        @property
        def bias(self) -> np.ndarray:
            seen.append(table.scores.copy())
            return model.bias

    engine.scorer.model = Watching()  # type: ignore[assignment]
    second()
    assert seen
    assert all(np.array_equal(scores, complete) for scores in [*seen, table.scores])


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(rec: edgerec.Recommender, name: str, count: int, say: Callable[..., object]) -> None:
    for n in range(count):
        assert rec.record(f"i{n}", "click", event_id=f"{name}.{n}").status == "stored"
        say(f"{name}.{n}")


def _stored(opener: Opener) -> set[str]:
    rec = opener(plugins=[sgd])
    assert has_learned(rec)
    return {row.event_id for row in rec._device.events()}


def test_a_forked_child_that_closes_takes_nothing_from_its_parent(opener: Opener) -> None:
    """The parent goes on recording into the same store, and so does the child."""
    rec = opener(plugins=[sgd])
    acknowledged: list[str] = []
    _record(rec, "before", 2, acknowledged.append)

    def work(say: Say) -> None:
        _record(rec, "child", 2, say)
        rec.close()

    acknowledged += [name for (name,) in finish(start(work), PATIENCE).ended()]
    _record(rec, "after", 2, acknowledged.append)
    rec.close()
    assert _stored(opener) == set(acknowledged)


def test_a_forked_child_goes_on_when_its_parent_closes(opener: Opener) -> None:
    """SQLite believes that the child holds the locks its parent held; what the child records must stay all the same."""
    rec = opener(plugins=[sgd])
    rec.record("i1", "click", event_id="before")
    closed, close = os.pipe()

    def work(say: Say) -> None:
        os.close(close)
        _record(rec, "child", 2, say)
        os.read(closed, 1)  # until the parent has closed
        _record(rec, "orphan", 2, say)

    child = start(work)
    os.close(closed)
    time.sleep(0.3)
    rec.close()
    os.close(close)
    acknowledged = [name for (name,) in finish(child, PATIENCE).ended()]
    assert _stored(opener) == {"before", *acknowledged}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_children_forked_in_the_middle_of_recording_record_and_read(opener: Opener) -> None:
    """Threads of the parent are anywhere in `record` when it forks; each child records, reads and explains at once."""
    rec = opener(plugins=[sgd])
    acknowledged: list[str] = []
    stop = threading.Event()

    def record(name: str) -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            rec.record(f"i{n % 60}", "click", event_id=f"{name}.{n}")
            acknowledged.append(f"{name}.{n}")

    threads = [threading.Thread(target=record, args=(f"thread{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):

            def work(say: Say, number: int = number) -> None:
                rec.recommend(3)
                _record(rec, f"child{number}", 2, say)
                rec.explain("i1")
                rec.close()

            acknowledged += [name for (name,) in finish(start(work), PATIENCE / 4).ended()]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        rec.close()
    assert _stored(opener) == set(acknowledged)


# ── another process installs ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_in_another_process_is_served_during_installs(opener: Opener, tmp_path: Path) -> None:
    """Every page is full, and none takes longer than the bundle's switch; the reader ends on the bundle that runs."""
    second = tiny_bundle(tmp_path / "second.edgerec", 70, 12, seed=1, version=2)
    reading, stopping = os.pipe()

    def read(say: Say) -> None:
        os.close(stopping)
        os.set_blocking(reading, False)
        rec = opener(plugins=[sgd])
        say("ready")
        pages = 0
        while _open(reading):
            assert len(rec.recommend(5)) == 5
            pages += 1
        say(pages, rec._device.snapshot().engine.bundle.manifest.version)
        rec.close()

    child = start(read)
    os.close(reading)
    rec = opener(plugins=[sgd])
    for n in range(20):
        rec.record(f"i{n}", "purchase")
    for _ in range(5):
        rec.install(second, force=True)
        rec.rollback()
    rec.install(second, force=True)
    os.close(stopping)
    (_, (pages, version)) = finish(child, PATIENCE).ended()
    assert version == 2
    assert pages > 5


def _open(reading: int) -> bool:
    """Whether the other end of a pipe is still open."""
    try:
        return os.read(reading, 1) != b""
    except BlockingIOError:
        return True
