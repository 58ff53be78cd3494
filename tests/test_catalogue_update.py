"""New items on the device without a new bundle: placed, served, found, kept, and given up when a bundle brings them."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bundle_files, catalogue_lines, manifest_of, npy, tiny_bundle, write_zip
from click.testing import CliRunner
from conftest import START, Opener

import edgerec
from edgerec.bundle import load_bundle, verify
from edgerec.bundle.content import ContentRule, unit
from edgerec.catalogue_update import read_items
from edgerec.cli import main
from edgerec.errors import BundleInvalid, DataError, UnknownItem

N, DIM, LOOKS = 60, 8, 12
RULE = {"modalities": ["text"], "power": 4.0, "neighbours": 5, "inherit": 0.5, "direct": 5.0, "keep": 20}


def content_files(n: int = N, dim: int = DIM) -> dict[str, bytes]:
    """A content model whose map takes a text vector to the item vector it was made from."""
    rng = np.random.default_rng(5)
    vectors = np.load(_opened(bundle_files(n, dim)["items/vectors.npy"]))
    spread = np.linalg.qr(rng.standard_normal((LOOKS, LOOKS)))[0][:dim].astype(np.float32)
    weights = np.zeros((LOOKS, dim + 2), np.float32)
    weights[:, :dim] = spread.T
    offset = np.r_[np.zeros(dim + 1), 1.0].astype(np.float32)
    return {
        "content/offset.npy": npy(offset),
        "content/text/mean.npy": npy(np.zeros(LOOKS, np.float32)),
        "content/text/basis.npy": npy(np.ascontiguousarray(spread.T)),
        "content/text/codes.npy": npy(unit(vectors)),
        "content/text/weights.npy": npy(weights),
    }


def _opened(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def looks_like(row: int) -> list[float]:
    """The text vector of an item that is another of `row`."""
    vectors = np.load(_opened(bundle_files(N, DIM)["items/vectors.npy"]))
    spread = np.load(_opened(content_files()["content/text/basis.npy"]))
    return [float(value) for value in spread @ vectors[row]]


def content_bundle(path: Path, *, extra: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """The tiny bundle with a content model, and further items where asked."""
    extra = extra or []
    n = N + len(extra)
    files = bundle_files(n, DIM)
    if not extra:
        files |= content_files()
    lines = [*catalogue_lines(N), *extra]
    files["catalogue.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    content = {} if extra else {"content": RULE}
    return write_zip(path, files, manifest_of(files, n, DIM, **content, **changes))


@pytest.fixture(scope="module")
def placing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return content_bundle(tmp_path_factory.mktemp("bundle") / "placing.edgerec")


@pytest.fixture
def rec(opener: Opener, placing: Path) -> edgerec.Recommender:
    return opener(placing)


def twin(row: int, item: str = "twin", **more: Any) -> dict[str, Any]:
    return {"item": item, "title": f"Another {row}", "content": {"text": looks_like(row)}, **more}


def ids(page: edgerec.Page) -> list[str]:
    return [found.item for found in page]


def rank(rec: edgerec.Recommender, item: str) -> int:
    return ids(rec.recommend(N + 5, seen="show")).index(item) + 1


# ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_item_is_served_beside_the_one_it_looks_like(rec: edgerec.Recommender) -> None:
    rec.record("i9", "click")
    done = rec.update_catalogue([twin(9), {"item": "plain", "title": "Plain"}])
    assert (done.added, done.changed, done.removed, done.overlay) == (2, 0, 0, 2)
    page = rec.recommend(N + 2, seen="show")
    assert len(page) == N + 2
    assert rank(rec, "twin") <= 3 < rank(rec, "plain")
    assert next(found for found in page if found.item == "twin").title == "Another 9"


def test_items_of_the_bundle_keep_their_vectors_and_their_order(rec: edgerec.Recommender) -> None:
    rec.record("i7", "click")
    before = ids(rec.recommend(N, seen="show"))
    rec.update_catalogue([{"item": "plain", "title": "Plain"}])
    assert [item for item in ids(rec.recommend(N + 1, seen="show")) if item != "plain"] == before


def test_a_new_item_is_found_by_similar_explain_and_where(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9, attributes={"price": 99.5, "colour": "mauve", "tags": ["t1", "z"], "new": True})])
    rec.record("i3", "click")
    assert ids(rec.similar("twin", 3))[0] == "i9"
    assert "twin" in ids(rec.similar("i9", 3))
    why = rec.explain("twin")
    assert math.isclose(sum(why.parts.values()), why.score, abs_tol=1e-6)
    for where in ({"price_min": 99.0}, {"colour": "mauve"}, {"tags": "z"}):
        assert ids(rec.recommend(5, where=where)) == ["twin"]
    assert "twin" in ids(rec.recommend(N + 1, where={"new": True}))
    assert ids(rec.recommend(5, only=["twin"])) == ["twin"]
    assert "twin" not in ids(rec.recommend(N + 1, exclude=["twin"]))


def test_what_the_user_does_with_a_new_item_is_learned_and_hides_it(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9), twin(20, "other")])
    receipt = rec.record("twin", "purchase")
    assert receipt.status == "stored"
    assert receipt.learned
    assert "twin" not in ids(rec.recommend(N + 2))
    assert rank(rec, "i9") < N / 2


def test_events_recorded_before_the_item_was_known_count_afterwards(rec: edgerec.Recommender) -> None:
    assert rec.record("twin", "purchase").status == "unknown_item"
    rec.update_catalogue([twin(9)])
    assert "twin" not in ids(rec.recommend(N + 1))


def test_a_ready_vector_and_popularity_are_taken_as_they_are(rec: edgerec.Recommender) -> None:
    popular = {"item": "hit", "title": "Hit", "vector": [0.0] * DIM, "popularity": 1e3}
    rec.update_catalogue([popular])
    assert ids(rec.recommend(1)) == ["hit"]


def test_a_new_user_sees_new_items_at_their_predicted_popularity(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9)])
    assert 1 < rank(rec, "twin") <= N + 1


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_title_and_attributes_of_a_known_item_change(rec: edgerec.Recommender) -> None:
    rec.record("i7", "click")
    before = ids(rec.recommend(N, seen="show"))
    done = rec.update_catalogue([{"item": "i1", "title": "Sale", "attributes": {"price": 0.01}}])
    assert (done.added, done.changed) == (0, 1)
    assert ids(rec.recommend(5, where={"price_max": 0.02})) == ["i1"]
    page = rec.recommend(N, seen="show")
    assert ids(page) == before
    assert next(found for found in page if found.item == "i1").title == "Sale"


def test_an_attribute_change_leaves_the_other_attributes(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([{"item": "i1", "attributes": {"price": 0.01, "fresh": "yes"}}])
    assert ids(rec.recommend(5, where={"price_max": 0.02, "colour": "green"})) == ["i1"]
    assert ids(rec.recommend(5, where={"fresh": "yes"})) == ["i1"]


def test_told_again_an_item_is_replaced_and_keeps_its_place_among_ties(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9), twin(20, "other")])
    done = rec.update_catalogue([{"item": "twin", "title": "New title", "content": {"text": looks_like(20)}}])
    assert (done.added, done.changed, done.overlay) == (0, 1, 2)
    assert set(ids(rec.similar("i20", 2))) == {"twin", "other"}
    assert ids(rec.recommend(2, only=["twin", "other"])) == ["twin", "other"]  # equals, in order of arrival


def test_a_removed_item_is_gone(rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9)])
    done = rec.update_catalogue([], remove=["twin"])
    assert (done.removed, done.overlay) == (1, 0)
    with pytest.raises(UnknownItem):
        rec.similar("twin")
    assert len(rec.recommend(N + 1, seen="show")) == N


def test_told_of_and_removed_at_once_an_item_is_not_there(opener: Opener, placing: Path) -> None:
    rec = opener(placing)
    assert rec.update_catalogue([twin(9), twin(20, "other")], remove=["twin"]).overlay == 1
    rec.close()
    assert len(opener(placing).recommend(N + 2, seen="show")) == N + 1


def test_events_go_on_while_items_are_placed(rec: edgerec.Recommender) -> None:
    """Placing takes no lock, so another thread's events do not wait for it, and are not lost."""
    items = [twin(row % N, f"new{row}") for row in range(300)]
    recorded: list[str] = []
    stop = threading.Event()

    def act() -> None:
        while not stop.is_set():
            recorded.append(rec.record(f"i{len(recorded) % N}", "click").event_id)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        done = rec.update_catalogue(items)
    finally:
        stop.set()
        thread.join()
    assert done.overlay == 300
    assert len(rec.recommend(N + 300, seen="show")) == N + 300
    assert rec.stats()["events"] == len(recorded) > 0


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_new_items_are_there_at_the_next_start(opener: Opener, placing: Path, rec: edgerec.Recommender) -> None:
    rec.update_catalogue([twin(9), {"item": "i1", "attributes": {"price": 0.01}}])
    rec.record("twin", "click")
    scores = [(found.item, found.score) for found in rec.recommend(N + 1, seen="show")]
    rec.close()
    again = opener(placing)
    assert [(found.item, found.score) for found in again.recommend(N + 1, seen="show")] == scores
    assert ids(again.recommend(5, where={"price_max": 0.02})) == ["i1"]


