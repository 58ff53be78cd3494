"""One thread that writes for all requests: those that wait together share a transaction, and a flush to the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from edgerec.errors import StoreBusy
from edgerec_exporters.gateway.store import GatewayStore

T = TypeVar("T")
_BATCH = 256
_Job = tuple[Callable[[Connection], Any], "Future[Any]"]


class Writer:
    """Does jobs in a store's transactions. `most`: how many may wait; `on_batch` is told how many shared one."""

    def __init__(self, store: GatewayStore, *, most: int = 2048, on_batch: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._jobs: queue.Queue[_Job | None] = queue.Queue(most)
        self._on_batch = on_batch
        self._thread = threading.Thread(target=self._run, name="edgerec-gateway-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """The work's result, once it is on the disk. Raises StoreBusy where too many wait."""
        done: Future[T] = Future()
        try:
            self._jobs.put_nowait((work, done))
        except queue.Full:
            raise StoreBusy("too many requests wait to be written", hint="try again later") from None
        return done

    def close(self) -> None:
        """Returns once all that was submitted is done."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ends = False
        while not ends:
            jobs = [self._jobs.get()]
            while len(jobs) < _BATCH and not self._jobs.empty():
                jobs.append(self._jobs.get())
            ends = None in jobs
            # what is running can no longer be cancelled, so that its future can be told
            self._commit([job for job in jobs if job is not None and job[1].set_running_or_notify_cancel()])

    def _commit(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            with self._store.writing() as connection:
                tells = [_done(connection, work) for work, _ in jobs]
        except Exception as error:  # nothing of the batch is on the disk, and each must be told
            for _, future in jobs:
                future.set_exception(error)
            return
        for tell, (_, future) in zip(tells, jobs, strict=True):
            tell(future)
        if self._on_batch is not None:
            self._on_batch(len(jobs))


def _done(connection: Connection, work: Callable[[Connection], Any]) -> Callable[[Future[Any]], None]:
    """Does one job, whatever becomes of the others; what to tell its future once the transaction has ended."""
    try:
        try:
            result = _apart(connection, work)
        except IntegrityError:  # another gateway on the same database was faster: now its row is seen
            result = _apart(connection, work)
    except Exception as error:
        failure = error
        return lambda future: future.set_exception(failure)
    return lambda future: future.set_result(result)


def _apart(connection: Connection, work: Callable[[Connection], T]) -> T:
    with connection.begin_nested():
        return work(connection)
