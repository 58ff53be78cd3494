"""Whole deployments of Flower on loopback, measured: `make study-flower` writes docs/results/flower.md.

One SuperLink and two registered SuperNodes over TLS; three rounds for each of three rules; a SuperNode that is killed
between two rounds, and comes back; one that nobody registered; the memory of every process, and of a device.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flower_rig import Rig, descendants, fill, key_pair, rig
from gateways import SPECS, federated_bundle, id_of, row_of

from edgerec_exporters.federation import results
from edgerec_exporters.federation.engine import aggregate
from edgerec_exporters.federation.journal import Journal
from edgerec_exporters.federation.rounds import JOURNAL
from edgerec_exporters.federation.settings import load_settings

PAGE = Path(__file__).parent.parent / "docs" / "results" / "flower.md"
RULES = {"mean": "", "trimmed_mean": "[round.constants]\nshare = 0.2\n", "krum": "[round.constants]\nhostile = 4\n"}
LEFT, RIGHT = range(65), range(60, 125)
MOST = 20
TIMEOUT_S = 25.0
DEVICE = """
import sys, json, edgerec
config = json.loads(sys.argv[3])
with edgerec.open(sys.argv[1], sys.argv[2], config=config) as rec:
    if config:
        rec.consent(True)
    for n in range(20):
        rec.record(rec.recommend(5)[0].item, "purchase")
    if config:
        print(rec.sync().status, file=sys.stderr)
    print(json.dumps({"heavy": [one for one in ("flwr", "grpc", "fastapi") if one in sys.modules],
                      "mib": int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024}))
