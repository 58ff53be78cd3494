"""Signed requests: Ed25519 over what was asked, when, once, and of what. docs/gateway.md writes it down for devices."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY, TIME, NONCE, SIGNATURE = "x-edgerec-key", "x-edgerec-time", "x-edgerec-nonce", "x-edgerec-signature"
PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_FORMS = {
    KEY: PUBLIC_KEY,
    TIME: re.compile(r"0|[1-9][0-9]{0,14}"),
    NONCE: re.compile(r"[0-9a-f]{32}"),
    SIGNATURE: re.compile(r"[0-9a-f]{128}"),
}


@dataclass(frozen=True)
class Signed:
    """What the four headers say. `key` 32 bytes, `time` POSIX seconds, `nonce` 16 bytes, `signature` 64 bytes."""

    key: bytes
    time: int
    nonce: bytes
    signature: bytes

    def proves(self, method: str, path: str, digest: str) -> bool:
        """Whether the key signed this request; `digest`: hex SHA-256 of its body."""
        try:
            _verifier(self.key).verify(self.signature, message(method, path, self.time, self.nonce, digest))
        except (InvalidSignature, ValueError):
            return False
        return True


@lru_cache(maxsize=1024)
def _verifier(key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(key)


def read(headers: Mapping[str, str]) -> Signed | None:
    """The four headers; None where one is missing or of another form. Names are looked up in lower case."""
    found = {name: headers.get(name, "") for name in _FORMS}
    if not all(form.fullmatch(found[name]) for name, form in _FORMS.items()):
        return None
    raw = {name: bytes.fromhex(found[name]) for name in (KEY, NONCE, SIGNATURE)}
    return Signed(raw[KEY], int(found[TIME]), raw[NONCE], raw[SIGNATURE])


def message(method: str, path: str, time: int, nonce: bytes, digest: str) -> bytes:
    """What is signed: method, path, time, nonce and hex SHA-256 of the body, joined by newlines."""
    return "\n".join((method, path, str(time), nonce.hex(), digest)).encode()


def headers_for(
    key: Ed25519PrivateKey, method: str, path: str, body: bytes, *, now: float, nonce: bytes | None = None
) -> dict[str, str]:
    """The four headers of a request, as a device makes them. `nonce`: 16 bytes, drawn anew where it is None."""
    nonce = secrets.token_bytes(16) if nonce is None else nonce
    signature = key.sign(message(method, path, int(now), nonce, sha256(body).hexdigest()))
    return {
        KEY: key.public_key().public_bytes_raw().hex(),
        TIME: str(int(now)),
        NONCE: nonce.hex(),
        SIGNATURE: signature.hex(),
    }


def is_key(text: str) -> bool:
    """Whether this is a public key in hexadecimal digits, of a point that can be one."""
    if not PUBLIC_KEY.fullmatch(text):
        return False
    try:
        _verifier(bytes.fromhex(text))
    except ValueError:
        return False
    return True
