"""One user replayed as a device: a real recommender with its own store, driven by a simulated clock.

Before a basket is revealed, the device is asked once per view; then the whole basket is recorded in one call.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import edgerec
from edgerec import Bundle, Event, Recommender
from edgerec.bundle.manifest import Manifest
from edgerec_tools import metrics
from edgerec_tools.arms import Arm
from edgerec_tools.datasets import Dataset

K = 10
STORE = "edgerec.db"
RULES = {"novel": "hide", "all": "show"}
"""View → what becomes of the items the user consumed."""

Rows = NDArray[np.int64]


class Visit(NamedTuple):
    """One basket to come. `number`: its place in `dataset.since(cutoff)` · `begins`, `ends`: POSIX seconds of its
    first and last event · `targets`: view → item rows to be found; empty where the basket is not scored."""

    number: int
    begins: float
    ends: float
    targets: Mapping[str, Rows]
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Story:
    """All that one user did: events before the cut-off, then baskets to be predicted and revealed."""

    user: int
    history: list[Event]
    visits: list[Visit]


class Outcome(NamedTuple):
    """How one basket went in one view."""

    number: int
    user: int
    n_targets: int
    hit: NDArray[np.bool_]


class Stories:
    """Turns the rows of a data set into the events that devices record."""

    def __init__(
        self, dataset: Dataset, cutoff: float, until: float | None, asked: NDArray[np.bool_] | None = None
    ) -> None:
        """`cutoff`, `until`: POSIX seconds; baskets that begin at `until` or later never happen. `asked` bool
        (n_events,): events that may be targets, and that make an item known to the user; None: all of them.
        """
        self.dataset = dataset
        self.asked = np.ones(dataset.n_events, np.bool_) if asked is None else asked
        self.by_user = dataset.baskets_by_user()
        self.first = int(np.searchsorted(dataset.basket_at, cutoff))
        self.end = dataset.n_baskets if until is None else int(np.searchsorted(dataset.basket_at, until))

    def scored(self) -> NDArray[np.int64]:
        """Per user row, how many baskets are scored: those of the period with an earlier basket of the user. Both hold
        an event that may be a target."""
        known = np.add.reduceat(self.asked, self.dataset.basket_start[:-1]) > 0
        counts = [int((baskets[known[baskets]][1:] >= self.first).sum()) for baskets in self._bounded()]
        return np.array(counts, np.int64)

    def revealed(self) -> NDArray[np.int64]:
        """Per user row, how many events the period reveals."""
        sizes = np.diff(self.dataset.basket_start)
        return np.array([sizes[baskets[baskets >= self.first]].sum() for baskets in self._bounded()], np.int64)

    def _bounded(self) -> Iterator[NDArray[np.int64]]:
        return (baskets[baskets < self.end] for baskets in self.by_user)

    def of(self, user: int) -> Story:
        """The story of one user row."""
        baskets = self.by_user[user]
        baskets = baskets[baskets < self.end].tolist()
        seen = np.zeros(0, np.int64)
        story = Story(user, [], [])
        for basket in baskets:
            events = self._events(basket)
            asked = self._of_basket(self.asked, basket)
            rows = np.unique(self._of_basket(self.dataset.item, basket)[asked]).astype(np.int64)
            new = np.setdiff1d(rows, seen, assume_unique=True)
            if basket < self.first:
                story.history.extend(events)
            else:
                at = self._of_basket(self.dataset.at, basket)
                targets = {"novel": new, "all": rows} if len(seen) else {}
                targets = {view: found for view, found in targets.items() if len(found)}
                story.visits.append(Visit(basket - self.first, float(at[0]), float(at.max()), targets, events))
            seen = np.concatenate((seen, new))
        return story

    def _of_basket(self, column: NDArray[Any], basket: int) -> NDArray[Any]:
        return column[self.dataset.basket_start[basket] : self.dataset.basket_start[basket + 1]]

    def _events(self, basket: int) -> list[Event]:
        """The basket's events; their ids are the basket's id and the item's, and so stable."""
        data = self.dataset
        group = (data.group_ids[basket] or str(basket)) if data.group_ids else None
        name = group or str(basket)
        columns = (self._of_basket(column, basket).tolist() for column in (data.item, data.kind, data.at, data.value))
        events, times = [], Counter[str]()
        for row, kind, at, value in zip(*columns, strict=True):
            item = data.items[row]
            times[item] += 1
            repeat = f"/{times[item]}" if times[item] > 1 else ""
            event_id = f"{name}/{item}{repeat}"
            events.append(
                Event(item, data.kinds[kind], value if value == value else None, at, group, event_id=event_id)
            )
        return events


