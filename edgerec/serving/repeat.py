"""The source `repeat`: how likely a user takes an item again that the user had, learned from everybody's pasts.

Repeat consumption follows from how often, how lately and how regularly an item was taken, from the user's ways in
general, and from how the item does with everybody at the time (Anderson et al. 2014, "The dynamics of repeat
consumption"). A small network of the bundle weighs them (`edgerec.bundle.repeat`).
"""

from __future__ import annotations

import numpy as np

from edgerec.bundle.repeat import N_USER, RepeatModel
from edgerec.types import Bools, Float32, Float64, Int32, Int64, Model, Profile, Request, SourceScores

_TIME = np.array([15.0, 40.0, 120.0, 400.0])
"""Days in which a use counts half."""
_PLACE = np.array([2.0, 6.0])
"""Groups after which a use counts half."""
_LEAST = 1e-3


def user_features(profile: Profile) -> tuple[Int32, Float32]:
    """The catalogue rows that the user consumed, int32 (m,), ascending, and a user's past with each, float32 (m, 21).

    Of item i, with K groups in all, n_i of them holding i, ages in days before the user's newest event, places counted
    in groups from the newest (0), a group's size being its distinct items:

     0 log n_i    1 n_i / K    2 log(1 + newest place)    3 newest place = 0    4 newest place = 1
     5 log(1 + newest age)    6 log(1 + oldest age)    7 … 10 log(Σ 0.5^(age/h) + 0.001), h = 15, 40, 120, 400 days
    11, 12 log(Σ 0.5^(place/h) + 0.001), h = 2, 6 groups    13 log K    14 log(mean size)    15 log(newest group's size)
    16 log(1 + age of the oldest use)    17 log(1 + that / max(K − 1, 1))    18 distinct items / Σ sizes
    19 n_i / (1 + oldest place)    20 log(size of the newest group with i)
    """
    used = profile.consumes
    rows, age, groups = profile.rows[used], profile.age_days()[used], profile.groups[used]
    if not len(rows):
        return rows, np.empty((0, N_USER), np.float32)
    order = np.lexsort((groups, rows))
    rows, age, place = rows[order], age[order], _places(groups)[order]
    once = _begins(rows) | _begins(place)
    rows, age, place = rows[once], age[once], place[once]
    starts = _begins(rows).nonzero()[0]
    return rows[starts], _columns(starts, age, place)


def _places(groups: Int64) -> Int64:
    """Each event's place among the groups, 0 the one that began last; int64 (H,)."""
    _, first, code = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[first.argsort()] = np.arange(len(first) - 1, -1, -1)
    return place[code]


def _begins(values: Int32 | Int64) -> Bools:
    """Where another value begins."""
    new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def _columns(starts: Int64, age: Float64, place: Int64) -> Float32:
    """`starts`: where each item's uses begin among all, of which `age` and `place` are known."""
    sizes = np.bincount(place).astype(np.float64)
    n_groups, span = len(sizes), float(age.max())
    count = np.diff(np.append(starts, len(age))).astype(np.float64)
    newest, oldest = np.minimum.reduceat(age, starts), np.maximum.reduceat(age, starts)
    last, first = np.minimum.reduceat(place, starts), np.maximum.reduceat(place, starts)
    faded = np.concatenate([age / -_TIME[:, None], place / -_PLACE[:, None]])
    sums = np.log(np.add.reduceat(np.exp2(faded), starts, axis=1) + _LEAST)
    out = np.empty((N_USER, len(starts)))
    out[0], out[1] = np.log(count), count / n_groups
    out[2], out[3], out[4] = np.log1p(last), last == 0, last == 1
    out[5], out[6] = np.log1p(newest), np.log1p(oldest)
    out[7:13] = sums
    out[13], out[14], out[15] = np.log(n_groups), np.log(sizes.mean()), np.log(sizes[0])
    out[16], out[17] = np.log1p(span), np.log1p(span / max(n_groups - 1, 1))
    out[18], out[19] = len(starts) / len(age), count / (1 + first)
    out[20] = np.log(sizes[last])
    return out.T.astype(np.float32)


class Repeat:
    """The network's probability that the user takes an item again; 0 for what the user never had."""

    name = "repeat"

    def __init__(self, model: RepeatModel) -> None:
        self.model = model

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        """Sparse scores of the items the user consumed."""
        rows, known = user_features(profile)
        if not len(rows):
            return SourceScores.sparse(rows, np.empty(0, np.float32), model.n_items)
        features = np.concatenate([known, self.model.items[rows]], axis=1)
        return SourceScores.sparse(rows, self.model.probability(features), model.n_items)
