"""From a result to a bundle: rewritten, told anew, judged, published or dropped, and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from channels import make_channel, ring
from round_parts import BLOCKS, FEDERATED, N_ITEMS, federated_bundle

import edgerec
from edgerec.bundle import load_bundle
from edgerec.bundle.golden_check import parse_golden
from edgerec.errors import BundleInvalid, ChannelError, DataError, ExportError
from edgerec.lifecycle import check_host
from edgerec.plugins import Plugins
from edgerec.types import Float64
from edgerec_exporters.channel import publishing
from edgerec_exporters.federation import popularity
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.growth import Growth
from edgerec_exporters.federation.journal import DONE, DROPPED, PUBLISHED, WITHDRAWN, Journal
from edgerec_exporters.federation.popularity import Counts, after_round, counts_of, shrunk
from edgerec_exporters.federation.release import Decision, decide, differences_in, in_the_field, release, rollback
from edgerec_exporters.federation.rewriting import candidate, rewritten
from edgerec_exporters.federation.rounds import JOURNAL
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings
from edgerec_exporters.int8 import build_retriever

NEW = np.linspace(0, 3, N_ITEMS, dtype=np.float32)
WEIGHTS = FEDERATED["weights"]
DAY = 86_400.0


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return federated_bundle(tmp_path / "old")


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    return federated_bundle(tmp_path / "old.edgerec")


def told(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return read


# rewriting


def test_only_what_a_round_changes_is_changed(old: Path, tmp_path: Path) -> None:
    new = rewritten(old, NEW, WEIGHTS, 2, tmp_path / "new")
    before, after = told(old), told(new)
    assert after["version"] == 2
    assert after["scenarios"]["default"] == {"seen": "hide", "weights": WEIGHTS["default"]}
    assert after["scenarios"]["reorder"] == before["scenarios"]["reorder"]
    np.testing.assert_array_equal(np.load(new / "items/popularity.npy"), NEW)
    for name in before["files"].keys() - {"items/popularity.npy", "golden.json"}:
        assert (new / name).read_bytes() == (old / name).read_bytes()
        assert after["files"][name] == before["files"][name]
    for key in before.keys() - {"version", "scenarios", "files"}:
        assert after[key] == before[key]
    with load_bundle(new, tmp_path / "cache") as bundle:
        np.testing.assert_array_equal(bundle.model.popularity, NEW)


def test_the_int8_scan_follows_the_popularity(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "plain", N_ITEMS)
    arrays = [np.load(plain / f"items/{name}.npy") for name in ("vectors", "bias", "popularity")]
    scan = build_retriever(*arrays, 20)
    (plain / "retrieve.onnx").write_bytes(scan)
    from edgerec.bundle.manifest import parse
    from edgerec.records import changed
    from edgerec_exporters.bundle_files import write_files

    manifest = parse((plain / "manifest.json").read_bytes())
    write_files(plain, {"retrieve.onnx": scan}, changed(manifest, retrieval={"kind": "int8", "candidates": 20}))
    new = rewritten(plain, NEW, {}, 2, tmp_path / "new")
    assert (new / "retrieve.onnx").read_bytes() == build_retriever(arrays[0], arrays[1], NEW, 20)
    load_bundle(new, tmp_path / "cache").close()


def test_a_candidate_is_what_a_device_takes(zipped: Path, tmp_path: Path) -> None:
    """Its stories are told anew: a device that installs it repeats them, and would refuse those of the old one."""
    out = candidate(zipped, NEW, WEIGHTS, 2, tmp_path / "new.edgerec", created="2026-02-03T04:05:06Z")
    with load_bundle(out, tmp_path / "cache") as bundle:
        assert (bundle.manifest.version, bundle.manifest.created) == (2, "2026-02-03T04:05:06Z")
        golden = parse_golden((bundle.path / "golden.json").read_bytes())
        assert len(golden["encoder"]) == 4
        assert len(golden["stories"]) == 4
        check_host(bundle, Plugins())
    with edgerec.open(zipped, tmp_path / "state") as rec:
        rec.install(out)
        assert rec.bundle.version == 2
    again = candidate(zipped, NEW, WEIGHTS, 2, tmp_path / "again.edgerec", created="2026-02-03T04:05:06Z")
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("bad", [NEW[1:], NEW * np.float32(np.nan)])
def test_what_does_not_fit_is_refused_and_nothing_is_written(zipped: Path, tmp_path: Path, bad: Any) -> None:
    out = tmp_path / "new.edgerec"
    out.write_bytes(b"before")
    with pytest.raises(ExportError, match="popularity"):
        candidate(zipped, bad, {}, 2, out)
    with pytest.raises(ExportError, match="no scenario 'party'"):
        candidate(zipped, NEW, {"party": {"taste": 1.0}}, 2, out)
    assert out.read_bytes() == b"before"


# counts


def result(taken: Float64, sigma: float = 0.0, devices: int = 10) -> Aggregate:
    return Aggregate({"popularity": taken / devices}, devices, "mean", sigma={"popularity": sigma})


def test_counts_fade_by_half_in_a_half_life_and_gain_the_sum() -> None:
    old = Counts(np.array([8.0, 0.0, 3.0]), 0.0)
    taken = np.array([1.0, 2.0, -50.0])
    new = after_round(RoundSettings(), BLOCKS[0], old, result(taken), 14 * DAY)
    assert new.values == pytest.approx([3.0, 2.0, 0.0])
    assert new.at == 14 * DAY
    np.testing.assert_allclose(new.popularity(), np.log1p([3.0, 2.0, 0.0]), rtol=1e-6)
    back = after_round(RoundSettings(), BLOCKS[0], new, result(taken), 0.0)
    assert back.values == pytest.approx([4.0, 4.0, 0.0])
    assert back.at == 14 * DAY


def test_a_bundle_without_counts_gives_those_that_its_popularity_stands_for() -> None:
    counts = counts_of(NEW, 5.0)
    np.testing.assert_allclose(counts.popularity(), NEW, rtol=1e-6)


def test_noise_is_drawn_towards_nothing() -> None:
    assert shrunk(np.array([5.0, -5.0, 1.0]), 2.0, 1.5).tolist() == [2.0, -2.0, 0.0]
    old = Counts(np.zeros(3), 0.0)
    new = after_round(RoundSettings(shrink=1.5), BLOCKS[0], old, result(np.array([5.0, -5.0, 1.0]), 2.0), 0.0)
    assert new.values == pytest.approx([2.0, 0.0, 0.0])


def test_growth_is_limited_where_asked() -> None:
    old = Counts(np.array([50.0, 50.0, 0.0]), 0.0)
    rule = RoundSettings(growth=Growth(floor=0.1, most=1.0))
    new = after_round(rule, BLOCKS[0], old, result(np.array([4.0, 4.0, 9.0])), 0.0)
    assert new.values[2] == pytest.approx(1.0)  # a tenth of ten devices


def test_counts_in_a_file(tmp_path: Path) -> None:
    counts, file = Counts(np.array([1.5, 0.0, 2.0]), 7.25), tmp_path / "counts.npz"
    assert popularity.load(file, 3) is None
    popularity.save(file, counts)
    read = popularity.load(file, 3)
    assert read is not None
    assert (read.values.tolist(), read.at) == (counts.values.tolist(), 7.25)
    with pytest.raises(DataError, match="does not hold 4 counts"):
        popularity.load(file, 4)
    file.write_bytes(b"nothing of it")
    with pytest.raises(DataError, match="remove it"):
        popularity.load(file, 3)


# deciding


def evaluated(values: Any) -> Any:
    return lambda new, current: np.asarray(values, np.float64)


@pytest.mark.parametrize(
    ("values", "most_loss", "publish", "reason"),
    [
        (np.full(100, 0.01), 0.0, True, r"\+0.0100 on average"),
        (np.full(100, -0.01), 0.0, False, "worse than what runs"),
        (np.full(100, -0.01), 1.0, False, "worse than what runs"),
        (np.tile([-1.1, 1.0], 50), 0.0, False, "at most -0.0000 may be lost"),
        (np.tile([-1.1, 1.0], 50), 0.1, True, "on average"),
        (np.full(29, 0.01), 0.0, False, "29 held-out devices, at least 30"),
    ],
)
def test_a_candidate_is_dropped_for_a_reason(values: Any, most_loss: float, publish: bool, reason: str) -> None:
    import re

    decision = decide(Path("new"), Path("old"), evaluated(values), most_loss=most_loss)
    assert decision.publish is publish
    assert re.search(reason, decision.reason)


@pytest.mark.parametrize("bad", [[[0.1]], [np.nan] * 50])
def test_an_evaluation_without_numbers_is_an_error(bad: Any) -> None:
    with pytest.raises(DataError, match="finite number"):
        decide(Path("new"), Path("old"), evaluated(bad))


def test_differences_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps([0.1] * 40))
    assert decide(Path("new"), Path("old"), differences_in(tmp_path / "d.json")).publish
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(DataError, match="no list of differences"):
        decide(Path("new"), Path("old"), differences_in(tmp_path / "d.json"))


def test_learning_that_does_worse_than_the_control_group_is_not_spread(tmp_path: Path) -> None:
    begun(tmp_path, 2)

    def told_in(controls: float, treated: float) -> str | None:
        field = {
            "treated": {"default": {"devices": 500.0, "personal": treated, "base": 0.2}},
            "control": {"default": {"devices": controls, "personal": 0.4, "base": 0.2}},
        }
        with Journal(tmp_path / JOURNAL) as journal:
            journal.end("1", DONE, {"field": field})
        return in_the_field(tmp_path, 2)

    assert told_in(40.0, 0.21) is None
    assert told_in(40.0, 0.19) is None
    assert "against the control group of 40" in (told_in(40.0, 0.1) or "")
    assert told_in(10.0, 0.1) is None
    assert in_the_field(tmp_path, 7) is None


# publishing, and the way back


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def home(tmp_path: Path, keys: Path, zipped: Path) -> Path:
    """A channel that offers version 1."""
    home = make_channel(tmp_path / "channel", keys)
    publishing.publish(home, zipped, ring(keys))
    return home


def offered(home: Path) -> dict[int, bool]:
    return {entry["version"]: not entry["withdrawn"] for entry in publishing.status(home)["bundles"]}


def begun(state: Path, version: int) -> None:
    state.mkdir(exist_ok=True)
    with Journal(state / JOURNAL) as journal:
        number = str(len(journal.rounds()) + 1)
        journal.begin(number, bundle=version - 1, candidate=version, at=1.0, privacy=PrivacySettings())


def test_a_candidate_is_published_or_dropped_and_the_journal_knows(
    home: Path, keys: Path, zipped: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    begun(state, 2)
    new = candidate(zipped, NEW, {}, 2, tmp_path / "v2.edgerec", stories=lambda folder: [])
    assert release(new, Decision(False, "no good", 40), home, ring(keys), state) is None
    assert offered(home) == {1: True}
    with Journal(state / JOURNAL) as journal:
        assert journal.round("1").status == DROPPED
        assert (journal.round("1").report or {})["reason"] == "no good"
    release(new, Decision(True, "good", 40), home, ring(keys), state)
    assert offered(home) == {1: True, 2: True}
    with Journal(state / JOURNAL) as journal:
        assert journal.round("1").status == PUBLISHED


def test_one_call_brings_the_fleet_back(home: Path, keys: Path, zipped: Path, tmp_path: Path) -> None:
    """Devices go only forward: the older content is offered again under a new number."""
    state = tmp_path / "state"
    begun(state, 2)
    popularity.save(state / "counts-1.npz", Counts(np.ones(N_ITEMS), 3.0))
    new = candidate(zipped, NEW, {}, 2, tmp_path / "v2.edgerec", stories=lambda folder: [])
    release(new, Decision(True, "good"), home, ring(keys), state)
    done = rollback(home, ring(keys), state=state, stories=lambda folder: [])
    assert (done.withdrawn, done.back_to, done.version) == (2, 1, 3)
    assert offered(home) == {1: True, 2: False, 3: True}
    (file,) = (home / "targets" / "bundles").glob("*-3.edgerec")
    with load_bundle(file, tmp_path / "cache") as back, load_bundle(zipped, tmp_path / "cache") as first:
        np.testing.assert_array_equal(back.model.popularity, first.model.popularity)
        assert back.manifest.scenarios == first.manifest.scenarios
    with Journal(state / JOURNAL) as journal:
        assert journal.round("1").status == WITHDRAWN
    kept = popularity.load(state / "counts-3.npz", N_ITEMS)
    assert kept is not None
    assert kept.at == 3.0


def test_a_rollback_that_was_cut_off_is_finished(home: Path, keys: Path, zipped: Path, tmp_path: Path) -> None:
    new = candidate(zipped, NEW, {}, 2, tmp_path / "v2.edgerec", stories=lambda folder: [])
    release(new, Decision(True, "good"), home, ring(keys))
    assert rollback(home, ring(keys), again=False).version is None
    assert offered(home) == {1: True, 2: False}
    done = rollback(home, ring(keys), stories=lambda folder: [])
    assert (done.withdrawn, done.back_to, done.version) == (2, 1, 3)


def test_there_must_be_something_to_go_back_to(home: Path, keys: Path) -> None:
    with pytest.raises(ChannelError, match="does not offer a version before 1"):
        rollback(home, ring(keys))
    with pytest.raises(ChannelError, match="does not offer version 7"):
        rollback(home, ring(keys), to=7)
    with pytest.raises(ChannelError, match="0 bundles"):
        rollback(home, ring(keys), name="other")
    assert offered(home) == {1: True}


def test_a_bundle_that_is_none_is_not_rewritten(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text("{}")
    with pytest.raises(BundleInvalid):
        rewritten(bad, NEW, {}, 2, tmp_path / "new")
