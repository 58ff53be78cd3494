"""The studies as texts: which settings are tried, and the tables and plots that come of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgerec_tools.studies.federated import poisoning, releases
from edgerec_tools.studies.federated.fleet import Wire
from edgerec_tools.studies.federated.harness import Devices, Field
from edgerec_tools.studies.federated.membership import Seen, Verdict, best
from edgerec_tools.studies.federated.tables import number, table

Tell = Callable[[int, int], None]
"""Is told how many of how many steps are done."""
SHARES = (0.01, 0.10, 0.28)
"""The last: 5 % of the users of the whole period, if hostile ones send every week and honest ones when they bought."""
FEW = (poisoning.UNDEFENDED, poisoning.SPLIT, "mean", "bounded_mean", poisoning.RECOMMENDED)
"""Aggregators that are tried with every share of hostile devices; the others with 5 %."""
MOST_DELTAS = 1200
COHORTS = (50, 100, 150, 200, 250, 500)


def poisoning_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """Tables of every attack against every aggregator, with 5 % hostile devices."""
    ground = poisoning.Ground.of(fleet, seeds)
    joins = poisoning.defences(ground.devices)
    steps = iter(range(1, len(joins) + 1))
    clean, found = poisoning.trials(ground, joins, [poisoning.EXPECTED], lambda name: tell(next(steps), len(joins)))
    parts = [
        f"Targets: {', '.join(f'{name} = row {row}' for name, row in ground.targets.items())}.",
        "Without an attack:",
        poisoning.clean_table(ground, clean),
        "5 % hostile:",
        poisoning.summary_table(ground, clean, found),
        poisoning.verdict_line(ground, clean, found),
        "NDCG@10 lost, worst target:",
        poisoning.loss_table(ground, clean, found),
    ]
    for target in ground.targets:
        parts += [f"Exposure@10, {target}:", poisoning.attack_table(clean, found, target)]
    return "\n\n".join(parts)


def shares_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """The best aggregators, and what they are compared with, under other shares of hostile devices."""
    ground = poisoning.Ground.of(fleet, seeds)
    joins = {name: join for name, join in poisoning.defences(ground.devices).items() if name in FEW}
    whole, parts = len(joins) * len(SHARES), []
    steps = iter(range(1, whole + 1))
    for share in SHARES:
        clean, found = poisoning.trials(ground, joins, [share], lambda name: tell(next(steps), whole))
        parts += [f"{share:.0%} hostile:".replace("%", " %"), poisoning.summary_table(ground, clean, found)]
    return "\n\n".join(parts)


def membership_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """The best attacker per way of sending, over the seeds: its F1, with another user's, and the difference."""
    popularity = np.log1p(fleet.counts(30.0))
    wire = Wire()

    def tried(make: Callable[[int], Seen]) -> list[Verdict]:
        return [best(make(seed), popularity, seed) for seed in range(seeds)]

    def pool(seed: int) -> Devices:
        return releases.pooled(fleet.rounds, MOST_DELTAS, np.random.default_rng(seed))

    def aggregate(cohort: int, sigma: float) -> Callable[[int], Seen]:
        return lambda seed: releases.published(pool(seed), wire, cohort, sigma, seed)

    ways: dict[str, Callable[[int], Seen]] = {
        "open, as counted": lambda seed: releases.single(pool(seed), None, 0.0, seed),
        "open, clipped to 4": lambda seed: releases.single(pool(seed), wire, 0.0, seed),
    }
    for times in (0.1, 0.25, 0.5, 1.0, 2.0):
        sigma = times * wire.bound
        ways[f"open, local noise × {times:g}"] = lambda seed, s=sigma: releases.single(pool(seed), wire, s, seed)  # type: ignore[misc]
    ways["open, all deltas of a device"] = lambda seed: releases.many(fleet.rounds, wire, 0.0, seed)
    for times in (0.5, 1.0, 2.0):
        sigma = times * wire.bound
        ways[f"the same, local noise × {times:g}"] = lambda seed, s=sigma: releases.many(fleet.rounds, wire, s, seed)  # type: ignore[misc]
    ways["split, one share"] = lambda seed: releases.share(pool(seed), wire, seed)
    for cohort in COHORTS:
        ways[f"published sum of {cohort}"] = aggregate(cohort, 0.0)
    for cohort in (50, 250):
        ways[f"published sum of {cohort}, noise × 0.64 (ε = 8 a round)"] = aggregate(cohort, 0.64 * wire.bound)
    lines = []
    for done, (name, make) in enumerate(ways.items(), 1):
        lines.append(_membership_line(name, tried(make)))
        tell(done, len(ways))
    return table(("what is seen", "best attacker", "F1", "F1, another user", "difference, 95 %"), lines)


def _membership_line(name: str, found: list[Verdict]) -> list[str]:
    """The mean over the seeds; the interval is the widest that any seed gives."""
    apart = [one.apart for one in found]
    low, high = min(one.low for one in apart), max(one.high for one in apart)
    means = (np.mean([one.f1 for one in found]), np.mean([one.other for one in found]))
    who = sorted({one.attacker for one in found})
    difference = f"{number(float(np.mean([one.value for one in apart])))} [{number(low)}, {number(high)}]"
    return [name, ", ".join(who), *(number(float(one), 3) for one in means), difference]
