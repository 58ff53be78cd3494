"""Buying again: the source `repeat`, its files in a bundle, its training, and what rounds keep fresh of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import bundle_files, manifest_of, npy, repeat_files, write_folder

import edgerec
from edgerec.bundle.repeat import HALF_LIVES, N_FEATURES, RepeatModel
from edgerec.errors import BundleInvalid
from edgerec.serving.repeat import Repeat, user_features
from edgerec.types import Model, Profile, Request
from edgerec_exporters import repeat_fit
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.federation.popularity import counts_of, load, save
from edgerec_exporters.federation.rewriting import rewritten
from edgerec_exporters.federation.rounds import counts_at
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.repeat_fit import ItemHistory, RepeatRecipe
from edgerec_exporters.train import train
from edgerec_exporters.trained import load_trained

REQUEST = Request("reorder", "show", 0.0)
N_ITEMS = 30
QUICK = RepeatRecipe(hidden=8, members=2, epochs=30, batch_size=256)


def past(rows: list[int], days: list[float], groups: list[int], consumes: list[bool] | None = None) -> Profile:
    nothing = np.empty(0, np.float32)
    used = np.array([True] * len(rows) if consumes is None else consumes, np.bool_)
    zeros = np.zeros(len(rows), np.int64)
    return Profile(
        np.array(rows, np.int32), np.array(days) * DAY, zeros, np.array(groups, np.int64), used, nothing, nothing
    )


def shop(seed: int, *, users: int = 60, weeks: int = 20) -> Interactions:
    """Every user buys one staple of the user's own in every other basket, and something random each time."""
    rng = np.random.default_rng(seed)
    user, item, at, group = [], [], [], []
    for one in range(users):
        staple = int(rng.integers(0, 10))
        for week in range(weeks):
            basket = {int(rng.integers(10, N_ITEMS))} | ({staple} if week % 2 == 0 else set())
            for row in sorted(basket):
                user.append(one)
                item.append(row)
                at.append((week * 7 + one / users) * DAY)
                group.append(one * weeks + week)
    return interactions(user, item, at, group, N_ITEMS)


def interactions(user: Any, item: Any, at: Any, group: Any, n_items: int) -> Interactions:
    names, n = [f"i{row}" for row in range(n_items)], len(user)
    return Interactions(
        user=np.array(user, np.int32),
        item=np.array(item, np.int32),
        at=np.array(at, np.float64),
        group=np.array(group, np.int64),
        kind=np.zeros(n, np.int64),
        value=np.full(n, np.nan, np.float32),
        n_users=int(max(user)) + 1,
        items=names,
        titles=names,
        attributes=[{}] * n_items,
    )


# the source


def test_nothing_is_known_of_a_user_who_consumed_nothing() -> None:
    rows, known = user_features(past([3], [0.0], [0], [False]))
    assert len(rows) == 0
    assert known.shape == (0, 21)


def test_an_event_without_consumption_changes_only_the_ages() -> None:
    rows, known = user_features(past([3, 4], [0.0, 2.0], [0, 1], [True, False]))
    assert rows.tolist() == [3]
    assert known[0, 5] == pytest.approx(np.log(3.0)), "two days before the newest event"
    assert known[0, 13] == 0.0, "one group"


def test_order_within_a_group_and_its_code_do_not_matter() -> None:
    one = user_features(past([1, 2, 2, 5], [0, 0, 3, 3], [7, 7, 9, 9]))
    other = user_features(past([2, 1, 5, 2], [0, 0, 3, 3], [4, 4, -1, -1]))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_the_network_equals_torch() -> None:
    rng = np.random.default_rng(0)
    model = RepeatModel(
        np.zeros((3, 4), np.float32),
        np.stack([np.full(N_FEATURES, -1), np.full(N_FEATURES, 1)]).astype(np.float32),
        *(rng.standard_normal(shape).astype(np.float32) for shape in ((N_FEATURES + 1, 8), (8 + N_FEATURES + 1,))),
    )
    x = rng.standard_normal((40, N_FEATURES)).astype(np.float32) * 2
    cut = torch.from_numpy(x).clip(-1, 1)
    hidden, out = torch.from_numpy(model.hidden), torch.from_numpy(model.out)
    inner = torch.relu(cut @ hidden[:-1] + hidden[-1])
    expected = torch.sigmoid(inner @ out[:8] + cut @ out[8:-1] + out[-1])
    np.testing.assert_allclose(model.probability(x), expected.numpy(), atol=1e-6)


# the files


