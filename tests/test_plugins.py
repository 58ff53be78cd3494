"""Plugins: found by entry point, named outright, isolated when broken, installed from outside with pip."""

from __future__ import annotations

import json
import subprocess
import sys
import types
import venv
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from conftest import Opener

from edgerec import discovery, errors
from edgerec.hookspecs import hookimpl
from edgerec.plugins import Plugins
from edgerec.types import LearningBatch, Model, Profile, Request, SourceScores, State

HERE = Path(__file__).parent


def test_first_party_plugins_come_by_entry_point() -> None:
    found = Plugins().summary()
    assert found["loaded"]["sgd"] == ["updater sgd"]
    assert found["loaded"]["foldin"] == ["updater foldin"]
    assert found["broken"] == {}


@pytest.mark.parametrize("group", ["edgerec", "console_scripts", "pytest11", "no.such.group"])
def test_entry_points_are_those_that_importlib_finds(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "GROUP", group)
    points = discovery.installed([Path(entry or ".") for entry in dict.fromkeys(sys.path)])
    assert sorted((point.name, point.value) for point in points) == sorted(
        (point.name, point.value) for point in entry_points(group=group)
    )


def test_entry_points_name_modules_and_attributes(tmp_path: Path) -> None:
    def package(name: str, text: str) -> None:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "entry_points.txt").write_text(text)

    package(
        "a-1.0.dist-info",
        "[other]\nx = sys\n\n[edgerec]\n# a comment\none = json\ntwo=json : JSONDecoder.decode [extra]\n",
    )
    package("later/A-2.0.dist-info", "[edgerec]\nthree = json\n")
    (tmp_path / "b-1.0.egg-info").write_text("not a folder")
    points = discovery.installed([tmp_path, tmp_path / "later", tmp_path / "absent"])
    assert [point.name for point in points] == ["one", "two"], "of a package that is there twice the first one counts"
    assert [point.load() for point in points] == [json, json.JSONDecoder.decode]


@pytest.mark.parametrize("name", ["sgd", "edgerec_plugins.sgd"])
def test_a_plugin_can_be_named(name: str) -> None:
    assert Plugins([name]).updater("sgd", {}).name == "sgd"


def test_an_unknown_plugin_or_updater_is_named() -> None:
    with pytest.raises(errors.PluginNotFound, match="no installed plugin"):
        Plugins(["nothing"])
    with pytest.raises(errors.PluginNotFound, match="registered: sgd"):
        Plugins(["sgd"]).updater("nothing", {})
    with pytest.raises(errors.PluginError, match="cannot be loaded"):
        Plugins(["no.such.module"])


class Constant:
    """An updater that does what it is told: for trying what the runtime makes of it."""

    name, schema, item_space = "odd", 1, True

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32)}

    def update(self, state: State, batch: LearningBatch) -> State:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome(state, batch) if callable(self.outcome) else self.outcome  # type: ignore[no-any-return, return-value]

    def user_vector(self, state: State) -> np.ndarray:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        return state


def plugin(**hooks: object) -> types.ModuleType:
    module = types.ModuleType("odd_plugin")
    for name, value in hooks.items():
        setattr(module, name, hookimpl(value))
    return module


def updater_plugin(outcome: object) -> types.ModuleType:
    def edgerec_updaters() -> dict[str, object]:
        return {"odd": lambda settings: Constant(outcome)}

    return plugin(edgerec_updaters=edgerec_updaters)


def write_to_input(state: State, batch: LearningBatch) -> State:
    batch.query[0, 0] = 5.0
    return state


