"""The gateway over real HTTP: what devices may send, what is refused and how, what operators see."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import ssl
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateways import (
    GENEROUS,
    N_ITEMS,
    SPECS,
    Asker,
    Device,
    federated_bundle,
    federated_manifest,
    id_of,
    key_of,
    payload_of,
    row_of,
    serving,
)

from edgerec.cli import main
from edgerec.deltas import Delta
from edgerec.errors import ConfigError
from edgerec.federation.encoding import encode
from edgerec.federation.shares import signed, split
from edgerec_exporters.gateway import logs
from edgerec_exporters.gateway.limits import Limiter, Rate, asker_of
from edgerec_exporters.gateway.serving import serve
from edgerec_exporters.gateway.settings import Settings, settings_of
from edgerec_exporters.gateway.signing import headers_for, message
from edgerec_exporters.gateway.store import GatewayStore

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Setup:
    """Starts gateways and their devices, and ends them."""

    def __init__(self, folder: Path, clock: Clock, stack: ExitStack) -> None:
        self.folder, self.clock, self.stack = folder, clock, stack
        self.url = ""

    def store(self, settings: Settings, name: str = "gateway.db", versions: tuple[int, ...] = (1,)) -> GatewayStore:
        store = self.stack.enter_context(GatewayStore(self.folder / name, clock=self.clock))
        store.configure(settings.policy)
        store.open_bundles([federated_manifest(self.folder, version) for version in versions])
        return store

    def start(self, tables: dict[str, Any] | None = None, **options: Any) -> GatewayStore:
        tables = {"gateway": {"minimum_cohort": 3}, "limits": GENEROUS, **(tables or {})}
        settings = settings_of(tables)
        store = self.store(settings, **options)
        self.url = self.stack.enter_context(serving(store, settings))
        return store

    def device(self, number: int, **options: Any) -> Device:
        device = Device(self.url, number, self.clock, **options)
        self.stack.callback(device.close)
        return device

    def asker(self) -> Asker:
        asker = Asker(self.url, self.clock)
        self.stack.callback(asker.close)
        return asker

    def raw(self, data: bytes, *, until_closed: bool = True) -> bytes:
        """Bytes as they are, on a connection of their own; what comes back."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as line:
            line.sendall(data)
            out = b""
            while piece := line.recv(65536):
                out += piece
                if not until_closed and b"\r\n\r\n" in out:
                    break
            return out


@pytest.fixture
def setup(tmp_path: Path, clock: Clock) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(tmp_path, clock, stack)


# Sound requests


def test_a_delta_arrives_once_and_is_there_on_return(setup: Setup) -> None:
    store, device = setup.start(), setup.device(1)
    first, again = device.put(1), device.put(1)
    assert (first.status, first.json) == (201, {"status": "stored"})
    assert (again.status, again.json) == (200, {"status": "same"})
    for number in (2, 3):
        assert setup.device(number).put(number).status == 201
    ids, rows = store.take(1, 1)
    assert ids == tuple(map(id_of, (1, 2, 3)))
    assert np.array_equal(rows, np.stack([row_of(number) for number in (1, 2, 3)]))


def test_the_signature_is_as_the_page_says(setup: Setup) -> None:
    """Headers made from docs/gateway.md, without the project's code."""
    setup.start()
    device = setup.device(1)
    body, path, time, nonce = payload_of(1), f"/v1/deltas/{id_of(1)}", "1700000000", "00112233445566778899aabbccddeeff"
    signed_text = "\n".join(("PUT", path, time, nonce, sha256(body).hexdigest()))
    headers = {
        "X-Edgerec-Key": device.public,
        "X-Edgerec-Time": time,
        "X-Edgerec-Nonce": nonce,
        "X-Edgerec-Signature": device.key.sign(signed_text.encode()).hex(),
    }
    assert device.ask("PUT", path, body, headers).status == 201
    assert message("PUT", path, int(time), bytes.fromhex(nonce), sha256(body).hexdigest()) == signed_text.encode()


def test_the_status_tells_a_device_what_it_must_know(setup: Setup) -> None:
    setup.start(versions=(1, 2))
    found = setup.asker().ask("GET", "/v1/status").json
    assert found["bundle_versions"] == [1, 2]
    assert found["payload_bytes"]["1"] == {"0": len(payload_of(1))}
    assert (found["mode"], found["token_required"], found["time"]) == ("open", False, NOW)


