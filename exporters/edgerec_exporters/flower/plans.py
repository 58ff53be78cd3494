"""What gateways were asked for, on the disk before they are: whoever is killed asks for the same again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgerec.errors import StoreError
from edgerec.files import write_private
from edgerec_exporters.federation.sources import Waiting
from edgerec_exporters.flower.asks import Part

MOST_TRIES = 3
"""How often a gateway is asked for the same deltas; what never came is then given up."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Deltas that one gateway was asked for `tries` times under one number, and what was known of them."""

    number: int
    newest: int
    waiting: tuple[Waiting, ...]
    tries: int = 0

    @property
    def part(self) -> Part:
        return Part(self.number, self.newest, tuple(one.id for one in self.waiting))

    def left(self, counted: Collection[str]) -> bool:
        """Whether one of them is still to be counted."""
        return not all(one.id in counted for one in self.waiting)


@dataclass(frozen=True, slots=True)
class Plans:
    """`number`: the last that was used · `open`: node → what it was asked for and what no round has counted yet."""

    number: int = 0
    open: Mapping[int, tuple[Planned, ...]] = field(default_factory=dict)

    def again(self, nodes: Iterable[int], counted: Collection[str]) -> dict[int, tuple[Planned, ...]]:
        """Node → what it is to be asked for once more."""
        return {
            node: tuple(one for one in self.open.get(node, ()) if one.tries < MOST_TRIES and one.left(counted))
            for node in nodes
        }

    def asking(self, number: int, asked: Mapping[int, tuple[Planned, ...]]) -> Plans:
        """The plans once these nodes are asked for this."""
        tried = {node: tuple(replace(one, tries=one.tries + 1) for one in some) for node, some in asked.items()}
        return Plans(number, {**self.open, **tried})

    def without(self, counted: Collection[str]) -> Plans:
        """The plans less what was counted."""
        kept = {node: tuple(one for one in some if one.left(counted)) for node, some in self.open.items()}
        return Plans(self.number, {node: some for node, some in kept.items() if some})


def load_plans(path: Path) -> Plans:
    """The plans in a file, none where there is none. Raises StoreError where it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
        opened = {
            int(node): tuple(Planned(number, newest, tuple(Waiting(*one) for one in some), tries)
                             for number, newest, some, tries in parts)
            for node, parts in found["open"].items()
        }  # fmt: skip
        return Plans(int(found["number"]), opened)
    except FileNotFoundError:
        return Plans()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read: {error}", hint="it says which deltas gateways still owe") from error


def save_plans(path: Path, plans: Plans) -> None:
    """Writes the plans, whole or not at all."""
    opened = {
        str(node): [[one.number, one.newest, [[w.id, w.version, w.size, w.key] for w in one.waiting], one.tries]
                    for one in some]
        for node, some in plans.open.items()
    }  # fmt: skip
    write_private(path, json.dumps({"number": plans.number, "open": opened}).encode())
