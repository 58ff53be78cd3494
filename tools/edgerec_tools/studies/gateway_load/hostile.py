"""Requests that nobody sends in good faith, and the status that each must get."""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerec.bundle.federated import BlockSpec
from edgerec_exporters.gateway.signing import headers_for
from edgerec_tools.studies.gateway_load.sending import Sender, payload_of

EXPECTED = {
    "wrong key": 401,
    "altered body": 401,
    "altered path": 401,
    "no signature": 401,
    "replayed": 401,
    "ten minutes old": 401,
    "not enrolled": 403,
    "second of a key in a round": 429,
    "oversized, length said": 413,
    "oversized, chunked, endless": 413,
    "other sizes": 422,
    "NaN unit": 422,
    "beyond its bound": 422,
    "cut off": 422,
    "random bytes": 422,
    "another version": 426,
    "no HTTP": 400,
}
_HEAD, _PART = 31, 9


def attacks(sender: Sender, version: int, specs: Sequence[BlockSpec]) -> Iterator[tuple[str, int]]:
    """Each attack once, under a new key: its name and the status of the answer."""
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    sender.enrol(key)
    body = _renamed(payload_of(0, version, specs), delta_id := token_bytes(16).hex())
    path = f"/v1/deltas/{delta_id}"
    now = time.time()
    sound = headers_for(key, "PUT", path, body, now=now)
    forged = {**headers_for(stranger, "PUT", path, body, now=now), "x-edgerec-key": sound["x-edgerec-key"]}
    flipped = body[:-9] + bytes((body[-9] ^ 1,)) + body[-8:]

    def sent(path_: str, body_: bytes, headers: dict[str, str]) -> int:
        return sender.ask("PUT", path_, body_, headers)

    def signed(body_: bytes) -> int:
        return sender.put(key, delta_id, body_)

    yield "wrong key", sent(path, body, forged)
    yield "altered body", sent(path, flipped, sound)
    yield "altered path", sent(f"/v1/deltas/{token_bytes(16).hex()}", body, sound)
    yield "no signature", sent(path, body, {})
    yield "ten minutes old", sent(path, body, headers_for(key, "PUT", path, body, now=now - 600))
    yield "not enrolled", sender.put(stranger, delta_id, body)
    yield "oversized, length said", signed(body + b"\0")
    yield "oversized, chunked, endless", _endless(sender, path, sound, len(body))
    for name, unsound in _unsound(body, version, specs):
        yield name, signed(unsound)
    yield "no HTTP", _raw(sender, token_bytes(64).replace(b"\n", b"-") + b"\r\n\r\n")
    fresh = headers_for(key, "PUT", path, body, now=time.time())
    if sent(path, body, fresh) in (200, 201):
        yield "replayed", sent(path, body, fresh)
        other, retries = token_bytes(16).hex(), sender.retries
        status = sender.put(key, other, _renamed(body, other))
        if sender.retries == retries:  # else the server was killed, and the round perhaps closed, in between
            yield "second of a key in a round", status


def _unsound(body: bytes, version: int, specs: Sequence[BlockSpec]) -> Iterator[tuple[str, bytes]]:
    first = _HEAD + 1 + len(specs[0].name)
    values = sum(_PART + len(spec.name) for spec in specs) + _HEAD
    yield "other sizes", _patched(body, first, struct.pack("<I", specs[0].size + 1))
    yield "NaN unit", _patched(body, first + 4, struct.pack("<f", float("nan")))
    long = np.full(specs[0].size, 32767, "<i2").tobytes()
    yield "beyond its bound", _patched(body, values, long)
    yield "cut off", body[:-7]
    yield "random bytes", token_bytes(len(body))
    yield "another version", _patched(body, 22, struct.pack("<Q", version + 1))


def _renamed(body: bytes, delta_id: str) -> bytes:
    return _patched(body, 6, bytes.fromhex(delta_id))


def _patched(body: bytes, at: int, data: bytes) -> bytes:
    """Other bytes at a place, under a checksum that is right."""
    changed = body[:at] + data + body[at + len(data) : -4]
    return changed + struct.pack("<I", zlib.crc32(changed))


def _endless(sender: Sender, path: str, headers: dict[str, str], most: int) -> int:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"PUT {path} HTTP/1.1\r\nhost: gateway\r\n{head}transfer-encoding: chunked\r\n\r\n".encode()
    return _raw(sender, start + b"%x\r\n%s\r\n1\r\nx\r\n" % (most, bytes(most)))


def _raw(sender: Sender, data: bytes) -> int:
    """The status that bytes on a connection of their own get; tried again while the server is down."""
    for _ in range(1500):
        try:
            with socket.create_connection((sender.host, sender.port), timeout=20) as line:
                line.sendall(data)
                answer = line.recv(64)
        except OSError:
            answer = b""
        if answer.startswith(b"HTTP/1.1 "):
            return int(answer[9:12])
        time.sleep(0.02)
    raise ConnectionError("the gateway does not come back")