def test_a_body_in_pieces_without_a_length_is_taken(setup: Setup) -> None:
    setup.start()
    device, path = setup.device(1), f"/v1/deltas/{id_of(1)}"
    body = payload_of(1)
    pieces = (body[at : at + 50] for at in range(0, len(body), 50))
    device.connection.request("PUT", path, pieces, device.signed(path, body), encode_chunked=True)
    assert device.connection.getresponse().status == 201


# Enrolment


def test_enrolment_is_open_unless_tokens_are_required(setup: Setup) -> None:
    store = setup.start({"enrolment": {"token_required": True}})
    token = store.new_token(uses=1)
    first, second = setup.device(1, enrol=False), setup.device(2, enrol=False)
    assert first.put(1).reason == (403, "unknown_key")
    assert first.enrol().reason == (403, "token")
    assert first.enrol(token).status == 201
    assert first.enrol().json == {"status": "known"}
    assert second.enrol(token).reason == (403, "token")
    assert first.put(1).status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"public_key": 1}',
        b'{"public_key": "00"}',
        b'{"public_key": "%s", "token": 1}' % (b"0" * 64),
    ],
)
def test_an_enrolment_that_is_none(setup: Setup, body: bytes) -> None:
    setup.start()
    assert setup.asker().ask("POST", "/v1/enrol", body).reason == (422, "form")


def test_a_blocked_key_is_told_so(setup: Setup) -> None:
    store, device = setup.start(), setup.device(1)
    assert device.put(1).status == 201
    store.block(id_of(1))
    assert device.put(2).reason == (403, "blocked")
    assert device.enrol().reason == (403, "blocked")


# Forged, replayed, stale


def test_forged_requests(setup: Setup) -> None:
    store = setup.start()
    device, other = setup.device(1), setup.device(2)
    path, body = f"/v1/deltas/{id_of(1)}", payload_of(1)
    mine = device.signed(path, body)
    wrong_key = {**other.signed(path, body), "x-edgerec-key": device.public}
    altered = payload_of(2)[:5] + body[5:]
    flipped = body[:-8] + bytes((body[-8] ^ 1,)) + body[-7:]
    elsewhere = f"/v1/deltas/{id_of(2)}"
    for target, sent, headers in (
        (path, body, wrong_key),
        (path, flipped, mine),
        (elsewhere, body, mine),
        (path, body, {**mine, "x-edgerec-nonce": "0" * 32}),
        (path, body, {**mine, "x-edgerec-time": str(int(NOW) + 1)}),
    ):
        assert device.ask("PUT", target, sent, headers).reason == (401, "signature")
    assert altered == body
    for name in mine:
        without = {key: value for key, value in mine.items() if key != name}
        assert device.ask("PUT", path, body, without).reason == (401, "unsigned")
        assert device.ask("PUT", path, body, {**mine, name: "é"[:0] + "zz"}).reason == (401, "unsigned")
    assert store.status()["waiting"] == 0
    assert device.ask("PUT", path, body, mine).status == 201, "what was refused used no nonce up"


def test_a_replayed_request(setup: Setup) -> None:
    store, device = setup.start(), setup.device(1)
    path, body = f"/v1/deltas/{id_of(1)}", payload_of(1)
    headers = device.signed(path, body)
    assert device.ask("PUT", path, body, headers).status == 201
    assert device.ask("PUT", path, body, headers).reason == (401, "replayed")
    assert store.status()["waiting"] == 1


def test_a_stale_request_is_told_the_time(setup: Setup) -> None:
    setup.start({"gateway": {"window_s": 60}})
    device = setup.device(1)
    for off in (-61, 61):
        answer = device.put_bytes(id_of(1), payload_of(1), now=NOW + off)
        assert answer.reason == (401, "stale")
        assert answer.json["time"] == NOW
    assert device.put_bytes(id_of(1), payload_of(1), now=NOW - 60).status == 201