def bundle_with(tmp_path: Path, files: dict[str, bytes], **changes: Any) -> edgerec.Bundle:
    weights = {"taste": 1.0, "popular": 0.2}
    scenarios = {
        "default": {"seen": "hide", "weights": weights},
        "reorder": {"seen": "show", "weights": {**weights, "repeat": 3.0}},
    }
    manifest = manifest_of(files, 60, 8, **{"scenarios": scenarios, **changes})
    return edgerec.load_bundle(write_folder(tmp_path / "bundle", files, manifest), tmp_path / "cache")


def test_a_bundle_without_the_files_has_no_such_source(tmp_path: Path) -> None:
    with edgerec.load_bundle(
        write_folder(tmp_path / "bundle", bundle_files(), manifest_of(bundle_files(), 60, 8)), tmp_path / "cache"
    ) as bundle:
        assert bundle.repeat is None


def test_what_is_taken_again_comes_first_where_it_is_shown(tmp_path: Path) -> None:
    always = {name: data for name, data in repeat_files().items()}
    always["repeat/out.npy"] = npy(np.full(6 + 26, 2.0, np.float32))
    with bundle_with(tmp_path, bundle_files() | always) as bundle, edgerec.open(bundle.path, tmp_path / "state") as rec:
        rec.record("i7", kind="purchase", at=1e9, event_id="one")
        page = rec.recommend(5, scenario="reorder")
        assert page[0].item == "i7"
        assert page[0].parts["repeat"] > 0
        assert "i7" not in [one.item for one in rec.recommend(5)]


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("items", np.zeros((59, 4), np.float32), "items.npy"),
        ("range", np.stack([np.ones(25), np.zeros(25)]).astype(np.float32), "a least value is larger"),
        ("range", np.zeros((2, 24), np.float32), "range.npy"),
        ("hidden", np.zeros((25, 6), np.float32), "hidden.npy"),
        ("hidden", np.zeros((26, 0), np.float32), "0 hidden units"),
        ("hidden", np.full((26, 6), np.nan, np.float32), "not finite"),
        ("out", np.zeros(31, np.float32), "out.npy"),
        ("items", np.full((60, 4), -2e6, np.float32), "beyond ±1e\\+06"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, array: Any, said: str) -> None:
    with pytest.raises(BundleInvalid, match=said):
        bundle_with(tmp_path, bundle_files() | repeat_files() | {f"repeat/{name}.npy": npy(array)})


@pytest.mark.filterwarnings("error")
def test_the_largest_values_that_pass_overflow_nowhere(tmp_path: Path) -> None:
    huge = {"hidden": (26, 256), "out": (282,), "items": (60, 4), "range": (2, 25)}
    files = {f"repeat/{name}.npy": npy(np.full(shape, 1e6, np.float32)) for name, shape in huge.items()}
    with bundle_with(tmp_path, bundle_files() | files) as bundle:
        assert bundle.repeat is not None
        assert Repeat(bundle.repeat).score(REQUEST, past([1], [0.0], [0]), _catalogue(60)).values == 1.0


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    files = bundle_files() | repeat_files()
    del files["repeat/out.npy"]
    with pytest.raises(BundleInvalid, match=r"repeat/out\.npy"):
        bundle_with(tmp_path, files)


def test_of_an_item_that_the_bundle_does_not_have_nothing_is_known(tmp_path: Path) -> None:
    with bundle_with(tmp_path, bundle_files() | repeat_files()) as bundle:
        assert bundle.repeat is not None
        longer = bundle.repeat.extended(62)
    np.testing.assert_array_equal(longer.items[60:], np.tile(np.float32([0, 0, 0, 0.2]), (2, 1)))
    found = Repeat(longer).score(REQUEST, past([61], [0.0], [0]), _catalogue(62))
    assert 0 < found.values[0] < 1


def test_a_new_item_on_the_device_can_be_taken_again(tmp_path: Path) -> None:
    with (
        bundle_with(tmp_path, bundle_files() | repeat_files()) as bundle,
        edgerec.open(bundle.path, tmp_path / "state") as rec,
    ):
        rec.update_catalogue([{"item": "fresh", "title": "Fresh"}])
        rec.record("fresh", kind="purchase", at=1e9, event_id="one")
        assert rec.explain("fresh", scenario="reorder").parts["repeat"] > 0


def _catalogue(n_items: int) -> Model:
    nothing = np.empty(0, np.float32)
    return Model(np.empty((n_items, 0), np.float32), nothing, nothing)


# training


