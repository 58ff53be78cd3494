"""A whole `recommend(10)`: sources, blend, rules and the page, when nothing changed and when an event came in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgerec
from edgerec_tools.bench import shops
from edgerec_tools.bench.measure import Action, Row, Timing, in_turns
from edgerec_tools.bench.topk import DIM, numpy_search
from edgerec_tools.synthetic import random_vectors

MOST_MS = 5.0
MOST_ADDED_MS = 2.0
LARGEST = 100_000
"""The catalogue for which the time is promised."""


def rows(bundles: dict[int, Path], rounds: int) -> Iterator[Row]:
    """Median and 99th percentile, cached and fresh; the peer is numpy's bare top-10 of as many vectors."""
    for n_items, bundle in bundles.items():
        with (
            tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder,
            shops.opened(bundle, Path(folder), n_items) as rec,
        ):
            for state, taken in _timings(rec, n_items, rounds).items():
                yield from _rows(f"recommend(10) of {n_items:,}, {state}", taken, n_items)
            yield from _filtered(rec, n_items, rounds)


def _timings(rec: edgerec.Recommender, n_items: int, rounds: int) -> dict[str, dict[str, Timing]]:
    queries = np.random.default_rng(1).standard_normal((32, DIM)).astype(np.float32)
    peer = numpy_search(random_vectors(n_items, DIM), queries)
    items = np.random.default_rng(2).integers(0, n_items, rounds + 8).tolist()
    actions = {"recommend": lambda _: rec.recommend(10), "numpy": lambda turn: peer(turn % len(queries))}
    return {
        "nothing new": in_turns(rounds, actions),
        # clicks hide nothing: as many items may be served after them
        "after an event": in_turns(rounds, actions, before=lambda turn: rec.record(f"i{items[turn]}", "click")),
    }


def _filtered(rec: edgerec.Recommender, n_items: int, rounds: int) -> Iterator[Row]:
    """What conditions on attributes add to a page, against the same page without them."""
    conditions: dict[str, Any] = {"a pair": {"price_max": 50}, "an expression": "price <= 50 and not price == 7"}
    actions: dict[str, Action] = {"all": lambda _: rec.recommend(10)}
    for name, where in conditions.items():
        actions[name] = lambda _, where=where: rec.recommend(10, where=where)  # type: ignore[misc]
    taken = in_turns(rounds, actions)
    for name in conditions:
        added = (taken[name].p50_us() - taken["all"].p50_us()) / 1e3
        target = MOST_ADDED_MS if n_items == LARGEST else None
        yield Row(f"what {name} of where adds to a page of {n_items:,}", added, "ms", target=target, target_of="ours")


def _rows(name: str, taken: dict[str, Timing], n_items: int) -> Iterator[Row]:
    ours, peer = taken["recommend"], taken["numpy"]
    yield Row(f"{name}, p50", ours.p50_us() / 1e3, "ms", "numpy top-10", peer.p50_us() / 1e3)
    yield Row(
        f"{name}, p99",
        ours.p99_us() / 1e3,
        "ms",
        "numpy top-10",
        peer.p99_us() / 1e3,
        target=MOST_MS if n_items == LARGEST else None,
        target_of="ours",
    )
