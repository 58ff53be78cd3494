"""An event as the app tells it, checked and turned into the row that is stored."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime

from edgerec.bundle.manifest import Manifest
from edgerec.errors import InvalidEvent, UnknownEventKind
from edgerec.store import EventRow
from edgerec.types import Event

MAX_TEXT = 256
MAX_CONTEXT = 4096
MAX_DEPTH = 32
MAX_SECONDS = 253_402_300_800.0
"""The year 10000."""


def event_row(event: Event, manifest: Manifest, now: float) -> EventRow:
    """The event as it will be stored. Raises InvalidEvent or UnknownEventKind."""
    if valid_text("kind", event.kind) not in manifest.event_kinds:
        known = ", ".join(list(manifest.event_kinds)[:20])
        raise UnknownEventKind(f"unknown event kind {event.kind!r}", hint=f"the bundle knows: {known}")
    at = now if event.at is None else valid_seconds(event.at)
    return EventRow(
        seq=0,
        event_id=os.urandom(16).hex() if event.event_id is None else valid_text("event_id", event.event_id),
        item=valid_text("item", event.item),
        kind=event.kind,
        value=valid_value(event.value),
        at=round(at * 1e6),
        group=_optional("group", event.group),
        recommendation_id=_optional("recommendation_id", event.recommendation_id),
        context=valid_context(event.context),
        received=round(now * 1e6),
    )


def _optional(name: str, value: object) -> str | None:
    return None if value is None else valid_text(name, value)


def valid_text(name: str, value: object) -> str:
    """A text of 1 to 256 characters. Raises InvalidEvent, which names the field and not what it holds."""
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be text, not {type(value).__name__}")
    if not 0 < len(value) <= MAX_TEXT:
        raise InvalidEvent(f"{name} has {len(value)} characters", hint=f"1 to {MAX_TEXT} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(f"{name} holds a lone surrogate, which is not text") from None
    return value


def valid_value(value: object) -> float | None:
    """A finite number, or None. Raises InvalidEvent."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidEvent(f"value must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidEvent("value is not finite")
    return number + 0.0  # SQLite keeps no sign of a zero


def valid_seconds(at: object) -> float:
    """POSIX seconds. Raises InvalidEvent."""
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise InvalidEvent("at is a naive datetime", hint="give POSIX seconds or an aware datetime")
        at = at.timestamp()
    if isinstance(at, bool) or not isinstance(at, (int, float)):
        raise InvalidEvent(f"at must be POSIX seconds or an aware datetime, not {type(at).__name__}")
    if not -MAX_SECONDS < at < MAX_SECONDS:
        raise InvalidEvent("at is no time that can be stored", hint="POSIX seconds are wanted")
    return float(at)


def valid_context(context: object) -> str | None:
    """A JSON object as text, at most 4 KiB of it and 32 levels deep. Raises InvalidEvent."""
    if context is None:
        return None
    if not isinstance(context, dict):
        raise InvalidEvent(f"context must be a JSON object, not {type(context).__name__}")
    _check_size(context)
    try:
        text = json.dumps(context, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"context is not JSON: {type(error).__name__}") from None
    if len(text) > MAX_CONTEXT:
        raise InvalidEvent(f"context has {len(text)} bytes as JSON", hint=f"at most {MAX_CONTEXT}")
    return text


def _check_size(context: object) -> None:
    """Looks at no more of it than may be stored: a copy of a gigabyte would be made before it is found too long, and
    what is nested too deep can be written at one place and not be read again at another."""
    pending, size = [(context, 1)], 0
    while pending:
        one, depth = pending.pop()
        size += len(one) + 1 if isinstance(one, str) else 1
        if isinstance(one, dict):
            size += len(one)
        if size + len(pending) > MAX_CONTEXT or (isinstance(one, (dict, list, tuple)) and len(one) > MAX_CONTEXT):
            raise InvalidEvent(f"context is longer than {MAX_CONTEXT} bytes as JSON")
        if isinstance(one, (dict, list, tuple)):
            if depth > MAX_DEPTH:
                raise InvalidEvent(f"context is nested more than {MAX_DEPTH} deep")
            parts = (*one, *one.values()) if isinstance(one, dict) else one
            pending += [(part, depth + 1) for part in parts]
