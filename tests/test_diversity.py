"""The reranker `diversity`: each method is the greedy rule it names, and a page of any candidates stays a page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pluggy
import pytest
from conftest import Opener
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from slates import REQUEST, model_of, profile_of, random_model, slate_of

from edgerec import hookspecs
from edgerec.errors import ConfigError
from edgerec.interfaces import Reranker
from edgerec.types import Float32, Float64, Model, Profile, Slate
from edgerec_plugins import diversity
from edgerec_plugins.diversity import METHODS, Diversity

SCORES = np.sort(np.random.default_rng(5).normal(size=30))[::-1]


def reranked(slate: Slate, model: Model, profile: Profile | None = None, **settings: Any) -> list[int]:
    found = Diversity(settings).rerank(slate, REQUEST, profile or profile_of(dim=model.dim), model)
    assert found.propensity is None
    return [int(row) for row in found.rows]


def cosines(model: Model) -> Float64:
    length = np.linalg.norm(model.vectors.astype(np.float64), axis=1)
    found: Float64 = (model.vectors @ model.vectors.T) / np.outer(length, length)
    np.fill_diagonal(found, 1)
    return found


def greedy(scores: Float64, n: int, strength: float, gain: Callable[[list[int], int], float]) -> list[int]:
    """The page that the docstring's rule gives, candidate by candidate in plain Python."""
    relevant = 1 / (1 + np.exp(scores[n - 1] - scores))
    page: list[int] = []
    for _ in range(n):
        left = [i for i in range(len(scores)) if i not in page]
        page.append(max(left, key=lambda i: (1 - strength) * relevant[i] + strength * gain(page, i)))
    return sorted(page)


def diversity_of(rows: Sequence[int], model: Model) -> float:
    similar = cosines(model)
    return float(np.mean([1 - similar[i, j] for i, j in itertools.combinations(rows, 2)]))


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9, 1.0])
def test_mmr_is_carbonell_and_goldstein(strength: float) -> None:
    model = random_model()
    similar = cosines(model)
    expected = greedy(SCORES, 8, strength, lambda page, i: -max((similar[i, j] for j in page), default=0.0))
    assert reranked(slate_of(SCORES, 8), model, method="mmr", strength=strength)[:8] == expected


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9, 1.0])
def test_dpp_is_the_greedy_determinant(strength: float) -> None:
    model = random_model()
    kernel = (1 + cosines(model)) / 2

    def gain(page: list[int], i: int) -> float:
        grown = [*page, i]
        before = np.linalg.slogdet(kernel[np.ix_(page, page)])[1] if page else 0.0
        return float(np.linalg.slogdet(kernel[np.ix_(grown, grown)])[1] - before)

    expected = greedy(SCORES, 6, strength, gain)
    assert reranked(slate_of(SCORES, 6), model, method="dpp", strength=strength)[:6] == expected


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_calibration_is_steck(strength: float) -> None:
    # three directions; items take them in turn, so an item's interest is its row modulo 3
    model = model_of(np.eye(3)[np.arange(30) % 3] * np.arange(1, 31)[:, None])
    past = [0, 3, 6, 9, 12, 1, 4, 7, 2, 5]
    wanted = np.bincount(np.array(past) % 3) / len(past)

    def gain(page: list[int], i: int) -> float:
        share = np.bincount(np.array([*page, i]) % 3, minlength=3) / (len(page) + 1)
        return float(-sum(p * math.log(p / (0.99 * q + 0.01 * p)) for p, q in zip(wanted, share, strict=True)))

    expected = greedy(SCORES, 10, strength, gain)
    profile = profile_of(past, dim=3)
    assert reranked(slate_of(SCORES, 10), model, profile, method="calibration", strength=strength)[:10] == expected


def test_a_calibrated_page_shows_interests_in_their_proportions() -> None:
    model = model_of(np.eye(2)[[0] * 20 + [1] * 20])
    profile = profile_of([0] * 7 + [20] * 3, dim=2)
    slate = slate_of(np.arange(40)[::-1], 10)
    plain = reranked(slate, model, profile, method="calibration", strength=0.0)[:10]
    page = reranked(slate, model, profile, method="calibration", strength=0.99)[:10]
    assert sum(row >= 20 for row in plain) == 0
    assert sum(row >= 20 for row in page) == 3


