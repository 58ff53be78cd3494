"""How often somebody may ask: token buckets, kept in memory for those who asked last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from edgerec.errors import ConfigError

_MOST_KNOWN = 100_000


@dataclass(frozen=True)
class Rate:
    """`per_minute` requests in the long run, `burst` at once."""

    per_minute: float
    burst: int

    def __post_init__(self) -> None:
        if not 0 < self.per_minute <= 1e9 or not 1 <= self.burst <= 1e9:
            raise ConfigError(f"gateway: no rate of {self.per_minute} a minute, {self.burst} at once")


class Limiter:
    """One bucket for each asker. Whoever has not asked for longest is forgotten first, and starts with a full one.

    `clock` gives seconds that never go back.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float], *, most: int = _MOST_KNOWN) -> None:
        self._rate, self._clock, self._most = rate, clock, most
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait_s(self, asker: Hashable) -> float:
        """0 where the asker may ask now, and has; else how long it should wait, in seconds."""
        now, second = self._clock(), self._rate.per_minute / 60
        left, at = self._left.pop(asker, (float(self._rate.burst), now))
        left = min(float(self._rate.burst), left + (now - at) * second)
        allowed = left >= 1
        self._left[asker] = (left - 1 if allowed else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / second


def asker_of(address: str | None) -> str:
    """Who an address stands for: itself, or of IPv6 its network of 64 bits, which one household has whole."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(found) if found.version == 4 else str(ip_network((found.packed[:8].ljust(16, b"\0"), 64)))
