"""The one place where deltas become a result: gateways, the Flower app, `edgerec round` and the simulator call it.

A row is refused where it is not finite; rows of one enrolled key are added up; each block is cut to its bound; the rest
is the rule's. Rows are put in the order of their bytes first, so that no result depends on who came in when.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import METRICS, BlockSpec
from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError
from edgerec.interfaces import Aggregator
from edgerec.plugins import Plugins
from edgerec.types import Float32, Float64, Int64
from edgerec_exporters.federation.blocks import places, spread, units, width
from edgerec_exporters.federation.noise import discrete_gaussian
from edgerec_exporters.federation.rules import ServerState, bucketed, fedadam, limits, rule_of
from edgerec_exporters.federation.settings import RoundSettings

RING = 1 << 32
"""Shares of a split delta are added up modulo this."""
TAIL = 5.0
"""Local noise is longer than (√size + TAIL) · σ once in 270,000 blocks (Laurent & Massart 2000, lemma 1)."""
_AT_ONCE = 256
_SHORTER = 1 - 1e-12
ROUNDING = 1 + 1e-9
"""A norm that two hosts compute differs in its last digits; a device that kept to its bound is not cut for that."""

Noise = Callable[[float, int], Int64]
"""(σ, n) → n whole numbers; `discrete_gaussian` unless a simulation brings its own."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A round's result. `blocks`: name → float64 (size,), what a device changed on average, or the server's step.

    `devices`: how many it is made of · `refused`: reason → rows · `clipped`: block → devices that were longer than
    its bound · `norms`: block → "median", "largest" before they were cut · `sigma`: block → standard deviation of the
    noise that was added to the sum · `seed`: what the buckets were drawn from · `server`: FedAdam's state after it.
    """

    blocks: Mapping[str, Float64]
    devices: int
    aggregator: str
    refused: Mapping[str, int] = field(default_factory=dict)
    clipped: Mapping[str, int] = field(default_factory=dict)
    norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sigma: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    server: ServerState | None = None

    def sums(self, name: str) -> Float64:
        """A block's result times the devices: float64 (size,)."""
        return self.blocks[name] * self.devices

    def told(self) -> dict[str, Any]:
        """What a report says of it: everything but the numbers themselves."""
        names = ("devices", "aggregator", "refused", "clipped", "norms", "sigma", "seed")
        return {name: getattr(self, name) for name in names}


def aggregate(
    settings: RoundSettings,
    blocks: Sequence[BlockSpec],
    rows: Float32,
    *,
    keys: Sequence[str] | None = None,
    weights: Float64 | None = None,
    seed: int | None = None,
    server: ServerState | None = None,
    plugins: Plugins | None = None,
    rule: Aggregator | None = None,
    noise: Noise = discrete_gaussian,
) -> Aggregate:
    """What float32 (n, d) says, a row per delta, its blocks one after the other. `rows` stays as it is.

    `keys` (n,): who sent a row; all rows of one are cut together · `weights` (n,): how much a row counts, for a mean
    only · `seed`: draws the buckets, None from the OS · `rule`: made by `rule_of` before, else made anew · `noise`:
    for simulations. Raises DeltaError for rows of another form and a cohort that is too small, ConfigError.
    """
    if settings.mode == "split":
        raise ConfigError("round.mode = 'split': there are no single rows", hint="use aggregate_sum")
    clean, counted, refused = _sound(blocks, rows, keys, _checked_weights(settings, weights, len(rows)))
    if len(clean) < settings.least_cohort:
        raise _too_few(settings, len(clean))
    clean, clipped, norms = _cut(settings, blocks, clean)
    seed = secrets.randbits(62) if seed is None else seed
    if settings.robust:
        mean = _robust(settings, blocks, clean, seed, rule or rule_of(settings, plugins))
        sigma: dict[str, float] = {}
    else:
        if settings.aggregator == "bounded_mean":
            np.clip(clean, *limits(blocks), out=clean)
        mean, sigma = _noised(settings, blocks, _total(clean, counted), noise)
        mean /= len(clean) if counted is None else counted.sum()
    told = {"refused": refused, "clipped": clipped, "norms": norms, "sigma": sigma, "seed": seed}
    return _finished(settings, blocks, mean, len(clean), server, **told)


