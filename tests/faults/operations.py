"""What is done while the process is killed. An operation names what it does and what an app may then rely on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import edgerec
from edgerec.types import Event
from faults.older import older_store
from faults.world import PAGE, START, Model, World, digest_of

Arm = Callable[[], None]
NEW_ITEM = {"item": "new", "title": "New", "vector": [0.1] * 8, "popularity": 1.0}


def events(tag: str, count: int, *, group: str | None = None) -> list[Event]:
    """Events that follow from their tag alone."""
    start = sum(tag.encode()) * 7
    return [
        Event(
            f"i{(start + 13 * n) % 60}",
            "purchase" if n % 2 else "click",
            float(n) if n % 3 else None,
            START + start + n,
            group,
            None,
            {"screen": tag, "n": n},
            f"{tag}.{n}",
        )
        for n in range(count)
    ]


PAST = [*events("past", 6), *events("basket", 3, group="basket"), *events("later", 4)]


class Operation:
    """One thing that an app asks for. `act` does it; `after` says what the user's folder then holds.

    Whenever the process dies, the folder holds what it held before or what `after` says, and the latter if `act` had
    returned. `tag` is new for each time that an operation is done in one folder.
    """

    name = ""

    def prepare(self, world: World) -> None:
        """Makes the data directory as it is before."""
        with world.open() as rec:
            rec.record_many(PAST)
            self.ready(rec, world)

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        """What else there is before."""

    def before(self, world: World) -> Model:
        """What `prepare` made."""
        return Model(bundle=digest_of(world.first)).with_events(PAST)

    def factory(self, world: World) -> Path:
        """The bundle that the app comes with."""
        return world.first

    def run(self, world: World, arm: Arm) -> None:
        """Does it once in a process of its own."""
        rec = world.open(self.factory(world))
        arm()
        self.act(rec, world, "new")

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        raise NotImplementedError

    def after(self, model: Model, world: World, tag: str) -> Model:
        return model

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        """What else must be true of a folder that holds `found`. Raises AssertionError."""

    def gone(self, found: Model) -> list[str]:
        """Texts that no file may then hold."""
        return []

    def possible(self, model: Model, world: World) -> bool:
        """Whether it can be done then."""
        return True


class RecordOne(Operation):
    name = "record"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        (event,) = events(tag, 1)
        rec.record_many([event])

    def after(self, model: Model, world: World, tag: str) -> Model:
        return model.with_events(events(tag, 1))


class RecordPage(Operation):
    """A basket that answers a page: exposures are written with it, and what was passed over is learned from."""

    name = "record a basket from a page"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.recommend(PAGE, log_exposure=True)
        page = rec.recommend(PAGE)
        rec.record_many([replace(event, recommendation_id=page.id) for event in events(tag, 3, group=tag)])

    def after(self, model: Model, world: World, tag: str) -> Model:
        return model.with_events(events(tag, 3, group=tag))


class Learn(Operation):
    name = "record and learn, ten steps"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.record_many(events(tag, 10))

    def after(self, model: Model, world: World, tag: str) -> Model:
        return model.with_events(events(tag, 10))


class Checkpoint(RecordOne):
    """The record that makes SQLite copy its log back into the database."""

    name = "record at a checkpoint"
    _PAGES, _PAGE_BYTES = 1000, 4096 + 24

    def prepare(self, world: World) -> None:
        rec = world.open()
        rec.record_many(PAST)
        log = world.state / "edgerec.db-wal"
        number = 0
        while log.stat().st_size < (self._PAGES - 2) * self._PAGE_BYTES:
            rec.pause_learning() if number % 2 else rec.resume_learning()
            number += 1
        rec.resume_learning()
        # no close: that would copy the log back


class Whole(Operation):
    """A process's whole life from the moment that it arms the shim: `run` is all of it."""

    def run(self, world: World, arm: Arm) -> None:
        arm()
        world.open(self.factory(world)).close()


class FirstOpen(Whole):
    """An empty folder becomes a user's: the bundle is unpacked, the store made."""

    name = "first open"

    def prepare(self, world: World) -> None:
        pass

    def before(self, world: World) -> Model:
        return Model(bundle=digest_of(world.first))


