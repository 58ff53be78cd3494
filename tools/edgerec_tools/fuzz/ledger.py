"""What was run, so that the next run goes on from there: counts, findings and the corpus, in one folder.

ledger.json                       per target: executions, seconds, runs (engine, seed, counts) and findings
TARGET/corpus/  TARGET/findings/  inputs that reached something new · inputs that went wrong
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Ledger:
    """Counts are written after every report of a worker, so that one that is killed counts for too little, never too
    much."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "ledger.json"
        self.targets: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self.targets = json.loads(self._path.read_text("utf-8"))["targets"]

    def home(self, target: str, what: str) -> Path:
        """The folder of a target's `corpus` or `findings`."""
        path = self.folder / target / what
        path.mkdir(parents=True, exist_ok=True)
        return path

    def begin(self, target: str, engine: str, seed: int) -> int:
        """Opens a run and returns its seed: another one for every run of a target."""
        entry = self.targets.setdefault(target, {"executions": 0, "seconds": 0.0, "runs": [], "findings": []})
        seed += len(entry["runs"])
        entry["runs"].append({"engine": engine, "seed": seed, "executions": 0, "seconds": 0.0})
        return seed

    def add(self, target: str, report: dict[str, Any]) -> None:
        """Takes a worker's report: executions and seconds since the run began, and findings since the last report."""
        entry = self.targets[target]
        run = entry["runs"][-1]
        run["executions"], run["seconds"] = report["executions"], round(report["seconds"], 1)
        for key in ("executions", "seconds"):
            entry[key] = round(sum(one[key] for one in entry["runs"]), 1)
        known = {one["key"] for one in entry["findings"]}
        entry["findings"] += [one for one in report["findings"] if one["key"] not in known]
        self._write()

    def _write(self) -> None:
        temporary = self._path.with_name(f".ledger.{os.getpid()}")
        temporary.write_text(json.dumps({"targets": self.targets}, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(temporary, self._path)
