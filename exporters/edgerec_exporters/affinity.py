"""Item-to-item evidence beside co-consumption: what follows what, and what is called alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


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
