"""A round's result as files: `round-NNNNNN.npz`, its numbers, and `round-NNNNNN.json`, what a report says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.errors import StoreError
from edgerec.files import write_whole
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.rules import ServerState

_BLOCK, _FIRST, _SECOND = "block/", "server/first", "server/second"


def write_result(folder: Path, number: int, bundle_version: int, made: Aggregate, ids: Sequence[str]) -> Path:
    """Writes both files, the numbers first; where the report is, the result is whole. Returns the report's path."""
    arrays: dict[str, Any] = {_BLOCK + name: values for name, values in made.blocks.items()}
    if made.server is not None:
        arrays |= {_FIRST: made.server.first, _SECOND: made.server.second}
    stream = BytesIO()
    np.savez_compressed(stream, **arrays)
    write_whole(folder / f"round-{number:06d}.npz", stream.getvalue())
    told = {"round": number, "bundle": bundle_version, **made.told(), "ids": sorted(ids)}
    report = folder / f"round-{number:06d}.json"
    write_whole(report, json.dumps(told, indent=1).encode())
    return report


def read_result(report: Path) -> Aggregate:
    """What `write_result` wrote, at the path that it returned. Raises StoreError."""
    try:
        told = json.loads(report.read_text("utf-8"))
        with np.load(report.with_suffix(".npz"), allow_pickle=False) as found:
            arrays = dict(found)
        names = ("devices", "aggregator", "refused", "clipped", "norms", "sigma", "seed")
        known = {name: told[name] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"no result of a round at {report}: {error}") from error
    server = ServerState(arrays[_FIRST], arrays[_SECOND]) if _FIRST in arrays else None
    blocks = {name.removeprefix(_BLOCK): values for name, values in arrays.items() if name.startswith(_BLOCK)}
    return Aggregate(blocks, server=server, **known)


def server_state(folder: Path) -> ServerState | None:
    """FedAdam's state after the last round in the folder; None before the first."""
    reports = sorted(folder.glob("round-??????.json"))
    return read_result(reports[-1]).server if reports else None
