"""Four of the candidate sources of the runtime: taste, neighbours, popular, habit (`serving.repeat` has the fifth).

Each is a function of the user's history alone (ages count back from its newest event), so that scores stay
valid until the history changes, and with purely exponential decay they do not depend on the time of the request.
"""

from __future__ import annotations

import numpy as np

from edgerec.interfaces import Settings
from edgerec.types import Float32, Float64, Int32, Model, Profile, Request, SourceScores


def decay(age_days: Float64, half_life_days: float) -> Float64:
    """0.5 ** (age / half-life), elementwise."""
    return np.exp2(age_days * (-1.0 / half_life_days))


def newest_per_item(rows: Int32, age_days: Float64) -> tuple[Int32, Float64]:
    """Each distinct row once, ascending, with the age of its newest event. Events come oldest first."""
    order = rows.argsort(kind="stable")
    grouped = rows.take(order)
    newest = np.ones(len(rows), np.bool_)
    np.not_equal(grouped[1:], grouped[:-1], out=newest[:-1])
    return grouped[newest], age_days.take(order[newest])


class Taste:
    """`(encoder(history) + u) · V + b`; silent until there is a history or a user vector."""

    name = "taste"

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Dense scores of the personal query."""
        return self.score_query(model, profile.query + profile.user_vector, np.empty(model.n_items, np.float32))

    def score_query(self, model: Model, query: Float32, out: Float32) -> SourceScores:
        """Dense scores of any query, float32 (dim,), written into `out`, float32 (n_items,)."""
        if not query.dot(query):
            out[:] = 0
            return SourceScores(out, None, 0.0, 0.0)
        np.dot(model.vectors, query, out=out)
        out += model.bias
        return SourceScores.dense(out)


class Neighbours:
    """The sum, over the user's distinct items, of the bundle's item-to-item weights times a recency weight.

    Recency is `(1 − short_share) · 0.5^(age/half_life_days) + short_share · 0.5^(age/short_half_life_days)` of
    the item's newest event. Where order matters more than days, it is multiplied by `0.5^(place/half_life_events)`,
    place 0 being the user's newest distinct item, and only the `last` newest distinct items count; without these
    constants all do, whatever their place. The weights are CSR by source item: row i's targets are
    `ids[indptr[i]:indptr[i+1]]`.
    """

    name = "neighbours"

    def __init__(self, indptr: Int32, ids: Int32, weights: Float32, settings: Settings) -> None:
        self.indptr, self.ids, self.weights = indptr, ids, weights
        self.half_life = float(settings.get("half_life_days", 180.0))
        self.short_half_life = float(settings.get("short_half_life_days", 1.0))
        self.short_share = float(settings.get("short_share", 0.0))
        self.half_life_events = float(settings.get("half_life_events", np.inf))
        self.last = int(settings.get("last", 0))

    def recency(self, age_days: Float64) -> Float64:
        """The weight of an item whose newest event has that age."""
        weight = decay(age_days, self.half_life)
        if self.short_share:
            weight = (1 - self.short_share) * weight + self.short_share * decay(age_days, self.short_half_life)
        return weight

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Dense scores over the catalogue; most are 0."""
        rows, age = profile.rows, profile.age_days()
        if not self.last and self.half_life_events == np.inf:
            return SourceScores.dense(self.sum_rows(*newest_per_item(rows, age), model.n_items))
        rows, event = newest_per_item(rows, np.arange(len(rows), dtype=np.float64))
        newest_first = (-event).argsort()[: self.last or None]
        age = age.take(event.take(newest_first).astype(np.intp))
        faded = decay(np.arange(len(newest_first), dtype=np.float64), self.half_life_events)
        return SourceScores.dense(self.sum_rows(rows.take(newest_first), age, model.n_items, faded))

    def sum_rows(self, rows: Int32, age_days: Float64, n_items: int, faded: Float64 | None = None) -> Float32:
        """Σ recency · W[row], float32 (n_items,); `faded`: what remains of each row's recency by its place."""
        starts = self.indptr.take(rows)
        lengths = self.indptr.take(rows + 1) - starts
        ends = lengths.cumsum()
        if not len(rows) or not ends[-1]:
            return np.zeros(n_items, np.float32)
        # positions of all the rows' entries, one after the other, without a Python loop
        entries = (starts - ends + lengths).repeat(lengths)
        entries += np.arange(len(entries), dtype=entries.dtype)
        weight = self.recency(age_days) if faded is None else self.recency(age_days) * faded
        scaled = weight.astype(np.float32).repeat(lengths)
        scaled *= self.weights.take(entries)
        return np.bincount(self.ids.take(entries), scaled, minlength=n_items).astype(np.float32)


class Popular:
    """The bundle's popularity prior."""

    name = "popular"

    def __init__(self, model: Model) -> None:
        self.scores = SourceScores.dense(model.popularity)

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """The same for every user; how much it counts is the blend's affair."""
        return self.scores


class Habit:
    """The user's own decayed repeat counts: Σ 0.5^(age/half_life_days), an item counting once per group."""

    name = "habit"

    def __init__(self, settings: Settings) -> None:
        self.half_life = float(settings.get("half_life_days", 120.0))

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Sparse scores of the items the user consumed."""
        rows, age, groups = profile.rows, profile.age_days(), profile.groups
        if not profile.consumes.all():
            used = profile.consumes
            rows, age, groups = rows[used], age[used], groups[used]
        if not len(rows):
            return SourceScores.sparse(rows, np.empty(0, np.float32), model.n_items)
        order = np.lexsort((groups, rows))
        rows, groups, weights = rows.take(order), groups.take(order), decay(age, self.half_life).take(order)
        new_item = rows[1:] != rows[:-1]
        weights[1:] *= new_item | (groups[1:] != groups[:-1])
        starts = np.zeros(1 + np.count_nonzero(new_item), np.intp)
        np.add(new_item.nonzero()[0], 1, out=starts[1:])
        sums = np.add.reduceat(weights, starts).astype(np.float32)
        return SourceScores.sparse(rows.take(starts), sums, model.n_items)
