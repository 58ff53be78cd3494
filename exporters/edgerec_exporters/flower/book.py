"""The server's side of a round without Flower: who is asked for what, and how the answers become a round.

First gateways say what they hold; the server leaves out what was counted before or comes twice, and whoever has no
budget left. Only then it asks for exactly the rest. From the answers on it is a round as `edgerec round run` makes it,
by the same code, in the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgerec.bundle import verify
from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError
from edgerec_exporters.federation import results
from edgerec_exporters.federation.accountant import with_multiplier
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.journal import BEGUN, BudgetSpent, Journal, Round
from edgerec_exporters.federation.rounds import JOURNAL, Desk, run_round
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_exporters.federation.sources import Source, Waiting
from edgerec_exporters.flower.asks import Ask, Rows, Total
from edgerec_exporters.flower.plans import Planned, Plans, load_plans, save_plans
from edgerec_exporters.flower.replies import Replied, RepliedTotals

PLANS = "flower.json"


@dataclass(frozen=True, slots=True)
class Done:
    """A round that came to a result. `report`: as `edgerec round run` gives it."""

    result: Aggregate
    report: Mapping[str, Any]


@dataclass
class Book:
    """Rounds on one bundle, and the folder that they share with `edgerec round`.

    `most`: deltas that one gateway is asked for in a round · `clock`: POSIX seconds. Raises BundleError, ConfigError.
    """

    bundle: Path
    state: Path
    settings: RoundSettings
    most: int = 5000
    clock: Callable[[], float] = time.time
    version: int = field(init=False)
    blocks: tuple[BlockSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        manifest = verify(self.bundle)
        self.version, self.blocks = manifest.version, tuple(manifest.federation.blocks)
        if not self.blocks:
            raise ConfigError(f"bundle {manifest.name} declares no federated blocks", hint="export it with some")
        self.settings = with_multiplier(self.settings)
        (self.state / "candidates").mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def split(self) -> bool:
        """Whether gateways hold shares, of which only sums leave them."""
        return self.settings.mode == "split"

    def begin(self) -> tuple[int, Ask]:
        """A number for the next round, and what gateways are asked first. Raises BudgetSpent where another round would
        cost everyone more privacy than is left.
        """
        span = self.settings.most_lag + 1
        with self._journal() as journal:
            used = [int(one.id) for one in journal.rounds() if one.id.isdecimal()]
            fits = journal.able(["nobody who ever took part"], self.settings.privacy, self.clock())[0]
        if not fits and self._unfinished() is None:
            raise BudgetSpent("another round would cost more privacy than the budget allows", hint="wait")
        oldest = self.version if self.split else max(1, self.version - self.settings.most_lag)
        versions = tuple(range(oldest, self.version + 1))
        return max([self._plans().number, *used]) + span, Ask(versions, self.blocks, self.split)

    def plan(self, number: int, ask: Ask, offers: Mapping[int, Sequence[Waiting]]) -> dict[int, Ask]:
        """Node → what it is asked for, of those that offered; on the disk when it is returned. Raises DeltaError where
        all together are too few.
        """
        plans, counted = self._plans(), self._counted()
        asked = plans.again(offers, counted)
        if self._unfinished() is None:  # else nothing but what that round needs
            own = {node: [self._named(node, one) for one in some if one.id not in counted]
                   for node, some in offers.items()}  # fmt: skip
            asked = self._shared(number, own, asked) if self.split else self._fresh(number, own, asked)
        ids = {one.id for some in asked.values() for planned in some for one in planned.waiting} - counted
        if len(ids) < self.settings.least_cohort:
            raise DeltaError(f"{len(ids)} deltas, at least {self.settings.least_cohort} are needed", hint="wait")
        save_plans(self.state / PLANS, plans.asking(number, asked))
        return {
            node: replace(ask, parts=tuple(planned.part for planned in some)) for node, some in asked.items() if some
        }

    def finish(self, number: int, answers: Mapping[int, Rows]) -> Done:
        """The round of all rows that came. Raises DeltaError, BudgetSpent and whatever `run_round` does."""
        return self._run(number, Replied([answers[node] for node in sorted(answers)], self._known(), number))

    def finish_split(self, number: int, asks: Mapping[int, Ask], answers: Mapping[int, Total]) -> Done:
        """The round of both sums. Raises as `finish`."""
        if len(answers) != 2:
            raise DeltaError("a gateway's sum of shares did not come", hint="both are asked again")
        ids = next(iter(asks.values())).ids
        totals = [answers[node] for node in sorted(answers)]
        return self._run(number, RepliedTotals(totals, ids, self._known(), number))

    def resume(self) -> Done | None:
        """Ends a round whose numbers a crash left on the disk; None where there is none."""
        unfinished = self._unfinished(computed=True)
        return None if unfinished is None else self._run(self._plans().number, Replied([], {}, 0))

    def _run(self, number: int, source: Source) -> Done:
        desk = Desk(self.bundle, source, self.state, self.settings, self.clock)
        report = run_round(desk, self.state / "candidates" / f"{number}.edgerec")
        save_plans(self.state / PLANS, self._plans().without(self._counted()))
        result = results.load(self.state / "results" / f"{report['round']}.npz")
        assert result is not None  # the round has just written it
        return Done(result, report)

    def _fresh(
        self, number: int, own: Mapping[int, Sequence[Waiting]], asked: Mapping[int, tuple[Planned, ...]]
    ) -> dict[int, tuple[Planned, ...]]:
        """What is asked for again, and what is new: no gateway before offered it, and its sender has budget left."""
        seen = {one.id for some in asked.values() for planned in some for one in planned.waiting}
        out = dict(asked)
        for node in sorted(own):
            fresh = self._able([one for one in own[node] if one.id not in seen])[: self.most]
            seen |= {one.id for one in fresh}
            if fresh:
                out[node] = (*asked[node], Planned(number, self.version, tuple(fresh)))
        return out

    def _shared(
        self, number: int, own: Mapping[int, Sequence[Waiting]], asked: Mapping[int, tuple[Planned, ...]]
    ) -> dict[int, tuple[Planned, ...]]:
        """The same deltas for two gateways: those of a sum that did not come, or all of which both hold a share."""
        if len(own) != 2:
            raise DeltaError(f"{len(own)} gateways offer shares, there must be two", hint="wait for both")
        one, other = sorted(own)
        if asked[one] and [planned.part for planned in asked[one]] == [planned.part for planned in asked[other]]:
            return dict(asked)
        both = {held.id for held in own[other]}
        fresh = [held for held in self._able(own[one]) if held.id in both][: self.most]
        return dict.fromkeys(own, (Planned(number, self.version, tuple(fresh)),) if fresh else ())

    def _able(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Those whose sender has budget for one more round, or is not known."""
        keys = [one.key for one in waiting if one.key is not None]
        with self._journal() as journal:
            able = dict(zip(keys, journal.able(keys, self.settings.privacy, self.clock()), strict=True))
        return [one for one in waiting if one.key is None or able[one.key]]

    def _named(self, node: int, one: Waiting) -> Waiting:
        """Senders have numbers of their gateway's own; in split mode both gateways number them differently."""
        return replace(one, key=None if one.key is None or self.split else f"{node}:{one.key}")

    def _known(self) -> dict[str, Waiting]:
        return {one.id: one for some in self._plans().open.values() for planned in some for one in planned.waiting}

    def _counted(self) -> set[str]:
        """What went into a round, but for one that a crash left before it was computed."""
        unfinished = self._unfinished()
        with self._journal() as journal:
            counted = journal.counted()
            return counted - set(journal.ids(unfinished.id)) if unfinished else counted

    def _unfinished(self, *, computed: bool = False) -> Round | None:
        with self._journal() as journal:
            begun = next((one for one in journal.rounds() if one.status == BEGUN), None)
        if begun is None or (self.state / "results" / f"{begun.id}.npz").is_file() != computed:
            return None
        return begun

    def _journal(self) -> Journal:
        return Journal(self.state / JOURNAL)

    def _plans(self) -> Plans:
        return load_plans(self.state / PLANS)