def test_a_nonce_is_remembered_for_as_long_as_its_request_is_fresh(setup: Setup, clock: Clock) -> None:
    store, device = setup.start(), setup.device(1)
    path, body = f"/v1/deltas/{id_of(1)}", payload_of(1)
    headers = device.signed(path, body, now=NOW + 300)  # as far ahead as may be
    assert device.ask("PUT", path, body, headers).status == 201
    for later in (300, 600):
        clock.now = NOW + later
        store.prune()
        assert device.ask("PUT", path, body, headers).reason == (401, "replayed")
    clock.now = NOW + 601
    assert device.ask("PUT", path, body, headers).reason == (401, "stale")


# Sizes


def test_an_oversized_body_is_not_read(setup: Setup) -> None:
    setup.start()
    device, most = setup.device(1), len(payload_of(1))
    path = f"/v1/deltas/{id_of(1)}"
    head = "".join(f"{name}: {value}\r\n" for name, value in device.signed(path, b"").items())
    start = f"PUT {path} HTTP/1.1\r\nhost: x\r\n{head}"
    said = setup.raw(f"{start}content-length: 1000000000\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413 ")
    piece = b"%x\r\n%s\r\n" % (most, b"x" * most)
    unsaid = setup.raw(f"{start}transfer-encoding: chunked\r\n\r\n".encode() + piece + b"1\r\ny\r\n")
    assert unsaid.startswith(b"HTTP/1.1 413 "), "answered although the body never ends"
    assert b"connection: close" in unsaid.lower()
    for length in ("-1", "1e3", "9" * 40):
        assert setup.raw(f"{start}content-length: {length}\r\n\r\n".encode())[9:12] in (b"400", b"413")
    assert device.put_bytes(id_of(1), payload_of(1) + b"\0").reason == (413, "size")
    assert device.put_bytes(id_of(1), payload_of(1)[:-1]).reason == (422, "form")
    assert device.put(1).status == 201


def test_a_body_that_does_not_come_is_not_waited_for(setup: Setup) -> None:
    setup.start({"limits": {**GENEROUS, "body_s": 0.05}})
    device, path = setup.device(1), f"/v1/deltas/{id_of(1)}"
    head = "".join(f"{name}: {value}\r\n" for name, value in device.signed(path, b"").items())
    answer = setup.raw(f"PUT {path} HTTP/1.1\r\nhost: x\r\n{head}content-length: 100\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("begun", [b"", b"PUT /v1/deltas/", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea"])
def test_a_request_that_is_never_finished_is_not_waited_for(setup: Setup, begun: bytes) -> None:
    setup.start({"limits": {**GENEROUS, "head_s": 0.05}})
    answer = setup.raw(begun)
    assert answer.count(b"HTTP/1.1 200") == begun.count(b"\r\n\r\n")


# Unsound deltas


def hostile_delta(values: np.ndarray | None = None, **changes: Any) -> bytes:
    """Delta 1 with other values, or other fields in its head."""
    body = bytearray(payload_of(1))
    for place, data in changes.items():
        at = {"magic": 0, "form": 4, "kind": 5, "id": 6, "version": 22, "count": 30, "unit": 46, "size": 42}[place]
        body[at : at + len(data)] = data
    if values is not None:
        body[66 : 66 + 2 * len(values)] = values.astype("<i2").tobytes()
    return bytes(body[:-4]) + struct.pack("<I", zlib.crc32(bytes(body[:-4])))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (hostile_delta(magic=b"EDGX"), 422, "form"),
        (hostile_delta(form=b"\x09"), 422, "form"),
        (hostile_delta(kind=b"\x07"), 422, "form"),
        (hostile_delta(count=b"\x00"), 422, "form"),
        (hostile_delta(unit=struct.pack("<f", float("nan"))), 422, "form"),
        (hostile_delta(unit=struct.pack("<f", float("inf"))), 422, "form"),
        (hostile_delta(unit=struct.pack("<f", 0.125)), 422, "form"),
        (hostile_delta(size=struct.pack("<I", 0xFFFFFFFF)), 422, "form"),
        (hostile_delta(size=struct.pack("<I", 59)), 422, "form"),
        (hostile_delta(np.full(1, -32768)), 422, "form"),
        (hostile_delta(np.full(N_ITEMS, 32767)), 422, "norm"),
        (hostile_delta(np.full(1, 65)), 422, "norm"),
        (hostile_delta(id=bytes(16)), 422, "id"),
        (hostile_delta(version=struct.pack("<Q", 2)), 426, "bundle_version"),
        (hostile_delta(version=b"\xff" * 8), 426, "bundle_version"),
        (payload_of(1)[:-4] + b"\0\0\0\0", 422, "form"),
        (b"", 422, "form"),
        (b"\x00" * 50, 422, "form"),
        (b"{}", 422, "form"),
        (split(payload_of(1))[1], 422, "kind"),
    ],
    ids=lambda value: value[:6].hex() if isinstance(value, bytes) else value,
)
def test_an_unsound_delta(setup: Setup, body: bytes, status: int, reason: str) -> None:
    store, device = setup.start(), setup.device(1)
    answer = device.put_bytes(id_of(1), body)
    assert answer.reason == (status, reason)
    if status == 426:
        assert answer.json["bundle_versions"] == [1]
    assert store.status()["waiting"] == 0
    assert device.put(1).status == 201