class Reopen(Whole):
    """Opening what a killed process left: SQLite recovers its log."""

    name = "reopen after a crash"

    def prepare(self, world: World) -> None:
        rec = world.open()
        rec.record_many(PAST)
        # no close: the log stays


class Migrate(Whole):
    """A store of an older schema is opened."""

    def __init__(self, schema: int) -> None:
        self.schema = schema
        self.name = f"migrate from schema {schema}"

    def prepare(self, world: World) -> None:
        super().prepare(world)
        older_store(world.state / "edgerec.db", self.schema)


class Install(Operation):
    name = "install a zip"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.install(self.new(world), force=True)

    def new(self, world: World) -> Path:
        return world.second

    def after(self, model: Model, world: World, tag: str) -> Model:
        second = digest_of(world.second)
        refused = model.refused - {second}
        return replace(model, bundle=second, previous=model.bundle, refused=refused, learned_on="all")

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        """What else must be true of a folder that holds `found`. Raises AssertionError."""

    def gone(self, found: Model) -> list[str]:
        """Texts that no file may then hold."""
        return []

    def possible(self, model: Model, world: World) -> bool:
        return model.bundle == digest_of(world.first)


class InstallFolder(Install):
    name = "install a folder"

    def new(self, world: World) -> Path:
        return world.second_folder


class Upgrade(Whole):
    """The app comes with a newer bundle than the one that ran: all is learned anew when it opens."""

    name = "open with a newer factory bundle"

    def factory(self, world: World) -> Path:
        return world.second

    def before(self, world: World) -> Model:
        return Install().after(super().before(world), world, "")


class Rollback(Operation):
    name = "rollback"

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        rec.install(world.second)

    def before(self, world: World) -> Model:
        return Install().after(super().before(world), world, "")

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.rollback()

    def after(self, model: Model, world: World, tag: str) -> Model:
        assert model.previous is not None
        refused = model.refused | {model.bundle}
        return replace(model, bundle=model.previous, previous=None, refused=refused, learned_on="all")

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        """What else must be true of a folder that holds `found`. Raises AssertionError."""

    def gone(self, found: Model) -> list[str]:
        """Texts that no file may then hold."""
        return []

    def possible(self, model: Model, world: World) -> bool:
        return model.previous is not None


class TellItems(Operation):
    """New items do not change what was learned before them, so that it equals a replay on the bundle as it is."""

    name = "update the catalogue"

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        rec.update_catalogue([{**NEW_ITEM, "item": "older"}])

    def before(self, world: World) -> Model:
        return replace(super().before(world), overlay=frozenset(("older",)), learned_on="bundle")

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        gone = ["older"] if tag == "new" else []
        rec.update_catalogue([{**NEW_ITEM, "item": f"{tag}.{n}"} for n in range(3)], remove=gone)

    def after(self, model: Model, world: World, tag: str) -> Model:
        overlay = model.overlay - {"older"} | {f"{tag}.{n}" for n in range(3)}
        return replace(model, overlay=overlay, learned_on="mixed" if model.overlay else "bundle")


class Pause(Operation):
    name = "pause"

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.pause_learning()

    def after(self, model: Model, world: World, tag: str) -> Model:
        return replace(model, paused=True)


class Resume(Operation):
    name = "resume"

    def ready(self, rec: edgerec.Recommender, world: World) -> None:
        rec.pause_learning()

    def before(self, world: World) -> Model:
        return replace(super().before(world), paused=True)

    def act(self, rec: edgerec.Recommender, world: World, tag: str) -> None:
        rec.resume_learning()

    def after(self, model: Model, world: World, tag: str) -> Model:
        return replace(model, paused=False)


class Close(Whole):
    """What was shown is written, the log is copied back and removed."""

    name = "close"

    def run(self, world: World, arm: Arm) -> None:
        rec = world.open()
        rec.record_many(events("old", 3))
        rec.recommend(PAGE)
        arm()
        rec.close()

    def before(self, world: World) -> Model:
        return super().before(world).with_events(events("old", 3))

    def prepare(self, world: World) -> None:
        super().prepare(world)
        with world.open() as rec:
            rec.record_many(events("old", 3))
