"""`sync`: nothing without being asked, each event counted once whatever fails, nothing forgotten ever sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from click.testing import CliRunner
from conftest import START, Clock, Opener

import edgerec
from edgerec.cli import main
from edgerec.deltas import Delta, DeltaError, DeltaRefused, TransportError
from edgerec.doctor import examine
from edgerec.errors import ConfigError, PluginNotFound, RequestError, StoreBusy, StoreError
from edgerec.federation import encoding, shares
from edgerec.federation.metrics import read_metrics
from edgerec.files import exclusive
from edgerec.hookspecs import hookimpl
from edgerec.store import OutboxTable
from edgerec_plugins import folder, foldin, privacy, sgd

BLOCKS = [
    {"name": "popularity", "kind": "item_counts", "size": 60, "bound": 8.0, "unit": 0.0625, "half_life_days": 7.0},
    {"name": "pairs", "kind": "pair_sketch", "size": 256, "bound": 32.0, "unit": 0.125, "seed": 17},
    {"name": "metrics", "kind": "metrics", "size": 36, "bound": 1.0, "unit": 2.0**-10},
]
SETTINGS = {"federation": {"enabled": True, "transport": "gateway", "control_share": 0.0}}


class Gateway:
    """A plugin whose transport keeps what arrives; `trouble` is raised before or after it did."""

    def __init__(self) -> None:
        self.arrived: dict[str, bytes] = {}
        self.calls = 0
        self.before: Exception | None = None
        self.after: Exception | None = None

    @hookimpl
    def edgerec_transports(self) -> Mapping[str, Callable[..., Any]]:
        return {"gateway": lambda settings: Transport(self), "other": lambda settings: Transport(self)}

    @property
    def deltas(self) -> list[Delta]:
        return [encoding.decode(payload) for payload in self.arrived.values()]

    def counts(self) -> dict[int, int]:
        """How often each item was counted by what arrived."""
        total = sum((one.blocks["popularity"] for one in self.deltas), np.zeros(60, np.float32))
        return {int(row): int(total[row]) for row in np.flatnonzero(total)}


class Transport:
    name = "gateway"

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def send(self, payload: bytes, *, delta_id: str) -> None:
        gateway = self.gateway
        gateway.calls += 1
        if gateway.before is not None:
            raise gateway.before
        assert gateway.arrived.setdefault(delta_id, payload) == payload, "other bytes under one id"
        if gateway.after is not None:
            raise gateway.after


@pytest.fixture(scope="session")
def federated_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("federated") / "one.edgerec", federated={"blocks": BLOCKS})


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


Devices = Callable[..., edgerec.Recommender]


@pytest.fixture
def device(opener: Opener, federated_path: Path, gateway: Gateway) -> Devices:
    """Opens a device that takes part; with `consent` False one whose user was not asked."""

    def open_one(consent: bool = True, config: Any = SETTINGS, **changes: Any) -> edgerec.Recommender:
        options = {"plugins": [sgd, foldin, privacy, folder, gateway], "config": config, **changes}
        rec = opener(options.pop("bundle", federated_path), options.pop("data_dir", None), **options)
        if consent:
            rec.consent(True)
        return rec

    return open_one


def buy(rec: edgerec.Recommender, *rows: int, **changes: Any) -> None:
    for row in rows:
        rec.record(f"i{row}", "purchase", **changes)


def settings(**changes: Any) -> dict[str, Any]:
    return {"federation": {**SETTINGS["federation"], **changes}}


def test_nothing_is_sent_unless_the_app_enabled_it_and_the_user_agreed(device: Devices, gateway: Gateway) -> None:
    for config, agreed, status in (
        (None, True, "off"),
        (settings(enabled=False), True, "off"),
        (SETTINGS, False, "no_consent"),
    ):
        rec = device(consent=agreed, config=config)
        buy(rec, 1)
        assert rec.sync().status == status
        rec.consent(False)
        rec.close()
    assert gateway.calls == 0


def test_nothing_is_sent_without_a_sync(device: Devices, gateway: Gateway) -> None:
    rec = device()
    buy(rec, 1, 2)
    rec.recommend(5)
    rec.close()
    device().close()
    assert gateway.calls == 0


def test_a_sync_sends_what_was_consumed_since_the_last_one(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1, 2, 2)
    rec.record("i3", "click")
    report = rec.sync()
    assert (report.status, report.accepted, report.bytes) == ("sent", 1, len(*gateway.arrived.values()))
    assert gateway.counts() == {1: 1, 2: 1}
    clock.pass_days(7)
    buy(rec, 2, 5)
    assert rec.sync().status == "sent"
    assert gateway.counts() == {1: 1, 2: 2, 5: 1}
    assert rec.stats()["federation"] == {
        "enabled": True,
        "consent": True,
        "control": False,
        "waiting": 0,
        "uncounted": 0,
    }


def test_every_delta_has_one_size_and_an_id_of_its_own(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    for rows in ((), (1,), range(50)):
        buy(rec, *rows)
        assert rec.sync().status == "sent"
        clock.pass_days(7)
    assert len(gateway.arrived) == 3
    assert {len(payload) for payload in gateway.arrived.values()} == {encoding.payload_size(specs(rec))}
    assert not gateway.deltas[0].blocks["popularity"].any()


def specs(rec: edgerec.Recommender) -> Any:
    return rec._device.snapshot().engine.bundle.manifest.federation.blocks


def test_what_happened_before_consent_is_never_counted(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device(consent=False)
    buy(rec, 1, 2)
    rec.consent(True)
    buy(rec, 3)
    rec.sync()
    rec.consent(False)
    buy(rec, 4)
    rec.consent(True)
    buy(rec, 5)
    clock.pass_days(7)
    rec.sync()
    assert gateway.counts() == {3: 1, 5: 1}


def test_consent_is_kept_and_withdrawing_it_empties_the_outbox(device: Devices, gateway: Gateway) -> None:
    rec = device()
    buy(rec, 1)
    gateway.before = TransportError("offline")
    assert rec.sync().status == "waiting"
    assert rec.stats()["federation"]["waiting"] == 1
    rec.close()
    rec = device(consent=False)
    rec.consent(False)
    assert rec.stats()["federation"]["waiting"] == 0
    gateway.before = None
    rec.close()
    rec = device(consent=False)
    assert rec.sync().status == "no_consent"
    assert gateway.arrived == {}


def test_a_delta_that_did_not_get_through_is_sent_again_under_the_same_id(device: Devices, gateway: Gateway) -> None:
    rec = device()
    buy(rec, 1, 2)
    gateway.before = TransportError("no network")
    first = rec.sync()
    assert (first.status, first.reason) == ("waiting", "no network")
    rec.close()
    gateway.before = None
    rec = device()
    buy(rec, 3)  # after the delta was made: in the next one
    second = rec.sync()
    assert (second.status, second.delta_id) == ("sent", first.delta_id)
    assert gateway.counts() == {1: 1, 2: 1}


def test_an_acknowledgement_that_got_lost_counts_nothing_twice(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1)
    gateway.after = TransportError("the answer was lost")
    assert rec.sync().status == "waiting"
    gateway.after = None
    clock.pass_days(7)
    buy(rec, 2)
    report = rec.sync()
    assert (report.status, report.accepted) == ("sent", 2)
    assert gateway.counts() == {1: 1, 2: 1}


def test_whatever_a_transport_raises_the_delta_waits(device: Devices, gateway: Gateway) -> None:
    rec = device()
    buy(rec, 1)
    gateway.before = RuntimeError("its own fault")
    report = rec.sync()
    assert report.status == "waiting"
    assert "RuntimeError" in report.reason


def test_events_of_a_delta_that_was_refused_are_counted_by_the_next(
    device: Devices, gateway: Gateway, clock: Clock
) -> None:
    rec = device()
    buy(rec, 1, 2)
    gateway.before = DeltaRefused("an old bundle version")
    report = rec.sync()
    assert (report.status, report.reason) == ("refused", "an old bundle version")
    assert rec.stats()["federation"] | {"waiting": 0, "uncounted": 2} == rec.stats()["federation"]
    gateway.before = None
    assert rec.sync().status == "nothing", "a delta was made this week"
    clock.pass_days(7)
    buy(rec, 3)
    assert rec.sync().status == "sent"
    assert gateway.counts() == {1: 1, 2: 1, 3: 1}


def test_no_more_deltas_than_the_app_allows_in_a_week(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device(config=settings(most_per_week=2))
    for _ in range(5):
        rec.sync()
    assert len(gateway.arrived) == 2
    rec.forget()
    assert rec.sync().status == "nothing", "forgetting buys no further participation"
    clock.now -= 30 * 86400  # nor does a clock that is set back
    assert rec.sync().status == "nothing"
    clock.pass_days(37.01)
    assert rec.sync().status == "sent"


CONDITIONS = [
    ({"only_unmetered": True}, {"metered": True}, "metered"),
    ({"only_unmetered": True}, None, "nobody knows"),
    ({"only_charging": True}, {"charging": False}, "not charging"),
    ({"only_charging": True, "only_unmetered": True}, {"metered": False}, "nobody knows"),
]


@pytest.mark.parametrize(("wanted", "told", "why"), CONDITIONS)
def test_a_sync_waits_for_the_conditions_that_the_app_set(
    device: Devices, gateway: Gateway, wanted: dict[str, Any], told: Any, why: str
) -> None:
    rec = device(config=settings(**wanted))
    report = rec.sync(conditions=told)
    assert report.status == "not_now"
    assert why in report.reason
    assert gateway.calls == 0
    assert rec.sync(conditions={"metered": False, "charging": True}).status == "sent"


def test_odd_conditions_are_named(device: Devices) -> None:
    for told in ({"wifi": True}, {"metered": "no"}):
        with pytest.raises(RequestError, match="metered and charging"):
            device().sync(conditions=told)


BAD = [
    ({"enabled": True}, "transport is missing"),
    ({"enabled": 1}, "wrong type"),
    ({"color": 1}, "unknown setting"),
    ({"mode": "closed"}, "mode"),
    ({"mode": "split", "enabled": True, "transport": "gateway"}, "second"),
    ({"enabled": True, "transport": "gateway", "second": "other"}, "second"),
    ({"mode": "split", "enabled": True, "transport": "a", "second": "a"}, "holds both shares"),
    ({"filters": ["clip", "clip"]}, "each of them once"),
    ({"filters": [3]}, "names"),
    ({"most_per_week": 0}, "most_per_week"),
    ({"control_share": 1.5}, "control_share"),
]


@pytest.mark.parametrize(("section", "said"), BAD)
def test_settings_that_cannot_be_are_named(opener: Opener, section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opener(config={"federation": section})


def test_a_transport_or_filter_that_is_not_there_is_named(device: Devices) -> None:
    for config in (settings(transport="pigeon"), settings(filters=["blur"])):
        rec = device(config=config)
        with pytest.raises(PluginNotFound):
            rec.sync()
        rec.close()


def test_filters_run_in_the_configured_order_with_their_constants(device: Devices, gateway: Gateway) -> None:
    config = {
        **settings(filters=["clip", "hide"]),
        "delta_filters": {"clip": {"bound": 1.0}, "hide": {"plugin": "noise", "bound": 1.0, "multiplier": 0.5}},
    }
    rec = device(config=config)
    buy(rec, *range(20))
    assert rec.sync().status == "sent"
    (delta,) = gateway.deltas
    noise = delta.blocks["pairs"]
    assert 0.3 < float(noise.std()) < 0.7
    assert np.count_nonzero(noise) > 150


def test_noise_without_a_clip_before_it_sends_nothing(device: Devices, gateway: Gateway) -> None:
    rec = device(config={**settings(filters=["noise"]), "delta_filters": {"noise": {"bound": 0.5}}})
    buy(rec, *range(20))
    with pytest.raises(DeltaError, match="clip"):
        rec.sync()
    assert gateway.calls == 0
    assert rec.stats()["federation"] | {"waiting": 0, "uncounted": 20} == rec.stats()["federation"]


def test_values_within_the_bound_are_what_arrives(device: Devices, gateway: Gateway) -> None:
    rec = device()
    buy(rec, *range(60), *range(0, 60, 2))
    rec.sync()
    (delta,) = gateway.deltas
    for spec in specs(rec):
        assert np.linalg.norm(delta.blocks[spec.name].astype(np.float64)) <= spec.bound


def test_in_two_shares_each_gateway_gets_one(opener: Opener, federated_path: Path) -> None:
    first, second = Gateway(), Gateway()
    config = {"federation": {"enabled": True, "transport": "one", "second": "two", "mode": "split"}}
    plugins = [sgd, foldin, Two(first, second)]
    rec = opener(federated_path, plugins=plugins, config=config)
    rec.consent(True)
    buy(rec, 1, 2)
    second.before = TransportError("offline")
    report = rec.sync()
    assert report.status == "waiting"
    second.before = None
    assert rec.sync().delta_id == report.delta_id
    assert (first.calls, second.calls) == (1, 2), "a share that arrived is not sent again"
    joined = shares.joined(first.arrived[report.delta_id], second.arrived[report.delta_id])
    assert np.flatnonzero(joined.blocks["popularity"]).tolist() == [1, 2]
    assert len(second.arrived[report.delta_id]) < 200


class Two:
    """A plugin with a transport to each of two gateways."""

    def __init__(self, first: Gateway, second: Gateway) -> None:
        self.first, self.second = first, second

    @hookimpl
    def edgerec_transports(self) -> Mapping[str, Callable[..., Any]]:
        return {"one": lambda settings: Transport(self.first), "two": lambda settings: Transport(self.second)}


def test_a_bundle_without_federated_blocks_has_nothing_to_send(device: Devices, bundle_path: Path) -> None:
    report = device(bundle=bundle_path).sync()
    assert (report.status, report.reason) == ("nothing", "the bundle declares no federated blocks")


def test_forgotten_events_never_travel(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1, 2)
    gateway.before = TransportError("offline")
    rec.sync()
    rec.forget("i1")
    assert rec.stats()["federation"]["waiting"] == 0
    gateway.before = None
    clock.pass_days(7)
    buy(rec, 3)
    rec.sync()
    rec.forget()
    buy(rec, 4)
    clock.pass_days(7)
    rec.sync()
    assert gateway.counts() == {3: 1, 4: 1}, "what was in the delta that waited is not counted: it may have arrived"


def test_no_byte_of_what_waited_is_left_after_forgetting(device: Devices, gateway: Gateway, tmp_path: Path) -> None:
    rec = device()
    gateway.before = TransportError("offline")
    ids = [f"unmistakable-{n}" for n in range(3)]
    for n, one in enumerate(ids):
        rec.record(f"i{n}", "purchase", event_id=one)
    assert rec.sync().status == "waiting"
    payload = outbox_of(rec)[0].payload

    def found() -> bool:
        files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        return any(one in path.read_bytes() for path in files for one in (ids[1].encode(), payload[60:100]))

    assert found(), "the search can find something"
    rec.forget()
    assert not found()


def outbox_of(rec: edgerec.Recommender) -> Any:
    with rec._device.database.read() as connection:
        return OutboxTable.all(connection)


def test_what_retention_takes_out_waits_for_nobody(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1)
    gateway.before = TransportError("offline")
    rec.sync()
    rec.close()
    clock.pass_days(20)
    rec = device(config={**SETTINGS, "retention": {"days": 10}})
    assert outbox_of(rec) == []
    assert rec.stats()["events"] == 0


def test_a_store_that_was_damaged_counts_nothing_twice_and_remembers_the_user_s_word(
    device: Devices, gateway: Gateway, clock: Clock, tmp_path: Path
) -> None:
    rec = device()
    buy(rec, *range(30))
    rec.sync()
    rec.close()
    path = tmp_path / "state" / "edgerec.db"
    data = bytearray(path.read_bytes())
    at = data.find(b"i13")
    data[at : at + 3] = b"i99"  # one event is not what was written any more
    path.write_bytes(data)
    (tmp_path / "state" / ".edgerec.damaged").touch()
    clock.pass_days(7)
    rec = device(consent=False)
    assert rec.stats()["events"] >= 25
    assert rec.stats()["federation"]["consent"]
    buy(rec, 40)
    assert rec.sync().status == "sent"
    assert gateway.counts() == {row: 1 for row in (*range(30), 40)}


def test_doctor_says_what_the_user_agreed_to(device: Devices, gateway: Gateway, tmp_path: Path) -> None:
    rec = device(consent=False)
    state = tmp_path / "state"
    assert not [one for one in examine(state) if one.name == "federation"]
    rec.consent(True)
    gateway.before = TransportError("offline")
    rec.sync()
    (told,) = [one.message for one in examine(state) if one.name == "federation"]
    assert told == "the user agreed; 1 delta waits"
    rec.consent(False)
    (told,) = [one.message for one in examine(state) if one.name == "federation"]
    assert "did not agree" in told


def test_forgetting_deletes_what_transports_kept_and_a_single_item_does_not(device: Devices, tmp_path: Path) -> None:
    rec = device()
    keys = tmp_path / "state" / "federation" / "https"
    keys.mkdir(parents=True)
    (keys / "device.key").write_bytes(b"secret")
    buy(rec, 1)
    rec.forget("i1")
    assert (keys / "device.key").exists()
    rec.forget()
    assert not keys.parent.exists()


def test_a_key_that_a_killed_forget_left_goes_at_the_next_open(device: Devices, tmp_path: Path) -> None:
    from edgerec import privacy as forgetting
    from edgerec.store import MetaTable

    rec = device()
    with rec._device.database.write() as connection:
        MetaTable.set(connection, "erase_pending", forgetting.ALL)
    rec.close()
    (tmp_path / "state" / "federation").mkdir()
    device(consent=False).close()
    assert not (tmp_path / "state" / "federation").exists()


def test_imported_events_are_counted_by_the_device_that_recorded_them(
    device: Devices, gateway: Gateway, clock: Clock, tmp_path: Path
) -> None:
    phone, tablet = device(data_dir=tmp_path / "phone"), device(data_dir=tmp_path / "tablet")
    buy(phone, 1, 2)
    clock.now += 1
    buy(tablet, 3)
    phone.export_profile(tmp_path / "profile")
    tablet.import_profile(tmp_path / "profile")
    clock.now += 1
    buy(tablet, 4)
    tablet.sync()
    phone.sync()
    assert gateway.counts() == {1: 1, 2: 1, 3: 1, 4: 1}
    clock.pass_days(7)
    tablet.export_profile(tmp_path / "profile")
    phone.import_profile(tmp_path / "profile")
    for rec in (phone, tablet):
        rec.sync()
    assert gateway.counts() == {1: 1, 2: 1, 3: 1, 4: 1}


def test_pairs_reach_back_over_the_last_delta(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1)
    rec.sync()
    clock.pass_days(7)
    buy(rec, 2)
    rec.sync()
    first, second = (delta.blocks["pairs"] for delta in gateway.deltas)
    assert not first.any()
    assert np.count_nonzero(second) == 1


def test_metrics_say_how_each_ranking_did_since_the_last_delta(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, *range(10))
    rec.sync()
    clock.pass_days(7)
    rec.sync()
    clock.pass_days(7)
    buy(rec, 20, 21)
    rec.sync()
    spec = specs(rec)[2]
    told = [
        read_metrics(spec, one.blocks["metrics"].astype(np.float64), ["default", "reorder"]) for one in gateway.deltas
    ]
    assert told[0]["treated"]["default"]["tests"] == pytest.approx(10, abs=0.5)
    assert told[1] == {"treated": {}, "control": {}}
    assert told[2]["treated"]["default"]["tests"] == pytest.approx(2, abs=0.5)
    assert told[2]["control"] == {}


def test_after_another_bundle_metrics_start_anew_instead_of_lying(
    device: Devices, gateway: Gateway, clock: Clock, tmp_path: Path
) -> None:
    rec = device()
    buy(rec, *range(10))
    newer = tiny_bundle(tmp_path / "two.edgerec", seed=1, version=2, federated={"blocks": BLOCKS})
    rec.install(newer, force=True)
    buy(rec, 11)
    rec.sync()
    clock.pass_days(7)
    buy(rec, 12, 13)
    rec.sync()
    spec = specs(rec)[2]
    first, second = (
        read_metrics(spec, one.blocks["metrics"].astype(np.float64), ["default", "reorder"]) for one in gateway.deltas
    )
    assert first["treated"] == {}
    assert second["treated"]["default"]["tests"] == pytest.approx(2, abs=0.5)
    assert [one.bundle_version for one in gateway.deltas] == [2, 2]
    assert gateway.counts() == {row: 1 for row in (*range(10), 11, 12, 13)}


def test_the_control_group_serves_what_the_bundle_says(device: Devices, tmp_path: Path, clock: Clock) -> None:
    """Its history is live, its taste and blend are nobody's; without federation it is as personal as any."""
    config = settings(control_share=1.0)
    plain = device(data_dir=tmp_path / "plain", config=settings(control_share=0.0))
    control = device(data_dir=tmp_path / "control", config=config)
    for rec in (plain, control):
        for turn in range(30):
            rec.record(f"i{turn % 7}", "purchase", event_id=f"e{turn}", at=START + turn)
    base = edgerec.open(
        plain._device.snapshot().engine.bundle.base.path,
        tmp_path / "base",
        plugins=[sgd, foldin],
        config={"learning": {"updater": "none"}, "blend": {"learn": False}},
        clock=clock,
    )
    with base:
        for turn in range(30):
            base.record(f"i{turn % 7}", "purchase", event_id=f"e{turn}", at=START + turn)
        expected = [(r.item, r.score) for r in base.recommend(20)]
    assert [(r.item, r.score) for r in control.recommend(20)] == expected
    assert [(r.item, r.score) for r in plain.recommend(20)] != expected
    assert control.stats()["federation"]["control"]
    control.close()
    again = device(data_dir=tmp_path / "control", config=config, consent=False)
    assert [(r.item, r.score) for r in again.recommend(20)] == expected, "for good"
    again.consent(False)
    assert [r.item for r in again.recommend(20)] == [r.item for r in plain.recommend(20)]


