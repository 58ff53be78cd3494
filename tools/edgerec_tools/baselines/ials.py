"""iALS: matrix factorisation by alternating least squares, users folded in from their past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import MissingDistribution
from edgerec_tools.baselines.base import Evidence
from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.datasets import Dataset

if TYPE_CHECKING:
    from edgerec_exporters.spaces.ials import Factors

Float32 = NDArray[np.float32]
MISSING = "edgerec-exporters is not installed"


@dataclass(frozen=True, slots=True)
class IAls:
    """Rendle et al. (2022) as in `edgerec_exporters.spaces.ials`, exact fold-in of the past's distinct items."""

    dim: float = 64
    l2: float = 0.003
    alpha: float = 1.0
    iterations: float = 12
    name: ClassVar[str] = "ials"
    title: ClassVar[str] = "iALS with exact fold-in"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "l2": (0.001, 0.003, 0.01, 0.03),
        "alpha": (0.1, 0.3, 1.0, 3.0),
        "dim": (32, 64, 128),
    }

    def infeasible(self, train: Dataset) -> str | None:
        """Without edgerec-exporters."""
        return None if find_spec("edgerec_exporters") else MISSING

    def fit(self, evidence: Evidence) -> FoldIn:
        """Item vectors from who had what. Raises MissingDistribution."""
        try:
            from edgerec_exporters.spaces.ials import fit
        except ImportError:
            raise MissingDistribution(MISSING, hint="pip install edgerec-exporters") from None
        train = evidence.train
        pairs = np.unique(train.user.astype(np.int64) * train.n_items + train.item)
        users, items = np.divmod(pairs, train.n_items)
        factors = fit(
            users,
            items,
            np.ones(len(pairs)),
            train.n_users,
            train.n_items,
            dim=int(self.dim),
            l2=self.l2,
            alpha=self.alpha,
            iterations=int(self.iterations),
            seed=evidence.seed,
        )
        return FoldIn(factors)


@dataclass(frozen=True, slots=True, eq=False)
class FoldIn:
    """The user's vector from the past, dotted with the item vectors."""

    factors: Factors

    def scores(self, pasts: Pasts) -> Float32:
        """Float32 (n, n_items)."""
        from edgerec_exporters.spaces.ials import fold_in_many

        kept = np.flatnonzero(pasts.newest())
        vectors = fold_in_many(
            self.factors, np.searchsorted(kept, pasts.start), pasts.item[kept], np.ones(len(kept), np.float32)
        )
        scores: Float32 = vectors @ self.factors.items.T
        return scores
