"""A frozen app, built by PyInstaller with the hooks that edgerec ships, run as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle

import edgerec
import edgerec_plugins

pytest.importorskip("PyInstaller", reason="needs PyInstaller (pip install 'edgerec[dev]')")

TESTS = Path(__file__).parent
OUTSIDER = "edgerec_counting_updater"
MOST_BYTES = 250e6
"""Of the app's folder: numpy, onnxruntime and Python take about 130 MB on Linux; PyTorch alone would take 640 more."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable, its bundle beside it. An outsider's plugin is installed where the app is frozen."""
    root = tmp_path_factory.mktemp("frozen")
    site = root / "site"
    shutil.copytree(TESTS / "thirdparty" / OUTSIDER, site / OUTSIDER)
    metadata = site / f"{OUTSIDER}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: edgerec-counting-updater\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[edgerec]\ncounting = {OUTSIDER}\n")
    homes = {str(Path(str(package.__file__)).parent.parent) for package in (edgerec, edgerec_plugins)}
    command = [sys.executable, "-m", "PyInstaller", "--onedir", "--noconfirm", "--log-level", "ERROR"]
    for option in ("distpath", "workpath", "specpath"):
        command += [f"--{option}", str(root / option)]
    for home in homes:  # an editable install is not seen by PyInstaller's search for modules
        command += ["--paths", home]
    environment = {**os.environ, "PYTHONPATH": str(site), "PYINSTALLER_CONFIG_DIR": str(root / "cache")}
    subprocess.run([*command, "--name", "shop", str(TESTS / "frozen_app.py")], check=True, env=environment)
    tiny_bundle(root / "distpath" / "shop" / "tiny.edgerec")
    return root / "distpath" / "shop" / "shop"


def start(app: Path, state: Path, *plugins: str, mode: str = "once") -> dict[str, Any]:
    """What one start of the app printed: in an empty environment, from another folder."""
    command = [str(app), mode, str(state), *plugins]
    done = subprocess.run(command, cwd=state.parent, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_hooks_are_announced() -> None:
    (point,) = [one for one in entry_points(group="pyinstaller40") if one.dist and one.dist.name == "edgerec"]
    (folder,) = point.load()()
    assert sorted(path.name for path in Path(folder).glob("hook-*.py")) == ["hook-edgerec.py", "hook-onnxruntime.py"]


def test_a_frozen_app_recommends_records_and_learns_across_restarts(app: Path, tmp_path: Path) -> None:
    first = start(app, tmp_path / "state")
    assert (len(first["items"]), first["status"], first["learned"]) == (3, "stored", True)
    assert first["purchases"] == [0, 1]
    assert 0 == first["vector_norm"][0] < first["vector_norm"][1]
    second = start(app, tmp_path / "state")
    assert second["learned"]
    assert second["purchases"] == [1, 2]
    assert second["vector_norm"][0] == first["vector_norm"][1]
    assert second["vector_norm"][1] not in (0, second["vector_norm"][0])
    assert first["items"][0] not in second["items"], "what was bought is hidden"


def test_plugins_are_discovered_and_may_be_named(app: Path, tmp_path: Path) -> None:
    everything = start(app, tmp_path / "all")
    ours = {one.name for one in entry_points(group="edgerec") if one.value.startswith("edgerec_plugins.")}
    assert {*everything["plugins"]["loaded"]} >= {*ours, "counting"}
    assert everything["plugins"]["broken"] == {}
    for names in (["sgd"], ["edgerec_plugins.sgd"], ["edgerec_plugins.foldin", "sgd", "counting"]):
        told = start(app, tmp_path / "-".join(names), *names)
        assert told["updater"] == "sgd"
        assert len(told["plugins"]["loaded"]) == len(names)
        assert told["plugins"]["broken"] == {}


@pytest.mark.parametrize("mode", ["spawn", "fork"])
def test_a_child_process_of_a_frozen_app_shares_the_store(app: Path, tmp_path: Path, mode: str) -> None:
    told = start(app, tmp_path / "state", "sgd", mode=mode)
    assert told["purchases"] == ([1, 2] if mode == "fork" else [0, 1])


def test_nothing_of_the_workshop_is_bundled(app: Path, tmp_path: Path) -> None:
    assert start(app, tmp_path / "state", "sgd")["bundled"] == []
    assert sum(path.stat().st_size for path in app.parent.rglob("*") if not path.is_symlink()) < MOST_BYTES