def test_places_that_are_damaged_are_worked_out_again(
    opener: Opener, placing: Path, rec: edgerec.Recommender, tmp_path: Path
) -> None:
    rec.update_catalogue([twin(9)])
    scores = [(found.item, found.score) for found in rec.recommend(N + 1, seen="show")]
    rec.close()
    with sqlite3.connect(tmp_path / "state" / "edgerec.db") as connection:
        assert connection.execute("UPDATE overlay_places SET blob = x'00'").rowcount == 1
    connection.close()
    again = [(found.item, found.score) for found in opener(placing).recommend(N + 1, seen="show")]
    assert again == scores


def test_another_process_sees_them(opener: Opener, placing: Path, rec: edgerec.Recommender) -> None:
    other = opener(placing)
    other.recommend(3)
    rec.update_catalogue([twin(9)])
    assert ids(other.recommend(3, only=["twin"])) == ["twin"]
    other.update_catalogue([twin(20, "other")])
    assert set(ids(rec.recommend(3, only=["twin", "other"]))) == {"twin", "other"}


def brought(version: int) -> dict[str, Any]:
    attributes = {"price": 5.0}
    return {"item": "twin", "row": N, "title": f"From version {version}", "attributes": attributes}


def test_an_item_that_the_next_bundle_brings_leaves_the_overlay(rec: edgerec.Recommender, tmp_path: Path) -> None:
    rec.update_catalogue([twin(9, attributes={"price": 99.0}), twin(20, "other"), {"item": "i1", "title": "Sale"}])
    rec.record("twin", "click")
    rec.install(content_bundle(tmp_path / "next.edgerec", extra=[brought(2)], version=2), force=True)
    page = rec.recommend(N + 2, seen="show")
    titles = {found.item: found.title for found in page}
    assert len(page) == N + 2  # the one that was brought, and the other
    assert titles["twin"] == "From version 2"
    assert titles["i1"] == "Item 1"
    assert not rec.recommend(5, where={"price_min": 99.0})
    assert rec.update_catalogue([]).overlay == 1