@pytest.mark.parametrize(
    "outcome",
    [
        RuntimeError("boom"),
        SystemExit(3),
        {"u": np.full(8, np.nan, np.float32)},
        {"u": np.full(8, 1e30, np.float32)},
        {"u": np.zeros(3, np.float32)},
        {"u": np.zeros(8, np.float64)},
        {"v": np.zeros(8, np.float32)},
        None,
        write_to_input,
    ],
    ids=["raises", "exits", "nan", "huge", "shape", "dtype", "keys", "nothing", "mutates"],
)
def test_a_bad_update_is_refused_and_the_event_is_kept(opener: Opener, outcome: object) -> None:
    rec = opener(plugins=[updater_plugin(outcome)], config={"learning": {"updater": "odd"}})
    receipt = rec.record("i3", "purchase")
    assert (receipt.status, receipt.learned) == ("stored", False)
    (event,) = rec._device.events()
    assert event.verdict.startswith("refused: ")
    assert len(rec.recommend(5)) == 5


def test_a_broken_source_scores_nothing_and_is_named(opener: Opener) -> None:
    class Broken:
        name = "broken"

        def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
            raise RuntimeError

    def edgerec_sources() -> dict[str, object]:
        return {"broken": lambda settings: Broken()}

    plugins = ["edgerec_plugins.sgd", plugin(edgerec_sources=edgerec_sources)]
    rec = opener(plugins=plugins, config={"blend": {"weights": {"broken": 1.0, "popular": 0.1}}})
    page = rec.recommend(5)
    assert (len(page), page.degraded) == (5, ("broken",))


def test_a_source_of_a_plugin_takes_part_in_the_blend(opener: Opener) -> None:
    class Last:
        name = "last"

        def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
            return SourceScores.sparse(np.array([59], np.int32), np.ones(1, np.float32), model.n_items)

    def edgerec_sources() -> dict[str, object]:
        return {"last": lambda settings: Last()}

    plugins = ["edgerec_plugins.sgd", plugin(edgerec_sources=edgerec_sources)]
    rec = opener(plugins=plugins, config={"blend": {"weights": {"last": 1.0, "popular": 0.1}}})
    page = rec.recommend(2)
    assert page[0].item == "i59"
    rec.record("i59", "purchase")
    rec.close()
    assert len(opener().recommend(5)) == 5, "without the plugin its weights are left aside"


def test_a_hook_that_fails_or_repeats_a_name_is_reported(opener: Opener) -> None:
    def edgerec_updaters() -> dict[str, object]:
        return {"sgd": lambda settings: None}

    twice = Plugins(["edgerec_plugins.sgd", plugin(edgerec_updaters=edgerec_updaters)])
    assert "registered by another" in twice.broken["odd_plugin"]
    assert twice.updater("sgd", {}).schema >= 1

    def failing() -> dict[str, object]:
        raise SystemExit(1)

    failing.__name__ = "edgerec_updaters"
    assert "SystemExit" in Plugins([plugin(edgerec_updaters=failing)]).broken["odd_plugin"]


OUTSIDE = """
import json, sys, edgerec
with edgerec.open(sys.argv[1], sys.argv[2], config={"learning": {"updater": "counting"}}) as rec:
    before = [r.item for r in rec.recommend(60)]
    receipt = rec.record(before[30], "click")
    after = [r.item for r in rec.recommend(60)]
    stats = rec.stats()
print(json.dumps({"learned": receipt.learned, "updater": stats["learning"]["updater"],
                  "loaded": stats["plugins"]["loaded"], "up": after.index(before[30]) < 30}))
"""


def test_an_updater_from_outside_is_installed_with_pip_and_works(bundle_path: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees this one's packages, so that nothing here is changed."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    # addsitedir, unlike a plain path, also honours the editable installs of this environment
    (site / "seen.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    python = str(home / "bin" / "python")
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(HERE / "thirdparty"), str(source)], check=True)
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([python, *install, "--prefix", str(home), str(source)], check=True)
    done = subprocess.run(
        [python, "-c", OUTSIDE, str(bundle_path), str(tmp_path / "state")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["learned"]
    assert result["updater"] == "counting"
    assert "counting" in result["loaded"]
    assert result["up"]
