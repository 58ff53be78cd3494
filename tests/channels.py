"""Channels for tests: a real repository, a static file server on loopback, and a mirror in an attacker's hands."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bundles import tiny_bundle
from tuf.api.metadata import Metadata, MetaFile
from tuf.api.serialization.json import JSONSerializer

from edgerec_exporters.channel import publishing
from edgerec_exporters.channel.draft import Clock, utc_now
from edgerec_exporters.channel.keys import KeyRing

Change = Callable[[Any], object]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    url: str


class StaticFiles(SimpleHTTPRequestHandler):
    """Any static file server, silent."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, handler: type[StaticFiles] = StaticFiles) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ring(*folders: Path, files: Iterable[Path] = ()) -> KeyRing:
    return KeyRing(folders, files, passphrase=str)


def days_ago(days: float) -> Clock:
    return lambda: datetime.now(UTC) - timedelta(days=days)


def make_channel(
    home: Path, keys: Path, *, quorums: Mapping[str, publishing.Quorum] | None = None, now: Clock = utc_now
) -> Path:
    publishing.init(home, keys, quorums=quorums or {}, days={}, now=now)
    return home


def publish(home: Path, keys: Path, version: int, *, now: Clock = utc_now, **changes: Any) -> None:
    """Publishes a small bundle, other vectors for every version."""
    bundle = tiny_bundle(home.parent / f"v{version}.edgerec", seed=version, version=version, **changes)
    publishing.publish(home, bundle, ring(keys), now=now)


class Mirror:
    """A copy of a channel that an attacker serves, who may hold some of its keys."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self.folder, self.keys = folder, keys

    def __truediv__(self, name: str) -> Path:
        return self.folder / "metadata" / name

    def show(self, channel: Path) -> None:
        """Serves this state of a channel from now on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(channel, self.folder)

    def current(self, role: str) -> Path:
        """The file that devices take for a role."""
        if role == "timestamp":
            return self / "timestamp.json"
        if role == "root":
            return max((self / "").glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        versions = {"snapshot": read(self / "timestamp.json").signed.snapshot_meta.version}
        if role != "snapshot":
            versions[role] = read(self.current("snapshot")).signed.meta[f"{role}.json"].version
        return self / f"{versions[role]}.{role}.json"

    def bundle(self, version: int) -> Path:
        return next((self.folder / "targets" / "bundles").glob(f"*-{version}.edgerec"))

    def forge(self, changes: Mapping[str, Change], *, stolen: Iterable[str], keys_per_role: int = 9) -> None:
        """The next version of some roles and of those above that list them, signed with the keys of `stolen` roles."""
        edited = set(changes)
        edited |= {"snapshot"} if edited & {"targets", "bundles"} else set()
        edited |= {"timestamp"} if "snapshot" in edited else set()
        order = [role for role in ("targets", "bundles", "snapshot", "timestamp", "root") if role in edited]
        made = {role: read(self.current(role)) for role in order}
        for role, metadata in made.items():
            metadata.signed.version += 1
            for listed in ({"targets", "bundles"} & edited) if role == "snapshot" else ():
                metadata.signed.meta[f"{listed}.json"] = described(made[listed])
            if role == "timestamp" and "snapshot" in edited:
                metadata.signed.snapshot_meta = described(made["snapshot"])
            changes.get(role, lambda signed: None)(metadata.signed)
            metadata.signatures.clear()
            if role in stolen:
                sign(metadata, role, self.keys, keys_per_role)
            name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
            write(self / name, metadata)


def read(path: Path) -> Metadata[Any]:
    return Metadata.from_bytes(path.read_bytes())


def write(path: Path, metadata: Metadata[Any]) -> None:
    path.write_bytes(metadata.to_bytes(JSONSerializer(compact=True)))


def described(metadata: Metadata[Any]) -> MetaFile:
    data = metadata.to_bytes(JSONSerializer(compact=True))
    return MetaFile.from_data(metadata.signed.version, data, ["sha256"])


def sign(metadata: Metadata[Any], role: str, keys: Path, count: int = 9) -> None:
    """Signs with up to so many of a role's private keys."""
    files = sorted(keys.rglob(f"{role}-*.pem"))[:count]
    held = ring(files=files)
    for keyid in held.given:
        signer = held.signer(keyid)
        assert signer is not None
        metadata.sign(signer, append=True)
