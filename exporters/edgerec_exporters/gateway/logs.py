"""Logs as a JSON object a line, on stderr, without keys, addresses, ids or anything else of a request's content."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any

LOGGER = logging.getLogger("edgerec.gateway")
_FIELDS = "edgerec_fields"


def say(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Logs an event of a fixed name. `error`: its type and the lines it came from; never its text, which may quote."""
    if error is not None:
        fields |= {"error": type(error).__name__, "at": _places(error)}
    LOGGER.log(level, event, extra={_FIELDS: fields})


class JsonLines(logging.Formatter):
    """One object a line: `time`, `level`, `event`, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name == LOGGER.name:
            told |= {"event": record.msg, **getattr(record, _FIELDS, {})}
        else:  # a library's: its arguments may hold what a client sent
            told |= {"event": "library", "logger": record.name, "line": record.lineno}
            if record.exc_info and record.exc_info[1] is not None:
                told |= {"error": type(record.exc_info[1]).__name__, "at": _places(record.exc_info[1])}
        return json.dumps(told)


def log_to(stream: IO[str] = sys.stderr, level: int = logging.INFO) -> None:
    """From now on, this process logs so: the gateway from `level` on, libraries from warnings on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    LOGGER.setLevel(level)


def _places(error: BaseException) -> list[str]:
    return [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
    ]
