"""The transport `folder`: whole files or none, the same delta once, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgerec.checks import run_checks
from edgerec.deltas import TransportError
from edgerec.errors import ConfigError, EdgeRecError, PluginNotFound
from edgerec.hookspecs import hookimpl
from edgerec.plugins import Plugins
from edgerec_plugins import folder
from edgerec_plugins.folder import Folder

PAYLOAD = bytes(range(256)) * 300


def folder_at(path: Path) -> Folder:
    return Folder({"path": str(path)})


def test_it_conforms(tmp_path: Path) -> None:
    results = run_checks("transport", Folder, {"path": str(tmp_path / "out")})
    assert [one for one in results if not one.ok] == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out"], "no odd id leads out of the folder"


def test_a_payload_arrives_byte_for_byte(tmp_path: Path) -> None:
    for name, payload in (("a", b""), ("b", PAYLOAD), ("c.1-x_Y", b"\r\n\0")):
        folder_at(tmp_path / "new" / "out").send(payload, delta_id=name)
        assert (tmp_path / "new" / "out" / f"{name}.delta").read_bytes() == payload
    assert len(list((tmp_path / "new" / "out").iterdir())) == 3, "and nothing else is left"


def test_the_same_delta_again_changes_nothing_and_another_one_is_refused(tmp_path: Path) -> None:
    one = folder_at(tmp_path)
    one.send(PAYLOAD, delta_id="d")
    before = (tmp_path / "d.delta").stat()
    one.send(PAYLOAD, delta_id="d")
    folder_at(tmp_path).send(PAYLOAD, delta_id="d")
    after = (tmp_path / "d.delta").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    with pytest.raises(TransportError, match="with other bytes"):
        one.send(PAYLOAD + b"!", delta_id="d")
    assert (tmp_path / "d.delta").read_bytes() == PAYLOAD


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../d", "a/b", "a\\b", "/d", "a b", "a\n", "ü", "x" * 129])
def test_an_id_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TransportError, match="no plain file name"):
        folder_at(tmp_path / "out").send(b"x", delta_id=name)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from edgerec_plugins.folder import Folder
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Folder({"path": sys.argv[1]}).send(b"half", delta_id="d")
"""


def test_a_kill_before_the_rename_leaves_no_delta_and_the_next_send_arrives(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    assert list(tmp_path.glob("*.delta")) == []
    folder_at(tmp_path).send(b"half", delta_id="d")
    assert (tmp_path / "d.delta").read_bytes() == b"half"


def test_what_the_disk_refuses_is_a_transport_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TransportError, match="look at"):
        folder_at(tmp_path / "file").send(b"x", delta_id="d")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TransportError, match="No space left"):
        folder_at(tmp_path / "out").send(b"x", delta_id="d")
    assert list((tmp_path / "out").iterdir()) == []


def test_settings(tmp_path: Path) -> None:
    for settings, said in (({}, "'path' cannot be None"), ({"path": 3}, "3"), ({"path": "x", "mode": 1}, "mode")):
        with pytest.raises(ConfigError, match=said):
            Folder(settings)


def test_it_is_handed_out_by_name(tmp_path: Path) -> None:
    plugins = Plugins([folder])
    assert plugins.summary()["loaded"][folder.__name__] == ["transport folder"]
    plugins.transport("folder", {"path": str(tmp_path)}).send(b"x", delta_id="d")
    assert (tmp_path / "d.delta").read_bytes() == b"x"
    with pytest.raises(PluginNotFound, match="a transport named 'pigeon'"):
        plugins.transport("pigeon", {})
    plugins.close()


def test_a_foreign_transport_is_passed_what_it_is_to_send_and_its_errors_come_back() -> None:
    sent: list[tuple[bytes, str]] = []

    class Foreign:
        name = "foreign"

        def send(self, payload: bytes, *, delta_id: str) -> None:
            if not payload:
                raise TransportError("nothing to send")
            sent.append((payload, delta_id))

    @hookimpl
    def edgerec_transports() -> dict[str, Any]:
        return {"foreign": lambda settings: Foreign()}

    plugins = Plugins([SimpleNamespace(__name__="foreign", edgerec_transports=edgerec_transports)])
    one = plugins.transport("foreign", {})
    one.send(b"x", delta_id="d")
    assert sent == [(b"x", "d")]
    with pytest.raises(EdgeRecError, match="nothing to send"):
        one.send(b"", delta_id="d")
    plugins.close()
