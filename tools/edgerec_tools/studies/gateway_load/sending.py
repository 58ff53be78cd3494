"""A device as a test of load needs it: a key, a connection, deltas that can be made again from their number."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from urllib.parse import urlsplit

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import Delta
from edgerec.federation.encoding import encode
from edgerec_exporters.gateway.signing import headers_for

_TOUCHED = 40
_PAUSE_S = 0.02
_TRIES = 1500
"""Of one request while the server is down: half a minute."""


def id_of(number: int) -> str:
    """A delta's id, 32 hexadecimal digits."""
    return sha256(f"delta {number}".encode()).hexdigest()[:32]


def key_of(number: int) -> Ed25519PrivateKey:
    """A device's key."""
    return Ed25519PrivateKey.from_private_bytes(sha256(f"key {number}".encode()).digest())


def delta_of(number: int, version: int, specs: Sequence[BlockSpec]) -> Delta:
    """A delta within its bounds, another one for every number."""
    rng = np.random.default_rng(number)
    blocks = {}
    for spec in specs:
        block = np.zeros(spec.size, np.float32)
        touched = rng.choice(spec.size, min(spec.size, _TOUCHED), replace=False)
        block[touched] = rng.choice((-spec.unit, spec.unit), len(touched))
        blocks[spec.name] = block
    return Delta(id_of(number), version, blocks)


def payload_of(number: int, version: int, specs: Sequence[BlockSpec]) -> bytes:
    """The delta's bytes."""
    return encode(delta_of(number, version, specs), specs)


class Sender:
    """One connection to one gateway, made anew where it breaks."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), parts.port
        self._connection: http.client.HTTPConnection | None = None
        self.retries = 0

    def enrol(self, key: Ed25519PrivateKey) -> int:
        """The status of an enrolment."""
        body = json.dumps({"public_key": key.public_key().public_bytes_raw().hex()}).encode()
        return self.ask("POST", "/v1/enrol", body)

    def put(self, key: Ed25519PrivateKey, delta_id: str, body: bytes) -> int:
        """The status of a delta that is signed now; while the server is down it is signed and sent again."""
        path = f"/v1/deltas/{delta_id}"
        return self.ask("PUT", path, body, key=key)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        key: Ed25519PrivateKey | None = None,
    ) -> int:
        """The answer's status, once there is one other than 503. Raises ConnectionError when there never is."""
        for _ in range(_TRIES):
            sent = dict(headers or {}) if key is None else headers_for(key, method, path, body, now=time.time())
            try:
                status = self._once(method, path, body, sent)
            except (OSError, http.client.HTTPException):
                status = 503
                self.close()
            if status != 503:
                return status
            self.retries += 1
            time.sleep(_PAUSE_S)
        raise ConnectionError("the gateway does not come back")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _once(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        self._connection.request(method, path, body, headers)
        with self._connection.getresponse() as response:
            response.read()
            return response.status