def test_items_are_counted_as_of_a_moment() -> None:
    baskets = Baskets.of(shop(0, users=2, weeks=3))
    table = ItemHistory(baskets).table(7 * DAY)
    happened = baskets.at < 7 * DAY
    for column, half_life in enumerate(HALF_LIVES):
        weight = 0.5 ** ((7 * DAY - baskets.at[happened]) / DAY / half_life)
        expected = np.log1p(np.bincount(baskets.item[happened], weight, N_ITEMS))
        np.testing.assert_allclose(table[:, column], expected, rtol=1e-6)
    late = ItemHistory(baskets).table(22 * DAY)
    assert (table[:, 3] <= 0.2).all(), "nobody had bought anything twice"
    assert late[:10, 3].max() > 0.2, "somebody had bought the staple twice"


def test_training_learns_who_comes_back_for_what() -> None:
    data = shop(1)
    baskets, until = Baskets.of(data), 18 * 7 * DAY
    model = repeat_fit.fit(baskets, until, QUICK, 0)
    assert model is not None
    chosen = baskets.with_past(until)
    found = repeat_fit.scores(baskets, chosen, model)
    seen, targets = baskets.seen_mask(chosen), baskets.target_mask(chosen)
    assert (found[~seen] == 0).all()
    assert found[seen & targets].mean() > 3 * found[seen & ~targets].mean()


def test_the_same_seed_gives_the_same_network_and_no_other_draw_moves() -> None:
    baskets = Baskets.of(shop(2, users=20, weeks=6))
    torch.manual_seed(5)
    first = repeat_fit.fit(baskets, 43 * DAY, QUICK, 3)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again = repeat_fit.fit(baskets, 43 * DAY, QUICK, 3)
    assert first is not None
    assert again is not None
    for one, other in zip(first.arrays().values(), again.arrays().values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_nobody_takes_anything_again_there_is_no_network() -> None:
    data = interactions(np.repeat([0, 1], 3), np.arange(6), np.arange(6) * DAY, np.arange(6), 6)
    assert repeat_fit.fit(Baskets.of(data), 1e9, QUICK, 0) is None


def test_a_trained_model_keeps_and_weighs_it(tmp_path: Path) -> None:
    from edgerec_exporters.recipe import recipe_for

    recipe = recipe_for("bag")
    recipe = replace(recipe, dim=8, encoder=replace(recipe.encoder, epochs=1), repeat=QUICK, validation_days=28.0)
    trained = train(shop(3), recipe=recipe)
    assert trained.repeat is not None
    assert set(trained.scenarios["reorder"].weights) == {"taste", "neighbours", "popular", "habit", "repeat"}
    assert "repeat" not in trained.scenarios["default"].weights
    trained.save(tmp_path / "shop.model")
    kept = load_trained(tmp_path / "shop.model").repeat
    assert kept is not None
    for one, other in zip(trained.repeat.arrays().values(), kept.arrays().values(), strict=True):
        np.testing.assert_array_equal(one, other)


# rounds


def test_a_round_adds_to_every_pace_and_leaves_the_share(tmp_path: Path) -> None:
    with bundle_with(tmp_path, bundle_files() | repeat_files()) as bundle:
        before = counts_of(bundle.model.popularity, 0.0).paced(bundle.repeat)
        taken = np.zeros(60)
        taken[4] = 3.0
        after = before.faded(30 * DAY, 7.0).grown(taken)
        items = after.repeat_items(bundle.repeat)
        assert bundle.repeat is not None
        assert items is not None
        old = np.expm1(bundle.repeat.items[:, :3].astype(float)) * 0.5 ** (30 / np.array(HALF_LIVES))
        np.testing.assert_allclose(np.expm1(items[:, :3]), old + taken[:, None], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(items[:, 3], bundle.repeat.items[:, 3])
        save(tmp_path / "counts.npz", after)
        kept = load(tmp_path / "counts.npz", 60)
        assert kept is not None
        assert kept.paces is not None
        np.testing.assert_array_equal(kept.paces, after.paces)
        new = rewritten(bundle.path, after.popularity(), {}, 2, tmp_path / "new", repeat_items=items)
    with edgerec.load_bundle(new, tmp_path / "cache") as made:
        assert made.repeat is not None
        np.testing.assert_array_equal(made.repeat.items, items)


def test_counts_of_a_time_before_the_source_go_on_from_the_bundle(tmp_path: Path) -> None:
    with bundle_with(tmp_path, bundle_files() | repeat_files()) as bundle:
        np.savez(tmp_path / "counts-1.npz", values=np.ones(60), at=np.float64(5.0))
        kept = counts_at(tmp_path, bundle)
        assert bundle.repeat is not None
        assert kept.paces is not None
        np.testing.assert_array_equal(kept.values, np.ones(60))
        np.testing.assert_allclose(np.log1p(kept.paces), bundle.repeat.items[:, :3], rtol=1e-6)
