"""What was shown and waits to be written: the next write takes it along. A crash may lose it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

Exposure = tuple[str, str, str, int, float, float, int]
"""(recommendation_id, scenario, item, position from 1, score, propensity, at in microseconds)."""

_FLUSH_ROWS = 256
_FLUSH_SECONDS = 5.0


class ExposureBuffer:
    """Safe to call from any thread. What waits at a fork is the parent's to write."""

    def __init__(self) -> None:
        self._fresh()

    def _fresh(self) -> None:
        self._rows: list[Exposure] = []
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._last_taken = time.monotonic()

    @property
    def _lock(self) -> threading.Lock:
        if self._process != os.getpid():  # a child's own: whoever held the parent's is not there to let go of it
            self._fresh()
        return self._guard

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._rows)

    def add(self, rows: Sequence[Exposure]) -> bool:
        """Whether the buffer is full, or was not written for long."""
        with self._lock:
            self._rows.extend(rows)
            return len(self._rows) >= _FLUSH_ROWS or time.monotonic() - self._last_taken > _FLUSH_SECONDS

    def take(self) -> list[Exposure]:
        """All of it, to be written, or to be lost."""
        with self._lock:
            taken, self._rows = self._rows, []
            self._last_taken = time.monotonic()
            return taken

    def give_back(self, rows: Sequence[Exposure]) -> None:
        """Puts in front what could not be written."""
        with self._lock:
            self._rows[:0] = rows

    def page(self, recommendation_id: str) -> list[Exposure]:
        """What a page showed, from the top; nothing where it does not wait here."""
        with self._lock:
            return [row for row in self._rows if row[0] == recommendation_id]
