"""Taking a bundle out of its zip, or looking over its folder, without trusting a single name or size in it."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec.bundle.manifest import FileEntry, Manifest
from edgerec.errors import BundleInvalid
from edgerec.files import sync

if TYPE_CHECKING:
    import zipfile

MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 20
MAX_FILES = 64
MAX_TOTAL = 1 << 33
MAX_RATIO = 100
RATIO_FREE = 1 << 26  # a total below this may shrink to any size: an array of zeros does
MAX_DIRECTORY = MAX_FILES * 1024
SUFFIXES = (".json", ".jsonl", ".npy", ".onnx", ".txt", ".md")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}){0,3}")
_END = b"PK\x05\x06"
_ZIP64 = b"PK\x06\x07"
_END_SIZE = 22
_CHUNK = 1 << 20


def check_names(names: Iterable[str]) -> None:
    """Refuses names that leave the bundle, hide in it, or fall together on some file systems."""
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name) or not name.endswith(SUFFIXES):
            raise BundleInvalid(f"{name!r} is not a file name that a bundle may hold")
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise BundleInvalid(f"{name!r} and {other!r} are one name where case does not count")
    folders = {"/".join(parts[:depth]) for parts in (k.split("/") for k in seen) for depth in range(1, len(parts))}
    if both := folders & set(seen):
        raise BundleInvalid(f"{min(both)!r} is both a file and a folder")


def check_listed(manifest: Manifest) -> None:
    """The manifest's own list of files: bounded, named soundly, not naming itself."""
    names = list(manifest.files)
    if len(names) >= MAX_FILES:
        raise BundleInvalid(f"{MANIFEST}: lists {len(names)} files, more than {MAX_FILES - 1}")
    check_names([*names, MANIFEST] if MANIFEST not in names else names)
    if MANIFEST in names:
        raise BundleInvalid(f"{MANIFEST}: lists itself")
    if sum(entry.size for entry in manifest.files.values()) > MAX_TOTAL:
        raise BundleInvalid(f"{MANIFEST}: the files make more than {MAX_TOTAL} bytes")


def check_complete(found: Iterable[str], manifest: Manifest) -> None:
    """Exactly the listed files and the manifest."""
    have, want = set(found), {*manifest.files, MANIFEST}
    if missing := want - have:
        raise BundleInvalid(f"{min(missing)}: listed in the manifest but missing")
    if extra := have - want:
        raise BundleInvalid(f"{min(extra)!r}: in the bundle but not listed in the manifest")


def read_bounded(file: Any, limit: int, name: str) -> bytes:
    """All bytes of an open file, or BundleInvalid when there are more than `limit`."""
    data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise BundleInvalid(f"{name}: larger than {limit} bytes")
    return data


class Archive:
    """A zip whose directory was checked; members are read in bounded pieces. Use as a context manager.

    Zip64, comments, encryption, links, folders with content and methods other than stored and deflate are
    refused.
    """

    def __init__(self, path: Path) -> None:
        import zipfile

        self.path = path
        _check_end(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise BundleInvalid(f"{path.name}: not a readable zip: {error}") from None
        try:
            self._members = self._check_members()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The files inside, the manifest among them."""
        return list(self._members)

    def manifest_bytes(self) -> bytes:
        """The raw manifest.json. Raises BundleInvalid where there is none."""
        if MANIFEST not in self._members:
            raise BundleInvalid(f"{self.path.name}: holds no {MANIFEST}")
        info = self._members[MANIFEST]
        if info.file_size > MAX_MANIFEST:
            raise BundleInvalid(f"{MANIFEST}: larger than {MAX_MANIFEST} bytes")
        return b"".join(self._pieces(info, MAX_MANIFEST))

    def unpack(self, name: str, entry: FileEntry, folder: Path) -> None:
        """Writes one member into `folder`, checking size and digest as it goes, and syncs it."""
        info = self._members[name]
        if info.file_size != entry.size:
            raise BundleInvalid(f"{name}: {info.file_size} bytes in the zip, {entry.size} in the manifest")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        import hashlib

        digest = hashlib.sha256()
        with target.open("xb") as file:
            for piece in self._pieces(info, entry.size):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != entry.sha256:
            raise BundleInvalid(f"{name}: sha256 differs from the manifest")
        sync(target)

    def _pieces(self, info: zipfile.ZipInfo, limit: int) -> Iterable[bytes]:
        import zipfile
        import zlib

        total = 0
        try:
            with self._zip.open(info) as file:
                while piece := file.read(min(_CHUNK, limit - total + 1)):
                    total += len(piece)
                    if total > limit:
                        raise BundleInvalid(f"{info.filename}: larger than it says")
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise BundleInvalid(f"{info.filename}: damaged in the zip: {error}") from None

    def _check_members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for info in self._zip.infolist():
            _check_member(info)
            if info.is_dir():
                folders.add(info.filename)
            elif members.setdefault(info.filename, info) is not info:
                raise BundleInvalid(f"{info.filename!r}: twice in the zip")
        check_names(members)
        if stray := [f for f in folders if not any(name.startswith(f) for name in members)]:
            raise BundleInvalid(f"{min(stray)!r}: a folder with nothing of the bundle in it")
        total = sum(info.file_size for info in members.values())
        packed = max(sum(info.compress_size for info in members.values()), 1)
        if total > MAX_TOTAL or (total > RATIO_FREE and total / packed > MAX_RATIO):
            raise BundleInvalid(f"{self.path.name}: would unpack to {total} bytes from {packed}")
        return members


def _check_end(path: Path) -> None:
    """Bounds the zip's directory before zipfile reads it: it builds an object per entry, however many."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _END_SIZE - 20, 0))
        tail = file.read()
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or end[:4] != _END:
        raise BundleInvalid(f"{path.name}: not a zip (or one with a comment, or cut short)")
    count, directory = struct.unpack("<HI", end[10:16])
    if tail[:4] == _ZIP64 or count > MAX_FILES or directory > MAX_DIRECTORY:
        raise BundleInvalid(f"{path.name}: zip64, or more than {MAX_FILES} entries")


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.filename != info.orig_filename:
        raise BundleInvalid(f"{info.orig_filename!r}: not a name that a bundle may hold")
    if info.flag_bits & 0x1 or info.compress_type not in (0, 8):
        raise BundleInvalid(f"{info.filename!r}: encrypted, or packed by an unknown method")
    if info.is_dir():
        if kind not in (0, stat.S_IFDIR) or info.file_size or not _NAME.fullmatch(info.filename[:-1]):
            raise BundleInvalid(f"{info.filename!r}: not a plain folder")
    elif kind not in (0, stat.S_IFREG):
        raise BundleInvalid(f"{info.filename!r}: a link or special file")


def folder_names(root: Path) -> list[str]:
    """Names of all files below `root`, with '/' between folders. Links and special files are refused."""
    names: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                    raise BundleInvalid(f"{name!r}: a link or special file")
                if entry.is_dir():
                    pending.append(f"{name}/")
                else:
                    names.append(name)
                if len(names) + len(pending) > 2 * MAX_FILES:
                    raise BundleInvalid(f"{root.name}: holds more than {MAX_FILES} files")
    return names
