"""The fixture with which tests run something under the shim. A test file imports it by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from faults import shim

Run = Callable[..., str]
"""Runs Python with these arguments under the shim, as a process of its own; what it printed."""

SECONDS = 240.0


@pytest.fixture(scope="session")
def under_shim(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Skips where no shim can be built."""
    if reason := shim.missing():
        pytest.skip(reason)
    environment = shim.environment(shim.build(tmp_path_factory.mktemp("shim")))

    def run(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
