"""Shared fixtures: a small real bundle, a clock that is set by hand, an open recommender."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bundles import tiny_bundle

import edgerec
from edgerec.learning.state import Learned
from edgerec_plugins import foldin, sgd

DAY = 86400.0
START = 1_700_000_000.0


class Clock:
    """POSIX seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += days * DAY


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgerec")


Opener = Callable[..., edgerec.Recommender]


@pytest.fixture
def opener(bundle_path: Path, tmp_path: Path, clock: Clock) -> Iterator[Opener]:
    """Opens recommenders on one data directory with the first-party updaters; closes them after the test."""
    opened: list[edgerec.Recommender] = []

    def open_one(bundle: Path | None = None, data_dir: Path | None = None, **changes: Any) -> edgerec.Recommender:
        options = {"plugins": [sgd, foldin], "clock": clock, **changes}
        rec = edgerec.open(bundle or bundle_path, data_dir or tmp_path / "state", **options)
        opened.append(rec)
        return rec

    yield open_one
    for rec in opened:
        rec.close()


@pytest.fixture
def rec(opener: Opener) -> edgerec.Recommender:
    return opener()


def same_state(left: Learned, right: Learned) -> bool:
    """Whether two replays ended in the same place, bit for bit."""
    if left.steps != right.steps or set(left.scenarios) != set(right.scenarios):
        return False
    pairs = [(left.updater[name], right.updater.get(name)) for name in left.updater]
    for scenario, progress in left.scenarios.items():
        other = right.scenarios[scenario]
        pairs += [(getattr(progress, name), getattr(other, name)) for name in ("weights", "guard", "sums")]
    return all(b is not None and np.array_equal(a, b) for a, b in pairs)
