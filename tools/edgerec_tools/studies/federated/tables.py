"""How the studies of federation print figures: Markdown, no leading zeros, intervals in brackets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgerec_tools.intervals import Interval


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without the last line's end."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = 4) -> str:
    """`.1142`, `−.0031`, `1.05`."""
    return f"{value:.{digits}f}".replace("0.", ".", 1 if abs(value) < 1 else 0).replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A signed change in per cent."""
    return f"{100 * share:+.{digits}f} %".replace("-", "−")


def around(found: Interval, base: float = 1.0, digits: int = 1) -> str:
    """A change relative to `base` in per cent, with its interval."""
    value, low, high = (f"{100 * one / base:+.{digits}f}" for one in (found.value, found.low, found.high))
    return f"{value} % [{low}, {high}]".replace("-", "−")
