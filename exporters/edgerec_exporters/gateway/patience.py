"""Connections that ask for nothing: uvicorn waits for the rest of a request's head for ever, the gateway does not."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """Closes a connection on which no whole head has come within `head_s` seconds since it was made, or since the last
    answer. However slowly its bytes come, they win no time.
    """

    def __init__(self, *, head_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._head_s = head_s
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._stop()
        self._due = self.loop.call_later(self._head_s, self._give_up)

    def _stop(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else a request came, and its body has a limit too
            self.transport.abort()
