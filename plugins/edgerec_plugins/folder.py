"""Transport `folder`: deltas become files `ID.delta` in a folder, from where something else carries them on.

A file appears whole or not at all: it is written under a name that begins with a dot, brought to the disk, and renamed.
What a killed process leaves under such a name is no delta, and is nobody's harm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgerec.deltas import TransportError
from edgerec.errors import ConfigError
from edgerec.files import write_private
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, TransportFactory

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class Folder:
    name = "folder"

    def __init__(self, settings: Settings) -> None:
        """`path`: the folder; it is made with the first delta. Raises ConfigError."""
        path = settings.get("path")
        if not isinstance(path, str) or not path:
            raise ConfigError(f"folder: 'path' cannot be {path!r}", hint="it must be a folder's path")
        if unknown := sorted(set(settings) - {"path"}):
            raise ConfigError(f"folder: unknown setting {', '.join(unknown)}", hint="known: path")
        self.folder = Path(path)

    def send(self, payload: bytes, *, delta_id: str) -> None:
        """Nothing happens if that delta is there already. Raises TransportError for an id that is no plain file name,
        one that is there with other bytes, and whatever the disk refuses.
        """
        if not PLAIN.fullmatch(delta_id):
            raise TransportError(f"folder: {delta_id!r} is no plain file name", hint="letters, digits, . _ -")
        target = self.folder / f"{delta_id}.delta"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                write_private(target, payload)
            elif target.read_bytes() != payload:
                raise TransportError(f"folder: delta {delta_id} is there already, with other bytes")
        except OSError as error:
            raise TransportError(f"folder: {error.strerror or error}", hint=f"look at {self.folder}") from error


@hookimpl
def edgerec_transports() -> Mapping[str, TransportFactory]:
    return {Folder.name: Folder}
