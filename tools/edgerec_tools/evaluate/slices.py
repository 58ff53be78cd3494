"""Parts of the targets that are looked at on their own: little-known users, rare and new items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.datasets import Dataset
from edgerec_tools.evaluate.ranking import Questions

Bools = NDArray[np.bool_]

HISTORY = ((1, 5), (6, 20), (21, 100), (101, None))
"""Events before the target, bounds inclusive; the first are the cold users."""
HEAD_SHARE = 0.5
"""The fewest most popular items that hold this share of the training events are the head."""


def slices(questions: Questions, train: Dataset) -> Mapping[str, Bools]:
    """Name → which targets, bool (n_targets,); slices that no target falls into are absent."""
    lengths = questions.lengths
    found: dict[str, Bools] = {}
    for low, high in HISTORY:
        name = f"users with {low}-{high} events" if high else f"users with {low} or more events"
        found[name] = (lengths >= low) & (lengths <= (high or np.inf))
    counts = np.bincount(train.item, minlength=train.n_items)
    head, new = head_items(counts)[questions.item], (counts == 0)[questions.item]
    found |= {"head items": head, "tail items": ~head & ~new, "new items": new}
    return {name: mask for name, mask in found.items() if mask.any()}


def head_items(counts: NDArray[np.int64]) -> Bools:
    """The most popular items that together hold HEAD_SHARE of the events, bool (n_items,); ties by row."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    head = np.zeros(len(counts), np.bool_)
    head[order] = (before < HEAD_SHARE * counts.sum()) & (counts[order] > 0)
    return head
