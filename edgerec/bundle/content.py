"""From an item's content vectors to its place in a model: how an item without interactions is scored.

A *modality* is one named array per item: text, image, audio. Content reaches the item space on two roads. A learned
linear map gives the vector, the bias and the popularity; the most similar known items lend their item-to-item weights.
`docs/bundle.md` describes the files; the exporter fits them with the very functions a device runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec.bundle.arrays import check_values, map_array
from edgerec.errors import BundleInvalid, DataError
from edgerec.types import Bools, Float32, Float64, Int32, Int64

if TYPE_CHECKING:
    from edgerec.bundle.manifest import Manifest

MAX_MODALITIES = 8
MAX_LENGTH = 4096
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
OFFSET = "content/offset.npy"
_ARRAYS = ("mean", "basis", "codes", "weights")
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Modality:
    """One kind of content. d: its length, k: that of its codes.

    `mean` float32 (d,) of the known items · `basis` float32 (d, k): their principal directions · `codes` float32
    (n_items, k): what each item of the bundle looks like, of length 1, zeros where the item has no such content ·
    `weights` float32 (d, dim + 2): the learned map to vector, bias and popularity.
    """

    name: str
    mean: Float32
    basis: Float32
    codes: Float32
    weights: Float32


@dataclass(frozen=True, slots=True)
class ContentRule:
    """`power` sharpens the cosine of codes · `neighbours`: known items that a new one takes after · `inherit`: share
    of their weights that it gets · `direct`: weight of the similarity itself · `keep`: most weights per item."""

    power: float = 4.0
    neighbours: int = 20
    inherit: float = 0.5
    direct: float = 0.1
    keep: int = 200

    @classmethod
    def of(cls, constants: Mapping[str, Any]) -> ContentRule:
        """From the manifest's constants. Raises BundleInvalid for one that is no number, or out of range."""
        found = {each.name: constants.get(each.name, each.default) for each in fields(cls)}
        for name, value in found.items():
            whole, least, most = name in ("neighbours", "keep"), int(name in ("neighbours", "keep")), 1000
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise BundleInvalid(f"manifest.json.content: '{name}' = {value!r} is no {'whole ' * whole}number")
            if not least <= value <= most:
                raise BundleInvalid(f"manifest.json.content: '{name}' = {value} lies outside {least} … {most}")
        return cls(**found)


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Item-to-item weights as a list: item `source` points to item `target`. int64, int64, float32, all (nnz,)."""

    source: Int64
    target: Int64
    weight: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """What m new items get: `vectors` float32 (m, dim) · `bias`, `popularity` float32 (m,) · `links`: weights from
    and to them, the j-th new item being `n_items + j`."""

    vectors: Float32
    bias: Float32
    popularity: Float32
    links: Sparse


@dataclass(frozen=True, slots=True, eq=False)
class ContentModel:
    """Everything needed to place a new item. `offset` float32 (dim + 2,): what an item without content gets."""

    modalities: tuple[Modality, ...]
    offset: Float32
    rule: ContentRule

    def constants(self) -> dict[str, Any]:
        """The manifest's `content`."""
        return {"modalities": [modality.name for modality in self.modalities], **asdict(self.rule)}

    def arrays(self) -> Iterator[tuple[str, Float32]]:
        """The bundle's files and what is in them."""
        yield OFFSET, self.offset
        for modality in self.modalities:
            for part in _ARRAYS:
                yield f"content/{modality.name}/{part}.npy", getattr(modality, part)

    def place(self, content: Mapping[str, Float32], links: Sparse, n_items: int) -> Placed:
        """Places m new items. `content`: float32 (m, d) per modality, a row of NaN where an item has none; `links`:
        the weights among the `n_items` items of the bundle.

        Raises DataError for an unknown modality, a wrong length, or values that are not finite.
        """
        known = {modality.name: modality for modality in self.modalities}
        centred = {name: self._centred(known, name, values) for name, values in content.items()}
        sizes = {len(values) for values, _ in centred.values()}
        if len(sizes) != 1:
            raise DataError("content vectors must be given, and for the same items in every modality")
        (m,) = sizes
        out = np.tile(self.offset, (m, 1))
        given = np.zeros(m, np.float32)
        codes: dict[str, Float32] = {}
        for name, (values, has) in centred.items():
            out += values @ known[name].weights
            codes[name] = unit(values @ known[name].basis)
            given += has
        dim = len(self.offset) - 2
        found = self._links(codes, given, links, n_items)
        return Placed(out[:, :dim].copy(), out[:, dim].copy(), np.maximum(out[:, dim + 1], 0), found)

    @staticmethod
    def _centred(known: Mapping[str, Modality], name: str, values: Float32) -> tuple[Float32, Float32]:
        """(m, d) less the mean, zeros where missing; float32 (m,): 1 where it is there."""
        if name not in known:
            names = ", ".join(known) or "nothing"
            raise DataError(f"the bundle knows no content named {name!r}", hint=f"it was made with: {names}")
        return centre(name, values, known[name].mean)

    def _links(self, codes: Mapping[str, Float32], given: Float32, links: Sparse, n_items: int) -> Sparse:
        known = {modality.name: modality.codes for modality in self.modalities}
        out = _Rows(links.source, links.target, links.weight, n_items)
        into = _Rows(links.target, links.source, links.weight, n_items)
        blocks = [slice(first, first + _BLOCK) for first in range(0, len(given), _BLOCK)]
        own = [({name: code[block] for name, code in codes.items()}, given[block]) for block in blocks]
        models = [self._models(self._similarity(*block, known)) for block in own]
        like, share = (np.concatenate(parts) for parts in zip(*models, strict=True))
        parts: list[Sparse] = []
        for (block, has), chosen in zip(own, blocks, strict=True):
            direct = np.float32(self.rule.direct) * self._similarity(block, has, known)
            among = np.float32(self.rule.direct) * self._similarity(block, has, codes)
            for place, new in enumerate(range(chosen.start, chosen.start + len(has))):
                inherited = out.sums(like[new], share[new])
                to_new = among[place] + (inherited[like] * share).sum(1)
                to_new[new] = 0
                outward = np.concatenate([direct[place] + inherited, to_new])
                inward = direct[place] + into.sums(like[new], share[new])
                parts += self._cut(n_items + new, outward, inward)
        return joined(parts)

    def _models(self, similarity: Float32) -> tuple[Int64, Float32]:
        """The known items that each new one takes after and their shares, int64 and float32 (b, neighbours)."""
        like = np.zeros((len(similarity), self.rule.neighbours), np.int64)
        share = np.zeros(like.shape, np.float32)
        for place, row in enumerate(similarity):
            chosen = largest(row, self.rule.neighbours)
            like[place, : len(chosen)] = chosen
            share[place, : len(chosen)] = row[chosen] / max(float(row[chosen].sum()), 1e-12) * self.rule.inherit
        return like, share

    def _cut(self, own: int, outward: Float32, inward: Float32) -> list[Sparse]:
        """The weights that count most; those between new items come with their sources."""
        there, here = largest(outward, self.rule.keep), largest(inward, self.rule.keep)
        return [
            Sparse(np.full(len(there), own), there, outward[there]),
            Sparse(here, np.full(len(here), own), inward[here]),
        ]

    def _similarity(self, own: Mapping[str, Float32], given: Float32, others: Mapping[str, Float32]) -> Float32:
        """Mean over the new item's modalities of max(cosine, 0)^power, float32 (b, n), from codes (b, k), (n, k)."""
        parts = [np.maximum(code @ others[name].T, 0) ** np.float32(self.rule.power) for name, code in own.items()]
        mean: Float32 = (sum(parts[1:], start=parts[0]) / np.maximum(given, 1)[:, None]).astype(np.float32)
        return mean


