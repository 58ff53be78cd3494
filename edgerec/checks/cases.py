"""What implementations are tried on: a small made-up catalogue, users, pages; the same numbers every time.

All arrays are read-only, as the runtime hands them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from edgerec.interfaces import FAILURES, Arrival, Updater
from edgerec.records import changed, locked, record
from edgerec.types import Event, LearningBatch, Model, Profile, Replayed, Request, Slate, State

N_ITEMS, DIM, NEGATIVES = 60, 8, 9
KINDS = {"view": 0.2, "click": 1.0, "purchase": 2.0, "rating": 1.0, "dislike": -1.0}
"""Event kind → weight; their order gives the index in a profile."""
NOW = 1_700_000_000.0
STEPS, MANY_STEPS = 60, 400
Generator = np.random.Generator


@record
class Moment:
    """A request and the profile that it meets."""

    request: Request
    profile: Profile


@record
class Case:
    """`stream`: a user's batches of all sorts, groups and replayed events among them · `long`: a user who asks for a
    few like items again and again · `moments`: users with a short history and with a long one; `newcomer`: one with
    none · `slates`: shorter than the page and longer; `small_slates`: of no item and of one · `arrivals`: a user's
    events, oldest first, with bursts.
    """

    model: Model
    stream: tuple[LearningBatch, ...]
    long: tuple[LearningBatch, ...]
    moments: tuple[Moment, ...]
    newcomer: Moment
    slates: tuple[Slate, ...]
    small_slates: tuple[Slate, ...]
    arrivals: tuple[Arrival, ...]


@lru_cache(maxsize=8)
def case_of(n_items: int = N_ITEMS, dim: int = DIM) -> Case:
    """The case of a catalogue of that size."""
    random = np.random.default_rng(7)
    model = Model(
        vectors=locked((random.normal(size=(n_items, dim)) / dim**0.5).astype(np.float32)),
        bias=locked((random.normal(size=n_items) * 0.1).astype(np.float32)),
        popularity=locked(np.linspace(1, 0, n_items, dtype=np.float32)),
    )
    favourites = np.argsort(-(model.vectors @ model.vectors[0]))[:3]
    return Case(
        model=model,
        stream=tuple(_mixed(model, random, step) for step in range(STEPS)),
        long=tuple(
            batch_of(model, [int(random.choice(favourites))], random, at=NOW + 3600.0 * step)
            for step in range(MANY_STEPS)
        ),
        moments=tuple(_moment(model, random, length) for length in (1, 30, 300)),
        newcomer=_moment(model, random, 0),
        slates=tuple(_slate(model, random, m, n) for m, n in ((4, 10), (20, 5), (n_items, 10))),
        small_slates=tuple(_slate(model, random, m, 5) for m in (0, 1)),
        arrivals=tuple(_arrivals(random, n_items)),
    )


def with_states(case: Case, make: Callable[[], Updater] | None) -> Case:
    """The case with profiles that hold the state of an updater after `stream`; none where it has none to give."""
    if make is None:
        return case
    try:
        updater = make()
        state = updater.initial(case.model)
        for batch in case.stream:
            state = updater.update(state, batch)
    except FAILURES:  # the updater's own checks tell of it
        return case
    states = {updater.name: locked_state(state)}
    moments = tuple(changed(one, profile=changed(one.profile, states=states)) for one in case.moments)
    start = {updater.name: locked_state(updater.initial(case.model))}
    newcomer = changed(case.newcomer, profile=changed(case.newcomer.profile, states=start))
    return changed(case, moments=moments, newcomer=newcomer)


def batch_of(
    model: Model,
    rows: Sequence[int],
    random: Generator,
    *,
    at: float = NOW,
    kind: str = "click",
    value: float = np.nan,
    replayed: Sequence[int] = (),
    weight: float | None = None,
    events: tuple[Event, ...] | None = None,
) -> LearningBatch:
    """A batch of events of one kind; the negatives hold neither of its items. `weight` None: the kind's."""
    n, m = len(rows), len(replayed)
    query = np.tile((random.normal(size=model.dim) * 0.3).astype(np.float32), (n + m, 1))
    others = np.setdiff1d(np.arange(model.n_items), rows)
    return LearningBatch(
        events=events or tuple(_event(row, kind, value, at + place) for place, row in enumerate(rows)),
        rows=locked(np.array(rows, np.int32)),
        weight=locked(np.full(n, KINDS[kind] if weight is None else weight, np.float32)),
        value=locked(np.full(n, value, np.float32)),
        query=locked(query[:n]),
        replayed=Replayed(
            rows=locked(np.array(replayed, np.int32)),
            weight=locked(np.ones(m, np.float32)),
            query=locked(query[n:]),
        ),
        negatives=locked(random.choice(others, (n, NEGATIVES)).astype(np.int32)),
        now=at + max(n - 1, 0),
        model=model,
    )


def _event(row: int, kind: str, value: float, at: float) -> Event:
    told = None if np.isnan(value) else value
    return Event(f"item{row}", kind, told, at, event_id=f"{kind}-{row}-{at:.0f}")


def _mixed(model: Model, random: Generator, step: int) -> LearningBatch:
    kind = list(KINDS)[int(random.integers(len(KINDS)))]
    size = 3 if step % 7 == 3 else 1
    rows = random.choice(model.n_items, size, replace=False).tolist()
    if step % 11 == 5:
        rows[0] = -1
    past = random.integers(0, model.n_items, 4).tolist() if step > 4 else []
    value = float(random.integers(1, 6)) if kind == "rating" else np.nan
    return batch_of(model, rows, random, at=NOW + 7200.0 * step, kind=kind, value=value, replayed=past)


def _moment(model: Model, random: Generator, length: int) -> Moment:
    at = NOW - 600.0 * np.sort(random.integers(0, 200_000, length))[::-1]
    profile = Profile(
        rows=locked(random.integers(0, model.n_items, length).astype(np.int32)),
        at=locked(at),
        kinds=locked(random.integers(0, len(KINDS), length)),
        groups=locked(np.arange(length) // 2),
        consumes=locked(random.random(length) < 0.3),
        query=locked((random.normal(size=model.dim) * (length > 0)).astype(np.float32)),
        user_vector=locked((random.normal(size=model.dim) * 0.5 * (length > 1)).astype(np.float32)),
    )
    context: dict[str, Any] = {"daypart": "evening"} if length > 1 else {}
    return Moment(Request("default", "hide", NOW + 60.0, context), profile)


def _slate(model: Model, random: Generator, m: int, n: int) -> Slate:
    rows = random.permutation(model.n_items)[:m].astype(np.int32)
    scores = np.sort(random.normal(size=len(rows)))[::-1]
    return Slate(locked(rows), locked(scores.copy()), n, int(random.integers(1 << 60)))


def _arrivals(random: Generator, n_items: int) -> list[Arrival]:
    at, out = NOW, []
    for step in range(40):
        at += 0.5 if step % 10 > 5 else float(random.integers(20, 5000))
        group = f"basket{step // 10}" if step % 10 > 7 else None
        out.append(Arrival(f"item{random.integers(n_items)}", list(KINDS)[step % len(KINDS)], at, group))
    return out


def locked_state(state: State) -> State:
    """The state's arrays as read-only views, which cannot be unlocked."""
    return {name: locked(array) for name, array in state.items()}
