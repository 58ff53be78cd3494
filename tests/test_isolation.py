"""Isolation: hostile plugins are contained, counted, disabled and reported; serving answers every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import hostile
import pytest
from conftest import Opener

from edgerec.errors import PluginError
from edgerec.isolation import Isolation, PluginTimeout
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
