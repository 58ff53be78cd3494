"""The package's logger; `logging` is loaded by the first warning, because most processes never have one."""

from __future__ import annotations


def warning(message: str, *values: object) -> None:
    """Logs a warning to the logger `edgerec`, in the caller's name."""
    import logging

    logging.getLogger("edgerec").warning(message, *values, stacklevel=2)
