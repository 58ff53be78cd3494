"""Rules that a round may end in: a plugin's aggregator, over devices or over buckets of them, and FedAdam on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.interfaces import Aggregator
from edgerec.plugins import Plugins
from edgerec.types import Float32, Float64
from edgerec_exporters.federation.settings import LIMITS, RoundSettings
from edgerec_plugins.settings import SettingsReader


def rule_of(settings: RoundSettings, plugins: Plugins | None = None) -> Aggregator:
    """The plugin's aggregator that the settings name. Raises PluginNotFound, PluginError or ConfigError."""
    return (plugins or Plugins()).aggregator(settings.aggregator, settings.constants)


def bucketed(rows: Float32, size: int, seed: int) -> Float32:
    """Means of random groups of `size` rows, or one more or less: float32 (⌈n / size⌉, d). (Karimireddy et al. 2022)

    What few devices have is 0 in most rows, and a median or a Krum of single rows forgets it; a group's mean has
    something of all its members.
    """
    if size == 1:
        return rows
    order = np.random.default_rng(seed).permutation(len(rows))
    groups = np.array_split(order, ceil(len(rows) / size))
    return np.stack([rows[group].mean(axis=0, dtype=np.float64) for group in groups]).astype(np.float32)


def limits(blocks: Sequence[BlockSpec]) -> tuple[Float32, Float32]:
    """Between what the values of one honest device lie, float32 (d,) each."""
    pairs = [(block.size, LIMITS.get(block.kind, (-block.bound, block.bound))) for block in blocks]
    low, high = (np.concatenate([np.full(size, pair[end], np.float32) for size, pair in pairs]) for end in (0, 1))
    return low, high


@dataclass(frozen=True, slots=True)
class ServerState:
    """FedAdam's first and second moment, float64 (d,) each."""

    first: Float64
    second: Float64


def fedadam(change: Float64, state: ServerState | None, constants: Mapping[str, Any]) -> tuple[Float64, ServerState]:
    """The server's step for a mean change, and its state after it: Reddi et al. (2021), algorithm 2.

        m ← β₁m + (1 − β₁)Δ        v ← β₂v + (1 − β₂)Δ²        step = rate · m / (√v + τ)

    Constants: `rate` 0.1, `beta1` 0.9, `beta2` 0.99, `tau` 0.001. Raises ConfigError.
    """
    take = SettingsReader("fedadam", constants)
    rate = take.number("rate", 0.1, 0, 1e6, above_low=True)
    beta1, beta2 = take.number("beta1", 0.9, 0, 0.9999), take.number("beta2", 0.99, 0, 0.999999)
    tau = take.number("tau", 1e-3, 0, 1e6, above_low=True)
    take.done()
    before = state or ServerState(np.zeros_like(change), np.zeros_like(change))
    first = beta1 * before.first + (1 - beta1) * change
    second = beta2 * before.second + (1 - beta2) * change**2
    return rate * first / (np.sqrt(second) + tau), ServerState(first, second)
