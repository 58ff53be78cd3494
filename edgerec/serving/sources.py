"""The four candidate sources of the runtime: taste, neighbours, popular, habit.

Each is a function of the user's history alone (ages count back from its newest event), so that scores stay
valid until the history changes, and with purely exponential decay they do not depend on the time of the request.
"""

from __future__ import annotations

import numpy as np

from edgerec.interfaces import Settings
from edgerec.types import Float32, Float64, Int32, Model, Profile, Request, SourceScores

BLOCK = 4096


def decay(age_days: Float64, half_life_days: float) -> Float64:
    """0.5 ** (age / half-life), elementwise."""
    return np.exp2(age_days * (-1.0 / half_life_days))


def newest_per_item(rows: Int32, age_days: Float64) -> tuple[Int32, Float64]:
    """Each distinct row once, ascending, with the age of its newest event. Events come oldest first."""
    distinct, first_from_the_end = np.unique(rows[::-1], return_index=True)
    return distinct, age_days[::-1][first_from_the_end]


class Taste:
    """`(encoder(history) + u) · V + b`; silent until there is a history or a user vector."""

    name = "taste"

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Dense scores of the personal query."""
        return self.score_queries(model, profile.query + profile.user_vector)[0]

    def score_both(self, profile: Profile, model: Model) -> tuple[SourceScores, SourceScores]:
        """Dense scores under u = 0, and under the user's own u."""
        base, own = self.score_queries(model, profile.query, profile.query + profile.user_vector)
        return base, own

    def score_queries(self, model: Model, *queries: Float32) -> list[SourceScores]:
        """Dense scores of any queries, float32 (dim,)."""
        scores = np.empty((len(queries), model.n_items), np.float32)
        for start in range(0, model.n_items, BLOCK):
            # a block of vectors that serves one query is still in the processor's cache for the next
            vectors, bias = model.vectors[start : start + BLOCK], model.bias[start : start + BLOCK]
            for query, line in zip(queries, scores[:, start : start + BLOCK], strict=True):
                np.add(vectors.dot(query), bias, out=line)
        return [
            SourceScores.dense(line) if query.any() else SourceScores(np.zeros_like(line), None, 0.0, 0.0)
            for query, line in zip(queries, scores, strict=True)
        ]


class Neighbours:
    """The sum, over the user's distinct items, of the bundle's item-to-item weights times a recency weight.

    Recency is `(1 − short_share) · 0.5^(age/half_life_days) + short_share · 0.5^(age/short_half_life_days)` of
    the item's newest event. The weights are CSR by source item: row i's targets are
    `ids[indptr[i]:indptr[i+1]]`.
    """

    name = "neighbours"

    def __init__(self, indptr: Int32, ids: Int32, weights: Float32, settings: Settings) -> None:
        self.indptr, self.ids, self.weights = indptr, ids, weights
        self.half_life = float(settings.get("half_life_days", 180.0))
        self.short_half_life = float(settings.get("short_half_life_days", 1.0))
        self.short_share = float(settings.get("short_share", 0.0))

    def recency(self, age_days: Float64) -> Float64:
        """The weight of an item whose newest event has that age."""
        weight = decay(age_days, self.half_life)
        if self.short_share:
            weight = (1 - self.short_share) * weight + self.short_share * decay(age_days, self.short_half_life)
        return weight

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Dense scores over the catalogue; most are 0."""
        return SourceScores.dense(self.sum_rows(*newest_per_item(profile.rows, profile.age_days()), model.n_items))

    def sum_rows(self, rows: Int32, age_days: Float64, n_items: int) -> Float32:
        """Σ recency · W[row], float32 (n_items,)."""
        starts = self.indptr.take(rows)
        lengths = self.indptr.take(rows + 1) - starts
        ends = lengths.cumsum()
        if not len(rows) or not ends[-1]:
            return np.zeros(n_items, np.float32)
        # positions of all the rows' entries, one after the other, without a Python loop
        entries = (starts - ends + lengths).repeat(lengths)
        entries += np.arange(len(entries), dtype=entries.dtype)
        scaled = self.recency(age_days).astype(np.float32).repeat(lengths)
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
        rows, age, groups = rows[order], age[order], groups[order]
        new_item = np.ones(len(rows), np.bool_)
        np.not_equal(rows[1:], rows[:-1], out=new_item[1:])
        counts = new_item.copy()
        counts[1:] |= groups[1:] != groups[:-1]
        starts = new_item.nonzero()[0]
        sums = np.add.reduceat(decay(age, self.half_life) * counts, starts).astype(np.float32)
        return SourceScores.sparse(rows[starts], sums, model.n_items)
