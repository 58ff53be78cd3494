"""The package's logger; `logging` is loaded by the first warning, because most processes never have one."""

from __future__ import annotations


def debugging(name: str) -> bool:
    """Whether anybody listens to what the logger of that name says at level DEBUG; cheap where nobody logs at all."""
    import sys

    logging = sys.modules.get("logging")
    return logging is not None and bool(logging.getLogger(name).isEnabledFor(logging.DEBUG))


def warning(message: str, *values: object) -> None:
    """Logs a warning to the logger `edgerec`, in the caller's name."""
    import logging

    logging.getLogger("edgerec").warning(message, *values, stacklevel=2)
