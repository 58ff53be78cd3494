"""The long run: every boundary of every operation, then sequences until there are enough kills; docs/results/kills.md.

python tests/faults/study.py [--least 10000] [--workers 2] [--seed 2026] [--out docs/results/kills.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults.shim import build, environment

COUNTS = ("boundaries", "kills", "lost", "disagreements")
LIVES = 40
"""Seeds per process of the sequences."""

HEAD = """# Kills

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


def run(shim: Path, *arguments: object) -> dict[str, Any]:
    """What came of the kills of one process."""
    command = [sys.executable, "-m", "faults", *map(str, arguments)]
    done = subprocess.run(command, env=environment(shim), capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    from faults.catalogue import OPERATIONS

    take = argparse.ArgumentParser(description=__doc__)
    take.add_argument("--least", type=int, default=10_000)
    take.add_argument("--workers", type=int, default=2)
    take.add_argument("--seed", type=int, default=2026)
    take.add_argument("--out", type=Path, default=Path("docs/results/kills.md"))
    asked = take.parse_args()
    started, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        shim = build(Path(folder))
        with ThreadPoolExecutor(asked.workers) as pool:
            for one in pool.map(lambda name: run(shim, "kills", name), OPERATIONS):
                found.append(one)
                print(json.dumps(one), file=sys.stderr, flush=True)
            lives: dict[str, Any] = {"operation": "random sequences", **dict.fromkeys(COUNTS, 0), "failures": []}
            seed = asked.seed
            while sum(one["kills"] for one in [*found, lives]) < asked.least:
                seeds = [seed + n * LIVES for n in range(asked.workers)]
                for one in pool.map(lambda first: run(shim, "lives", "--seed", first, "--count", LIVES), seeds):
                    lives |= {key: lives[key] + one[key] for key in (*COUNTS, "failures")}
                seed += asked.workers * LIVES
                print(json.dumps(lives), file=sys.stderr, flush=True)
    found.append(lives)
    rows = [[one["operation"], *(one[key] for key in COUNTS), len(one["failures"])] for one in found]
    rows.append(["**all**", *(sum(row[n] for row in rows) for n in range(1, 6))])
    head = HEAD.format(
        command=f"python tests/faults/study.py --least {asked.least} --seed {asked.seed}",
        seed=asked.seed,
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        minutes=(time.monotonic() - started) / 60,
    )
    asked.out.write_text(head + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
