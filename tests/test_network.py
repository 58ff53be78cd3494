"""Nothing goes to the network unasked: system calls are watched, since native code cannot be patched."""

from __future__ import annotations

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
import onnxruntime
if sys.argv[3] == "control":
    import socket
    try:
        socket.create_connection(("127.0.0.1", 9), 1)
    except OSError:
        pass
"""


def connections(bundle: Path, state: Path, mode: str) -> list[str]:
    """Every connect() to an internet address that the script and its threads tried."""
    trace = state.with_suffix(".trace")
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    subprocess.run([*command, sys.executable, "-c", SCRIPT, str(bundle), str(state), mode], check=True)
    return [line for line in trace.read_text().splitlines() if "AF_INET" in line]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")
def test_open_recommend_and_record_connect_nowhere(bundle_path: Path, tmp_path: Path) -> None:
    assert connections(bundle_path, tmp_path / "state", "plain") == []
    assert connections(bundle_path, tmp_path / "control", "control"), "the trap must be able to catch something"
