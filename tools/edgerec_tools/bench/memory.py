"""Peak memory of a process that opened a bundle, recommended and recorded."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgerec_tools.bench import shops
from edgerec_tools.bench.measure import Row
from edgerec_tools.bench.startup import BARE

MOST_MB = 80.0
_PEAK = """
import resource, sys
from pathlib import Path
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
high = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print((high or [usage])[0], flush=True)
"""
_USED = """
import sys, edgerec
with edgerec.open(sys.argv[1], sys.argv[2], plugins={plugins}) as rec:
    for _ in range(20):
        page = rec.recommend(10)
        rec.record(page[0].item, "purchase", recommendation_id=page.id)
"""


def rows(bundle: Path, n_items: int) -> Iterator[Row]:
    """Megabytes (10^6 bytes); the peer imports numpy and onnxruntime and opens the same session, no more."""
    with tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder:
        state = Path(folder)
        with shops.opened(bundle, state, n_items):
            pass
        ours = peak(_USED.format(plugins=[shops.UPDATER]), bundle, state)
    bare = peak(BARE, bundle / "encoder.onnx")
    name = f"peak memory at {n_items:,} items"
    yield Row(name, ours, "MB", "numpy + onnxruntime + session", bare, MOST_MB, target_of="ours")


def peak(code: str, *arguments: Path) -> float:
    """The most memory that the program held, in megabytes."""
    command = [sys.executable, "-c", code + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.split()[-1]) / 1e6
