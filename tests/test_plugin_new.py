"""`edgerec plugins new`: what it writes is installed, tested, checked, and learns, as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result
from toy_data import toy_dataset

from edgerec import plugin_new
from edgerec.cli import main
from edgerec.errors import PluginError, RequestError
from edgerec.plugin_new import new_plugin
from edgerec_tools.datasets import write

NAME = "my-taste"


class Installed(NamedTuple):
    """A generated package in an environment of its own, which sees this one's packages."""

    python: str
    folder: Path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [self.python, *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("new")
    folder = new_plugin(NAME, place / NAME)
    home = place / "env"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "seen.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    made = Installed(str(home / "bin" / "python"), folder)
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = made.run(*install, "--prefix", home, folder)
    assert done.returncode == 0, done.stderr
    return made


def test_its_own_tests_pass(installed: Installed) -> None:
    done = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "47 passed" in done.stdout


def test_it_passes_the_check_command(installed: Installed) -> None:
    done = installed.run("-m", "edgerec", "plugins", "check", NAME, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["plugin"], found["failed"]) == (NAME, 0)
    assert {(one["kind"], one["name"]) for one in found["results"]} == {("updater", NAME)}


LEARN = """
import json, sys, edgerec
scores = []
for updater in ("none", sys.argv[2]):
    learning = {"updater": updater, "guard": False}
    with edgerec.open(sys.argv[1], config={"learning": learning, "blend": {"learn": False}}, seed=1) as rec:
        receipts = [rec.record("i7", "click", at=1.7e9 + n, event_id=f"e{n}") for n in range(10)]
        assert all(one.learned for one in receipts) or updater == "none", receipts
        ranked = [one.item for one in rec.recommend(60)]
        scores.append(rec.explain("i7").parts["taste"])
        loaded = rec.stats()["plugins"]["loaded"]
print(json.dumps({"scores": scores, "place": ranked.index("i7"), "loaded": loaded}))
"""


def test_a_recommender_learns_by_it(installed: Installed, bundle_path: Path) -> None:
    done = installed.run("-c", LEARN, bundle_path, NAME)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    without, with_it = found["scores"]
    assert with_it > without
    assert NAME in found["loaded"]


def test_it_is_compared_with_sgd_in_the_simulator(installed: Installed, bundle_path: Path, tmp_path: Path) -> None:
    data = tmp_path / "toy.dataset"
    write(toy_dataset(), data)
    arguments = ["--bundle", bundle_path, "--data", data, "--cutoff", "2020-10-23T12:26:40Z", "--devices", 4]
    arguments += ["--arms", "fresh,personalised", "--workers", 1, "--updater", NAME, "--json"]
    done = installed.run("-m", "edgerec", "simulate", *arguments)
    assert done.returncode == 0, done.stderr
    (mine,) = (arm for arm in json.loads(done.stdout)["arms"] if arm["name"] == NAME)
    for view in ("novel", "all"):
        low, high = mine["vs"]["personalised"][view]["ci95"]
        assert low <= mine["vs"]["personalised"][view]["ndcg@10"] <= high


def test_the_readme_names_what_there_is(tmp_path: Path) -> None:
    folder = new_plugin("next_up", tmp_path / "here")
    readme = (folder / "README.md").read_text()
    assert "edgerec simulate --bundle X --data D --updater next_up" in readme
    assert "pytest" in readme
    named = re.findall(r"^- `([^`]+)`", readme, re.MULTILINE)
    assert len(named) == 2
    assert all((folder / path).is_file() for path in named)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["edgerec"] == {"next_up": "edgerec_next_up"}
    assert "class NextUpUpdater:" in (folder / "src/edgerec_next_up/__init__.py").read_text()


@pytest.mark.parametrize("name", ["", "Mine", "3d", "a b", "a--b", "-a", "a/b", "../a", "é", "class", "none", "x" * 51])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be called"):
        new_plugin(name, tmp_path / "here")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sgd", "plugins"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="installed already"):
        new_plugin(name, tmp_path / "here")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="is there already"):
        new_plugin("mine", tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="is there already"):
        new_plugin("mine", tmp_path / "link")
    with pytest.raises(RequestError, match="no folder"):
        new_plugin("mine", tmp_path / "absent" / "mine")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template"
    template.mkdir()
    (template / "pyproject.toml.txt").write_text("$name")
    monkeypatch.setattr(plugin_new, "TEMPLATE", template)
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="cannot be written"):
        new_plugin("mine", tmp_path / "out" / "mine")
    assert not list((tmp_path / "out").iterdir())


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plugins", *map(str, arguments)])


