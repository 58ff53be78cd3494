"""What the lists are like, whether or not they hit: how much of the catalogue they show, how alike their items are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.evaluate.ranking import K

Rows = NDArray[np.int64]
Float32 = NDArray[np.float32]
_BATCH = 4096


def describe(top: Rows, n_items: int, vectors: Float32 | None) -> dict[str, float | None]:
    """Figures of lists of K data rows, int64 (n_lists, K), -1 where a place is empty.

    `coverage@10`: share of the catalogue that is in any list · `gini@10`: of the exposures over the catalogue, 0 when
    all items are shown equally often, towards 1 when a few fill all lists · `entropy@10`: Shannon entropy of the
    exposures over log n_items, 1 when equal · `diversity@10`: mean over lists of 1 − the mean cosine of the vectors of
    two different items (Ziegler et al. 2005), float32 (n_items, dim) of data rows, NaN rows for items without one.
    """
    shown = np.bincount(top[top >= 0], minlength=n_items).astype(np.float64)
    return {
        f"coverage@{K}": float((shown > 0).mean()),
        f"gini@{K}": _gini(shown),
        f"entropy@{K}": _entropy(shown),
        f"diversity@{K}": None if vectors is None else _diversity(top, vectors),
    }


def _gini(shown: NDArray[np.float64]) -> float:
    """Σ (2 i − n − 1) x_(i) / (n Σ x) over ascending x."""
    n, total = len(shown), shown.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(shown) / (n * total)) if total else 0.0


def _entropy(shown: NDArray[np.float64]) -> float:
    share = shown[shown > 0] / shown.sum() if shown.any() else np.ones(1)
    return float(-(share * np.log(share)).sum() / np.log(max(len(shown), 2)))


def _diversity(top: Rows, vectors: Float32) -> float | None:
    """The mean cosine of distinct pairs from |Σ v|² = Σ_i Σ_j v_i · v_j of unit vectors."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.float32(1e-12))
    placed = np.isfinite(unit).all(axis=1)
    unit[~placed] = 0
    found = []
    for start in range(0, len(top), _BATCH):
        rows = top[start : start + _BATCH]
        there = (rows >= 0) & placed[rows]
        items = unit[rows] * there[:, :, None]
        n = there.sum(axis=1)
        pairs = (items.sum(axis=1) ** 2).sum(axis=1) - (items**2).sum(axis=(1, 2))
        enough = n >= 2
        found.append(1 - pairs[enough] / (n[enough] * (n[enough] - 1)))
    values = np.concatenate(found) if found else np.zeros(0)
    return float(values.mean()) if len(values) else None
