"""Counterfactual estimates: known values are met within their intervals, on drawn pages and on a device's own log."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Clock, Opener

import edgerec
from edgerec.errors import PluginError, RequestError
from edgerec.hookspecs import hookimpl
from edgerec.off_policy import LoggedPage, estimates
from edgerec.policy_evaluation import evaluate_policy
from edgerec.types import Float64, Int64
from edgerec_plugins.explore import Epsilon

N_PAGES, N_ITEMS, PLACES = 4_000, 6, 3
CLICK = np.array([0.6, 0.4, 0.3, 0.2, 0.1, 0.05])
SCORES = np.array([1.0, 2.0, 0.5, 1.5, 0.0, 0.7])


def plackett_luce(scores: Float64) -> Callable[[list[int]], Float64]:
    def chances(left: list[int]) -> Float64:
        odds = np.exp(scores[left])
        return np.asarray(odds / odds.sum())

    return chances


def uniform(left: list[int]) -> Float64:
    return np.full(len(left), 1 / len(left))


TARGET = plackett_luce(2 * CLICK * 4)


def page(rng: np.random.Generator) -> LoggedPage:
    """A page that was filled at random; a click depends on the item and the place."""
    left, out = list(range(N_ITEMS)), []
    for place in range(PLACES):
        logged, target = uniform(left), TARGET(left)
        drawn = int(rng.choice(len(left), p=logged))
        click = float(rng.random() < CLICK[left[drawn]] / (1 + place))
        out.append((click, logged[drawn], target[drawn], SCORES[left[drawn]], target @ SCORES[left]))
        left.pop(drawn)
    return LoggedPage(*np.array(out).T)


def worth(left: list[int], place: int) -> float:
    """What the target earns from a place on, exactly."""
    if place == PLACES:
        return 0.0
    total = 0.0
    for chance, item in zip(TARGET(left), left, strict=True):
        rest = [other for other in left if other != item]
        total += chance * (CLICK[item] / (1 + place) + worth(rest, place + 1))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_every_estimator_meets_the_true_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = estimates([page(rng) for _ in range(N_PAGES)])
    truth = worth(list(range(N_ITEMS)), 0)
    assert found.logged.value < 0.8 * truth, "the target is worth looking for"
    for name in ("ips", "snips", "dr"):
        low, high = getattr(found, name).ci95
        assert low < truth < high, name
    width = {name: np.diff(getattr(found, name).ci95)[0] for name in ("ips", "dr")}
    assert width["dr"] < width["ips"]
    assert 1 < found.effective_pages < N_PAGES


def test_the_logging_policy_itself_has_weight_one() -> None:
    rng = np.random.default_rng(0)
    pages = [page(rng) for _ in range(50)]
    same = estimates([LoggedPage(p.reward, p.logged, p.logged, p.score, p.score) for p in pages])
    assert same.ips.value == pytest.approx(same.logged.value)
    assert same.snips.value == pytest.approx(same.logged.value)
    assert same.dr.value == pytest.approx(same.logged.value)
    assert (same.effective_pages, same.largest_weight) == (50, 1)


def test_pages_of_several_lengths() -> None:
    rng = np.random.default_rng(0)
    pages = [page(rng) for _ in range(30)]
    short = [LoggedPage(*(getattr(p, name)[:2] for name in p.__slots__)) for p in pages[:10]]
    both = estimates([*short, *pages[10:]])
    kept = [*short, *pages[10:]]
    assert both.ips.value == pytest.approx(np.mean([(np.cumprod(p.target / p.logged) * p.reward).sum() for p in kept]))


@pytest.mark.parametrize("pages", [[], [1]])
def test_too_few_pages(pages: list[int]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two pages"):
        estimates([page(rng) for _ in pages])


CONFIG: dict[str, Any] = {
    "scenarios": {
        "trying": {"rerankers": ["epsilon"]},
        "hotter": {"rerankers": ["softmax"]},
        "drawn": {"rerankers": ["thompson"]},
    },
    "rerankers": {"epsilon": {"epsilon": 0.5, "pool": 6}, "softmax": {"temperature": 1.0, "pool": 6}},
}


def test_a_devices_own_log_tells_what_the_greedy_page_is_worth(opener: Opener, clock: Clock) -> None:
    """Pages of one place by ε-greedy; the user likes the first item the more the lower its number."""
    rec = opener(plugins=["edgerec_plugins.sgd", "edgerec_plugins.explore"], config=CONFIG, seed=5)
    rec.pause_learning()
    rng = np.random.default_rng(3)
    likes = rng.random(60)
    earned = []
    for _ in range(400):
        clock.now += 60
        greedy = rec.recommend(1, log_exposure=False)[0].item
        earned.append(likes[int(greedy[1:])])
        page = rec.recommend(1, scenario="trying")
        clock.now += 1
        item = page[0].item
        if rng.random() < likes[int(item[1:])]:
            rec.record(item, "click", recommendation_id=page.id)
    found = evaluate_policy(rec._device, "default", logged="trying")
    truth = float(np.mean(earned))
    for name in ("ips", "snips", "dr"):
        low, high = getattr(found, name).ci95
        assert low < truth < high, name
    assert found.pages == 400
    assert evaluate_policy(rec._device, "trying", logged="trying").ips.value == pytest.approx(found.logged.value)
    assert evaluate_policy(rec._device, "hotter", logged="trying").pages == 400


def test_what_cannot_be_judged_is_refused_with_a_reason(opener: Opener) -> None:
    rec = opener(plugins=["edgerec_plugins.sgd", "edgerec_plugins.explore"], config=CONFIG)
    with pytest.raises(RequestError, match="0 pages"):
        evaluate_policy(rec._device, "default", logged="trying")
    for _ in range(2):
        rec.recommend(3)
    with pytest.raises(RequestError, match="nothing was left to chance"):
        evaluate_policy(rec._device, "trying", logged="default")
    with pytest.raises(RequestError, match="does not say how probable"):
        evaluate_policy(rec._device, "drawn", logged="default")


EXPLORING: dict[str, Any] = {"plugins": ["edgerec_plugins.sgd", "edgerec_plugins.explore"], "seed": 1}


def shown(rec: edgerec.Recommender, clock: Clock, count: int, *, likes: bool = True, **request: Any) -> None:
    """So many pages of one place, each followed by a click in the same moment."""
    for _ in range(count):
        clock.now += 60
        page = rec.recommend(1, scenario="trying", **request)
        if likes:
            rec.record(page[0].item, "purchase", recommendation_id=page.id)


def test_a_page_comes_before_what_came_of_it_though_the_clock_stands_still(opener: Opener, clock: Clock) -> None:
    """What is bought is hidden afterwards: as of after the purchase no policy could have shown it."""
    rec = opener(**EXPLORING, config=CONFIG)
    shown(rec, clock, 12)
    same = evaluate_policy(rec._device, "trying", logged="trying")
    assert same.ips.value == pytest.approx(same.logged.value) == pytest.approx(1.0)


def test_pages_without_chance_say_nothing_and_are_left_out(opener: Opener, clock: Clock) -> None:
    greedy = {**CONFIG, "scenarios": {**CONFIG["scenarios"], "trying": {}}}
    rec = opener(**EXPLORING, config=greedy)
    shown(rec, clock, 20)
    rec.close()
    rec = opener(**EXPLORING, config=CONFIG)
    shown(rec, clock, 1, likes=False)
    with pytest.raises(RequestError, match="1 pages"):
        evaluate_policy(rec._device, "default", logged="trying")
    shown(rec, clock, 9, likes=False)
    found = evaluate_policy(rec._device, "default", logged="trying")
    assert (found.pages, found.logged.value) == (10, 0.0)


def test_what_was_set_aside_earns_nothing(opener: Opener, clock: Clock) -> None:
    module = types.ModuleType("mine")

    class Never:
        name = "never"

        def review(self, arrival: object, earlier: object) -> str:
            return "a robot"

    module.edgerec_event_filters = hookimpl(lambda: {"never": lambda settings: Never()})  # type: ignore[attr-defined]
    plugins = [*EXPLORING["plugins"], module]
    rec = opener(plugins=plugins, seed=1, config={**CONFIG, "filters": {"never": {}}})
    shown(rec, clock, 4)
    assert {row.verdict for row in rec._device.events()} == {"quarantined: never: a robot"}
    assert evaluate_policy(rec._device, "default", logged="trying").logged.value == 0.0


def test_caps_make_the_logged_propensities_useless(opener: Opener, clock: Clock) -> None:
    capped = {**CONFIG, "scenarios": {"trying": {"rerankers": ["epsilon"], "caps": {"colour": 1}}}}
    rec = opener(**EXPLORING, config=capped)
    shown(rec, clock, 3)
    with pytest.raises(RequestError, match="'trying' has caps"):
        evaluate_policy(rec._device, "default", logged="trying")


def test_a_policy_with_nothing_to_show_earns_nothing(opener: Opener, clock: Clock) -> None:
    rec = opener(**EXPLORING, config={**CONFIG, "scenarios": {**CONFIG["scenarios"], "none": {"where": "price > 99"}}})
    shown(rec, clock, 12)
    found = evaluate_policy(rec._device, "none", logged="trying")
    assert (found.ips.value, found.snips.value, found.dr.value) == (0.0, 0.0, 0.0)


def test_places_that_the_policy_leaves_empty_earn_nothing() -> None:
    rng = np.random.default_rng(0)
    pages = [page(rng) for _ in range(200)]
    first = np.array([1.0, 0, 0])
    short = [
        LoggedPage(p.reward, p.logged, p.target * first, p.score, np.where(first > 0, p.target_score, np.nan))
        for p in pages
    ]
    alone = [LoggedPage(*(getattr(p, name)[:1] for name in p.__slots__)) for p in pages]
    for name in ("ips", "dr"):
        assert getattr(estimates(short), name).value == pytest.approx(getattr(estimates(alone), name).value, abs=0.02)


def test_pages_from_before_a_bundle_and_items_that_left_are_judged(
    opener: Opener, clock: Clock, tmp_path: Path
) -> None:
    rec = opener(**EXPLORING, config=CONFIG)
    new = {"item": "new", "title": "New", "vector": [1.0] * 8, "popularity": 1e6}
    rec.update_catalogue([new])
    shown(rec, clock, 6, only={"new", "i1", "i2"}, likes=False)
    rec.update_catalogue([], remove={"new"})
    rec.record("i5", "click", recommendation_id="never shown")
    rec.install(tiny_bundle(tmp_path / "new.edgerec", 30, 16, version=2, seed=3), force=True)
    shown(rec, clock, 6)
    found = evaluate_policy(rec._device, "hotter", logged="trying")
    assert found.pages == 12
    assert np.isfinite([found.ips.value, found.snips.value, found.dr.value, found.effective_pages]).all()


@pytest.mark.parametrize("traced", [False, True])
def test_a_reranker_from_outside_or_a_traced_one_may_tell_its_probabilities(
    opener: Opener, clock: Clock, monkeypatch: pytest.MonkeyPatch, traced: bool
) -> None:
    if traced:
        monkeypatch.setenv("EDGEREC_TRACE_PLUGINS", "1")
    module = types.ModuleType("mine")
    hook = hookimpl(lambda: {"mine": lambda settings: Epsilon({"epsilon": 0.5, "pool": 6})})
    module.edgerec_rerankers = hook  # type: ignore[attr-defined]
    scenarios = {**CONFIG["scenarios"], "mine": {"rerankers": ["mine"]}}
    rec = opener(plugins=[*EXPLORING["plugins"], module], seed=1, config={**CONFIG, "scenarios": scenarios})
    shown(rec, clock, 12)
    theirs, ours = (evaluate_policy(rec._device, policy, logged="trying") for policy in ("mine", "trying"))
    assert theirs == ours


@pytest.mark.parametrize("wrong", ["raise", "nan", "short", "sum", "negative"])
def test_probabilities_that_are_none_are_an_error_with_its_cause(opener: Opener, clock: Clock, wrong: str) -> None:
    class Wrong(Epsilon):
        def probabilities(self, slate: object, left: Int64, *others: object) -> Float64:
            n = len(left)
            answers = {
                "nan": np.full(n, np.nan),
                "short": np.ones(1),
                "sum": np.ones(n),
                "negative": np.append(np.zeros(n - 2), [2.0, -1.0]),
            }
            return answers[wrong]

    module = types.ModuleType("mine")
    module.edgerec_rerankers = hookimpl(lambda: {"mine": lambda settings: Wrong({})})  # type: ignore[attr-defined]
    scenarios = {**CONFIG["scenarios"], "mine": {"rerankers": ["mine"]}}
    rec = opener(plugins=[*EXPLORING["plugins"], module], seed=1, config={**CONFIG, "scenarios": scenarios})
    shown(rec, clock, 3)
    with pytest.raises(PluginError, match="the probabilities of scenario 'mine' cannot be had"):
        evaluate_policy(rec._device, "mine", logged="trying")
