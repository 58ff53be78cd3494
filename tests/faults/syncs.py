"""A delta that is made and sent to a folder, which stands for a gateway: it knows each id once."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from bundles import bundle_files, manifest_of, write_zip

import edgerec
from edgerec.federation import encoding
from edgerec_plugins import folder, sgd
from faults.operations import PAST, Arm, Operation
from faults.world import DIM, Model, N, World, digest_of

BLOCKS = [{"name": "popularity", "kind": "item_counts", "size": N, "bound": 100.0, "unit": 1.0}]
BOUGHT = Counter({event.item: 1 for event in PAST if event.kind == "purchase"})


class Sync(Operation):
    """Whenever it dies, the next sync leaves every item counted once, by one delta or another."""

    name = "sync"

    def factory(self, world: World) -> Path:
        path = world.folder / "federated.edgerec"
        if not path.exists():
            files = bundle_files(N, DIM, seed=0)
            write_zip(path, files, manifest_of(files, N, DIM, federated={"blocks": BLOCKS}))
        return path

    def prepare(self, world: World) -> None:
        with self._open(world) as rec:
            rec.consent(True)
            rec.record_many(PAST)

    def before(self, world: World) -> Model:
        return Model(bundle=digest_of(self.factory(world))).with_events(PAST)

    def run(self, world: World, arm: Arm) -> None:
        shutil.rmtree(self._out(world), ignore_errors=True)
        rec = self._open(world)
        arm()
        assert rec.sync().status == "sent"

    def check(self, rec: edgerec.Recommender, world: World, found: Model) -> None:
        with self._open(world) as again:
            again.sync()
            left = again.stats()["federation"]
        assert (left["waiting"], left["uncounted"]) == (0, 0), left
        counted: Counter[str] = Counter()
        for path in self._out(world).glob("*.delta"):
            (block,) = encoding.decode(path.read_bytes()).blocks.values()
            counted.update({f"i{row}": int(count) for row, count in enumerate(block) if count})
        assert counted == BOUGHT, f"counted {counted} instead of each once"

    def _open(self, world: World) -> edgerec.Recommender:
        config = {
            "federation": {"enabled": True, "transport": "folder", "control_share": 0},
            "transports": {"folder": {"path": str(self._out(world))}},
        }
        return world.open(self.factory(world), plugins=[sgd, folder], config=config)

    def _out(self, world: World) -> Path:
        return world.folder / "out"
