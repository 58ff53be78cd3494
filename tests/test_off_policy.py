"""Counterfactual estimates: known values are met within their intervals, on drawn pages and on a device's own log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Clock, Opener

from edgerec.errors import RequestError
from edgerec.off_policy import LoggedPage, estimates
from edgerec.policy_evaluation import evaluate_policy
from edgerec.types import Float64

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


CONFIG = {
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
