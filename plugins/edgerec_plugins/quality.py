"""Event filter `quality`: sets aside what no person did on purpose, by when it came in.

Three rules, each off where its constant is 0. They look at arrivals: an event of its own, or a whole group, which
comes in at once. An arrival is set aside if

    impossible rate   more than `most` arrivals, itself included, fall into the last `within_s` seconds
    burst             more than `most_long` arrivals, itself included, fall into the last `long_s` seconds
    accidental        an event with the same item and kind is less than `repeat_s` seconds old

Arrivals that were set aside count as well, so a burst stays a burst until it pauses. `kinds` are those that the rules
judge and count, all where there are none: a limit that was learned from purchases says nothing of clicks. How many are
too many depends on the app: an exporter sets the constants to what next to no real user of its data ever did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Arrival, FilterFactory, Settings
from edgerec_plugins.settings import SettingsReader

MAX_SECONDS = 86_400.0


class Quality:
    """Pure: what it says depends on the arrivals it is shown, and on nothing else."""

    name = "quality"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("quality", settings)
        self.most = take.whole("most", 0, 0, 1000)
        self.within_s = take.number("within_s", 10.0, 0, MAX_SECONDS)
        self.most_long = take.whole("most_long", 0, 0, 1000)
        self.long_s = take.number("long_s", 60.0, 0, MAX_SECONDS)
        self.repeat_s = take.number("repeat_s", 0.0, 0, MAX_SECONDS)
        self.kinds = take.texts("kinds")
        take.done()

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        """Why the event is set aside, None where it is sound."""
        if self.kinds and arrival.kind not in self.kinds:
            return None
        near = self._near(arrival, earlier)
        if any(one.item == arrival.item and one.kind == arrival.kind for one in near if self._just(arrival, one)):
            return "accidental"
        if self.most and _count(one for one in near if _gap(arrival, one) <= self.within_s) > self.most:
            return "impossible rate"
        if self.most_long and _count(one for one in near if _gap(arrival, one) <= self.long_s) > self.most_long:
            return "burst"
        return None

    def _near(self, arrival: Arrival, earlier: Sequence[Arrival]) -> list[Arrival]:
        """What came in not long before, newest first, up to the first that is too old; without the event's group."""
        reach = max(self.within_s, self.long_s, self.repeat_s)
        found = []
        for one in reversed(earlier):
            if _gap(arrival, one) > reach:
                break
            if (not self.kinds or one.kind in self.kinds) and not (arrival.group and arrival.group == one.group):
                found.append(one)
        return found

    def _just(self, arrival: Arrival, one: Arrival) -> bool:
        return _gap(arrival, one) < self.repeat_s


def _gap(arrival: Arrival, one: Arrival) -> float:
    return abs(arrival.at - one.at)


def _count(near: Iterable[Arrival]) -> int:
    """Arrivals, with the one that is judged; a group counts once."""
    groups = [one.group for one in near]
    return 1 + groups.count(None) + len({group for group in groups if group is not None})


@hookimpl
def edgerec_event_filters() -> Mapping[str, FilterFactory]:
    return {Quality.name: Quality}
