"""From the start of a process to its first page, against the two imports and the session that nobody can avoid."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgerec_tools.bench import shops
from edgerec_tools.bench.measure import Row

MOST_NAMED, MOST_FOUND = 1.25, 1.45
FIRST_PAGE = """
import sys, edgerec
rec = edgerec.open(sys.argv[1], sys.argv[2], plugins={plugins})
print(len(rec.recommend(10)), flush=True)
rec.close()
"""
BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(len(session.get_inputs()), flush=True)
"""


def rows(bundle: Path, n_items: int, rounds: int) -> Iterator[Row]:
    """The best of `rounds` starts of each kind: noise only ever adds."""
    with tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder:
        state = Path(folder)
        with shops.opened(bundle, state, n_items) as rec:
            rec.recommend(10)
        programs: dict[str, tuple[str, list[Path]]] = {
            "named": (FIRST_PAGE.format(plugins=[shops.UPDATER]), [bundle, state]),
            "found": (FIRST_PAGE.format(plugins=None), [bundle, state]),
            "bare": (BARE, [bundle / "encoder.onnx"]),
        }
        compiled = Path(folder) / "pycache"
        best = dict.fromkeys(programs, float("inf"))
        for turn in range(rounds + 1):
            for name, (code, arguments) in programs.items():
                taken = milliseconds_to_first_line(code, arguments, compiled)
                if turn:  # the first start compiles the modules
                    best[name] = min(best[name], taken)
    peer = "numpy + onnxruntime + session"
    yield Row("cold start, plugins named", best["named"], "ms", peer, best["bare"], MOST_NAMED, note="best of runs")
    yield Row("cold start, plugins found", best["found"], "ms", peer, best["bare"], MOST_FOUND, note="best of runs")


def milliseconds_to_first_line(code: str, arguments: Sequence[Path], compiled: Path) -> float:
    """How long a fresh interpreter takes until the program's first line of output; its end is not timed.

    `compiled`: where the interpreter keeps compiled modules, ours and the peer's alike.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    begin = time.perf_counter_ns()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = (time.perf_counter_ns() - begin) * 1e-6
    if process.returncode or not line:
        raise RuntimeError(f"the measured program failed with exit code {process.returncode}")
    return taken
