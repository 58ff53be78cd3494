"""The exact top-10 of one query among N vectors: edgerec's two roads against numpy and faiss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle import Retriever
from edgerec.topk import top_k
from edgerec_tools.bench.measure import Row, in_turns
from edgerec_tools.synthetic import int8_scan, random_vectors

K = 10
DIM = 64
LARGE = 20_000
"""Above so many items an export ships the int8 scan, and edgerec's figure is that road's."""

Queries = NDArray[np.float32]
Search = Callable[[int], NDArray[np.int64]]
"""Rows of the best K items for the query of that number, in any order."""


def rows(sizes: Iterable[int], rounds: int, n_queries: int = 32) -> Iterator[Row]:
    """One row per size, road of ours and peer."""
    for n_items in sizes:
        vectors = random_vectors(n_items, DIM)
        queries = np.random.default_rng(1).standard_normal((n_queries, DIM)).astype(np.float32)
        with tempfile.TemporaryDirectory(prefix="edgerec-bench-") as folder:
            ours = {
                "float32": exact(vectors, queries),
                "int8 + float32": scanned(vectors, queries, Path(folder)),
            }
            peers = {"numpy": numpy_search(vectors, queries), **faiss_searches(vectors, queries)}
            yield from _compared(n_items, rounds, queries, ours, peers)


def _compared(
    n_items: int, rounds: int, queries: Queries, ours: dict[str, Search], peers: dict[str, Search]
) -> Iterator[Row]:
    searches = {**ours, **peers}
    n_queries = len(queries)
    taken = in_turns(rounds, {name: _of_turn(search, n_queries) for name, search in searches.items()})
    times = {name: timing.p50_us() for name, timing in taken.items()}
    truth = [set(peers["numpy"](query).tolist()) for query in range(n_queries)]
    for road, search in ours.items():
        found = [len(truth[query].intersection(search(query).tolist())) for query in range(n_queries)]
        chosen = (road == "float32") == (n_items <= LARGE)
        for peer in peers:
            yield Row(
                f"top-{K} of {n_items:,} × {DIM}, {road}",
                times[road],
                "µs",
                peer,
                times[peer],
                target=1.0 if chosen else None,
                note=f"recall@{K} {sum(found) / (K * n_queries):.4f}",
            )
        if len(peers) == 1:
            yield Row(
                f"top-{K} of {n_items:,} × {DIM}, {road}", times[road], "µs", "faiss", note="faiss-cpu is not installed"
            )


def _of_turn(search: Search, n_queries: int) -> Search:
    """The queries over and over."""
    return lambda turn: search(turn % n_queries)


def exact(vectors: NDArray[np.float32], queries: Queries) -> Search:
    """What `recommend` does for one dense source: the product, then block maxima."""

    def search(query: int) -> NDArray[np.int64]:
        return top_k(vectors.dot(queries[query]), K)

    return search


def scanned(vectors: NDArray[np.float32], queries: Queries, folder: Path) -> Search:
    """The int8 scan of an exported bundle, its few hundred candidates scored again in float32."""
    nothing = np.zeros(len(vectors), np.float32)
    path = folder / "retrieve.onnx"
    path.write_bytes(int8_scan(vectors, nothing, nothing))
    retriever = Retriever(path, len(vectors))
    augmented = np.concatenate((queries, np.ones((len(queries), 1)), np.zeros((len(queries), 1))), axis=1)
    augmented = augmented.astype(np.float32)[:, None, :]

    def search(query: int) -> NDArray[np.int64]:
        candidates = retriever(augmented[query])[0]
        scores = vectors.take(candidates, axis=0).dot(queries[query])
        best: NDArray[np.int64] = candidates[top_k(scores, K)]
        return best

    return search


def numpy_search(vectors: NDArray[np.float32], queries: Queries) -> Search:
    """The product and a partition, unsorted."""

    def search(query: int) -> NDArray[np.int64]:
        scores = vectors.dot(queries[query])
        best: NDArray[np.int64] = np.argpartition(scores, -K)[-K:]
        return best

    return search


def faiss_searches(vectors: NDArray[np.float32], queries: Queries) -> dict[str, Search]:
    """faiss's exact indexes, float32 and float16; none where faiss is not installed."""
    try:
        import faiss
    except ModuleNotFoundError:
        return {}
    faiss.omp_set_num_threads(1)
    half = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    searches = {}
    for name, index in (("faiss FlatIP", faiss.IndexFlatIP(vectors.shape[1])), ("faiss SQfp16", half)):
        index.train(vectors)
        index.add(vectors)
        searches[name] = _faiss_search(index, queries)
    return searches


def _faiss_search(index: object, queries: Queries) -> Search:
    def search(query: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = index.search(queries[query : query + 1], K)[1][0]  # type: ignore[attr-defined]
        return found

    return search
