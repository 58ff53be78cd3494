"""What it costs to keep plugins apart: pages with every first-party plugin loaded, and an outsider's thread hop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgerec.interfaces import Settings
from edgerec.isolation import Isolation
from edgerec_tools.bench import shops
from edgerec_tools.bench.measure import Row, Timing, in_turns

MOST_OF_A_PAGE = 1.05
NAMES = ("every first-party plugin", "the updater alone")


def rows(bundles: dict[int, Path], rounds: int) -> Iterator[Row]:
    """Pages with and without the plugins that come with edgerec, and one call with and without a thread of its own."""
    for n_items, bundle in bundles.items():
        taken = _pages(bundle, n_items, rounds)
        yield Row(
            f"recommend(10) of {n_items:,} after an event, {NAMES[0]}",
            taken[NAMES[0]].p50_us() / 1e3,
            "ms",
            NAMES[1],
            taken[NAMES[1]].p50_us() / 1e3,
            target=MOST_OF_A_PAGE,
        )
    hop = _hop(rounds * 10)
    yield Row("one call of an outsider, a thread hop", hop["hop"], "µs", "the same call, direct", hop["direct"])


def _pages(bundle: Path, n_items: int, rounds: int) -> dict[str, Timing]:
    items = np.random.default_rng(2).integers(0, n_items, rounds + 8).tolist()
    with (
        tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder,
        shops.opened(bundle, Path(folder) / "all", n_items, plugins=None) as everything,
        shops.opened(bundle, Path(folder) / "one", n_items, plugins=[shops.UPDATER]) as alone,
    ):

        def before(turn: int) -> None:
            for rec in (everything, alone):
                rec.record(f"i{items[turn]}", "click")

        actions = {NAMES[0]: lambda _: everything.recommend(10), NAMES[1]: lambda _: alone.recommend(10)}
        return in_turns(rounds, actions, before=before)


def _hop(rounds: int) -> dict[str, float]:
    """Median microseconds by the clock: what the caller waits for is another thread's work."""
    isolation = Isolation()

    def nothing(settings: Settings | None = None) -> None:
        return None

    taken = in_turns(rounds, {"hop": lambda _: isolation.call("nothing", nothing), "direct": lambda _: nothing()})
    isolation.close()
    return {name: float(np.median(timing.wall)) * 1e6 for name, timing in taken.items()}