def test_a_delta_that_was_counted_is_known_when_its_version_is_closed(setup: Setup) -> None:
    """A device that was told 426 would send the same events again in its next delta."""
    store = setup.start({"gateway": {"minimum_cohort": 1}})
    device, other = setup.device(1), setup.device(2)
    assert device.put(1).status == 201
    store.take(1, 1)
    setup.start(versions=(2,))
    device, other = setup.device(1), setup.device(2)
    assert device.put(1).json == {"status": "same"}
    assert device.put(3).reason == (426, "bundle_version")
    assert other.put(1).reason == (409, "conflict")
    headers = device.signed(path := f"/v1/deltas/{id_of(3)}", payload_of(3))
    found = [device.ask("PUT", path, payload_of(3), headers).status for _ in range(2)]
    assert found == [426, 401]


def test_a_delta_as_long_as_its_bound_is_taken(setup: Setup) -> None:
    setup.start()
    blocks = {"popularity": np.zeros(N_ITEMS, np.float32), "metrics": np.zeros(32, np.float32)}
    blocks["popularity"][:16] = 1
    blocks["metrics"][3] = -1
    assert setup.device(1).put_bytes(id_of(1), encode(Delta(id_of(1), 1, blocks), SPECS)).status == 201


def test_noise_that_devices_add_may_make_deltas_longer(setup: Setup) -> None:
    setup.start({"privacy": {"local_noise": 1.0}})
    drawn = np.rint(np.random.default_rng(0).normal(0, 64, N_ITEMS))
    assert setup.device(1).put_bytes(id_of(1), hostile_delta(drawn)).status == 201
    assert setup.device(2).put_bytes(id_of(1), hostile_delta(drawn * 2)).reason == (422, "norm")


def test_another_delta_under_an_id(setup: Setup) -> None:
    setup.start({"gateway": {"minimum_cohort": 1, "most_per_round": 9}})
    device = setup.device(1)
    assert device.put(1).status == 201
    assert device.put_bytes(id_of(1), hostile_delta(np.ones(3))).reason == (409, "conflict")
    assert setup.device(2).put(1).reason == (409, "conflict")


def test_one_delta_of_a_key_waits_for_a_round(setup: Setup) -> None:
    store = setup.start({"gateway": {"minimum_cohort": 1}})
    device = setup.device(1)
    assert device.put(1).status == 201
    full = device.put(2)
    assert full.reason == (429, "round_full")
    assert int(full.headers["retry-after"]) > 0
    store.take(1, 1)
    assert device.put(2).status == 201


def test_garbage_leaves_the_gateway_serving(setup: Setup) -> None:
    setup.start()
    device = setup.device(1)
    for data in (b"\x16\x03\x01\x00\xff", b"GET\r\n\r\n", b"PUT / HTTP/1.1\r\n" + b"a" * 40_000, b"\0" * 5000):
        assert setup.raw(data + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    asker = setup.asker()
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1/deltas/x", 405),
        ("PUT", "/v1/deltas/x", 422),
        ("PUT", f"/v1/deltas/{id_of(1)}?x=1", 422),
        ("PUT", f"/v1/deltas/{id_of(1).upper()}", 422),
        ("DELETE", "/v1/enrol", 405),
        ("GET", "/v1/rounds/1/ids", 401),
    ):
        assert asker.ask(method, path).status == status, path
    assert device.put(1).status == 201


# Limits


