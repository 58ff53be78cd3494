"""Item-to-item evidence beside co-consumption: what follows what, and what is called alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Csr = tuple[NDArray[np.int32], NDArray[np.int32], Float32]
"""indptr int32 (n_items + 1,) · ids int32 (nnz,) · weights float32 (nnz,), by source item."""


@dataclass(frozen=True, slots=True)
class Markov:
    """Constants of `successions`."""

    window: int = 10
    decay: float = 0.8
    backwards: float = 0.3
    out: float = 0.5


def title_similarity(titles: Sequence[str]) -> Float32:
    """Squared cosine of TF-IDF vectors over the titles' character 4-grams, zero diagonal; float32 (n, n).

    The square keeps what is nearly the same product and drops what shares a common word. Zeros throughout where
    no 4-gram occurs twice.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), min_df=2, dtype=np.float32)
    try:
        grams = vectorizer.fit_transform(titles)
    except ValueError:  # an empty vocabulary
        return np.zeros((len(titles), len(titles)), np.float32)
    cosine: Float32 = (grams @ grams.T).toarray()
    np.fill_diagonal(cosine, 0.0)
    return np.square(cosine, out=cosine)


def transitions(baskets: Iterable[tuple[int, NDArray[np.int32]]], n_items: int) -> Float32:
    """How often item j is first bought in the basket right after one with item i; float32 (n, n).

    `baskets`: (user, item rows) in order of time. Each occurrence counts 1/√|basket before|; rows and columns are
    shrunk by the items' basket counts, n_ij / ((√n_i + 1) (√n_j + 3)), so that rare pairs do not shine by chance.
    """
    counts = np.zeros((n_items, n_items), np.float32)
    occurrences = np.zeros(n_items)
    last: dict[int, NDArray[np.int32]] = {}
    seen: dict[int, set[int]] = {}
    for user, rows in baskets:
        occurrences[rows] += 1
        had = seen.setdefault(user, set())
        before = last.get(user)
        if before is not None:
            new = np.array([row for row in rows.tolist() if row not in had], np.int64)
            counts[np.ix_(before, new)] += len(before) ** -0.5
        had.update(rows.tolist())
        last[user] = rows
    root = np.sqrt(occurrences)
    return (counts / np.outer(root + 1, root + 3)).astype(np.float32)


def successions(user: NDArray[np.int64], item: NDArray[np.int64], n_items: int, markov: Markov) -> Csr:
    """What comes within the next few events, in one direction or both: W_ij = C_ij / (Σ_j C_ij)^out, zero diagonal.

    C_ij = Σ decay^(k − 1) over the times that j is the k-th event after i of the same user, k up to `window`, plus
    `backwards` times the transpose. `user`, `item` int64 (n_events,), each user's events in order. What is kept is
    sparse, whatever the catalogue's size.
    """
    source, target, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for step in range(1, markov.window + 1):
        pair = user[step:] == user[:-step]
        before, after = item[:-step][pair], item[step:][pair]
        for here, there, share in ((before, after, 1.0), (after, before, markov.backwards)):
            if share:
                source.append(here)
                target.append(there)
                count.append(np.full(len(here), share * markov.decay ** (step - 1)))
    rows, columns = np.concatenate(source), np.concatenate(target)
    counted = rows != columns
    cells, place = np.unique(rows[counted] * n_items + columns[counted], return_inverse=True)
    sums = np.bincount(place, np.concatenate(count)[counted], len(cells))
    rows = cells // n_items
    out_degree = np.bincount(rows, sums, n_items)
    weights = sums / out_degree[rows] ** markov.out
    indptr = np.searchsorted(rows, np.arange(n_items + 1)).astype(np.int32)
    return indptr, (cells % n_items).astype(np.int32), weights.astype(np.float32)
