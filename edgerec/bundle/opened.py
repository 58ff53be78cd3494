"""A bundle that was found sound: its manifest, mapped arrays, catalogue, and sessions that open when needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec.bundle.archive import read_bounded
from edgerec.bundle.arrays import map_array
from edgerec.bundle.catalogue import Catalogue
from edgerec.bundle.manifest import Manifest
from edgerec.bundle.repeat import REPEAT, RepeatModel, map_repeat
from edgerec.bundle.sessions import Encoder, Retriever
from edgerec.records import record
from edgerec.types import Float32, Int32, Model

if TYPE_CHECKING:
    from edgerec.bundle.content import ContentModel

CATALOGUE = "catalogue.jsonl"
ENCODER = "encoder.onnx"
RETRIEVE = "retrieve.onnx"
GOLDEN = "golden.json"
VECTORS, BIAS, POPULARITY, NEGATIVES = (f"items/{name}.npy" for name in ("vectors", "bias", "popularity", "negatives"))
INDPTR, IDS, WEIGHTS = (f"neighbours/{name}.npy" for name in ("indptr", "ids", "weights"))
REQUIRED = (CATALOGUE, ENCODER, GOLDEN, VECTORS, BIAS, POPULARITY, NEGATIVES)
NEIGHBOURS = (INDPTR, IDS, WEIGHTS)


@record
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
    `negatives` int32 (m,): catalogue rows to draw negatives from · `hold`: what keeps the folder there, if need be.
    """

    __slots__ = (
        "_content",
        "_encoder",
        "_golden",
        "_lock",
        "_retriever",
        "_still",
        "catalogue",
        "digest",
        "hold",
        "manifest",
        "model",
        "negatives",
        "neighbours",
        "path",
        "repeat",
    )

    stamp: str | None = None
    """Which overlay of new items lies on it (`bundle.overlay`); None: it is as its files are."""

    def __init__(
        self, path: Path, manifest: Manifest, digest: str, index: Path, still: Callable[[], None] | None = None
    ) -> None:
        """`still` raises BundleInvalid where the files are not those any more that were checked."""
        self.path = path
        self._still = still
        self.manifest = manifest
        self.digest = digest
        self.hold: object = None
        n = manifest.n_items
        self.model = Model(
            map_array(path, VECTORS, "<f4", (n, manifest.dim)),
            map_array(path, BIAS, "<f4", (n,)),
            map_array(path, POPULARITY, "<f4", (n,)),
        )
        self.negatives: Int32 = map_array(path, NEGATIVES, "<i4", (None,))
        self.neighbours = _map_neighbours(path, manifest)
        self.repeat: RepeatModel | None = map_repeat(path, n) if REPEAT[0] in manifest.files else None
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._retriever: Retriever | None = None
        self._golden: dict[str, Any] | None = None
        self._content: ContentModel | None = None
        self.catalogue = Catalogue.open(path / CATALOGUE, index, n)

    @property
    def encoder(self) -> Encoder:
        """The query encoder; its session opens at the first use."""
        if self._encoder is None:
            with self._lock:
                if self._encoder is None:
                    manifest = self.manifest
                    made = Encoder(self.path / ENCODER, manifest.encoder_inputs, manifest.history_length, manifest.dim)
                    self._check_still()
                    self._encoder = made
        return self._encoder

    @property
    def retriever(self) -> Retriever | None:
        """The int8 scan, None where the bundle has none; its session opens at the first use."""
        if self._retriever is None and RETRIEVE in self.manifest.files:
            with self._lock:
                if self._retriever is None:
                    made = Retriever(self.path / RETRIEVE, self.manifest.n_items)
                    self._check_still()
                    self._retriever = made
        return self._retriever

    def _check_still(self) -> None:
        if self._still is not None:
            self._still()

    @property
    def content(self) -> ContentModel | None:
        """What places new items by their content, None where the bundle cannot; mapped at the first use."""
        if self._content is None and self.manifest.content:
            # imported here because hardly any start of an app brings new items
            from edgerec.bundle.content import map_content

            self._content = map_content(self.path, self.manifest)
        return self._content

    @property
    def golden(self) -> dict[str, Any]:
        """golden.json: `encoder` cases and `stories`; docs/bundle.md describes both."""
        if self._golden is None:
            # imported here because only a bundle that is new to the device repeats its golden cases
            from edgerec.bundle.golden_check import parse_golden
            from edgerec.bundle.sizes import MAX_GOLDEN

            with (self.path / GOLDEN).open("rb") as file:
                self._golden = parse_golden(read_bounded(file, MAX_GOLDEN, GOLDEN))
        return self._golden

    @property
    def base(self) -> Bundle:
        """The bundle as its files are."""
        return self

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


def _map_neighbours(root: Path, manifest: Manifest) -> Neighbours:
    if INDPTR not in manifest.files:
        return Neighbours(np.zeros(manifest.n_items + 1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    indptr = map_array(root, INDPTR, "<i4", (manifest.n_items + 1,))
    total = int(indptr[-1])
    return Neighbours(
        indptr, map_array(root, IDS, "<i4", (max(total, 0),)), map_array(root, WEIGHTS, "<f4", (max(total, 0),))
    )
