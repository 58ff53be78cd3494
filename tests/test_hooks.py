"""Hooks: reviews veto, observers are told, wrappers see pages, a cold start is answered; what fails is left out."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Opener

from edgerec.errors import BundleRefused, PluginError
from edgerec.hookspecs import hookimpl
from edgerec.plugins import Plugins
from edgerec.records import changed
from edgerec.types import Event, Model, Page, Profile, Request, SourceScores

CORE = ["edgerec_plugins.sgd"]


def plugin(name: str = "mine", *, wrapper: bool = False, **hooks: Callable[..., object]) -> types.ModuleType:
    module = types.ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(wrapper=True)(function) if wrapper else hookimpl(function))
    return module


def verdicts(rec: object) -> list[str]:
    return [row.verdict for row in rec._device.events()]  # type: ignore[attr-defined]


def test_an_update_can_be_vetoed(opener: Opener) -> None:
    def edgerec_review_update(updater: str, batch: object) -> str:
        return f"not by {updater}"

    rec = opener(plugins=[*CORE, plugin(edgerec_review_update=edgerec_review_update)])
    assert not rec.record("i3", "purchase").learned
    assert verdicts(rec) == ["refused: vetoed by mine: not by sgd"]


def test_a_review_that_fails_is_a_veto_until_it_is_disabled(opener: Opener) -> None:
    def edgerec_review_update(updater: str) -> str:
        raise RuntimeError

    rec = opener(plugins=[*CORE, plugin(edgerec_review_update=edgerec_review_update)])
    learned = [rec.record(f"i{n}", "purchase").learned for n in range(5)]
    assert learned == [False, False, False, True, True]
    told = rec.stats()["plugins"]["failures"]["mine edgerec_review_update"]
    assert (told["failures"], told["disabled"]) == (3, True)


def test_a_bundle_can_be_vetoed_and_forced(opener: Opener, tmp_path: Path) -> None:
    asked = []

    def edgerec_review_bundle(review: object) -> str:
        asked.append(review)
        return "not on a Tuesday"

    rec = opener(plugins=[*CORE, plugin(edgerec_review_bundle=edgerec_review_bundle)])
    rec.record("i3", "purchase")
    newer = tiny_bundle(tmp_path / "new.edgerec", version=2)
    with pytest.raises(BundleRefused, match="vetoed by mine: not on a Tuesday"):
        rec.install(newer)
    assert rec.bundle.version == 1
    assert (asked[0].running.version, asked[0].candidate.version, asked[0].n_history) == (1, 2, 1)
    rec.install(newer, force=True)
    assert rec.bundle.version == 2


def test_safety_vetoes_a_bundle_that_forgets_the_users_items(opener: Opener, tmp_path: Path) -> None:
    rec = opener(plugins=[*CORE, "edgerec_plugins.safety"])
    for n in range(40, 52):
        rec.record(f"i{n}", "purchase")
    with pytest.raises(BundleRefused, match="it lacks 12 of the 12 items"):
        rec.install(tiny_bundle(tmp_path / "new.edgerec", 30, version=2))


class Backwards:
    name, schema, item_space = "backwards", 1, True

    def initial(self, model: object) -> dict[str, np.ndarray]:
        return {"u": np.zeros(model.dim, np.float32)}  # type: ignore[attr-defined]

    def update(self, state: dict[str, np.ndarray], batch: object) -> dict[str, np.ndarray]:
        return {"u": state["u"] - batch.model.vectors[batch.rows[0]]}  # type: ignore[attr-defined]

    def user_vector(self, state: dict[str, np.ndarray]) -> np.ndarray:
        return state["u"]

    def migrate(self, state: dict[str, np.ndarray], old_schema: int) -> dict[str, np.ndarray]:
        return state


@pytest.mark.parametrize("forward", [True, False])
def test_safety_vetoes_an_updater_that_learns_backwards(opener: Opener, forward: bool) -> None:
    mine = plugin(edgerec_updaters=lambda: {"backwards": lambda settings: Backwards()})
    config = {"learning": {"updater": "backwards"}, "plugins": {"safety": {"forward": forward}}}
    rec = opener(plugins=[mine, "edgerec_plugins.safety"], config=config)
    rec.record("i3", "purchase")
    lost = "refused: vetoed by safety: every item that was liked lost ground"
    assert verdicts(rec) == [lost if forward else "learned"]


def test_observers_are_told_after_the_transaction(opener: Opener, tmp_path: Path) -> None:
    told: list[object] = []

    def edgerec_event_recorded(event: object, receipt: object) -> None:
        told.append((event.item, receipt.status, len(rec._device.events())))  # type: ignore[attr-defined]

    def edgerec_update_decided(updater: str, verdict: str, n_events: int) -> None:
        told.append((updater, verdict, n_events))

    def edgerec_bundle_changed(old: object, new: object, reason: str) -> None:
        told.append((old and old.version, new.version, reason))  # type: ignore[attr-defined]

    hooks = (edgerec_event_recorded, edgerec_update_decided, edgerec_bundle_changed)
    rec = opener(plugins=[*CORE, plugin(**{hook.__name__: hook for hook in hooks})])
    rec.record("i3", "purchase")
    rec.install(tiny_bundle(tmp_path / "new.edgerec", version=2))
    assert told == [
        (None, 1, "the factory bundle"),
        ("sgd", "learned", 1),
        ("i3", "stored", 1),
        (1, 2, "installed"),
    ]


def test_an_observer_that_fails_stops_nothing(opener: Opener) -> None:
    def edgerec_event_recorded(event: object) -> None:
        raise SystemExit

    rec = opener(plugins=[*CORE, plugin(edgerec_event_recorded=edgerec_event_recorded)])
    assert rec.record("i3", "purchase").learned
    assert rec.stats()["plugins"]["failures"]["mine edgerec_event_recorded"]["failures"] == 1


def test_a_wrapper_may_change_the_page(opener: Opener) -> None:
    def edgerec_recommend(request: object) -> Generator[None, Page, Page]:
        page = yield
        return changed(page, items=page.items[: request.n - 1], reason="one was taken off")  # type: ignore[attr-defined]

    rec = opener(plugins=[*CORE, plugin(wrapper=True, edgerec_recommend=edgerec_recommend)])
    page = rec.recommend(5)
    assert (len(page), page.reason) == (4, "one was taken off")
    rec.record(page[0].item, recommendation_id=page.id)
    assert rec.stats()["exposures"] == 4, "what was shown is what the wrappers left"


def setup_fails(request: object) -> Generator[None, Page, Page]:
    if request:
        raise RuntimeError
    return (yield)


def teardown_fails(request: object) -> Generator[None, Page, Page]:
    yield
    raise RuntimeError


def no_page(request: object) -> Generator[None, Page, object]:
    yield
    return None


def no_yield(request: object) -> Generator[None, Page, object]:
    if request:
        return 5
    yield


def no_items(request: object) -> Generator[None, Page, Page]:
    return changed((yield), items=None)


def text_items(request: object) -> Generator[None, Page, Page]:
    return changed((yield), items=("i1", "i2"))


def too_many(request: object) -> Generator[None, Page, Page]:
    page = yield
    return changed(page, items=page.items * 2)


def another_id(request: object) -> Generator[None, Page, Page]:
    return changed((yield), id=5)


def no_propensity(request: object) -> Generator[None, Page, Page]:
    page = yield
    return changed(page, items=tuple(changed(one, propensity=None) for one in page))


def numpy_scores(request: object) -> Generator[None, Page, Page]:
    page = yield
    return changed(page, items=tuple(changed(one, score=np.float32(1)) for one in page))


def two_yields(request: object) -> Generator[None, Page, Page]:
    yield
    return (yield)


BROKEN = [
    setup_fails,
    teardown_fails,
    no_page,
    no_yield,
    two_yields,
    no_items,
    text_items,
    too_many,
    another_id,
    no_propensity,
    numpy_scores,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_wrapper_that_fails_is_left_out_for_good(opener: Opener, broken: Callable[..., object]) -> None:
    calls = []

    def edgerec_recommend(request: object) -> object:
        calls.append(1)
        return broken(request)

    wrapped = plugin(wrapper=True, edgerec_recommend=lambda request: (yield from edgerec_recommend(request)))  # type: ignore[attr-defined]
    rec = opener(plugins=[*CORE, wrapped])
    pages = [rec.recommend(5) for _ in range(2)]
    assert [len(page) for page in pages] == [5, 5]
    assert [page.degraded for page in pages] == [("mine edgerec_recommend",)] * 2
    assert calls == [1]
    assert rec.stats()["plugins"]["failures"]["mine edgerec_recommend"]["disabled"]
    rec.record(pages[0][0].item, recommendation_id=pages[0].id)
    with rec._device.database.read() as connection:
        stored = connection.execute("SELECT typeof(score), typeof(propensity) FROM exposures").fetchall()
    assert stored == [("real", "real")] * 10


def test_a_wrapper_that_moves_items_need_not_count_their_places(opener: Opener) -> None:
    def edgerec_recommend(request: object) -> Generator[None, Page, Page]:
        page = yield
        return changed(page, items=list(page.items[::-1]))

    rec = opener(plugins=[*CORE, plugin(wrapper=True, edgerec_recommend=edgerec_recommend)])
    plain = [one.item for one in opener(plugins=CORE).recommend(5)]
    page = rec.recommend(5)
    assert [one.item for one in page] == plain[::-1]
    assert [one.rank for one in page] == [1, 2, 3, 4, 5]
    assert rec._device.shown_on(page.id) == [(item, rank) for rank, item in enumerate(plain[::-1], 1)]


async def awaited(event: object) -> None:
    raise RuntimeError


def generated(event: object) -> Generator[None]:
    yield


@pytest.mark.parametrize(
    ("wrapper", "hooks", "said"),
    [
        (False, {"edgerec_event_recorded": awaited}, "nobody awaits"),
        (False, {"edgerec_event_recorded": generated}, "plain function"),
        (True, {"edgerec_event_recorded": generated}, "takes no wrappers"),
        (False, {"edgerec_recommend": lambda request: None}, "is for wrappers"),
        (False, {"edgerec_event_recorded": lambda event, colour: None}, "colour"),
        (False, {"edgerec_event_recordd": lambda event: None}, "there is no hook edgerec_event_recordd"),
        (False, {}, "no function that is marked"),
    ],
)
def test_a_function_that_answers_no_hook_as_it_must_is_refused(
    opener: Opener, wrapper: bool, hooks: dict[str, Callable[..., object]], said: str
) -> None:
    with pytest.raises(PluginError, match=f"(?s)'mine' does not fit the hooks.*{said}"):
        opener(plugins=[*CORE, plugin(wrapper=wrapper, **hooks)])


def test_what_is_refused_leaves_nothing_behind() -> None:
    half = plugin(edgerec_event_recorded=lambda event: None, edgerec_event_recordd=lambda event: None)
    plugins = Plugins(CORE)
    with pytest.raises(PluginError, match="there is no hook"):
        plugins._register("mine", half)
    assert not plugins.manager.hook.edgerec_event_recorded.get_hookimpls()
    assert plugins.loaded == ["sgd"]


def test_a_hook_that_returns_something_to_await_has_failed(opener: Opener) -> None:
    class Awaitable:
        def __await__(self) -> Generator[None]:
            yield

    rec = opener(plugins=[*CORE, plugin(edgerec_event_recorded=lambda event: Awaitable())])
    rec.record("i3", "purchase")
    assert "awaits" in rec.stats()["plugins"]["failures"]["mine edgerec_event_recorded"]["reason"]


class Listener:
    """A plugin that is an object, and has a name that cannot be asked for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @property
    def __name__(self) -> str:
        raise RuntimeError

    @hookimpl
    def edgerec_event_recorded(self, event: Event) -> None:
        self.heard.append(event.item)


