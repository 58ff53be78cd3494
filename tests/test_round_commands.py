"""`edgerec round`: from files or a gateway's store to a candidate, again after every crash, within the budget."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channels import make_channel, ring
from click.testing import CliRunner, Result
from round_parts import N_ITEMS, delta, federated_bundle, payload, write_deltas

from edgerec.bundle import load_bundle
from edgerec.bundle.federated import BlockSpec
from edgerec.cli import main
from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError
from edgerec.federation.encoding import encode
from edgerec.federation.shares import split
from edgerec_exporters.channel import publishing
from edgerec_exporters.federation.journal import BEGUN, BudgetSpent, Journal, JournalError
from edgerec_exporters.federation.rounds import JOURNAL, Desk, abandon, run_round
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings, load_settings
from edgerec_exporters.federation.sources import Folder

DAY = 86_400.0
NOW = 1_767_225_600.0  # 2026-01-01, when the bundle was made
FEW = RoundSettings(least_cohort=5)


def silent(sigma: float, n: int) -> Any:
    return np.zeros(n, np.int64)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return federated_bundle(tmp_path / "v1.edgerec")


def desk(bundle: Path, tmp_path: Path, settings: RoundSettings = FEW, day: float = 7.0, **changes: Any) -> Desk:
    source = changes.pop("source", None) or Folder(tmp_path / "deltas")
    return Desk(
        bundle, source, tmp_path / "state", settings, lambda: NOW + day * DAY, stories=lambda folder: [], **changes
    )


def counts(bundle: Path, tmp_path: Path) -> np.ndarray[Any, Any]:
    with load_bundle(bundle, tmp_path / "opened") as opened:
        return np.expm1(opened.model.popularity.astype(np.float64))


def check_counts(out: Path, bundle: Path, tmp_path: Path, numbers: Iterable[int], left: float = 1.0) -> None:
    """The old counts, or what is `left` of them, and what `write_deltas` sent for each of the numbers, once."""
    expected = counts(bundle, tmp_path) * left
    for number in numbers:
        expected[[*{7, number % N_ITEMS}]] += 1
    np.testing.assert_allclose(counts(out, tmp_path), expected, rtol=1e-5, atol=1e-5)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["round", *map(str, arguments)])


# a round


def test_a_round_makes_the_next_bundle(bundle: Path, tmp_path: Path) -> None:
    write_deltas(tmp_path / "deltas", range(20))
    out = tmp_path / "v2.edgerec"
    report = run_round(desk(bundle, tmp_path), out)
    assert (report["bundle"], report["candidate"], report["devices"], report["aggregator"]) == (1, 2, 20, "mean")
    assert report["bytes"]["largest"] == len(payload(0, {7}))
    assert report["bytes"]["all"] == 20 * report["bytes"]["largest"]
    assert (report["refused"], report["repeated"]) == ({}, False)
    told = report["field"]["treated"]["default"]
    assert told["devices"] == pytest.approx(20 * 0.75)  # a quarter of the bound, where one device's 1 is a third
    assert told["base"] == pytest.approx(1.0)
    assert report["field"]["control"] == {}
    check_counts(out, bundle, tmp_path, range(20), left=0.5)  # a half-life has passed
    with load_bundle(out, tmp_path / "opened") as opened:
        assert opened.manifest.scenarios["default"].weights["popular"] == 1.5
        assert opened.manifest.created == "2026-01-08T00:00:00Z"
    json.dumps(report, allow_nan=False)


def test_each_delta_counts_once_over_many_rounds(bundle: Path, tmp_path: Path) -> None:
    folder = write_deltas(tmp_path / "deltas", range(10))
    first = tmp_path / "v2.edgerec"
    run_round(desk(bundle, tmp_path, day=0.0), first)
    with pytest.raises(DeltaError, match="10 counted before"):
        run_round(desk(first, tmp_path, day=0.0), tmp_path / "v3.edgerec")
    write_deltas(folder, range(10, 16), version=2)
    write_deltas(folder, range(16, 18), version=1)  # stragglers, of the version before
    report = run_round(desk(first, tmp_path, day=0.0), tmp_path / "v3.edgerec")
    assert (report["devices"], report["refused"]) == (8, {"counted before": 10})
    check_counts(tmp_path / "v3.edgerec", bundle, tmp_path, range(18))


def test_what_is_no_delta_of_this_bundle_is_left_out_and_told(bundle: Path, tmp_path: Path) -> None:
    folder = write_deltas(tmp_path / "deltas", range(6))
    write_deltas(folder, [50], version=2)
    (folder / f"{51:032x}.delta").write_bytes(b"EDGD and then nothing")
    (folder / f"{52:032x}.delta").write_bytes(payload(53, {1}))
    (folder / f"{54:032x}.delta").write_bytes(split(payload(54, {1}))[0])
    other = BlockSpec("popularity", "item_counts", 5, 4.0, 0.0625)
    odd = type(delta(55, {}))(f"{55:032x}", 1, {"popularity": np.zeros(5, np.float32)})
    (folder / f"{55:032x}.delta").write_bytes(encode(odd, [other]))
    (folder / f"{56:032x}.delta").write_bytes(b"x" * 10**6)
    (folder / "readme.txt").write_text("not looked at")
    report = run_round(desk(bundle, tmp_path), tmp_path / "v2.edgerec")
    assert report["devices"] == 6
    assert sum(report["refused"].values()) == 6
    assert report["refused"]["of another bundle version"] == 1
    assert report["refused"]["a share of a delta"] == 1
    assert report["refused"]["a file that is named for another delta"] == 1


def test_too_few_devices_take_nothing(bundle: Path, tmp_path: Path) -> None:
    write_deltas(tmp_path / "deltas", range(4))
    with pytest.raises(DeltaError, match="4 deltas wait, at least 5"):
        run_round(desk(bundle, tmp_path), tmp_path / "v2.edgerec")
    assert not (tmp_path / "v2.edgerec").exists()
    with Journal(tmp_path / "state" / JOURNAL) as journal:
        assert journal.counted() == set()


def test_a_bundle_without_blocks_has_no_rounds(tmp_path: Path) -> None:
    from bundles import tiny_bundle

    write_deltas(tmp_path / "deltas", range(9))
    with pytest.raises(ConfigError, match="no federated blocks"):
        run_round(desk(tiny_bundle(tmp_path / "plain.edgerec"), tmp_path), tmp_path / "v2.edgerec")


def test_fedadam_goes_on_from_the_round_before(bundle: Path, tmp_path: Path) -> None:
    rule = RoundSettings(least_cohort=5, server="fedadam")
    folder = write_deltas(tmp_path / "deltas", range(10))
    second, third = tmp_path / "v2.edgerec", tmp_path / "v3.edgerec"
    run_round(desk(bundle, tmp_path, rule), second)
    write_deltas(folder, range(10, 20), version=2)
    run_round(desk(second, tmp_path, rule), third)
    from edgerec_exporters.federation import results

    files = sorted((tmp_path / "state" / "results").glob("*.npz"))
    first, after = (results.load(file) for file in files)
    assert first is not None
    assert after is not None
    assert first.server is not None
    assert after.server is not None
    # item 7 is in every delta: m = (1 − β₁)(1 + β₁) after two rounds
    assert first.server.first[7] == pytest.approx(0.1)
    assert after.server.first[7] == pytest.approx(0.19)


# crashes

CRASH = """
import os, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from edgerec_exporters.federation import rounds, results, popularity
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings
from edgerec_exporters.federation.sources import Folder

