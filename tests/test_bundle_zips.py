"""Hostile zips, and fuzz over everything that a bundle is made of: never anything but a BundleError."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import (
    bundle_files,
    contents,
    golden,
    manifest_of,
    npy,
    write_folder,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerec.bundle import archive, load_bundle
from edgerec.bundle.arrays import map_array
from edgerec.errors import BundleError, BundleInvalid

N, DIM = 60, 8
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def files() -> Files:
    return bundle_files(N, DIM)


# -- zips --------------------------------------------------------------------------------------------------------


def zip_bytes(files: Files, tamper: Callable[[zipfile.ZipFile], None] = lambda _: None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive_:
        for name, data in {**files, "manifest.json": json.dumps(manifest_of(files, N, DIM)).encode()}.items():
            archive_.writestr(name, data)
        tamper(archive_)
    return buffer.getvalue()


def member(name: str, data: bytes = b"x", **fields: Any) -> Callable[[zipfile.ZipFile], None]:
    def add(archive_: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        for key, value in fields.items():
            setattr(info, key, value)
        archive_.writestr(info, data)

    return add


def comment(archive_: zipfile.ZipFile) -> None:
    archive_.comment = b"hello"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (member("items/bias.npy"), "twice in the zip"),
        (member("../../escape.json"), "not a file name"),
        (member("/etc/escape.json"), "not a file name"),
        (member("items/../../escape.json"), "not a file name"),
        (member("ITEMS/bias.npy"), "one name where case"),
        (member("link.json", external_attr=(stat.S_IFLNK | 0o777) << 16), "link or special"),
        (member("pipe.json", external_attr=(stat.S_IFIFO | 0o644) << 16), "link or special"),
        (member("odd.json\0.txt"), "odd"),
        (member("empty/", b""), "nothing of the bundle"),
        (member("x.json", compress_type=zipfile.ZIP_BZIP2), "unknown method"),
        (member("x.json", compress_type=zipfile.ZIP_LZMA), "unknown method"),
        (comment, "comment"),
    ],
)
def test_a_hostile_zip_is_refused(
    tamper: Callable[[zipfile.ZipFile], None], reason: str, files: Files, tmp_path: Path
) -> None:
    (tmp_path / "bad.edgerec").write_bytes(zip_bytes(files, tamper))
    with pytest.raises(BundleInvalid, match=reason):
        load_bundle(tmp_path / "bad.edgerec", tmp_path / "deep" / "data")
    assert contents(tmp_path) == {"bad.edgerec"}


def test_an_encrypted_zip_is_refused(files: Files, tmp_path: Path) -> None:
    data = bytearray(zip_bytes(files))
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    (tmp_path / "bad.edgerec").write_bytes(data)
    with pytest.raises(BundleInvalid, match="encrypted"):
        load_bundle(tmp_path / "bad.edgerec", tmp_path / "data")


def test_folders_of_the_bundle_may_be_named_in_the_zip(files: Files, tmp_path: Path) -> None:
    (tmp_path / "x.edgerec").write_bytes(zip_bytes(files, member("items/", b"")))
    load_bundle(tmp_path / "x.edgerec", tmp_path / "data").close()


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("MAX_TOTAL", 4000, "would unpack to"), ("RATIO_FREE", 10, "would unpack to"), ("MAX_FILES", 5, "more than")],
)
def test_bombs_are_refused_before_anything_is_unpacked(
    limit: str, value: int, reason: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, limit, value)
    monkeypatch.setattr(archive, "MAX_RATIO", 2)
    (tmp_path / "bomb.edgerec").write_bytes(zip_bytes(files))
    with pytest.raises(BundleInvalid, match=reason):
        load_bundle(tmp_path / "bomb.edgerec", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_bomb_of_zeros_is_refused_by_its_ratio(files: Files, tmp_path: Path) -> None:
    bomb = {**files, "notes.txt": bytes(80 << 20)}
    path = write_zip(tmp_path / "bomb.edgerec", bomb, manifest_of(bomb, N, DIM))
    with pytest.raises(BundleInvalid, match="would unpack to"):
        load_bundle(path, tmp_path / "data")


def test_a_member_that_grows_beyond_its_stated_size_is_refused(files: Files, tmp_path: Path) -> None:
    """Both headers understate the size; what unpacks is longer."""
    lying = dict(files)
    lying["notes.txt"] = b"x" * 5000
    data = bytearray(zip_bytes(lying))
    for signature, offset, name_at in ((b"PK\x03\x04", 22, 30), (b"PK\x01\x02", 24, 46)):
        place = -1
        while True:
            place = data.index(signature, place + 1)
            if data[place + name_at : place + name_at + 9] == b"notes.txt":
                data[place + offset : place + offset + 4] = struct.pack("<I", 10)
                break
    (tmp_path / "bad.edgerec").write_bytes(data)
    with pytest.raises(BundleInvalid):
        load_bundle(tmp_path / "bad.edgerec", tmp_path / "data")
    assert contents(tmp_path / "data") == set() if (tmp_path / "data").exists() else True


# -- fuzz --------------------------------------------------------------------------------------------------------

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FUZZED = {**bundle_files(N, DIM), "golden.json": golden()}
Edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=0, max_size=3)), max_size=4)


def edited(data: bytes, edits: list[tuple[float, bytes]], cut: float) -> bytes:
    out = bytearray(data)
    for place, new in edits:
        at = int(place * len(out))
        out[at : at + max(len(new), 1)] = new
    return bytes(out[: int(cut * (len(out) + 1))])


@FUZZ
@given(edits=Edits, cut=st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0]))
def test_a_mutated_zip_never_raises_anything_but_a_bundle_error(
    edits: list[tuple[float, bytes]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x.edgerec").write_bytes(edited(zip_bytes(FUZZED), edits, cut))
    try:
        load_bundle(folder / "x.edgerec", folder / "data").close()
    except BundleError:
        assert not (folder / "data").exists() or contents(folder / "data") == set()


@FUZZ
@given(edits=Edits, cut=st.sampled_from([1.0, 1.0, 0.9, 0.1]))
def test_a_mutated_manifest_never_raises_anything_but_a_bundle_error(
    edits: list[tuple[float, bytes]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    raw = json.dumps(manifest_of(FUZZED, N, DIM)).encode()
    try:
        load_bundle(write_zip(folder / "x", FUZZED, edited(raw, edits, cut)), folder / "data").close()
    except BundleError:
        assert not (folder / "data").exists() or contents(folder / "data") == set()


@settings(FUZZ, max_examples=150)
@given(name=st.sampled_from(sorted(FUZZED)), edits=Edits, cut=st.sampled_from([1.0, 1.0, 0.9, 0.1]))
def test_a_mutated_file_with_a_matching_digest_never_raises_anything_but_a_bundle_error(
    name: str, edits: list[tuple[float, bytes]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    files = {**FUZZED, name: edited(FUZZED[name], edits, cut)}
    try:
        load_bundle(write_folder(folder / "x", files, manifest_of(files, N, DIM)), folder / "data").close()
    except BundleError:
        assert not (folder / "data").exists() or contents(folder / "data") == set()


@settings(FUZZ, max_examples=300)
@given(edits=Edits, cut=st.sampled_from([1.0, 1.0, 0.9, 0.3]))
def test_a_mutated_array_is_either_the_array_asked_for_or_a_bundle_error(
    edits: list[tuple[float, bytes]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "x.npy").write_bytes(edited(npy(np.zeros((3, 4), np.float32)), edits, cut))
    try:
        array = map_array(folder, "x.npy", "<f4", (3, None))
    except BundleError:
        return
    assert array.dtype == np.float32
    assert array.shape[0] == 3
    assert not array.flags.writeable