class Switch(NamedTuple):
    """From `at` on, POSIX seconds, a device installs the bundle `path`, a folder, before its next basket."""

    at: float
    path: Path


class Clock:
    """POSIX seconds that pass only when told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Fleet:
    """Devices on demand: they share a loaded bundle and loaded plugins, and have nothing else in common.

    A device starts from its arm's `template`: the bytes of a store that was opened once, empty, under the same
    bundle and configuration, with learning paused.
    """

    def __init__(
        self,
        bundle: Bundle,
        plugins: Sequence[object],
        templates: Mapping[str, bytes],
        stories: Stories,
        cutoff: float,
        folder: Path,
        switch: Switch | None = None,
    ) -> None:
        self.bundle = bundle
        self.plugins = plugins
        self.templates = templates
        self.stories = stories
        self.cutoff = cutoff
        self.folder = folder
        self.row_of = {item: row for row, item in enumerate(stories.dataset.items)}
        self.switch = switch
        self.scenarios = {view: scenario_of(bundle.manifest, rule) for view, rule in RULES.items()}
        self.later = self.scenarios
        if switch is not None:
            with edgerec.load_bundle(switch.path, folder) as after:
                self.later = {view: scenario_of(after.manifest, rule) for view, rule in RULES.items()}

    def replay(self, arm: Arm, story: Story) -> dict[str, list[Outcome]]:
        """The user's life under one arm: per view the outcome of every scored basket."""
        found: dict[str, list[Outcome]] = {view: [] for view in RULES}
        learns_history = self.bundle.manifest.learn_history
        with self._device(arm, story.user) as (rec, clock):
            if arm.learns and learns_history:
                rec.resume_learning()
            if story.history:
                clock.now = max(self.cutoff, max(float(event.at) for event in story.history))  # type: ignore[arg-type]
                rec.record_many(story.history)
            if arm.learns and not learns_history:
                rec.resume_learning()
            scenarios = self.scenarios
            for visit in story.visits:
                clock.now = visit.begins
                if self.switch is not None and visit.begins >= self.switch.at and scenarios is self.scenarios:
                    rec.install(self.switch.path, force=True)
                    scenarios = self.later
                for view, rows in visit.targets.items():
                    hit = metrics.hits(self._page(rec, view, scenarios[view]), rows, K)
                    found[view].append(Outcome(visit.number, story.user, len(rows), hit))
                clock.now = visit.ends
                rec.record_many(visit.events)
        return found

    def _page(self, rec: Recommender, view: str, scenario: str) -> Rows:
        """The data set's rows of the items that are recommended; -1 for one that it does not have."""
        page = rec.recommend(K, seen=RULES[view], scenario=scenario, log_exposure=False)
        return np.array([self.row_of.get(one.item, -1) for one in page], np.int64)

    @contextmanager
    def _device(self, arm: Arm, user: int) -> Iterator[tuple[Recommender, Clock]]:
        home = self.folder / f"device-{os.getpid()}"
        home.mkdir(exist_ok=True)
        (home / STORE).write_bytes(self.templates[arm.name])
        clock = Clock(self.cutoff)
        try:
            with edgerec.open(
                self.bundle, home, plugins=self.plugins, config=arm.config, clock=clock, seed=user
            ) as rec:
                yield rec, clock
        finally:
            for left in home.glob(f"{STORE}*"):
                left.unlink()


def template(bundle: Bundle, plugins: Sequence[object], arm: Arm, folder: Path) -> bytes:
    """A new store under the arm's configuration, empty, with learning paused.

    Raises whatever stands in the way of the arm: PluginNotFound, ConfigError, StoreError.
    """
    with edgerec.open(bundle, folder, plugins=plugins, config=arm.config, clock=Clock(0.0)) as rec:
        rec.pause_learning()
    return (folder / STORE).read_bytes()


def scenario_of(manifest: Manifest, rule: str) -> str:
    """The first scenario with that rule for seen items; `default` where there is none."""
    return next((name for name, scenario in manifest.scenarios.items() if scenario.seen == rule), "default")
