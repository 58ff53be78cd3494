"""Where a round's deltas come from: a folder of `ID.delta` files, one gateway's store, or two that hold shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.federation.encoding import MAX_PAYLOAD, OPEN, check_layout, decode, parse
from edgerec.types import Float32
from edgerec_exporters.federation.blocks import width

if TYPE_CHECKING:
    from edgerec_exporters.gateway.store import GatewayStore

SUFFIX = ".delta"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delta that could go into a round. `key`: who sent it, None where nobody knows · `size`: of its payload."""

    id: str
    version: int
    size: int
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """`waiting`: sorted by id · `refused`: reason → how many payloads are none that this round can use."""

    waiting: Sequence[Waiting]
    refused: Mapping[str, int]


class Source(Protocol):
    """Deltas of some bundle versions, and taking them."""

    def number(self, least: int, span: int) -> int:
        """A round's number that is free, as are the `span` − 1 after it; at least `least`."""
        ...

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        """What waits for a round on one of these versions. Nothing is taken."""
        ...

    def rows(self, number: int, ids: Sequence[str], newest: int, blocks: Sequence[BlockSpec]) -> Float32:
        """Takes the deltas of these ids for a round: float32 (n, d), in the order of the ids. The same call gives the
        same again. Raises DeltaError where one is gone.
        """
        ...


class Folder:
    """Files as the transport `folder` writes them. Nobody knows who sent them. The files stay."""

    def __init__(self, path: Path) -> None:
        """Raises DeltaError where there is no such folder."""
        if not path.is_dir():
            raise DeltaError(f"there is no folder {path}", hint="transport `folder` makes it with the first delta")
        self._path = path

    def number(self, least: int, span: int) -> int:
        return least

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        found, refused = [], Counter[str]()
        for file in sorted(self._path.glob(f"*{SUFFIX}")):
            size = file.stat().st_size
            try:
                data = _read(file)
                payload = parse(data)
                if payload.id != file.stem:
                    raise DeltaError("a file that is named for another delta")
                if payload.kind != OPEN:
                    raise DeltaError("a share of a delta")
                if payload.bundle_version not in versions:
                    refused["of another bundle version"] += 1
                    continue
                check_layout(payload, blocks)
                decode(data)
            except DeltaError as error:
                refused[str(error.args[0])] += 1
                continue
            found.append(Waiting(payload.id, payload.bundle_version, size))
        return Found(found, dict(refused))

    def rows(self, number: int, ids: Sequence[str], newest: int, blocks: Sequence[BlockSpec]) -> Float32:
        out = np.empty((len(ids), width(blocks)), np.float32)
        for row, one in zip(out, ids, strict=True):
            try:
                delta = decode(_read(self._path / f"{one}{SUFFIX}"))
            except OSError as error:
                raise DeltaError(f"delta {one} of this round is gone: {error.strerror}") from error
            np.concatenate([delta.blocks[block.name] for block in blocks], out=row)
        return out


def _read(file: Path) -> bytes:
    """No more than a payload may have, whatever the file's size."""
    with file.open("rb") as stream:
        return stream.read(MAX_PAYLOAD + 1)


class Store:
    """A gateway's store in mode "open". A round claims its deltas there: one for every version, numbered in a row."""

    def __init__(self, store: GatewayStore) -> None:
        self._store = store

    def number(self, least: int, span: int) -> int:
        taken = _taken(self._store)
        while any(number in taken for number in range(least, least + span)):
            least += 1
        return least

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        known, cohort = self._store.bundles(only_open=False), self._store.policy.minimum_cohort
        found: list[Waiting] = []
        refused = Counter[str]()
        for version in sorted(versions):
            if version not in known:
                continue
            some = _waiting(self._store, version)
            if tuple(known[version].specs) != tuple(blocks):
                refused["of another layout"] += len(some)
            elif len({one.key for one in some}) < cohort:
                refused[f"of a version with fewer than {cohort} devices"] += len(some)
            else:
                found += some
        return Found(sorted(found, key=lambda one: one.id), {why: n for why, n in refused.items() if n})

    def rows(self, number: int, ids: Sequence[str], newest: int, blocks: Sequence[BlockSpec]) -> Float32:
        place = {one: at for at, one in enumerate(ids)}
        out = np.empty((len(ids), width(blocks)), np.float32)
        filled = 0
        for version, own in _by_version(self._store, ids).items():
            here = number + newest - version
            self._store.open_round(here, version)
            self._store.close_round(here, own)
            for one, row in zip(*self._store.rows_of(here), strict=True):
                out[place[one]] = row
                filled += 1
        if filled != len(ids):
            raise DeltaError(f"{len(ids) - filled} of {len(ids)} deltas of this round are gone from the store")
        return out


