"""Isolation: hostile plugins are contained, counted, disabled and reported; serving answers every time."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from bundles import tiny_bundle
from conftest import Opener, same_state

import edgerec
from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.isolation import Isolation, PluginTimeout
from edgerec.types import Float32, LearningBatch, Model, Profile, Request, SourceScores, State
from edgerec.version import satisfies

SCRIPT = """
import json, sys, edgerec
bundle, state, sources = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
config = {
    "blend": {"weights": {"popular": 1.0, "taste": 1.0, **{name: 0.01 for name in sources}}},
    "scenarios": {"default": {"rerankers": ["slow"]}},
    "plugins": {"budget_ms": 150},
}
pages, receipts = [], []
with edgerec.open(bundle, state, config=config) as rec:
    for round in range(5):
        pages.append(len(rec.recommend(10)))
        receipts.append(rec.record(f"i{round}", "purchase").status)
    page = rec.recommend(10)
    print(json.dumps({"pages": pages, "receipts": receipts, "degraded": page.degraded, **rec.stats()["plugins"]}))
"""


@pytest.fixture(scope="module")
def outcome(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("hostile")
    hostile.install(folder)
    command = [sys.executable, "-c", SCRIPT, str(bundle_path), str(folder / "state"), ",".join(hostile.SOURCES)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_serving_and_recording_answer_every_time(outcome: dict[str, object]) -> None:
    assert outcome["pages"] == [10] * 5
    assert outcome["receipts"] == ["stored"] * 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("source raises", "boom"),
        ("source hangs", "longer than 150 ms"),
        ("source nan", "not finite"),
        ("source shape", "instead of"),
        ("updater mutates", "read-only"),
        ("updater giant", "bytes, more than"),
        ("reranker slow", "longer than 150 ms"),
        ("source network", "refused|denied|unreachable|longer than"),
        ("source exits", "SystemExit: 3"),
    ],
)
def test_what_fails_is_counted_disabled_and_told(outcome: dict, name: str, reason: str) -> None:  # type: ignore[type-arg]
    import re

    told = outcome["failures"][name]
    assert re.search(reason, told["reason"]), told
    assert told["disabled"]
    assert told["failures"] == (1 if "longer than" in told["reason"] else 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("twin (another)", "registered twice"), ("unimportable", "not there"), ("ancient", "needs edgerec")],
)
def test_what_cannot_be_loaded_is_told(outcome: dict, name: str, reason: str) -> None:  # type: ignore[type-arg]
    assert reason in outcome["broken"][name]


def test_a_page_names_what_it_was_made_without(outcome: dict) -> None:  # type: ignore[type-arg]
    assert {"raises", "hangs", "nan", "shape", "network", "exits", "reranker slow"} == set(outcome["degraded"])


def test_a_call_that_outlasts_its_budget_is_abandoned_for_good() -> None:
    isolation = Isolation(budget_ms=20)
    never = threading.Event()
    with pytest.raises(PluginTimeout, match="longer than 20 ms") as caught:
        isolation.call("source hangs", never.wait)
    isolation.failed("source hangs", caught.value)
    with pytest.raises(PluginError, match="disabled"):
        isolation.call("source hangs", int)
    assert isolation.call("source fine", int, "3") == 3, "the next one has a thread of its own"
    never.set()


def test_what_an_outsider_raises_reaches_the_caller_whatever_it_is() -> None:
    isolation = Isolation()
    with pytest.raises(ZeroDivisionError):
        isolation.call("source x", lambda: 1 // 0)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(PluginError, match="KeyboardInterrupt"):  # it was not the user's
        isolation.call("source x", interrupt)


def test_a_child_process_has_a_thread_of_its_own() -> None:
    isolation = Isolation(budget_ms=2000)
    assert isolation.call("source x", int) == 0
    child = os.fork()
    if child == 0:
        os._exit(isolation.call("source x", int, "7"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_calls_are_traced_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGEREC_TRACE_PLUGINS", "1")
    run = Isolation().runner("source x", outsider=False)
    assert run is not None
    assert run(int, "3") == 3
    assert "source x.int returned after" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        (">=0.1", True),
        (">=0.1, <1", True),
        ("==0.1", True),
        ("!=0.1.0", False),
        (">0.1", False),
        ("<0.1", False),
        ("<=0.1.0", True),
        (">=1.0rc1", False),
        ("0.1", False),
        ("", False),
    ],
)
def test_version_ranges(wanted: str, met: bool) -> None:
    assert satisfies(wanted, "0.1.0") is met


def test_failures_outlive_the_process_and_the_command_tells(tmp_path: Path, opener: Opener) -> None:
    from click.testing import CliRunner
    from test_plugins import updater_plugin

    from edgerec.cli import main

    rec = opener(plugins=[updater_plugin(RuntimeError("boom"))], config={"learning": {"updater": "odd"}})
    rec.record("i3", "purchase")
    rec.close()
    told = CliRunner().invoke(main, ["plugins", "list", "--state", str(tmp_path / "state")])
    assert "updater odd: failed after 1 failures, the last: RuntimeError: boom" in told.output
    assert CliRunner().invoke(main, ["plugins", "list", "--state", str(tmp_path / "none")]).exit_code == 50


def test_those_who_wait_for_a_call_that_hangs_are_not_made_to_wait_again() -> None:
    isolation, never = Isolation(budget_ms=300), threading.Event()
    barrier, errors = threading.Barrier(4), []

    def ask() -> None:
        barrier.wait()
        try:
            isolation.call("source hangs", never.wait)
        except PluginError as error:
            isolation.failed("source hangs", error)
            errors.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    never.set()
    assert sorted(error.__name__ for error in errors) == ["PluginError"] * 3 + ["PluginTimeout"]
    told = isolation.report()["source hangs"]
    assert (told["failures"], told["reason"]) == (1, "PluginTimeout: source hangs took longer than 300 ms")


def test_a_child_does_not_wait_for_what_its_parent_was_waiting_for() -> None:
    isolation, begun, over = Isolation(budget_ms=5000), threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        over.wait()

    thread = threading.Thread(target=isolation.call, args=("source x", busy))
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(isolation.call("source y", int, "7"))
    status = os.waitpid(child, 0)[1]
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_an_interrupt_of_the_app_is_not_paid_for_by_the_next_plugin() -> None:
    isolation, over, main = Isolation(budget_ms=2000), threading.Event(), threading.get_ident()

    def interrupted() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        over.wait()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            isolation.call("source x", interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isolation.call("source y", int, "7") == 7
    over.set()


def test_a_call_within_a_call_is_part_of_it() -> None:
    isolation = Isolation(budget_ms=2000)
    assert isolation.call("filter x", lambda: isolation.call("source y", int, "7")) == 7


def test_an_error_that_cannot_say_what_it_is_is_told_by_its_name() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    isolation = Isolation()
    isolation.failed("source x", Mute())
    assert isolation.report()["source x"]["reason"] == "Mute"


def plugin(name: str = "mine", **hooks: Callable[..., object]) -> types.ModuleType:
    module = types.ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(function))
    return module


def test_the_trace_names_hooks_once(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEREC_TRACE_PLUGINS", "1")
    rec = opener(plugins=["edgerec_plugins.sgd", plugin(edgerec_event_recorded=lambda event: None)])
    rec.record("i3", "purchase")
    told = {line.split(" returned")[0] for line in capsys.readouterr().err.splitlines()}
    wanted = {"sgd edgerec_updaters", "updater sgd.Sgd", "updater sgd.update", "mine edgerec_event_recorded"}
    assert {f"edgerec plugin: {one}" for one in wanted} <= told
    assert not [line for line in told if "lambda" in line]


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (lambda settings: None, "NoneType has no method score"),
        (lambda settings: "text", "str has no method score"),
        (5, "not callable"),
        (lambda: None, "takes 0 positional arguments"),
        (lambda settings: threading.Event().wait(), "longer than 100 ms"),
    ],
)
def test_a_factory_that_makes_nothing_of_use_is_told(opener: Opener, factory: object, said: str) -> None:
    config = {"blend": {"weights": {"taste": 1.0, "odd": 1.0}}}
    rec = opener(plugins=["edgerec_plugins.sgd", plugin(edgerec_sources=lambda: {"odd": factory})], config=config)
    assert (len(rec.recommend(5)), rec.recommend(5).degraded) == (5, ())
    assert said in rec.stats()["plugins"]["broken"]["source:odd"]


class Odd:
    """A source, and an updater whose parts can be changed."""

    name, schema, item_space = "odd", 1, True

    def __init__(self, **parts: Callable[..., object]) -> None:
        self.__dict__ |= parts

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores.dense(np.arange(model.n_items, dtype=np.float32))

    def initial(self, model: Model) -> State:
        return {"x": np.zeros(model.dim, np.float32)}

    def update(self, state: State, batch: LearningBatch) -> State:
        return {name: array + 1 for name, array in state.items()}

    def user_vector(self, state: State) -> Float32 | None:
        return None

    def migrate(self, state: State, old_schema: int) -> State:
        return state


BLEND = {"blend": {"weights": {"taste": 1.0, "odd": 1.0}}}
OWNER = {"learning": {"updater": "odd", "guard": False}}


def odd(**parts: Callable[..., object]) -> list[object]:
    """The default updater, and a plugin with a source and an updater of one name."""
    both = {"odd": lambda settings: Odd(**parts)}
    return ["edgerec_plugins.sgd", plugin(edgerec_sources=lambda: both, edgerec_updaters=lambda: both)]


def failures(rec: edgerec.Recommender) -> dict[str, str]:
    return {name: told["reason"] for name, told in rec.stats()["plugins"]["failures"].items()}


def test_an_updater_that_works_aside_is_not_read_as_if_it_owned_the_user_vector(opener: Opener) -> None:
    rec = opener(plugins=odd(), config=BLEND)
    assert [rec.record(f"i{n}", "purchase").learned for n in range(5)] == [True] * 5
    assert failures(rec) == {}
    learned = rec._device.snapshot().learned
    assert learned.aside["odd"]["x"].tolist() == [5.0] * 8
    assert learned.updater["u"].any()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"x": np.array([None])}, "float32/64"),
        ({"x": np.array(["text"])}, "float32/64"),
        ({"x": np.array([np.nan])}, "not finite"),
        ({"x": np.zeros(200_000)}, "bytes, more than"),
        ({3: np.zeros(3)}, "named by texts"),
        (None, "not iterable"),
    ],
)
@pytest.mark.parametrize("config", [BLEND, OWNER], ids=["aside", "owner"])
def test_a_first_state_that_cannot_be_kept_stops_no_event(
    opener: Opener, first: object, said: str, config: dict[str, object]
) -> None:
    rec = opener(plugins=odd(initial=lambda model: first), config=config)
    assert [rec.record(f"i{n}", "purchase").status for n in range(3)] == ["stored"] * 3
    assert len(rec.recommend(5)) == 5
    assert said in failures(rec)["updater odd"]


@pytest.mark.parametrize("config", [BLEND, OWNER], ids=["aside", "owner"])
def test_a_stored_state_that_an_updater_no_longer_reads_starts_anew(opener: Opener, config: dict[str, object]) -> None:
    rec = opener(plugins=odd(), config=config)
    rec.record("i3", "purchase")
    rec.close()
    rec = opener(plugins=odd(initial=lambda model: {"w": np.zeros(2)}), config=config)
    assert rec.record("i4", "purchase").learned
    assert "instead of {'w': '<f8'}" in failures(rec)["updater odd"]
    learned = rec._device.snapshot().learned
    assert (learned.aside["odd"] if config is BLEND else learned.updater)["w"].tolist() == [1.0, 1.0]


def test_a_stored_state_that_makes_no_user_vector_starts_anew(opener: Opener) -> None:
    rec = opener(plugins=odd(user_vector=lambda state: state["x"] / 10), config=OWNER)
    rec.record("i3", "purchase")
    rec.close()

    def initial(model: Model) -> State:
        return {"x": np.zeros(4, np.float32)}

    rec = opener(plugins=odd(initial=initial, user_vector=lambda state: state["x"].repeat(2) / 10), config=OWNER)
    assert [rec.record(f"i{n}", "purchase").learned for n in range(4)] == [True] * 4
    assert "wrong shape" in failures(rec)["updater odd"]
    assert rec._device.snapshot().learned.updater["x"].tolist() == [4.0] * 4


@pytest.mark.parametrize("kind", [np.float64, np.int64, list])
def test_a_user_vector_of_another_kind_is_served_as_float32(opener: Opener, kind: Callable[..., object]) -> None:
    rec = opener(plugins=odd(user_vector=lambda state: kind(state["x"])), config=OWNER)
    rec.record("i3", "purchase")
    assert rec.recommend(5).degraded == ()
    assert failures(rec) == {}
    profile = rec._device.snapshot().engine.profile(rec._device.snapshot().situation, rec._device.snapshot().learned)
    assert (profile.user_vector.dtype, profile.user_vector.tolist()) == (np.float32, [1.0] * 8)


def test_a_user_vector_that_is_no_numbers_costs_nothing_but_itself(opener: Opener) -> None:
    rec = opener(plugins=odd(user_vector=lambda state: np.array([object()] * 8)), config=OWNER)
    rec.record("i3", "purchase")
    assert rec.recommend(5).degraded == ()
    assert set(failures(rec)) == {"updater odd"}


def test_what_one_updater_is_shown_no_other_can_find_changed(opener: Opener) -> None:
    locked = []

    def edgerec_review_update(batch: LearningBatch) -> None:
        arrays = (batch.rows, batch.weight, batch.value, batch.query, batch.negatives)
        locked.extend(not array.flags.writeable for array in (*arrays, batch.replayed.rows, batch.replayed.weight))

    rec = opener(plugins=["edgerec_plugins.sgd", plugin(edgerec_review_update=edgerec_review_update)])
    rec.record("i3", "purchase")
    assert locked == [True] * 7


@pytest.mark.parametrize("rows", [[-1], [60], [3, 3], [True, False], [[1, 2]], [1.0]])
def test_a_source_that_scores_what_is_no_item_is_left_out(opener: Opener, rows: list[object]) -> None:
    def score(request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores(np.ones(len(rows), np.float32), np.array(rows), 0.1, 1.0)

    rec = opener(plugins=odd(score=score), config=BLEND)
    assert rec.recommend(5).degraded == ("odd",)


def test_the_store_is_not_locked_while_a_plugin_works(opener: Opener, tmp_path: Path) -> None:
    def update(state: State, batch: LearningBatch) -> State:
        other = sqlite3.connect(tmp_path / "state" / "edgerec.db", timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
        return state

    rec = opener(plugins=odd(update=update), config=OWNER)
    assert rec.record("i3", "purchase").learned
    assert failures(rec) == {}


def test_threads_share_a_slow_plugin(opener: Opener) -> None:
    pages = []

    def score(request: Request, profile: Profile, model: Model) -> SourceScores:
        threading.Event().wait(0.005)
        return SourceScores.dense(np.arange(model.n_items, dtype=np.float32))

    rec = opener(plugins=odd(score=score), config=BLEND)

    def use() -> None:
        for _ in range(3):
            pages.append(rec.recommend(5))
            rec.record(pages[-1][0].item, "click", recommendation_id=pages[-1].id)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(len(page), page.degraded) for page in pages] == [(5, ())] * 9
    assert len(rec._device.events()) == 9
    assert failures(rec) == {}


def test_states_of_updaters_that_work_aside_outlive_a_bundle_and_come_back(opener: Opener, tmp_path: Path) -> None:
    options: dict[str, Any] = {"plugins": odd(), "config": BLEND}
    rec = opener(**options)
    for n in range(4):
        rec.record(f"i{n}", "purchase")
    rec.install(tiny_bundle(tmp_path / "new.edgerec", 80, 16, version=2))
    assert rec._device.snapshot().learned.aside["odd"]["x"].tolist() == [4.0] * 16
    rec.record("i70", "purchase")
    rec.close()
    rec = opener(**options)
    assert rec._device.snapshot().learned.aside["odd"]["x"].tolist() == [5.0] * 16
    rec.rollback()
    snapshot = rec._device.snapshot()
    assert snapshot.learned.aside["odd"]["x"].tolist() == [4.0] * 8, "i70 is not in this bundle"
    replayed = snapshot.engine.replay(rec._device.events(), obey=True)
    assert same_state(snapshot.learned, replayed.learned)
    assert failures(rec) == {}


def test_names_that_stand_for_no_plugin_are_told(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEREC_LOAD_PLUGINS", "sgd, mien")
    broken = opener(plugins=None, config={"plugins": {"nobody": {"a": 1}}}).stats()["plugins"]["broken"]
    assert "EDGEREC_LOAD_PLUGINS lists it" in broken["mien"]
    assert "has settings for it" in broken["nobody"]


def test_no_plugins_at_all_are_loaded_where_none_is_listed(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEREC_LOAD_PLUGINS", "")
    rec = opener(plugins=None, config={"learning": {"updater": "none"}})
    assert rec.stats()["plugins"]["loaded"] == []
    assert len(rec.recommend(5)) == 5


def test_a_package_may_open_a_recommender_with_a_module_of_its_own_while_it_is_imported(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_app").mkdir()
    (tmp_path / "shop_app" / "__init__.py").write_text(
        "import edgerec\n"
        f"with edgerec.open({str(bundle_path)!r}, {str(tmp_path / 'state')!r}, "
        "plugins=['edgerec_plugins.sgd', 'shop_app.mine']) as rec:\n"
        "    loaded = rec.stats()['plugins']['loaded']\n"
    )
    (tmp_path / "shop_app" / "mine.py").write_text(
        "import shop_app\nfrom edgerec.hookspecs import hookimpl\n@hookimpl\ndef edgerec_event_recorded(event): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "mine" in importlib.import_module("shop_app").loaded
