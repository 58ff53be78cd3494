"""Rounds in the store: opened on a bundle version, closed over deltas that no other round gets, answered once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select, update

from edgerec.bundle.federated import LARGEST, BlockSpec
from edgerec.federation import shares
from edgerec.federation.encoding import OPEN, decode, parse
from edgerec.types import Float32
from edgerec_exporters.gateway.errors import RoundRefused, TooFewDevices, UnknownRound
from edgerec_exporters.gateway.policy import OPEN_MODE, SPLIT_MODE, Policy
from edgerec_exporters.gateway.schema import COUNTED, WAITING, bundles, deltas
from edgerec_exporters.gateway.schema import rounds as table

Ring = NDArray[np.uint32]
MOST_SUMMED = (1 << 31) // LARGEST - 1
"""Deltas whose sum modulo 2^32 is sure to be read back right, were every value as large as can be."""

_AT_A_TIME = 500
_MOST = 1 << 53
"""Of a round's number and a bundle's version; a database refuses what is beyond 64 bits in its own way."""


@dataclass(frozen=True)
class Round:
    """`closed`: POSIX seconds, None while deltas are still taken in for it. `answered`: its sum was computed."""

    number: int
    bundle_version: int
    opened: int
    closed: int | None
    answered: bool


def opened(connection: Connection, number: int, bundle_version: int, now: int) -> Round:
    """See `GatewayStore.open_round`."""
    if not 1 <= number < _MOST:
        raise RoundRefused(f"a round's number is 1 or more, not {number}")
    _specs(connection, bundle_version)
    known = connection.execute(select(table).where(table.c.number == number)).one_or_none()
    if known is None:
        connection.execute(insert(table).values(number=number, bundle_version=bundle_version, opened=now))
    elif known.bundle_version != bundle_version:
        raise RoundRefused(f"round {number} is on bundle version {known.bundle_version}, not {bundle_version}")
    return found(connection, number)


def found(connection: Connection, number: int, *, lock: bool = False) -> Round:
    """See `GatewayStore.round`. `lock`: nobody else changes it before this transaction ends."""
    asked = select(table).where(table.c.number == number)
    row = None
    if 1 <= number < _MOST:
        row = connection.execute(asked.with_for_update() if lock else asked).one_or_none()
    if row is None:
        raise UnknownRound(f"there is no round {number}", hint="open it first")
    return Round(row.number, row.bundle_version, row.opened, row.closed, row.answer is not None)


def claimed(connection: Connection, number: int) -> tuple[str, ...]:
    """Ids of a closed round, oldest first."""
    asked = select(deltas.c.id).where(deltas.c.round == number).order_by(deltas.c.seq)
    return tuple(connection.execute(asked).scalars())


def waiting(connection: Connection, bundle_version: int) -> tuple[str, ...]:
    """Ids that wait for a round on that version, oldest first."""
    asked = select(deltas.c.id).where(_waits(bundle_version)).order_by(deltas.c.seq)
    return tuple(connection.execute(asked).scalars())


def closed(connection: Connection, number: int, ids: Sequence[str] | None, least: int, now: int) -> tuple[str, ...]:
    """See `GatewayStore.close_round`."""
    if ids is not None and len(set(ids)) != len(ids):
        raise RoundRefused("a delta was named twice")
    one = found(connection, number, lock=True)
    if one.closed is not None:
        before = claimed(connection, number)
        if ids is not None and set(ids) != set(before):
            raise RoundRefused(f"round {number} was closed with other deltas", hint="ask for its ids")
        return before
    _claim(connection, one, waiting(connection, one.bundle_version) if ids is None else ids)
    _check_cohort(connection, deltas.c.round == number, least)
    connection.execute(update(table).where(table.c.number == number).values(closed=now))
    return claimed(connection, number)


def _check_cohort(connection: Connection, condition: Any, least: int) -> None:
    """Raises TooFewDevices, which gives up the transaction; one key's deltas are one device's, however many."""
    count = connection.execute(select(func.count(deltas.c.device.distinct())).where(condition)).scalar_one()
    if count < least:
        raise TooFewDevices(f"deltas of {count} devices, at least {least} are needed", hint="wait for more devices")


def _claim(connection: Connection, one: Round, ids: Sequence[str]) -> None:
    done = 0
    for start in range(0, len(ids), _AT_A_TIME):
        some = deltas.c.id.in_(ids[start : start + _AT_A_TIME])
        asked = update(deltas).where(_waits(one.bundle_version), some).values(state=COUNTED, round=one.number)
        done += connection.execute(asked).rowcount
    if done != len(ids):  # the transaction is given up, with what was claimed so far
        raise RoundRefused(
            f"{len(ids) - done} of {len(ids)} deltas do not wait for a round on version {one.bundle_version}",
            hint="they were counted before, taken out, or never came in",
        )


def validated(
    connection: Connection, policy: Policy, bundle_version: int, after: str | None
) -> tuple[tuple[str, ...], Float32]:
    """See `GatewayStore.validated`."""
    _check_open(policy)
    condition = _waits(bundle_version)
    if after is not None:
        seq = connection.execute(select(deltas.c.seq).where(deltas.c.id == after)).scalar()
        if seq is None:
            raise RoundRefused("the delta to begin after is not known")
        condition &= deltas.c.seq > seq
    _check_cohort(connection, condition, policy.minimum_cohort)
    return _rows(connection, condition, _specs(connection, bundle_version))


def rows(connection: Connection, policy: Policy, number: int) -> tuple[tuple[str, ...], Float32]:
    """See `GatewayStore.rows_of`."""
    _check_open(policy)
    one = _closed(connection, number)
    return _rows(connection, deltas.c.round == number, _specs(connection, one.bundle_version))


def check_split(policy: Policy, count: int) -> None:
    """Raises RoundRefused unless this gateway holds shares, and the sum of so many can be read back."""
    if count > MOST_SUMMED:
        raise RoundRefused(f"a sum of {count} deltas may overflow", hint=f"at most {MOST_SUMMED} to a round")
    if policy.mode != SPLIT_MODE:
        raise RoundRefused("this gateway holds deltas, not shares of them", hint="ask for the round's rows")


def answer(connection: Connection, number: int, policy: Policy) -> Ring:
    """The sum of a closed round's shares, uint32 (d,), with noise: what `kept_answer` may keep. If one was kept before,
    that one.
    """
    one = _closed(connection, number)
    kept = _kept(connection, number)
    if kept is not None:
        return kept
    specs = _specs(connection, one.bundle_version)
    total = np.zeros(sum(spec.size for spec in specs), np.uint32)
    for payload in _payloads(connection, deltas.c.round == number):
        total += shares.ring(parse(payload))
    return total + _noise(specs, policy.noise_multiplier)


def kept_answer(connection: Connection, number: int, answer: Ring) -> Ring:
    """Keeps the answer and returns it, or the one that another process was faster to keep."""
    table_ = update(table).where(table.c.number == number, table.c.answer.is_(None))
    connection.execute(table_.values(answer=answer.astype("<u4").tobytes()))
    kept = _kept(connection, number)
    return answer if kept is None else kept


def _noise(specs: Sequence[BlockSpec], multiplier: float) -> Ring:
    """Discrete Gaussian noise in units, modulo 2^32: for each block, σ = multiplier · bound / unit."""
    if not multiplier:
        return np.zeros(sum(spec.size for spec in specs), np.uint32)
    from edgerec_exporters.federation.noise import discrete_gaussian

    drawn = [discrete_gaussian(multiplier * spec.bound / spec.unit, spec.size) for spec in specs]
    return np.concatenate(drawn).astype(np.int64).astype(np.uint32)  # wraps around, as the ring does


def specs_text(specs: Sequence[BlockSpec]) -> str:
    """Blocks as the store keeps them."""
    return json.dumps([spec.values() for spec in specs])


def specs_of(text: str) -> tuple[BlockSpec, ...]:
    """What `specs_text` wrote."""
    values = json.loads(text)
    return tuple([BlockSpec.of(value) for value in values])


def _specs(connection: Connection, version: int) -> tuple[BlockSpec, ...]:
    text = None
    if 1 <= version < _MOST:
        text = connection.execute(select(bundles.c.blocks).where(bundles.c.version == version)).scalar()
    if text is None:
        raise RoundRefused(f"this gateway never had bundle version {version}")
    return specs_of(text)


def _closed(connection: Connection, number: int) -> Round:
    one = found(connection, number)
    if one.closed is None:
        raise RoundRefused(f"round {number} is still open", hint="close it first")
    return one


def _kept(connection: Connection, number: int) -> Ring | None:
    kept = connection.execute(select(table.c.answer).where(table.c.number == number)).scalar()
    return None if kept is None else np.frombuffer(kept, "<u4").astype(np.uint32)


def _check_open(policy: Policy) -> None:
    if policy.mode != OPEN_MODE:
        raise RoundRefused("this gateway holds shares, of which only sums leave it", hint="ask for the round's sum")


def _rows(connection: Connection, condition: Any, specs: Sequence[BlockSpec]) -> tuple[tuple[str, ...], Float32]:
    condition = condition & (deltas.c.kind == OPEN)
    ids = tuple(connection.execute(select(deltas.c.id).where(condition).order_by(deltas.c.seq)).scalars())
    out = np.empty((len(ids), sum(spec.size for spec in specs)), np.float32)
    for row, payload in zip(out, _payloads(connection, condition), strict=True):
        blocks = decode(payload).blocks
        np.concatenate([blocks[spec.name] for spec in specs], out=row)
    return ids, out


def _payloads(connection: Connection, condition: Any) -> Iterator[bytes]:
    asked = select(deltas.c.payload).where(condition).order_by(deltas.c.seq)
    with connection.execute(asked, execution_options={"yield_per": _AT_A_TIME}) as found_:
        for payload in found_.scalars():
            if payload is None:
                raise RoundRefused("deltas of this round were pruned", hint="a round is answered within the days kept")
            yield payload


def _waits(bundle_version: int) -> Any:
    return (deltas.c.bundle_version == bundle_version) & (deltas.c.state == WAITING)
