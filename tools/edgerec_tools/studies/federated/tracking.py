"""What noisy counts say of items that drift: a Kalman filter per item, in place of adding up whatever a round gives.

A round's sum is a rate, seen through the round's chance and the privacy noise; rates drift by a random walk (the local
level model: Harvey 1989, chapter 2). The more noise, the less a round moves an item, and the less the rarer it is. This
works on what a round releases anyway, so it costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerec.types import Float64


@dataclass(frozen=True, slots=True)
class Drift:
    """How far rates move in a round: variance = base + linear · rate + square · rate². `chance`: the variance of an
    honest sum per unit of its rate · `pull`: by how much of the difference a rate returns to its long run.
    """

    base: float = 0.4
    linear: float = 0.012
    square: float = 0.057
    chance: float = 0.7
    pull: float = 0.02

    def of(self, rate: Float64) -> Float64:
        moved: Float64 = self.base + self.linear * rate + self.square * rate**2
        return moved


@dataclass(frozen=True, slots=True)
class Rates:
    """`mean`, `variance`: what each item's sum of a round is believed to be, float64 (n_items,) · `long`: of the long
    run, on the same scale."""

    mean: Float64
    variance: Float64
    long: Float64


def begun(recent: Float64, long: Float64, drift: Drift) -> Rates:
    """Rates before the first round: `recent` counts per round, and those of a long time, float64 (n_items,) each."""
    scale = recent.sum() / max(float(long.sum()), 1e-9)
    return Rates(recent, drift.of(recent), long * scale)


def after(rates: Rates, sums: Float64, sigma: float, drift: Drift) -> Rates:
    """The rates after a round whose noisy sums are `sums` float64 (n_items,), the noise's deviation being `sigma`.

    Sums are brought to the scale of the rates first: who takes part changes with the budget that keys have left, and
    popularity is relative.
    """
    scale = np.clip(rates.mean.sum() / max(float(sums.sum()), 1e-9), 0.2, 5.0)
    mean = rates.mean + drift.pull * (rates.long - rates.mean)
    variance = rates.variance + drift.of(mean)
    noise = (sigma * scale) ** 2 + drift.chance * np.maximum(mean, 0.2)
    gain = variance / (variance + noise)
    moved = np.maximum(mean + gain * (sums * scale - mean), 0)
    return Rates(moved, (1 - gain) * variance, rates.long)


def counts_of(rates: Rates, days: float, half_life: float) -> Float64:
    """The counts that such rates, a round every `days`, keep up under a half-life in days: float64 (n_items,)."""
    counts: Float64 = rates.mean / (1 - 0.5 ** (days / half_life))
    return counts
