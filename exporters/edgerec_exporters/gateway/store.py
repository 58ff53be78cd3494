"""The gateway's store: devices, tokens, deltas, and which round each of them went into.

Every delta is counted once. A round claims its deltas in one transaction before anybody sees a row or a sum of them, so
that a crash between may repeat a round, with the same deltas and in split mode the same answer, but never count one
twice. Several processes may open one store at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError, OperationalError

from edgerec.bundle import Manifest
from edgerec.bundle.federated import BlockSpec, read_federated
from edgerec.errors import BundleInvalid, StoreBusy, StoreError, StoreTooNew
from edgerec.types import Float32
from edgerec_exporters.gateway import pruning, rounds, schema
from edgerec_exporters.gateway.policy import Policy
from edgerec_exporters.gateway.rounds import Ring, Round
from edgerec_exporters.gateway.tokens import new_token

_BUSY = ("database is locked", "database table is locked")


@dataclass(frozen=True)
class OpenBundle:
    """A bundle version that deltas may be of, and its blocks in the order in which they travel."""

    version: int
    name: str
    specs: tuple[BlockSpec, ...]


class GatewayStore:
    """One gateway's store, at a path (SQLite) or a URL. Close it after use, or use it in a `with`.

    `wait_s`: the longest a write waits for another process. Raises StoreTooNew, StoreError or MissingDistribution.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, wait_s: float = 15.0
    ) -> None:
        self.clock = clock
        with _translated():
            self._engine = schema.open_engine(place, wait_s=wait_s)
            self._reader = schema.for_reading(self._engine)
            self._migrate()

    def __enter__(self) -> GatewayStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view. Raises StoreError."""
        with _translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it is on the disk when it ends, or none. Raises StoreBusy or StoreError."""
        with _translated(), self._engine.begin() as connection:
            yield connection

    # What the operator decides

    @property
    def policy(self) -> Policy:
        """What was configured last; the default before that."""
        with self.reading() as connection:
            return _policy(connection)

    def configure(self, policy: Policy) -> None:
        """Keeps the policy, for every process that opens the store."""
        with self.writing() as connection:
            _put(connection, "policy", policy.dump())

    def open_bundles(self, manifests: Sequence[Manifest]) -> tuple[OpenBundle, ...]:
        """From now on, deltas of these versions are taken in and of no others. Raises BundleInvalid for a bundle that
        is not federated, or whose version was known with other blocks.
        """
        found = tuple([_open_bundle(manifest) for manifest in manifests])
        with self.writing() as connection:
            connection.execute(update(schema.bundles).values(open=False))
            for one in found:
                _open(connection, one)
        return found

    def bundles(self, *, only_open: bool = True) -> Mapping[int, OpenBundle]:
        """By version, those that are open, or all that ever were."""
        asked = select(schema.bundles)
        with self.reading() as connection:
            rows = connection.execute(asked.where(schema.bundles.c.open) if only_open else asked).all()
        return {row.version: OpenBundle(row.version, row.name, rounds.specs_of(row.blocks)) for row in rows}

    def new_token(self, purpose: str = "enrol", *, uses: int | None = 1, days: float | None = None) -> str:
        """A token for `uses` enrolments (None: any number), or with purpose "operator" for rounds. Only its digest is
        kept: what is returned cannot be asked for again.
        """
        with self.writing() as connection:
            return new_token(connection, purpose, uses, None if days is None else int(self.clock() + days * 86400))

    def block(self, delta_id: str) -> bool:
        """Takes nothing more from the key that sent this delta, and takes out what of it waits. False where the sender
        is not known any more.
        """
        with self.writing() as connection:
            return pruning.block(connection, delta_id)

    # Rounds

    def open_round(self, number: int, bundle_version: int) -> Round:
        """Opens a round on deltas of one bundle version; nothing happens where it was opened so before. Raises
        RoundRefused for another version, or one that this gateway never had.
        """
        with self.writing() as connection:
            return rounds.opened(connection, number, bundle_version, int(self.clock()))

    def round(self, number: int) -> Round:
        """Raises UnknownRound."""
        with self.reading() as connection:
            return rounds.found(connection, number)

    def ids_of(self, number: int) -> tuple[str, ...]:
        """The round's deltas: those it claimed, or while it is open those that wait. Raises UnknownRound."""
        with self.reading() as connection:
            one = rounds.found(connection, number)
            return rounds.claimed(connection, number) if one.closed else rounds.waiting(connection, one.bundle_version)

    def validated(self, bundle_version: int, after: str | None = None) -> tuple[tuple[str, ...], Float32]:
        """What waits for a round, oldest first: ids, and rows float32 (n, d), a block after the other in the
        manifest's order. Claims nothing. `after`: only what came in after the delta of that id.

        Raises TooFewDevices below the minimum cohort, and RoundRefused in split mode.
        """
        with self.reading() as connection:
            return rounds.validated(connection, _policy(connection), bundle_version, after)

    def close_round(self, number: int, ids: Sequence[str] | None = None, *, minimum: int = 1) -> tuple[str, ...]:
        """Claims the deltas of these ids, or all that wait, for this round and no other; returns their ids, oldest
        first. The same call again returns the same ids. Whatever comes in from now on waits for another round.

        Raises UnknownRound, TooFewDevices below `minimum` or the policy's minimum cohort, and RoundRefused where an id
        does not wait or the round was closed with others.
        """
        with self.writing() as connection:
            least = max(minimum, _policy(connection).minimum_cohort)
            return rounds.closed(connection, number, ids, least, int(self.clock()))

    def rows_of(self, number: int) -> tuple[tuple[str, ...], Float32]:
        """Ids and rows, float32 (n, d), of a closed round. Raises RoundRefused: in split mode, while it is open, or
        once its deltas were pruned.
        """
        with self.reading() as connection:
            return rounds.rows(connection, _policy(connection), number)

    def take(self, number: int, bundle_version: int, *, minimum: int = 1) -> tuple[tuple[str, ...], Float32]:
        """Opens the round, closes it over all that waits, and returns its rows; after a crash, the same ones again."""
        self.open_round(number, bundle_version)
        self.close_round(number, minimum=minimum)
        return self.rows_of(number)

    def sum_of(self, ids: Sequence[str], round: int) -> Ring:
        """In split mode: the sum modulo 2^32 of exactly these shares, uint32 (d,), in units, this gateway's own noise
        in it where the policy says so. Closes the round.

        A round has one answer and a delta one round, so that no two answers can be subtracted: asked again with the
        same ids the same numbers come back, noise included. Raises as `close_round`, and RoundRefused in open mode.
        """
        policy = self.policy
        rounds.check_split(policy, len(ids))
        self.close_round(round, ids)
        with self.reading() as connection:
            answer = rounds.answer(connection, round, policy)
        with self.writing() as connection:
            return rounds.kept_answer(connection, round, answer)

    # Housekeeping

    def status(self) -> dict[str, Any]:
        """Counts of what the store holds."""
        with self.reading() as connection:
            return {**asdict(_policy(connection)), **pruning.counts(connection, int(self.clock()))}

    def prune(
        self, *, counted_days: float = 7.0, waiting_days: float = 30.0, ids_days: float = 400.0
    ) -> dict[str, int]:
        """Deletes what is not needed any more; how much of it. See `pruning.prune`."""
        with self.writing() as connection:
            return pruning.prune(connection, self.clock(), counted_days, waiting_days, ids_days)

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            schema.metadata.create_all(connection)
            known = _get(connection, "schema")
            if known is None:
                _put(connection, "schema", str(schema.SCHEMA))
            elif int(known) > schema.SCHEMA:
                raise StoreTooNew(f"the gateway's store has schema {known}, newer than {schema.SCHEMA}")


