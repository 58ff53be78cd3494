"""What training says of federation: blocks that fit a payload, and weights chosen with popularity as rounds keep it."""

from __future__ import annotations

import numpy as np
import pytest
from toy_data import CUTOFF, DAY, toy_dataset

from edgerec.bundle.federated import MAX_PAYLOAD, RING_WIDTH, payload_size, read_federated
from edgerec.bundle.repeat import N_FEATURES, N_ITEM, N_USER, RepeatModel
from edgerec_exporters.examples import Baskets
from edgerec_exporters.federated_fit import FederatedRecipe, blocks, refreshed
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.repeat_fit import ItemHistory


def baskets() -> Baskets:
    return Baskets.of(Interactions.from_dataset(toy_dataset(n_users=8)))


def test_the_blocks_are_what_a_bundle_may_declare() -> None:
    count = np.r_[np.zeros(3, np.int64), np.full(97, 50)]
    made = read_federated({"blocks": blocks(FederatedRecipe(), count, seed=5)}, 100, ["default"]).blocks
    assert [spec.name for spec in made] == ["popularity", "pairs", "metrics"]
    assert made[1].focus == (0, 1, 2)
    assert made[1].seed == 5


def test_without_new_items_no_pairs_are_counted() -> None:
    names = [block["name"] for block in blocks(FederatedRecipe(), np.full(100, 50), seed=0)]
    assert names == ["popularity", "metrics"]


@pytest.mark.parametrize("n_items", [3186, 12_000, 16_000])
def test_a_share_of_a_delta_fits_a_payload(n_items: int) -> None:
    declared = blocks(FederatedRecipe(), np.zeros(n_items, np.int64), seed=0)
    made = read_federated({"blocks": declared}, n_items, ["default"]).blocks
    assert payload_size(made, RING_WIDTH) <= MAX_PAYLOAD


def test_a_catalogue_too_large_for_a_share_has_no_blocks() -> None:
    assert blocks(FederatedRecipe(), np.zeros(17_000, np.int64), seed=0) == []


def test_popularity_is_as_of_the_last_round() -> None:
    known, recipe = baskets(), FederatedRecipe(half_life_days=10.0, every_days=7.0)
    chosen = known.with_past(CUTOFF)
    found = refreshed(known, chosen, CUTOFF, recipe)["popular"]
    for row, basket in zip(found, chosen.tolist(), strict=True):
        round_at = CUTOFF + (known.when[basket] - CUTOFF) // (7 * DAY) * 7 * DAY
        before = known.at < round_at
        count = np.zeros(known.n_items)
        np.add.at(count, known.item[before], 0.5 ** ((round_at - known.at[before]) / DAY / 10))
        assert row == pytest.approx(np.log1p(count), abs=1e-5)


def test_nothing_of_the_round_itself_is_known() -> None:
    known = baskets()
    chosen = known.with_past(CUTOFF)
    first = chosen[known.when[chosen] < CUTOFF + 7 * DAY]
    found = refreshed(known, first, CUTOFF, FederatedRecipe())["popular"]
    assert (found == found[0]).all()


def test_what_is_taken_again_is_judged_by_items_as_of_the_last_round() -> None:
    known, recipe = baskets(), FederatedRecipe(every_days=7.0)
    hidden, out = np.zeros((N_FEATURES + 1, 1), np.float32), np.zeros(N_FEATURES + 2, np.float32)
    out[1 + N_USER] = 1.0  # what counts is the item's newest count alone
    bounds = np.stack([np.full(N_FEATURES, -9), np.full(N_FEATURES, 9)]).astype(np.float32)
    model = RepeatModel(np.zeros((known.n_items, N_ITEM), np.float32), bounds, hidden, out)
    chosen = known.with_past(CUTOFF + 7 * DAY)
    found = refreshed(known, chosen, CUTOFF, recipe, model)["repeat"]
    seen, history = known.seen_mask(chosen), ItemHistory(known)
    assert (found[~seen] == 0).all()
    for row, mask, basket in zip(found, seen, chosen.tolist(), strict=True):
        round_at = CUTOFF + (known.when[basket] - CUTOFF) // (7 * DAY) * 7 * DAY
        expected = 1 / (1 + np.exp(-history.table(round_at)[mask, 0]))
        np.testing.assert_allclose(row[mask], expected, rtol=1e-5)
