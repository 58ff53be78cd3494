"""Taking a bundle out of its zip, or looking over its folder, without trusting a single name or size in it."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgerec.bundle.manifest import FileEntry, Manifest
from edgerec.bundle.texts import shown
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
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # on Windows
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}){0,3}")
_END = b"PK\x05\x06"
_ZIP64 = b"PK\x06\x07"
_END_SIZE = 22
_MEMBER_SIZE = 30
_CHUNK = 1 << 20


def check_names(names: Iterable[str]) -> None:
    """Refuses names that leave the bundle, hide in it, or fall together on some file systems."""
    seen: dict[str, str] = {}
    files, folders = set(), set()
    for name in names:
        parts = name.split("/")
        devices = any(part.partition(".")[0].casefold() in _DEVICES for part in parts)
        if not _NAME.fullmatch(name) or not name.endswith(SUFFIXES) or devices:
            raise BundleInvalid(f"{shown(name)} is not a file name that a bundle may hold")
        files.add(name)
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        folders |= above
        for one in (name, *above):
            if (other := seen.setdefault(one.casefold(), one)) != one:
                raise BundleInvalid(f"{shown(one)} and {shown(other)} are one name where case does not count")
    if both := folders & files:
        raise BundleInvalid(f"{shown(min(both))} is both a file and a folder")


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
        raise BundleInvalid(f"{shown(min(extra))}: in the bundle but not listed in the manifest")


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
        self._file = path.open("rb")  # once, so that what was looked at is what is read
        try:
            self._size = _check_end(self._file, path.name)
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._check_members()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            self._file.close()
            raise BundleInvalid(f"{path.name}: not a readable zip: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

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
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError):
            raise BundleInvalid(f"{info.filename}: damaged in the zip") from None

    def _check_members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for info in self._zip.infolist():
            _check_member(info)
            if info.is_dir():
                folders.add(info.filename)
            elif members.setdefault(info.filename, info) is not info:
                raise BundleInvalid(f"{shown(info.filename)}: twice in the zip")
        if len(members) + len(folders) > MAX_FILES:
            raise BundleInvalid(f"{self.path.name}: more than {MAX_FILES} entries")
        check_names(members)
        if stray := [f for f in folders if not any(name.startswith(f) for name in members)]:
            raise BundleInvalid(f"{shown(min(stray))}: a folder with nothing of the bundle in it")
        total = sum(info.file_size for info in members.values())
        self._check_places(members.values())
        packed = max(sum(info.compress_size for info in members.values()), 1)
        if total > MAX_TOTAL or (total > RATIO_FREE and total / packed > MAX_RATIO):
            raise BundleInvalid(f"{self.path.name}: would unpack to {total} bytes from {packed}")
        return members

    def _check_places(self, members: Iterable[zipfile.ZipInfo]) -> None:
        """Every member lies inside the file, behind the one before: bytes that count twice would hide a bomb."""
        free = 0
        for info in sorted(members, key=lambda info: info.header_offset):
            if info.header_offset < free:
                raise BundleInvalid(f"{shown(info.filename)}: overlaps another member of the zip, or lies outside it")
            free = info.header_offset + _MEMBER_SIZE + len(info.orig_filename.encode()) + info.compress_size
        if free > self._size:
            raise BundleInvalid(f"{self.path.name}: a member ends outside the zip")


def _check_end(file: BinaryIO, name: str) -> int:
    """Bounds the zip's directory before zipfile reads it: it builds an object per entry, however many. The size."""
    size = file.seek(0, 2)
    file.seek(max(size - _END_SIZE - 20, 0))
    tail = file.read()
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or end[:4] != _END:
        raise BundleInvalid(f"{name}: not a zip (or one with a comment, or cut short)")
    count, directory = struct.unpack("<HI", end[10:16])
    if tail[:4] == _ZIP64 or count > MAX_FILES or directory > MAX_DIRECTORY:
        raise BundleInvalid(f"{name}: zip64, or more than {MAX_FILES} entries")
    return size


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    name = shown(info.orig_filename)
    if not info.filename or info.filename != info.orig_filename:
        raise BundleInvalid(f"{name}: not a name that a bundle may hold")
    if info.flag_bits & 0x1 or info.compress_type not in (0, 8):
        raise BundleInvalid(f"{name}: encrypted, or packed by an unknown method")
    if info.is_dir():
        if kind not in (0, stat.S_IFDIR) or info.file_size or not _NAME.fullmatch(info.filename[:-1]):
            raise BundleInvalid(f"{name}: not a plain folder")
    elif kind not in (0, stat.S_IFREG):
        raise BundleInvalid(f"{name}: a link or special file")


def read_plain(path: Path, limit: int) -> bytes:
    """All bytes of a plain file of at most `limit`; a link, a pipe or a device is refused, not waited for."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise BundleInvalid(f"{path.name}: a link or special file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        return read_bounded(file, limit, path.name)


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
                    raise BundleInvalid(f"{shown(name)}: a link or special file")
                if entry.is_dir():
                    pending.append(f"{name}/")
                else:
                    names.append(name)
                if len(names) + len(pending) > 2 * MAX_FILES:
                    raise BundleInvalid(f"{root.name}: holds more than {MAX_FILES} files")
    return names