def test_addresses_and_keys_have_limits_of_their_own(setup: Setup) -> None:
    few = {"key_per_minute": 0.001, "key_burst": 2, "address_per_minute": 0.001, "address_burst": 8}
    setup.start({"limits": {**GENEROUS, **few}})
    first, second = setup.device(1), setup.device(2)
    forged = {**second.signed("/x", b""), "x-edgerec-key": first.public}
    assert first.ask("PUT", f"/v1/deltas/{id_of(1)}", payload_of(1), forged).reason == (401, "signature")
    assert [first.put(1).status for _ in range(2)] == [201, 200], "a forger uses nothing of another key's limit"
    assert first.put(1).reason == (429, "rate_key")
    assert second.put(2).status == 201
    second.put(2)
    answer = second.put(2)
    assert answer.reason == (429, "rate_address")
    assert int(answer.headers["retry-after"]) > 1000


def test_a_proxys_word_for_an_address_is_taken_where_it_is_named(setup: Setup) -> None:
    limits = {**GENEROUS, "address_per_minute": 0.001, "address_burst": 2}
    for proxies, last in (((), 429), (["127.0.0.1"], 200)):
        setup.start({"gateway": {"proxies": list(proxies)}, "limits": limits}, name=f"{len(proxies)}.db")
        asker = setup.asker()
        found = [
            asker.ask("GET", "/v1/status", None, {"x-forwarded-for": f"192.0.2.{host}"}).status for host in (1, 2, 3)
        ]
        assert found == [200, 200, last]


def test_enrolments_have_a_limit(setup: Setup) -> None:
    setup.start({"limits": {**GENEROUS, "enrolment_per_minute": 0.001, "enrolment_burst": 2}})
    found = [setup.device(number, enrol=False).enrol().status for number in (1, 2, 3)]
    assert found == [201, 201, 429]


def test_a_bucket_fills_with_time() -> None:
    now = [0.0]
    limiter = Limiter(Rate(60, 2), lambda: now[0], most=2)
    assert [limiter.wait_s("a") for _ in range(3)] == [0, 0, 1]
    now[0] += 0.5
    assert limiter.wait_s("a") == pytest.approx(0.5)
    now[0] += 0.5
    assert limiter.wait_s("a") == 0
    assert limiter.wait_s("b") == limiter.wait_s("c") == 0
    assert limiter.wait_s("a") == 0, "forgotten, for two others asked since"


def test_an_address_stands_for_its_household() -> None:
    assert asker_of("192.0.2.7") == "192.0.2.7"
    assert asker_of("2001:db8:1:2::7") == asker_of("2001:db8:1:2:ffff::9") != asker_of("2001:db8:1:3::7")
    assert asker_of(None) == asker_of("a socket") == "unknown"


# Rounds over HTTP


def test_an_operator_takes_a_round(setup: Setup) -> None:
    store = setup.start()
    for number in range(4):
        setup.device(number).put(number)
    asker = setup.asker()
    bearer = {"authorization": f"Bearer {store.new_token('operator')}"}
    for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": f"Bearer {store.new_token()}"}):
        assert asker.ask("POST", "/v1/rounds/1/rows", {}, wrong).reason == (401, "operator")
    assert asker.ask("GET", "/v1/rounds/1/ids", None, bearer).reason == (404, "unknown_round")
    assert asker.ask("PUT", "/v1/rounds/1", {"bundle_version": "1"}, bearer).reason == (422, "form")
    for number, version in ((1, 7), (1, 1 << 70), (1 << 70, 1), (0, 1)):
        asked = {"bundle_version": version}
        assert asker.ask("PUT", f"/v1/rounds/{number}", asked, bearer).reason == (409, "round")
    assert asker.ask("GET", f"/v1/rounds/{1 << 70}", None, bearer).reason == (404, "unknown_round")
    assert asker.ask("PUT", "/v1/rounds/1", {"bundle_version": 1}, bearer).json["closed"] is None
    assert asker.ask("GET", "/v1/rounds/1/ids", None, bearer).json["ids"] == [id_of(number) for number in range(4)]
    assert asker.ask("POST", "/v1/rounds/1/rows", {"minimum": 5}, bearer).reason == (409, "too_few")
    assert asker.ask("POST", "/v1/rounds/1/rows", {"ids": "all"}, bearer).reason == (422, "form")
    answer = asker.ask("POST", "/v1/rounds/1/rows", {"minimum": 4}, bearer)
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as found:
        assert found["ids"].astype(str).tolist() == [id_of(number) for number in range(4)]
        assert np.array_equal(found["rows"], np.stack([row_of(number) for number in range(4)]))
    assert asker.ask("GET", "/v1/rounds/1", None, bearer).json["closed"] == NOW
    assert asker.ask("POST", "/v1/rounds/1/sum", {"ids": [id_of(0)]}, bearer).reason == (409, "round")


