"""The cold start's constants are chosen on users whom the trial never saw, and on nothing else of theirs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_train import CUTOFF, RECIPE, shop

from edgerec_exporters import cold_fit
from edgerec_exporters.blend_fit import ndcg
from edgerec_exporters.examples import Baskets
from edgerec_exporters.holdout import hold_out_period
from edgerec_exporters.train import train


def test_users_are_held_out_by_share_and_seed_and_only_those_with_a_rest() -> None:
    baskets = Baskets.of(shop())
    chosen = cold_fit.held_out_users(baskets, 0.25, 0)
    assert len(chosen) == 20
    assert chosen.tolist() == cold_fit.held_out_users(baskets, 0.25, 0).tolist()
    assert chosen.tolist() != cold_fit.held_out_users(baskets, 0.25, 1).tolist()
    assert len(cold_fit.held_out_users(baskets, 1e-9, 0)) == 1


def test_the_trial_sees_nothing_of_them() -> None:
    data = shop().before(CUTOFF)
    held = hold_out_period(data, CUTOFF - 30 * 86400)
    users = np.array([3, 8])
    without = held.without(users)
    assert not np.isin(without.rest.user, users).any()
    assert not np.isin(without.baskets.user[without.judged], users).any()
    assert len(without.judged) < len(held.judged)
    assert without.cold.tolist() == [3, 8]


def test_after_k_baskets_the_rest_is_wanted() -> None:
    baskets = Baskets.of(shop())
    user = 5
    own = np.flatnonzero(baskets.user == user)
    chosen = cold_fit._after(baskets, np.array([user]), 2)
    assert chosen.tolist() == [own[2]]
    rest = np.unique(baskets.item[baskets.start[own[2]] : baskets.stop[own[-1]]])
    assert cold_fit._rest(baskets, chosen)[0].nonzero()[0].tolist() == rest.tolist()
    assert not len(cold_fit._after(baskets, np.array([user]), len(own)))


def test_the_model_carries_what_was_chosen() -> None:
    """Users who want what everybody wants, whatever they began with: popularity alone is right."""
    data = shop()
    rng = np.random.default_rng(0)
    fading = 0.85 ** np.arange(60)
    crowd = replace(data, item=rng.choice(60, len(data.item), p=fading / fading.sum()).astype(np.int32))
    trained = train(crowd, cutoff=CUTOFF, recipe=replace(RECIPE, cold_share=0.3))
    told = trained.metrics["cold_users"]
    assert trained.sources["popular"]["boost"] > 0
    assert np.nanmean([*told["ndcg@100"].values()]) > np.nanmean([*told["without"].values()])
    assert told["users"] == 24
    plain = train(crowd, cutoff=CUTOFF, recipe=RECIPE)
    assert "cold_users" not in plain.metrics
    np.testing.assert_array_equal(plain.popularity, trained.popularity)


def test_ndcg_counts_the_first_hundred() -> None:
    scores = -np.arange(150, dtype=np.float32)[None]
    targets = np.zeros((1, 150), bool)
    targets[0, [0, 2, 120]] = True
    ideal = sum(1 / np.log2(place + 2) for place in range(3))
    assert ndcg(scores, targets, top=cold_fit.TOP)[0] == pytest.approx((1 + 0.5) / ideal)
    assert np.isnan(ndcg(scores, np.zeros((1, 150), bool), top=cold_fit.TOP)[0])