module, name = {"aggregate": (rounds, "aggregate"), "save": (results, "save"), "counts": (popularity, "save"),
                "candidate": (rounds, "candidate"), "end": (rounds.Journal, "end")}[sys.argv[2]]
setattr(module, name, lambda *a, **k: os._exit(9))
root = Path(sys.argv[3])
settings = RoundSettings(least_cohort=5, privacy=PrivacySettings("central", most_rounds=10))
rounds.run_round(rounds.Desk(root / "v1.edgerec", Folder(root / "deltas"), root / "state", settings,
    lambda: 1_767_830_400.0, stories=lambda folder: []), root / "v2.edgerec")
"""


@pytest.mark.parametrize("where", ["aggregate", "save", "counts", "candidate", "end"])
def test_a_round_that_was_killed_is_ended_and_counts_each_delta_once(bundle: Path, tmp_path: Path, where: str) -> None:
    folder = write_deltas(tmp_path / "deltas", range(12))
    killed = subprocess.run([sys.executable, "-c", CRASH, "tests", where, str(tmp_path)], check=False)
    assert killed.returncode == 9
    write_deltas(folder, range(12, 30))  # what comes in meanwhile waits for the next round
    rule = RoundSettings(least_cohort=5, privacy=PrivacySettings("central", most_rounds=10))
    report = run_round(desk(bundle, tmp_path, rule, day=99.0, noise=silent), tmp_path / "v2.edgerec")
    assert (report["repeated"], report["devices"], report["privacy"]["rounds"]) == (True, 12, 1.0)
    if where in ("aggregate", "save"):  # nothing was on the disk, and the second time there is no noise
        check_counts(tmp_path / "v2.edgerec", bundle, tmp_path, range(12), left=0.5)
    report = run_round(desk(bundle, tmp_path, rule, day=99.0, noise=silent), tmp_path / "again.edgerec")
    assert (report["repeated"], report["devices"], report["candidate"]) == (False, 18, 3)


def test_numbers_that_are_on_the_disk_are_never_drawn_again(bundle: Path, tmp_path: Path) -> None:
    """Two draws of noise for one round would cost twice what was paid."""
    write_deltas(tmp_path / "deltas", range(12))
    rule = RoundSettings(least_cohort=5, privacy=PrivacySettings("central", most_rounds=10))
    run_round(desk(bundle, tmp_path, rule), tmp_path / "v2.edgerec")
    with Journal(tmp_path / "state" / JOURNAL) as journal:
        (one,) = journal.rounds()
        journal.end(one.id, BEGUN)
    shutil.rmtree(tmp_path / "deltas")
    (tmp_path / "deltas").mkdir()
    run_round(desk(bundle, tmp_path, rule), tmp_path / "again.edgerec")
    assert (tmp_path / "again.edgerec").read_bytes() == (tmp_path / "v2.edgerec").read_bytes()


def test_a_begun_round_is_for_its_own_bundle_and_noise(bundle: Path, tmp_path: Path) -> None:
    write_deltas(tmp_path / "deltas", range(12))
    second = tmp_path / "v2.edgerec"
    run_round(desk(bundle, tmp_path), second)
    with Journal(tmp_path / "state" / JOURNAL) as journal:
        (one,) = journal.rounds()
        journal.end(one.id, BEGUN)
    with pytest.raises(JournalError, match="give it up with --abandon"):
        run_round(desk(second, tmp_path), tmp_path / "v3.edgerec")
    noisy = RoundSettings(least_cohort=5, privacy=PrivacySettings("central"))
    with pytest.raises(JournalError, match="other noise"):
        run_round(desk(bundle, tmp_path, noisy), tmp_path / "v3.edgerec")
    assert abandon(tmp_path / "state") == one.id
    assert abandon(tmp_path / "state") is None
    with pytest.raises(DeltaError, match="12 counted before"):
        run_round(desk(second, tmp_path), tmp_path / "v3.edgerec")


# the budget


def test_a_round_beyond_the_budget_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Of files nobody knows who sent them: every round may cost everyone."""
    rule = RoundSettings(least_cohort=5, privacy=PrivacySettings("central", most_rounds=2))
    for turn in range(3):
        write_deltas(tmp_path / "deltas", range(turn * 10, turn * 10 + 10))
        out = tmp_path / f"out{turn}.edgerec"
        if turn == 2:
            with pytest.raises(BudgetSpent, match="cost everyone more than ε = 8"):
                run_round(desk(bundle, tmp_path, rule), out)
            assert not out.exists()
            continue
        report = run_round(desk(bundle, tmp_path, rule), out)
        assert report["sigma"].keys() == {"popularity", "metrics"}
        assert report["privacy"]["rounds"] == turn + 1
    assert report["privacy"]["left"] == pytest.approx(0, abs=1e-3)


