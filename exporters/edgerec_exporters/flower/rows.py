"""What a gateway holds of its devices, as a round takes it: single deltas, or in split mode sums of shares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgerec.deltas import Delta, DeltaError
from edgerec.errors import ConfigError, MissingDistribution
from edgerec.federation.encoding import decode
from edgerec.files import exclusive, write_private
from edgerec.types import Float32

if TYPE_CHECKING:
    from edgerec_exporters.gateway.store import GatewayStore

CLAIMS = "claims.json"
Ring = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Ask:
    """What the server asks of a gateway. `number`: of the round, the same one until an answer was counted · `blocks`:
    name and size, in the order of the manifest · `most`: deltas that it may answer with · `ids`: in split mode, of whom
    the sum is asked for.
    """

    number: int
    bundle_version: int
    blocks: tuple[tuple[str, int], ...]
    most: int
    ids: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """d: the numbers of all blocks together."""
        return sum(size for _, size in self.blocks)


@dataclass(frozen=True, slots=True)
class Rows:
    """Deltas of one gateway: `ids`, 32 hexadecimal digits each, and `rows` float32 (n, d)."""

    ids: tuple[str, ...]
    rows: Float32


class DeltaRows(Protocol):
    """A gateway's validated deltas. For one number it always gives the same ones, and to no other number those."""

    def claim(self, ask: Ask) -> Rows:
        """The round's deltas, the oldest first; none where they are too few to leave the gateway. Raises DeltaError."""
        ...

    def held(self, ask: Ask) -> tuple[str, ...]:
        """Split mode: ids of the deltas whose shares could be summed up for this round. Raises DeltaError."""
        ...

    def total(self, ask: Ask) -> Ring:
        """Split mode: the sum of the shares of exactly `ask.ids`, modulo 2^32, uint32 (d,). Raises DeltaError."""
        ...


class StoreRows:
    """What a `GatewayStore` holds."""

    def __init__(self, store: GatewayStore) -> None:
        self.store = store

    def claim(self, ask: Ask) -> Rows:
        from edgerec_exporters.gateway.errors import TooFewDevices

        self._open(ask)
        if self.store.round(ask.number).closed is None:
            try:
                self.store.close_round(ask.number, self.store.ids_of(ask.number)[: ask.most])
            except TooFewDevices:
                return Rows((), np.zeros((0, ask.width), np.float32))
        return Rows(*self.store.rows_of(ask.number))

    def held(self, ask: Ask) -> tuple[str, ...]:
        self._open(ask)
        return self.store.ids_of(ask.number)[: ask.most]

    def total(self, ask: Ask) -> Ring:
        self._open(ask)
        return self.store.sum_of(ask.ids, ask.number)

    def _open(self, ask: Ask) -> None:
        self.store.open_round(ask.number, ask.bundle_version)
        specs = self.store.bundles(only_open=False)[ask.bundle_version].specs
        if tuple((spec.name, spec.size) for spec in specs) != ask.blocks:
            raise DeltaError(f"this gateway has other blocks for version {ask.bundle_version}", hint="same bundle?")


class FolderRows:
    """Deltas that the transport `folder` brought, files `ID.delta`; which round took which is in a file beside them.

    For gateways that get them by other means than HTTP. Who sent one is not known: every delta is a device of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, ask: Ask) -> Rows:
        """Files that are no open delta of this bundle version and these blocks are left alone."""
        if not self.folder.is_dir():
            raise DeltaError(f"no folder of deltas at {self.folder}", hint="name one in the SuperNode's --node-config")
        with exclusive(self.folder / "claims.lock"):
            claims = self._claims()
            known = ask.number in claims.values()
            wanted = {id for id, number in claims.items() if number == ask.number} if known else None
            found = list(self._deltas(ask, wanted, claims))
            if not known and found:
                claims |= dict.fromkeys([delta.id for delta in found], ask.number)
                write_private(self.folder / CLAIMS, json.dumps(claims).encode())
        rows = [np.concatenate([delta.blocks[name] for name, _ in ask.blocks]) for delta in found]
        return Rows(tuple(delta.id for delta in found), np.array(rows, np.float32).reshape(-1, ask.width))

    def held(self, ask: Ask) -> tuple[str, ...]:
        raise DeltaError("a folder of deltas holds no shares", hint="round.mode = 'open', or a gateway's store")

    def total(self, ask: Ask) -> Ring:
        raise DeltaError("a folder of deltas holds no shares", hint="round.mode = 'open', or a gateway's store")

    def _deltas(self, ask: Ask, wanted: set[str] | None, claims: Mapping[str, int]) -> Iterator[Delta]:
        """The wanted ones, or at most `ask.most` that nobody claimed; in the order of their names."""
        left = ask.most
        for path in sorted(self.folder.glob("*.delta")):
            if left == 0:
                return
            if path.stem in claims if wanted is None else path.stem not in wanted:
                continue
            try:
                delta = decode(path.read_bytes())
            except DeltaError:
                continue
            sizes = tuple((name, len(block)) for name, block in delta.blocks.items())
            if (delta.id, delta.bundle_version, sizes) == (path.stem, ask.bundle_version, ask.blocks):
                left -= 1
                yield delta

    def _claims(self) -> dict[str, int]:
        try:
            claims: dict[str, int] = json.loads((self.folder / CLAIMS).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return claims


@contextmanager
def opened(node: Mapping[str, Any]) -> Iterator[DeltaRows]:
    """What the SuperNode's configuration names: `store`, a gateway's database, or `folder`, of deltas.

    Raises ConfigError for none or both, StoreError, MissingDistribution.
    """
    named = {name: node[name] for name in ("store", "folder") if node.get(name)}
    if len(named) != 1 or not all(isinstance(place, str) for place in named.values()):
        raise ConfigError(
            "the SuperNode does not say where its deltas are", hint="--node-config 'store=\"/path/gateway.db\"'"
        )
    if folder := named.get("folder"):
        yield FolderRows(Path(folder))
        return
    try:
        from edgerec_exporters.gateway.store import GatewayStore
    except ModuleNotFoundError as error:
        raise MissingDistribution(
            f"a gateway's store needs {error.name}", hint="pip install 'edgerec-exporters[gateway]'"
        ) from None
    place = named["store"]
    if "://" not in place and not Path(place).is_file():
        raise ConfigError(f"no gateway's store at {place}", hint="is its gateway running?")
    with GatewayStore(place) as store:
        yield StoreRows(store)


def distinct(parts: Sequence[Rows], counted: set[str]) -> tuple[Rows, int]:
    """All rows together, each id once and none that was counted before; and how many were left out."""
    ids: list[str] = []
    rows: list[Float32] = []
    seen = set(counted)
    for part in parts:
        fresh = [at for at, one in enumerate(part.ids) if one not in seen and not seen.add(one)]  # type: ignore[func-returns-value]
        ids += [part.ids[at] for at in fresh]
        rows.append(part.rows[fresh])
    left_out = sum(len(part.ids) for part in parts) - len(ids)
    return Rows(tuple(ids), np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)), left_out


