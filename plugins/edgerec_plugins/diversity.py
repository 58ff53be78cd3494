"""Reranker `diversity`: pages that do not say the same thing ten times.

The first `pool` candidates of the slate are considered. r_i is a candidate's relevance, σ(s_i - s_n): the chance that
it is preferred to the candidate in the page's last place, where scores are log odds (Bradley & Terry 1952), as those of
a blend learned by softmax are. sim(i, j) is the cosine of the items' vectors, 0 where one has no length, and λ is
`strength`. The page is filled with the candidate that adds most to those already on it, S, again and again:

    mmr           (1 - λ) r_i - λ max_{j in S} sim(i, j)         Carbonell & Goldstein (1998)
    dpp           (1 - λ) r_i + λ log(det L_{S+i} / det L_S)     greedy MAP of a determinantal point process (Chen et
                                                                 al. 2018, eq. 15) with L_ij = (1 + sim(i, j)) / 2
    calibration   (1 - λ) r_i - λ KL(p ‖ q̃_{S+i})                Steck (2018), eq. 6

Then it is shown in the slate's order, for a page is as diverse in any order. Ties go to the better candidate, and λ = 0
leaves everything as it is. In a DPP a ratio below 1e-6 counts as 1e-6, so that among what the page holds already
relevance decides. Calibration shows the user's interests in the proportions of the user's past: the items of the last
`history` events are split into at most `interests` groups of like direction (spherical k-means: Dhillon & Modha 2001,
started from items that lie far apart), p is each group's share of the events, q its share of the page, where an item
belongs to the nearest centre, and q̃ = .99 q + .01 p. A user without a history gets the page as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import RerankerFactory, Settings
from edgerec.types import Float32, Float64, Int32, Int64, Model, Profile, Request, Reranking, Slate
from edgerec_plugins.settings import SettingsReader

METHODS = ("calibration", "dpp", "mmr")
ROUNDS = 10
SINGULAR = 1e-6
SMOOTHING = 0.01


class Diversity:
    """Gives every candidate back: those chosen for the page, then the others in their order."""

    name = "diversity"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("diversity", settings)
        self.method = take.choice("method", "mmr", METHODS)
        self.strength = take.number("strength", 0.2, 0, 1)
        self.pool = take.whole("pool", 100, 1, 10_000)
        self.history = take.whole("history", 200, 1, 10_000)
        self.interests = take.whole("interests", 8, 1, 100)
        take.done()

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        m = min(len(slate.rows), max(self.pool, slate.n))
        if not self.strength or m < 2:
            return Reranking(slate.rows)
        chosen = self._chosen(slate, m, self._page(slate.rows[:m], profile, model))
        left = np.ones(len(slate.rows), np.bool_)
        left[chosen] = False
        return Reranking(np.concatenate((slate.rows[chosen], slate.rows[left])))

    def _page(self, rows: Int32, profile: Profile, model: Model) -> Page:
        directions = unit(model.vectors[rows])
        if self.method == "mmr":
            return Mmr(directions)
        if self.method == "dpp":
            return Dpp(directions)
        return Calibrated(directions, unit(model.vectors[profile.rows[-self.history :]]), self.interests)

    def _chosen(self, slate: Slate, m: int, page: Page) -> Int64:
        """Places in the slate, int64 (min(n, m),), ascending."""
        chosen = np.empty(min(slate.n, m), np.int64)
        relevant = (1 - self.strength) * relevance(slate.scores[:m], len(chosen))
        for place in range(len(chosen)):
            chosen[place] = best = (relevant + self.strength * page.gains()).argmax()
            relevant[best] = -np.inf
            page.add(int(best))
        return np.sort(chosen)


class Page(Protocol):
    """A page that is being filled, as one method sees it."""

    def gains(self) -> Float64:
        """What each candidate would add, float64 (m,), finite; whatever for those on the page."""
        ...

    def add(self, candidate: int) -> None:
        """Puts a candidate on the page."""
        ...


class Mmr:
    """Minus the largest similarity to anything on the page; 0 while it is empty."""

    def __init__(self, directions: Float32) -> None:
        self._directions = directions
        self._nearest: Float64 | None = None

    def gains(self) -> Float64:
        return np.zeros(len(self._directions)) if self._nearest is None else -self._nearest

    def add(self, candidate: int) -> None:
        similar = self._directions.dot(self._directions[candidate]).astype(np.float64)
        self._nearest = similar if self._nearest is None else np.maximum(self._nearest, similar)


class Dpp:
    """log d_i², the Cholesky factor's next diagonal entry squared: Chen et al. (2018), algorithm 1."""

    def __init__(self, directions: Float32) -> None:
        self._directions = directions.astype(np.float64)
        self._left = np.ones(len(directions))  # d²
        self._factor: list[Float64] = []  # the c of all candidates, one array (m,) per item on the page

    def gains(self) -> Float64:
        return np.log(np.maximum(self._left, SINGULAR))

    def add(self, candidate: int) -> None:
        row = (1 + self._directions.dot(self._directions[candidate])) / 2
        for known in self._factor:
            row -= known * known[candidate]
        row /= np.sqrt(max(self._left[candidate], SINGULAR))
        self._factor.append(row)
        self._left = self._left - row * row


