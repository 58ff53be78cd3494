"""Item counts across rounds: the old ones fade, a round's are added, and their logarithm is what devices rank by."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.errors import DataError
from edgerec.files import write_private
from edgerec.types import Float32, Float64
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.settings import RoundSettings


@dataclass(frozen=True, slots=True)
class Counts:
    """`values`: float64 (n_items,), how often each item was taken, old times less · `at`: POSIX seconds, as of when."""

    values: Float64
    at: float

    def popularity(self) -> Float32:
        """What `items/popularity.npy` holds: log(1 + count), float32 (n_items,)."""
        return np.log1p(self.values).astype(np.float32)

    def faded(self, at: float, half_life_days: float | None) -> Counts:
        """What is left at a time: values · 0.5^(days / half-life). A clock that went back fades nothing."""
        days = max(at - self.at, 0.0) / 86_400
        left = 1.0 if half_life_days is None else 0.5 ** (days / half_life_days)
        return Counts(self.values * left, max(at, self.at))


def after_round(settings: RoundSettings, block: BlockSpec, old: Counts, result: Aggregate, at: float) -> Counts:
    """The counts once a round's are added to what is left of the old ones; none is below 0, whatever noise says."""
    before = old.faded(at, block.half_life_days)
    taken = shrunk(result.sums(block.name), result.sigma.get(block.name, 0.0), settings.shrink)
    if settings.growth is not None:
        taken = settings.growth.within(taken, before.values, result.devices)
    return Counts(np.maximum(before.values + taken, 0.0), before.at)


def counts_of(popularity: Float32, at: float) -> Counts:
    """The counts that a bundle's popularity stands for, where no others are known."""
    return Counts(np.maximum(np.expm1(popularity.astype(np.float64)), 0.0), at)


def shrunk(taken: Float64, sigma: float, strength: float) -> Float64:
    """A round's noisy sums, drawn towards 0 by `strength` · σ: nobody took most of the items, whatever noise says.

    Soft thresholding (Donoho & Johnstone 1994); it works on what is released, so it costs no privacy.
    """
    drawn: Float64 = np.sign(taken) * np.maximum(np.abs(taken) - strength * sigma, 0.0)
    return drawn


def save(path: Path, counts: Counts) -> None:
    """Writes the counts so that a reader sees all of them or none."""
    buffer = io.BytesIO()
    np.savez(buffer, values=counts.values, at=np.float64(counts.at))
    write_private(path, buffer.getvalue())


def load(path: Path, n_items: int) -> Counts | None:
    """The counts in a file, None where there is none. Raises DataError where they are not what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as found:
            counts = Counts(found["values"].astype(np.float64), float(found["at"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name}: {error}", hint="remove it: counts are then taken from the bundle") from error
    if counts.values.shape != (n_items,) or not np.isfinite(counts.values).all() or (counts.values < 0).any():
        raise DataError(f"{path.name} does not hold {n_items} counts", hint="is it of another catalogue?")
    return counts
