"""The typed contracts that plugins fulfil. Hooks only register implementations of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

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

if TYPE_CHECKING:
    from pathlib import Path

    from edgerec.deltas import Delta

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


class SecureChance(Protocol):
    """Chance that nobody can foresee or draw again: from the operating system's secure generator, never from `seed`."""

    def normal(self, size: int) -> Float64:
        """Independent standard normal numbers, float64 (size,); other ones with every call."""
        ...

    def uniform(self, size: int) -> Float64:
        """Independent numbers in [0, 1), float64 (size,); other ones with every call."""
        ...


@runtime_checkable
class DeltaFilter(Protocol):
    """Changes a delta before it leaves the device. Pure, but for the chance that is passed in."""

    name: str

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        """A delta with the same id, bundle version and block names, finite; the sizes of its blocks depend on the sizes
        of those that came in, and on nothing else. Raises `edgerec.deltas.DeltaError` where none may be sent.
        """
        ...


@runtime_checkable
class Transport(Protocol):
    """Carries deltas from the device to where they are aggregated."""

    name: str

    def send(self, payload: bytes, *, delta_id: str) -> None:
        """Returns once the payload has arrived. Idempotent: what was sent before, under the same id, arrives once.
        Raises `edgerec.deltas.DeltaRefused` where it arrived and will never be counted, or `TransportError`, or another
        EdgeRecError, where it did not get through.
        """
        ...


@runtime_checkable
class KeepingTransport(Protocol):
    """What a `Transport` that keeps something of its own on the device, such as a key, may offer besides."""

    def keep_in(self, folder: Path) -> None:
        """Called before anything is sent. The folder, of the user's data directory, is the transport's own; it is no
        part of an exported profile, and is deleted with all that is in it when the user is forgotten.
        """
        ...


@runtime_checkable
class Aggregator(Protocol):
    """Makes one delta of many devices'. Pure; the order of the devices does not matter. `least`: how many it needs."""

    name: str
    least: int

    def aggregate(self, deltas: Float32) -> Float64:
        """float64 (d,), finite, from float32 (n_devices, d), all finite, a row per device. Raises
        `edgerec.deltas.DeltaError`, or another EdgeRecError, for fewer than `least`.
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
DeltaFilterFactory = Callable[[Settings], DeltaFilter]
TransportFactory = Callable[[Settings], Transport]
AggregatorFactory = Callable[[Settings], Aggregator]
