"""A PostgreSQL server of a test's own, in a folder, on a socket; where the machine has one installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class PostgreSQL:
    """Starts it; skips the test where PostgreSQL or its driver is not installed."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg")
        self._bin = next((place for place in _PLACES if (place / "initdb").exists()), None)
        self._as = self._account()
        if self._bin is None or self._as is None:
            pytest.skip("no PostgreSQL here")
        # A socket's path must be short, and the server's own account must get there.
        self.folder = Path(tempfile.mkdtemp(prefix="edgerec-pg-", dir="/tmp"))
        if self._as:
            shutil.chown(self.folder, "postgres")
        self._data = self.folder / "data"
        self._run("initdb", "-D", self._data, "-U", "edgerec", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o", options, "start")
        self._made: set[str] = set()

    def database(self, name: str) -> str:
        """The URL of a database, made where it is not there."""
        if name not in self._made:
            self._run("createdb", "-h", self.folder, "-U", "edgerec", name)
            self._made.add(name)
        return f"postgresql://edgerec@/{name}?host={self.folder}"

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _account() -> Sequence[str] | None:
        """What to put before a command: PostgreSQL does not run as root."""
        if os.geteuid() != 0:
            return ()
        known = "postgres:" in Path("/etc/passwd").read_text()
        return ("runuser", "-u", "postgres", "--") if known and shutil.which("runuser") else None

    def _run(self, program: str, *options: str | Path) -> None:
        assert self._bin is not None
        assert self._as is not None
        command = [*self._as, str(self._bin / program), *map(str, options)]
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
        with (self.folder / "out").open("ab") as out:
            subprocess.run(command, check=True, stdout=out, stderr=out, env=environment, cwd="/", timeout=60)
