"""The transport `https` against real servers on loopback: signed, retried, never fooled, and the real gateway."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from conftest import Clock, Opener
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID
from gateways import BLOCKS, GENEROUS, federated_bundle, federated_manifest, payload_of, serving

from edgerec.checks import run_checks
from edgerec.deltas import DeltaRefused, TransportError
from edgerec.errors import ConfigError, MissingDistribution
from edgerec.plugins import Plugins
from edgerec_exporters.gateway.settings import settings_of
from edgerec_exporters.gateway.store import GatewayStore
from edgerec_plugins import foldin, https, sgd
from edgerec_plugins.gateway_client import ENROLLED, KEY_FILE, Https

PAYLOAD = bytes(range(256)) * 20
ID = "ab" * 16


class Server:
    """What a gateway does with signed uploads, and whatever `answers` says before: (status, headers, JSON)."""

    def __init__(self) -> None:
        self.enrolled: dict[str, str | None] = {}
        self.deltas: dict[str, bytes] = {}
        self.nonces: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, dict[str, str], dict[str, Any]] | None] = []
        self.drop = 0
        self.clock: float | None = None
        self.url = ""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            told = json.loads(body)
            known = told["public_key"] in self.enrolled
            self.enrolled[told["public_key"]] = told.get("token")
            return (200 if known else 201), {}
        key, time, nonce = (headers[f"X-Edgerec-{name}"] for name in ("Key", "Time", "Nonce"))
        if key not in self.enrolled:
            return 403, {"reason": "unknown_key", "error": "who is this?"}
        message = "\n".join((method, path, time, nonce, sha256(body).hexdigest()))
        signature = bytes.fromhex(headers["X-Edgerec-Signature"])
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message.encode())
        if self.clock is not None and abs(self.clock - int(time)) > 300:
            return 401, {"reason": "stale", "time": int(self.clock)}
        assert nonce not in self.nonces, "a nonce twice"
        self.nonces.add(nonce)
        name = path.rpartition("/")[2]
        if name in self.deltas:
            return (200, {}) if self.deltas[name] == body else (409, {"error": "another"})
        self.deltas[name] = body
        return 201, {}


class Handler(BaseHTTPRequestHandler):
    home: Server
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        home, body = self.home, self.rfile.read(int(self.headers["Content-Length"]))
        home.requests.append((self.command, self.path))
        home.headers.append(dict(self.headers))
        said = home.answers.pop(0) if home.answers else None
        extra: dict[str, str] = {}
        if said is None:
            status, told = home.answer(self.command, self.path, dict(self.headers), body)
            if home.drop and self.command == "PUT":  # it was taken, and the answer is lost
                home.drop -= 1
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
        else:
            status, extra, told = said
        out = json.dumps(told).encode()
        self.send_response(status)
        for name, value in {**extra, "Content-Length": str(len(out))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(out)

    do_POST = do_PUT  # noqa: N815 - its name is the standard library's

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(home: Server) -> Iterator[Server]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Handler,), {"home": home}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    home.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield home
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as home:
        yield home


Make = Callable[..., Https]


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Make:
    """A transport whose waits are noted, not waited for."""

    def make(folder: Path | None = None, **settings: Any) -> Https:
        one = Https({"url": server.url, **settings})
        one.keep_in(folder or tmp_path / "keys")
        one.waited = []  # type: ignore[attr-defined]
        one._sleep = one.waited.append  # type: ignore[attr-defined,assignment]
        return one

    return make


def test_it_conforms_but_for_what_it_is_there_for(server: Server) -> None:
    results = run_checks("transport", https.https, {"url": server.url})
    failed = {one.check for one in results if not one.ok}
    assert failed <= {"no_forbidden_import", "check_no_forbidden_import"}, "it imports urllib3, as it must"
    assert set(server.deltas) >= {"delta-1", "delta-2"}


def test_a_delta_arrives_signed_by_an_enrolled_key(server: Server, client: Make, tmp_path: Path) -> None:
    client(token="let me in").send(PAYLOAD, delta_id=ID)
    assert server.deltas == {ID: PAYLOAD}
    assert list(server.enrolled.values()) == ["let me in"]
    assert server.requests == [("POST", "/v1/enrol"), ("PUT", f"/v1/deltas/{ID}")]
    assert not {"Authorization", "Cookie"} & set(server.headers[1])
    client().send(PAYLOAD, delta_id="cd" * 16)
    assert len(server.enrolled) == 1, "the key is kept"
    assert len(server.requests) == 3, "and known to be enrolled"
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [KEY_FILE, ENROLLED]


def test_the_key_is_its_owner_s_alone_and_another_one_after_it_is_gone(
    server: Server, client: Make, tmp_path: Path
) -> None:
    one = client()
    one.send(PAYLOAD, delta_id=ID)
    path = tmp_path / "keys" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    path.unlink()
    path.with_name(ENROLLED).unlink()
    path.parent.rmdir()
    one.send(PAYLOAD, delta_id="cd" * 16)
    assert len(server.enrolled) == 2
    path.write_bytes(b"damaged")
    one.send(PAYLOAD, delta_id="ef" * 16)
    assert len(server.enrolled) == 3


def test_two_gateways_see_two_keys(server: Server, client: Make, tmp_path: Path) -> None:
    for name in ("one", "other"):
        client(tmp_path / name).send(PAYLOAD, delta_id=name)
    assert len(server.enrolled) == 2


def test_a_gateway_that_lost_its_memory_is_told_again(server: Server, client: Make) -> None:
    one = client()
    one.send(PAYLOAD, delta_id=ID)
    server.enrolled.clear()
    one.send(PAYLOAD, delta_id="cd" * 16)
    assert len(server.enrolled) == 1
    assert set(server.deltas) == {ID, "cd" * 16}


def test_another_gateway_is_enrolled_at_too(server: Server, client: Make) -> None:
    client().send(PAYLOAD, delta_id=ID)
    with running(Server()) as other:
        client(url=other.url).send(PAYLOAD, delta_id=ID)
        assert set(other.enrolled) == set(server.enrolled)


def test_a_lost_answer_is_asked_for_again_and_counts_once(server: Server, client: Make) -> None:
    """An interrupted upload is sent again, whole, under the same id and with a nonce of its own."""
    server.drop = 2
    one = client()
    one.send(PAYLOAD, delta_id=ID)
    assert server.deltas == {ID: PAYLOAD}
    assert server.requests.count(("PUT", f"/v1/deltas/{ID}")) == 3
    assert len({headers["X-Edgerec-Nonce"] for headers in server.headers[1:]}) == 3


BUSY = [
    ({}, lambda waits: 0.25 <= waits[0] <= 0.5 and 0.5 <= waits[1] <= 1),
    ({"Retry-After": "7"}, lambda waits: waits == [7, 7]),
    ({"Retry-After": "soon"}, lambda waits: waits[1] <= 1),
    ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, lambda waits: waits == [0, 0]),
]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("headers", "right"), BUSY)
def test_a_busy_gateway_is_given_the_time_it_asks_for(
    server: Server, client: Make, status: int, headers: dict[str, str], right: Callable[[Any], bool]
) -> None:
    one = client()
    one.send(b"", delta_id="enrols")
    server.answers = [(status, headers, {})] * 2
    one.send(PAYLOAD, delta_id=ID)
    assert server.deltas[ID] == PAYLOAD
    assert right(one.waited), one.waited  # type: ignore[attr-defined]


def test_one_that_asks_for_too_long_is_left_to_the_next_sync(server: Server, client: Make) -> None:
    one = client()
    one.send(b"", delta_id="enrols")
    hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for asked in ("3600", hour):
        server.answers = [(429, {"Retry-After": asked}, {"error": "round is full"})]
        with pytest.raises(TransportError, match=r"round is full; try again in 3[56]") as caught:
            one.send(PAYLOAD, delta_id=ID)
        assert not isinstance(caught.value, DeltaRefused)
    assert one.waited == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [409, 413, 422, 426])
def test_what_is_refused_for_good_is_not_tried_again(server: Server, client: Make, status: int) -> None:
    one = client()
    one.send(b"", delta_id="enrols")
    server.answers = [(status, {}, {"error": "a bundle\nthat is closed"})]
    with pytest.raises(DeltaRefused, match=f"status {status}: a bundle that is closed"):
        one.send(PAYLOAD, delta_id=ID)
    assert server.answers == []


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404])
def test_any_other_status_leaves_the_delta_for_later(server: Server, client: Make, status: int) -> None:
    """A redirect is not followed: it would take the delta elsewhere."""
    one = client()
    one.send(b"", delta_id="enrols")
    server.answers = [(status, {"Location": "http://127.0.0.1:9/v1"}, {})]
    with pytest.raises(TransportError, match=f"status {status}") as caught:
        one.send(PAYLOAD, delta_id=ID)
    assert not isinstance(caught.value, DeltaRefused)


def test_an_enrolment_that_is_refused_sends_nothing(server: Server, client: Make) -> None:
    server.answers = [(403, {}, {"error": "a token is needed", "reason": "token"})]
    with pytest.raises(TransportError, match="does not enrol this device, status 403: a token is needed"):
        client().send(PAYLOAD, delta_id=ID)
    assert server.deltas == {}


def test_a_device_whose_clock_is_wrong_takes_the_gateway_s(server: Server, client: Make) -> None:
    server.clock = 1_000_000_000.0
    one = client()
    one.send(PAYLOAD, delta_id=ID)
    assert server.deltas == {ID: PAYLOAD}
    one.send(PAYLOAD, delta_id="cd" * 16)
    assert server.requests.count(("PUT", f"/v1/deltas/{'cd' * 16}")) == 1, "and remembers it"


def test_a_gateway_that_disagrees_with_its_own_time_is_given_up(server: Server, client: Make) -> None:
    one = client()
    one.send(b"", delta_id="enrols")
    server.answers = [(401, {}, {"time": 5}), (401, {}, {"time": 900})]
    with pytest.raises(TransportError, match="status 401"):
        one.send(PAYLOAD, delta_id=ID)
    assert server.answers == []


def test_nobody_there_is_a_transport_error_after_a_few_tries(client: Make) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        one = client(url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(TransportError, match="cannot be reached"):
            one.send(PAYLOAD, delta_id=ID)
    assert len(one.waited) == 2  # type: ignore[attr-defined]


def test_a_gateway_that_says_nothing_does_not_hold_the_device(client: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = client(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05, tries=2)
        with pytest.raises(TransportError, match="cannot be reached"):
            one.send(PAYLOAD, delta_id=ID)


def test_an_answer_without_end_is_not_read_to_its_end(server: Server, client: Make) -> None:
    one = client()
    one.send(b"", delta_id="enrols")
    server.answers = [(201, {}, {"more": "x" * 5_000_000})]
    one.send(PAYLOAD, delta_id=ID)


def test_a_delta_over_the_cap_does_not_leave(server: Server, client: Make) -> None:
    with pytest.raises(DeltaRefused, match="more than 100"):
        client(most_bytes=100).send(PAYLOAD, delta_id=ID)
    with pytest.raises(DeltaRefused, match="more than 65536"):
        client().send(bytes(65_537), delta_id=ID)
    assert server.requests == []


BAD = [
    ({}, "'url'"),
    ({"url": "gateway"}, "'url'"),
    ({"url": "ftp://127.0.0.1"}, "'url'"),
    ({"url": "https://user@host"}, "'url'"),
    ({"url": "https://host?x=1"}, "'url'"),
    ({"url": "https://host:x"}, "'url'"),
    ({"url": "http://gateway.example"}, "not https"),
    ({"url": "https://h", "tries": 0}, "tries"),
    ({"url": "https://h", "ca_file": "/nowhere.pem"}, "ca_file"),
    ({"url": "https://h", "colour": 1}, "unknown setting"),
    ({"url": "https://h", "token": 5}, "token"),
]


@pytest.mark.parametrize(("settings", "said"), BAD)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Https(settings)


def test_plain_http_is_for_this_machine_or_where_the_app_allows_it() -> None:
    for url in ("http://localhost:1", "http://127.0.0.1", "http://[::1]:8080/"):
        Https({"url": url})
    Https({"url": "http://gateway.example", "allow_http": True})


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@contextmanager
def real_gateway(folder: Path, clock: Callable[[], float], version: int = 1, **tls: Any) -> Iterator[Any]:
    settings = settings_of({"gateway": {"minimum_cohort": 1}, "limits": GENEROUS})
    with GatewayStore(folder / "gateway.db", clock=clock) as store:
        store.configure(settings.policy)
        store.open_bundles([federated_manifest(folder, version)])
        with serving(store, settings, **tls) as url:
            yield store, url


def test_with_the_real_gateway_over_tls_and_a_peer_that_is_not_trusted(tmp_path: Path) -> None:
    import time

    pem, key = certificate(tmp_path, "gateway")
    other, _ = certificate(tmp_path, "other")
    with real_gateway(tmp_path, time.time, certificate=pem, key=key) as (store, url):
        one = Https({"url": url, "ca_file": str(pem)})
        for _ in range(2):
            one.send(payload_of(1), delta_id=_id(1))
        assert [*store.validated(1)[0]] == [_id(1)]
        for ca_file in (str(other), None):
            distrusting = Https({"url": url, **({"ca_file": ca_file} if ca_file else {})})
            with pytest.raises(TransportError, match="not trusted"):
                distrusting.send(payload_of(2), delta_id=_id(2))
        with pytest.raises(DeltaRefused, match="426"):
            one.send(payload_of(3, version=9), delta_id=_id(3))
        assert [*store.validated(1)[0]] == [_id(1)]


def test_what_was_acknowledged_once_is_so_when_its_bundle_version_is_closed(tmp_path: Path) -> None:
    """Or a lost answer would count its events twice: the device would give them to the next delta."""
    import time

    one = Https({"url": "http://127.0.0.1:1"})
    one.keep_in(tmp_path / "keys")
    with real_gateway(tmp_path, time.time) as (_, url):
        one.url = url
        one.send(payload_of(1), delta_id=_id(1))
    with real_gateway(tmp_path, time.time, version=2) as (_, url):
        one.url = url
        one.send(payload_of(1), delta_id=_id(1))
        with pytest.raises(DeltaRefused, match="426"):
            one.send(payload_of(2), delta_id=_id(2))


def _id(number: int) -> str:
    return sha256(f"delta {number}".encode()).hexdigest()[:32]


def test_a_device_syncs_with_the_real_gateway_and_forgets_its_key(opener: Opener, tmp_path: Path, clock: Clock) -> None:
    import time

    bundle = federated_bundle(tmp_path / "app.edgerec")
    with real_gateway(tmp_path, time.time) as (store, url):
        config = {"federation": {"enabled": True, "transport": "https"}, "transports": {"https": {"url": url}}}
        rec = opener(bundle, plugins=[sgd, foldin, https], config=config)
        rec.consent(True)
        for row in (3, 5, 8):
            rec.record(f"i{row}", "purchase")
        report = rec.sync()
        assert (report.status, report.reason) == ("sent", "acknowledged")
        ids, rows = store.validated(1)
        assert [*ids] == [report.delta_id]
        assert rows[0][:60].nonzero()[0].tolist() == [3, 5, 8]
        key = tmp_path / "state" / "federation" / "https" / KEY_FILE
        secret = key.read_bytes()
        rec.export_profile(tmp_path / "profile")
        assert secret not in (tmp_path / "profile").read_bytes()
        assert secret.hex().encode() not in (tmp_path / "profile").read_bytes()
        rec.forget()
        assert not key.exists()
        clock.pass_days(7)
        rec.record("i9", "purchase")
        assert rec.sync().status == "sent"
        assert key.read_bytes() != secret


SCRIPT = """
import sys
sys.modules["urllib3"] = None
from edgerec.errors import MissingDistribution
from edgerec.plugins import Plugins
from edgerec_plugins import https
plugins = Plugins([https])
try:
    plugins.transport("https", {"url": "https://host"})
except MissingDistribution as error:
    print(error)
"""


def test_without_the_extra_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert "urllib3 (pip install 'edgerec[sync]')" in done.stdout


UNASKED = """
import sys, edgerec
config = {"federation": {"enabled": True, "transport": "https"}, "transports": {"https": {"url": "http://127.0.0.1:9"}}}
with edgerec.open(sys.argv[1], sys.argv[2], config=config) as rec:
    rec.consent(True)
    rec.record(rec.recommend(1)[0].item, "purchase")
    rec.recommend(3)
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module}
assert "edgerec_plugins.https" in sys.modules
assert not {"cryptography", "urllib3", "flwr", "starlette", "uvicorn", "_ssl"} & loaded, loaded
"""


def test_nothing_of_it_is_loaded_before_a_sync(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "one.edgerec", federated={"blocks": BLOCKS})
    environment = {**os.environ, "EDGEREC_LOAD_PLUGINS": "sgd,foldin,https"}
    command = [sys.executable, "-c", UNASKED, str(bundle), str(tmp_path / "state")]
    subprocess.run(command, check=True, env=environment)


def test_it_is_registered() -> None:
    assert "https" in Plugins([https]).names("transport")
    assert issubclass(MissingDistribution, Exception)
