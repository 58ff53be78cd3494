"""Going through a user's events again: to verify what was learned, or to learn it anew in another space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from edgerec.history import History
from edgerec.learning.learner import GroupEvent, Learner, Situation, Step
from edgerec.learning.state import Learned
from edgerec.records import record
from edgerec.store import EventRow

Situate = Callable[[History, Learned], Situation]

UNKNOWN_ITEM = "unknown item"
PAUSED = "paused"
"""Verdicts of events that no step learned from. An unknown item is learned from when a bundle brings it."""


@record
class Replay:
    """Where a replay ended. `decided`: the rows whose `learned` or `verdict` is new · `ndcg`: (seq of a step's first
    event, scenario) → NDCG@10 of what would have been served.
    """

    history: History
    learned: Learned
    decided: tuple[EventRow, ...]
    ndcg: Mapping[tuple[int, str], float]


def groups_in_order(events: Iterable[GroupEvent], *, obey: bool) -> Iterator[list[GroupEvent]]:
    """Splits events, in order of arrival, into those that were learned (or not) together.

    Without `obey`, those of a group belong together although one of them was not learned when it came in.
    """
    pending: list[GroupEvent] = []
    for event in events:
        if pending and not _together(pending[-1], event, obey):
            yield pending
            pending = []
        pending.append(event)
    if pending:
        yield pending


def _together(left: GroupEvent, right: GroupEvent, obey: bool) -> bool:
    steps = left.row.learned, right.row.learned
    if all(steps) or (obey and any(steps)):
        return steps[0] == steps[1]
    same = left.row.group is not None and left.row.group == right.row.group
    return same and (obey or _may(left) == _may(right))


@record
class Stop:
    """A group of events that was gone through. `taught`: those that were learned from · `step`: None where none was ·
    `history`, `learned`: what is known after them.
    """

    events: list[GroupEvent]
    taught: list[GroupEvent]
    step: Step | None
    history: History
    learned: Learned


def walk(
    learner: Learner, events: Iterable[GroupEvent], history: History, situate: Situate, *, obey: bool
) -> Iterator[Stop]:
    """Goes through the events from zero, group by group. `obey`: as the stored verdicts say; else every known item
    counts."""
    learned = learner.initial()
    # what no step could learn from must not split the step that it came in with
    for group in groups_in_order([e for e in events if e.item >= 0 and not e.row.set_aside], obey=obey):
        step = None
        wanted = [event for event in group if (event.row.learned if obey else _may(event))]
        if wanted:
            decided = wanted[0].row.verdict if obey else None
            step = learner.step(learned, situate(history, learned), wanted, decided=decided)
            learned = step.learned
        history = history.extended([event.happening() for event in group])
        yield Stop(group, wanted, step, history, learned)


def replay(learner: Learner, events: Iterable[GroupEvent], history: History, situate: Situate, *, obey: bool) -> Replay:
    """Where the walk ends, and what it decides."""
    events = list(events)
    learned = learner.initial()
    decided: list[EventRow] = []
    ndcg: dict[tuple[int, str], float] = {}
    for stop in walk(learner, events, history, situate, obey=obey):
        history, learned, step = stop.history, stop.learned, stop.step
        if step is not None:
            ndcg |= {(stop.taught[0].row.seq, scenario): value for scenario, value in step.ndcg.items()}
            decided += [event.row.decided(learned.steps, step.verdict) for event in stop.taught]
    if not obey:
        unknown = [event for event in events if event.item < 0 and not event.row.set_aside and _may(event)]
        decided += [event.row.decided(0, UNKNOWN_ITEM) for event in unknown]
    return Replay(history, learned, () if obey else tuple(decided), ndcg)


def _may(event: GroupEvent) -> bool:
    """Whether an event may be learned from anew: not what came in while learning was paused."""
    return event.row.verdict != PAUSED
