"""Nothing goes to the network unasked: system calls are watched, since native code cannot be patched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, edgerec
with edgerec.open(sys.argv[1], sys.argv[2]) as rec:
    for n in range(3):
        page = rec.recommend(3)
        rec.record(page[0].item, "click", recommendation_id=page.id)
    rec.similar(page[0].item, 3)
    rec.explain(page[0].item)
    rec.stats()
    rec.export_profile(sys.argv[2] + ".profile")
    rec.import_profile(sys.argv[2] + ".profile")
    rec.forget(page[0].item)
import onnxruntime
if sys.argv[3] == "control":
    import socket
    try:
        socket.create_connection(("127.0.0.1", 9), 1)
    except OSError:
        pass
"""


DEMO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy_data import CUTOFF, toy_dataset
from edgerec_tools import demo
demo.run(toy_dataset(n_users=8), CUTOFF, Path(sys.argv[2]), devices=None, workers=2, progress=lambda *_: None)
"""
pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")


def connections(trace: Path, script: str, *arguments: object) -> list[str]:
    """Every connect() to an internet address that the script, its threads and its children tried."""
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([*command, sys.executable, "-c", script, *map(str, arguments)], check=True, env=environment)
    return [line for line in trace.read_text().splitlines() if "AF_INET" in line]


def test_open_recommend_and_record_connect_nowhere(bundle_path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert connections(trace, SCRIPT, bundle_path, tmp_path / "state", "plain") == []
    control = connections(trace, SCRIPT, bundle_path, tmp_path / "control", "control")
    assert control, "the trap must be able to catch something"


def test_the_whole_main_job_connects_nowhere(tmp_path: Path) -> None:
    """Training, export, simulated devices in worker processes, report: `edgerec demo` on a small data set."""
    assert connections(tmp_path / "trace", DEMO, Path(__file__).parent, tmp_path / "demo") == []
    assert (tmp_path / "demo" / "report.html").exists()
