"""Checks of updaters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from math import inf, nan
from typing import Any

import numpy as np

from edgerec.checks.cases import KINDS, NOW, Case, batch_of
from edgerec.checks.common import COMMON
from edgerec.checks.comparing import expect, expect_finite, fingerprint, state_of
from edgerec.checks.subjects import Subject
from edgerec.interfaces import FAILURES, Updater
from edgerec.learning import guard
from edgerec.store.blob import decode_state, encode_state
from edgerec.types import Event, Float32, LearningBatch, Model, State

MOST = 0.8
"""Of the positive events of a new user so many must raise their item."""
EVENTS = 40


def check_initial_state(subject: Subject, case: Case) -> None:
    """The first state is named, finite arrays that can be stored and read again; the same every time."""
    one = subject.make()
    state = state_of(one.initial(case.model))
    for name, array in state.items():
        expect_finite(array, f"{name!r} in the first state")
    again = fingerprint(_through_bytes(state))
    expect(again == fingerprint(state), "the first state is another one after it was stored")
    expect(fingerprint(one.initial(case.model)) == again, "a second user starts from another state")


def check_names_and_dtypes(subject: Subject, case: Case) -> None:
    """Every step keeps the names and dtypes of the state's arrays."""
    before: dict[str, str] | None = None
    for state in _states(subject.make(), case):
        now = {name: array.dtype.str for name, array in state_of(state).items()}
        expect(before in (None, now), f"a step turned {before} into {now}")
        before = now


def check_finite(subject: Subject, case: Case) -> None:
    """No state ever holds NaN or infinity."""
    for step, state in enumerate(_states(subject.make(), case)):
        for name, array in state_of(state).items():
            expect_finite(array, f"after {step} steps {name!r}")


def check_state_survives_bytes(subject: Subject, case: Case) -> None:
    """A state that is stored and read again after every step ends in the same place: nothing is kept beside it."""
    plain = [fingerprint(state) for state in _states(subject.make(), case)]
    stored = [fingerprint(state) for state in _states(subject.make(), case, _through_bytes)]
    expect(plain == stored, "another result where every state was stored and read again")


def check_replay_identical(subject: Subject, case: Case) -> None:
    """The same events from zero give the same states, bit for bit, although the instance has seen them before."""
    one = subject.make()
    first = [fingerprint(state) for state in _states(one, case)]
    again = [fingerprint(state) for state in _states(one, case)]
    expect(first == again, "the same events, learned again from zero, end elsewhere")


def check_bounded_step(subject: Subject, case: Case) -> None:
    """The guard, as it is by default, refuses no step of a user who asks for the same few items 400 times."""
    for stream in (case.stream, case.long):
        one = subject.make()
        old = one.initial(case.model)
        for step, batch in enumerate(stream):
            new = one.update(old, batch)
            before = one.user_vector(old)
            vectors = np.zeros(case.model.dim, np.float32) if before is None else before, one.user_vector(new)
            reason = guard.refusal(old, new, vectors, {})
            expect(reason is None, f"step {step + 1} would be refused: {reason}")
            old = new


def check_state_size(subject: Subject, case: Case) -> None:
    """After 400 events the state is no larger than 1 MiB: it is written with every event."""
    one = subject.make()
    state = one.initial(case.model)
    for batch in case.long:
        state = one.update(state, batch)
    size = sum(np.asarray(array).nbytes for array in state.values())
    expect(size <= guard.MAX_STATE_BYTES, f"the state has {size:,} bytes after {len(case.long)} events")


def check_user_vector(subject: Subject, case: Case) -> None:
    """The user vector is float32 (dim,) and finite; or there is never one."""
    one = subject.make()
    has = one.user_vector(one.initial(case.model)) is not None
    for state in _states(one, case):
        vector = one.user_vector(state)
        expect((vector is not None) == has, "there is a user vector at times only")
        if vector is not None:
            kind = f"{getattr(vector, 'dtype', type(vector).__name__)} {getattr(vector, 'shape', '')}"
            fits = isinstance(vector, np.ndarray) and vector.dtype == np.float32 and vector.shape == (case.model.dim,)
            expect(fits, f"the user vector must be float32 ({case.model.dim},), not {kind}")
            expect_finite(vector, "the user vector")


def check_positive_event_raises(subject: Subject, case: Case) -> None:
    """An event that speaks for an item raises it against its negatives: most times for a new user, else on average."""
    for learned, changes in _margin_changes(subject, case, "purchase", 5.0):
        told = "a user who has learned" if learned else "a new user"
        expect(changes.mean() > 0, f"a positive event of {told} lowers its item: {changes.mean():+.4f} on average")
        share = (changes > 0).mean()
        expect(learned or share >= MOST, f"only {share:.0%} of the positive events of {told} raise their item")


