"""A new bundle's probation: rolled back when it does worse on what the user does next, kept otherwise."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Clock, Opener
from test_lifecycle import useless_bundle

import edgerec
from edgerec import errors
from edgerec.hookspecs import hookimpl
from edgerec.trials import Probation, checkpoints, judged

POPULAR = {"default": {"seen": "show", "weights": {"popular": 1.0}}}
LOOKS = checkpoints(200)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Version 1, under which what the user does stands on top."""
    return tiny_bundle(tmp_path / "good.edgerec", scenarios=POPULAR, updater="none")


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """Version 2, under which it stands at the bottom."""
    return useless_bundle(tmp_path / "worse.edgerec")


def use(rec: edgerec.Recommender, clock: Clock, times: int) -> None:
    """The user does what the first bundle would have recommended, an hour apart."""
    for n in range(times):
        clock.pass_days(1 / 24)
        assert rec.record(f"i{n % 5}", "click").status == "stored"


def probation(rec: edgerec.Recommender) -> dict[str, Any]:
    found: dict[str, Any] = rec.stats()["bundle"]["probation"]
    return found


def rolled_back(differences: np.ndarray, looks: int = len(LOOKS)) -> bool:
    """What the rule decides over a window of differences, which are not known at once."""
    return any(judged(differences[:point], looks=looks).refuses for point in LOOKS)


def gains(rng: np.random.Generator, shape: tuple[int, int], share: float) -> np.ndarray:
    """NDCG@10 of events whose item stands among the first ten in a share of the cases."""
    ranks = rng.integers(1, 11, shape)
    return np.where(rng.random(shape) < share, 1 / np.log2(ranks + 1), 0.0)


NOTHING_TO_CHOOSE: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "independent rankings": lambda rng, shape: gains(rng, shape, 0.3) - gains(rng, shape, 0.3),
    "rare hits": lambda rng, shape: gains(rng, shape, 0.05) - gains(rng, shape, 0.05),
    "mostly ties, long tails": lambda rng, shape: rng.standard_t(3, shape) * (rng.random(shape) < 0.3),
}


@pytest.mark.parametrize("case", NOTHING_TO_CHOOSE)
def test_without_a_difference_few_are_rolled_back(case: str) -> None:
    users = NOTHING_TO_CHOOSE[case](np.random.default_rng(5), (4000, 200))
    share = np.mean([rolled_back(one) for one in users])
    assert share <= 0.05
    assert np.mean([rolled_back(one, looks=1) for one in users]) > share, "the correction is what keeps it low"


def test_with_a_difference_most_are_rolled_back() -> None:
    rng = np.random.default_rng(6)
    falls = gains(rng, (1000, 200), 0.2) - gains(rng, (1000, 200), 0.4)
    assert np.mean([rolled_back(one) for one in falls]) > 0.9


def test_looks_double_up_to_the_window() -> None:
    assert LOOKS == (30, 60, 120, 200)
    assert checkpoints(30) == (30,)
    assert checkpoints(45) == (30, 45)
    assert checkpoints(500) == (30, 60, 120, 240, 500)


def test_many_events_at_once_are_one_look() -> None:
    one = Probation("new", "old", 0, 100, LOOKS)
    assert [one.due(n, 50) for n in (29, 30, 59, 130, 1000)] == [None, 30, 30, 120, 200]
    assert one.due(5, 100) == 200, "the time is over"


class Told:
    """Keeps what observers are told."""

    def __init__(self) -> None:
        self.changes: list[tuple[int | None, int, str]] = []

    @hookimpl
    def edgerec_bundle_changed(self, old: Any, new: Any, reason: str) -> None:
        self.changes.append((old and old.version, new.version, reason))