def test_a_rollback_brings_the_overlay_back(rec: edgerec.Recommender, tmp_path: Path) -> None:
    rec.update_catalogue([twin(9), {"item": "i1", "title": "Sale"}])
    before = [(found.item, found.title) for found in rec.recommend(N + 1, seen="show")]
    rec.install(content_bundle(tmp_path / "next.edgerec", extra=[brought(2)], version=2), force=True)
    rec.rollback()
    assert [(found.item, found.title) for found in rec.recommend(N + 1, seen="show")] == before


def test_a_bundle_that_cannot_place_them_still_opens(rec: edgerec.Recommender, tmp_path: Path) -> None:
    rec.update_catalogue([twin(9), {"item": "ready", "title": "Ready", "vector": [1.0] * DIM}])
    rec.install(tiny_bundle(tmp_path / "other.edgerec", dim=4, version=2), force=True)
    assert len(rec.recommend(N + 2, seen="show")) == N + 2
    assert set(ids(rec.recommend(5, only=["twin", "ready"]))) == {"twin", "ready"}


def test_a_bundle_with_another_kind_of_attribute_still_opens(rec: edgerec.Recommender, tmp_path: Path) -> None:
    rec.update_catalogue([twin(9, attributes={"size": 3.0})])
    sized = {"item": "sized", "row": N, "title": "Sized", "attributes": {"size": "large"}}
    rec.install(content_bundle(tmp_path / "next.edgerec", extra=[sized], version=2), force=True)
    assert ids(rec.recommend(5, where={"size": "large"})) == ["sized"]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"item": "new", "title": "New"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([7], "not a mapping"),
        ([{"title": "No id"}], "'item'"),
        ([{"item": "", "title": "x"}], "'item'"),
        ([{"item": "new"}], "needs a title"),
        ([{**GOOD, "colour": "red"}], "no field is called 'colour'"),
        ([{**GOOD, "attributes": {"price": "dear"}}], "'price' is a number"),
        ([{**GOOD, "attributes": {"price": math.nan}}], "JSON"),
        ([{**GOOD, "attributes": {"when": START}}, {**GOOD, "item": "b", "attributes": {"when": "now"}}], "'when'"),
        ([{**GOOD, "content": {"smell": [1.0]}}], "no content named 'smell'"),
        ([{**GOOD, "content": {"text": [1.0]}}], f"{LOOKS} finite numbers"),
        ([{**GOOD, "content": {"text": ["a"] * LOOKS}}], "list of finite numbers"),
        ([{**GOOD, "content": {"text": [math.inf] * LOOKS}}], "list of finite numbers"),
        ([{**GOOD, "content": [1.0]}], "names of modalities"),
        ([{**GOOD, "vector": [1.0] * (DIM + 1)}], f"{DIM} finite numbers"),
        ([{**GOOD, "popularity": "high"}], "popularity"),
        ([{"item": "i1", "vector": [1.0] * DIM}], "is in the bundle"),
        ([GOOD, GOOD], "twice"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_taken(rec: edgerec.Recommender, items: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        rec.update_catalogue([{"item": "sound", "title": "Sound"}, *items])
    with pytest.raises(UnknownItem):
        rec.similar("sound")
    assert rec.update_catalogue([]).overlay == 0


def test_removing_what_is_not_in_the_overlay_is_refused(rec: edgerec.Recommender) -> None:
    with pytest.raises(DataError, match="no item 'i1'"):
        rec.update_catalogue([], remove=["i1"])


def test_a_bundle_without_a_content_model_says_so(opener: Opener) -> None:
    with pytest.raises(DataError, match="knows no content") as caught:
        opener().update_catalogue([twin(9)])
    assert "--content" in str(caught.value.hint)


def _drop(name: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda files, rule: files.pop(name) and None


def _swap(name: str, array: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda files, rule: files.update({name: npy(np.asarray(array, np.float32))})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_drop("content/text/mean.npy"), "lists no content/text/mean.npy"),
        (_drop("content/offset.npy"), "lists no content/offset.npy"),
        (_swap("content/offset.npy", np.zeros(DIM)), "shape"),
        (_swap("content/text/codes.npy", np.zeros((N - 1, DIM))), "shape"),
        (_swap("content/text/weights.npy", np.full((LOOKS, DIM + 2), np.nan)), "not finite"),
        (lambda files, rule: rule.update(modalities=["../x"]), "cannot name"),
        (lambda files, rule: rule.update(modalities=[]), "modalities"),
        (lambda files, rule: rule.update(keep=-1), "keep"),
    ],
)
def test_a_bundle_whose_content_model_is_unsound_is_refused(
    spoil: Callable[[dict[str, bytes], dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    files, rule = {**bundle_files(N, DIM), **content_files()}, dict(RULE)
    spoil(files, rule)
    path = write_zip(tmp_path / "bad.edgerec", files, manifest_of(files, N, DIM, content=rule))
    with pytest.raises(BundleInvalid, match=said):
        verify(path)


def test_the_content_model_comes_back_from_the_bundle(placing: Path, tmp_path: Path) -> None:
    with load_bundle(placing, tmp_path) as bundle:
        model = bundle.content
        assert model is not None
        assert model.constants() == RULE
        assert model.rule == ContentRule.of(RULE)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_the_command_takes_lines_and_content(placing: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item": "twin", "title": "Twin", "attributes": {"price": 99.5}}\n\n')
    looks = np.array([looks_like(9), looks_like(3)], np.float32)
    np.savez(tmp_path / "looks.npz", items=np.array(["twin", "unasked"]), text=looks)
    common = ["--bundle", str(placing), "--state", str(tmp_path / "state"), "--json"]
    done = run("catalogue", "update", *common, str(items), "--content", str(tmp_path / "looks.npz"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"added": 1, "changed": 0, "removed": 0, "overlay": 1}
    found = run("similar", *common, "twin", "-n", "1")
    assert json.loads(found.stdout)["items"][0]["item"] == "i9"
    gone = run("catalogue", "update", *common, "/dev/null", "--remove", "twin")
    assert json.loads(gone.stdout)["removed"] == 1


@pytest.mark.parametrize(
    ("text", "said"), [("{", "line 1 is not JSON"), ("[1]", "no JSON object"), (None, "cannot read")]
)
def test_a_bad_file_of_items_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_items(path)


@pytest.mark.parametrize("arrays", [{"text": np.ones((1, 3))}, {"items": np.array(["a"]), "text": np.ones(3)}])
def test_a_bad_file_of_content_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    items, content = tmp_path / "items.jsonl", tmp_path / "c.npz"
    items.write_text('{"item": "a", "title": "A"}')
    np.savez(content, **arrays)
    with pytest.raises(DataError, match="npz"):
        read_items(items, content)


def test_learning_goes_on_as_before_with_an_overlay(opener: Opener, placing: Path, tmp_path: Path, clock: Any) -> None:
    """An item that nobody touches changes nothing of what is learned from others but their standardised scores."""
    plain, overlaid = opener(placing, tmp_path / "a"), opener(placing, tmp_path / "b")
    overlaid.update_catalogue([{"item": "plain", "title": "Plain"}])
    for step in range(12):
        clock.pass_days(1)
        for one in (plain, overlaid):
            receipt = one.record(f"i{step * 3}", "click", event_id=f"e{step}")
            assert receipt.learned
    left, right = (ids(one.recommend(10, exclude=["plain"])) for one in (plain, overlaid))
    assert len(set(left) & set(right)) >= 9
