"""The values that cross edgerec's borders: what goes in, what comes out, what plugins see.

All are frozen. Arrays handed to plugins are read-only; `(n_items, dim)` and the like give their shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
MIN_STD = 1e-9
"""A source whose scores vary less than this over the catalogue says nothing and counts as zero."""

State = Mapping[str, NDArray[Any]]
"""An updater's state: named arrays, nothing else, so that it survives bytes, versions and languages."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing the user did, as the app tells it.

    `at` is POSIX seconds UTC or an aware datetime; None means now. Events that share a `group` (a basket, a
    session) are tested together before any of them is learned from.
    """

    item: str
    kind: str = "click"
    value: float | None = None
    at: float | datetime | None = None
    group: str | None = None
    recommendation_id: str | None = None
    context: Mapping[str, Any] | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a recorded event.

    `status` is `stored`, `duplicate`, `unknown_item`, `quarantined` or `forgotten`. `rank` is the place
    (from 1) at which the served ranking had the item just before the event; None where nothing was ranked.
    `flags` names oddities that were kept: `future` (a timestamp ahead of the clock).
    """

    event_id: str
    status: str
    learned: bool
    rank: int | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One place on a page. `parts` are the blended score's terms per source; they add up to `score`."""

    item: str
    title: str
    rank: int
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Page(Sequence[Recommendation]):
    """A ranked list that reads like a list. `reason` says why it is shorter than asked, else None.

    `degraded` names what failed while the page was made (the page is served without it); `timings` are
    milliseconds per stage.
    """

    id: str
    items: tuple[Recommendation, ...]
    scenario: str
    reason: str | None = None
    degraded: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Recommendation]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | Sequence[Recommendation]:
        return self.items[index]

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class Influence:
    """How far one past event moved the score of an explained item (score with it minus without it)."""

    item: str
    kind: str
    at: float
    effect: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item stands where it stands: `parts` add up to `score`; `filtered` says why it is absent."""

    item: str
    title: str
    scenario: str
    score: float
    rank: int | None
    parts: Mapping[str, float]
    weights: Mapping[str, float]
    events: tuple[Influence, ...]
    filtered: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a candidate source may know of the request it serves."""

    scenario: str
    seen: str
    now: float
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """Read-only arrays of the running bundle.

    `vectors` float32 (n_items, dim) · `bias` float32 (n_items,) · `popularity` float32 (n_items,), the
    prior's score, larger is more popular.
    """

    vectors: Float32
    bias: Float32
    popularity: Float32

    @property
    def n_items(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])


@dataclass(frozen=True, slots=True)
class Profile:
    """What the device knows of its user at one moment; a snapshot.

    `rows` int32 (H,): catalogue rows of the known items among the events of `history_kinds`, oldest first,
    by time then arrival · `at` float64 (H,): POSIX seconds · `kinds` int64 (H,): index of the event kind
    in the manifest · `groups` int64 (H,): equal for events of one group, in no other sense ordered ·
    `consumes` bool (H,): the kind counts as using the item up · `query` float32 (dim,): the encoder's output
    for this history · `user_vector` float32 (dim,): `u`, zeros where nothing was learned · `states`: per
    plugin, its own state.
    """

    rows: Int32
    at: Float64
    kinds: Int64
    groups: Int64
    consumes: Bools
    query: Float32
    user_vector: Float32
    states: Mapping[str, State] = field(default_factory=dict)

    @property
    def n_events(self) -> int:
        return int(self.rows.shape[0])

    def age_days(self) -> Float64:
        """Age of each event, float64 (H,), in days before the newest one: a function of the history alone."""
        return (self.at[-1] - self.at) / 86400.0 if len(self.at) else self.at


@dataclass(frozen=True, slots=True)
class SourceScores:
    """Scores of one candidate source with their mean and standard deviation over the whole catalogue.

    `values` float32 (m,). `rows` None: dense, m = n_items; else int32 (m,), unique catalogue rows, and every
    other item scores 0.
    """

    values: Float32
    rows: Int32 | None
    mean: float
    std: float

    @classmethod
    def dense(cls, values: Float32) -> SourceScores:
        """Scores for every item; the statistics are computed."""
        mean = float(np.add.reduce(values)) / len(values)
        squares = values - np.float32(mean)
        squares *= squares
        # a sum, not a dot product: numpy sums in pairs, which stays exact over a million items
        return cls(values, None, mean, (float(np.add.reduce(squares)) / len(values)) ** 0.5)

    @classmethod
    def sparse(cls, rows: Int32, values: Float32, n_items: int) -> SourceScores:
        """Scores for some items, 0 for the rest; statistics over all `n_items` in closed form."""
        mean = float(np.add.reduce(values)) / n_items
        square = float(values.dot(values)) / n_items
        return cls(values, rows, mean, max(square - mean * mean, 0.0) ** 0.5)

    def standardised(self, n_items: int) -> Float32:
        """Every item's score as (score − mean) / std, float32 (n_items,); zeros where all scores are equal."""
        if self.std <= MIN_STD:
            return np.zeros(n_items, np.float32)
        if self.rows is None:
            return (self.values - np.float32(self.mean)) * np.float32(1.0 / self.std)
        out = np.full(n_items, -self.mean / self.std, np.float32)
        out[self.rows] = (self.values - np.float32(self.mean)) * np.float32(1.0 / self.std)
        return out


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Standardised scores of every source for one profile.

    `z` float32 (S, n_items), the sources in the order of `names`, taste under u = 0 · `personal` float32
    (n_items,): taste under the user's own u · `extra` float64 (S,): weights on top of the blend's while
    little is known of the user · `failed`: sources that gave nothing usable; their rows are 0.
    """

    names: tuple[str, ...]
    z: Float32
    personal: Float32
    extra: Float64
    failed: tuple[str, ...] = ()

    @property
    def taste(self) -> int:
        """The row of `z` that `personal` replaces when the user vector is served."""
        return self.names.index("taste")

    @property
    def impersonal(self) -> bool:
        """Whether there is no user vector, so that `personal` is a view of taste's own row."""
        return self.personal.base is self.z


@dataclass(frozen=True, slots=True)
class Replayed:
    """Past positive events that a step may learn from again; the same fields as the batch's own."""

    rows: Int32  # (R,)
    weight: Float32  # (R,)
    query: Float32  # (R, dim)


@dataclass(frozen=True, slots=True)
class LearningBatch:
    """All an updater may learn from in one step: the events of one group, tested but not yet learned.

    `rows` int32 (B,), -1 where the item is unknown · `weight` float32 (B,): the kind's weight; negative for
    events that speak against the item · `value` float32 (B,): the event's value (a rating, seconds …), NaN
    where it has none · `query` float32 (B, dim): the encoder's output before the group · `negatives` int32
    (B, m): catalogue rows drawn from the event id, the same in every host language · `now`: POSIX seconds
    of the newest event in the batch.
    """

    events: tuple[Event, ...]
    rows: Int32
    weight: Float32
    value: Float32
    query: Float32
    replayed: Replayed
    negatives: Int32
    now: float
    model: Model