def test_about_the_configured_share_is_in_the_control_group(device: Devices, tmp_path: Path) -> None:
    from edgerec.participation import DRAW
    from edgerec.store import MetaTable

    draws = []
    for n in range(20):
        rec = device(data_dir=tmp_path / str(n))
        with rec._device.database.read() as connection:
            draws.append(float(MetaTable.get(connection, DRAW) or "nan"))
        rec.close()
    assert len(set(draws)) == 20
    assert 0 <= min(draws) < 0.5 < max(draws) < 1


def test_two_syncs_at_once_are_one(device: Devices, gateway: Gateway, tmp_path: Path) -> None:
    rec = device()
    with exclusive(tmp_path / "state" / ".edgerec.sync.lock"), pytest.raises(StoreBusy, match="another sync"):
        rec.sync()
    assert gateway.calls == 0


def test_a_folder_that_is_in_the_way_is_named(device: Devices, gateway: Gateway, tmp_path: Path) -> None:
    rec = device()
    (tmp_path / "state" / ".edgerec.sync.lock").mkdir()
    with pytest.raises(StoreError, match="cannot be locked"):
        rec.sync()
    assert gateway.calls == 0


def test_events_that_come_in_meanwhile_are_counted_by_the_next_delta(
    device: Devices, gateway: Gateway, clock: Clock
) -> None:
    rec = device()
    buy(rec, 1)
    outgoing = rec._synchroniser()

    class Busy:
        """A filter that the user does not wait for."""

        name = "busy"

        def filter(self, delta: Delta, chance: Any) -> Delta:
            buy(rec, 2)
            return delta

    rec.sync()
    assert outgoing._outgoing is not None
    outgoing._outgoing._filters.append(Busy())
    clock.pass_days(7)
    buy(rec, 3)
    rec.sync()
    outgoing._outgoing._filters.clear()
    clock.pass_days(7)
    rec.sync()
    assert gateway.counts() == {1: 1, 2: 1, 3: 1}


