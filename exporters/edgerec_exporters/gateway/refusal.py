"""Why a request is refused: a status, a word for logs and metrics, a sentence for whoever asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refused(Exception):
    """`reason` is one of a few fixed words: it holds nothing of the request. `told`: more for the answer's JSON ·
    `wait_s`: when to try again, in seconds.
    """

    def __init__(
        self, status: int, reason: str, text: str, *, told: Mapping[str, Any] | None = None, wait_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.status, self.reason, self.text = status, reason, text
        self.told = dict(told or {})
        self.wait_s = wait_s
