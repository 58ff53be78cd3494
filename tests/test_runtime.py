"""The public face: what each call promises, on a real bundle and a real store."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import DAY, START, Clock, Opener, same_state

import edgerec
from edgerec import errors

PURCHASE = "purchase"


def items(page: edgerec.Page) -> list[str]:
    return [r.item for r in page]


def test_the_public_names_are_sorted_and_exist() -> None:
    assert sorted(edgerec.__all__) == edgerec.__all__
    assert all(hasattr(edgerec, name) for name in edgerec.__all__)


# --- serving -------------------------------------------------------------------------------------------------


def test_a_new_user_gets_what_is_popular(rec: edgerec.Recommender) -> None:
    page = rec.recommend(5)
    assert items(page) == ["i0", "i1", "i2", "i3", "i4"]
    assert [r.rank for r in page] == [1, 2, 3, 4, 5]
    assert page.reason is None
    assert page.degraded == ()


def test_parts_add_up_to_the_score(rec: edgerec.Recommender) -> None:
    for n in range(6):
        rec.record(f"i{n * 7}", PURCHASE if n % 2 else "click")
    for scenario in ("default", "reorder"):
        for r in rec.recommend(60, scenario=scenario):
            assert sum(r.parts.values()) == pytest.approx(r.score, abs=1e-5)
            why = rec.explain(r.item, scenario=scenario)
            assert why.score == pytest.approx(r.score, abs=1e-5)
            assert (why.rank, why.filtered) == (r.rank, None)


def test_explanations_of_a_thousand_pairs_add_up(opener: Opener, tmp_path: Path) -> None:
    """Against pages with everything on them, in a scenario whose rules add to the score."""
    rules = {"based_on": "reorder", "boosts": [{"where": "price <= 30", "by": 0.7}]}
    rng = np.random.default_rng(0)
    pairs = 0
    for user in range(20):
        rec = opener(data_dir=tmp_path / str(user), config={"scenarios": {"boosted": rules}})
        rec.record_many(edgerec.Event(f"i{item}", PURCHASE) for item in rng.integers(0, 60, rng.integers(1, 12)))
        served = {r.item: r for r in rec.recommend(60, scenario="boosted")}
        for item in rng.choice(sorted(served), 50, replace=False):
            why = rec.explain(str(item), scenario="boosted")
            assert sum(why.parts.values()) == pytest.approx(served[item].score, abs=1e-5)
            assert (why.rank, dict(why.parts)) == (served[item].rank, pytest.approx(dict(served[item].parts), abs=1e-5))
            pairs += 1
        rec.close()
    assert pairs == 1000


def test_serving_is_deterministic(rec: edgerec.Recommender) -> None:
    rec.record("i9")
    first, second = rec.recommend(20), rec.recommend(20)
    assert [(r.item, r.score) for r in first] == [(r.item, r.score) for r in second]
    assert first.id != second.id


def test_page_ids_follow_the_seed(opener: Opener, tmp_path: Path) -> None:
    pages = [opener(data_dir=tmp_path / name, seed=5).recommend(1).id for name in "ab"]
    assert pages[0] == pages[1]


def test_bought_items_are_hidden_where_the_scenario_hides(rec: edgerec.Recommender) -> None:
    rec.record("i0", PURCHASE)
    assert "i0" not in items(rec.recommend(60))
    assert "i0" in items(rec.recommend(60, seen="show"))
    assert items(rec.recommend(1, scenario="reorder")) == ["i0"], "habit brings it back"
    assert rec.explain("i0").filtered == "seen"


def test_clicked_items_are_not_hidden(rec: edgerec.Recommender) -> None:
    rec.record("i0", "click")
    assert "i0" in items(rec.recommend(60))


def test_exclude_only_and_where(rec: edgerec.Recommender) -> None:
    assert items(rec.recommend(2, exclude={"i0", "i2", "nowhere"})) == ["i1", "i3"]
    assert set(items(rec.recommend(2, only=["i7", "i3"]))) == {"i3", "i7"}
    page = rec.recommend(60, where={"colour": "red", "price_max": 3.0})
    assert 0 < len(page) < 60
    assert {int(item[1:]) % 3 for item in items(page)} == {0}


def test_a_short_page_says_why(rec: edgerec.Recommender) -> None:
    page = rec.recommend(10, only=["i7", "i3"])
    assert len(page) == 2
    assert page.reason is not None
    assert "only" in page.reason


def test_nothing_to_serve_is_an_empty_page_with_a_reason(rec: edgerec.Recommender) -> None:
    page = rec.recommend(10, only=[])
    assert (len(page), list(page)) == (0, [])
    assert page.reason


def test_similar_leaves_the_item_out(rec: edgerec.Recommender) -> None:
    page = rec.similar("i3", 59)
    assert len(page) == 59
    assert "i3" not in items(page)
    assert set(page[0].parts) == {"taste", "neighbours"}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda rec: rec.recommend(0), errors.RequestError),
        (lambda rec: rec.recommend(-3), errors.RequestError),
        (lambda rec: rec.recommend(2.0), errors.RequestError),
        (lambda rec: rec.recommend(seen="perhaps"), errors.RequestError),
        (lambda rec: rec.recommend(exclude="i0"), errors.RequestError),
        (lambda rec: rec.recommend(scenario="nowhere"), errors.UnknownScenario),
        (lambda rec: rec.recommend(where={"weight": 3}), errors.UnknownAttribute),
        (lambda rec: rec.similar("nothing"), errors.UnknownItem),
        (lambda rec: rec.explain("nothing"), errors.UnknownItem),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_hint(
    rec: edgerec.Recommender, call: Callable[[edgerec.Recommender], object], error: type[errors.EdgeRecError]
) -> None:
    with pytest.raises(error) as caught:
        call(rec)
    assert caught.value.exit_code >= 40
    assert len(rec.recommend(3)) == 3


# --- recording -----------------------------------------------------------------------------------------------


def test_an_event_survives_and_changes_the_ranking(opener: Opener) -> None:
    rec = opener()
    before = items(rec.recommend(60))
    receipt = rec.record("i33", PURCHASE)
    assert (receipt.status, receipt.learned, receipt.flags) == ("stored", True, ())
    assert receipt.rank == before.index("i33") + 1
    after = rec.recommend(20)
    rec.close()
    again = opener().recommend(20)
    assert [(r.item, r.score) for r in again] == [(r.item, r.score) for r in after]


def test_recording_twice_is_recording_once(rec: edgerec.Recommender) -> None:
    first = rec.record("i3", event_id="e1")
    second = rec.record("i3", event_id="e1")
    assert (first.status, second.status, second.learned) == ("stored", "duplicate", False)
    assert rec.stats()["events"] == 1
    with pytest.raises(errors.EventConflict):
        rec.record("i4", event_id="e1")
    assert rec.stats()["events"] == 1


def test_a_batch_with_a_conflict_stores_nothing(rec: edgerec.Recommender) -> None:
    rec.record("i3", event_id="e1")
    with pytest.raises(errors.EventConflict):
        rec.record_many([edgerec.Event("i5"), edgerec.Event("i4", event_id="e1")])
    assert rec.stats()["events"] == 1
    receipts = rec.record_many([edgerec.Event("i5", event_id="x"), edgerec.Event("i5", event_id="x", at=None)])
    assert [r.status for r in receipts] == ["stored", "duplicate"]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"kind": "stare"}, errors.UnknownEventKind),
        ({"value": float("nan")}, errors.InvalidEvent),
        ({"value": float("inf")}, errors.InvalidEvent),
        ({"value": "many"}, errors.InvalidEvent),
        ({"at": dt.datetime(2026, 1, 1)}, errors.InvalidEvent),
        ({"at": float("nan")}, errors.InvalidEvent),
        ({"at": 1e300}, errors.InvalidEvent),
        ({"context": {"a": float("nan")}}, errors.InvalidEvent),
        ({"context": {"a": "x" * 5000}}, errors.InvalidEvent),
        ({"context": [1]}, errors.InvalidEvent),
        ({"context": {"a": json.loads("[" * 40 + "]" * 40)}}, errors.InvalidEvent),
        ({"item": ""}, errors.InvalidEvent),
        ({"item": "x" * 1000}, errors.InvalidEvent),
        ({"item": "\ud800"}, errors.InvalidEvent),
        ({"event_id": ""}, errors.InvalidEvent),
        ({"group": 5}, errors.InvalidEvent),
    ],
)
def test_a_bad_event_is_refused_and_nothing_is_lost(
    rec: edgerec.Recommender, event: dict[str, object], error: type[errors.EdgeRecError]
) -> None:
    rec.record("i1")
    with pytest.raises(error) as caught:
        rec.record(**{"item": "i2", **event})  # type: ignore[arg-type]
    assert caught.value.exit_code in (31, 32)
    assert rec.stats()["events"] == 1
    assert rec.record("i2").status == "stored"


def test_an_unknown_item_is_kept_and_flagged(rec: edgerec.Recommender) -> None:
    receipt = rec.record("later", PURCHASE)
    assert (receipt.status, receipt.learned, receipt.rank) == ("unknown_item", False, None)
    assert rec.stats()["events"] == 1
    assert len(rec.recommend(5)) == 5


def test_a_future_event_is_kept_flagged_and_does_not_age_the_rest(rec: edgerec.Recommender, clock: Clock) -> None:
    rec.record("i3", PURCHASE)
    plain = [(r.item, r.score) for r in rec.recommend(10, scenario="reorder")]
    receipt = rec.record("later", PURCHASE, at=clock() + 1000 * DAY)
    assert receipt.flags == ("future",)
    assert [(r.item, r.score) for r in rec.recommend(10, scenario="reorder")] == plain
    assert rec.record("i4", PURCHASE, at=clock() + 1000 * DAY).flags == ("future",)
    parts = {r.item: r.parts for r in rec.recommend(60, scenario="reorder")}
    assert parts["i3"]["habit"] == pytest.approx(parts["i4"]["habit"]), "both count as of their arrival"


def test_aware_datetimes_and_seconds_are_one(rec: edgerec.Recommender, clock: Clock) -> None:
    moment = dt.datetime.fromtimestamp(START - 5, dt.UTC)
    rec.record("i1", event_id="a", at=moment)
    assert rec.record("i1", event_id="a", at=START - 5).status == "duplicate"


def test_ungrouped_events_equal_one_by_one(opener: Opener, tmp_path: Path) -> None:
    events = [edgerec.Event(f"i{n * 5 % 60}", PURCHASE, event_id=f"e{n}", at=START - n * DAY) for n in range(12)]
    together, apart = opener(data_dir=tmp_path / "a"), opener(data_dir=tmp_path / "b")
    many = together.record_many(events)
    one_by_one = [apart.record_many([event])[0] for event in events]
    assert many == one_by_one
    pages = [[(r.item, r.score) for r in rec.recommend(30)] for rec in (together, apart)]
    assert pages[0] == pages[1]


def test_a_group_is_tested_before_any_of_it_is_learned(opener: Opener, tmp_path: Path) -> None:
    basket = [edgerec.Event(f"i{n}", PURCHASE, group="b", event_id=f"e{n}") for n in (40, 41, 42)]
    first, second = opener(data_dir=tmp_path / "a"), opener(data_dir=tmp_path / "b")
    before = items(first.recommend(60))
    receipts = first.record_many(basket)
    assert [r.rank for r in receipts] == [before.index(f"i{n}") + 1 for n in (40, 41, 42)]
    second.record_many(basket[::-1])
    assert [(r.item, r.score) for r in first.recommend(30)] == [(r.item, r.score) for r in second.recommend(30)]


def test_paused_learning_still_counts_as_history(rec: edgerec.Recommender) -> None:
    rec.pause_learning()
    receipt = rec.record("i7", PURCHASE)
    assert (receipt.status, receipt.learned, receipt.rank) == ("stored", False, None)
    assert rec.stats()["learning"]["steps"] == 0
    assert "i7" not in items(rec.recommend(60))
    rec.resume_learning()
    assert rec.record("i8", PURCHASE).learned


def test_an_event_trains_the_scenario_of_its_page(rec: edgerec.Recommender) -> None:
    page = rec.recommend(3, scenario="reorder")
    rec.record(page[0].item, recommendation_id=page.id)
    scenarios = rec.stats()["learning"]["scenarios"]
    assert scenarios["reorder"]["progressive"]["base"]["n"] == 1
    assert scenarios["default"]["progressive"]["base"]["n"] == 0


def test_exposures_are_written_with_the_next_event(rec: edgerec.Recommender) -> None:
    rec.recommend(4)
    rec.recommend(4, log_exposure=False)
    assert rec.stats()["exposures"] == 0
    rec.record("i1")
    assert rec.stats()["exposures"] == 4


def test_many_exposures_are_written_without_an_event(rec: edgerec.Recommender) -> None:
    for _ in range(7):
        rec.recommend(50)
    assert rec.stats()["exposures"] >= 256


def test_the_events_that_moved_an_item_are_named(rec: edgerec.Recommender) -> None:
    rec.record("i3", PURCHASE, at=START - 3 * DAY)
    rec.record("i50", "click", at=START - 2 * DAY)
    why = rec.explain("i3", scenario="reorder")
    assert why.events[0].item == "i3"
    assert why.events[0].effect > 0


def test_state_equals_a_replay_of_its_events(opener: Opener) -> None:
    rec = opener()
    rng = np.random.default_rng(3)
    for n in range(25):
        rec.record_many(
            [
                edgerec.Event(f"i{rng.integers(60)}", PURCHASE, at=START + n * DAY, group=f"g{n}", event_id=f"e{n}.{k}")
                for k in range(3)
            ]
        )
    rec.record("nowhere")
    rec.close()
    snapshot = opener()._device.snapshot()
    replayed = snapshot.engine.replay(opener()._device.events(), obey=True)
    assert same_state(snapshot.learned, replayed.learned)
    np.testing.assert_array_equal(snapshot.history.rows, replayed.history.rows)


def test_two_recommenders_on_one_store_see_each_other(opener: Opener) -> None:
    one, other = opener(), opener()
    one.record("i3", PURCHASE)
    assert "i3" not in items(other.recommend(60))
    other.record("i4", PURCHASE)
    one.record("i5", PURCHASE)
    assert not {"i3", "i4", "i5"} & set(items(one.recommend(60)))
    assert one.stats()["learning"]["steps"] == 3


def test_threads_lose_no_event(opener: Opener) -> None:
    rec = opener(config={"store": {"wait_s": 60}})
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(20):
                rec.record(f"i{(thread * 20 + n) % 60}", event_id=f"{thread}.{n}")
                rec.recommend(3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rec.stats()["events"] == 160
    snapshot = rec._device.snapshot()
    assert same_state(snapshot.learned, snapshot.engine.replay(rec._device.events(), obey=True).learned)


def test_a_temporary_recommender_leaves_nothing(bundle_path: Path) -> None:
    with edgerec.open(bundle_path) as rec:
        rec.record(rec.recommend(1)[0].item)
        folder = rec._temporary
        assert folder is not None
        assert folder.exists()
    assert not folder.exists()


def test_configuration_decides_the_blend(opener: Opener, tmp_path: Path) -> None:
    popular = opener(
        data_dir=tmp_path / "p", config={"blend": {"weights": {"popular": 1.0}}, "learning": {"updater": "none"}}
    )
    popular.record("i9", PURCHASE)
    assert [name for name, part in popular.recommend(1)[0].parts.items() if part] == ["popular"]
    path = tmp_path / "settings.toml"
    path.write_text('[sources]\ndisabled = ["habit"]\n[updaters.sgd]\nrate = 0.5\n')
    quiet = opener(data_dir=tmp_path / "q", config=path)
    quiet.record("i9", PURCHASE)
    assert quiet.explain("i9", scenario="reorder").parts["habit"] == 0.0


@pytest.mark.parametrize(
    "config",
    [
        {"blend": {"wieghts": {}}},
        {"blend": {"weights": {"taste": -1}}},
        {"learning": {"guard": "yes"}},
        {"store": {"wait_s": -1}},
        {"store": {"synchronous": "OFF"}},
        {"nonsense": 3},
    ],
)
def test_a_wrong_setting_is_named(opener: Opener, config: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        opener(config=config)
    assert caught.value.exit_code == 60


def test_stats_are_plain_json(rec: edgerec.Recommender) -> None:
    rec.record("i3", PURCHASE)
    stats = json.loads(json.dumps(rec.stats()))
    progressive = stats["learning"]["scenarios"]["default"]["progressive"]
    assert set(progressive) == {"base", "blend", "personal", "taste", "neighbours", "popular", "habit"}
    assert stats["plugins"]["loaded"]


def test_a_broken_encoder_degrades_the_page_but_serves(opener: Opener, tmp_path: Path) -> None:
    rec = opener(data_dir=tmp_path / "x")
    rec.record("i3", PURCHASE)

    class Broken:
        def encode(self, *_: object) -> None:
            raise errors.BundleInvalid("encoder.onnx: onnxruntime failed")

    bundle = rec._device.snapshot().engine.bundle
    bundle._encoder = Broken()  # type: ignore[assignment]
    rec.record("i4", PURCHASE)
    page = rec.recommend(5)
    assert len(page) == 5
    assert page.degraded == ("encoder",)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleNotFound) as caught:
        edgerec.open(tmp_path / "none.edgerec", tmp_path / "s")
    assert caught.value.exit_code == 21


def test_a_scenario_without_plugins_needs_no_updater(opener: Opener, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "b.edgerec", updater="none")
    rec = opener(path, tmp_path / "s", plugins=[])
    assert rec.record("i3", PURCHASE).learned
    assert rec.stats()["learning"]["updater"] is None


def test_a_user_vector_that_helps_is_served_though_the_blend_is_not_learned(opener: Opener, tmp_path: Path) -> None:
    rec = opener(config=edgerec.Config(learn_blend=False, updaters={"sgd": {"rate": 1.0}}))
    never = opener(data_dir=tmp_path / "other", config=edgerec.Config(learn_blend=False, updater="none"))
    for n in range(30):
        for one in (rec, never):
            one.record(("i37", "i41", "i52")[n % 3], "click")
    scenario = rec.stats()["learning"]["scenarios"]["default"]
    assert scenario["served"] == {"blend": False, "user_vector": True}
    assert scenario["progressive"]["personal"]["ndcg@10"] > scenario["progressive"]["base"]["ndcg@10"]
    assert [r.score for r in rec.recommend(60)] != [r.score for r in never.recommend(60)]
