"""The server's side of a round without Flower: who is asked for what, what is believed, and what is kept of it.

A round has two steps. Gateways first say whose deltas they hold; the server drops ids that came before or twice, and
looks at the cohort and the budget. Only then they are asked for exactly those deltas, which a gateway gives to one
round's number and to no other: whoever is killed in between gives the same ones again, or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.errors import StoreError
from edgerec.files import write_whole
from edgerec_exporters.federation.accountant import with_multiplier
from edgerec_exporters.federation.engine import Aggregate, aggregate, aggregate_sum, joined
from edgerec_exporters.federation.journal import BEGUN, DONE, BudgetSpent, Journal
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_exporters.flower.results import server_state, write_result
from edgerec_exporters.flower.rows import Ask, Ring, Rows

STATE = "flower.json"
MOST_TRIES = 3
"""How often a gateway is asked for what it may have claimed for a round that did not count it."""


@dataclass(frozen=True)
class Book:
    """The rounds of one bundle version, in a folder that only this server writes.

    `most`: deltas that one gateway may answer with in a round · `clock`: POSIX seconds.
    """

    folder: Path
    settings: RoundSettings
    blocks: Sequence[BlockSpec]
    bundle_version: int
    most: int = 5000
    clock: Callable[[], float] = time.time
    _owed: dict[int, list[int]] = field(default_factory=dict, init=False)
    """Node → number and tries of a round that it was asked for and that did not count it."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        object.__setattr__(self, "settings", with_multiplier(self.settings))
        state = self._state()
        if state["bundle"] == self.bundle_version:
            self._owed.update({int(node): value for node, value in state["owed"].items()})

    @property
    def split(self) -> bool:
        """Whether gateways hold shares, of which only sums leave them."""
        return self.settings.mode == "split"

    def journal(self) -> Journal:
        """Taken, spent: shared with `edgerec round`. Raises JournalError."""
        return Journal(self.folder / "journal.db")

    def begin(self) -> int:
        """The next round's number. Raises BudgetSpent where it would cost more privacy than is left."""
        with self.journal() as journal:
            if not journal.able(["of nobody"], self.settings.privacy, self.clock())[0]:
                raise BudgetSpent("one more round would cost more privacy than the budget allows", hint="wait")
        number = self._state()["number"] + 1
        self._keep(number)
        return number

    def offers(self, number: int, nodes: Iterable[int]) -> dict[int, Ask]:
        """Node → what it is asked first: whose deltas it holds for the round, or for one that it owes."""
        blocks = tuple((spec.name, spec.size) for spec in self.blocks)
        for node in [node for node, (_, tries) in self._owed.items() if tries >= MOST_TRIES]:
            del self._owed[node]
        return {node: Ask(self._owed.get(node, [number])[0], self.bundle_version, blocks, self.most) for node in nodes}

    def plan(self, number: int, asks: Mapping[int, Ask], held: Mapping[int, Sequence[str]]) -> dict[int, Ask]:
        """Node → the ask for the deltas that are to count, none without any. Kept before it is returned.

        Raises DeltaError for a cohort that is too small.
        """
        with self.journal() as journal:
            counted = journal.counted()
        for node in [node for node, ids in held.items() if counted.issuperset(ids)]:
            self._owed.pop(node, None)  # a round that was begun and never finished: it was spent, nobody saw it
        chosen = _shared(held, counted) if self.split else _first(held, counted)
        devices = len(next(iter(chosen.values()), ())) if self.split else sum(map(len, chosen.values()))
        if devices < self.settings.least_cohort:
            raise DeltaError(f"{devices} devices, at least {self.settings.least_cohort} are needed", hint="wait")
        for node in chosen:
            owed = self._owed.setdefault(node, [asks[node].number, 0])
            owed[1] += 1
        self._keep(number)
        return {node: replace(asks[node], ids=ids) for node, ids in chosen.items()}

    def finish(self, number: int, answers: Mapping[int, Rows]) -> Aggregate:
        """The round's result from what gateways answered, written as a result. Raises DeltaError, BudgetSpent."""
        parts = [answers[node] for node in sorted(answers)]
        ids = [one for part in parts for one in part.ids]
        if len(ids) < self.settings.least_cohort:
            raise DeltaError(f"{len(ids)} devices, at least {self.settings.least_cohort} are needed", hint="wait")
        rows = np.concatenate([part.rows for part in parts])
        return self._counted(number, answers, ids, lambda: self._aggregate(rows))

    def finish_split(self, number: int, asks: Mapping[int, Ask], totals: Mapping[int, Ring]) -> Aggregate:
        """As `finish`, from the sums of shares. Raises DeltaError unless every gateway that was asked gave its own."""
        if set(totals) != set(asks):
            raise DeltaError("a gateway's share of the sum is missing", hint="both are asked again")
        ids = next(iter(asks.values())).ids
        whole = [totals[node] for node in sorted(totals)]

        def result() -> Aggregate:
            return aggregate_sum(self.settings, self.blocks, joined(whole), len(ids), server=server_state(self.folder))

        return self._counted(number, totals, ids, result)

    def _aggregate(self, rows: Any) -> Aggregate:
        return aggregate(self.settings, self.blocks, rows, server=server_state(self.folder))

    def _counted(
        self, number: int, nodes: Iterable[int], ids: Sequence[str], result: Callable[[], Aggregate]
    ) -> Aggregate:
        """Takes and spends first, then computes, then writes; gateways that were counted owe nothing more."""
        name = f"flower-{self.bundle_version}-{number}"
        with self.journal() as journal:
            begun = journal.begin(
                name,
                bundle=self.bundle_version,
                candidate=self.bundle_version + 1,
                at=self.clock(),
                privacy=self.settings.privacy,
                ids=ids,
            )
            if begun.status != BEGUN:
                raise StoreError(f"round {name} was finished before", hint="is another server using this folder?")
            made = result()
            write_result(self.folder, number, self.bundle_version, made, ids)
            journal.end(name, DONE, {**made.told(), "gateways": sorted(map(str, nodes))})
        for node in nodes:
            self._owed.pop(node, None)
        self._keep(number)
        return made

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE).read_text("utf-8"))
        except FileNotFoundError:
            return {"number": 0, "bundle": self.bundle_version, "owed": {}}
        return state

    def _keep(self, number: int) -> None:
        state = {"number": number, "bundle": self.bundle_version, "owed": {str(n): v for n, v in self._owed.items()}}
        write_whole(self.folder / STATE, json.dumps(state).encode())


def _first(held: Mapping[int, Sequence[str]], counted: set[str]) -> dict[int, tuple[str, ...]]:
    """Node → its deltas that no round counted and no node before it holds too."""
    seen, chosen = set(counted), {}
    for node in sorted(held):
        fresh = tuple(dict.fromkeys(one for one in held[node] if one not in seen))
        seen.update(fresh)
        if fresh:
            chosen[node] = fresh
    return chosen


def _shared(held: Mapping[int, Sequence[str]], counted: set[str]) -> dict[int, tuple[str, ...]]:
    """Node → the deltas of which every node holds a share. Raises DeltaError unless there are two."""
    if len(held) != 2:
        raise DeltaError(f"{len(held)} gateways hold shares, there must be two", hint="wait for both")
    one, other = (held[node] for node in sorted(held))
    both = set(other) - counted
    ids = tuple(dict.fromkeys(each for each in one if each in both))
    return dict.fromkeys(sorted(held), ids) if ids else {}