# gateways

sqlalchemy = pytest.importorskip("sqlalchemy")


def gateway(path: Path, bundle: Path, **policy: Any) -> Any:
    from edgerec_exporters.gateway.policy import Policy
    from edgerec_exporters.gateway.store import GatewayStore

    store = GatewayStore(path)
    store.configure(Policy(minimum_cohort=1, **policy))
    with load_bundle(bundle, path.parent / "opened") as opened:
        store.open_bundles([opened.manifest])
    return store


def take_in(
    store: Any,
    numbers: range,
    kind: int = 0,
    bodies: dict[int, bytes] | None = None,
    senders: Iterable[int] | None = None,
) -> None:
    """As the gateway takes deltas in, one of each device unless `senders` says otherwise."""
    from sqlalchemy import insert, select

    from edgerec_exporters.gateway.schema import WAITING, deltas, devices

    for number, sender in zip(numbers, senders or numbers, strict=True):
        body = bodies[number] if bodies else payload(number, {7, number % N_ITEMS})
        key = sender.to_bytes(32, "big")
        with store.writing() as connection:
            device = connection.execute(select(devices.c.id).where(devices.c.public_key == key)).scalar()
            if device is None:
                enrolled = insert(devices).values(public_key=key, enrolled_day=1, blocked=False)
                device = connection.execute(enrolled).inserted_primary_key[0]
            row = {"id": f"{number:032x}", "digest": key, "device": device, "bundle_version": 1, "kind": kind}
            connection.execute(insert(deltas).values(**row, arrived=1, state=WAITING, payload=body))