def map_content(root: Path, manifest: Manifest) -> ContentModel | None:
    """The content model of a bundle's folder, its arrays mapped; None where the bundle has none.

    Raises BundleInvalid for constants or shapes that do not fit.
    """
    if not manifest.content:
        return None
    names = manifest.content.get("modalities")
    if not isinstance(names, list) or not 0 < len(names) <= MAX_MODALITIES or len(set(map(str, names))) != len(names):
        raise BundleInvalid(f"manifest.json.content: 'modalities' must list 1 to {MAX_MODALITIES} names")
    rule = ContentRule.of(manifest.content)
    modalities = tuple(_map_modality(root, manifest, name) for name in names)
    return ContentModel(modalities, map_array(root, OFFSET, "<f4", (manifest.dim + 2,)), rule)


def _map_modality(root: Path, manifest: Manifest, name: object) -> Modality:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BundleInvalid(f"manifest.json.content: {name!r} cannot name a modality")
    files = {part: f"content/{name}/{part}.npy" for part in _ARRAYS}
    for file in (*files.values(), OFFSET):
        if file not in manifest.files:
            raise BundleInvalid(f"manifest.json: lists no {file}")
    mean = map_array(root, files["mean"], "<f4", (None,))
    basis = map_array(root, files["basis"], "<f4", (len(mean), None))
    codes = map_array(root, files["codes"], "<f4", (manifest.n_items, basis.shape[1]))
    weights = map_array(root, files["weights"], "<f4", (len(mean), manifest.dim + 2))
    if not 0 < len(mean) <= MAX_LENGTH or not 0 < basis.shape[1] <= len(mean):
        raise BundleInvalid(f"content/{name}: vectors of {len(mean)} and codes of {basis.shape[1]} numbers")
    return Modality(name, mean, basis, codes, weights)


