"""The long run, into docs/results/kills.md: every boundary of every operation and sequences of them killed, every call
made to fail, and a crowd on one store.

python tests/faults/study.py [--least 10000] [--workers 2] [--seed 2026] [--out docs/results/kills.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundles import tiny_bundle

from faults.crowd import crowds
from faults.shim import build, environment

LIVES = 40
"""Seeds per process of the sequences."""

KILLS = """# Kills

Every operation of the runtime, killed (SIGKILL) before, in the middle of and after each of its writes to the data
directory: writes, syncs, truncations, renames, unlinks, new files and folders, as a shim under the C library sees them
(`tests/faults/shim.c`). After each kill another process opens the folder and checks that every acknowledged event is
there once and whole, that nothing is half-stored, that what was learned equals a replay of the stored events bit for
bit, that the bundle is the old or the new one and sound, that SQLite finds no fault, and that the next record works
(`tests/faults/invariants.py`). *Random sequences* are lives of one folder: an operation after the other, each killed at
a random boundary.

    make study-kills        # or: {command}

Seed {seed} · {machine} · {minutes:.0f} min · the folder is in memory: SIGKILL does not ask what reached the disk.

| operation | boundaries | kills | acknowledged events lost | states unlike their replay | failures of any kind |
| --- | --- | --- | --- | --- | --- |
"""
FAILING = """
## Calls that fail

The same boundaries, where the call fails instead of the process: EIO, ENOSPC, EROFS and EDQUOT, once, from then on, or
after half of a write. The operation raises StoreError or BundleError and has done nothing, or returns and has done all;
pages are served meanwhile; once the disk works, so does the recommender, without being opened again
(`tests/faults/failing.py`). One of {every} combinations is tried.

| operation | boundaries | failing calls | violations |
| --- | --- | --- | --- |
"""
CROWD = """
## Crowds

{threads} threads in each of {processes} processes on one store; each records {records} events and asks for a page after
each. A call waits for other writers `store.wait_s` (2 s) at most and then raises StoreBusy; here it is made again.

| acknowledged | stored | learned from | state equals replay | longest `record` | StoreBusy | longest `recommend` |
| --- | --- | --- | --- | --- | --- | --- |
| {acknowledged} | {stored} | {steps} | {agrees} | {longest_call:.1f} s | {busy} | {longest_read:.2f} s |
"""
CROWD_SIZE = {"processes": 2, "threads": 25, "records": 1000}


class Study:
    """Runs the parts, each in processes of its own under the shim, and keeps what they told."""

    def __init__(self, shim: Path, pool: ThreadPoolExecutor, workers: int) -> None:
        self.shim, self.pool, self.workers = shim, pool, workers

    def run(self, *arguments: object) -> dict[str, Any]:
        """What came of one process."""
        command = [sys.executable, "-m", "faults", *map(str, arguments)]
        done = subprocess.run(command, env=environment(self.shim), capture_output=True, text=True, check=True)
        print(done.stdout, end="", file=sys.stderr, flush=True)
        return dict(json.loads(done.stdout))

    def each(self, names: Iterable[str], *arguments: object) -> list[dict[str, Any]]:
        """What came of each operation; `arguments`: the command, then its options."""
        command, *options = arguments
        return list(self.pool.map(lambda name: self.run(command, name, *options), names))

    def lives(self, seed: int, least: int) -> dict[str, Any]:
        """Sequences, until so many were killed."""
        found: list[dict[str, Any]] = []
        while sum(one["kills"] for one in found) < least:
            seeds = [seed + (len(found) + n) * LIVES for n in range(self.workers)]
            found += self.pool.map(lambda first: self.run("lives", "--seed", first, "--count", LIVES), seeds)
        totals = {name: sum(one[name] for one in found) for name in ("kills", "lost", "disagreements")}
        return {
            "operation": "random sequences",
            "boundaries": "",
            **totals,
            "failures": [failure for one in found for failure in one["failures"]],
        }


def _rows(found: Sequence[dict[str, Any]], *columns: str) -> str:
    rows = [[one["operation"], *(one[name] for name in columns), len(one["failures"])] for one in found]
    sums: list[Any] = [sum(row[n] or 0 for row in rows) for n in range(1, len(columns) + 2)]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in [*rows, ["**all**", *sums]])


def main() -> None:
    from faults.catalogue import OPERATIONS

    take = argparse.ArgumentParser(description=__doc__)
    take.add_argument("--least", type=int, default=10_000)
    take.add_argument("--every", type=int, default=2)
    take.add_argument("--workers", type=int, default=2)
    take.add_argument("--seed", type=int, default=2026)
    take.add_argument("--out", type=Path, default=Path("docs/results/kills.md"))
    asked = take.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.workers) as pool:
        place = Path(folder)
        study = Study(build(place), pool, asked.workers)
        killed = study.each(OPERATIONS, "kills")
        killed.append(study.lives(asked.seed, asked.least - sum(one["kills"] for one in killed)))
        failed = study.each(OPERATIONS, "fails", "--every", asked.every)
        crowd = crowds(tiny_bundle(place / "tiny.edgerec"), place / "state", **CROWD_SIZE, seconds=3600)
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    command = f"python tests/faults/study.py --least {asked.least} --seed {asked.seed}"
    minutes = (time.monotonic() - started) / 60
    text = KILLS.format(command=command, seed=asked.seed, machine=machine, minutes=minutes)
    text += _rows(killed, "boundaries", "kills", "lost", "disagreements")
    text += FAILING.format(every=asked.every) + _rows(failed, "boundaries", "kills")
    text += CROWD.format(**CROWD_SIZE, **{**crowd, "agrees": "yes" if crowd["agrees"] else "NO"})
    asked.out.write_text(text, "utf-8")
    violations = [failure for one in [*killed, *failed] for failure in one["failures"]] + crowd["errors"]
    print(*violations, sep="\n", file=sys.stderr)
    sys.exit(1 if violations or not crowd["agrees"] else 0)


if __name__ == "__main__":
    main()
