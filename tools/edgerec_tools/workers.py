"""What the worker processes of every replay have in common."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from edgerec.plugins import Plugins

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def installed_plugins() -> list[object]:
    """Every installed plugin, loaded once."""
    return [plugin for _, plugin in Plugins().manager.list_name_plugin() if plugin is not None]


class Once(logging.Filter):
    """Lets each message pass once: a broken plugin would say the same at every event of every device."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.said
        self.said.add(message)
        return new


def prepare() -> None:
    """Makes this process a worker. The parent alone handles an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("edgerec").addFilter(Once())


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Worker processes that are started within compute in one thread: faster together, and the same everywhere."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