def check_content(model: ContentModel | None) -> None:
    """Raises BundleInvalid where an array holds values that are not finite, or absurdly large."""
    for name, array in model.arrays() if model else ():
        check_values(name, array)


class _Rows:
    """A sparse matrix whose rows can be summed."""

    def __init__(self, rows: Int64, columns: Int64, weights: Float32, n: int) -> None:
        order = np.argsort(rows, kind="stable")
        self.columns, self.weights, self.n = columns[order], weights[order], n
        self.indptr = np.searchsorted(rows[order], np.arange(n + 1))

    def sums(self, rows: Int64, shares: Float32) -> Float32:
        """Σ share · row, float32 (n,)."""
        out = np.zeros(self.n, np.float32)
        for row, share in zip(rows.tolist(), shares.tolist(), strict=True):
            entries = slice(self.indptr[row], self.indptr[row + 1])
            out[self.columns[entries]] += np.float32(share) * self.weights[entries]
        return out


def centre(name: str, values: Float32, mean: Float32) -> tuple[Float32, Float32]:
    """`values` (m, d) less `mean` (d,), zeros in the rows that are missing (all NaN); float32 (m,): 1 where not.

    Raises DataError for another length, infinities, or a row that is missing in part.
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or values.shape[1] != len(mean):
        raise DataError(f"content {name!r} has shape {values.shape}, not (items, {len(mean)})")
    lacks = np.isnan(values)
    missing: Bools = np.logical_and.reduce(lacks, axis=1)
    if not np.isfinite(values[~missing]).all():
        raise DataError(
            f"content {name!r} holds values that are not finite", hint="an item without it has a row of nothing but NaN"
        )
    centred: Float32 = np.where(missing[:, None], np.float32(0), values - mean).astype(np.float32)
    return centred, (~missing).astype(np.float32)


def unit(values: Float32) -> Float32:
    """Rows of length 1; rows of zeros stay."""
    length = np.sqrt(np.add.reduce(values * values, axis=1, keepdims=True))
    out: Float32 = np.divide(values, length, out=np.zeros_like(values), where=length > 1e-12)
    return out


def largest(values: Float32, k: int) -> Int64:
    """The places of the k largest positive values, ascending, ties by place; int64."""
    if len(values) > k:
        bound = np.partition(values, len(values) - k)[len(values) - k]
        above = np.flatnonzero(values > max(bound, 0))
        level = np.flatnonzero(values == bound)[: k - len(above)] if bound > 0 else np.zeros(0, np.int64)
        return np.sort(np.concatenate([above, level]))
    return np.flatnonzero(values > 0)


def joined(parts: Sequence[Sparse]) -> Sparse:
    """All of them in one list."""
    if not parts:
        return Sparse(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Sparse(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def to_list(indptr: Int32, ids: Int32, weights: Float32) -> Sparse:
    """CSR by source item as a list."""
    source = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
    return Sparse(source, ids.astype(np.int64), weights)


def to_csr(links: Sparse, n_items: int) -> tuple[Int32, Int32, Float32]:
    """CSR by source item, targets ascending; what points twice to the same target is added up."""
    if not len(links.source):
        return np.zeros(n_items + 1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    key = links.source * np.int64(n_items) + links.target
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    total: Float64 = np.add.reduceat(links.weight[order].astype(np.float64), starts)
    source, target = np.divmod(ordered[starts], n_items)
    indptr = np.searchsorted(source, np.arange(n_items + 1)).astype(np.int32)
    return indptr, target.astype(np.int32), total.astype(np.float32)