def test_two_gateways_answer_with_sums_of_shares(setup: Setup) -> None:
    tables = {"gateway": {"mode": "split", "minimum_cohort": 3}}
    sums = []
    for side in (0, 1):
        store = setup.start(tables, name=f"gateway{side}.db")
        for number in range(4):
            share = split(payload_of(number), sha256(b"seed %d" % number).digest())[side]
            assert setup.device(number).put_bytes(id_of(number), share).status == 201
        whole = setup.device(9).put(9)
        assert whole.status in (413, 422)
        asker, bearer = setup.asker(), {"authorization": f"Bearer {store.new_token('operator')}"}
        asker.ask("PUT", "/v1/rounds/1", {"bundle_version": 1}, bearer)
        assert asker.ask("POST", "/v1/rounds/1/rows", {}, bearer).reason == (409, "round")
        ids = [id_of(number) for number in range(4)]
        answer = asker.ask("POST", "/v1/rounds/1/sum", {"ids": ids}, bearer)
        with np.load(io.BytesIO(answer.body), allow_pickle=False) as found:
            sums.append(found["sum"])
        assert asker.ask("POST", "/v1/rounds/1/sum", {"ids": ids[:3]}, bearer).reason == (409, "round")
    units = np.concatenate([np.full(spec.size, spec.unit) for spec in SPECS])
    assert np.allclose(signed(sums[0] + sums[1]) * units, sum(row_of(number) for number in range(4)), atol=1e-9)


# What is watched, and what is told to nobody


def test_metrics_count_what_happened(setup: Setup) -> None:
    setup.start()
    device = setup.device(1)
    for number in (1, 1, 2):
        device.put(number)
    text = setup.asker().ask("GET", "/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = dict(line.rsplit(" ", 1) for line in text.body.decode().splitlines() if not line.startswith("#"))
    assert found['edgerec_gateway_deltas_total{outcome="stored"}'] == "1.0"
    assert found['edgerec_gateway_deltas_total{outcome="same"}'] == "1.0"
    assert found['edgerec_gateway_refused_total{reason="round_full"}'] == "1.0"
    assert found['edgerec_gateway_requests_total{route="deltas",status="429"}'] == "1.0"
    assert found["edgerec_gateway_enrolments_total"] == found["edgerec_gateway_waiting"] == "1.0"
    assert setup.asker().ask("GET", "/health").json == {"status": "ok", "waiting": 1}


def test_logs_are_json_and_hold_nothing_of_the_user(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        logs.log_to(stream, logging.DEBUG)
        setup.start()
        device = setup.device(1)
        device.put(1)
        device.put(2)
        device.put_bytes(id_of(3), b"xyz")
        setup.raw(b"nonsense\r\n\r\n")
        monkeypatch.setattr("edgerec_exporters.gateway.inbox.accept", broken)
        assert device.put(4).status == 500
        setup.stack.close()
    finally:
        root.handlers.clear()
        root.setLevel(level)
        logging.getLogger("edgerec.gateway").setLevel(logging.NOTSET)
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if line["event"] == "request" and line["route"] == "deltas"]
    assert [line["status"] for line in told] == [201, 429, 422, 500]
    assert told[1]["reason"] == "round_full"
    assert told[3]["error"] == "ZeroDivisionError"
    for secret in (device.public, *map(id_of, range(5)), "127.0.0.1", "xyz", "of the user"):
        assert secret not in text
    assert not re.search(r"[0-9a-f]{16}", text)


def broken(*_: object) -> None:
    raise ZeroDivisionError("a text of the user")


def test_a_store_that_cannot_be_written_is_told_and_survived(setup: Setup) -> None:
    settings = settings_of({"gateway": {"minimum_cohort": 1}, "limits": GENEROUS})
    store = setup.store(settings)
    store.close()
    slow = setup.stack.enter_context(GatewayStore(setup.folder / "gateway.db", clock=setup.clock, wait_s=0.05))
    setup.url = setup.stack.enter_context(serving(slow, settings))
    device = setup.device(1)
    with store.writing():
        answer = device.put(1)
    assert answer.reason == (503, "store")
    assert "retry-after" in answer.headers
    assert device.put(1).status == 201


# The command, TLS, settings


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    kinds = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *kinds))
    return folder / "cert.pem", folder / "key.pem"