def test_a_forget_while_a_delta_is_made_makes_it_anew(device: Devices, gateway: Gateway, clock: Clock) -> None:
    rec = device()
    buy(rec, 1, 2)

    class Forgetting:
        name = "forgetting"
        done = False

        def filter(self, delta: Delta, chance: Any) -> Delta:
            if not self.done:
                self.done = True
                rec.forget("i1")
            return delta

    clock.pass_days(1)
    rec._synchroniser()
    rec.sync()  # makes the filters; it sends items 1 and 2
    rec.forget()
    gateway.arrived.clear()
    clock.pass_days(8)
    buy(rec, 1, 2)
    rec._synchroniser()._outgoing._filters.append(Forgetting())  # type: ignore[union-attr]
    rec.sync()
    assert gateway.counts() == {2: 1}


KILLED = """
import os, signal, sys
from pathlib import Path
import edgerec
from edgerec.hookspecs import hookimpl
from edgerec.store import OutboxTable
from edgerec_plugins import folder, foldin, sgd

bundle, state, out, where = sys.argv[1:5]

class Deadly(folder.Folder):
    def send(self, payload, *, delta_id):
        if where == "before": os.kill(os.getpid(), signal.SIGKILL)
        super().send(payload, delta_id=delta_id)
        if where == "after": os.kill(os.getpid(), signal.SIGKILL)

class Filter:
    name = "deadly"
    def __init__(self, settings): pass
    def filter(self, delta, chance):
        if where == "making": os.kill(os.getpid(), signal.SIGKILL)
        return delta

class Plugin:
    @hookimpl
    def edgerec_transports(self): return {"deadly": Deadly}
    @hookimpl
    def edgerec_delta_filters(self): return {"deadly": Filter}

config = {"federation": {"enabled": True, "transport": "deadly", "filters": ["deadly"]},
          "transports": {"deadly": {"path": out}}}
rec = edgerec.open(bundle, state, plugins=[sgd, foldin, Plugin()], config=config)
rec.consent(True)
for row in sys.argv[5:]:
    rec.record(f"i{row}", "purchase", event_id=f"e{row}")
rec.sync()
rec.close()
"""


