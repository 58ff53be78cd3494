"""Metrics of one target per list, from its rank in the full ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_tools import metrics

Float64 = NDArray[np.float64]
Ranks = NDArray[np.int64]

METRICS = ("hr@10", "ndcg@10", "recall@10", "mrr", "mrr@10", "hr@5", "ndcg@5", "hr@20", "ndcg@20")
_BY_NAME: Mapping[str, Callable[[NDArray[np.bool_]], Any]] = {
    "hr": metrics.hit_rate,
    "ndcg": lambda hit: metrics.ndcg(hit, 1),
    "recall": lambda hit: metrics.recall(hit, 1),
    "mrr": metrics.reciprocal_rank,
}


def measure(ranks: Ranks) -> Float64:
    """Every metric of every target, float64 (n_targets, len(METRICS)); 0 throughout where the rank is 0."""
    return np.stack([_column(name, ranks) for name in METRICS], axis=1)


def column(values: Float64, metric: str) -> Float64:
    """One metric of what `measure` gave, (n_targets,)."""
    return values[:, METRICS.index(metric)]


def _column(name: str, ranks: Ranks) -> Float64:
    metric, _, k = name.partition("@")
    if not k:  # mrr over the whole catalogue
        return np.divide(1.0, ranks, out=np.zeros(len(ranks)), where=ranks > 0)
    hit = ranks[:, None] == np.arange(1, int(k) + 1)
    values: Float64 = np.asarray(_BY_NAME[metric](hit), np.float64)
    return values
