"""A round's numbers on the disk: once they are there, the round is never computed again, whoever crashes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from edgerec.errors import DataError
from edgerec.files import write_private
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.rules import ServerState

_BLOCK = "block:"


def save(path: Path, result: Aggregate) -> None:
    """Writes a result so that a reader sees all of it or none."""
    arrays = {f"{_BLOCK}{name}": values for name, values in result.blocks.items()}
    if result.server is not None:
        arrays |= {"first": result.server.first, "second": result.server.second}
    buffer = io.BytesIO()
    np.savez(buffer, told=np.array(json.dumps(result.told())), **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, buffer.getvalue())


def load(path: Path) -> Aggregate | None:
    """The result in a file, None where there is none. Raises DataError where it is not what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as found:
            blocks = {name.removeprefix(_BLOCK): found[name] for name in found.files if name.startswith(_BLOCK)}
            server = ServerState(found["first"], found["second"]) if "first" in found.files else None
            return Aggregate(blocks, server=server, **json.loads(str(found["told"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name} is no round's result: {error}") from error
