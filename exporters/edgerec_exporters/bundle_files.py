"""The files of a bundle: written with their digests, told golden cases and stories, packed into a zip."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle import FileEntry, Manifest, load_bundle
from edgerec.bundle.manifest import dump
from edgerec_exporters.golden import encoder_cases, to_json

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Stories = Callable[[Path], list[dict[str, Any]]]
"""Given the folder of a finished bundle whose stories are empty, tells the golden stories."""


def write_files(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Writes files, and the manifest with their digests added to those it has."""
    entries = dict(manifest.files)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        entries[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    (folder / "manifest.json").write_text(dump(replace(manifest, files=entries)), "utf-8")


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an .npy file of format 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def tell(folder: Path, stories: Stories | None, cache: Path) -> None:
    """Computes golden.json on the bundle itself, opened as a device opens it, and puts it in."""
    with load_bundle(folder, cache) as bundle:
        manifest = bundle.manifest
        cases = encoder_cases(bundle)
        told = stories(folder) if stories else []
    write_files(folder, {"golden.json": to_json(cases, told)}, manifest)


def pack(folder: Path, packed: Path) -> Path:
    """A zip with fixed times and order: the same files give the same bytes."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, (folder / name).read_bytes(), compresslevel=9)
    return packed
