"""The rerankers `epsilon`, `softmax` and `thompson`: what they log is how likely it was."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats  # type: ignore[import-untyped]
from slates import REQUEST, model_of, profile_of, random_model, slate_of

from edgerec import hookspecs
from edgerec.errors import ConfigError
from edgerec.interfaces import Reranker
from edgerec.types import Float64, Model, Profile, Reranking, Slate
from edgerec_plugins import explore
from edgerec_plugins.explore import Epsilon, Softmax, Thompson

ALL = (Epsilon, Softmax, Thompson)
SCORES = [1.0, 0.7, 0.6, 0.0]
PLACES = 3
DRAWS = 100_000
"""Places filled, over all pages together."""
ALPHA = 0.01
"""Of one test: the chance that a right reranker fails it, shared between all of its comparisons."""


def pages(reranker: Reranker, model: Model, profile: Profile, count: int) -> list[tuple[tuple[int, ...], list[float]]]:
    """Rows and propensities of many pages of PLACES, each with a seed of its own."""
    found = []
    for seed in range(count):
        page = reranker.rerank(slate_of(SCORES, PLACES, seed=seed), REQUEST, profile, model)
        assert page.propensity is not None
        found.append((tuple(page.rows.tolist()), page.propensity.tolist()))
    return found


def counted(found: list[tuple[tuple[int, ...], list[float]]]) -> tuple[Counter[Any], dict[Any, list[float]]]:
    """How often each beginning of a page came up, and what was logged for its last item."""
    times, logged = Counter[Any](), dict[Any, list[float]]()
    for rows, propensity in found:
        for place in range(PLACES + 1):
            times[rows[:place]] += 1
            if place:
                logged.setdefault(rows[:place], []).append(propensity[place - 1])
    return times, logged


@pytest.mark.parametrize(
    "reranker", [Epsilon({"epsilon": 0.3}), Softmax({"temperature": 0.4})], ids=["epsilon", "softmax"]
)
def test_logged_propensities_are_frequencies(reranker: Reranker) -> None:
    times, logged = counted(pages(reranker, random_model(4), profile_of(), DRAWS // PLACES))
    assert len(logged) == 4 + 4 * 3 + 4 * 3 * 2  # every beginning happened
    for beginning, values in logged.items():
        assert np.ptp(values) < 1e-12  # the same beginning, the same propensity
        test = stats.binomtest(times[beginning], times[beginning[:-1]], min(values[0], 1.0))
        assert test.pvalue > ALPHA / len(logged), beginning
    for beginning in [(), (0,), (2, 1)]:
        total = sum(logged[(*beginning, item)][0] for item in range(4) if item not in beginning)
        assert total == pytest.approx(1)


def test_thompson_logs_frequencies_and_unbiased_weights() -> None:
    draws = 50
    model, profile = random_model(4, dim=3, seed=1), profile_of([0, 2], dim=3)
    reranker = Thompson({"scale": 0.8, "draws": draws})
    times, logged = counted(pages(reranker, model, profile, DRAWS // PLACES))
    comparisons = 2 * len(logged)
    assert len(logged) > 30
    z = float(stats.norm.isf(ALPHA / comparisons / 2))
    for beginning, values in logged.items():
        count, of = times[beginning], times[beginning[:-1]]
        # the mean of (c + 1) / (R + 1) is (R p + 1) / (R + 1)
        p = min(max((sum(values) / count * (draws + 1) - 1) / draws, 0.0), 1.0)
        deviation = math.sqrt(max(p * (1 - p), 1 / of) * (1 / of + 1 / (draws * count)))
        assert abs(count / of - p) < z * deviation + 1 / of, beginning
        # over pages, 1/propensity of those that show the item adds up to all pages, but for (1 - p)^(R + 1)
        weights = np.zeros(of)
        weights[:count] = 1 / np.array(values)
        left = (1 - count / of) ** (draws + 1)
        assert abs(weights.mean() - (1 - left)) < z * weights.std() / math.sqrt(of) + 2 / of + 0.01 * left, beginning


def test_thompson_draws_from_the_posterior() -> None:
    """With one place and two candidates the probability is Φ(gap / deviation of the difference)."""
    model, past = random_model(6, dim=3, seed=3), [2, 3, 4, 4]
    scale, noise = 0.7, 0.5
    size = np.sqrt((model.vectors[:2].astype(np.float64) ** 2).sum(axis=1).mean())
    x = model.vectors.astype(np.float64) / size
    covariance = np.linalg.inv(np.eye(3) / scale**2 + x[past].T @ x[past] / noise**2)
    difference = x[0] - x[1]
    expected = stats.norm.cdf(0.2 / math.sqrt(difference @ covariance @ difference))
    reranker = Thompson({"scale": scale, "noise": noise, "draws": 100_000, "pool": 2})
    page = reranker.rerank(slate_of([0.2, 0.0], 1), REQUEST, profile_of(past, dim=3), model)
    assert page.propensity is not None
    logged = page.propensity[0] if page.rows[0] == 0 else 1 - page.propensity[0]
    assert logged == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 100_000))


def share_of_first(past: Sequence[int], model: Model) -> float:
    """How often `thompson` leaves the better of two candidates on top."""
    reranker = Thompson({"scale": 1.0, "noise": 0.3, "draws": 20_000, "pool": 2})
    page = reranker.rerank(slate_of([0.5, 0.0], 1), REQUEST, profile_of(past, dim=4), model)
    assert page.propensity is not None
    return float(page.propensity[0] if page.rows[0] == 0 else 1 - page.propensity[0])


def test_thompson_explores_less_where_the_past_speaks() -> None:
    model = model_of(np.eye(4)[[0, 1, 2, 3]])
    assert share_of_first([0, 1] * 20, model) > share_of_first([0, 1], model) > share_of_first([], model)
    assert share_of_first([2, 3] * 20, model) == pytest.approx(share_of_first([], model), abs=0.02)


@pytest.mark.parametrize(
    "greedy", [Epsilon({"epsilon": 0.0}), Softmax({"temperature": 1e-6}), Thompson({"scale": 0})], ids=lambda r: r.name
)
def test_without_chance_the_order_stays(greedy: Reranker) -> None:
    page = greedy.rerank(slate_of(SCORES, 3, rows=[7, 3, 5, 1]), REQUEST, profile_of(), random_model())
    assert page.rows.tolist() == [7, 3, 5]
    assert page.propensity is not None
    assert page.propensity.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ALL)
def test_chance_comes_from_the_seed_alone(kind: type[Epsilon | Softmax | Thompson]) -> None:
    model, profile = random_model(), profile_of([1, 2])
    reranker = kind({"epsilon": 0.9} if kind is Epsilon else {})

    def page(seed: int) -> Reranking:
        return reranker.rerank(slate_of([0.1] * 30, 10, seed=seed), REQUEST, profile, model)

    assert page(5).rows.tobytes() == page(5).rows.tobytes()
    assert len({page(seed).rows.tobytes() for seed in range(20)}) > 15
    assert page(-1).rows.shape == (10,)
    assert page(2**70).rows.shape == (10,)


def test_rerankers_do_not_share_their_chance() -> None:
    slate = slate_of([0.0] * 30, 10)
    assert explore.chance_of(slate, "epsilon").random() != explore.chance_of(slate, "softmax").random()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(ALL),
    scores=hnp.arrays(np.float64, 8, elements=st.floats(-1e4, 1e4)),
    n=st.integers(1, 10),
    pool=st.integers(1, 10),
    seed=st.integers(0, 2**63),
    zero=st.booleans(),
)
def test_any_slate_gives_a_page(
    kind: type[Epsilon | Softmax | Thompson], scores: Float64, n: int, pool: int, seed: int, zero: bool
) -> None:
    model = model_of(np.zeros((8, 3))) if zero else random_model(8, dim=3)
    slate: Slate = slate_of(np.sort(scores)[::-1], n, seed=seed)
    page = kind({"pool": pool}).rerank(slate, REQUEST, profile_of([1, 1], dim=3), model)
    assert page.propensity is not None
    assert len(set(page.rows.tolist())) == len(page.rows) == len(page.propensity) == min(n, 8)
    assert set(page.rows.tolist()) <= set(range(min(8, max(pool, n))))
    assert ((page.propensity > 0) & (page.propensity <= 1)).all()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(Epsilon, {"epsilon": 1.5}), (Softmax, {"temperature": 0}), (Thompson, {"draws": 0}), (Thompson, {"pol": 3})],
)
def test_wrong_settings_are_named(kind: type[Epsilon | Softmax | Thompson], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(wrong)


def test_they_register_themselves_and_fulfil_the_contract() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(explore)
    [registered] = manager.hook.edgerec_rerankers()
    assert set(registered) == {"epsilon", "softmax", "thompson"}
    for name, factory in registered.items():
        assert isinstance(factory({}), Reranker)
        assert factory({}).name == name
