"""Rerankers at work: one after the other in the scenario's order, each checked; one that fails is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgerec.interfaces import FAILURES, Reranker, Watch
from edgerec.records import changed, locked, record
from edgerec.types import Float64, Int32, Int64, Model, Profile, Request, Reranking, Slate

POOL = 100
"""A slate holds at least as many candidates, or three times the page."""


def slate_size(n: int) -> int:
    """How many candidates the rerankers of a page of n are shown."""
    return max(POOL, 3 * n)


@record
class Reranked:
    """`rows` int32 (k,), best first · `propensity` float64 (k,), 1 where nothing was left to chance · `orders`: per
    reranker that worked, the rows as it left them · `failed`: those that did not, "reranker NAME".
    """

    rows: Int32
    propensity: Float64
    orders: Mapping[str, Int32]
    failed: tuple[str, ...]


def reranked(
    rerankers: Sequence[Reranker],
    slate: Slate,
    request: Request,
    profile: Profile,
    model: Model,
    watch: Watch,
    *,
    least: int,
) -> Reranked:
    """The slate after every reranker. Each sees what the one before it left; the last to leave something to chance
    gives the propensities, so a scenario wants no more than one such. `least`: how many each must leave, if there are
    so many; the slate may have more places than that."""
    propensity = np.ones(len(slate.rows))
    orders: dict[str, Int32] = {}
    failed: list[str] = []
    for each in rerankers:
        label = f"reranker {each.name}"
        try:
            if not watch.usable(label):
                failed.append(label)
                continue
            result = _checked(each.rerank(slate, request, profile, model), slate, least)
        except FAILURES as error:  # a reranker must never stop serving
            watch.failed(label, error)
            failed.append(label)
            continue
        places = _places(slate.rows, result.rows)
        propensity = propensity.take(places) if result.propensity is None else result.propensity
        rows, scores = slate.rows.take(places), slate.scores.take(places)
        orders[each.name] = rows
        slate = changed(slate, rows=locked(rows), scores=locked(scores))
    return Reranked(slate.rows, propensity, orders, tuple(failed))


def slate_of(rows: Int64, scores: Float64, n: int, seed: int) -> Slate:
    """A slate that nobody can change."""
    return Slate(locked(rows.astype(np.int32)), locked(scores), n, seed)


def _places(rows: Int32, chosen: Int32) -> Int32:
    """Where each chosen row stood, int32 (k,); −1 for one that is not of the slate."""
    order = rows.argsort()
    places = order.take(np.searchsorted(rows, chosen, sorter=order), mode="clip")
    return np.where(rows.take(places) == chosen, places, -1).astype(np.int32)


def _checked(result: Reranking, slate: Slate, least: int) -> Reranking:
    """The result. Raises TypeError or ValueError where it is no choice from the slate."""
    if not isinstance(result, Reranking):
        raise TypeError(f"rerank must return a Reranking, not {type(result).__name__}")
    rows = np.asarray(result.rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be whole numbers in one dimension, not {rows.dtype} {rows.shape}")
    if len(rows) < min(least, len(slate.rows)):
        raise ValueError(f"{len(rows)} rows for a page of {least}")
    if len(np.unique(rows)) != len(rows) or (len(rows) and _places(slate.rows, rows).min() < 0):
        raise ValueError("rows must be rows of the slate, each once")
    propensity = result.propensity
    if propensity is not None:
        propensity = np.asarray(propensity, np.float64)
        if propensity.shape != rows.shape or not ((propensity > 0) & (propensity <= 1)).all():
            raise ValueError("propensities must lie in (0, 1], one per row")
    return Reranking(rows.astype(np.int32), propensity)
