"""Item counts across rounds: the old ones fade, a round's are added, and their logarithm is what devices rank by."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.bundle.repeat import HALF_LIVES, RepeatModel
from edgerec.errors import DataError
from edgerec.files import write_private
from edgerec.types import Float32, Float64
from edgerec_exporters.federation.engine import Aggregate
from edgerec_exporters.federation.settings import RoundSettings


@dataclass(frozen=True, slots=True)
class Counts:
    """`values`: float64 (n_items,), how often each item was taken, old times less · `at`: POSIX seconds, as of when ·
    `paces`: the same, faded with each of HALF_LIVES, float64 (n_items, 3), where the bundle tells what is taken again.
    """

    values: Float64
    at: float
    paces: Float64 | None = None

    def popularity(self) -> Float32:
        """What `items/popularity.npy` holds: log(1 + count), float32 (n_items,)."""
        return np.log1p(self.values).astype(np.float32)

    def repeat_items(self, model: RepeatModel | None) -> Float32 | None:
        """What `repeat/items.npy` holds, in place of the model's; None where there is none."""
        if model is None or self.paces is None:
            return None
        return np.concatenate([np.log1p(self.paces).astype(np.float32), model.items[:, len(HALF_LIVES) :]], axis=1)

    def paced(self, model: RepeatModel | None) -> Counts:
        """With the paces of a bundle's, where these have none."""
        if model is None or self.paces is not None:
            return self
        return replace(self, paces=_counted(model.items[:, : len(HALF_LIVES)]))

    def faded(self, at: float, half_life_days: float | None) -> Counts:
        """What is left at a time: values · 0.5^(days / half-life). A clock that went back fades nothing."""
        days = max(at - self.at, 0.0) / 86_400
        left = 1.0 if half_life_days is None else 0.5 ** (days / half_life_days)
        paces = None if self.paces is None else self.paces * np.exp2(-days / np.array(HALF_LIVES))
        return Counts(self.values * left, max(at, self.at), paces)

    def grown(self, taken: Float64) -> Counts:
        """With a round's sums, float64 (n_items,); none is below 0, whatever noise says."""
        paces = None if self.paces is None else np.maximum(self.paces + taken[:, None], 0.0)
        return Counts(np.maximum(self.values + taken, 0.0), self.at, paces)


def after_round(settings: RoundSettings, block: BlockSpec, old: Counts, result: Aggregate, at: float) -> Counts:
    """The counts once a round's are added to what is left of the old ones."""
    before = old.faded(at, block.half_life_days)
    taken = shrunk(result.sums(block.name), result.sigma.get(block.name, 0.0), settings.shrink)
    if settings.growth is not None:
        taken = settings.growth.within(taken, before.values, result.devices)
    return before.grown(taken)


def counts_of(popularity: Float32, at: float) -> Counts:
    """The counts that a bundle's popularity stands for, where no others are known."""
    return Counts(_counted(popularity), at)


def _counted(logarithm: Float32) -> Float64:
    return np.maximum(np.expm1(logarithm.astype(np.float64)), 0.0)


def shrunk(taken: Float64, sigma: float, strength: float) -> Float64:
    """A round's noisy sums, drawn towards 0 by `strength` · σ: nobody took most of the items, whatever noise says.

    Soft thresholding (Donoho & Johnstone 1994); it works on what is released, so it costs no privacy.
    """
    drawn: Float64 = np.sign(taken) * np.maximum(np.abs(taken) - strength * sigma, 0.0)
    return drawn


def save(path: Path, counts: Counts) -> None:
    """Writes the counts so that a reader sees all of them or none."""
    buffer = io.BytesIO()
    paces = {} if counts.paces is None else {"paces": counts.paces}
    np.savez(buffer, values=counts.values, at=np.float64(counts.at), **paces)
    write_private(path, buffer.getvalue())


def load(path: Path, n_items: int) -> Counts | None:
    """The counts in a file, None where there is none. Raises DataError where they are not what `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as found:
            paces = found["paces"].astype(np.float64) if "paces" in found else None
            counts = Counts(found["values"].astype(np.float64), float(found["at"]), paces)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name}: {error}", hint="remove it: counts are then taken from the bundle") from error
    if not _sound(counts.values, (n_items,)) or not (paces is None or _sound(paces, (n_items, len(HALF_LIVES)))):
        raise DataError(f"{path.name} does not hold {n_items} counts", hint="is it of another catalogue?")
    return counts


def _sound(counts: Float64, shape: tuple[int, ...]) -> bool:
    return counts.shape == shape and bool(np.isfinite(counts).all() and (counts >= 0).all())
