"""The package's logger; `logging` is loaded by the first warning, because most processes never have one."""

from __future__ import annotations

import sys


def debugging(name: str) -> bool:
    """Whether anybody listens to what the logger of that name says at level DEBUG; cheap where nobody logs at all."""
    logging = sys.modules.get("logging")
    if logging is None:
        return False
    logger = logging.root.manager.loggerDict.get(name)  # a tenth of what getLogger costs, which a page would feel
    if not isinstance(logger, logging.Logger):
        logger = logging.getLogger(name)
    return bool(logger.isEnabledFor(logging.DEBUG))


def warning(message: str, *values: object) -> None:
    """Logs a warning to the logger `edgerec`, in the caller's name."""
    import logging

    logging.getLogger("edgerec").warning(message, *values, stacklevel=2)
