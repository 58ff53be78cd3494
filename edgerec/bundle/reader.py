"""Opens a bundle: verifies what it has not seen before, maps the arrays, hands out the model.

The first sight of a bundle in a `cache_dir` checks everything (digests, headers, values, the ONNX files);
afterwards sizes and the manifest's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from edgerec.bundle.arrays import check_finite, check_range, map_array
from edgerec.bundle.catalogue import Catalogue
from edgerec.bundle.files import exclusive, file_sha256, scratch, sync, write_whole
from edgerec.bundle.manifest import Manifest, parse, strict_json
from edgerec.bundle.sessions import ENCODER_INPUTS, Encoder, Retriever
from edgerec.errors import BundleError, BundleInvalid, BundleNotFound, BundleUnsupported
from edgerec.types import Float32, Int32, Model

CATALOGUE = "catalogue.jsonl"
ENCODER = "encoder.onnx"
RETRIEVE = "retrieve.onnx"
GOLDEN = "golden.json"
VECTORS, BIAS, POPULARITY, NEGATIVES = (f"items/{name}.npy" for name in ("vectors", "bias", "popularity", "negatives"))
INDPTR, IDS, WEIGHTS = (f"neighbours/{name}.npy" for name in ("indptr", "ids", "weights"))
REQUIRED = (CATALOGUE, ENCODER, GOLDEN, VECTORS, BIAS, POPULARITY, NEGATIVES)
NEIGHBOURS = (INDPTR, IDS, WEIGHTS)
MAX_ONNX = 1 << 31
MAX_GOLDEN = 1 << 26
MAX_NEGATIVES = 1 << 24


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Sparse item-to-item weights: item i points to `ids[indptr[i]:indptr[i + 1]]`.

    `indptr` int32 (n_items + 1,) · `ids` int32 (nnz,) · `weights` float32 (nnz,). A bundle without them has
    nnz = 0.
    """

    indptr: Int32
    ids: Int32
    weights: Float32


class Bundle:
    """A verified bundle. Read-only; may be shared by threads and by any number of recommenders.

    `digest`: hex sha256 of manifest.json, the bundle's identity · `path`: the folder it lives in ·
    `negatives` int32 (m,): catalogue rows to draw negatives from.
    """

    __slots__ = (
        "_encoder",
        "_golden",
        "_lock",
        "_retriever",
        "catalogue",
        "digest",
        "manifest",
        "model",
        "negatives",
        "neighbours",
        "path",
    )

    def __init__(self, path: Path, manifest: Manifest, digest: str, index: Path) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        n = manifest.n_items
        self.model = Model(
            map_array(path, VECTORS, "<f4", (n, manifest.dim)),
            map_array(path, BIAS, "<f4", (n,)),
            map_array(path, POPULARITY, "<f4", (n,)),
        )
        self.negatives: Int32 = map_array(path, NEGATIVES, "<i4", (None,))
        self.neighbours = _map_neighbours(path, manifest)
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._retriever: Retriever | None = None
        self._golden: dict[str, Any] | None = None
        self.catalogue = Catalogue.open(path / CATALOGUE, index, n)

    @property
    def encoder(self) -> Encoder:
        """The query encoder; its session opens at the first use."""
        if self._encoder is None:
            with self._lock:
                if self._encoder is None:
                    manifest = self.manifest
                    self._encoder = Encoder(
                        self.path / ENCODER, manifest.encoder_inputs, manifest.history_length, manifest.dim
                    )
        return self._encoder

    @property
    def retriever(self) -> Retriever | None:
        """The int8 scan, None where the bundle has none; its session opens at the first use."""
        if self._retriever is None and RETRIEVE in self.manifest.files:
            with self._lock:
                if self._retriever is None:
                    self._retriever = Retriever(self.path / RETRIEVE, self.manifest.n_items)
        return self._retriever

    @property
    def golden(self) -> dict[str, Any]:
        """golden.json: `encoder` cases and `stories`; docs/bundle.md describes both."""
        if self._golden is None:
            with (self.path / GOLDEN).open("rb") as file:
                self._golden = _golden(read_bounded(file, MAX_GOLDEN, GOLDEN))
        return self._golden

    def close(self) -> None:
        """Lets go of sessions and index. The arrays live as long as somebody holds them."""
        self.catalogue.close()
        self._encoder = self._retriever = None

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bundle {self.manifest.name!r} version {self.manifest.version} {self.digest[:12]}>"


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
    marker = cache / "verified" / f"{digest}-{hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:16]}"
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
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


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
    unknown = set(manifest.encoder_inputs) - set(ENCODER_INPUTS)
    if unknown or not {"history", "mask"} <= set(manifest.encoder_inputs):
        raise BundleInvalid(f"{MANIFEST}: 'encoder_inputs' needs history and mask and knows only age_days and kind")
    return manifest, hashlib.sha256(raw).hexdigest()


def _check_runtime(wanted: str) -> None:
    import edgerec

    if _release(wanted) > _release(edgerec.__version__):
        raise BundleUnsupported(
            f"the bundle asks for edgerec {wanted}, this is {edgerec.__version__}", hint="update edgerec"
        )


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


def _map_neighbours(root: Path, manifest: Manifest) -> Neighbours:
    if INDPTR not in manifest.files:
        return Neighbours(np.zeros(manifest.n_items + 1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    indptr = map_array(root, INDPTR, "<i4", (manifest.n_items + 1,))
    total = int(indptr[-1])
    return Neighbours(
        indptr, map_array(root, IDS, "<i4", (max(total, 0),)), map_array(root, WEIGHTS, "<f4", (max(total, 0),))
    )


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
    _ = bundle.golden, bundle.encoder, bundle.retriever


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


def _golden(data: bytes) -> dict[str, Any]:
    try:
        parsed = strict_json(data.decode(), GOLDEN)
    except UnicodeDecodeError:
        raise BundleInvalid(f"{GOLDEN}: not UTF-8") from None
    if not isinstance(parsed, dict) or not all(isinstance(parsed.get(key), list) for key in ("encoder", "stories")):
        raise BundleInvalid(f"{GOLDEN}: must be an object with the lists 'encoder' and 'stories'")
    return parsed