class Calibrated:
    """Minus the divergence of the page's interests from the history's, KL(p ‖ q̃)."""

    def __init__(self, directions: Float32, past: Float32, interests: int) -> None:
        """`past` float32 (H, dim): directions of the history's items; those of no length are left out."""
        past = past[past.any(axis=1)]
        self._size = 0
        self._group: Int64 = np.zeros(len(directions), np.int64)
        self._wanted = np.ones(1)
        if len(past):
            centres = centres_of(past, interests)
            counts = np.bincount(past.dot(centres.T).argmax(axis=1), minlength=len(centres))
            self._group = directions.dot(centres[counts > 0].T).argmax(axis=1)
            self._wanted = counts[counts > 0] / len(past)
        self._shown = np.zeros(len(self._wanted))

    def gains(self) -> Float64:
        share = (self._shown + np.eye(len(self._shown))) / (self._size + 1)  # a row per group of the item that comes
        smooth = (1 - SMOOTHING) * share + SMOOTHING * self._wanted
        gains: Float64 = (self._wanted * np.log(smooth / self._wanted)).sum(axis=1)
        return gains[self._group]

    def add(self, candidate: int) -> None:
        self._shown[self._group[candidate]] += 1
        self._size += 1


def relevance(scores: Float64, n: int) -> Float64:
    """σ(s_i - s_n), from the scores of the candidates, of which the page would show the first n as it is."""
    relevant: Float64 = 0.5 + 0.5 * np.tanh(0.5 * (scores - scores[n - 1]))
    return relevant


def unit(vectors: Float32) -> Float32:
    """Rows of length 1; a row of no length stays."""
    length: Float32 = np.sqrt(np.einsum("md,md->m", vectors, vectors))
    length[length == 0] = 1
    directions: Float32 = vectors / length[:, None]
    return directions


def centres_of(past: Float32, k: int) -> Float32:
    """At most k unit vectors, float32 (k, dim): spherical k-means of unit vectors `past` (H, dim), without chance.

    It starts from the newest and, again and again, what is least like all centres so far (Gonzalez 1985).
    """
    chosen = [len(past) - 1]
    nearest = past.dot(past[-1])
    while len(chosen) < k and nearest.min() < 1 - SINGULAR:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, past.dot(past[chosen[-1]]))
    centres = past[chosen]
    for _ in range(ROUNDS):
        members = past.dot(centres.T).argmax(axis=1)[:, None] == np.arange(len(centres))
        sums = members.T.astype(np.float32).dot(past)
        centres = np.where(sums.any(axis=1)[:, None], unit(sums), centres)
    return centres


@hookimpl
def edgerec_rerankers() -> Mapping[str, RerankerFactory]:
    return {Diversity.name: Diversity}
