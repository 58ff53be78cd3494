"""The candidate source `recency`: closeness to the newest events, by the stated weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pluggy
import pytest
from conftest import Opener
from slates import REQUEST, model_of, profile_of, random_model

from edgerec import hookspecs
from edgerec.checks import conformance
from edgerec.errors import ConfigError
from edgerec.interfaces import CandidateSource
from edgerec.types import Float32, Model, Profile
from edgerec_plugins import recency
from edgerec_plugins.recency import Recency

TestRecency = conformance(Recency)


def scored(profile: Profile, model: Model, **settings: Any) -> Float32:
    return Recency(settings).score(REQUEST, profile, model).values


def test_scores_are_the_stated_sum() -> None:
    model = random_model()
    rows, days, groups = [5, 3, 9, 5, 7], [0.0, 1.0, 1.0, 4.0, 10.0], [1, 2, 2, 3, 4]
    profile = profile_of(rows, days=days, groups=groups)
    settings = {"last": 4, "half_life_groups": 2.0, "half_life_days": 5.0}
    unit = model.vectors / np.linalg.norm(model.vectors, axis=1, keepdims=True)
    expected = np.zeros(40)
    for row, day, later in zip(rows[1:], days[1:], [2, 2, 1, 0], strict=True):
        close = unit @ unit[row]
        close[row] = 0
        expected += 0.5 ** (later / 2 + (10 - day) / 5) * close
    np.testing.assert_allclose(scored(profile, model, **settings), expected, atol=1e-5)


def test_what_came_last_counts_most() -> None:
    model = model_of(np.eye(3)[[0, 1, 0, 1, 2]])
    scores = scored(profile_of([0, 1], dim=3), model)
    assert scores.argmax() == 3
    assert scores[3] > scores[2] > scores[4] == pytest.approx(0)


def test_a_basket_counts_as_one_moment() -> None:
    model = model_of(np.eye(2)[[0, 1, 0, 1]])
    scores = scored(profile_of([0, 1], dim=2, days=[3, 3], groups=[8, 8]), model)
    assert scores[2] == scores[3] > 0


def test_items_do_not_recommend_themselves() -> None:
    model = model_of([[1, 0], [0, 1], [1, 1]])
    scores = scored(profile_of([0, 0], dim=2), model)
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert scores[2] > 0


def test_without_a_history_it_is_silent_and_without_a_vector_finite() -> None:
    assert Recency({}).score(REQUEST, profile_of(), random_model()).std == 0
    model = model_of(np.zeros((5, 3)))
    assert not scored(profile_of([1, 2], dim=3), model).any()


def test_only_the_last_events_count() -> None:
    model = random_model()
    whole = scored(profile_of([1, 2, 3, 4, 5]), model, last=2)
    np.testing.assert_array_equal(whole, scored(profile_of([4, 5], days=[3, 4]), model))


def test_it_follows_the_model() -> None:
    source, profile = Recency({}), profile_of([1, 2])
    for seed in (0, 1, 0):
        model = random_model(seed=seed)
        known = source.score(REQUEST, profile, model).values
        np.testing.assert_array_equal(known, scored(profile, model))


@pytest.mark.parametrize("wrong", [{"last": 0}, {"half_life_days": 0}, {"half_life": 3}])
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recency(wrong)


def test_it_registers_itself_and_fulfils_the_contract() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(recency)
    [registered] = manager.hook.edgerec_sources()
    assert isinstance(registered["recency"]({}), CandidateSource)


def test_in_the_runtime_it_takes_part_in_the_blend(opener: Opener) -> None:
    rec = opener(
        plugins=["edgerec_plugins.sgd", "edgerec_plugins.recency"],
        config={
            "blend": {"weights": {"recency": 1.0}},
            "sources": {"popular": {"boost": 0.0}},
            "learning": {"updater": "none"},
        },
    )
    rec.record("i3", "click")
    page = rec.recommend(10)
    assert not page.degraded
    model = rec._device.snapshot().engine.bundle.model
    expected = np.argsort(-scored(profile_of([3], dim=8), model), kind="stable")[:10]
    assert [one.item for one in page] == [f"i{row}" for row in expected]
    assert page[0].parts["recency"] == pytest.approx(page[0].score)
