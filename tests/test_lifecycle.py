"""Bundles on the device: chosen at open, installed after a trial, rolled back for good."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from bundles import bundle_files, manifest_of, npy, tiny_bundle, write_zip
from conftest import DAY, START, Opener, same_state

import edgerec
from edgerec import errors
from edgerec.golden import story
from edgerec.hookspecs import hookimpl
from edgerec.types import BundleReview
from edgerec_plugins import sgd


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Version 2: other vectors, another dimension, ten more items."""
    return tiny_bundle(tmp_path / "second.edgerec", 70, 12, seed=1, version=2)


def learned_like_a_replay(rec: edgerec.Recommender) -> bool:
    snapshot = rec._device.snapshot()
    return same_state(snapshot.learned, snapshot.engine.replay(rec._device.events(), obey=True).learned)


def test_an_installed_bundle_relearns_and_outlives_the_process(opener: Opener, second: Path) -> None:
    rec = opener()
    rec.record_many([edgerec.Event(f"i{n}", "purchase", event_id=f"e{n}", at=START + n) for n in range(6)])
    assert rec.record("i65", "purchase", event_id="new").status == "unknown_item"
    done = rec.install(second)
    assert (done.bundle.version, done.relearned) == (2, 7)
    assert rec.stats()["learning"]["steps"] == 7
    assert learned_like_a_replay(rec)
    assert "i65" not in [r.item for r in rec.recommend(70)], "the unknown item was learned from"
    page = [(r.item, r.score) for r in rec.recommend(10)]
    rec.close()
    again = opener()
    assert again.bundle.version == 2
    assert "installed" in again.bundle.reason
    assert [(r.item, r.score) for r in again.recommend(10)] == page


def test_another_process_follows_an_install(opener: Opener, second: Path) -> None:
    one, other = opener(), opener()
    one.install(second)
    one.record("i65", "purchase")
    assert len(other.recommend(70)) == 69
    assert other.stats()["learning"]["steps"] == 1


def test_rollback_goes_back_and_remembers(opener: Opener, second: Path) -> None:
    rec = opener()
    with pytest.raises(errors.BundleRefused):
        rec.rollback()
    rec.record("i3", "purchase")
    before = [(r.item, r.score) for r in rec.recommend(10)]
    rec.install(second)
    assert rec.rollback().version == 1
    assert [(r.item, r.score) for r in rec.recommend(10)] == before
    with pytest.raises(errors.BundleRefused, match="rolled back"):
        rec.install(second)
    rec.close()
    again = opener()
    assert again.bundle.version == 1
    again.install(second, force=True)
    assert again.bundle.version == 2


def test_an_install_that_another_process_overtook_is_refused(opener: Opener, second: Path, tmp_path: Path) -> None:
    third = tiny_bundle(tmp_path / "third.edgerec", version=3)

    class Slow:
        """Reviews a bundle for so long that a newer one is installed meanwhile."""

        @hookimpl
        def edgerec_review_bundle(self, review: BundleReview) -> None:
            if review.candidate.version == 2:
                other.install(third)

    other, rec = opener(), opener(plugins=[sgd, Slow()], config={"plugins": {"budget_ms": 20_000}})
    rec.record("i3", "purchase")
    with pytest.raises(errors.BundleRefused, match="meanwhile"):
        rec.install(second)
    rec.record("i4", "purchase")
    assert (rec.bundle.version, other.bundle.version) == (3, 3)
    assert learned_like_a_replay(rec)


def test_a_newer_factory_bundle_takes_over(opener: Opener, second: Path) -> None:
    rec = opener()
    rec.record("i3", "purchase")
    rec.close()
    again = opener(second)
    assert again.bundle.version == 2
    assert again.stats()["learning"]["steps"] == 1
    assert learned_like_a_replay(again)


def test_an_older_or_equal_version_is_refused(opener: Opener, second: Path, bundle_path: Path, tmp_path: Path) -> None:
    rec = opener(second)
    with pytest.raises(errors.BundleRefused, match="not newer"):
        rec.install(bundle_path)
    with pytest.raises(errors.BundleRefused, match="running already"):
        rec.install(second)
    assert rec.install(bundle_path, force=True).bundle.version == 1