def test_an_object_may_be_a_plugin(opener: Opener) -> None:
    mine = Listener()
    rec = opener(plugins=[*CORE, mine])
    rec.record("i3", "purchase")
    assert mine.heard == ["i3"]
    assert "Listener" in rec.stats()["plugins"]["loaded"]
    with pytest.raises(PluginError, match="registered twice"):
        opener(plugins=[mine, mine])


class Ordered:
    name = "odd"

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores.dense(np.arange(model.n_items, dtype=np.float32))


def test_an_observer_may_ask_the_recommender(opener: Opener) -> None:
    found = []

    def edgerec_event_recorded(event: object) -> None:
        found.append(len(rec.recommend(3)))

    def edgerec_sources() -> dict[str, Callable[..., object]]:
        return {"odd": lambda settings: Ordered()}

    mine = plugin(edgerec_event_recorded=edgerec_event_recorded, edgerec_sources=edgerec_sources)
    rec = opener(plugins=[*CORE, mine], config={"blend": {"weights": {"taste": 1.0, "odd": 1.0}}})
    rec.record("i3", "click")
    assert found == [3]
    assert rec.stats()["plugins"]["failures"] == {}


def test_a_request_that_cannot_be_answered_still_says_so_through_wrappers(opener: Opener) -> None:
    from edgerec.errors import UnknownScenario

    rec = opener(plugins=[*CORE, "edgerec_plugins.journal"])
    with pytest.raises(UnknownScenario):
        rec.recommend(5, scenario="nowhere")
    assert rec.stats()["plugins"]["failures"] == {}


