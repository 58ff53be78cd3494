"""How commands print what they found: one JSON document, or tables for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 112
"""Columns that tables get at least; narrower, the figures would wrap."""


def json_text(result: dict[str, Any]) -> str:
    """The document as JSON text; a figure that is not finite is an error, not a word that JSON does not know."""
    return json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False)


def wide_console() -> Console:
    """Standard output, wide enough for the tables."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, WIDTH)
    return console
