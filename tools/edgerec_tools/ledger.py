"""The record of runs on a test period: a CSV file with a row per arm, to which runs are only ever added."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgerec import __version__
from edgerec.errors import DataError
from edgerec_tools.arms import REFERENCES
from edgerec_tools.central import VIEWS

REQUIRED = ("date", "data", "period", "arm")


def record(result: dict[str, Any], file: Path) -> int:
    """Appends a simulation's document to a CSV file, a row per arm; returns the number of rows.

    A file that exists keeps its columns: those it lacks are left out, those that are its own stay empty. A run on a
    validation period is not recorded, as there may be any number of these. Raises DataError, having written
    nothing, where the file is no record of runs.
    """
    rows = [_row(result, arm) for arm in result["arms"]] if result["period"] == "test" else []
    if not rows:
        return 0
    known = _columns(file)
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, known or list(rows[0]), extrasaction="ignore", lineterminator="\n")
        if not known:
            writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _columns(file: Path) -> list[str]:
    """The columns of a file that exists; none where it does not, or is empty."""
    if not file.is_file():
        return []
    text = file.read_text("utf-8", errors="replace")
    columns = next(csv.reader(text.splitlines()), [])
    missing = [name for name in REQUIRED if name not in columns]
    if columns and (missing or not text.endswith("\n")):
        why = f"it has no column {missing[0]}" if missing else "its last line does not end"
        raise DataError(f"{file} is not a record of runs: {why}", hint="name another file")
    return columns


def _row(result: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    bundle = result["bundle"]
    row = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        **{key: result[key] for key in ("data", "period")},
        "arm": arm["name"],
    }
    for view in VIEWS:
        found = arm["views"][view]
        row |= {f"{view}_{key}": found[key] for key in ("ndcg@10", "recall@10", "n_baskets")}
        row |= dict(zip((f"{view}_low", f"{view}_high"), found["ci95"], strict=True))
        for name in REFERENCES:
            other = arm["vs"].get(name)
            row[f"{view}_worse_share_vs_{name}"] = other[view]["worse_share"] if other else None
    until = f" until {result['until']}" if result["until"] else ""
    row["remark"] = (
        f"bundle {bundle['name']} {bundle['version']} {bundle['digest'][:12]}; {result['devices']} devices from "
        f"{result['cutoff']}{until}; seed {result['seed']}"
    )
    return row
