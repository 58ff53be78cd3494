"""Runs a gateway under load, kills it in the middle, takes rounds meanwhile, and looks whether every delta counts."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgerec.bundle import verify
from edgerec.bundle.federated import BlockSpec, read_federated
from edgerec_exporters.gateway.errors import TooFewDevices
from edgerec_exporters.gateway.store import GatewayStore
from edgerec_tools.studies.gateway_load.sending import delta_of, id_of

SETTINGS = """[gateway]
minimum_cohort = 1
[limits]
address_per_minute = 1e9
address_burst = 1_000_000_000
enrolment_per_minute = 1e9
enrolment_burst = 1_000_000_000
key_per_minute = 1e6
key_burst = 1_000_000
"""
_SAMPLE = 50


@dataclass
class Load:
    """`deltas` of as many devices, in `clients` processes of `threads` connections each; the server is killed `kills`
    times, spread evenly over what is acknowledged; attackers go through all attacks `cycles` times.
    """

    bundle: Path
    folder: Path
    deltas: int
    clients: int = 2
    threads: int = 4
    kills: int = 2
    cycles: int = 1


@dataclass
class Outcome:
    """What came of it. `acknowledged`: numbers of deltas · `rounds`: ids, a list per round · `attacks`: name → status →
    times · `seconds`: until the last acknowledgement · `latencies`: of each delta, in seconds · `down`: seconds from
    each kill until the next server listens · `cpu_s`: processor time of all servers together.
    """

    acknowledged: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    again: Counter[int] = field(default_factory=Counter)
    rounds: list[tuple[str, ...]] = field(default_factory=list)
    rows_wrong: int = 0
    attacks: dict[str, Counter[int]] = field(default_factory=dict)
    retries: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    store_bytes: int = 0

    @property
    def counted(self) -> list[str]:
        """Ids in all rounds, with repetition if there were any."""
        return [one for ids in self.rounds for one in ids]

    @property
    def lost(self) -> int:
        """Deltas that were acknowledged and went into no round."""
        return len({id_of(number) for number in self.acknowledged} - set(self.counted))

    @property
    def twice(self) -> int:
        """Deltas that went into more than one round, or twice into one."""
        return len(self.counted) - len(set(self.counted))


class Server:
    """The gateway's process, on a port that stays the same."""

    def __init__(self, load: Load) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        config = load.folder / "gateway.toml"
        config.write_text(SETTINGS)
        self.place = load.folder / "gateway.db"
        self._command = [sys.executable, "-m", "edgerec", "gateway", "run", "--bundle", str(load.bundle)]
        self._command += ["--store", str(self.place), "--port", str(self.port), "--config", str(config)]
        self._process: subprocess.Popen[str] | None = None
        self.cpu_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if json.loads(line or "{}").get("event") != "listening":
            raise RuntimeError(f"the gateway did not start: {line}{self._process.stderr.read()}")
        threading.Thread(target=_drain, args=(self._process.stderr,), daemon=True).start()

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is flushed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._wait(self._process)

    def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            self._wait(self._process)

    def _wait(self, process: subprocess.Popen[str]) -> None:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s += used.ru_utime + used.ru_stime


