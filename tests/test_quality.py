"""The event filter `quality`, alone and within the runtime; the limits that an exporter sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Clock, Opener, same_state
from toy_data import toy_dataset

import edgerec
from edgerec import Event
from edgerec.errors import ConfigError
from edgerec.interfaces import Arrival
from edgerec_exporters.event_limits import event_limits
from edgerec_exporters.interactions import Interactions
from edgerec_plugins import quality, sgd
from edgerec_plugins.quality import Quality

LIMITS: dict[str, Any] = {"most": 3, "within_s": 10.0, "most_long": 6, "long_s": 60.0, "repeat_s": 2.0}


def arrivals(*times: float, group: str | None = None, kind: str = "click") -> list[Arrival]:
    return [Arrival(f"i{n}", kind, at, group) for n, at in enumerate(times)]


def verdicts(given: list[Arrival], **settings: Any) -> list[str | None]:
    judge = Quality({**LIMITS, **settings})
    return [judge.review(one, given[:n]) for n, one in enumerate(given)]


def test_an_impossible_rate_is_set_aside_until_it_pauses() -> None:
    found = verdicts(arrivals(0, 1, 2, 3, 4, 30))
    assert found == [None, None, None, "impossible rate", "impossible rate", None]


def test_a_burst_is_slower_and_longer() -> None:
    assert verdicts(arrivals(*range(0, 56, 5)), most=0)[5:] == [None, *["burst"] * 6]
    assert not any(verdicts(arrivals(*range(0, 600, 11))))


def test_the_same_item_twice_in_no_time_is_an_accident() -> None:
    twice = [Arrival("i1", "click", 0.0, None), Arrival("i1", "click", 1.0, None)]
    assert verdicts(twice) == [None, "accidental"]
    assert verdicts([twice[0], Arrival("i1", "purchase", 1.0, None)]) == [None, None]
    assert verdicts([twice[0], Arrival("i1", "click", 5.0, None)]) == [None, None]


def test_a_group_is_one_arrival() -> None:
    basket = arrivals(*[0.0] * 50, group="basket")
    assert not any(verdicts(basket))
    assert verdicts([*basket, *arrivals(1, 2, 3)], repeat_s=0.0)[50:] == [None, None, "impossible rate"]


def test_only_the_kinds_that_the_limits_were_made_for_are_judged() -> None:
    clicks = arrivals(*range(8))
    assert not any(verdicts(clicks, kinds=["purchase"]))
    assert verdicts([*clicks, Arrival("x", "purchase", 8.0, None)], kinds=["purchase"])[-1] is None


@pytest.mark.parametrize("wrong", [{"most": -1}, {"within_s": "x"}, {"kinds": "click"}, {"nope": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="quality"):
        Quality(wrong)


# --- in the runtime ------------------------------------------------------------------------------------------

PLUGINS = [sgd, quality]


def open_filtered(opener: Opener, **options: Any) -> edgerec.Recommender:
    config = edgerec.Config(filters={"quality": LIMITS})
    return opener(**{"plugins": PLUGINS, "config": config, **options})


def burst(rec: edgerec.Recommender, clock: Clock, count: int) -> list[str]:
    told = []
    for n in range(count):
        clock.now += 0.5
        told.append(rec.record(f"i{20 + n}", "click").status)
    return told


def test_what_is_set_aside_is_stored_and_changes_nothing(opener: Opener, clock: Clock, tmp_path: Path) -> None:
    rec, plain = open_filtered(opener), opener(data_dir=tmp_path / "plain")
    assert burst(rec, clock, 10) == ["stored"] * 3 + ["quarantined"] * 7
    clock.now -= 5
    assert burst(plain, clock, 3) == ["stored"] * 3
    assert rec.stats()["events"] == 10
    assert [(r.item, r.score) for r in rec.recommend(60)] == [(r.item, r.score) for r in plain.recommend(60)]


def test_what_was_set_aside_stays_so_after_a_restart_and_in_another_space(
    opener: Opener, clock: Clock, tmp_path: Path
) -> None:
    rec = open_filtered(opener)
    burst(rec, clock, 10)
    before = rec.recommend(60)
    rec.close()
    again = open_filtered(opener)
    assert [(r.item, r.score) for r in again.recommend(60)] == [(r.item, r.score) for r in before]
    clock.now += 0.5
    assert again.record("i50", "click").status == "quarantined", "the burst goes on across the restart"
    device = again._device
    snapshot = device.snapshot()
    assert same_state(snapshot.learned, snapshot.engine.replay(device.events(), obey=True).learned)
    again.install(tiny_bundle(tmp_path / "next.edgerec", seed=3, version=2), force=True)
    assert device.snapshot().history.rows.tolist() == [20, 21, 22]
    assert sum(row.verdict.startswith("quarantined: quality") for row in device.events()) == 8


def test_a_basket_at_once_and_events_without_times_are_sound(opener: Opener) -> None:
    rec = open_filtered(opener)
    grouped = [Event(f"i{n}", "click", group="g", at=1e9) for n in range(12)]
    assert {receipt.status for receipt in rec.record_many(grouped)} == {"stored"}
    assert {receipt.status for receipt in rec.record_many([Event(f"i{n}", "click") for n in range(12)])} == {"stored"}


def test_a_manifest_names_its_filters_and_the_app_may_turn_them_off(
    opener: Opener, clock: Clock, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "filtered.edgerec", filters={"quality": LIMITS, "missing": {}})
    rec = opener(bundle=bundle, plugins=PLUGINS)
    assert "quarantined" in burst(rec, clock, 6)
    assert "missing" in str(rec.stats()["plugins"]["broken"])
    off = opener(bundle=bundle, plugins=PLUGINS, data_dir=tmp_path / "off", config=edgerec.Config(filter_events=False))
    assert set(burst(off, clock, 6)) == {"stored"}


class Answering:
    """A plugin whose filter gives one reason for everything, or raises it."""

    name = "answering"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @edgerec.hookspecs.hookimpl
    def edgerec_event_filters(self) -> dict[str, Any]:
        return {"answering": lambda settings: self}

    def review(self, arrival: object, earlier: object) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


ANSWERING = edgerec.Config(filters={"answering": {}})


@pytest.mark.parametrize("answer", [SystemExit("no"), 5])
def test_a_filter_that_fails_lets_the_event_pass(
    opener: Opener, caplog: pytest.LogCaptureFixture, answer: object
) -> None:
    rec = opener(plugins=[sgd, Answering(answer)], config=ANSWERING)
    assert rec.record("i1").status == "stored"
    assert "answering" in caplog.text


@pytest.mark.parametrize("answer", ["x" * 1_000_000, "half a pair: \ud800", "a NUL: \0"])
def test_any_reason_of_a_filter_can_be_stored_and_taken_along(opener: Opener, tmp_path: Path, answer: str) -> None:
    rec = opener(plugins=[sgd, Answering(answer)], config=ANSWERING)
    assert rec.record("i1").status == "quarantined"
    assert len(rec._device.events()[0].verdict) < 300
    rec.export_profile(tmp_path / "p")
    assert rec.import_profile(tmp_path / "p").known == 1


# --- the exporter's limits -----------------------------------------------------------------------------------


def test_limits_are_what_hardly_any_user_did() -> None:
    data = Interactions.from_dataset(toy_dataset(n_users=300))
    limits = event_limits(data)
    assert limits["kinds"] == list(data.kinds)
    Quality(limits)
    user, at = data.user, data.at
    for most, window in ((limits["most"], limits["within_s"]), (limits["most_long"], limits["long_s"])):
        if most:
            begins = np.flatnonzero(np.diff(data.group, prepend=-1))
            counts = [
                int(((at[begins] > at[b] - window) & (at[begins] <= at[b]) & (user[begins] == user[b])).sum())
                for b in begins
            ]
            assert np.mean(np.array(counts) > most) <= 1e-3