class Split:
    """Two gateways' stores, one share of every delta in each; only sums leave them."""

    def __init__(self, one: GatewayStore, other: GatewayStore) -> None:
        self._stores = (one, other)

    def number(self, least: int, span: int) -> int:
        taken = set().union(*[_taken(store) for store in self._stores])
        while any(number in taken for number in range(least, least + span)):
            least += 1
        return least

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        """Only the newest version, as the sum of a few devices would tell too much; and of each key only one delta, as
        nobody can cut together what nobody sees.
        """
        one, other = ({found.id: found for found in _waiting(store, max(versions))} for store in self._stores)
        both = [one[id_] for id_ in sorted(one.keys() & other.keys())]
        single = list({found.key or found.id: found for found in reversed(both)}.values())
        refused = {
            "with one share only": len(one) + len(other) - 2 * len(both),
            "of a key that has another in the round": len(both) - len(single),
        }
        return Found(
            sorted(single, key=lambda found: found.id), {why: count for why, count in refused.items() if count}
        )

    def sums(self, number: int, ids: Sequence[str], version: int) -> list[NDArray[np.uint32]]:
        """Both gateways' sums of exactly these shares, uint32 (d,) each; the same call gives the same again."""
        for store in self._stores:
            store.open_round(number, version)
        return [store.sum_of(ids, number) for store in self._stores]

    @property
    def multiplier(self) -> float:
        """The least noise that a gateway adds to a block's sum, over the block's bound."""
        return min(store.policy.noise_multiplier for store in self._stores)

    def rows(self, number: int, ids: Sequence[str], newest: int, blocks: Sequence[BlockSpec]) -> Float32:
        raise DeltaError("there are no single deltas, only sums of shares", hint="round.mode = 'split'")


def _taken(store: GatewayStore) -> set[int]:
    from sqlalchemy import select

    from edgerec_exporters.gateway.schema import rounds

    with store.reading() as connection:
        return set(connection.execute(select(rounds.c.number)).scalars())


def _waiting(store: GatewayStore, version: int) -> list[Waiting]:
    from sqlalchemy import func, select

    from edgerec_exporters.gateway.schema import WAITING, deltas, devices

    asked = (
        select(deltas.c.id, devices.c.public_key, func.length(deltas.c.payload))
        .join_from(deltas, devices, deltas.c.device == devices.c.id, isouter=True)
        .where(deltas.c.bundle_version == version, deltas.c.state == WAITING)
    )
    with store.reading() as connection:
        rows = connection.execute(asked).all()
    return [Waiting(id_, version, size or 0, None if key is None else bytes(key).hex()) for id_, key, size in rows]


def _by_version(store: GatewayStore, ids: Sequence[str]) -> dict[int, list[str]]:
    """Bundle version → those of the ids that were computed on it."""
    from sqlalchemy import select

    from edgerec_exporters.gateway.schema import deltas

    out: dict[int, list[str]] = {}
    with store.reading() as connection:
        for start in range(0, len(ids), 500):
            asked = select(deltas.c.id, deltas.c.bundle_version).where(deltas.c.id.in_(ids[start : start + 500]))
            for id_, version in connection.execute(asked):
                out.setdefault(version, []).append(id_)
    return out
