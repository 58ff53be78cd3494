"""Aggregators: one delta of many devices, some of which may lie.

    mean           follows whoever is loudest: for devices that are trusted, or whose deltas are clipped
    median         of each coordinate                                             Yin et al. (2018), definition 1
    trimmed_mean   of each coordinate, without the `share` of the devices that lie highest and as many that lie
                   lowest, rounded up                                             Yin et al. (2018), definition 2
    krum           the delta whose n - f - 2 nearest others are nearest, by the sum of squared distances; up to
                   f = `hostile` devices may lie                                  Blanchard et al. (2017), section 4
    multi_krum     the mean of the `chosen` deltas that Krum finds best, n - f - 2 where it is 0  (section 6)

Both Krums need n ≥ 2f + 3 devices. Deltas that Krum finds equally good are taken in the order of their bytes, so that
no result depends on the order of the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np

from edgerec.deltas import DeltaError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import AggregatorFactory, Settings
from edgerec.types import Float32, Float64, Int64
from edgerec_plugins.settings import SettingsReader

TIE = 1e-9
ROUNDING = 1e-12


class Mean:
    name = "mean"
    least = 1

    def __init__(self, settings: Settings) -> None:
        SettingsReader(self.name, settings).done()

    def aggregate(self, deltas: Float32) -> Float64:
        mean: Float64 = checked(self.name, deltas, self.least).mean(axis=0)
        return mean


class Median:
    name = "median"
    least = 1

    def __init__(self, settings: Settings) -> None:
        SettingsReader(self.name, settings).done()

    def aggregate(self, deltas: Float32) -> Float64:
        median: Float64 = np.median(checked(self.name, deltas, self.least), axis=0)
        return median


class TrimmedMean:
    name = "trimmed_mean"
    least = 1

    def __init__(self, settings: Settings) -> None:
        """`share`: of the devices, on either side. Raises ConfigError."""
        take = SettingsReader(self.name, settings)
        self.share = take.number("share", 0.1, 0, 0.49)
        take.done()

    def aggregate(self, deltas: Float32) -> Float64:
        rows = checked(self.name, deltas, self.least)
        n = len(rows)
        k = min(ceil(self.share * n - TIE), (n - 1) // 2)
        rows.sort(axis=0)
        mean: Float64 = rows[k : n - k].mean(axis=0)
        return mean


class Krum:
    name = "krum"

    def __init__(self, settings: Settings) -> None:
        """`hostile`: f, how many may lie. Raises ConfigError."""
        take = SettingsReader(self.name, settings)
        self.hostile = take.whole("hostile", 1, 0, 100_000)
        self.chosen = self._chosen(take)
        take.done()
        self.least = max(2 * self.hostile + 3, self.chosen + self.hostile + 2)

    def _chosen(self, take: SettingsReader) -> int:
        return 1

    def aggregate(self, deltas: Float32) -> Float64:
        rows = checked(self.name, deltas, self.least)
        near = len(rows) - self.hostile - 2
        best = _best(scores_of(rows, near), rows, self.chosen or near)
        mean: Float64 = rows[best].mean(axis=0)
        return mean


class MultiKrum(Krum):
    name = "multi_krum"

    def _chosen(self, take: SettingsReader) -> int:
        return take.whole("chosen", 0, 0, 100_000)


def checked(name: str, deltas: Float32, least: int) -> Float64:
    """A copy of the deltas in float64, (n_devices, d). Raises DeltaError where they are too few or not finite."""
    rows = np.array(deltas, np.float64)
    if rows.ndim != 2:
        raise DeltaError(f"{name}: deltas must be an array (n_devices, d), not {rows.shape}")
    if len(rows) < least:
        hint = "wait for more devices" if least == 1 else "wait for more devices, or expect fewer hostile ones"
        raise DeltaError(f"{name}: {len(rows)} deltas, at least {least} are needed", hint=hint)
    if not np.isfinite(rows).all():
        raise DeltaError(f"{name}: a delta is not finite", hint="leave it out of the round")
    return rows


def scores_of(rows: Float64, near: int) -> Float64:
    """Krum's scores of rows (n, d), float64 (n,): the sum of squared distances to the `near` nearest others."""
    centred = rows - np.median(rows, axis=0)  # where squares cancel least; no mean, which one device can move
    products = centred.dot(centred.T)
    squares = products.diagonal()
    distances = np.maximum(squares[:, None] + squares - 2 * products, 0)
    np.fill_diagonal(distances, np.inf)
    scores: Float64 = np.sort(distances, axis=1)[:, :near].sum(axis=1)
    return scores


def _best(scores: Float64, rows: Float64, m: int) -> Int64:
    """The places of the m lowest scores; ties, as two nearest to each other are, go by the bytes of the rows."""
    last = np.partition(scores, m - 1)[m - 1]
    slack = TIE * last + ROUNDING * float(np.median(scores))
    sure = np.flatnonzero(scores < last - slack)
    tied = np.flatnonzero(np.abs(scores - last) <= slack)
    fill = sorted(tied.tolist(), key=lambda place: rows[place].tobytes())[: m - len(sure)]
    return np.concatenate((sure, np.array(fill, np.int64)))


@hookimpl
def edgerec_aggregators() -> Mapping[str, AggregatorFactory]:
    return {one.name: one for one in (Mean, Median, TrimmedMean, Krum, MultiKrum)}