def test_a_fall_in_the_window_rolls_back(
    opener: Opener, good: Path, worse: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    rec = opener(good, plugins=[told])
    use(rec, clock, 10)
    before = [r.item for r in rec.recommend(10)]
    rec.install(worse)
    use(rec, clock, 29)
    assert (rec.bundle.version, probation(rec)["status"]) == (2, "on")
    with caplog.at_level(logging.WARNING, "edgerec"):
        use(rec, clock, 1)
    assert rec.bundle.version == 1
    assert rec.bundle.reason == "rolled back to: version 2 did worse on this user's events"
    assert [r.item for r in rec.recommend(10)] == before
    assert rec.stats()["learning"]["steps"] == 40
    assert told.changes[-1] == (2, 1, rec.bundle.reason)
    assert (probation(rec)["status"], probation(rec)["reason"][:9]) == ("rolled back", "NDCG@10 -")
    assert [r.getMessage() for r in caplog.records] == [
        "bundle version 2 did worse than the one before and was rolled back"
    ]
    rec.close()
    again = opener(good)
    assert again.bundle.version == 1
    assert again.bundle.reason == "the factory bundle; version 2 was rolled back"
    with closing(sqlite3.connect(again._device.database.path)) as connection:
        rows = dict(connection.execute("SELECT status, reason FROM bundles"))
    assert rows["rolled_back"] == rec.bundle.reason
    with pytest.raises(errors.BundleRefused, match="rolled back"):
        again.install(worse)
    again.forget()
    assert (probation(again)["status"], probation(again)["reason"]) == ("rolled back", "")


def test_events_before_the_switch_do_not_count(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    use(rec, clock, 29)
    rec.install(worse)
    for _ in range(35):
        clock.pass_days(1)
        rec.record("i30", "click")  # which both rank in the middle
    assert (rec.bundle.version, probation(rec)["looked"]) == (2, 30)


def test_a_bundle_that_does_as_well_is_kept(opener: Opener, good: Path, tmp_path: Path, clock: Clock) -> None:
    rec = opener(good)
    same = tiny_bundle(tmp_path / "same.edgerec", scenarios=POPULAR, updater="none", version=2)
    rec.install(same)
    use(rec, clock, 100)
    assert probation(rec)["looked"] == 60
    rec.close()
    rec = opener(good)
    assert probation(rec)["looked"] == 60
    use(rec, clock, 100)
    assert (rec.bundle.version, probation(rec)["status"]) == (2, "kept")
    assert probation(rec)["reason"] == "after 200 events: NDCG@10 +0.0000 (+0.0000 to +0.0000) over 200 steps"
    assert rec.rollback().version == 1, "the app may still go back"


def test_a_baskets_worth_of_looks_is_one(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    rec.install(worse)
    clock.pass_days(1)
    rec.record_many([edgerec.Event(f"i{n % 5}", "click") for n in range(150)])
    assert rec.bundle.version == 1


def test_the_window_closes_with_time(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    rec.install(worse)
    use(rec, clock, 29)
    rec.close()
    clock.pass_days(60)
    again = opener(good)
    assert (again.bundle.version, probation(again)["status"]) == (2, "kept")
    use(again, clock, 30)
    assert again.bundle.version == 2


def test_a_short_window_of_the_app(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good, config={"install": {"window_events": 40, "window_days": 7}})
    rec.install(worse)
    assert probation(rec)["checkpoints"] == (30, 40)
    assert probation(rec)["until"] - probation(rec)["at"] == 7 * 86400 * 10**6


@pytest.mark.parametrize("setting", [{"window_events": 29}, {"window_days": 0}, {"automatic_rollback": 1}])
def test_settings_are_checked(opener: Opener, setting: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigError):
        opener(config={"install": setting})


def test_what_was_forced_or_is_not_wanted_is_not_watched(
    opener: Opener, good: Path, worse: Path, clock: Clock, tmp_path: Path
) -> None:
    for name, config, force in (("a", None, True), ("b", {"install": {"automatic_rollback": False}}, False)):
        rec = opener(good, tmp_path / name, config=config)
        rec.install(worse, force=force)
        assert rec.stats()["bundle"]["probation"] is None
        use(rec, clock, 35)
        assert rec.bundle.version == 2


def test_a_newer_factory_bundle_is_on_probation(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    use(rec, clock, 5)
    rec.close()
    good.unlink()  # the app was updated: it ships the newer one alone
    updated = opener(worse)
    assert (updated.bundle.version, probation(updated)["status"]) == (2, "on")
    use(updated, clock, 30)
    assert updated.bundle.version == 1
    updated.close()
    again = opener(worse)
    assert again.bundle.version == 1
    assert "version 2 was rolled back" in again.bundle.reason


def test_a_look_that_was_missed_is_taken_at_open(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    rec.install(worse)
    rec.close()
    careless = opener(good, config={"install": {"automatic_rollback": False}})
    use(careless, clock, 40)
    assert careless.bundle.version == 2
    careless.close()
    assert opener(good).bundle.version == 1


@pytest.mark.parametrize("harm", ["removed", "damaged", "replaced"])
def test_without_the_bundle_before_it_is_given_up(
    opener: Opener, good: Path, worse: Path, clock: Clock, tmp_path: Path, harm: str
) -> None:
    folder = tiny_bundle(tmp_path / "folder", scenarios=POPULAR, updater="none")
    rec = opener(folder)
    rec.install(worse)
    if harm == "removed":
        shutil.rmtree(folder)
    elif harm == "damaged":
        (folder / "encoder.onnx").write_bytes(b"nothing")
    else:
        shutil.rmtree(folder)
        tiny_bundle(folder, scenarios=POPULAR, updater="none", version=7)
    use(rec, clock, 35)
    assert (rec.bundle.version, probation(rec)["status"]) == (2, "given up")
    assert str(probation(rec)["reason"])
    with pytest.raises(errors.BundleError):
        rec.rollback()
    assert rec.bundle.version == 2


def test_a_busy_store_puts_the_look_off_and_never_fails_the_record(
    opener: Opener, good: Path, worse: Path, clock: Clock, tmp_path: Path
) -> None:
    class Blocker:
        """Another process that holds the store from the moment on at which the look is due."""

        def __init__(self) -> None:
            self.connection: sqlite3.Connection | None = None
            self.wanted = False

        @hookimpl
        def edgerec_event_recorded(self) -> None:
            if self.wanted:
                self.connection = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
                self.connection.execute("BEGIN IMMEDIATE")
                self.wanted = False

    blocker = Blocker()
    store = tmp_path / "state" / "edgerec.db"
    rec = opener(good, plugins=[blocker], config={"store": {"wait_s": 0.05}})
    rec.install(worse)
    use(rec, clock, 29)
    blocker.wanted = True
    use(rec, clock, 1)
    assert (rec.bundle.version, probation(rec)["status"]) == (2, "on")
    assert blocker.connection is not None
    blocker.connection.close()
    use(rec, clock, 19)
    assert rec.bundle.version == 2
    use(rec, clock, 1)
    assert rec.bundle.version == 1


def test_a_clock_that_goes_back_begins_the_window_anew(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    clock.pass_days(365 * 74)
    rec.install(worse)
    clock.pass_days(-365 * 74)
    rec.close()
    again = opener(good)
    use(again, clock, 35)
    assert again.bundle.version == 1


OTHER = """
import itertools, sys, edgerec
bundle, state, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
ticks = itertools.count(start, 3600.0)
with edgerec.open(bundle, state, plugins=[], clock=lambda: next(ticks)) as rec:
    print(rec.bundle.version, flush=True)
    for line in sys.stdin:
        for n in range(int(line)):
            rec.record(f"i{n % 5}", "click")
        print(rec.bundle.version, flush=True)
"""


def other_process(bundle: Path, state: Path, clock: Clock) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER, str(bundle), str(state), str(clock.now + 3600)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str], records: int | None = None) -> int:
    """The version that the other process runs, after so many records."""
    assert process.stdin is not None
    assert process.stdout is not None
    if records is not None:
        process.stdin.write(f"{records}\n")
        process.stdin.flush()
    return int(process.stdout.readline())


def test_another_process_looks_and_is_followed(opener: Opener, good: Path, worse: Path, clock: Clock) -> None:
    rec = opener(good)
    with other_process(good, rec._device.data_dir, clock) as other:
        assert said(other) == 1
        rec.install(worse)  # by a process that records nothing
        assert said(other, 1) == 2
        assert said(other, 34) == 1
        assert rec.bundle.version == 2, "it did not ask yet"
        use(rec, clock, 1)
        assert rec.bundle.version == 1
        assert "did worse" in rec.bundle.reason
        other.communicate()


def test_processes_that_start_at_once_after_an_update_agree(
    opener: Opener, good: Path, worse: Path, clock: Clock
) -> None:
    rec = opener(good)
    use(rec, clock, 20)
    state = rec._device.data_dir
    rec.close()
    others = [other_process(worse, state, clock) for _ in range(3)]
    assert [said(other) for other in others] == [2, 2, 2]
    for other in others:
        other.communicate()
    with closing(sqlite3.connect(state / "edgerec.db")) as connection:
        assert dict(connection.execute("SELECT version, status FROM bundles")) == {1: "previous", 2: "current"}
        kept = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'probation'").fetchone()[0])
    assert (kept["status"], kept["looked"]) == ("on", 0)
