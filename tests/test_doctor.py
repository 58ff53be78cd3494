"""`edgerec doctor`: says what is wrong and what to do, repairs on request, exits for scripts."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from click.testing import CliRunner, Result
from conftest import Opener, same_state

from edgerec import doctor
from edgerec.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def findings(result: Result) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(result.stdout)["findings"]:
        found.setdefault(one["name"], []).append(one)
    return found


@pytest.fixture
def state(opener: Opener, tmp_path: Path) -> Path:
    rec = opener()
    for n in range(20):
        rec.record(f"i{n}", "click", event_id=f"e{n}")
    rec.close()
    (tmp_path / "state").chmod(0o700)
    return tmp_path / "state"


def test_a_sound_device_has_no_failures(state: Path, bundle_path: Path) -> None:
    result = run("--state", state, "--bundle", bundle_path, "--json")
    found = findings(result)
    assert result.exit_code == 0, result.output
    assert {"versions", "telemetry", "plugins", "space", "permissions", "store", "bundle"} == set(found)
    assert "20 events" in found["store"][0]["message"]
    assert "onnxruntime" in found["versions"][0]["message"]
    assert {one["status"] for of in found.values() for one in of} == {"ok"}
    text = run("--state", state, "--bundle", bundle_path)
    assert text.stdout.splitlines()[0].startswith("ok       versions")


def test_without_a_state_only_the_installation_is_looked_at() -> None:
    result = run("--json")
    assert (result.exit_code, set(findings(result))) == (0, {"versions", "telemetry", "plugins"})


def test_damage_is_named_and_repaired(state: Path, bundle_path: Path) -> None:
    with sqlite3.connect(state / "edgerec.db") as connection:
        connection.execute("UPDATE events SET kind = 'purchase' WHERE seq = 3")
    connection.close()
    before = (state / "edgerec.db").read_bytes()
    result = run("--state", state, "--json")
    assert result.exit_code == 53
    assert findings(result)["store"][0]["hint"].startswith("edgerec doctor --repair")
    assert (state / "edgerec.db").read_bytes() == before, "looking changes nothing"
    repaired = run("--state", state, "--bundle", bundle_path, "--repair", "--json")
    assert repaired.exit_code == 0, repaired.output
    assert "19 events" in findings(repaired)["store"][0]["message"]
    assert any("19 events recovered" in one for one in json.loads(repaired.stdout)["repaired"])
    assert findings(run("--state", state, "--json"))["quarantine"][0]["status"] == "warning"


def test_what_is_recovered_is_learned_by_the_apps_own_settings(
    opener: Opener, tmp_path: Path, state: Path, bundle_path: Path
) -> None:
    (tmp_path / "app.toml").write_text('[learning]\nupdater = "foldin"\n')
    with sqlite3.connect(state / "edgerec.db") as connection:
        connection.execute("UPDATE events SET kind = 'purchase' WHERE seq = 3")
    connection.close()
    (state / "quarantine").mkdir()
    (state / "quarantine" / "7").mkdir()
    (state / "quarantine" / "7" / "recovered.json").write_bytes(b"{")
    result = run("--state", state, "--bundle", bundle_path, "--config", tmp_path / "app.toml", "--repair", "--json")
    assert result.exit_code == 0, result.output
    snapshot = opener(config=tmp_path / "app.toml")._device.snapshot()
    assert snapshot.learned.steps == 19
    assert same_state(snapshot.learned, snapshot.engine.replay(opener()._device.events(), obey=True).learned)


def test_an_index_that_disagrees_with_its_table_is_found(state: Path, bundle_path: Path) -> None:
    with sqlite3.connect(state / "edgerec.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events'")
        connection.execute("PRAGMA writable_schema = OFF")
    connection.close()
    assert run("--state", state).exit_code == 53
    assert run("--state", state, "--bundle", bundle_path, "--repair").exit_code == 0
    assert findings(run("--state", state, "--json"))["store"][0]["message"].startswith("sound: 20 events")


def test_a_bundle_whose_bytes_changed_is_found(opener: Opener, tmp_path: Path, state: Path) -> None:
    rec = opener()
    rec.install(tiny_bundle(tmp_path / "second.edgerec", version=2))
    installed = rec._device.snapshot().engine.bundle.path
    rec.close()
    vectors = installed / "items" / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    result = run("--state", state, "--json")
    assert result.exit_code == 22
    assert [one["message"] for one in findings(result)["bundle"] if "vectors.npy" in one["message"]]


def test_permissions_and_space_are_looked_at(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.chmod(0o755)
    (state / "edgerec.db").chmod(0o644)
    assert findings(run("--state", state, "--json"))["permissions"][0]["status"] == "warning"
    monkeypatch.setattr(doctor, "NO_SPACE", 1 << 60)
    result = run("--state", state, "--json")
    assert (result.exit_code, findings(result)["space"][0]["status"]) == (50, "failure")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("--state", tmp_path / "none", "--json")
    assert result.exit_code == 50
    assert "no data directory" in findings(result)["folder"][0]["message"]


def test_repairing_needs_the_bundle(state: Path) -> None:
    result = run("--state", state, "--repair")
    assert result.exit_code == 40
    assert "--bundle" in result.stderr


def test_it_says_when_onnxruntime_was_imported_too_early() -> None:
    script = """
import onnxruntime
from edgerec import doctor
print(*[one.status for one in doctor.examine() if one.name == "telemetry"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "warning\n"
