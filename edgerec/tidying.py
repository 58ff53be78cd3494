"""Unpacked bundles in the data directory: held while somebody runs them, removed when nobody needs them any more."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from edgerec.bundle import Bundle, load_bundle
from edgerec.bundle.archive import MANIFEST
from edgerec.errors import BundleNotFound
from edgerec.files import exclusive, scratch

try:
    import fcntl
except ImportError:  # Windows has no flock, but does not move a folder either whose files somebody has mapped
    fcntl = None  # type: ignore[assignment]

_DIGEST = re.compile("[0-9a-f]{64}")
_TRIES = 3


class Hold:
    """A shared lock on an unpacked bundle, which every process sees, for as long as the object lives.

    Raises FileNotFoundError where the bundle was removed.
    """

    __slots__ = ("_handle",)

    def __init__(self, home: Path) -> None:
        self._handle = -1
        self._handle = os.open(home / MANIFEST, os.O_RDONLY)
        if fcntl is not None:
            with suppress(OSError):  # no locks on this file system: then nobody else gets one to remove it either
                fcntl.flock(self._handle, fcntl.LOCK_SH)
        os.stat(home / MANIFEST)  # who removed it meanwhile had a lock of its own until it was gone

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


def load_held(path: Path, data_dir: Path) -> Bundle:
    """`load_bundle`; what it unpacked into the data directory stays there for as long as the bundle is used."""
    for left in reversed(range(_TRIES)):
        try:
            return _held(load_bundle(path, data_dir), data_dir / "bundles")
        except BundleNotFound:  # removed just when it was opened: a zip is unpacked once more
            if not left or not path.exists():
                raise
    raise AssertionError


def _held(bundle: Bundle, home: Path) -> Bundle:
    try:
        if bundle.path.name == bundle.digest and home.exists() and bundle.path.parent.samefile(home):
            bundle.hold = Hold(bundle.path)
    except FileNotFoundError:
        raise BundleNotFound(f"{bundle.path.name}: removed while it was opened", hint="try again") from None
    return bundle


def unneeded(data_dir: Path, keep: Collection[str]) -> list[str]:
    """Digests of the unpacked bundles that are not among `keep`. Raises OSError."""
    try:
        names = os.listdir(data_dir / "bundles")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _DIGEST.fullmatch(name) and name not in keep)


def remove(data_dir: Path, digests: Collection[str]) -> list[str]:
    """Removes unpacked bundles, and their indexes, but those that anybody holds; returns the digests that went.

    Raises OSError; whatever was left is removed the next time.
    """
    home, indexes = data_dir / "bundles", data_dir / "index"
    with scratch(home) as waste, exclusive(home / ".settle.lock"):
        return [name for name in digests if _taken(home / name, indexes / f"{name}.db", waste / name)]


def _taken(folder: Path, index: Path, target: Path) -> bool:
    """Moves a folder that nobody holds out of the way; its index goes first, since it can be made again."""
    try:
        handle = os.open(folder / MANIFEST, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        index.unlink(missing_ok=True)
        folder.rename(target)
    except OSError:  # it is held, or, on Windows, open
        return False
    finally:
        os.close(handle)
    return True
