"""What a gateway's store holds, and what is deleted from it when."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from edgerec_exporters.gateway.schema import COUNTED, DROPPED, WAITING, bundles, deltas, devices, nonces, rounds, tokens

DAY = 86400.0
_EMPTY: dict[str, Any] = {"payload": None, "device": None}


def counts(connection: Connection, now: int) -> dict[str, Any]:
    """Of devices, deltas by state, rounds and good tokens; the age in days of what waits longest."""
    states = connection.execute(select(deltas.c.state, func.count()).group_by(deltas.c.state)).all()
    by_state = {state: count for state, count in states}
    oldest = connection.execute(select(func.min(deltas.c.arrived)).where(deltas.c.state == WAITING)).scalar()
    good = or_(tokens.c.expires.is_(None), tokens.c.expires > now)
    good &= or_(tokens.c.uses_left.is_(None), tokens.c.uses_left > 0)
    versions = select(bundles.c.version).where(bundles.c.open).order_by(bundles.c.version)
    return {
        "bundle_versions": list(connection.execute(versions).scalars()),
        "devices": connection.execute(select(func.count()).select_from(devices)).scalar_one(),
        "waiting": by_state.get(WAITING, 0),
        "counted": by_state.get(COUNTED, 0),
        "dropped": by_state.get(DROPPED, 0),
        "oldest_waiting_days": None if oldest is None else round((now - oldest) / DAY, 3),
        "rounds_open": _count(connection, rounds.c.closed.is_(None)),
        "rounds_closed": _count(connection, rounds.c.closed.is_not(None)),
        "tokens": connection.execute(select(func.count()).select_from(tokens).where(good)).scalar_one(),
    }


def waiting(connection: Connection) -> int:
    """How many deltas wait for a round."""
    asked = select(func.count()).select_from(deltas).where(deltas.c.state == WAITING)
    return int(connection.execute(asked).scalar_one())


def prune_nonces(connection: Connection, now: float) -> int:
    """Deletes the nonces of requests that are too old to be repeated; how many."""
    return int(connection.execute(delete(nonces).where(nonces.c.expires < int(now))).rowcount)


def prune(
    connection: Connection, now: float, counted_days: float, waiting_days: float, ids_days: float
) -> dict[str, int]:
    """Deletes, and says how much of each:

    `nonces` that are too old to be repeated · `payloads` of deltas that were counted `counted_days` ago, and who sent
    them · `dropped`: payloads and senders of deltas that waited `waiting_days` · `ids` of deltas that came `ids_days`
    ago and have no payload any more, of bundle versions that are closed: until then, one that comes in again is known.
    """
    still_open = select(bundles.c.version).where(bundles.c.open)
    old_rounds = select(rounds.c.number).where(rounds.c.closed < int(now - counted_days * DAY))
    counted = and_(deltas.c.state == COUNTED, deltas.c.round.in_(old_rounds), deltas.c.payload.is_not(None))
    stale = deltas.c.arrived < int(now - waiting_days * DAY)
    gone = and_(deltas.c.payload.is_(None), deltas.c.bundle_version.not_in(still_open))
    gone &= deltas.c.arrived < int(now - ids_days * DAY)
    claimed = deltas.c.state == WAITING
    return {
        "nonces": prune_nonces(connection, now),
        "payloads": connection.execute(update(deltas).where(counted).values(_EMPTY)).rowcount,
        "dropped": connection.execute(
            update(deltas).where(claimed, stale).values({**_EMPTY, "state": DROPPED})
        ).rowcount,
        "ids": connection.execute(delete(deltas).where(gone)).rowcount,
    }


def block(connection: Connection, delta_id: str) -> bool:
    """See `GatewayStore.block`."""
    sender = connection.execute(select(deltas.c.device).where(deltas.c.id == delta_id)).scalar()
    if sender is None:
        return False
    connection.execute(update(devices).where(devices.c.id == sender).values(blocked=True))
    of_it = (deltas.c.device == sender) & (deltas.c.state == WAITING)
    connection.execute(update(deltas).where(of_it).values({**_EMPTY, "state": DROPPED}))
    return True


def _count(connection: Connection, condition: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(rounds).where(condition)).scalar_one())
