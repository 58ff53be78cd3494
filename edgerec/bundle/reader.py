"""Opens a bundle: verifies what it has not seen before, maps the arrays, hands out the model.

The first sight of a bundle in a `cache_dir` checks everything (digests, headers, values, the ONNX files);
afterwards sizes and the manifest's digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgerec.bundle.archive import (
    MANIFEST,
    MAX_MANIFEST,
    Archive,
    check_complete,
    check_listed,
    folder_names,
    read_bounded,
)
from edgerec.bundle.arrays import check_finite, check_range
from edgerec.bundle.manifest import Manifest, parse
from edgerec.bundle.opened import (
    BIAS,
    ENCODER,
    IDS,
    INDPTR,
    NEGATIVES,
    NEIGHBOURS,
    POPULARITY,
    REQUIRED,
    RETRIEVE,
    VECTORS,
    WEIGHTS,
    Bundle,
    Neighbours,
)
from edgerec.bundle.sessions import ENCODER_INPUTS
from edgerec.errors import BundleError, BundleInvalid, BundleNotFound, BundleUnsupported
from edgerec.files import exclusive, file_sha256, scratch, sha256, sync, write_whole
from edgerec.version import __version__

MAX_ONNX = 1 << 31
MAX_NEGATIVES = 1 << 24


def load_bundle(path: str | os.PathLike[str], cache_dir: str | os.PathLike[str]) -> Bundle:
    """Opens the bundle at `path`, a folder or its zip; zips and indexes are unpacked into `cache_dir`.

    Raises BundleNotFound, BundleInvalid or BundleUnsupported naming the file and the reason; then nothing
    half-written is left.
    """
    source, cache = Path(path), Path(cache_dir)
    with _translated(source):
        if source.is_dir():
            return _open_folder(source, cache)
        if source.is_file():
            return _open_zip(source, cache)
    raise BundleNotFound(f"no bundle at {source}", hint="a folder, or an .edgerec file")


def verify(path: str | os.PathLike[str]) -> Manifest:
    """Checks every byte of the bundle at `path`, whatever was checked before; returns its manifest."""
    import tempfile

    with tempfile.TemporaryDirectory() as cache, load_bundle(path, cache) as bundle:
        return bundle.manifest


@contextmanager
def _translated(source: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BundleNotFound(f"{source.name}: {error.filename} is missing") from None
    except OSError as error:
        raise BundleError(
            f"{source.name}: {error}", hint="are the files readable, and is there space in the data folder?"
        ) from error


def _open_zip(source: Path, cache: Path) -> Bundle:
    with Archive(source) as archive:
        raw = archive.manifest_bytes()
        manifest, digest = _manifest(raw)
        home = cache / "bundles" / digest
        if not _is_sound(home, manifest):
            check_complete(archive.names, manifest)
            with scratch(home.parent) as folder:
                fresh = folder / digest
                fresh.mkdir()
                for name, entry in manifest.files.items():
                    archive.unpack(name, entry, fresh)
                (fresh / MANIFEST).write_bytes(raw)
                _inspect(fresh, manifest, digest, cache)
                _settle(fresh, home, manifest)
    return _open(home, manifest, digest, cache)


def _settle(fresh: Path, home: Path, manifest: Manifest) -> None:
    """Moves a checked folder to its place, unless another process did the same meanwhile."""
    for root, _, _ in os.walk(fresh):
        sync(Path(root))
    sync(fresh / MANIFEST)
    with exclusive(home.parent / ".settle.lock"):
        if not _is_sound(home, manifest):
            if home.exists():
                home.rename(fresh.parent / "damaged")
            fresh.rename(home)
    sync(home.parent)


def _is_sound(home: Path, manifest: Manifest) -> bool:
    try:
        _check_sizes(home, manifest)
        return file_sha256(home / MANIFEST) == home.name
    except (BundleInvalid, OSError):
        return False


def _open_folder(source: Path, cache: Path) -> Bundle:
    with (source / MANIFEST).open("rb") as file:
        manifest, digest = _manifest(read_bounded(file, MAX_MANIFEST, MANIFEST))
    _check_sizes(source, manifest)
    if source.name == digest and source.parent.resolve() == (cache / "bundles").resolve():
        return _open(source, manifest, digest, cache)  # unpacked, hence checked, by us
    print_ = _fingerprint(source, manifest)
    marker = cache / "verified" / f"{digest}-{sha256(str(source.resolve()).encode())[:16]}"
    if not (marker.is_file() and marker.read_text("ascii", "replace") == print_):
        check_complete(folder_names(source), manifest)
        for name, entry in manifest.files.items():
            if file_sha256(source / name) != entry.sha256:
                raise BundleInvalid(f"{name}: sha256 differs from the manifest")
        _inspect(source, manifest, digest, cache)
        write_whole(marker, print_.encode())
    return _open(source, manifest, digest, cache)


def _fingerprint(root: Path, manifest: Manifest) -> str:
    """Changes when a file of the folder was written after it was checked."""
    stats = [(name, (root / name).stat().st_mtime_ns, entry.size) for name, entry in sorted(manifest.files.items())]
    return sha256(json.dumps(stats).encode())


def _open(home: Path, manifest: Manifest, digest: str, cache: Path) -> Bundle:
    return Bundle(home, manifest, digest, cache / "index" / f"{digest}.db")


def _manifest(raw: bytes) -> tuple[Manifest, str]:
    try:
        manifest = parse(raw.decode())
    except UnicodeDecodeError:
        raise BundleInvalid(f"{MANIFEST}: not UTF-8") from None
    _check_runtime(manifest.min_runtime)
    check_listed(manifest)
    for name in REQUIRED if not any(n in manifest.files for n in NEIGHBOURS) else REQUIRED + NEIGHBOURS:
        if name not in manifest.files:
            raise BundleInvalid(f"{MANIFEST}: lists no {name}")
    kind = manifest.retrieval.get("kind")
    if kind not in ("exact", "int8") or (kind == "int8") != (RETRIEVE in manifest.files):
        raise BundleInvalid(f"{MANIFEST}: 'retrieval' is of kind {kind!r}, which does not fit the files listed")
    unknown = set(manifest.encoder_inputs) - set(ENCODER_INPUTS)
    if unknown or not {"history", "mask"} <= set(manifest.encoder_inputs):
        raise BundleInvalid(f"{MANIFEST}: 'encoder_inputs' needs history and mask and knows only age_days and kind")
    return manifest, sha256(raw)


def _check_runtime(wanted: str) -> None:
    if _release(wanted) > _release(__version__):
        raise BundleUnsupported(f"the bundle asks for edgerec {wanted}, this is {__version__}", hint="update edgerec")


def _release(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")[:3]
    digits = ["".join(c for c in part[:9] if c.isdecimal() and c.isascii()) for part in parts]
    if not all(digits):
        raise BundleInvalid(f"{MANIFEST}: 'min_runtime' = {version!r} is not a version")
    return tuple(int(d) for d in digits)


def _check_sizes(root: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        found = os.lstat(root / name)
        if found.st_size != entry.size or found.st_mode & 0o170000 != 0o100000:
            raise BundleInvalid(f"{name}: {found.st_size} bytes (a plain file of {entry.size} was exported)")


def _inspect(root: Path, manifest: Manifest, digest: str, cache: Path) -> None:
    """Everything the digests do not say: values, consistency, catalogue, the ONNX files, golden.json.

    The catalogue's index is built on the way, and kept only if all the rest is sound.
    """
    with scratch(cache / "index") as folder:
        index = folder / f"{digest}.db"
        with Bundle(root, manifest, digest, index) as bundle:
            _inspect_values(bundle)
        os.replace(index, cache / "index" / index.name)


def _inspect_values(bundle: Bundle) -> None:
    # imported here because a bundle that was seen before needs none of them
    from edgerec.bundle.content import check_content
    from edgerec.bundle.golden_check import check_golden_form
    from edgerec.bundle.signatures import check_encoder, check_retriever

    root, manifest = bundle.path, bundle.manifest
    arrays = {VECTORS: bundle.model.vectors, BIAS: bundle.model.bias, POPULARITY: bundle.model.popularity}
    for name, array in {**arrays, WEIGHTS: bundle.neighbours.weights}.items():
        check_finite(name, array)
    _check_neighbours(bundle.neighbours, manifest.n_items)
    if not 0 < bundle.negatives.size <= MAX_NEGATIVES:
        raise BundleInvalid(f"{NEGATIVES}: must hold 1 to {MAX_NEGATIVES} rows")
    check_range(NEGATIVES, bundle.negatives, manifest.n_items)
    _check_onnx(root, ENCODER, lambda data: check_encoder(data, manifest))
    if RETRIEVE in manifest.files:
        _check_onnx(root, RETRIEVE, lambda data: check_retriever(data, manifest))
    check_content(bundle.content)
    check_golden_form(bundle.golden, manifest)
    _ = bundle.encoder, bundle.retriever  # onnxruntime takes the models, or says why not


def _check_neighbours(neighbours: Neighbours, n_items: int) -> None:
    indptr = neighbours.indptr
    if indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise BundleInvalid(f"{INDPTR}: must start at 0 and never fall")
    check_range(IDS, neighbours.ids, n_items)


def _check_onnx(root: Path, name: str, check: Callable[[bytes], None]) -> None:
    with (root / name).open("rb") as file:
        data = read_bounded(file, MAX_ONNX, name)
    try:
        check(data)
    except BundleInvalid as error:
        raise BundleInvalid(f"{name}: {error}") from None
