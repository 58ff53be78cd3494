"""The typed contracts that plugins fulfil. Hooks only register implementations of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from edgerec.types import (
    Float32,
    Float64,
    Int64,
    LearningBatch,
    Model,
    Profile,
    Request,
    Reranking,
    Slate,
    SourceScores,
    State,
)

FAILURES = (Exception, SystemExit, GeneratorExit)
"""What is caught around a plugin's code: all that it may raise but the user's own KeyboardInterrupt."""

Settings = Mapping[str, Any]
"""Constants of one implementation: the manifest's, overridden by the app's configuration."""


@runtime_checkable
class CandidateSource(Protocol):
    """Scores items for one request. Pure: the same arguments give the same scores."""

    name: str

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Larger is better. Must be finite."""
        ...


@runtime_checkable
class Updater(Protocol):
    """Learns a user's state from events. Pure: inputs are read-only, no clock, no global randomness.

    `name` keys the state in the store; `schema` is raised when the state's meaning changes; `item_space` says
    that the state lives in the bundle's item space and must be relearned when that space changes.
    """

    name: str
    schema: int
    item_space: bool

    def initial(self, model: Model) -> State:
        """The state of a user who has done nothing yet."""
        ...

    def update(self, state: State, batch: LearningBatch) -> State:
        """The state after the batch. Must return new arrays where anything changed."""
        ...

    def user_vector(self, state: State) -> Float32 | None:
        """`u`, float32 (dim,), added to the query; None where this updater has no vector."""
        ...

    def migrate(self, state: State, old_schema: int) -> State:
        """A state written under `old_schema`, in today's form. Raise to start from `initial`."""
        ...


class Arrival(NamedTuple):
    """What an event filter sees of an event: `at` POSIX seconds, `group` None for an event of its own."""

    item: str
    kind: str
    at: float
    group: str | None


@runtime_checkable
class EventFilter(Protocol):
    """Judges an event before anything is learned from it. Pure: the same arguments give the same verdict."""

    name: str

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        """Why the event is set aside (it is stored, but not learned from and no part of the history); None where it is
        sound. `earlier`: the user's last arrivals, oldest first, those that were set aside included.
        """
        ...


@runtime_checkable
class Reranker(Protocol):
    """Chooses the page from the best candidates. Pure: chance comes from `slate.seed`, and from nothing else."""

    name: str

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        """An order of candidates of the slate, best first: at least `slate.n` of them where there are so many, each
        once. What it leaves out is off the page.
        """
        ...


@runtime_checkable
class ChancePolicy(Protocol):
    """What a `Reranker` that leaves something to chance may offer besides: then another's log can judge it."""

    def probabilities(self, slate: Slate, left: Int64, request: Request, profile: Profile, model: Model) -> Float64:
        """How probably each candidate that is left takes the next place, given those before it: float64 (c,), adding up
        to 1. `left` int64 (c,), ascending: their places in the slate.
        """
        ...


class Watch(Protocol):
    """Who is told of what plugins do wrong, and says which are still asked."""

    def usable(self, name: str) -> bool:
        """Whether the implementation of that name, "source recency", may be called."""
        ...

    def failed(self, name: str, error: BaseException) -> None:
        """Counts a failure of the implementation; after several it is called no more."""
        ...


UpdaterFactory = Callable[[Settings], Updater]
FilterFactory = Callable[[Settings], EventFilter]
SourceFactory = Callable[[Settings], CandidateSource]
RerankerFactory = Callable[[Settings], Reranker]
