"""For tests of the gateway: a federated bundle, deltas, devices that sign, a server on loopback."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from bundles import tiny_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerec.bundle import Manifest, verify
from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import Delta
from edgerec.federation.encoding import encode
from edgerec_exporters.gateway.serving import listening, server_of
from edgerec_exporters.gateway.settings import Settings
from edgerec_exporters.gateway.signing import headers_for
from edgerec_exporters.gateway.store import GatewayStore

N_ITEMS = 60
BLOCKS = [
    {"name": "popularity", "kind": "item_counts", "size": N_ITEMS, "bound": 4.0, "unit": 0.0625},
    {"name": "metrics", "kind": "metrics", "size": 32, "bound": 1.0, "unit": 0.0009765625},
]
SPECS = tuple(BlockSpec(b["name"], b["kind"], b["size"], b["bound"], b["unit"]) for b in BLOCKS)  # type: ignore[arg-type]
WIDTH = N_ITEMS + 32
GENEROUS = {"address_per_minute": 1e8, "address_burst": 10**8, "key_per_minute": 1e8, "key_burst": 10**8} | {
    "enrolment_per_minute": 1e8,
    "enrolment_burst": 10**8,
}
"""[limits] that no test reaches by chance."""


def federated_bundle(path: Path, version: int = 1, blocks: list[dict[str, Any]] = BLOCKS) -> Path:
    """A small real bundle whose devices send deltas."""
    return tiny_bundle(path, N_ITEMS, version=version, federated={"blocks": blocks})


def federated_manifest(folder: Path, version: int = 1, **changes: Any) -> Manifest:
    """The manifest of such a bundle."""
    return verify(federated_bundle(folder / f"v{version}.edgerec", version, **changes))


def id_of(number: int) -> str:
    """A delta's id."""
    return sha256(f"delta {number}".encode()).hexdigest()[:32]


def delta_of(number: int, version: int = 1) -> Delta:
    """A delta within its bounds, another one for every number."""
    rng = np.random.default_rng(number)
    counts = np.zeros(N_ITEMS, np.float32)
    counts[rng.choice(N_ITEMS, 6, replace=False)] = 1
    metrics = rng.integers(-64, 65, 32).astype(np.float32) * np.float32(2**-10)
    return Delta(id_of(number), version, {"popularity": counts, "metrics": metrics})


def payload_of(number: int, version: int = 1) -> bytes:
    """Its bytes."""
    return encode(delta_of(number, version), SPECS)


def row_of(number: int) -> np.ndarray:
    """Its values, float32 (92,)."""
    return np.concatenate(list(delta_of(number).blocks.values()))


def key_of(number: int) -> Ed25519PrivateKey:
    """A device's key, always the same one."""
    return Ed25519PrivateKey.from_private_bytes(sha256(f"key {number}".encode()).digest())


class Asker:
    """Asks one server over a connection that is kept. `now` gives POSIX seconds."""

    def __init__(self, url: str, now: Callable[[], float], tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        if tls is None:
            self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        else:
            self.connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=20, context=tls)
        self.now = now

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.connection.request(method, path, body, dict(headers or {}))
        response = self.connection.getresponse()
        return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})

    def close(self) -> None:
        self.connection.close()


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def reason(self) -> tuple[int, str]:
        return self.status, self.json.get("reason", "")


class Device(Asker):
    """One enrolled key."""

    def __init__(
        self, url: str, number: int, now: Callable[[], float], *, enrol: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(url, now, tls)
        self.key = key_of(number)
        self.public = self.key.public_key().public_bytes_raw().hex()
        if enrol:
            assert self.enrol().status in (200, 201)

    def enrol(self, token: str | None = None) -> Answer:
        return self.ask("POST", "/v1/enrol", {"public_key": self.public, **({"token": token} if token else {})})

    def signed(self, path: str, body: bytes, **changes: Any) -> dict[str, str]:
        """Headers of a PUT; `now` and `nonce` may be given."""
        return headers_for(self.key, "PUT", path, body, **{"now": self.now(), **changes})

    def put(self, number: int, version: int = 1) -> Answer:
        return self.put_bytes(id_of(number), payload_of(number, version))

    def put_bytes(self, delta_id: str, body: bytes, **changes: Any) -> Answer:
        path = f"/v1/deltas/{delta_id}"
        return self.ask("PUT", path, body, self.signed(path, body, **changes))


@contextmanager
def serving(
    store: GatewayStore, settings: Settings, *, certificate: Path | None = None, key: Path | None = None
) -> Iterator[str]:
    """A gateway in a thread, as a URL."""
    server = server_of(store, settings, certificate=certificate, key=key)
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