def check_negative_event_does_not_raise(subject: Subject, case: Case) -> None:
    """An event that speaks against an item does not raise it against its negatives, on average."""
    for _, changes in _margin_changes(subject, case, "dislike", nan):
        expect(changes.mean() <= 1e-6, f"a negative event raises its item: {changes.mean():+.4f} on average")


def check_unknown_items(subject: Subject, case: Case) -> None:
    """Events of items that the catalogue lacks, or none at all, leave the user vector as it is."""
    one, random = subject.make(), np.random.default_rng(3)
    *_, state = _states(one, case)
    before = fingerprint(one.user_vector(state))
    for rows in ([], [-1], [-1, -1, -1]):
        after = one.update(state, batch_of(case.model, rows, random, at=NOW + 1e6))
        expect(fingerprint(one.user_vector(after)) == before, f"{len(rows)} events of unknown items move the user")


def check_migrate(subject: Subject, case: Case) -> None:
    """A state of today's schema stays as it is when it is migrated, unless that raises."""
    one = subject.make()
    *_, state = _states(one, case)
    before = fingerprint(state)
    try:
        migrated = one.migrate(state, one.schema)
    except FAILURES:
        return
    expect(fingerprint(state_of(migrated)) == before, "migrating a state of today's schema changes it")


def check_odd_values(subject: Subject, case: Case) -> None:
    """Values that are missing or huge, unheard-of kinds, times of all sorts: no step raises, every state is finite."""
    one = subject.make()
    state = one.initial(case.model)
    for batch in _odd_batches(case.model):
        state = one.update(state, batch)
        for name, array in state_of(state).items():
            expect_finite(array, f"after an event {batch.events[0].kind} of value {batch.value[0]:g} {name!r}")


def _through_bytes(state: State) -> State:
    try:
        return decode_state(encode_state(state))
    except ValueError as error:
        expect(False, str(error))
        raise


def _states(one: Updater, case: Case, kept: Callable[[State], State] = dict) -> Iterator[State]:
    """Every state on the way through the stream, the first one included."""
    state = kept(one.initial(case.model))
    yield state
    for batch in case.stream:
        state = kept(one.update(state, batch))
        yield state


def _margin_changes(
    subject: Subject, case: Case, kind: str, value: float
) -> Iterator[tuple[bool, np.ndarray[Any, Any]]]:
    """By how much single events move their item's score against the mean of its negatives, float64 (EVENTS,): for a
    new user, and (True) for one who has learned. Nothing where the updater has no user vector."""
    one = subject.make()
    *_, learned = _states(one, case)
    if one.user_vector(learned) is None:
        return
    random = np.random.default_rng(11)
    for state, known in ((one.initial(case.model), False), (learned, True)):
        before = np.array(one.user_vector(state))
        batches = _single(case.model, random, kind, value)
        moved = [np.asarray(one.user_vector(one.update(state, batch))) - before for batch in batches]
        yield known, np.array([_against(batch) @ move for batch, move in zip(batches, moved, strict=True)])


def _single(model: Model, random: np.random.Generator, kind: str, value: float) -> Sequence[LearningBatch]:
    rows = random.integers(0, model.n_items, EVENTS).tolist()
    return [batch_of(model, [row], random, at=NOW + 1e6, kind=kind, value=value) for row in rows]


def _against(batch: LearningBatch) -> Float32:
    vectors = batch.model.vectors
    direction: Float32 = vectors[batch.rows[0]] - vectors[batch.negatives[0]].mean(axis=0)
    return direction


def _odd_batches(model: Model) -> Iterator[LearningBatch]:
    random = np.random.default_rng(5)
    for value in (nan, inf, -inf, 1e30, -1e30, 0.0):
        for kind in KINDS:
            yield batch_of(model, [1], random, kind=kind, value=value)
    yield batch_of(model, [2], random, weight=0.0)
    yield batch_of(model, [3, 3, 3], random)
    times = (None, datetime(2026, 1, 1, tzinfo=UTC), 0.0, NOW * 2)
    for at in times:
        event = Event("item4", "heard of by nobody", None, at, group="basket", context={"screen": 3})
        yield batch_of(model, [4], random, events=(event,))


UPDATER_CHECKS = (
    *COMMON,
    check_initial_state,
    check_names_and_dtypes,
    check_finite,
    check_state_survives_bytes,
    check_replay_identical,
    check_bounded_step,
    check_state_size,
    check_user_vector,
    check_positive_event_raises,
    check_negative_event_does_not_raise,
    check_unknown_items,
    check_migrate,
    check_odd_values,
)