def test_a_store_gives_the_round_that_files_give(bundle: Path, tmp_path: Path) -> None:
    from edgerec_exporters.federation.sources import Store

    write_deltas(tmp_path / "deltas", range(20))
    run_round(desk(bundle, tmp_path), tmp_path / "files.edgerec")
    with gateway(tmp_path / "gateway.db", bundle) as store:
        take_in(store, range(20))
        one = Desk(bundle, Store(store), tmp_path / "other", FEW, lambda: NOW + 7 * DAY, stories=lambda folder: [])
        report = run_round(one, tmp_path / "store.edgerec")
        assert report["devices"] == 20
        assert report["bytes"]["largest"] == len(payload(0, {7}))
        assert store.status()["waiting"] == 0
        with pytest.raises(DeltaError, match="0 deltas wait"):
            run_round(one, tmp_path / "again.edgerec")
    assert (tmp_path / "store.edgerec").read_bytes() == (tmp_path / "files.edgerec").read_bytes()


def test_a_stores_keys_pay_each_for_their_own_rounds(bundle: Path, tmp_path: Path) -> None:
    from edgerec_exporters.federation.sources import Store

    rule = RoundSettings(least_cohort=5, privacy=PrivacySettings("central", most_rounds=1))
    with gateway(tmp_path / "gateway.db", bundle) as store:
        for turn in range(3):  # other devices each time
            take_in(store, range(turn * 10, turn * 10 + 10))
            report = run_round(desk(bundle, tmp_path, rule, source=Store(store)), tmp_path / f"{turn}.edgerec")
            assert report["privacy"]["rounds"] == 1
        take_in(store, range(40, 48), senders=range(8))  # new deltas of keys that took part
        take_in(store, range(50, 53))
        with pytest.raises(BudgetSpent, match="8 of 11 deltas"):
            run_round(desk(bundle, tmp_path, rule, source=Store(store)), tmp_path / "spent.edgerec")
        take_in(store, range(53, 56))
        report = run_round(desk(bundle, tmp_path, rule, source=Store(store)), tmp_path / "rest.edgerec")
        assert (report["devices"], report["refused"]) == (6, {"without budget": 8})


def test_two_stores_of_shares_give_the_round_that_files_give(bundle: Path, tmp_path: Path) -> None:
    from edgerec_exporters.federation.sources import Split

    write_deltas(tmp_path / "deltas", range(20))
    run_round(desk(bundle, tmp_path), tmp_path / "files.edgerec")
    halves = {number: split(payload(number, {7, number % N_ITEMS})) for number in range(21)}
    rule = RoundSettings(mode="split", least_cohort=5)
    with (
        gateway(tmp_path / "one.db", bundle, mode="split") as one,
        gateway(tmp_path / "two.db", bundle, mode="split") as two,
    ):
        take_in(one, range(21), 1, {number: half[0] for number, half in halves.items()})
        take_in(two, range(20), 2, {number: half[1] for number, half in halves.items()})
        twice = split(payload(99, {1}))
        for store, kind in ((one, 1), (two, 2)):  # a second delta of device 3
            take_in(store, range(99, 100), kind, {99: twice[kind - 1]}, senders=[3])
        made = Desk(bundle, Split(one, two), tmp_path / "other", rule, lambda: NOW + 7 * DAY, stories=lambda folder: [])
        report = run_round(made, tmp_path / "split.edgerec")
        assert (report["devices"], report["refused"]) == (
            20,
            {"with one share only": 1, "of a key that has another in the round": 1},
        )
        private = RoundSettings(mode="split", least_cohort=5, privacy=PrivacySettings("central"))
        take_in(one, range(30, 40), 1, {n: split(payload(n, {1}), bytes(32))[0] for n in range(30, 40)})
        take_in(two, range(30, 40), 2, {n: split(payload(n, {1}), bytes(32))[1] for n in range(30, 40)})
        quiet = Desk(bundle, Split(one, two), tmp_path / "quiet", private, lambda: NOW)
        with pytest.raises(ConfigError, match="a gateway adds noise of 0 bounds, this budget needs"):
            run_round(quiet, tmp_path / "quiet.edgerec")
    assert (tmp_path / "split.edgerec").read_bytes() == (tmp_path / "files.edgerec").read_bytes()


