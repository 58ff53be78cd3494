"""What goes with items that the model was trained without: their pairs, counted in sketches, become neighbours.

For an item i in focus and any other j, the sketch gives an estimate n_ij of how many devices had both lately; the
devices that had j are n_j. Where n_ij stands out from the sketch's own noise, i becomes a neighbour of j:

    W_ji  =  base_ji + WEIGHT · n_ij / (n_j + SMOOTHING)          where n_ij > THRESHOLD · RMS of the sketch

a conditional frequency, drawn towards 0 where j is rare. The variance of an estimate is the mean square of the sketch
(Charikar, Chen & Farach-Colton 2002). The constants were chosen on Online Retail's validation period.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import BlockSpec
from edgerec.errors import DataError
from edgerec.federation.sketch import pair_places
from edgerec.files import write_private
from edgerec.types import Float32, Float64, Int32

HALF_LIFE_DAYS = 60.0
THRESHOLD = 2.0
SMOOTHING = 30.0
WEIGHT = 0.15
_DAY = 86_400.0
_ARRAYS = ("sums", "held", "indptr", "ids", "weights")

Csr = tuple[Int32, Int32, Float32]
"""indptr, ids, weights of item-to-item weights, by source item."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """`sums` float64 (size,): the sketch, old rounds less · `held` float64 (n_items,): how many had each item · `at`:
    POSIX seconds, as of when · `base`: the weights that training made, which the pairs are added to."""

    sums: Float64
    held: Float64
    at: float
    base: Csr

    def after(self, sums: Float64, held: Float64, at: float) -> Pairs:
        """What is known once a round's sums, float64 of those sizes, are added to what is left of the old ones."""
        left = 0.5 ** (max(at - self.at, 0.0) / _DAY / HALF_LIFE_DAYS)
        return Pairs(self.sums * left + sums, self.held * left + np.maximum(held, 0), max(at, self.at), self.base)

    def neighbours(self, spec: BlockSpec) -> Csr:
        """The base's weights and the pairs', by source item."""
        focus, n = np.array(spec.focus, np.int64), len(self.held)
        one, other = (grid.ravel() for grid in np.meshgrid(focus, np.arange(n), indexing="ij"))
        places, signs = pair_places(spec, one, other)
        estimate = self.sums[places] * signs
        kept = (estimate > THRESHOLD * np.sqrt(np.square(self.sums).mean())) & (one != other)
        one, other, estimate = one[kept], other[kept], estimate[kept]
        return _added(self.base, n, other, one, WEIGHT * estimate / (self.held[other] + SMOOTHING))


def begun(spec: BlockSpec, n_items: int, at: float, base: Csr) -> Pairs:
    """Nothing was counted yet."""
    return Pairs(np.zeros(spec.size), np.zeros(n_items), at, base)


def save(path: Path, pairs: Pairs) -> None:
    """Writes what is known so that a reader sees all of it or none."""
    arrays = dict(zip(_ARRAYS, (pairs.sums, pairs.held, *pairs.base), strict=True))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, at=np.float64(pairs.at), **arrays)  # type: ignore[arg-type]
    write_private(path, buffer.getvalue())


def load(path: Path, spec: BlockSpec, n_items: int) -> Pairs | None:
    """What `save` wrote, None where there is no file. Raises DataError where it is something else."""
    try:
        with np.load(path, allow_pickle=False) as found:
            sums, held, *base = (found[name] for name in _ARRAYS)
            pairs = Pairs(sums, held, float(found["at"]), (base[0], base[1], base[2]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name}: {error}", hint="remove it: pairs are then counted from nothing") from error
    if pairs.sums.shape != (spec.size,) or pairs.held.shape != (n_items,):
        raise DataError(f"{path.name} is of other blocks", hint="remove it: pairs are then counted from nothing")
    return pairs


def _added(base: Csr, n: int, source: NDArray[np.int64], target: NDArray[np.int64], weight: Float64) -> Csr:
    """The sum of sparse weights, by source, then target."""
    indptr, ids, weights = base
    rows = np.concatenate([np.repeat(np.arange(n), np.diff(indptr)), source])
    cells, place = np.unique(rows * n + np.concatenate([ids.astype(np.int64), target]), return_inverse=True)
    sums = np.bincount(place, np.concatenate([weights, weight]), len(cells)).astype(np.float32)
    made = np.searchsorted(cells, np.arange(n + 1) * n).astype(np.int32)
    return made, (cells % n).astype(np.int32), sums