def test_a_damaged_bundle_changes_nothing(opener: Opener, second: Path, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i3", "purchase")
    before = [(r.item, r.score) for r in rec.recommend(10)]
    damaged = tmp_path / "damaged.edgerec"
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(bytes(data))
    with pytest.raises(errors.BundleInvalid):
        rec.install(damaged)
    assert [(r.item, r.score) for r in rec.recommend(10)] == before
    assert rec.bundle.version == 1


def useless_bundle(path: Path) -> Path:
    """Version 2 whose scores are the first one's, turned round."""
    files = bundle_files(60, 8)
    popularity = np.load(io.BytesIO(files["items/popularity.npy"]))
    files["items/popularity.npy"] = npy(np.ascontiguousarray(popularity[::-1]))
    scenarios = {"default": {"seen": "hide", "weights": {"popular": 1.0}}}
    return write_zip(path, files, manifest_of(files, 60, 8, version=2, scenarios=scenarios, updater="none"))


def test_a_bundle_that_does_worse_is_refused(opener: Opener, tmp_path: Path) -> None:
    scenarios = {"default": {"seen": "show", "weights": {"popular": 1.0}}}
    first = tiny_bundle(tmp_path / "first.edgerec", scenarios=scenarios, updater="none")
    rec = opener(first, tmp_path / "s")
    for n in range(40):
        rec.record(f"i{n % 5}", "click", at=START + n * DAY)
    worse = useless_bundle(tmp_path / "worse.edgerec")
    with pytest.raises(errors.BundleRefused, match="worse"):
        rec.install(worse)
    assert rec.bundle.version == 1
    done = rec.install(worse, force=True)
    assert done.trial.refuses
    assert done.trial.n == 40


def test_with_few_events_a_worse_bundle_is_accepted(opener: Opener, tmp_path: Path) -> None:
    scenarios = {"default": {"seen": "show", "weights": {"popular": 1.0}}}
    first = tiny_bundle(tmp_path / "first.edgerec", scenarios=scenarios, updater="none")
    rec = opener(first, tmp_path / "s")
    for n in range(10):
        rec.record(f"i{n % 5}", "click", at=START + n * DAY)
    assert rec.install(useless_bundle(tmp_path / "worse.edgerec")).trial.n == 10


def with_stories(path: Path, folder: Path, *, change: float = 0.0, version: int = 2) -> Path:
    """A bundle with a golden story told by this host, its scores off by `change`."""
    folder.mkdir()
    plain = tiny_bundle(folder / "plain.edgerec", version=version)
    with edgerec.open(plain, folder / "teller", plugins=["edgerec_plugins.sgd"]) as rec:
        events = [
            {"item": f"i{n}", "kind": "purchase", "at": START + n * DAY, "group": None, "event_id": f"e{n}"}
            for n in range(4)
        ]
        told = story(rec._device.snapshot().engine, events)
    told["rankings"]["default"]["scores"][0] += change
    files = {**bundle_files(60, 8), "golden.json": json.dumps({"encoder": [], "stories": [told]}).encode()}
    return write_zip(path, files, manifest_of(files, 60, 8, version=version))


def test_golden_stories_are_repeated_before_an_install(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.install(with_stories(tmp_path / "good.edgerec", tmp_path / "g"))
    with pytest.raises(errors.GoldenMismatch, match="story 0"):
        rec.install(with_stories(tmp_path / "bad.edgerec", tmp_path / "b", change=0.01, version=3))
    assert rec.bundle.version == 2


def test_golden_stories_hold_whatever_the_app_configured(opener: Opener, tmp_path: Path) -> None:
    rec = opener(config={"blend": {"weights": {"popular": 1}}, "learning": {"updater": "foldin"}})
    assert rec.install(with_stories(tmp_path / "good.edgerec", tmp_path / "g")).bundle.version == 2


def test_an_unknown_item_within_a_basket_does_not_split_it(rec: edgerec.Recommender, second: Path) -> None:
    rec.record("i5", "click")
    basket = [edgerec.Event(item, "click", group="g", at=START) for item in ("i1", "i65", "i3")]
    events = [dataclasses.replace(event, event_id=f"e{n}") for n, event in enumerate(basket)]
    assert [receipt.status for receipt in rec.record_many(events)] == ["stored", "unknown_item", "stored"]
    assert rec._device.snapshot().learned.steps == 2
    assert learned_like_a_replay(rec)
    rec.install(second)
    assert rec._device.snapshot().learned.steps == 2, "the new bundle knows it, and it was in the same basket"
    assert rec._device.snapshot().history.rows.tolist().count(65) == 1
    assert learned_like_a_replay(rec)


def test_events_of_a_kind_that_a_bundle_does_not_know_wait_for_one_that_does(opener: Opener, tmp_path: Path) -> None:
    kinds = {"click": {"weight": 1.0}, "purchase": {"weight": 2.0, "consumes": True}}
    rec = opener()
    rec.record("i3", "click")
    rec.record("i4", "purchase")
    fewer = {"event_kinds": {"purchase": kinds["purchase"]}, "history": {"length": 8, "kinds": ["purchase"]}}
    rec.install(tiny_bundle(tmp_path / "fewer.edgerec", version=2, **fewer))
    assert [row.verdict for row in rec._device.events()] == ["unknown item", "learned"]
    rec.close()
    again = opener()
    assert again._device.snapshot().history.rows.tolist() == [4]
    again.install(tiny_bundle(tmp_path / "more.edgerec", version=3, event_kinds=kinds))
    assert [row.verdict for row in again._device.events()] == ["learned", "learned"]