"""


@dataclass(frozen=True)
class Finding:
    """One round: what was asked, what came of it. `difference`: the largest from the local engine."""

    run: str
    round: str
    devices: int
    difference: float


@dataclass
class Measured:
    """`rounds`: in order · `seconds`: of runs · `memory`: process → MiB, the most of its proportional set size."""

    rounds: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    device: dict[str, float] = field(default_factory=dict)
    stranger: int = 0


def measure(home: Path) -> Measured:
    """All of it, in some minutes."""
    found = Measured()
    bundle = federated_bundle(home / "b.edgerec")
    for name, numbers in (("left", LEFT), ("right", RIGHT)):
        fill(home / "deltas" / name, numbers)
    with rig(home) as one:
        one.superlink()
        for name in ("left", "right"):
            one.register(name)
            start(one, name)
        with watched(one, found.memory):
            for rule, constants in RULES.items():
                (home / f"{rule}.toml").write_text(f'[round]\naggregator = "{rule}"\nleast_cohort = 11\n{constants}')
                found.seconds[rule] = timed(one, bundle, rule, rounds=3)
                found.rounds += compared(home, rule, rule)
        found.seconds["killed"] = killed(one, bundle, "mean")
        start(one, "right")
        found.seconds["back"] = timed(one, bundle, "mean", state="killed", rounds=1)
        found.rounds += compared(home, "killed", "mean")
        found.stranger = stranger(one)
    found.device = {name: device(bundle, home / name, config) for name, config in devices(home).items()}
    return found


def start(one: Rig, name: str) -> None:
    one.supernode(name, f'folder="{one.home / "deltas" / name}"')


def timed(one: Rig, bundle: Path, rule: str, *, rounds: int, state: str = "") -> float:
    """Seconds that a `flwr run` took."""
    began = time.monotonic()
    places = {
        "bundle": str(bundle),
        "state": str(one.home / (state or rule)),
        "settings": str(one.home / f"{rule}.toml"),
    }
    more = {"rounds": rounds, "gateways": 2, "wait-s": 30.0, "timeout-s": TIMEOUT_S, "most": MOST}
    log = one.run({**places, **more}, timeout_s=400.0)
    (one.home / f"run-{state or rule}.log").write_text(log)
    return time.monotonic() - began


def killed(one: Rig, bundle: Path, rule: str) -> float:
    """Three rounds; a SuperNode and all that it started gets SIGKILL once the first has a result."""

    def kill() -> None:
        while not list((one.home / "killed" / "results").glob("*.npz")):
            if over.wait(0.1):
                return
        one.kill("right")

    over = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return timed(one, bundle, rule, rounds=3, state="killed")
    finally:
        over.set()
        thread.join()


def compared(home: Path, run: str, rule: str) -> Iterator[Finding]:
    """Every round of a run against the local engine over the joined rows."""
    number_of = {id_of(number): number for number in (*LEFT, *RIGHT)}
    settings = load_settings(home / f"{rule}.toml")
    with Journal(home / run / JOURNAL) as journal:
        for one in journal.rounds():
            rows = np.stack([row_of(number_of[id_]) for id_ in journal.ids(one.id)])
            made, alone = results.load(home / run / "results" / f"{one.id}.npz"), aggregate(settings, SPECS, rows)
            assert made is not None
            gaps = [float(np.abs(made.blocks[name] - alone.blocks[name]).max()) for name in alone.blocks]
            yield Finding(run, one.id, made.devices, max(gaps))


def stranger(one: Rig) -> int:
    """The exit code of a SuperNode whose key nobody registered; 0 where it was taken, or none came in time."""
    key_pair(one.home / "stranger")
    start(one, "stranger")
    process = one.running["stranger"]
    try:
        return process.wait(60.0)
    except subprocess.TimeoutExpired:
        return 0


@contextmanager
def watched(one: Rig, most: dict[str, float]) -> Iterator[None]:
    """Notes the largest proportional set size of every kind of process meanwhile."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for name, root in list(one.running.items()):
                family = {pid: size for pid in (root.pid, *descendants(root.pid)) if (size := pss_mib(pid))}
                for pid, size in family.items():
                    if not (program := program_of(pid)):
                        continue  # a process that is about to become one of Flower's
                    kind = f"{'SuperNode' if name != 'superlink' else 'SuperLink'}: {program}"
                    most[kind] = max(most.get(kind, 0.0), size)
                total = f"{'SuperNode' if name != 'superlink' else 'SuperLink'}: all together"
                most[total] = max(most.get(total, 0.0), sum(family.values()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pss_mib(pid: int) -> float:
    """Its memory, pages that several share counted in parts; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def program_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((Path(word.decode()).name for word in words if Path(word.decode()).name.startswith("fl")), "")


def devices(home: Path) -> Mapping[str, dict[str, object]]:
    """Configurations of a device without and with federation."""
    folder = {"transport": "folder", "enabled": True, "control_share": 0.0}
    return {
        "device": {},
        "device with federation": {"federation": folder, "transports": {"folder": {"path": str(home / "sent")}}},
    }


def device(bundle: Path, state: Path, config: Mapping[str, object]) -> float:
    """The peak memory in MiB of a device that recommends, records and, with federation, syncs; least of three."""
    sizes = []
    for attempt in range(3):
        command = [sys.executable, "-c", DEVICE, str(bundle), f"{state}-{attempt}", json.dumps(config)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert told["heavy"] == []
        sizes.append(told["mib"])
    return min(sizes)


def page(found: Measured) -> str:
    """The results as a page."""
    import flwr

    lines = [
        "# Rounds on Flower\n",
        f"Written by `make study-flower` (tests/flower_study.py): flwr {flwr.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores. One SuperLink, two SuperNodes with registered keys, TLS "
        f"by a CA made for the run, on loopback; {len(LEFT)} and {len(RIGHT)} deltas of {row_of(0).size} numbers, "
        f"{len(set(LEFT) & set(RIGHT))} of them at both; at most {MOST} from a gateway in a round.\n",
        "| run | round | devices | largest difference from the local engine |",
        "| --- | --- | ---: | ---: |",
        *[f"| {one.run} | {one.round} | {one.devices} | {one.difference:g} |" for one in found.rounds],
        "",
        "In the run `killed` the SuperNode `right` and all that it had started were killed once the first of three "
        "rounds had its result. The others went on with `left` alone, each after having waited "
        f"{TIMEOUT_S:g} s for the answer that did not come; the last one is of another run, after `right` had come "
        "back.\n",
        "| `flwr run` | seconds |",
        "| --- | ---: |",
        *[f"| {name} | {seconds:.0f} |" for name, seconds in found.seconds.items()],
        "",
        f"A SuperNode whose key nobody had registered ended with exit code {found.stranger}.\n",
        "| memory, the most at any time | MiB (PSS) |",
        "| --- | ---: |",
        *[f"| {name} | {size:.0f} |" for name, size in sorted(found.memory.items())],
        "",
        "| a device's process, peak | MiB (RSS) |",
        "| --- | ---: |",
        *[f"| {name} | {size:.1f} |" for name, size in found.device.items()],
        "",
        "A device loads nothing of Flower, with federation or without: `tests/test_flower.py` looks at its modules.\n",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    PAGE.write_text(page(measured), "utf-8")
    print(page(measured))