def _drain(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass


def run(load: Load) -> Outcome:
    """Puts the load on a gateway of its own, in `load.folder`. Raises RuntimeError where a process fails."""
    manifest = verify(load.bundle)
    specs = read_federated(manifest.federated, manifest.n_items, manifest.scenarios).blocks
    outcome, server = Outcome(), Server(load)
    marks = [load.deltas * (at + 1) // (load.kills + 1) for at in range(load.kills)]
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        store = stack.enter_context(GatewayStore(server.place))
        began = time.perf_counter()
        with _clients(load, server.url, manifest.version, specs) as streams:
            for told in _lines(streams):
                _note(outcome, told)
                if "delta" in told:
                    outcome.seconds = time.perf_counter() - began
                if marks and len(outcome.acknowledged) >= marks[0]:
                    marks.pop(0)
                    _kill_and_take(server, store, outcome, manifest.version)
        _take(store, outcome, manifest.version)
        _compare(store, outcome, manifest.version, specs)
    outcome.cpu_s = server.cpu_s
    outcome.store_bytes = server.place.stat().st_size
    return outcome


def _kill_and_take(server: Server, store: GatewayStore, outcome: Outcome, version: int) -> None:
    """A round is taken while the server is dead, and asked for again as one does who was killed before the answer."""
    at = time.perf_counter()
    server.kill()
    _take(store, outcome, version)
    server.start()
    outcome.down.append(time.perf_counter() - at)


def _take(store: GatewayStore, outcome: Outcome, version: int) -> None:
    number = len(outcome.rounds) + 1
    store.open_round(number, version)
    try:
        ids = store.close_round(number)
    except TooFewDevices:
        return
    if store.close_round(number) != ids:
        raise RuntimeError(f"round {number} has other deltas when it is asked for again")
    outcome.rounds.append(ids)


def _compare(store: GatewayStore, outcome: Outcome, version: int, specs: Sequence[BlockSpec]) -> None:
    """A sample of each round's rows with what devices sent."""
    numbers = {id_of(number): number for number in outcome.acknowledged}
    for number in range(1, len(outcome.rounds) + 1):
        ids, rows = store.rows_of(number)
        for place in np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(int):
            if (sent := numbers.get(ids[place])) is None:
                continue
            expected = np.concatenate(list(delta_of(sent, version, specs).blocks.values()))
            outcome.rows_wrong += not np.array_equal(rows[place], expected)


def _note(outcome: Outcome, told: dict[str, Any]) -> None:
    if "delta" in told:
        outcome.statuses[told["status"]] += 1
        outcome.latencies.append(told["seconds"])
        if told["status"] in (200, 201):
            outcome.acknowledged.append(told["delta"])
    elif "again" in told:
        outcome.again[told["status"]] += 1
    elif "attack" in told:
        outcome.attacks.setdefault(told["attack"], Counter())[told["status"]] += 1
    else:
        outcome.retries += told["retries"]


@contextmanager
def _clients(load: Load, url: str, version: int, specs: Sequence[BlockSpec]) -> Iterator[list[IO[str]]]:
    """The client processes, as what they say. Raises RuntimeError where one failed."""
    shared = {
        "url": url,
        "version": version,
        "specs": [spec.values() for spec in specs],
    }
    edges = np.linspace(1, load.deltas + 1, load.clients + 1).astype(int).tolist()
    tasks: list[dict[str, Any]] = [
        {"role": "devices", "first": low, "count": high - low, "threads": load.threads} for low, high in pairwise(edges)
    ]
    tasks.append({"role": "attacker", "cycles": load.cycles})
    processes = []
    try:
        for task in tasks:
            processes.append(_started({**shared, **task}))
        yield [process.stdout for process in processes if process.stdout is not None]
        if any(process.wait(60) for process in processes):
            raise RuntimeError("a client failed")
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _started(task: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgerec_tools.studies.gateway_load.clients"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(json.dumps(task) + "\n")
    return process


def _lines(streams: Sequence[IO[str]]) -> Iterator[dict[str, Any]]:
    """What any of them says, as it comes, until all have ended."""
    rests = dict.fromkeys(streams, b"")
    with selectors.DefaultSelector() as ready:
        for stream in streams:
            ready.register(stream, selectors.EVENT_READ)
        while ready.get_map():
            for entry, _ in ready.select():
                speaker: Any = entry.fileobj
                piece = os.read(entry.fd, 65536)
                if not piece:
                    ready.unregister(speaker)
                *whole, rests[speaker] = (rests[speaker] + piece).split(b"\n")
                yield from map(json.loads, whole)
