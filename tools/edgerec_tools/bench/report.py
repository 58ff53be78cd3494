"""The whole benchmark: every family in turn, and the table of what came out."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec_tools.bench.families import SCALES, bundle_path, run_apart
from edgerec_tools.progress import Progress
from edgerec_tools.synthetic import write_bundle

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = ("edgerec", "numpy", "onnxruntime", "faiss-cpu")


def measure(families: Sequence[str], scale: str, progress: Progress) -> dict[str, Any]:
    """`machine` and `rows` of the families. Raises MissingDistribution without edgerec-exporters."""
    sizes = SCALES[scale].bundle_sizes
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder:
        for done, n_items in enumerate(sizes):
            progress("synthetic bundles", done, len(sizes))
            write_bundle(bundle_path(Path(folder), n_items), n_items)
        progress("synthetic bundles", len(sizes), len(sizes))
        for done, family in enumerate(families):
            progress("measuring", done, len(families))
            rows += run_apart(family, scale, Path(folder))
        progress("measuring", len(families), len(families))
    return {"machine": machine(), "rows": rows}


def machine() -> dict[str, Any]:
    """What was measured on; `load`: the run queue's length over the last minute, None where the system tells none."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> Table:
    """The rows as a table for the terminal."""
    from rich.table import Table

    told = result["machine"]
    title = f"{told['processor']}, {told['cores']} cores, Python {told['python']}, numpy {told['numpy']}"
    out = Table(box=None, pad_edge=False, title=title, title_justify="left")
    out.add_column("what", no_wrap=True)
    for name in ("edgerec", "peer"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("")
    for name in ("ratio", "target"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("", no_wrap=True)
    out.add_column("note")
    for row in result["rows"]:
        out.add_row(*_cells(row))
    return out


def _cells(row: dict[str, Any]) -> list[str]:
    unit = row["unit"]
    mark = {True: "[green]ok[/]", False: "[red]over[/]", None: ""}[row["met"]]
    return [
        row["name"],
        f"{_figure(row['ours'])} {unit}",
        f"{_figure(row['peer'])} {unit}" if row["peer"] is not None else "-",
        row["peer_name"],
        f"{row['ratio']:.2f}" if row["ratio"] is not None else "-",
        _target(row),
        mark,
        row["note"],
    ]


def _target(row: dict[str, Any]) -> str:
    if row["target"] is None:
        return ""
    return f"≤ {row['target']:g} ×" if row["target_of"] == "ratio" else f"≤ {row['target']:g} {row['unit']}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