def test_noise_within_an_interest_does_not_split_it() -> None:
    """Three bundles of directions, 20 items each, asked for as three interests: each is found whole."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(6)[:3], 20, axis=0) + rng.normal(size=(60, 6)) * 0.1
    past = diversity.unit(vectors.astype(np.float32))
    centres = diversity.centres_of(past, 3)
    members = (past @ centres.T).argmax(axis=1).reshape(3, 20)
    assert (members == members[:, :1]).all()
    assert len(set(members[:, 0].tolist())) == 3


@pytest.mark.parametrize("method", METHODS)
def test_no_strength_leaves_the_order(method: str) -> None:
    model, rows = random_model(), [7, 3, 31, 5, 9, 2]
    slate = slate_of([5, 4, 3, 2, 1, 0], 3, rows=rows)
    assert reranked(slate, model, profile_of([1, 2, 30]), method=method, strength=0.0) == rows


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_without_a_history_calibration_leaves_the_order(strength: float) -> None:
    rows = [7, 3, 31, 5, 9, 2]
    slate = slate_of([5, 4, 3, 3, 1, 0], 6, rows=rows)
    if strength < 1:  # at 1 relevance does not count, and all are alike: ties go to the better candidate
        assert reranked(slate, random_model(), method="calibration", strength=strength) == rows
    assert reranked(slate, random_model(), method="calibration", strength=strength)[0] == 7


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_more_strength_more_diversity(method: str) -> None:
    # the better half of the candidates lies in one direction
    vectors = np.random.default_rng(2).normal(size=(30, 6)) + 2 * (np.arange(30) < 15)[:, None]
    model, slate = model_of(vectors), slate_of(SCORES, 10)
    found = [
        diversity_of(reranked(slate, model, method=method, strength=strength)[:10], model)
        for strength in (0.0, 0.5, 0.9)
    ]
    assert found[0] * 1.2 < found[1] < found[2]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_the_same_thing_twice_is_not_shown_twice(method: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    vectors[1::2] = 3 * vectors[::2]  # longer, and in the same direction
    page = reranked(slate_of(np.arange(12)[::-1], 6), model_of(vectors), method=method, strength=0.9)[:6]
    assert len({row // 2 for row in page}) == 6


def test_a_dpp_without_anything_new_goes_on_by_relevance() -> None:
    model = model_of(np.ones((10, 2)))
    slate = slate_of(np.arange(10)[::-1], 8)
    assert reranked(slate, model, method="dpp", strength=0.5) == list(range(10))


def test_only_the_pool_is_considered_but_never_less_than_the_page() -> None:
    model = random_model()
    small = reranked(slate_of(SCORES, 3), model, method="mmr", strength=0.9, pool=5)
    assert set(small[:3]) <= set(range(5))
    assert small[3:] == [row for row in range(30) if row not in small[:3]]
    page = reranked(slate_of(SCORES, 8), model, method="mmr", strength=0.9, pool=2)[:8]
    assert set(page) == set(range(8))


numbers = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(METHODS),
    vectors=hnp.arrays(np.float32, (12, 3), elements=numbers | st.sampled_from([0.0, 1.0])),
    scores=hnp.arrays(np.float64, 12, elements=numbers),
    history=st.lists(st.integers(0, 11), max_size=6),
    n=st.integers(1, 15),
    strength=st.floats(0, 1),
)
def test_any_slate_comes_back_whole(
    method: str, vectors: Float32, scores: Float64, history: list[int], n: int, strength: float
) -> None:
    slate = slate_of(np.sort(scores)[::-1], n)
    profile, model = profile_of(history, dim=3), model_of(vectors)
    found = reranked(slate, model, profile, method=method, strength=strength)
    assert sorted(found) == list(range(12))
    assert found == reranked(slate, model, profile, method=method, strength=strength)


@pytest.mark.parametrize(
    "wrong", [{"method": "magic"}, {"strength": 1.1}, {"pool": 0}, {"interests": 2.5}, {"strenght": 0.5}]
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(wrong)))):
        Diversity(wrong)


def test_it_registers_itself_and_fulfils_the_contract() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(diversity)
    [registered] = manager.hook.edgerec_rerankers()
    assert isinstance(registered["diversity"]({}), Reranker)


def test_in_the_runtime_it_makes_the_page_more_diverse(opener: Opener) -> None:
    def page(strength: float) -> tuple[list[str], float]:
        config = {
            "scenarios": {"default": {"rerankers": ["diversity"]}},
            "rerankers": {"diversity": {"strength": strength}},
        }
        rec = opener(plugins=["edgerec_plugins.sgd", "edgerec_plugins.diversity"], config=config)
        rec.record("i1")
        page = rec.recommend(10)
        assert not page.degraded
        items = [one.item for one in page]
        model = rec._device.snapshot().engine.bundle.model
        rec.close()
        return items, diversity_of([int(item[1:]) for item in items], model)

    plain, mixed = page(0.0), page(0.8)
    assert plain[0][0] == mixed[0][0]  # the best candidate is chosen first
    assert mixed[1] > plain[1]
