"""Rerankers on a page: what each may return, several in order, failures, caps, boosts, chance, explanations."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from bundles import catalogue_lines
from conftest import Opener

import edgerec
from edgerec.errors import RequestError
from edgerec.hookspecs import hookimpl
from edgerec.types import Page, Reranking, Slate

Choice = Callable[[Slate], object]
CORE = "edgerec_plugins.sgd"
COLOUR = {line["item"]: line["attributes"].get("colour") for line in catalogue_lines(60)}


class Chooser:
    def __init__(self, name: str, choose: Choice) -> None:
        self.name, self._choose = name, choose

    def rerank(self, slate: Slate, request: object, profile: object, model: object) -> object:
        return self._choose(slate)


def options(*choices: Choice, **scenario: object) -> dict[str, Any]:
    """What opens a recommender whose default scenario has the rerankers first, second … and more rules."""
    named = dict(zip(("first", "second", "third"), choices, strict=False))
    module = types.ModuleType("mine")

    def edgerec_rerankers() -> dict[str, object]:
        return {name: lambda settings, name=name: Chooser(name, named[name]) for name in named}

    module.edgerec_rerankers = hookimpl(edgerec_rerankers)  # type: ignore[attr-defined]
    return {"plugins": [CORE, module], "config": {"scenarios": {"default": {"rerankers": [*named], **scenario}}}}


def items(page: Page) -> list[str]:
    return [one.item for one in page]


def reason(rec: edgerec.Recommender, name: str = "first") -> str:
    return str(rec.stats()["plugins"]["failures"][f"reranker {name}"]["reason"])


def backwards(slate: Slate) -> Reranking:
    return Reranking(slate.rows[::-1])


WRONG: list[tuple[str, Choice, str]] = [
    ("outside", lambda s: Reranking(np.append(s.rows[:4], 999)), "rows of the slate"),
    ("negative", lambda s: Reranking(np.append(s.rows[:4], -1)), "rows of the slate"),
    ("far", lambda s: Reranking(np.append(s.rows[:4].astype(np.int64), 2**32)), "rows of the slate"),
    ("repeated", lambda s: Reranking(s.rows[[0, 1, 2, 3, 3]]), "each once"),
    ("few", lambda s: Reranking(s.rows[:4]), "4 rows for a page of 5"),
    ("empty", lambda s: Reranking(s.rows[:0]), "0 rows for a page of 5"),
    ("float", lambda s: Reranking(s.rows.astype(np.float32)), "whole numbers"),
    ("bool", lambda s: Reranking(s.rows > 3), "whole numbers"),
    ("object", lambda s: Reranking(s.rows.astype(object)), "whole numbers"),
    ("square", lambda s: Reranking(s.rows.reshape(-1, 2)), "one dimension"),
    ("nan", lambda s: Reranking(s.rows, np.full(len(s.rows), np.nan)), "propensities"),
    ("zero", lambda s: Reranking(s.rows, np.zeros(len(s.rows))), "propensities"),
    ("above one", lambda s: Reranking(s.rows, np.full(len(s.rows), 1.01)), "propensities"),
    ("few propensities", lambda s: Reranking(s.rows, np.ones(3)), "propensities"),
    ("text", lambda s: Reranking(s.rows, "sure"), "could not convert"),  # type: ignore[arg-type]
    ("nothing", lambda s: None, "must return a Reranking, not NoneType"),
    ("rows alone", lambda s: s.rows, "must return a Reranking, not ndarray"),
    ("mutation", lambda s: s.rows.sort(), "read-only"),
    ("exit", lambda s: exit(3), "SystemExit"),
]


@pytest.mark.parametrize(("choose", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_no_choice_from_the_slate_changes_nothing(opener: Opener, choose: Choice, said: str) -> None:
    rec, plain = opener(**options(choose)), opener(plugins=[CORE])
    page = rec.recommend(5)
    assert items(page) == items(plain.recommend(5))
    assert page.degraded == ("reranker first",)
    assert said in reason(rec)


@pytest.mark.parametrize("kind", [list, np.int32, np.int64, np.uint64])
def test_rows_may_be_whole_numbers_of_any_kind_and_more_than_the_page_has_places(
    opener: Opener, kind: Callable[[Any], Any]
) -> None:
    rec, plain = opener(**options(lambda s: Reranking(kind(s.rows[::-1])))), opener(plugins=[CORE])
    page = rec.recommend(5)
    assert items(page) == items(plain.recommend(60))[::-1][:5]
    assert (page.degraded, page.reason, [one.propensity for one in page]) == ((), None, [1.0] * 5)


def test_rerankers_work_one_after_the_other_and_one_that_fails_is_passed_by(opener: Opener) -> None:
    def best_last(slate: Slate) -> Reranking:
        return Reranking(np.append(slate.rows[1:], slate.rows[0]))

    def fails(slate: Slate) -> Reranking:
        raise RuntimeError("boom")

    rec, plain = opener(**options(backwards, fails, best_last)), opener(plugins=[CORE])
    order = items(plain.recommend(60))[::-1]
    page = rec.recommend(5)
    assert items(page) == [*order[1:], order[0]][:5]
    assert page.degraded == ("reranker second",)
    assert rec.explain(order[1]).reranked == {"first": 2, "third": 1}
    assert rec.explain(order[0]).reranked == {"first": 1, "third": 60}


def test_each_sees_what_the_one_before_left_with_its_scores(opener: Opener) -> None:
    seen: list[Slate] = []

    def worst_ten(slate: Slate) -> Reranking:
        return Reranking(slate.rows[-10:])

    def looks(slate: Slate) -> Reranking:
        seen.append(slate)
        return Reranking(slate.rows)

    rec = opener(**options(looks, worst_ten, looks))
    rec.recommend(5)
    first, second = seen
    assert second.rows.tolist() == first.rows[-10:].tolist()
    assert second.scores.tolist() == first.scores[-10:].tolist()
    assert (second.n, second.seed) == (first.n, first.seed) == (5, first.seed)
    left_out = rec.recommend(60, log_exposure=False)
    assert rec.explain(f"i{first.rows[0]}").reranked == {"first": 1, "second": None, "third": None}
    assert left_out.degraded == ("reranker second",), "ten rows are too few for a page of 60"


def test_a_reranker_that_failed_too_often_is_asked_no_more_and_named_on_every_page(opener: Opener) -> None:
    calls = []

    def fails(slate: Slate) -> Reranking:
        calls.append(1)
        raise RuntimeError

    rec = opener(**options(fails))
    assert [rec.recommend(5).degraded for _ in range(5)] == [("reranker first",)] * 5
    assert len(calls) == 3


def test_a_reranker_that_nobody_registers_is_named(opener: Opener) -> None:
    rec = opener(plugins=[CORE], config={"scenarios": {"default": {"rerankers": ["nobody"]}}})
    page = rec.recommend(5)
    assert (len(page), page.degraded) == (5, ("reranker nobody",))


def shuffled(slate: Slate) -> Reranking:
    order = np.random.default_rng(slate.seed).permutation(len(slate.rows))
    return Reranking(slate.rows[order], np.full(len(order), 0.25))


def test_the_same_page_id_makes_the_same_page_and_another_one_another(opener: Opener) -> None:
    def pages() -> list[Page]:
        rec = opener(**options(shuffled), seed=7)
        return [rec.recommend(5, log_exposure=False) for _ in range(3)]

    left, right = pages(), pages()
    assert [(page.id, items(page)) for page in left] == [(page.id, items(page)) for page in right]
    assert len({tuple(items(page)) for page in left}) == 3
    assert [one.propensity for one in left[0]] == [0.25] * 5


def test_the_propensity_of_a_later_reranker_counts(opener: Opener) -> None:
    def surer(slate: Slate) -> Reranking:
        return Reranking(slate.rows, np.linspace(1, 0.5, len(slate.rows)))

    assert opener(**options(shuffled, surer)).recommend(1)[0].propensity == 1.0
    assert opener(**options(surer, backwards)).recommend(1)[0].propensity == 0.5


def few_of_red_first(slate: Slate) -> Reranking:
    """As many as are asked for, those of one colour first."""
    return Reranking(slate.rows[np.argsort(slate.rows % 3, kind="stable")][: slate.n])


@pytest.mark.parametrize("choose", [backwards, few_of_red_first], ids=["gives all", "gives as many as asked"])
def test_caps_fill_the_page_where_enough_exist(opener: Opener, choose: Choice) -> None:
    rec = opener(**options(choose, caps={"colour": 2}, where="has(colour)"))
    page = rec.recommend(6)
    assert (len(page), page.reason, page.degraded) == (6, None, ())
    colours = [COLOUR[item] for item in items(page)]
    assert {colour: colours.count(colour) for colour in colours} == {"red": 2, "green": 2, "blue": 2}


@pytest.mark.parametrize("choose", [backwards, few_of_red_first])
def test_caps_that_cannot_be_kept_say_so(opener: Opener, choose: Choice) -> None:
    rec = opener(**options(choose, caps={"colour": 2}, where="has(colour)"))
    page = rec.recommend(10)
    assert (len(page), page.reason) == (6, "only 6 of 48 items keep within the caps (2 per colour)")


def test_what_a_reranker_leaves_out_stays_off_the_page_whatever_the_caps_say(opener: Opener) -> None:
    def red_alone(slate: Slate) -> Reranking:
        return Reranking(slate.rows[slate.rows % 3 == 0])

    page = opener(**options(red_alone, caps={"colour": 2}, where="has(colour)")).recommend(6)
    assert [COLOUR[item] for item in items(page)] == ["red"] * 2
    assert "2 per colour" in str(page.reason)


def test_an_item_that_a_cap_keeps_off_is_told_of_it(opener: Opener) -> None:
    rec = opener(**options(backwards, caps={"colour": 1}, where="has(colour)"))
    on_page = items(rec.recommend(3))
    other = next(item for item in items(rec.recommend(60, seen="show", scenario="reorder")) if COLOUR[item] == "red")
    assert other not in on_page
    told = rec.explain(other)
    assert told.filtered == "capped: 1 with colour 'red' stand before it"
    assert told.rank is not None
    assert set(told.reranked) == {"first"}
    assert rec.explain(on_page[0]).filtered is None


@pytest.mark.parametrize("caps", [{}, {"colour": 100}])
def test_more_than_there_is_gives_all_there_is_and_the_reason(opener: Opener, caps: dict[str, int]) -> None:
    page = opener(**options(backwards, caps=caps)).recommend(1000)
    assert (len(page), page.reason) == (60, "only 60 of 60 items may be served (the catalogue is small)")


@pytest.mark.parametrize("only", [(), [], set(), {}])
def test_nothing_to_choose_from_asks_no_reranker(opener: Opener, only: Collection[str]) -> None:
    def never(slate: Slate) -> Reranking:
        raise AssertionError

    rec = opener(**options(never, caps={"colour": 1}))
    page = rec.recommend(5, only=only)
    assert (len(page), page.reason, page.degraded) == (0, "only 0 of 60 items may be served (only)", ())


def test_boosts_are_parts_of_the_scores_that_rerankers_see(opener: Opener) -> None:
    scores: list[float] = []

    def looks(slate: Slate) -> Reranking:
        scores.extend(slate.scores[:5].tolist())
        return Reranking(slate.rows)

    page = opener(**options(looks, boosts=[{"where": "new", "by": 50}])).recommend(5)
    assert [one.parts["boost new"] for one in page] == [50.0] * 5
    assert [one.score for one in page] == pytest.approx(scores)
    assert [sum(one.parts.values()) for one in page] == pytest.approx(scores)


@pytest.mark.parametrize(
    "request_",
    [
        {"exclude": 5},
        {"exclude": [1, 2]},
        {"exclude": "i1"},
        {"only": 5},
        {"only": [["i1"]]},
        {"scenario": ["default"]},
        {"context": 5},
    ],
    ids=repr,
)
def test_a_request_of_the_wrong_kind_is_an_error_of_its_own(opener: Opener, request_: dict[str, Any]) -> None:
    for rec in (opener(plugins=[CORE]), opener(**options(backwards, exclude=["i1"]))):
        with pytest.raises(RequestError, match=next(iter(request_))):
            rec.recommend(5, **request_)


@pytest.mark.parametrize("make", [list, set, tuple, iter, np.array])
def test_items_may_come_in_any_collection(opener: Opener, make: Callable[[list[str]], Any]) -> None:
    for rec in (opener(plugins=[CORE]), opener(**options(backwards, exclude=["i1"]))):
        wanted = ["i2", "i3", "i4"]
        assert set(items(rec.recommend(3, only=make(wanted)))) == set(wanted)
        assert not {"i2", "i3", "i4"} & set(items(rec.recommend(60, exclude=make(wanted))))