def test_the_journal_writes_what_happens_at_debug(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    rec = opener(plugins=[*CORE, "edgerec_plugins.journal"])
    rec.record("i3", "purchase")
    assert not caplog.records, "nobody asked"
    with caplog.at_level(logging.DEBUG, "edgerec.journal"):
        rec.record("i4", "purchase")
        rec.recommend(3)
    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == ["updater sgd, 1 events: learned", "event purchase: stored, learned True"]
    assert told[2].startswith("page of 3 in default: 3 items")
    assert "i4" not in " ".join(told), "nothing of the user"


def test_a_cold_start_is_answered_until_something_is_known(opener: Opener) -> None:
    def edgerec_cold_start(model: object) -> np.ndarray:
        scores = np.zeros(model.n_items, np.float32)  # type: ignore[attr-defined]
        scores[59] = 1
        return scores

    rec = opener(plugins=[*CORE, plugin(edgerec_cold_start=edgerec_cold_start)])
    assert rec.recommend(1)[0].item == "i59"
    rec.record("i3", "purchase")
    assert rec.recommend(1)[0].item != "i59"


@pytest.mark.parametrize("answer", [np.zeros(3), np.full(60, np.nan), "no"])
def test_a_cold_start_that_makes_no_sense_is_left_out(opener: Opener, answer: object) -> None:
    rec = opener(plugins=[*CORE, plugin(edgerec_cold_start=lambda model: answer)])
    plain = opener(plugins=CORE)
    assert [r.item for r in rec.recommend(5)] == [r.item for r in plain.recommend(5)]
    assert rec.stats()["plugins"]["failures"]["mine edgerec_cold_start"]["failures"] == 1


def test_starter_spreads_the_first_page(opener: Opener) -> None:
    def closeness(spread: float) -> float:
        rec = opener(plugins=[*CORE, "edgerec_plugins.starter"], config={"plugins": {"starter": {"spread": spread}}})
        model = rec._device.snapshot().engine.bundle.model
        rows = [int(r.item[1:]) for r in rec.recommend(10)]
        units = model.vectors[rows] / np.linalg.norm(model.vectors[rows], axis=1, keepdims=True)
        return float((units @ units.T).mean())

    assert closeness(0.7) < closeness(0.0)