def _policy(connection: Connection) -> Policy:
    text = _get(connection, "policy")
    return Policy() if text is None else Policy.parse(text)


def _get(connection: Connection, name: str) -> str | None:
    return connection.execute(select(schema.meta.c.value).where(schema.meta.c.name == name)).scalar()


def _put(connection: Connection, name: str, value: str) -> None:
    done = connection.execute(update(schema.meta).where(schema.meta.c.name == name).values(value=value))
    if not done.rowcount:
        connection.execute(insert(schema.meta).values(name=name, value=value))


def _open_bundle(manifest: Manifest) -> OpenBundle:
    specs = read_federated(manifest.federated, manifest.n_items, manifest.scenarios).blocks
    if not specs:
        raise BundleInvalid(
            f"{manifest.name} version {manifest.version} declares no federated blocks", hint="export it with some"
        )
    return OpenBundle(manifest.version, manifest.name, specs)


def _open(connection: Connection, one: OpenBundle) -> None:
    table, blocks = schema.bundles, rounds.specs_text(one.specs)
    known = connection.execute(select(table).where(table.c.version == one.version)).one_or_none()
    if known is None:
        connection.execute(insert(table).values(version=one.version, name=one.name, blocks=blocks, open=True))
    elif (known.name, json.loads(known.blocks)) != (one.name, json.loads(blocks)):
        raise BundleInvalid(
            f"version {one.version} was open here before, as {known.name}, with other blocks or another name",
            hint="every bundle gets a version of its own; another bundle gets another store",
        )
    else:
        connection.execute(update(table).where(table.c.version == one.version).values(open=True))


@contextmanager
def _translated() -> Iterator[None]:
    """The database's errors as edgerec's."""
    try:
        yield
    except OperationalError as error:
        if str(error.orig) in _BUSY:
            raise StoreBusy("another process holds the gateway's store", hint="try again") from error
        raise StoreError(f"the gateway's store: {error.orig}") from error
    except (DBAPIError, OSError) as error:
        raise StoreError(f"the gateway's store: {getattr(error, 'orig', error)}") from error
