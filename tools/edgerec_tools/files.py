"""Files that are written at once or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(file: str | os.PathLike[str], data: bytes) -> None:
    """Writes a temporary file beside it and renames: whoever looks sees the old content or the new."""
    target = Path(file)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
