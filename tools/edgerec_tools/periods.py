"""Where a replay begins and ends, and what it may not reach into."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from edgerec.bundle.manifest import Manifest


class Period(NamedTuple):
    """Baskets that begin from `cutoff` until before `until` (POSIX seconds, None: the end of the data)."""

    cutoff: float
    until: float | None = None


def seconds(text: str) -> float:
    """POSIX seconds of an ISO 8601 time, which is UTC where it names no zone. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def iso(at: float) -> str:
    """POSIX seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def trained_before(manifest: Manifest) -> float | None:
    """Up to when the bundle's model saw events, POSIX seconds; None where the bundle does not say."""
    try:
        return seconds(manifest.metrics["trained_before"])
    except (KeyError, TypeError, ValueError):
        return None
