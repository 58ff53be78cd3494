"""What comes in, each within a transaction that is on the disk before anybody is told: enrolments and deltas."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, func, insert, select

from edgerec_exporters.gateway import tokens
from edgerec_exporters.gateway.schema import WAITING, deltas, devices, nonces

DAY = 86400


class Outcome(StrEnum):
    """What became of a delta."""

    STORED = "stored"
    SAME = "same"
    """The same bytes are there already."""
    CONFLICT = "conflict"
    """Other bytes are there under its id, or another key sent them."""
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    REPLAYED = "replayed"
    FULL = "full"
    """The key's deltas already wait for a round on that version, as many as may."""
    ABSENT = "absent"
    """It is not here, and was only asked for."""


class Enrolment(StrEnum):
    """What became of an enrolment."""

    ENROLLED = "enrolled"
    KNOWN = "known"
    BLOCKED = "blocked"
    REFUSED = "refused"


@dataclass(frozen=True)
class Arrival:
    """A delta that was found sound. `key` 32 bytes, `nonce` 16, `digest` the payload's SHA-256; times in POSIX
    seconds: `nonce_expires` is when the request would be too old in any case. `payload` None: not to be kept, only
    to be recognised where it was kept before.
    """

    key: bytes
    nonce: bytes
    nonce_expires: int
    id: str
    bundle_version: int
    kind: int
    digest: bytes
    payload: bytes | None
    arrived: int


# Built once: building them for every request took longer than running them.
_DEVICE = select(devices.c.id, devices.c.blocked).where(devices.c.public_key == bindparam("key"))
_HELD_DEVICE = _DEVICE.with_for_update()  # where several gateways write to one database, one of them counts at a time
_NONCE = select(nonces.c.expires).where(nonces.c.device == bindparam("of"), nonces.c.nonce == bindparam("used"))
_DELTA = select(deltas.c.digest, deltas.c.device).where(deltas.c.id == bindparam("named"))
_WAITING = select(func.count()).where(
    deltas.c.device == bindparam("of"), deltas.c.state == WAITING, deltas.c.bundle_version == bindparam("on")
)
_NEW_NONCE, _NEW_DELTA, _NEW_DEVICE = insert(nonces), insert(deltas), insert(devices)


def accept(connection: Connection, arrival: Arrival, most_waiting: int) -> Outcome:
    """Keeps the delta, unless there is something against it; its nonce is used up in any case."""
    device = connection.execute(_HELD_DEVICE, {"key": arrival.key}).one_or_none()
    if device is None:
        return Outcome.UNKNOWN
    if device.blocked:
        return Outcome.BLOCKED
    if not _fresh(connection, device.id, arrival):
        return Outcome.REPLAYED
    known = connection.execute(_DELTA, {"named": arrival.id}).one_or_none()
    if known is not None:
        same = known.digest == arrival.digest and known.device in (None, device.id)
        return Outcome.SAME if same else Outcome.CONFLICT
    if arrival.payload is None:
        return Outcome.ABSENT
    if connection.execute(_WAITING, {"of": device.id, "on": arrival.bundle_version}).scalar_one() >= most_waiting:
        return Outcome.FULL
    values = {name: getattr(arrival, name) for name in ("id", "bundle_version", "kind", "digest", "payload", "arrived")}
    connection.execute(_NEW_DELTA, {**values, "device": device.id, "state": WAITING})
    return Outcome.STORED


def _fresh(connection: Connection, device: int, arrival: Arrival) -> bool:
    """Whether the key never used this nonce; now it has."""
    if connection.execute(_NONCE, {"of": device, "used": arrival.nonce}).first() is not None:
        return False
    connection.execute(_NEW_NONCE, {"device": device, "nonce": arrival.nonce, "expires": arrival.nonce_expires})
    return True


def enrol(connection: Connection, key: bytes, token: str | None, *, required: bool, now: int) -> Enrolment:
    """Registers a public key of 32 bytes. A token is used up only by a key that is new."""
    known = connection.execute(_DEVICE, {"key": key}).one_or_none()
    if known is not None:
        return Enrolment.BLOCKED if known.blocked else Enrolment.KNOWN
    if required and (token is None or not tokens.spend(connection, token, now)):
        return Enrolment.REFUSED
    connection.execute(_NEW_DEVICE, {"public_key": key, "enrolled_day": now // DAY, "blocked": False})
    return Enrolment.ENROLLED


def is_enrolled(connection: Connection, key: bytes) -> bool:
    """Whether the key is registered, blocked or not."""
    return connection.execute(_DEVICE, {"key": key}).first() is not None
