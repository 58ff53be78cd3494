"""What an attacker on membership may see: single deltas as they travel, shares of them, and what a round publishes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerec.deltas import Delta
from edgerec.federation import shares
from edgerec.federation.encoding import SEED_BYTES, encode, parse
from edgerec.types import Float32, Float64
from edgerec_tools.studies.federated.fleet import BLOCK, Chance, Wire, sent
from edgerec_tools.studies.federated.harness import Bools, Devices
from edgerec_tools.studies.federated.membership import Seen


def pooled(rounds: Sequence[Devices], most: int, random: np.random.Generator) -> Devices:
    """At most so many deltas, of all rounds."""
    user = np.concatenate([one.user for one in rounds])
    items = np.concatenate([one.items for one in rounds])
    chosen = random.permutation(len(user))[:most]
    return Devices(user[chosen], items[chosen])


def single(devices: Devices, wire: Wire | None, sigma: float, seed: int) -> Seen:
    """One delta of each: as counted where `wire` is None, else clipped and rounded, with local noise of `sigma`."""
    value = _travelled(devices.items, wire, sigma, seed)
    return Seen(value, value[_others(len(value), seed)], devices.items, devices.user)


def many(rounds: Sequence[Devices], wire: Wire | None, sigma: float, seed: int, least: int = 3) -> Seen:
    """The sum of all deltas of each device that sent at least so many; true is what it consumed in any of them."""
    users, times = np.unique(np.concatenate([one.user for one in rounds]), return_counts=True)
    chosen = users[times >= least]
    truth = np.zeros((len(chosen), rounds[0].items.shape[1]), np.bool_)
    value = np.zeros(truth.shape, np.float32)
    for number, one in enumerate(rounds):
        own = np.flatnonzero(np.isin(one.user, chosen))
        place = np.searchsorted(chosen, one.user[own])
        truth[place] |= one.items[own]
        value[place] += _travelled(one.items[own], wire, sigma, seed * 100 + number)
    return Seen(value, value[_others(len(value), seed)], truth, chosen)


def share(devices: Devices, wire: Wire, seed: int) -> Seen:
    """The share of numbers of each delta, as one of two gateways sees it, read as whole numbers around 0."""
    rows = sent(devices.items, wire, Chance(seed))
    specs = (wire.spec(rows.shape[1]),)
    random = np.random.default_rng(seed)
    value = np.empty_like(rows)
    for place, row in enumerate(rows):
        payload = encode(Delta("0" * 32, 1, {BLOCK: row}), specs)
        numbers, _ = shares.split(payload, random.bytes(SEED_BYTES))
        value[place] = shares.signed(shares.ring(parse(numbers)))
    return Seen(value, value[_others(len(value), seed)], devices.items, devices.user)


def published(devices: Devices, wire: Wire, cohort: int, sigma: float, seed: int) -> Seen:
    """For every user a round of `cohort` devices they are in, and the same round with another user in their place.

    Seen is the difference of two published popularities: the sum of the round's deltas, with central noise of `sigma`.
    The rest of a cohort is drawn anew for every user, the noise too.
    """
    random = np.random.default_rng(seed)
    rows = sent(devices.items, wire, Chance(seed))
    value, other = np.empty_like(rows), np.empty_like(rows)
    for place, swapped in enumerate(_others(len(rows), seed)):
        left = np.setdiff1d(np.arange(len(rows)), (place, swapped), assume_unique=True)
        rest = rows[random.choice(left, cohort - 1, replace=False)].sum(0)
        noise = random.normal(0, sigma, rows.shape[1]) if sigma else 0.0
        value[place], other[place] = rest + rows[place] + noise, rest + rows[swapped] + noise
    return Seen(value, other, devices.items, devices.user)


def _travelled(items: Bools, wire: Wire | None, sigma: float, seed: int) -> Float32:
    if wire is None:
        return items.astype(np.float32)
    rows = sent(items, wire, Chance(seed))
    if not sigma:
        return rows
    noise: Float64 = np.random.default_rng([seed, 1]).normal(0, sigma, rows.shape)
    return (np.round((rows + noise) / wire.unit) * wire.unit).astype(np.float32)


def _others(n: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Another row for each, by a random cycle."""
    order = np.random.default_rng([seed, 2]).permutation(n)
    found = np.empty(n, np.int64)
    found[order] = np.roll(order, 1)
    return found
