"""Scenarios that the app defines on top of the bundle's: filters, boosts, freshness, rerankers. docs/rules.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn

import numpy as np

from edgerec.bundle.catalogue import Catalogue, Column, Flags, Labels, Numbers, Tags
from edgerec.bundle.manifest import SEEN_RULES, Scenario
from edgerec.errors import ConfigError, RequestError, UnknownScenario
from edgerec.interfaces import Settings
from edgerec.records import record
from edgerec.serving.conditions import Attributes, Filter, PerCatalogue, column_of
from edgerec.serving.rules import ScenarioRules
from edgerec.serving.where import filter_of
from edgerec.types import Float32, Float64, Int64

DAY = 86400.0
LARGEST = 1e6
"""Of what is added to scores, and of half-lives in days; float32 would come to its end far above."""


@record
class Boost:
    """`by` is added to the blended score of what meets `where`."""

    where: Filter
    by: float


@record
class Fresh:
    """by · 0.5^(age / half_life_days) is added to the blended score; `times` float64 (n_items,): POSIX seconds of each
    item, −inf where it has none.
    """

    attribute: str
    half_life_days: float
    by: float
    times: PerCatalogue[Float64]


def rules_of(own: Mapping[str, Settings], bundles: Mapping[str, Scenario], name: str) -> ScenarioRules:
    """One scenario, from the app's `own` sections or as the bundle has it.

    Raises UnknownScenario, or ConfigError naming the setting and what it may be.
    """
    if name in own:
        return _Section(f"scenarios.{name}", own[name], _KEYS).scenario(name, bundles)
    if name in bundles:
        return ScenarioRules(name, name, bundles[name].seen)
    known = f"the bundle has: {', '.join(bundles)}; the configuration has: {', '.join(own) or 'none'}"
    raise UnknownScenario(f"there is no scenario {name!r}", hint=known)


def all_rules(own: Mapping[str, Settings], bundles: Mapping[str, Scenario]) -> dict[str, ScenarioRules]:
    """Every scenario of the bundle and of the app, by name. Raises ConfigError."""
    return {name: rules_of(own, bundles, name) for name in {**bundles, **own}}


_KEYS = ("based_on", "seen", "where", "boosts", "caps", "fresh", "rerankers", "exclude")


class _Section:
    """Takes checked values out of one table of the configuration and names the place of whatever is wrong."""

    def __init__(self, place: str, data: object, keys: tuple[str, ...]) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{place} = {data!r}", hint=f"a table of {', '.join(keys)}")
        if unknown := [key for key in data if key not in keys]:
            raise ConfigError(f"unknown setting {place}.{unknown[0]}", hint=f"it may have: {', '.join(keys)}")
        self.place, self.data = place, data

    def scenario(self, name: str, bundles: Mapping[str, Scenario]) -> ScenarioRules:
        based_on = self.text("based_on", name if name in bundles else "default", tuple(bundles))
        boosts = tuple(boost.boost() for boost in self.tables("boosts", ("where", "by")))
        fresh = self.data.get("fresh")
        return ScenarioRules(
            name,
            based_on,
            self.text("seen", bundles[based_on].seen, SEEN_RULES),
            self.filter("where") if "where" in self.data else None,
            boosts,
            PerCatalogue(lambda catalogue: _boosted(boosts, catalogue)) if boosts else None,
            self.caps(),
            None if fresh is None else _Section(f"{self.place}.fresh", fresh, _FRESH).fresh(),
            self.texts("rerankers"),
            self.texts("exclude"),
        )

    def boost(self) -> Boost:
        return Boost(self.filter("where"), self.number("by"))

    def fresh(self) -> Fresh:
        attribute, half_life = self.text("attribute"), self.number("half_life_days")
        if half_life < 1 / LARGEST:
            self._wrong("half_life_days", f"a number of days above 0, from {1 / LARGEST:g}")
        times = PerCatalogue(lambda catalogue: _times(column_of(catalogue, attribute), attribute))
        return Fresh(attribute, half_life, self.number("by"), times)

    def caps(self) -> dict[str, int]:
        caps = self.data.get("caps", {})
        if not isinstance(caps, Mapping) or not all(type(most) is int and most >= 1 for most in caps.values()):
            self._wrong("caps", "a table of whole numbers from 1 by attribute, {category = 3}")
        return dict(caps)

    def tables(self, key: str, keys: tuple[str, ...]) -> list[_Section]:
        found = self.data.get(key, [])
        if not isinstance(found, (list, tuple)):
            self._wrong(key, f"a list of tables of {', '.join(keys)}")
        return [_Section(f"{self.place}.{key}[{number}]", one, keys) for number, one in enumerate(found)]

    def filter(self, key: str) -> Filter:
        value = self.data.get(key)
        if not isinstance(value, (str, Mapping)):
            self._wrong(key, 'an expression, "price <= 5 and new", or a table, {price_max = 5}')
        try:
            return filter_of(value)
        except RequestError as error:
            raise ConfigError(f"{self.place}.{key}: {error.args[0]}", hint=error.hint) from None

    def text(self, key: str, default: str | None = None, allowed: tuple[str, ...] = ()) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or not value or (allowed and value not in allowed):
            self._wrong(key, f"one of {', '.join(allowed)}" if allowed else "a text")
        return str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.data.get(key, ())
        if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) and one for one in values):
            self._wrong(key, "a list of texts")
        if len(set(values)) < len(values):
            self._wrong(key, "each at most once")
        return tuple(values)

    def number(self, key: str) -> float:
        value = self.data.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
            self._wrong(key, f"a number from {-LARGEST:g} to {LARGEST:g}")
        return float(value)

    def _wrong(self, key: str, expected: str) -> NoReturn:
        if key in self.data:
            raise ConfigError(f"{self.place}.{key} = {self.data[key]!r}", hint=f"expected: {expected}")
        raise ConfigError(f"{self.place}.{key} is missing", hint=f"expected: {expected}")


_FRESH = ("attribute", "half_life_days", "by")


def adjustments(rules: ScenarioRules, catalogue: Catalogue, now: float) -> Float32 | None:
    """What boosts and freshness add to every item's blended score, float32 (n_items,), not to be written to; None where
    there are none. `now`: POSIX seconds. Raises UnknownAttribute or RequestError.
    """
    boosted = None if rules.boosted is None else rules.boosted(catalogue)
    if rules.fresh is None:
        return boosted
    fresh = _freshness(rules.fresh, rules.fresh.times(catalogue), now)
    return fresh if boosted is None else np.add(fresh, boosted, out=fresh)


def adjustment_parts(rules: ScenarioRules, catalogue: Catalogue, now: float, rows: Int64) -> dict[str, Float32]:
    """The terms of `adjustments` for some rows, float32 (m,) each, by a name that says which rule it is."""
    parts: dict[str, Float32] = {}
    for boost in rules.boosts:
        name = f"boost {boost.where.text}"
        part = boost.where.mask(catalogue)[rows] * np.float32(boost.by)
        parts[name] = parts[name] + part if name in parts else part
    if rules.fresh is not None:
        parts[f"fresh {rules.fresh.attribute}"] = _freshness(rules.fresh, rules.fresh.times(catalogue)[rows], now)
    return parts


def _boosted(boosts: tuple[Boost, ...], catalogue: Attributes) -> Float32:
    total = np.zeros(catalogue.n_items, np.float32)
    for boost in boosts:
        total += boost.where.mask(catalogue) * np.float32(boost.by)
    total.flags.writeable = False
    return total


def _freshness(fresh: Fresh, times: Float64, now: float) -> Float32:
    """by · 0.5^(age / half-life), float32; what is dated after `now` counts as new."""
    exponent = np.minimum(times - now, 0.0)
    exponent *= math.log(2.0) / (fresh.half_life_days * DAY)
    out: Float32 = exponent.astype(np.float32)
    np.exp(out, out=out)
    out *= np.float32(fresh.by)
    return out


def _times(column: Column, name: str) -> Float64:
    """POSIX seconds per item, float64 (n_items,); −inf where there is none, or a text that is no date."""
    if isinstance(column, Numbers):
        return np.where(np.isnan(column.values), -np.inf, column.values)
    if not isinstance(column, Labels):
        raise RequestError(f"{name!r} holds no times", hint="give POSIX seconds, or dates as ISO text")
    return np.array([*map(_seconds, column.labels), -np.inf])[column.codes]


def _seconds(text: str) -> float:
    """POSIX seconds of an ISO date or time, in UTC where it names no zone; −inf for anything else."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return -math.inf


class _Hollow:
    """A catalogue with the attributes of another and no items: rules are checked against it without loading any."""

    n_items = 0

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return self._catalogue.attribute_names

    def attribute(self, name: str) -> Column | None:
        return _EMPTY.get(self._catalogue.attribute_kind(name) or "")


_EMPTY: Mapping[str, Column] = {
    "number": Numbers(np.empty(0)),
    "text": Labels(np.empty(0, np.int32), ()),
    "flag": Flags(np.empty(0, np.int8)),
    "tags": Tags(np.zeros(1, np.int64), np.empty(0, np.int32), ()),
}


def check_rules(rules: ScenarioRules, catalogue: Catalogue) -> None:
    """Raises ConfigError, naming the scenario, where a rule does not suit the catalogue's attributes."""
    hollow = _Hollow(catalogue)
    try:
        for one in [*([rules.where] if rules.where else []), *(boost.where for boost in rules.boosts)]:
            one.mask(hollow)
        if rules.fresh is not None:
            rules.fresh.times(hollow)
        for name in rules.caps:
            column_of(hollow, name)
    except RequestError as error:
        raise ConfigError(f"scenario {rules.name!r}: {error.args[0]}", hint=error.hint) from None
