"""What is done with all that a user did: forgotten, taken along, kept for a time, recovered."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import edgerec
from edgerec.profile_file import read
from edgerec.store.database import DAMAGED
from edgerec.types import Event
from faults.operations import NEW_ITEM, PAST, Arm, Install, Operation, Whole, events
from faults.world import Model, World


class ForgetAll(Operation):
    """No byte of what was forgotten stays, and none of it can be recorded again."""

    name = "forget"

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        rec.recommend(5)
        rec.record_many(events("shown", 2))

    def before(self, world: World) -> Model:
        return super().before(world).with_events(events("shown", 2))

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.forget()

    def after(self, model: Model, world: World, tag: str) -> Model:
        return replace(model, events={}, learned_on="all")

    def forgotten(self, found: Model) -> list[Event]:
        return [event for event in self.before_events if event.event_id not in found.events]

    @property
    def before_events(self) -> list[Event]:
        return [*PAST, *events("shown", 2)]

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        gone = self.forgotten(found)
        assert {receipt.status for receipt in rec.record_many(gone)} <= {"forgotten"}

    def gone(self, found: Model) -> list[str]:
        return [str(event.event_id) for event in self.forgotten(found)]


class ForgetItem(ForgetAll):
    name = "forget an item"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.forget(PAST[0].item)

    def after(self, model: Model, world: World, tag: str) -> Model:
        kept = {name: event for name, event in model.events.items() if event.item != PAST[0].item}
        return replace(model, events=kept, learned_on="all")


class Export(Operation):
    """The file is the old one or the new one, whole."""

    name = "export a profile"

    def path(self, world: World) -> Path:
        return world.exports / "me.profile"

    def prepare(self, world: World) -> None:
        super().prepare(world)
        self.path(world).write_bytes(b"the one before")

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.export_profile(self.path(world))

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        path = self.path(world)
        if path.read_bytes() != b"the one before":
            assert [row.event_id for row in read(path).rows] == [event.event_id for event in PAST]
        rec.export_profile(path)
        strange = [one.name for one in world.exports.iterdir() if one != path]
        for name in strange:
            (world.exports / name).unlink()
        path.write_bytes(b"the one before")
        assert not strange, f"the next export leaves {strange} behind"


class Import(Operation):
    """Events of another device come in, and what was forgotten there goes."""

    name = "import a profile"

    def prepare(self, world: World) -> None:
        with world.open() as other:
            other.record_many([*PAST[:1], *events("other", 5)])
            other.forget(PAST[0].item)
            other.export_profile(world.folder / "other.profile")
        world.put_back()
        super().prepare(world)

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.import_profile(world.folder / "other.profile")

    def after(self, model: Model, world: World, tag: str) -> Model:
        kept = {name: event for name, event in model.events.items() if name != PAST[0].event_id}
        came = [event for event in events("other", 5) if event.item != PAST[0].item]
        return replace(model, events=kept).with_events(came)

    def gone(self, found: Model) -> list[str]:
        return [] if str(PAST[0].event_id) in found.events else [str(PAST[0].event_id)]


class Retain(Whole):
    """The oldest events go when the app's configuration says so."""

    name = "open with retention"
    config: Mapping[str, Any] = {"retention": {"events": 5}}

    def run(self, world: World, arm: Arm) -> None:
        arm()
        world.open(config=self.config).close()

    def after(self, model: Model, world: World, tag: str) -> Model:
        return replace(model, events=dict([*model.events.items()][-5:]), learned_on="all")

    def gone(self, found: Model) -> list[str]:
        return [str(event.event_id) for event in PAST if event.event_id not in found.events]


class Repair(Whole):
    """A damaged store is set aside, and all that it holds comes back; settings too where SQLite can read them."""

    def __init__(self, part: str) -> None:
        self.name = f"open with {part} damaged"
        self.part = part

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        if self.part != "the header":
            rec.update_catalogue([NEW_ITEM])
            rec.install(world.second)
            rec.pause_learning()

    def before(self, world: World) -> Model:
        before = super().before(world)
        if self.part == "the header":
            return before
        return Install().after(replace(before, overlay=frozenset((str(NEW_ITEM["item"]),)), paused=True), world, "")

    def prepare(self, world: World) -> None:
        super().prepare(world)
        path = world.state / "edgerec.db"
        start, end = self._place(path)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\xa5" * (end - start))
        (world.state / DAMAGED).touch()  # as whoever finds it does

    def _place(self, path: Path) -> tuple[int, int]:
        """The bytes that are damaged."""
        if self.part == "the header":
            return 0, 100
        connection = sqlite3.connect(path)
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'idx_events_event_id'"
        (page,) = connection.execute(query).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.close()
        return (page - 1) * size, page * size
