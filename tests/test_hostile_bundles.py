"""Every attack of docs/hostile-bundles.md: refused with its reason, onnxruntime not asked, and what runs serves on.

Three watchers say that onnxruntime saw nothing: in this process every session that is created is counted, at
onnxruntime's own door; a fresh process that opens all the bundles has not even imported onnxruntime at the end; and the
count goes up for a sound bundle, so that it would show.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from bundles import contents, tiny_bundle
from conftest import Opener
from hostile_bundles import ATTACKS, Attack

import edgerec
from edgerec.bundle import load_bundle, trial
from edgerec.errors import BundleError

PAGE = Path(__file__).parent.parent / "docs/hostile-bundles.md"
MOST_SECONDS, MOST_BYTES = 2.0, 200 << 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of an attack, built when it is first asked for."""
    home = tmp_path_factory.mktemp("hostile")
    paths: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in paths:
            folder = home / str(len(paths))
            folder.mkdir()
            paths[name] = ATTACKS[name].build(folder)
        return paths[name]

    return of


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models for which onnxruntime was asked for a session since the fixture was made."""
    asked: list[str] = []
    real = onnxruntime.InferenceSession

    def counted(path: str, *values: Any, **named: Any) -> Any:
        asked.append(path)
        return real(path, *values, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    return asked


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch) -> Callable[[Attack, Path], None]:
    """Has an attack's `during` happen as soon as its bundle's checks are through."""

    def arrange(attack: Attack, path: Path) -> None:
        real = trial.try_sessions

        def meddled(bundle: Any) -> None:
            real(bundle)
            if attack.during is not None:
                attack.during(path)

        monkeypatch.setattr(trial, "try_sessions", meddled)

    return arrange


def kept(folder: Path) -> set[str]:
    """What a data directory holds, but for the store."""
    return {name for name in contents(folder) if not name.startswith("edgerec.db")} if folder.exists() else set()


def shown(rec: edgerec.Recommender) -> list[tuple[str, float]]:
    return [(each.item, each.score) for each in rec.recommend(10)]


@pytest.mark.parametrize("name", ATTACKS)
def test_what_runs_serves_on_when_it_is_offered(
    name: str,
    built: Callable[[str], Path],
    sessions: list[str],
    meddler: Callable[[Attack, Path], None],
    opener: Opener,
    tmp_path: Path,
) -> None:
    attack, path = ATTACKS[name], built(name)
    rec = opener()
    rec.record("i3", "purchase", event_id="e1")
    before, files = shown(rec), kept(tmp_path / "state")
    assert sessions, "the watcher sees the sessions of a sound bundle"
    sessions.clear()
    meddler(attack, path)
    with pytest.raises(BundleError, match=attack.reason):
        rec.install(path)
    if not attack.runs:
        assert sessions == []
    assert shown(rec) == before
    left = kept(tmp_path / "state")
    assert left == files or (attack.opens and {each.split("/")[0] for each in left - files} <= {"bundles", "index"})
    assert rec.record("i4", "click", event_id="e2").status == "stored"
    rec.close()
    assert opener().bundle.version == 1


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if not attack.opens])
def test_it_does_not_open_and_leaves_nothing(
    name: str,
    built: Callable[[str], Path],
    sessions: list[str],
    meddler: Callable[[Attack, Path], None],
    tmp_path: Path,
) -> None:
    attack, path = ATTACKS[name], built(name)
    if attack.during is not None:
        path = attack.build(tmp_path)  # the one that was built was meddled with
    beside = contents(path.parent)
    meddler(attack, path)
    with pytest.raises(BundleError, match=attack.reason) as caught:
        edgerec.open(path, tmp_path / "state", plugins=["edgerec_plugins.sgd"])
    assert len(str(caught.value)) <= 1000
    if not attack.runs:
        assert sessions == []
    assert kept(tmp_path / "state") == set()
    assert contents(path.parent) - {f"state/{each}" for each in contents(tmp_path / "state")} == beside


SCRIPT = """
import json, re, sys, time
import edgerec
from edgerec.errors import BundleError

def peak():  # not ru_maxrss, which begins with what the parent had
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) << 10

told = {}
before = peak()
for name, path in json.loads(sys.stdin.read()).items():
    began = time.process_time()
    try:
        edgerec.open(path, f"{sys.argv[1]}/{len(told)}", plugins=["edgerec_plugins.sgd"])
    except BundleError as error:
        told[name] = [time.process_time() - began, peak() - before, str(error)]
print(json.dumps({"told": told, "onnxruntime": "onnxruntime" in sys.modules, "grown": peak() - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_refusing_is_quick_and_small_and_onnxruntime_is_not_even_loaded(
    built: Callable[[str], Path], tmp_path: Path
) -> None:
    quiet = {name: str(built(name)) for name, attack in ATTACKS.items() if not attack.runs}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        input=json.dumps(quiet),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout)
    assert set(found["told"]) == set(quiet)
    assert not found["onnxruntime"]
    slow = {name: seconds for name, (seconds, _, _) in found["told"].items() if seconds > MOST_SECONDS}
    assert found["grown"] > 1 << 20, "the peak of memory is seen to move"
    large = {name: grown >> 20 for name, (_, grown, _) in found["told"].items() if grown > MOST_BYTES}
    assert not slow
    assert not large


def rows() -> dict[str, str]:
    """Attack → reason, as the page's tables have them."""
    found = {}
    for row in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if row.startswith("| ") and len(cells) == 4 and cells[0] not in ("attack", "---"):
            assert cells[0] not in found
            found[cells[0]] = cells[2].strip("`")
    return found


def test_the_page_has_the_attacks_that_are_tried_and_no_others() -> None:
    page = rows()
    assert set(page) == set(ATTACKS)
    assert len(page) >= 100
    for name, reason in page.items():
        assert re.search(ATTACKS[name].reason, reason), name


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if not (attack.opens or attack.during)])
def test_the_page_quotes_what_is_said(name: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(built(name), tmp_path / "data")
    assert rows()[name] in str(caught.value)


def test_a_sound_bundle_is_installed_by_the_same_road(opener: Opener, sessions: list[str], tmp_path: Path) -> None:
    """The control: nothing here refuses for a reason of its own."""
    rec = opener()
    done = rec.install(tiny_bundle(tmp_path / "sound.edgerec", version=2))
    assert done.bundle.version == 2
    assert sessions
