"""A whole Flower deployment on loopback: a CA of its own, a SuperLink, registered SuperNodes, `flwr run`."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateways import id_of, payload_of

from edgerec_exporters.flower.commands import quiet_command, write_app

READY_S, LEAVE_S = 60.0, 15.0


def fill(folder: Path, numbers: Iterable[int]) -> Path:
    """A folder of deltas, as the transport `folder` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{id_of(number)}.delta").write_bytes(payload_of(number))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def certificates(folder: Path) -> None:
    """`ca.pem`, and `server.pem` and `server.key` for 127.0.0.1, good for two days."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _named("edgerec test CA")
    ca = _certificate(issuer, issuer, authority.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
    leaf = _certificate(_named("127.0.0.1"), issuer, server.public_key())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = leaf.add_extension(names, critical=False)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    leaf = leaf.add_extension(known, critical=False)
    for name, one in (("ca.pem", ca), ("server.pem", leaf)):
        (folder / name).write_bytes(one.sign(authority, hashes.SHA256()).public_bytes(forms.Encoding.PEM))
    (folder / "server.key").write_bytes(_private(server, forms.PrivateFormat.PKCS8))


def key_pair(path: Path) -> None:
    """A SuperNode's key at `path`, its public key beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(_private(key, forms.PrivateFormat.OpenSSH))
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)


class Rig:
    """Programs of Flower, in a folder, started by `edgerec gateway flower` and ended with everything they started."""

    def __init__(self, home: Path, *, trace: bool = False) -> None:
        self.home, self.trace = home, trace
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        certificates(home)
        self.app = home / "app"
        write_app(self.app)

    def superlink(self) -> None:
        tls = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.pem")
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        self.start("superlink", "superlink", *tls, *where, "--enable-supernode-auth")
        (self.home / "home-superlink").mkdir(exist_ok=True)
        (self.home / "home-superlink" / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.home / "ca.pem"}"\n'
        )
        self.wait_for(lambda: _listens(self.port), "superlink")

    def register(self, name: str) -> None:
        key_pair(self.home / name)
        self.flwr("supernode", "register", str(self.home / f"{name}.pub"))

    def supernode(self, name: str, config: str) -> None:
        """Starts it; `config`: what --node-config takes."""
        tls = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.pem")
        link = ("--root-certificates", "ca.pem", "--superlink", f"127.0.0.1:{self.port}")
        own = ("--host", "127.0.0.1", "--port", str(free_port()), "--auth-supernode-private-key", name)
        self.start(name, "supernode", *link, *own, *tls, "--node-config", config)

    def flwr(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """One call of `flwr`, to its end; what it said."""
        command, environment = self._command("superlink", "flwr", arguments)
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, config: Mapping[str, object], timeout_s: float = 240.0) -> str:
        """`flwr run` of the app until it ends; its log."""
        told = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        return self.flwr("run", str(self.app), "--stream", "--run-config", told, timeout_s=timeout_s)

    def start(self, name: str, program: str, *arguments: str) -> None:
        command, environment = self._command(name, program, arguments)
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=self.home, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """SIGKILL to a program and to what it started."""
        process = self.running.pop(name)
        for pid in [process.pid, *descendants(process.pid)]:
            _signal(pid, signal.SIGKILL)
        process.wait(LEAVE_S)

    def close(self) -> None:
        """Ends what is left: asks first, kills after a while."""
        families = {pid for one in self.running.values() for pid in (one.pid, *descendants(one.pid))}
        for process in self.running.values():
            _signal(process.pid, signal.SIGTERM)
        until = time.monotonic() + LEAVE_S
        while any(map(_alive, families)) and time.monotonic() < until:
            for process in self.running.values():
                process.poll()
            time.sleep(0.05)
        for pid in filter(_alive, families):
            _signal(pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait(LEAVE_S)
        self.running.clear()

    def wait_for(self, ready: Callable[[], bool], name: str) -> None:
        until = time.monotonic() + READY_S
        while not ready():
            log = (self.home / f"{name}.log").read_text("utf-8", "replace")
            assert self.running[name].poll() is None, f"{name} ended:\n{log}"
            assert time.monotonic() < until, f"{name} is not ready:\n{log}"
            time.sleep(0.05)

    def _command(self, home: str, program: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        faster = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05", "FLWR_HOME": str(self.home / f"home-{home}")}
        command, environment = quiet_command(program, tuple(arguments))
        if self.trace:
            traced = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o"]
            command = [*traced, str(self.home / f"trace-{home}-{time.monotonic_ns()}.txt"), *command]
        return command, {**environment, **faster}


@contextmanager
def rig(home: Path, *, trace: bool = False) -> Iterator[Rig]:
    made = Rig(home, trace=trace)
    try:
        yield made
    finally:
        made.close()


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    total = 0
    for one in (pid, *descendants(pid)):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _private(key: ec.EllipticCurvePrivateKey, form: forms.PrivateFormat) -> bytes:
    return key.private_bytes(forms.Encoding.PEM, form, forms.NoEncryption())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