def joined(share_sums: Sequence[NDArray[np.uint32]]) -> Int64:
    """The sum of all devices' whole numbers, int64 (d,), from the gateways' sums of shares, uint32 (d,) each.

    Modulo 2³²; right while every sum lies within ±2³¹. Raises DeltaError where the sums do not fit each other.
    """
    if len(share_sums) < 2 or len({one.shape for one in share_sums}) != 1:
        raise DeltaError("the sums of all shares, of one length, are needed", hint="two gateways give one each")
    total = np.zeros(share_sums[0].shape, np.uint64)
    for one in share_sums:
        if one.dtype != np.uint32 or one.ndim != 1:
            raise DeltaError(f"a sum of shares is uint32 (d,), not {one.dtype} {one.shape}")
        total += one
    signed = (total % RING).astype(np.int64)
    signed[signed >= RING // 2] -= RING
    return signed


def aggregate_sum(
    settings: RoundSettings,
    blocks: Sequence[BlockSpec],
    total: Int64,
    devices: int,
    *,
    server: ServerState | None = None,
    sigma: Mapping[str, float] | None = None,
) -> Aggregate:
    """The result of split mode: `total` int64 (d,), in units, from `joined`. The gateways have added their noise, all
    of it together of standard deviation `sigma` by block.

    Raises DeltaError for a sum of another form, and for a cohort that is too small.
    """
    if settings.mode != "split":
        raise ConfigError(f"round.mode = {settings.mode!r}: a sum alone cannot be checked", hint="mode = 'split'")
    if total.shape != (width(blocks),):
        raise DeltaError(f"a sum of {total.shape} instead of ({width(blocks)},)")
    if devices < settings.least_cohort:
        raise _too_few(settings, devices)
    return _finished(settings, blocks, total * units(blocks) / devices, devices, server, sigma=sigma or {})


def sigmas(settings: RoundSettings, blocks: Sequence[BlockSpec]) -> dict[str, float]:
    """Block → standard deviation of the noise that hides one device in it; empty without privacy.

    A block that may cost the share s of a round's loss has σ = multiplier · bound / √s: Gaussian mechanisms compose by
    the sum of (bound / σ)², so all blocks together have the multiplier. Raises ConfigError without a multiplier.
    """
    if settings.privacy.kind == "none":
        return {}
    if settings.privacy.multiplier is None:
        raise ConfigError("there is no noise multiplier", hint="accountant.with_multiplier finds it")
    share = settings.privacy.share_of({block.name: block.bound for block in blocks})
    return {block.name: settings.privacy.multiplier * block.bound / sqrt(share[block.name]) for block in blocks}


def _too_few(settings: RoundSettings, devices: int) -> DeltaError:
    least = settings.least_cohort
    return DeltaError(f"{devices} devices, at least {least} are needed", hint="wait for more, or lower least_cohort")


def _checked_weights(settings: RoundSettings, weights: Float64 | None, n: int) -> Float64 | None:
    """The weights, none above the most that one may have."""
    if weights is None:
        return None
    if settings.robust or settings.privacy.kind == "central":
        what = settings.aggregator if settings.robust else "central privacy"
        raise ConfigError(f"weights cannot be used with {what}", hint="give none: then all devices count alike")
    given = np.asarray(weights, np.float64)
    if given.shape != (n,) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise DeltaError(f"weights must be {n} finite numbers from 0, not all 0")
    return np.minimum(given, settings.most_weight)


def _sound(
    blocks: Sequence[BlockSpec], rows: Float32, keys: Sequence[str] | None, weights: Float64 | None
) -> tuple[Float32, Float64 | None, dict[str, int]]:
    """The finite rows, one per key, in the order of their bytes; their weights; and what was refused."""
    if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] != width(blocks):
        raise DeltaError(f"rows are float32 (n, {width(blocks)}), not {rows.dtype} {rows.shape}")
    if keys is not None and len(keys) != len(rows):
        raise DeltaError(f"{len(keys)} keys for {len(rows)} rows")
    kept = np.flatnonzero(_finite(rows))
    bad = len(rows) - len(kept)
    if keys is not None and len(set(keys)) < len(keys):
        rows, weights = _per_key(rows, [keys[at] for at in kept.tolist()], kept, weights)
        kept = np.flatnonzero(_finite(rows))  # two that are finite may add up to what is not
        bad += len(rows) - len(kept)

    def place(at: int) -> tuple[bytes, float]:
        return blake2b(rows[at].data, digest_size=16).digest(), 0.0 if weights is None else float(weights[at])

    order = sorted(kept.tolist(), key=place)
    refused = {"not finite": bad} if bad else {}
    return np.ascontiguousarray(rows[order]), None if weights is None else weights[order], refused


def _finite(rows: Float32) -> NDArray[np.bool_]:
    return np.concatenate([np.isfinite(part).all(axis=1) for part in _parts(rows)] or [np.zeros(0, np.bool_)])


