"""Going through a user's events again: to verify what was learned, or to learn it anew in another space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgerec.history import History
from edgerec.learning.learner import GroupEvent, Learner, Situation
from edgerec.learning.state import Learned

Situate = Callable[[History, Learned], Situation]

UNKNOWN_ITEM = "unknown item"
PAUSED = "paused"
"""Verdicts of events that no step learned from; an unknown item is learned from when a bundle brings it."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Where a replay ended. `verdicts`: (learned, verdict, seq) of each event whose record changes · `ndcg`:
    (seq of a step's first event, scenario) → NDCG@10 of what would have been served.
    """

    history: History
    learned: Learned
    verdicts: tuple[tuple[int, str, int], ...]
    ndcg: Mapping[tuple[int, str], float]


def groups_in_order(events: Iterable[GroupEvent]) -> Iterator[list[GroupEvent]]:
    """Splits events, in order of arrival, into those that were learned (or not) together."""
    pending: list[GroupEvent] = []
    for event in events:
        if pending and not _together(pending[-1], event):
            yield pending
            pending = []
        pending.append(event)
    if pending:
        yield pending


def _together(left: GroupEvent, right: GroupEvent) -> bool:
    if left.row.learned or right.row.learned:
        return left.row.learned == right.row.learned
    return left.row.group is not None and left.row.group == right.row.group


def replay(learner: Learner, events: Iterable[GroupEvent], history: History, situate: Situate, *, obey: bool) -> Replay:
    """Learns from the events from zero. `obey`: as the stored verdicts say; else every known item counts."""
    learned = learner.initial()
    verdicts: list[tuple[int, str, int]] = []
    ndcg: dict[tuple[int, str], float] = {}
    for group in groups_in_order(events):
        known = [event for event in group if event.item >= 0]
        wanted = [event for event in known if event.row.learned] if obey else [e for e in known if _may(e)]
        step = learned.steps + 1
        verdict = UNKNOWN_ITEM
        if wanted:
            decided = wanted[0].row.verdict if obey else None
            result = learner.step(learned, situate(history, learned), wanted, decided=decided)
            learned, verdict = result.learned, result.verdict
            ndcg |= {(wanted[0].row.seq, scenario): value for scenario, value in result.ndcg.items()}
        if not obey:
            chosen = {event.row.seq for event in wanted}
            verdicts += [
                (step, verdict, e.row.seq) if e.row.seq in chosen else (0, _kept_verdict(e), e.row.seq) for e in group
            ]
        history = history.extended([event.happening() for event in known])
    return Replay(history, learned, tuple(verdicts), ndcg)


def _may(event: GroupEvent) -> bool:
    """Whether an event may be learned from anew: not what came in while learning was paused."""
    return event.row.verdict != PAUSED


def _kept_verdict(event: GroupEvent) -> str:
    return UNKNOWN_ITEM if event.item < 0 else event.row.verdict
