"""Chooses how much popularity counts while little is known of a user, on users that the trial model never saw.

A model that is judged by the last events of its own users finds popularity useless: their pasts are long, and it knows
them. What a new user needs is asked of users who were held out altogether: after their first k events, k = EVENTS, the
rest of what they had is to be ranked on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec_exporters.blend_fit import ndcg, standardise
from edgerec_exporters.examples import Baskets

if TYPE_CHECKING:
    from edgerec_exporters.recipe import Recipe
    from edgerec_exporters.validation import Judge, Parts

Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]

EVENTS = (1, 2, 3, 5, 8, 10, 15, 20)
TOP = 100
BOOSTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
HALF_EVENTS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0)


def held_out_users(baskets: Baskets, share: float, seed: int) -> Rows:
    """Rows of a random share of the users with more baskets than the shortest past asked for; at least one."""
    users, counts = np.unique(baskets.user, return_counts=True)
    long = users[counts > EVENTS[0] + 1]
    count = min(max(round(share * len(users)), 1), max(len(long) - 1, 0))
    return np.sort(np.random.default_rng(seed).permutation(long)[:count])


def fit_boost(
    judge: Judge, parts: Parts, recipe: Recipe, weights: Mapping[str, float], users: Rows
) -> tuple[dict[str, float], dict[str, Any]]:
    """`boost` and `half_events` of popularity (`edgerec.serving.blend.cold_start_boost`), and what was measured.

    `weights`: the blend's of the default scenario, which stay. The pair is the best by the mean over k of NDCG@100.
    """
    found = np.stack([_values(judge, parts, recipe, weights, users, k) for k in EVENTS])  # (K, boosts, half-lives)
    means = np.nanmean(found, axis=0)
    place = np.unravel_index(int(means.argmax()), means.shape)
    boost, half = BOOSTS[place[0]], HALF_EVENTS[place[1]]
    at = {str(k): round(float(value), 4) for k, value in zip(EVENTS, found[:, place[0], place[1]], strict=True)}
    without = {str(k): round(float(value), 4) for k, value in zip(EVENTS, found[:, 0, 0], strict=True)}
    told = {"users": len(users), "ndcg@100": at, "without": without}
    return {"boost": boost, "half_events": half}, told


def _values(
    judge: Judge, parts: Parts, recipe: Recipe, weights: Mapping[str, float], users: Rows, k: int
) -> NDArray[np.float64]:
    """Mean NDCG@100 after k baskets for every pair of constants, float64 (boosts, half-lives)."""
    baskets = judge.baskets
    chosen = _after(baskets, users, k)
    out = np.full((len(BOOSTS), len(HALF_EVENTS)), np.nan)
    if not len(chosen):
        return out
    seen = baskets.seen_mask(chosen)
    targets = _rest(baskets, chosen) & ~seen
    z = {name: standardise(scores) for name, scores in judge.scores(parts, recipe, chosen).items()}
    base = np.sum([weight * z[name] for name, weight in weights.items()], axis=0)
    n_events = baskets.start[chosen] - baskets.first[chosen]
    for n, boost in enumerate(BOOSTS):
        for m, half in enumerate(HALF_EVENTS):
            extra = (boost * np.exp2(-n_events / half))[:, None].astype(np.float32)
            out[n, m] = np.nanmean(ndcg(base + extra * z["popular"], targets, seen, top=TOP))
            if not boost:
                out[n] = out[n, 0]
                break
    return out


def _after(baskets: Baskets, users: Rows, k: int) -> Rows:
    """Per user with more than k baskets, the number of the one after the first k."""
    first = np.searchsorted(baskets.user, users)
    count = np.searchsorted(baskets.user, users, side="right") - first
    return first[count > k] + k


def _rest(baskets: Baskets, chosen: Rows) -> Bools:
    """The items of each basket and of its user's later ones, bool (n, n_items)."""
    mask = np.zeros((len(chosen), baskets.n_items), np.bool_)
    last = np.searchsorted(baskets.user, baskets.user[chosen], side="right") - 1
    for line, begin, end in zip(mask, baskets.start[chosen], baskets.stop[last], strict=True):
        line[baskets.item[begin:end]] = True
    return mask
