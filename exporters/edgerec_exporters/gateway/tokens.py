"""Tokens that let devices enrol and operators ask for rounds. The store keeps their digests only."""

from __future__ import annotations

import secrets
from hashlib import sha256

from sqlalchemy import ColumnElement, Connection, insert, or_, select, update

from edgerec.errors import ConfigError
from edgerec_exporters.gateway.schema import tokens

ENROL, OPERATOR = "enrol", "operator"
PURPOSES = (ENROL, OPERATOR)
MOST_TEXT = 256


def new_token(connection: Connection, purpose: str, uses: int | None, expires: int | None) -> str:
    """256 bits of the operating system's chance as text. `expires` in POSIX seconds. Raises ConfigError."""
    if purpose not in PURPOSES or (uses is not None and uses < 1):
        raise ConfigError(f"no token for {purpose!r} with {uses} uses", hint=f"one of {', '.join(PURPOSES)}, 1 or more")
    text = f"edgerec-{purpose}-{secrets.token_urlsafe(32)}"
    left = None if purpose == OPERATOR else uses
    connection.execute(insert(tokens).values(digest=_digest(text), purpose=purpose, uses_left=left, expires=expires))
    return text


def is_operator(connection: Connection, text: str, now: int) -> bool:
    """Whether this is an operator's token, and still good."""
    asked = select(tokens.c.digest).where(_good(text, OPERATOR, now))
    return connection.execute(asked).first() is not None


def spend(connection: Connection, text: str, now: int) -> bool:
    """Uses an enrolment token once; False where it is unknown, used up or expired."""
    good = _good(text, ENROL, now) & or_(tokens.c.uses_left.is_(None), tokens.c.uses_left > 0)
    return bool(connection.execute(update(tokens).where(good).values(uses_left=tokens.c.uses_left - 1)).rowcount)


def _good(text: str, purpose: str, now: int) -> ColumnElement[bool]:
    # Found by its digest: of 256 random bits, so that neither salt nor slowness would add anything.
    alive = or_(tokens.c.expires.is_(None), tokens.c.expires > now)
    return (tokens.c.digest == _digest(text)) & (tokens.c.purpose == purpose) & alive


def _digest(text: str) -> bytes:
    return sha256(text[:MOST_TEXT].encode()).digest()
