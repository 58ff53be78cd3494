"""One thread writes for all requests: together where they wait together, each by itself where it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select

from edgerec.errors import StoreBusy
from edgerec_exporters.gateway.schema import meta
from edgerec_exporters.gateway.store import GatewayStore
from edgerec_exporters.gateway.writer import Writer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GatewayStore]:
    with GatewayStore(tmp_path / "gateway.db", wait_s=0.2) as store:
        yield store


class Gate:
    """A job that holds the thread until it is let go."""

    def __init__(self, writer: Writer) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        self.done = writer.submit(self)

    def __call__(self, _connection: Connection) -> None:
        self.began.set()
        assert self.go.wait(20)


def noting(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute(insert(meta).values(name=name, value=""))
        return name

    return work


def names(store: GatewayStore) -> set[str]:
    with store.reading() as connection:
        return set(connection.execute(select(meta.c.name)).scalars()) - {"schema"}


def test_those_that_wait_share_a_transaction(store: GatewayStore) -> None:
    batches: list[int] = []
    writer = Writer(store, on_batch=batches.append)
    gate = Gate(writer)
    assert gate.began.wait(20)
    jobs = [writer.submit(noting(f"job {number}")) for number in range(5)]
    assert not any(job.done() for job in jobs)
    gate.go.set()
    assert [job.result(20) for job in jobs] == [f"job {number}" for number in range(5)]
    assert len(names(store)) == 5
    writer.close()
    assert batches == [1, 5]


def test_one_that_fails_fails_alone_and_leaves_nothing(store: GatewayStore) -> None:
    writer = Writer(store)
    gate = Gate(writer)

    def broken(connection: Connection) -> None:
        connection.execute(insert(meta).values(name="half", value=""))
        raise ZeroDivisionError

    jobs = [writer.submit(work) for work in (noting("before"), broken, noting("after"))]
    gate.go.set()
    assert jobs[0].result(20) == "before"
    assert jobs[2].result(20) == "after"
    with pytest.raises(ZeroDivisionError):
        jobs[1].result(20)
    writer.close()
    assert names(store) == {"before", "after"}


def test_a_commit_that_fails_is_told_to_all_and_the_next_one_works(store: GatewayStore, tmp_path: Path) -> None:
    writer = Writer(store)
    with GatewayStore(tmp_path / "gateway.db") as other, other.writing():
        job = writer.submit(noting("late"))
        with pytest.raises(StoreBusy):
            job.result(20)
    assert writer.submit(noting("next")).result(20) == "next"
    writer.close()
    assert names(store) == {"next"}


def test_a_request_that_was_given_up_is_not_done_and_harms_no_other(store: GatewayStore) -> None:
    writer = Writer(store)
    gate = Gate(writer)
    assert gate.began.wait(20)
    given_up, kept = writer.submit(noting("given up")), writer.submit(noting("kept"))
    assert given_up.cancel()
    assert not gate.done.cancel(), "what is being written can no longer be given up"
    gate.go.set()
    assert kept.result(20) == "kept"
    writer.close()
    assert names(store) == {"kept"}


def test_too_many_are_refused_at_once(store: GatewayStore) -> None:
    writer = Writer(store, most=2)
    gate = Gate(writer)
    assert gate.began.wait(20)
    jobs = [writer.submit(noting(f"job {number}")) for number in range(2)]
    with pytest.raises(StoreBusy):
        writer.submit(noting("one more"))
    gate.go.set()
    for job in jobs:
        job.result(20)
    writer.close()


def test_closing_finishes_what_was_submitted(store: GatewayStore) -> None:
    writer = Writer(store)
    jobs = [writer.submit(noting(f"job {number}")) for number in range(20)]
    writer.close()
    assert all(job.done() for job in jobs)
    with store.reading() as connection:
        assert connection.execute(select(func.count()).select_from(meta)).scalar_one() == 21