def _per_key(rows: Float32, keys: list[str], kept: Int64, weights: Float64 | None) -> tuple[Float32, Float64 | None]:
    """The kept rows of every key, added up in the order of their bytes; the largest of its weights."""
    of: dict[str, list[int]] = {}
    for key, at in zip(keys, kept, strict=True):
        of.setdefault(key, []).append(int(at))
    together = np.empty((len(of), rows.shape[1]), np.float32)
    for place, own in enumerate(of.values()):
        own.sort(key=lambda at: rows[at].tobytes())
        with np.errstate(over="ignore"):
            together[place] = rows[own].sum(axis=0, dtype=np.float64)
    return together, None if weights is None else np.array([weights[own].max() for own in of.values()])


def _parts(rows: Float32) -> Iterator[Float32]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]


def _cut(
    settings: RoundSettings, blocks: Sequence[BlockSpec], rows: Float32
) -> tuple[Float32, dict[str, int], dict[str, dict[str, float]]]:
    """The rows, no block longer than it may be: scaled down, then rounded towards 0 to whole units.

    A whole multiple of the unit stays one: noise of whole units hides sums of whole units only.
    """
    local = sigmas(settings, blocks) if settings.privacy.kind == "local" else {}
    clipped, norms = {}, {}
    for block in blocks:
        part = rows[:, places(blocks)[block.name]]
        most = block.bound + local.get(block.name, 0.0) * (sqrt(block.size) + TAIL)
        length = np.concatenate([_lengths(some) for some in _parts(part)])
        norms[block.name] = {"median": float(np.median(length)), "largest": float(length.max())}
        long = np.flatnonzero(length > most * ROUNDING)
        clipped[block.name] = len(long)
        scaled = part[long] * (most / length[long] * _SHORTER)[:, None]
        part[long] = np.trunc(scaled / block.unit) * block.unit
    return rows, clipped, norms


def _lengths(rows: Float32) -> Float64:
    wide = rows.astype(np.float64)
    lengths: Float64 = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return lengths


def _total(rows: Float32, weights: Float64 | None) -> Float64:
    """The sum of the rows, float64 (d,): exact while they are whole multiples of a unit, a power of two."""
    if weights is not None:
        weighted: Float64 = weights @ rows
        return weighted
    total: Float64 = rows.sum(axis=0, dtype=np.float64)
    return total


def _noised(
    settings: RoundSettings, blocks: Sequence[BlockSpec], total: Float64, noise: Noise
) -> tuple[Float64, dict[str, float]]:
    """The sum with central noise in whole units, and its standard deviation by block."""
    if settings.privacy.kind != "central":
        return total, {}
    whole = np.rint(total / units(blocks))
    if np.abs(whole * units(blocks) - total).max(initial=0) > 1e-9:
        raise DeltaError("a delta is no whole multiple of its unit", hint="the discrete noise hides whole units only")
    sigma = sigmas(settings, blocks)
    drawn = np.concatenate([noise(sigma[block.name] / block.unit, block.size) for block in blocks])
    return (whole + drawn) * units(blocks), sigma


def _robust(
    settings: RoundSettings, blocks: Sequence[BlockSpec], rows: Float32, seed: int, rule: Aggregator
) -> Float64:
    """The rule over everything but metrics, which are sums over groups of devices and stay means."""
    mean = _total(rows, None) / len(rows)
    learned = _learned(blocks)
    if learned.any():
        every = rows if learned.all() else np.ascontiguousarray(rows[:, learned])
        mean[learned] = rule.aggregate(bucketed(every, settings.bucket, seed))
    return mean


def _finished(
    settings: RoundSettings,
    blocks: Sequence[BlockSpec],
    mean: Float64,
    devices: int,
    server: ServerState | None,
    **told: Any,
) -> Aggregate:
    """The result, after the server's step where there is one; metrics take none. `told`: further fields of it."""
    if not np.isfinite(mean).all():
        raise DeltaError(f"{settings.aggregator} gave something that is not finite")
    after = None
    if settings.server == "fedadam":
        step, after = fedadam(mean, server, settings.server_constants)
        mean = np.where(_learned(blocks), step, mean)
    made = {name: mean[place] for name, place in places(blocks).items()}
    return Aggregate(made, devices, settings.aggregator, server=after, **told)


def _learned(blocks: Sequence[BlockSpec]) -> NDArray[np.bool_]:
    """Which values devices learn from, bool (d,): all but metrics."""
    return spread(blocks, {block.name: float(block.kind != METRICS) for block in blocks}) > 0