def test_over_tls(setup: Setup) -> None:
    settings = settings_of({"limits": GENEROUS})
    cert, key = certificate(setup.folder)
    setup.url = setup.stack.enter_context(serving(setup.store(settings), settings, certificate=cert, key=key))
    assert setup.url.startswith("https://")
    assert setup.device(1, tls=ssl.create_default_context(cafile=cert)).put(1).status == 201


def test_plain_http_is_for_this_machine(setup: Setup) -> None:
    store = setup.store(Settings())
    for options, said in (
        ({"host": "0.0.0.0"}, "plain HTTP"),
        ({"host": "127.0.0.1", "certificate": Path("x")}, "come together"),
        ({"host": "127.0.0.1", "certificate": Path("x"), "key": Path("x")}, "cannot be used"),
        ({"host": "192.0.2.1", "certificate": None}, "plain HTTP"),
    ):
        with pytest.raises(ConfigError, match=said):
            serve(store, Settings(), port=0, **options)  # type: ignore[arg-type]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            serve(store, Settings(), host="127.0.0.1", port=taken.getsockname()[1])


@pytest.mark.parametrize(
    "tables",
    [
        {"gatway": {}},
        {"gateway": 1},
        {"gateway": {"mode": "closed"}},
        {"gateway": {"minimum_cohort": 0}},
        {"gateway": {"max_per_round": 1}},
        {"limits": {"address_burst": 0}},
        {"privacy": {"noise_multiplier": 1.0}},
        {"enrolment": {"token_required": "yes"}},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(tables: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        settings_of(tables)


def test_the_command_serves_and_tells(tmp_path: Path) -> None:
    bundle, place = federated_bundle(tmp_path / "a.edgerec"), str(tmp_path / "gateway.db")
    (tmp_path / "gateway.toml").write_text("[gateway]\nminimum_cohort = 4\n[enrolment]\ntoken_required = true\n")
    run: Callable[..., Any] = lambda *args: CliRunner().invoke(main, ["gateway", *args, "--store", place])  # noqa: E731
    token = json.loads(run("token", "new", "--uses", "3", "--json").output)["token"]
    command = [sys.executable, "-m", "edgerec", "gateway", "run", "--bundle", str(bundle), "--store", place]
    command += ["--port", "0", "--config", str(tmp_path / "gateway.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = json.loads(process.stderr.readline())
            assert told["event"] == "listening"
            device = Device(f"http://127.0.0.1:{told['port']}", 1, lambda: datetime.now(UTC).timestamp(), enrol=False)
            assert device.enrol(token).status == 201
            assert device.put(1).status == 201
            device.close()
        finally:
            process.terminate()
        process.communicate(timeout=20)
    assert process.returncode in (0, -15)
    found = json.loads(run("status", "--json").output)
    assert (found["devices"], found["waiting"], found["minimum_cohort"], found["tokens"]) == (1, 1, 4, 1)
    assert json.loads(run("prune", "--waiting-days", "0", "--json").output)["dropped"] in (0, 1)
    assert run("block", id_of(9)).output == "its sender is not known any more\n"


def test_the_command_says_what_is_not_installed(tmp_path: Path) -> None:
    script = "import sys; sys.modules['sqlalchemy'] = None; from edgerec.cli import main; main()"
    command = [sys.executable, "-c", script, "gateway", "status", "--store", str(tmp_path / "gateway.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 90
    assert "edgerec-exporters[gateway]" in done.stderr


def test_headers_are_drawn_anew() -> None:
    made = [headers_for(key_of(1), "PUT", "/", b"", now=NOW) for _ in range(2)]
    assert made[0]["x-edgerec-nonce"] != made[1]["x-edgerec-nonce"]