# the commands


def test_the_commands_tell_what_happened(bundle: Path, tmp_path: Path) -> None:
    deltas, state, out = write_deltas(tmp_path / "deltas", range(9)), tmp_path / "state", tmp_path / "v2.edgerec"
    config = tmp_path / "round.toml"
    config.write_text("[round]\nleast_cohort = 5\n[round.privacy]\nkind = 'central'\n")
    given = ("--bundle", bundle, "--deltas", deltas, "--state", state, "--out", out, "--config", config)
    done = run("run", *given, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["devices"] == 9
    assert 0 < report["privacy"]["epsilon"] < 8
    listed = json.loads(run("status", "--state", state, "--config", config, "--json").stdout)
    assert [(one["bundle"], one["candidate"], one["status"]) for one in listed["rounds"]] == [(1, 2, "done")]
    assert listed["privacy"]["rounds"] == 1
    told = run("status", "--state", state, "--config", config)
    assert "9 devices, version 1 → 2, done" in told.stdout
    assert "1 rounds" in told.stdout
    again = run("run", *given)
    assert again.exit_code == DeltaError.exit_code
    assert "0 deltas wait" in again.output
    assert "Traceback" not in again.output
    write_deltas(deltas, range(20, 29))
    assert "9 devices by mean" in run("run", *given).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "where are the deltas?"),
        (("--deltas", "x", "--store", "y"), "where are the deltas?"),
        (("--store", "x", "--store", "y"), "takes 1 --store, 2 were named"),
        (("--deltas", "/no/such/folder"), "there is no folder"),
    ],
)
def test_unclear_commands_are_explained(bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("run", "--bundle", bundle, "--state", tmp_path / "state", "--out", tmp_path / "o.edgerec", *arguments)
    assert done.exit_code not in (0, 1)
    assert message in done.output


def test_release_and_rollback(bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    home = make_channel(tmp_path / "channel", keys)
    publishing.publish(home, bundle, ring(keys))
    write_deltas(tmp_path / "deltas", range(9))
    out, state = tmp_path / "v2.edgerec", tmp_path / "state"
    run_round(desk(bundle, tmp_path), out)
    (tmp_path / "worse.json").write_text(json.dumps([-0.1] * 40))
    (tmp_path / "better.json").write_text(json.dumps([0.1] * 40))
    common = ("--channel", home, "--keys", keys, "--state", state)
    dropped = run("release", out, "--current", bundle, "--differences", tmp_path / "worse.json", *common)
    assert "dropped: worse than what runs" in dropped.output, dropped.output
    done = run("release", out, "--current", bundle, "--differences", tmp_path / "better.json", *common, "--json")
    assert json.loads(done.stdout)["publish"] is True
    back = json.loads(run("rollback", *common, "--json").stdout)
    assert back == {"withdrawn": 2, "back_to": 1, "version": 3}
    told = run("status", "--state", state)
    assert "version 1 → 2, withdrawn" in told.stdout


def test_the_page_shows_the_defaults() -> None:
    page = (Path(__file__).parent.parent / "docs/rounds.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    adam = {"rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}
    assert load_settings(tomllib.loads(block)) == RoundSettings(server_constants=adam)


def test_status_before_any_round_is_an_error(tmp_path: Path) -> None:
    done = run("status", "--state", tmp_path / "nothing")
    assert done.exit_code == JournalError.exit_code
    assert "no round was ever run" in done.output