@pytest.mark.parametrize("where", ["making", "before", "after"])
def test_killed_at_any_point_each_event_is_counted_once(federated_path: Path, tmp_path: Path, where: str) -> None:
    base = [sys.executable, "-c", KILLED, str(federated_path), str(tmp_path / "state"), str(tmp_path / "out")]
    for _ in range(2):
        killed = subprocess.run([*base, where, "1", "2"], check=False)
        assert killed.returncode == -signal.SIGKILL
    subprocess.run([*base, "never", "1", "2"], check=True)
    payloads = [path.read_bytes() for path in (tmp_path / "out").glob("*.delta")]
    total = sum((encoding.decode(one).blocks["popularity"] for one in payloads), np.zeros(60, np.float32))
    assert {int(row): float(total[row]) for row in np.flatnonzero(total)} == {1: 1.0, 2: 1.0}


LIGHT = """
import sys, edgerec
from edgerec_plugins import folder, foldin, sgd
sys.modules["pandas"] = None
config = {"federation": {"enabled": True, "transport": "folder"}, "transports": {"folder": {"path": sys.argv[3]}}}
with edgerec.open(sys.argv[1], sys.argv[2], config=config) as rec:
    rec.consent(True)
    rec.record(rec.recommend(1)[0].item, "purchase")
    before = {name.partition(".")[0] for name, module in sys.modules.items() if module}
    assert rec.sync().status == "sent"
after = {name.partition(".")[0] for name, module in sys.modules.items() if module}
assert not {"cryptography", "urllib3", "flwr", "tuf", "torch", "ssl"} & before, before
assert not {"cryptography", "urllib3", "flwr", "tuf", "torch"} & after, after
"""


