"""Opens a bundle: verifies what it has not seen before, maps the arrays, hands out the model.

The first sight of a bundle in a `cache_dir` checks everything (digests, headers, values, the ONNX files);
afterwards sizes and the manifest's digest.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerec.bundle.archive import (
    MANIFEST,
    MAX_MANIFEST,
    Archive,
    check_complete,
    check_listed,
    folder_names,
    read_plain,
)
from edgerec.bundle.arrays import check_range, check_values
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
from edgerec.bundle.repeat import REPEAT, check_repeat
from edgerec.bundle.sessions import ENCODER_INPUTS
from edgerec.bundle.texts import shown
from edgerec.errors import BundleError, BundleInvalid, BundleNotFound, BundleUnsupported
from edgerec.files import exclusive, file_sha256, scratch, sha256, sync, write_whole
from edgerec.version import __version__


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
        manifest, digest = read_manifest(raw)
        home = cache / "bundles" / digest
        if not _is_sound(home, manifest):
            _check_list(manifest, archive.names)
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
    manifest, digest = read_manifest(read_plain(source / MANIFEST, MAX_MANIFEST))
    _check_sizes(source, manifest)
    if source.name == digest and source.parent.resolve() == (cache / "bundles").resolve():
        return _open(source, manifest, digest, cache)  # unpacked, hence checked, by us
    still = _Still(source, manifest)
    marker = cache / "verified" / f"{digest}-{sha256(str(source.resolve()).encode())[:16]}"
    if not (marker.is_file() and marker.read_text("ascii", "replace") == still.print):
        _check_list(manifest, folder_names(source))
        for name, entry in manifest.files.items():
            if file_sha256(source / name) != entry.sha256:
                raise BundleInvalid(f"{name}: sha256 differs from the manifest")
        _inspect(source, manifest, digest, cache, still)
        write_whole(marker, still.print.encode())
    bundle = _open(source, manifest, digest, cache, still)
    try:
        still()
    except BaseException:
        bundle.close()
        raise
    return bundle


class _Still:
    """The files of a folder that is used in place, as they were before they were checked.

    Called after something of them was used, it raises BundleInvalid where they are not the same any more. It looks at
    the time of the last change of any kind, which nobody can set, and at which file a name stands for.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._paths = [root / name for name in sorted([*manifest.files, MANIFEST])]
        self._root = root
        self.print = self._now()

    def __call__(self) -> None:
        if self._now() != self.print:
            raise BundleInvalid(f"{self._root.name}: files were changed while they were checked or used")

    def _now(self) -> str:
        found = [os.lstat(path) for path in self._paths]
        stats = [(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]
        return sha256(json.dumps(stats).encode())


def _open(home: Path, manifest: Manifest, digest: str, cache: Path, still: Callable[[], None] | None = None) -> Bundle:
    return Bundle(home, manifest, digest, cache / "index" / f"{digest}.db", still)


def read_manifest(raw: bytes) -> tuple[Manifest, str]:
    """A manifest and its digest, from the bytes of manifest.json. Raises BundleInvalid or BundleUnsupported."""
    manifest = parse(raw)
    _check_runtime(manifest.min_runtime)
    check_listed(manifest)
    wanted = [
        *REQUIRED,
        *(name for part in (NEIGHBOURS, REPEAT) if not manifest.files.keys().isdisjoint(part) for name in part),
    ]
    for name in wanted:
        if name not in manifest.files:
            raise BundleInvalid(f"{MANIFEST}: lists no {name}")
    kind = manifest.retrieval.get("kind")
    if kind not in ("exact", "int8") or (kind == "int8") != (RETRIEVE in manifest.files):
        raise BundleInvalid(f"{MANIFEST}: 'retrieval' is of kind {shown(kind)}, which does not fit the files listed")
    unknown = set(manifest.encoder_inputs) - set(ENCODER_INPUTS)
    if unknown or not {"history", "mask"} <= set(manifest.encoder_inputs):
        raise BundleInvalid(f"{MANIFEST}: 'encoder_inputs' needs history and mask and knows only age_days and kind")
    return manifest, sha256(raw)


def _check_list(manifest: Manifest, found: Iterable[str]) -> None:
    # imported here because a bundle that was seen before does not need it
    from edgerec.bundle.sizes import check_sizes

    check_complete(found, manifest)
    check_sizes(manifest)


def _check_runtime(wanted: str) -> None:
    if _release(wanted) > _release(__version__):
        raise BundleUnsupported(f"the bundle asks for edgerec {wanted}, this is {__version__}", hint="update edgerec")


def _release(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")[:3]
    digits = ["".join(c for c in part[:9] if c.isdecimal() and c.isascii()) for part in parts]
    if not all(digits):
        raise BundleInvalid(f"{MANIFEST}: 'min_runtime' = {shown(version)} is not a version")
    return tuple(int(d) for d in digits)


def _check_sizes(root: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        found = os.lstat(root / name)
        if not stat.S_ISREG(found.st_mode):
            raise BundleInvalid(f"{name}: a link or special file")
        if found.st_size != entry.size:
            raise BundleInvalid(f"{name}: {found.st_size} bytes ({entry.size} were exported)")


def _inspect(root: Path, manifest: Manifest, digest: str, cache: Path, still: Callable[[], None] | None = None) -> None:
    """Everything the digests do not say: values, consistency, catalogue, the ONNX files, golden.json.

    The catalogue's index is built on the way, and kept only if all the rest is sound.
    """
    with scratch(cache / "index") as folder:
        index = folder / f"{digest}.db"
        with Bundle(root, manifest, digest, index, still) as bundle:
            _inspect_values(bundle)
        if still is not None:
            still()
        os.replace(index, cache / "index" / index.name)


def _inspect_values(bundle: Bundle) -> None:
    # imported here because a bundle that was seen before needs none of them
    from edgerec.bundle.content import check_content
    from edgerec.bundle.golden_check import check_golden_form
    from edgerec.bundle.signatures import check_encoder, check_retriever
    from edgerec.bundle.sizes import MAX_NEGATIVES
    from edgerec.bundle.trial import check_trials, try_sessions

    root, manifest = bundle.path, bundle.manifest
    arrays = {VECTORS: bundle.model.vectors, BIAS: bundle.model.bias, POPULARITY: bundle.model.popularity}
    for name, array in {**arrays, WEIGHTS: bundle.neighbours.weights}.items():
        check_values(name, array)
    _check_neighbours(bundle.neighbours, manifest.n_items)
    if not 0 < bundle.negatives.size <= MAX_NEGATIVES:
        raise BundleInvalid(f"{NEGATIVES}: must hold 1 to {MAX_NEGATIVES} rows")
    check_range(NEGATIVES, bundle.negatives, manifest.n_items)
    work = _check_onnx(root, ENCODER, lambda data: check_encoder(data, manifest))
    if RETRIEVE in manifest.files:
        _check_onnx(root, RETRIEVE, lambda data: check_retriever(data, manifest))
    if bundle.repeat is not None:
        check_repeat(bundle.repeat)
    check_content(bundle.content)
    check_golden_form(bundle.golden, manifest)
    check_trials(bundle.golden, manifest, work)
    try_sessions(bundle)


def _check_neighbours(neighbours: Neighbours, n_items: int) -> None:
    indptr = neighbours.indptr
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise BundleInvalid(f"{INDPTR}: must start at 0 and never fall")
    check_range(IDS, neighbours.ids, n_items)


def _check_onnx(root: Path, name: str, check: Callable[[memoryview], int]) -> int:
    with (root / name).open("rb") as file:
        size = file.seek(0, 2)
        # mapped, not read: what it weighs need not fit into memory twice
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    try:
        return check(data)
    except BundleInvalid as error:
        raise BundleInvalid(f"{name}: {error}") from None