def test_the_new_command_says_where_and_what_next(tmp_path: Path) -> None:
    done = invoke("new", "mine", "--out", tmp_path / "one", "--json")
    assert json.loads(done.stdout) == {
        "plugin": "mine",
        "folder": str(tmp_path / "one"),
        "files": [
            "README.md",
            "pyproject.toml",
            "src/edgerec_mine/__init__.py",
            "src/edgerec_mine/py.typed",
            "tests/test_conformance.py",
        ],
    }
    assert "edgerec plugins check mine" in invoke("new", "mine", "--out", tmp_path / "two").stdout
    again = invoke("new", "mine", "--out", tmp_path / "two")
    assert (again.exit_code, again.stdout) == (40, "")
    assert "hint" in again.stderr


HASTY = """
from broken_updaters import Clock
from edgerec.hookspecs import hookimpl

@hookimpl
def edgerec_updaters():
    return {'hasty': lambda settings: Clock()}
"""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Result]]:
    """Checks a plugin `hasty` of that source."""

    def check(source: str, *arguments: object) -> Result:
        (tmp_path / "hasty_plugin.py").write_text(source)
        return invoke("check", "hasty", *arguments)

    (tmp_path / "hasty.dist-info").mkdir()
    (tmp_path / "hasty.dist-info" / "entry_points.txt").write_text("[edgerec]\nhasty = hasty_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield check
    sys.modules.pop("hasty_plugin", None)


def test_the_check_command_tells_what_fails(hasty: Callable[..., Result]) -> None:
    done = hasty(HASTY)
    assert done.exit_code == PluginError.exit_code
    assert "updater hasty: 22 of 23 checks passed" in done.stdout
    assert "FAIL  no_clock" in done.stdout
    assert "begin with no_clock" in done.stderr
    found = json.loads(hasty(HASTY, "--json").stdout)
    assert [one["check"] for one in found["results"] if not one["ok"]] == ["no_clock"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("def edgerec_updaters", "def edgerec_updater", "there is no hook edgerec_updater"),
        ("@hookimpl\n", "", "no function that is marked @hookimpl"),
        ("\n@", "\ndef edgerec_sources(): ...\n@", "edgerec_sources is not marked, .*\n  hint: write @hookimpl"),
        ("lambda settings: Clock()", "Clock()", "updater hasty: .*Clock.* cannot be called\n  hint: register a class"),
        ("Clock()}", "settings['rate']}", "updater hasty cannot be made: KeyError: 'rate'"),
    ],
)
def test_the_check_command_tells_what_can_be_no_plugin(
    old: str, new: str, told: str, hasty: Callable[..., Result]
) -> None:
    done = hasty(HASTY.replace(old, new))
    assert done.exit_code == PluginError.exit_code
    assert re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.output


def test_a_hook_of_a_later_version_may_be_optional(hasty: Callable[..., Result]) -> None:
    later = "\n\n@hookimpl(optionalhook=True)\ndef edgerec_later():\n    return {}\n"
    assert "22 of 23 checks passed" in hasty(HASTY + later).stdout


def test_a_reason_that_many_checks_give_is_told_once(hasty: Callable[..., Result]) -> None:
    done = hasty(HASTY.replace("Clock()", "type('Slim', (), {'name': 'slim'})()"))
    reasons = re.findall(r"^  FAIL .*no attribute 'initial'.*$", done.stdout, re.MULTILINE)
    assert len(reasons) == 2
    assert re.match(r"  FAIL  \d+ more checks, for the same reason: raises AttributeError", reasons[1])
    assert "there is no method `initial`" not in reasons[0]
    assert re.search(r"hint: begin with interface, \w+, \w+; in pytest", done.stderr)


def test_the_check_command_knows_what_it_cannot_check() -> None:
    assert invoke("check", "nothing").exit_code == 71
    sound = invoke("check", "quality")
    assert (sound.exit_code, sound.stdout.splitlines()[0]) == (0, "filter quality: 13 of 13 checks passed")
