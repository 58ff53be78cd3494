"""Rounds without devices: trivial clients, whose deltas the engine checks and joins, against a loop of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.types import Float32, Float64
from edgerec_tools.bench.measure import Row, in_turns

ITEMS, METRICS, TAKEN = 6_368, 32, 8
SIZE = ITEMS + METRICS
MOST_US = 200.0
"""Of a client's round: 5,000 of them a second."""

Client = Callable[[int], Float32]


def blocks() -> tuple[BlockSpec, BlockSpec]:
    return (
        BlockSpec("popularity", "item_counts", ITEMS, 4.0, 0.0625, 7.0),
        BlockSpec("metrics", "metrics", METRICS, 1.0, 2.0**-10),
    )


def clients(n: int) -> Client:
    """A client by its number: what it sends is 1 for each of a few items, float32 (SIZE,)."""
    taken = np.random.default_rng(0).integers(0, ITEMS, (n, TAKEN))

    def client(number: int) -> Float32:
        delta = np.zeros(SIZE, np.float32)
        delta[taken[number]] = 1.0
        return delta

    return client


def plain_round(client: Client, n: int) -> Float64:
    """The mean, believing whatever comes in."""
    total = np.zeros(SIZE, np.float64)
    for number in range(n):
        total += client(number)
    return total / n


def rows(n: int, rounds: int) -> Iterator[Row]:
    """A round of n clients by the mean, and by a trimmed mean over buckets; per client."""
    from edgerec.plugins import Plugins
    from edgerec_exporters.federation.engine import aggregate
    from edgerec_exporters.federation.rules import rule_of
    from edgerec_exporters.federation.settings import RoundSettings

    client, specs = clients(n), blocks()
    trimmed = RoundSettings("trimmed_mean", bucket=10, least_cohort=1)
    rules = {"mean": RoundSettings(least_cohort=1), "trimmed mean of buckets of 10": trimmed}
    made = rule_of(trimmed, Plugins())

    def engine(settings: RoundSettings) -> Float64:
        sent = np.empty((n, SIZE), np.float32)
        for number in range(n):
            sent[number] = client(number)
        return aggregate(settings, specs, sent, rule=made, seed=0).blocks["popularity"]

    taken = in_turns(
        rounds,
        {
            "plain": lambda turn: plain_round(client, n),
            **{name: lambda turn, rule=rule: engine(rule) for name, rule in rules.items()},
        },
        warm_up=1,
    )
    each = {name: timing.p50_us() / n for name, timing in taken.items()}
    for name in rules:
        note = f"{1e6 / each[name]:,.0f} client rounds a second, {1e6 / each['plain']:,.0f} by the loop"
        what = f"round by {name}, per trivial client, {n:,} clients, {SIZE:,} floats"
        yield Row(what, each[name], "µs", "numpy loop", each["plain"], MOST_US, target_of="ours", note=note)
