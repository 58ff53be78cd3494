"""What a trial needs: bundles, one data directory that is put back before every trial, and what must be true of it."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bundles import bundle_files, manifest_of, write_zip

import edgerec
from edgerec.records import changed
from edgerec.store import BundleTable, ExposureTable, OverlayTable
from edgerec.types import Event
from edgerec_plugins import sgd

START = 1_700_000_000.0
N, DIM = 60, 8
PAGE = 5
"""Places of every page that is shown."""


class Ticks:
    """A clock that moves on by a second whenever it is looked at, later than all events."""

    def __init__(self) -> None:
        self.now = START + 1e7

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@dataclass(frozen=True)
class Model:
    """What an app was told that its user's folder holds. Pages are not part of it: a crash may lose exposures.

    `learned_on`: the catalogue that the events were learned on, "all" that there is, the "bundle" without what was told
    since, or "mixed".
    """

    events: Mapping[str, Event] = field(default_factory=dict)
    bundle: str = ""
    previous: str | None = None
    refused: frozenset[str] = frozenset()
    overlay: frozenset[str] = frozenset()
    paused: bool = False
    learned_on: str = field(default="all", compare=False)

    def with_events(self, events: list[Event]) -> Model:
        """The model after these events were recorded."""
        stored = {**self.events, **{str(event.event_id): event for event in events}}
        return replace(self, events=stored, learned_on="mixed" if self.learned_on == "bundle" else self.learned_on)

    def difference(self, other: Model) -> str:
        """What of it is not as in another one, said shortly."""
        parts = [
            f"{name}: {getattr(self, name)!r} instead of {getattr(other, name)!r}"
            for name in ("bundle", "previous", "refused", "overlay", "paused")
            if getattr(self, name) != getattr(other, name)
        ]
        for word, left, right in (("lost", other, self), ("unknown", self, other)):
            if ids := sorted(set(left.events) - set(right.events)):
                parts.append(f"{word} events: {', '.join(ids)}")
        changed = [name for name in self.events if name in other.events and self.events[name] != other.events[name]]
        return "; ".join([*parts, *[f"event {name} changed" for name in changed]])


class World:
    """A folder with two versions of a bundle, each as zip and as folder, and the data directory `state`.

    Paths are the same in every trial, as they are on a device: the store names bundles by path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.template = folder / "template"
        self.exports = folder / "exports"
        self.exports.mkdir()
        self.first = _bundle(folder / "first.edgerec", seed=0, version=1)
        self.second = _bundle(folder / "second.edgerec", seed=1, version=2)
        self.second_folder = folder / "second"
        with zipfile.ZipFile(self.second) as archive:
            archive.extractall(self.second_folder)

    def open(self, bundle: Path | None = None, **changes: Any) -> edgerec.Recommender:
        """A recommender on the data directory, whose clock is the same in every run."""
        options: dict[str, Any] = {"plugins": [sgd], "clock": Ticks(), **changes}
        return edgerec.open(bundle or self.first, self.state, **options)

    def keep(self) -> None:
        """The data directory as it is now is what every trial starts from."""
        shutil.rmtree(self.template, ignore_errors=True)
        if self.state.exists():
            shutil.copytree(self.state, self.template)

    def put_back(self) -> None:
        """The data directory as it was kept."""
        shutil.rmtree(self.state, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, self.state)


def _bundle(path: Path, **changes: Any) -> Path:
    seed = changes.pop("seed")
    files = bundle_files(N, DIM, seed=seed)
    return write_zip(path, files, manifest_of(files, N, DIM, **changes))


def digest_of(archive: Path) -> str:
    """The identity of a bundle's zip."""
    with zipfile.ZipFile(archive) as opened:
        return hashlib.sha256(opened.read("manifest.json")).hexdigest()


def observed(rec: edgerec.Recommender) -> Model:
    """What the store holds, in the words of the model; events without their page, which is checked here.

    Raises AssertionError where an event is there twice, or where one's page is not there in full.
    """
    rows = rec._device.events()
    events = {row.event_id: changed(row.event(), recommendation_id=None) for row in rows}
    assert len(events) == len(rows), "an event is stored twice"
    with rec._device.database.read() as connection:
        bundles = BundleTable.all(connection)
        overlay = frozenset(one.item for one in OverlayTable.all(connection))
        shown = Counter(page for page, *_ in ExposureTable.all(connection))
    assert set(shown.values()) <= {PAGE}, "half of a page is stored"
    assert {row.recommendation_id for row in rows} - {None} <= set(shown), "an event is stored without its page"
    previous = [row.digest for row in bundles if row.status == "previous"]
    assert len(previous) < 2, "two bundles are the one before"
    return Model(
        events,
        rec._device.snapshot().engine.bundle.digest,
        previous[0] if previous else None,
        frozenset(row.digest for row in bundles if row.status == "rolled_back"),
        overlay,
        rec._device.snapshot().paused,
    )
