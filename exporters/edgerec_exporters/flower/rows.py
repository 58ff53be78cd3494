"""What a gateway holds of its devices, as a round takes it: single deltas, or in split mode sums of shares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
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
    name and size, in the order of the manifest · `most`: deltas that it may answer with · `split`: whether the sum of
    shares is asked for · `ids`: of whom, once that is decided.
    """

    number: int
    bundle_version: int
    blocks: tuple[tuple[str, int], ...]
    most: int
    split: bool = False
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
    """A gateway's validated deltas. What it gave to one number it gives to that number again, and to no other."""

    def held(self, ask: Ask) -> tuple[str, ...]:
        """Ids of what the round may count, oldest first: what it claimed before, or at most `ask.most` that wait. None
        where they are too few to leave the gateway. Raises DeltaError.
        """
        ...

    def claim(self, ask: Ask) -> Rows:
        """Exactly the deltas of `ask.ids`, from now on this round's. Raises DeltaError where one of them is not to be
        had.
        """
        ...

    def total(self, ask: Ask) -> Ring:
        """In split mode: the sum of the shares of exactly `ask.ids`, modulo 2^32, uint32 (d,). Raises DeltaError."""
        ...


class StoreRows:
    """What a `GatewayStore` holds."""

    def __init__(self, store: GatewayStore) -> None:
        self.store = store

    def held(self, ask: Ask) -> tuple[str, ...]:
        self.store.open_round(ask.number, ask.bundle_version)
        specs = self.store.bundles(only_open=False)[ask.bundle_version].specs
        if tuple((spec.name, spec.size) for spec in specs) != ask.blocks:
            raise DeltaError(f"this gateway has other blocks for version {ask.bundle_version}", hint="same bundle?")
        ids = self.store.ids_of(ask.number)
        if len(ids) < self.store.policy.minimum_cohort:
            return ()
        return ids if self.store.round(ask.number).closed else ids[: ask.most]

    def claim(self, ask: Ask) -> Rows:
        self.store.close_round(ask.number, ask.ids)
        return Rows(*self.store.rows_of(ask.number))

    def total(self, ask: Ask) -> Ring:
        return self.store.sum_of(ask.ids, ask.number)


class FolderRows:
    """Deltas that the transport `folder` brought, files `ID.delta`; which round took which is in a file beside them.

    For gateways that get them by other means than HTTP. Who sent one is not known: every delta is a device of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def held(self, ask: Ask) -> tuple[str, ...]:
        """Files that are no open delta of this bundle version and these blocks are left alone."""
        claims = self._claims()
        if own := [one for one, number in claims.items() if number == ask.number]:
            return tuple(own)
        fresh = (path.stem for path in sorted(self.folder.glob("*.delta")) if path.stem not in claims)
        return tuple(islice((one for one in fresh if self._sound(one, ask) is not None), ask.most))

    def claim(self, ask: Ask) -> Rows:
        rows = np.zeros((len(ask.ids), ask.width), np.float32)
        for row, one in zip(rows, ask.ids, strict=True):
            if (delta := self._sound(one, ask)) is None:
                raise DeltaError(f"no delta {one} for this round", hint="was it removed meanwhile?")
            np.concatenate([delta.blocks[name] for name, _ in ask.blocks], out=row)
        with exclusive(self.folder / "claims.lock"):
            claims = self._claims()
            if any(claims.get(one, ask.number) != ask.number for one in ask.ids):
                raise DeltaError("a delta that another round claimed")
            claims |= dict.fromkeys(ask.ids, ask.number)
            write_private(self.folder / CLAIMS, json.dumps(claims).encode())
        return Rows(ask.ids, rows)

    def total(self, ask: Ask) -> Ring:
        raise DeltaError("a folder of deltas holds no shares", hint="round.mode = 'open', or a gateway's store")

    def _sound(self, one: str, ask: Ask) -> Delta | None:
        try:
            delta = decode((self.folder / f"{one}.delta").read_bytes())
        except (OSError, DeltaError):
            return None
        sizes = tuple((name, len(block)) for name, block in delta.blocks.items())
        return delta if (delta.id, delta.bundle_version, sizes) == (one, ask.bundle_version, ask.blocks) else None

    def _claims(self) -> dict[str, int]:
        if not self.folder.is_dir():
            raise DeltaError(f"no folder of deltas at {self.folder}", hint="name one in the SuperNode's --node-config")
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
