"""What an import did to the rows: every row that did not come in, or came in oddly, is counted and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Example:
    """`line` is the line of a text file (header included), or the row of a Parquet file, both from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """`rows` rows of one sort; `action` is `dropped`, `merged`, `kept` or `sorted`."""

    name: str
    rows: int
    action: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """`rows_in` = `rows_out` + the rows of every finding that was `dropped` or `merged`.

    `columns`: role → header; `ignored`: headers not used; `timestamps`: unit or format read;
    `users_below`, `items_below`: how many users and items were under the thresholds; `summary`: users, items,
    baskets, events, first and last time of what remains; `baskets`: how events were told to belong together.
    """

    source: str
    format: str
    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    timestamps: str
    rows_in: int
    rows_out: int
    findings: tuple[Finding, ...]
    users_below: int = 0
    items_below: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    baskets: str = ""

    def finding(self, name: str) -> Finding:
        """The finding of that name; one of 0 rows where there is none."""
        return next((each for each in self.findings if each.name == name), Finding(name, 0, "kept"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
