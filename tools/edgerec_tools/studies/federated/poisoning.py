"""Poisoning for exposure: every attack against every aggregator, and what the defence costs without an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from edgerec.deltas import DeltaError
from edgerec.types import Float64
from edgerec_exporters.federation.growth import Growth
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_tools import intervals
from edgerec_tools.studies.federated import attacks
from edgerec_tools.studies.federated.attacks import Attack, Scene, hostile, keys_of
from edgerec_tools.studies.federated.fleet import Join, Round, Server, Unchecked, Wire, honest, learn
from edgerec_tools.studies.federated.harness import VIEWS, Field, View, exposure, serve, view_of
from edgerec_tools.studies.federated.tables import around, number, percent, table

RECOMMENDED = "bounded_mean + growth"
UNDEFENDED = "no checks"
SPLIT = "split + growth"
MOST_EXPOSURE, MOST_LOSS = 0.05, 0.02
EXPECTED = 0.05
"""Of the devices, that trimmed means and Krums are told to expect to be hostile."""
BUCKET = 10


def defences(devices: int) -> dict[str, Join]:
    """Every way of joining a round's deltas that is tried, for rounds of so many honest devices at least."""
    f = hostile(devices, EXPECTED)
    groups = devices // BUCKET
    krum = {"hostile": f}
    few = {"hostile": max(min(f, (groups - 3) // 2), 0)}

    def ruled(name: str, constants: Mapping[str, float] | None = None, bucket: int = 1) -> Join:
        return Server(RoundSettings(aggregator=name, constants=constants or {}, bucket=bucket, least_cohort=1))

    return {
        UNDEFENDED: Unchecked(),
        SPLIT: Unchecked(Growth(least=0.5)),
        "mean": ruled("mean"),
        "bounded_mean": ruled("bounded_mean"),
        RECOMMENDED: Server(RoundSettings(aggregator="bounded_mean", least_cohort=1), growth=Growth()),
        "median": ruled("median"),
        "median, buckets": ruled("median", bucket=BUCKET),
        "trimmed_mean": ruled("trimmed_mean", {"share": EXPECTED}),
        "trimmed_mean, buckets": ruled("trimmed_mean", {"share": 0.25}, BUCKET),
        "krum": ruled("krum", krum),
        "multi_krum": ruled("multi_krum", krum),
        "multi_krum, buckets": ruled("multi_krum", few, BUCKET),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What attacks are tried on: `views` with weights that stay, `rounds` per seed, `targets` by name,
    `popularity` float64 (n_items,) as the bundle's."""

    fleet: Field
    views: Mapping[str, View]
    rounds: Sequence[Sequence[Round]]
    popularity: Float64
    targets: Mapping[str, int]
    wire: Wire = field(default_factory=Wire)

    @classmethod
    def of(cls, fleet: Field, seeds: int, wire: Wire | None = None) -> Ground:
        """Targets by popularity at the cut-off: never sold, the median, the 95th and the 99th percentile."""
        wire = wire or Wire()
        rounds = [honest(fleet, wire, seed) for seed in range(seeds)]
        fresh = learn(fleet, rounds[0].__getitem__, Server(RoundSettings(least_cohort=1), wire))
        popularity = fleet.counts(30.0)
        order = np.argsort(-popularity, kind="stable")
        at = {"average": 0.5, "popular": 0.05, "bestseller": 0.01}
        targets = {"cold": int(order[-1]), **{name: int(order[int(p * len(order))]) for name, p in at.items()}}
        views = {view: view_of(fleet, view, fresh) for view in VIEWS}
        return cls(fleet, views, rounds, popularity, targets, wire)

    @property
    def devices(self) -> int:
        """Of the smallest round."""
        return min(len(one.user) for one in self.fleet.rounds)


class Outcome(NamedTuple):
    """Per view: `ndcg` float64 (n_baskets,), the mean over the seeds · `exposed` target → share of lists with it."""

    ndcg: Mapping[str, Float64]
    exposed: Mapping[str, Mapping[str, float]]


def play(
    ground: Ground, join: Join, attack: Attack | None = None, target: int = -1, share: float = EXPECTED
) -> Outcome:
    """A whole period under an attack, or none: weekly rounds, then every honest user's lists. Raises DeltaError."""
    ndcg: dict[str, list[Float64]] = {view: [] for view in VIEWS}
    seen: dict[str, list[list[float]]] = {view: [] for view in VIEWS}
    for seed, rounds in enumerate(ground.rounds):
        popularity = learn(ground.fleet, partial(_round, ground, rounds, attack, target, share, seed), join, seed=seed)
        for name, view in ground.views.items():
            lists = serve(view, popularity)
            ndcg[name].append(lists.ndcg)
            seen[name].append([exposure(view, lists, each) for each in ground.targets.values()])
    exposed = {
        view: dict(zip(ground.targets, np.mean(each, axis=0).tolist(), strict=True)) for view, each in seen.items()
    }
    return Outcome({view: np.mean(each, axis=0) for view, each in ndcg.items()}, exposed)


def _round(
    ground: Ground, rounds: Sequence[Round], attack: Attack | None, target: int, share: float, seed: int, number: int
) -> Round:
    rows = rounds[number].rows
    if attack is None:
        return rounds[number]
    n = hostile(len(rows), share)
    random = np.random.default_rng([seed, number])
    more = attack(Scene(n, ground.popularity, target, ground.wire.bound, random))
    keys = [f"honest {place}" for place in range(len(rows))] + keys_of(attack, len(more), n)
    return Round(np.concatenate((rows, more)), keys)


class Trial(NamedTuple):
    """One attack on one aggregator; `outcome` None where nothing came of it but an error or what is not finite."""

    defence: str
    attack: str
    target: str
    share: float
    outcome: Outcome | None


def trials(
    ground: Ground, joins: Mapping[str, Join], shares: Sequence[float], tell: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Outcome], list[Trial]]:
    """Every aggregator without an attack, and under every attack, target and share of hostile devices."""
    clean, found = {}, list[Trial]()
    for name, join in joins.items():
        clean[name] = play(ground, join)
        for share in shares:
            for title, attack, target in _attacks(ground, name):
                row = ground.targets.get(target, -1)
                found.append(Trial(name, title, target, share, _tried(ground, join, attack, row, share)))
        tell(name)
    return clean, found


def _attacks(ground: Ground, defence: str) -> list[tuple[str, Attack, str]]:
    aimed = [(name, attack, target) for name, attack in attacks.TARGETED.items() for target in ground.targets]
    others = [(name, attack, "") for name, attack in attacks.UNTARGETED.items()]
    return aimed + (others[:-1] if defence == SPLIT else others)  # whole numbers modulo 2^32 are always finite


def _tried(ground: Ground, join: Join, attack: Attack, target: int, share: float) -> Outcome | None:
    try:
        found = play(ground, join, attack, target, share)
    except DeltaError:
        return None
    return found


def verdict_line(ground: Ground, clean: Mapping[str, Outcome], found: Sequence[Trial]) -> str:
    """The recommended aggregator's worst loss, with its interval, against the plain mean without an attack."""
    own = [one for one in found if one.defence == RECOMMENDED and one.outcome is not None]
    worst = min(own, key=lambda one: change(one.outcome, clean["mean"]) if one.outcome else 0.0)
    assert worst.outcome is not None
    cells = []
    for view in VIEWS:
        ours, base = worst.outcome.ndcg[view], clean["mean"].ndcg[view]
        apart = intervals.bootstrap_difference(ground.views[view].user, ours, base)
        cells.append(f"{view} {around(apart, float(base.mean()))}")
    return f"{RECOMMENDED} under the worst attack ({worst.attack}): {', '.join(cells)} against the mean without attack."


def clean_table(ground: Ground, clean: Mapping[str, Outcome]) -> str:
    """What an aggregator costs without an attack, against the plain mean."""
    base = clean["mean"]
    lines = []
    for name, found in clean.items():
        cells = [name]
        for view in VIEWS:
            mean = float(base.ndcg[view].mean())
            apart = intervals.bootstrap_difference(ground.views[view].user, found.ndcg[view], base.ndcg[view])
            cells += [number(float(found.ndcg[view].mean())), around(apart, mean)]
        lines.append(cells)
    return table(("aggregator", "novel", "− mean", "all", "− mean"), lines)


def attack_table(clean: Mapping[str, Outcome], found: Sequence[Trial], target: str) -> str:
    """Exposure@10 of one target under the targeted attacks, before → after, the larger of both views."""
    names = list(attacks.TARGETED)
    lines = []
    for defence, quiet in clean.items():
        before = max(quiet.exposed[view][target] for view in VIEWS)
        own = {one.attack: one for one in found if one.defence == defence and one.target == target}
        lines.append([defence, number(before, 3), *(_exposed(own[name]) for name in names)])
    return table(("aggregator", "no attack", *names), lines)


def _exposed(trial: Trial) -> str:
    if trial.outcome is None:
        return "no round"
    return number(max(trial.outcome.exposed[view][trial.target] for view in VIEWS), 3)


def loss_table(ground: Ground, clean: Mapping[str, Outcome], found: Sequence[Trial]) -> str:
    """The largest relative loss of NDCG@10 of each kind of attack, against the same aggregator without an attack."""
    names = [*attacks.TARGETED, *attacks.UNTARGETED]
    lines = []
    for defence, quiet in clean.items():
        own = [one for one in found if one.defence == defence]
        worst = [_worst([one for one in own if one.attack == name], quiet) for name in names]
        lines.append([defence, *worst])
    return table(("aggregator", *names), lines)


def _worst(found: Sequence[Trial], quiet: Outcome) -> str:
    if not found:
        return "–"
    if any(one.outcome is None for one in found):
        return "no round"
    return percent(min(change(one.outcome, quiet) for one in found if one.outcome is not None))


def change(outcome: Outcome, base: Outcome) -> float:
    """The relative change of NDCG@10 in the view where it is worst."""
    return min(float(outcome.ndcg[view].mean() / base.ndcg[view].mean()) - 1 for view in VIEWS)


def summary_table(ground: Ground, clean: Mapping[str, Outcome], found: Sequence[Trial]) -> str:
    """Per aggregator the worst exposure of each target over all attacks, the worst losses, and whether it holds."""
    lines = []
    for name, quiet in clean.items():
        own = [one for one in found if one.defence == name]
        ended = [one for one in own if one.outcome is not None]
        worst = {target: _most_exposed(ended, target) for target in ground.targets}
        hit = min((change(one.outcome, clean["mean"]) for one in ended if one.outcome), default=0.0)
        cost = min((change(one.outcome, quiet) for one in ended if one.outcome), default=0.0)
        failed = [target for target in ground.targets if target != "bestseller" and worst[target] > MOST_EXPOSURE]
        failed += ["accuracy"] if hit < -MOST_LOSS else []
        failed += ["a round fails"] if len(ended) < len(own) else []
        lines.append(
            [
                name,
                *(number(each, 3) for each in worst.values()),
                percent(cost),
                percent(hit),
                ", ".join(failed) or "holds",
            ]
        )
    head = ("aggregator", *ground.targets, "lost, − no attack", "lost, − mean without attack", "fails by")
    return table(head, lines)


def _most_exposed(found: Sequence[Trial], target: str) -> float:
    return max(
        (one.outcome.exposed[v][target] for one in found if one.outcome and one.target == target for v in VIEWS),
        default=0.0,
    )
