"""What a gateway answers from: its store, or a folder of deltas, as its SuperNode's configuration names them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError, MissingDistribution
from edgerec_exporters.federation.sources import Folder, Source, Store, Waiting
from edgerec_exporters.flower.asks import Ask, Rows, Total

if TYPE_CHECKING:
    from edgerec_exporters.gateway.store import GatewayStore

_log = logging.getLogger(__name__)


class Holdings:
    """One gateway's deltas. `store`: None where there is only a folder."""

    def __init__(self, source: Source, store: GatewayStore | None = None) -> None:
        self._source, self._store = source, store

    def waiting(self, ask: Ask) -> Sequence[Waiting]:
        """What a round could count; nothing is taken. Raises DeltaError."""
        return self._source.waiting(ask.versions, ask.blocks).waiting

    def rows(self, ask: Ask) -> Rows:
        """The deltas of every part, which is its number's from now on; a part that cannot be had is left out, as when
        an old one's deltas were pruned. Raises DeltaError where none can.
        """
        ids: list[str] = []
        rows = []
        problems = []
        for part in ask.parts:
            try:
                rows.append(self._source.rows(part.number, part.ids, part.newest, ask.blocks))
                ids += part.ids
            except DeltaError as error:
                _log.warning("round %d: %s", part.number, error)
                problems.append(error)
        if not rows:
            raise problems[0] if problems else DeltaError("a round that asks for nothing")
        return Rows(tuple(ids), np.concatenate(rows))

    def total(self, ask: Ask) -> Total:
        """In split mode: the sum of exactly the asked shares, modulo 2^32, with this gateway's own noise. Raises
        DeltaError; a folder holds no shares.
        """
        if self._store is None or len(ask.parts) != 1:
            raise DeltaError("a sum is of one round's shares, from a gateway's store", hint="round.mode = 'open'?")
        (part,) = ask.parts
        self._store.open_round(part.number, part.newest)
        return Total(self._store.sum_of(part.ids, part.number), float(self._store.policy.noise_multiplier))


@contextmanager
def opened(node: Mapping[str, Any]) -> Iterator[Holdings]:
    """What the SuperNode's configuration names: `store`, a gateway's database, or `folder`, of deltas.

    Raises ConfigError for none or both, DeltaError, StoreError, MissingDistribution.
    """
    named = {name: node[name] for name in ("store", "folder") if node.get(name)}
    if len(named) != 1 or not all(isinstance(place, str) for place in named.values()):
        raise ConfigError(
            "the SuperNode does not say where its deltas are", hint="--node-config 'store=\"/path/gateway.db\"'"
        )
    if folder := named.get("folder"):
        yield Holdings(Folder(Path(folder)))
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
        yield Holdings(Store(store), store)
