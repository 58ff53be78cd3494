"""What the app decides about federation: the section `[federation]`, and the conditions that a sync may wait for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgerec.errors import ConfigError, RequestError
from edgerec.records import record

OPEN_MODE, SPLIT_MODE = "open", "split"
MODES = (OPEN_MODE, SPLIT_MODE)
MOST_PER_WEEK = 168
KEYS = "federation"
"""Where in the data directory transports keep what is theirs."""


@record
class Conditions:
    """What the app knows of the device at this moment; None: it does not know."""

    metered: bool | None = None
    charging: bool | None = None


@record
class FederationSettings:
    """`transport`: a name under `[transports.NAME]` · `second`: of the other gateway, in mode split · `mode`: open, the
    gateway sees the delta; split, each of two sees a share · `filters`: names under `[delta_filters.NAME]`, in the
    order in which a delta goes through them · `only_unmetered`, `only_charging`: when a sync waits · `most_per_week`:
    deltas within seven days · `control_share`: of the devices, which serve what the bundle says and nothing learned.
    """

    enabled: bool = False
    transport: str | None = None
    second: str | None = None
    mode: str = OPEN_MODE
    filters: tuple[str, ...] = ()
    only_unmetered: bool = False
    only_charging: bool = False
    most_per_week: int = 1
    control_share: float = 0.05

    def unmet(self, now: Conditions) -> str | None:
        """Why a sync waits, None where nothing is in its way. What the app does not know does not hold."""
        if self.only_unmetered and now.metered is not False:
            return "the network is metered" if now.metered else "nobody knows whether the network is metered"
        if self.only_charging and not now.charging:
            return "the device is not charging" if now.charging is False else "nobody knows whether it is charging"
        return None


_TYPES: Mapping[str, tuple[type, ...]] = {
    "enabled": (bool,),
    "transport": (str,),
    "second": (str,),
    "mode": (str,),
    "filters": (list, tuple),
    "only_unmetered": (bool,),
    "only_charging": (bool,),
    "most_per_week": (int,),
    "control_share": (int, float),
}


def federation_settings(section: Mapping[str, Any]) -> FederationSettings:
    """The section as typed values. Raises ConfigError."""
    for key, value in section.items():
        if key not in _TYPES:
            raise ConfigError(f"unknown setting federation.{key}", hint=f"known: {', '.join(_TYPES)}")
        kinds = _TYPES[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(f"federation.{key} = {value!r} has the wrong type", hint=f"expected {kinds[0].__name__}")
    filters = tuple(section.get("filters", ()))
    if not all(isinstance(one, str) for one in filters) or len(set(filters)) != len(filters):
        raise ConfigError("federation.filters must list names, each of them once")
    return _checked(FederationSettings(**{**section, "filters": filters}))


def _checked(settings: FederationSettings) -> FederationSettings:
    if settings.mode not in MODES:
        raise ConfigError(f"federation.mode = {settings.mode!r}", hint=f"one of {', '.join(MODES)}")
    if settings.enabled and settings.transport is None:
        raise ConfigError("federation.transport is missing", hint='"https" or "folder", say, with [transports.NAME]')
    if settings.enabled and (settings.mode == SPLIT_MODE) != (settings.second is not None):
        raise ConfigError("federation.second is for mode split, which needs it", hint="the other gateway's transport")
    if settings.second is not None and settings.second == settings.transport:
        raise ConfigError("federation.second is federation.transport", hint="who holds both shares holds the delta")
    if not 1 <= settings.most_per_week <= MOST_PER_WEEK:
        raise ConfigError(f"federation.most_per_week = {settings.most_per_week}", hint=f"1 to {MOST_PER_WEEK}")
    if not 0 <= settings.control_share <= 1 or not math.isfinite(settings.control_share):
        raise ConfigError(f"federation.control_share = {settings.control_share}", hint="0 to 1")
    return settings


def conditions_of(told: Conditions | Mapping[str, Any] | None) -> Conditions:
    """Raises RequestError for a condition that nobody knows, or one that is neither true nor false."""
    if told is None or isinstance(told, Conditions):
        return told or Conditions()
    for name, value in told.items():
        if name not in Conditions.__match_args__ or not isinstance(value, bool | None):
            raise RequestError(f"conditions: {name!r} = {value!r}", hint="metered and charging, true or false")
    return Conditions(**told)
