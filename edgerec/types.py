"""The values that cross edgerec's borders: what goes in, what comes out, what plugins see.

All are frozen. Arrays handed to plugins are read-only; `(n_items, dim)` and the like give their shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgerec.records import field, record

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
_DOT_BLOCK = 1 << 16
MIN_STD = 1e-9
"""A source whose scores vary less than this over the catalogue says nothing and counts as zero."""

State = Mapping[str, NDArray[Any]]
"""An updater's state: named arrays, nothing else, so that it survives bytes, versions and languages."""


@record
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


@record
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


@record
class CatalogueUpdate:
    """What an update of the catalogue did, in items: `added` to the bundle's own, `changed` where known before,
    `removed`; `overlay`: how many the device now holds beside its bundle."""

    added: int
    changed: int
    removed: int
    overlay: int


@record
class Recommendation:
    """One place on a page. `parts` are the blended score's terms per source; they add up to `score`."""

    item: str
    title: str
    rank: int
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    propensity: float = 1.0


@record
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


@record
class PageRequest:
    """What was asked of `Recommender.recommend`."""

    n: int
    scenario: str
    exclude: Collection[str] = ()
    only: Collection[str] | None = None
    where: Mapping[str, Any] | str | None = None
    context: Mapping[str, Any] | None = None
    seen: str | None = None


@record
class BundleFacts:
    """What a bundle is, in few words."""

    name: str
    version: int
    digest: str
    n_items: int
    dim: int


@record
class BundleReview:
    """What is known of a bundle before the switch to it.

    `n_history`: items in the user's history · `n_missing`: those of them that the candidate lacks · `n_trials`,
    `difference`: paired steps of the shadow evaluation and their mean difference in NDCG@10, None where too few.
    """

    running: BundleFacts
    candidate: BundleFacts
    n_history: int
    n_missing: int
    n_trials: int
    difference: float | None


@record
class Influence:
    """How far one past event moved the score of an explained item (score with it minus without it)."""

    item: str
    kind: str
    at: float
    effect: float


@record
class Explanation:
    """Why an item stands where it stands: `parts` add up to `score`; `filtered` says why it is absent.

    `reranked`: the place (from 1) at which each of the scenario's rerankers left it, None where it left it out.
    """

    item: str
    title: str
    scenario: str
    score: float
    rank: int | None
    parts: Mapping[str, float]
    weights: Mapping[str, float]
    events: tuple[Influence, ...]
    filtered: str | None = None
    reranked: Mapping[str, int | None] = field(default_factory=dict)


@record
class Request:
    """What plugins may know of the request they serve.

    Sources and cold starts are asked once per history, not per page: for them `scenario`, `seen` and `context` are
    empty, and `now` is the time of the newest event. Rerankers see the page's own.
    """

    scenario: str
    seen: str
    now: float
    context: Mapping[str, Any] = field(default_factory=dict)


@record
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


@record
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


@record
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
        n = len(values)
        mean = float(np.add.reduce(values)) / n
        variance = _sum_of_squares(values) / n - mean * mean
        if not variance > mean * mean:  # the difference of two large numbers has lost its digits
            variance = _sum_of_squares(values - np.float32(mean)) / n
        return cls(values, None, mean, variance**0.5)

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


def _sum_of_squares(values: Float32) -> float:
    """Σ v², summed in blocks, because a dot product in float32 loses digits over a million items."""
    if len(values) <= _DOT_BLOCK:
        return float(values.dot(values))
    blocks = (values[start : start + _DOT_BLOCK] for start in range(0, len(values), _DOT_BLOCK))
    return sum(float(block.dot(block)) for block in blocks)


@record
class Slate:
    """The candidates that a reranker chooses from, best first; read-only.

    `rows` int32 (m,): catalogue rows, each once · `scores` float64 (m,): their blended scores, before any reranker, in
    units of a source's standard deviation over the catalogue · `n`: how many places the page has · `seed`: what chance
    is drawn from, the same for the same state, seed and page, and another one for every page.
    """

    rows: Int32
    scores: Float64
    n: int
    seed: int


@record
class Reranking:
    """What a reranker chose. `rows` int32 (k,): candidates of the slate, best first, each once · `propensity` float64
    (k,): the probability with which chance put each item where it stands, given those before it; None where nothing
    was left to chance.
    """

    rows: Int32
    propensity: Float64 | None = None


@record
class Replayed:
    """Past positive events that a step may learn from again; the same fields as the batch's own."""

    rows: Int32  # (R,)
    weight: Float32  # (R,)
    query: Float32  # (R, dim)


def _no_rows() -> Int32:
    return np.empty(0, np.int32)


@record
class LearningBatch:
    """All an updater may learn from in one step: the events of one group, tested but not yet learned.

    `rows` int32 (B,), -1 where the item is unknown · `weight` float32 (B,): the kind's weight; negative for
    events that speak against the item · `value` float32 (B,): the event's value (a rating, seconds …), NaN
    where it has none · `query` float32 (B, dim): the encoder's output before the group · `negatives` int32
    (B, m): catalogue rows drawn from the event id, the same in every host language · `now`: POSIX seconds
    of the newest event in the batch · `rivals` int32 (K,), ascending: what the ranking put among its first instead of
    the batch's items; none where the bundle asks for none, or nothing was ranked.
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
    rivals: Int32 = field(default_factory=_no_rows)