def test_serving_and_a_sync_to_a_folder_load_nothing_for_networks(federated_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIGHT, str(federated_path), str(tmp_path / "state"), str(tmp_path / "out")]
    subprocess.run(command, check=True, env={**os.environ, "EDGEREC_LOAD_PLUGINS": "sgd,foldin,https,folder,privacy"})


def run(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    return done.exit_code, json.loads(done.output) if done.exit_code == 0 else done.output


def test_the_commands(federated_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "app.toml"
    config.write_text(
        '[federation]\nenabled = true\ntransport = "folder"\nonly_unmetered = true\n'
        f"[transports.folder]\npath = '{tmp_path / 'out'}'\n"
    )
    here = ["--bundle", str(federated_path), "--state", str(tmp_path / "state"), "--config", str(config)]
    assert run("sync", *here)[1]["status"] == "no_consent"
    assert run("consent", "yes", *here)[1]["consent"] is True
    assert run("record", "i3", "--kind", "purchase", *here)[0] == 0
    assert run("sync", *here, "--metered")[1]["status"] == "not_now"
    told = run("sync", *here, "--unmetered")[1]
    assert (told["status"], told["accepted"]) == ("sent", 1)
    assert [path.stem for path in (tmp_path / "out").iterdir()] == [told["delta_id"]]
    assert run("consent", "no", *here)[1]["consent"] is False
    assert CliRunner().invoke(main, ["sync", *here]).output == "no consent: the user did not agree\n"


def test_a_command_whose_delta_waits_says_so_by_its_code(federated_path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder")
    config = tmp_path / "app.toml"
    config.write_text(
        f"[federation]\nenabled = true\ntransport = \"folder\"\n[transports.folder]\npath = '{tmp_path / 'out'}'\n"
    )
    here = ["--bundle", str(federated_path), "--state", str(tmp_path / "state"), "--config", str(config)]
    run("consent", "yes", *here)
    done = CliRunner().invoke(main, ["sync", *here])
    assert done.exit_code == TransportError.exit_code
    assert done.output.startswith("waiting: ")
