"""User-level differential privacy: how much of the gain of federation is left under noise, by how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from edgerec.types import Float32, Float64, Int64
from edgerec_exporters.federation.accountant import noise_multiplier_for
from edgerec_exporters.federation.engine import aggregate
from edgerec_exporters.federation.popularity import shrunk
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings
from edgerec_tools import intervals
from edgerec_tools.intervals import Interval
from edgerec_tools.studies.federated import tracking
from edgerec_tools.studies.federated.fleet import BLOCK, Chance, Wire, frozen, honest, learn, popularity_of, sent
from edgerec_tools.studies.federated.fleet import Unchecked as Plain
from edgerec_tools.studies.federated.harness import VIEWS, Devices, Field, View, serve, view_of

DELTA = 1e-5
LONG = 60.0
HALF_LIFE = 7.0
WEIGHTS = (0.5, 0.7, 0.85, 1.0)
"""Times the weight of popularity that a fleet without noise has: the less is known, the less it should count."""


class Budget(NamedTuple):
    """(ε, 1e-5) for every user over the whole period, in at most `most_rounds` rounds; ε = ∞: no noise.

    `fleet`: how many times larger the fleet is thought to be, every device with so many others like it · `local`: each
    device adds the noise itself · `times`: the noise multiplier, in place of that which ε asks for.
    """

    epsilon: float = 8.0
    most_rounds: int = 2
    bound: float = 2.0
    fleet: float = 1.0
    local: bool = False
    times: float | None = None

    @property
    def multiplier(self) -> float:
        if self.times is not None:
            return self.times
        return 0.0 if np.isinf(self.epsilon) else noise_multiplier_for(self.epsilon, DELTA, self.most_rounds)


class Noisy(NamedTuple):
    """A round's sums, float64 (n_items,), and the standard deviation of their noise."""

    sums: Float64
    sigma: float


Read = Callable[[Field, Sequence[Noisy]], list[Float32]]
"""The popularity of every week, from the noisy rounds."""


def added(shrink: float = 0.0) -> Read:
    """As a round does by default: old counts fade, new ones are added, shrunk by so many deviations of the noise."""

    def read(fleet: Field, rounds: Sequence[Noisy]) -> list[Float32]:
        counts = fleet.counts(HALF_LIFE)
        found = [popularity_of(counts)]
        for one in rounds:
            counts = counts * 0.5 ** (fleet.every / HALF_LIFE) + shrunk(one.sums, one.sigma, shrink)
            counts = np.maximum(counts, 0)
            found.append(popularity_of(counts))
        return found

    return read


def tracked(fleet: Field, rounds: Sequence[Noisy]) -> list[Float32]:
    """By the Kalman filter."""
    drift = tracking.Drift()
    share = 1 - 0.5 ** (fleet.every / HALF_LIFE)
    rates = tracking.begun(fleet.counts(HALF_LIFE) * share, fleet.counts(LONG), drift)
    found = [popularity_of(tracking.counts_of(rates, fleet.every, HALF_LIFE))]
    for one in rounds:
        rates = tracking.after(rates, one.sums, one.sigma, drift)
        found.append(popularity_of(tracking.counts_of(rates, fleet.every, HALF_LIFE)))
    return found


READERS: Mapping[str, Read] = {
    "added up": added(),
    "added up, shrunk by σ": added(1.0),
    "Kalman filter": tracked,
}


def within_budget(rounds: Sequence[Devices], most: int) -> list[Devices]:
    """The devices that have taken part in fewer than `most` rounds before: everybody sends at once."""
    times: dict[int, int] = {}
    kept = []
    for one in rounds:
        own = [place for place, user in enumerate(one.user.tolist()) if times.get(user, 0) < most]
        for place in own:
            times[int(one.user[place])] = times.get(int(one.user[place]), 0) + 1
        kept.append(Devices(one.user[own], one.items[own]))
    return kept


def noisy_rounds(fleet: Field, budget: Budget, seed: int) -> list[Noisy]:
    """The rounds as the engine gives them, with rounded normal noise in place of the discrete Gaussian's generator."""
    chance, random = Chance(seed), np.random.default_rng([seed, 3])
    wire = Wire(budget.bound)

    def noise(sigma: float, n: int) -> Int64:
        return np.rint(random.normal(0, sigma, n)).astype(np.int64)

    found = []
    for one in within_budget(fleet.rounds, budget.most_rounds):
        rows = sent(one.items, wire, chance)
        multiplier = budget.multiplier * (len(rows) ** 0.5 if budget.local else 1) / budget.fleet
        privacy = PrivacySettings("central", multiplier=multiplier) if multiplier else PrivacySettings()
        settings = RoundSettings(privacy=privacy, least_cohort=1)
        result = aggregate(settings, (wire.spec(fleet.n_items),), rows, seed=0, noise=noise)
        found.append(Noisy(result.sums(BLOCK), result.sigma.get(BLOCK, 0.0)))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """Views with the weights of a fleet without noise; the NDCG@10 of each basket there, and with the bundle's own
    popularity under weights of its own."""

    fleet: Field
    views: Mapping[str, View]
    full: Mapping[str, Float64]
    stale: Mapping[str, Float64]

    @classmethod
    def of(cls, fleet: Field) -> Gains:
        fresh = learn(fleet, honest(fleet, Wire(), 0).__getitem__, Plain())
        views = {view: view_of(fleet, view, fresh) for view in VIEWS}
        full = {view: serve(one, fresh).ndcg for view, one in views.items()}
        stale = {view: serve(view_of(fleet, view, frozen(fleet)), frozen(fleet)).ndcg for view in VIEWS}
        return cls(fleet, views, full, stale)

    def gain(self, view: str) -> float:
        return float((self.full[view] - self.stale[view]).mean())

    def kept(self, popularity: Sequence[Sequence[Float32]]) -> dict[str, Interval]:
        """View → the share of the gain that is kept, the mean over the seeds, with the weight of popularity that is
        best for it; the interval is that of the paired difference to the full gain."""
        found = {}
        for name, view in self.views.items():
            tried = [np.mean([serve(_weighted(view, w), one).ndcg for one in popularity], axis=0) for w in WEIGHTS]
            ours = max(tried, key=lambda each: float(each.mean()))
            short = intervals.bootstrap_difference(view.user, ours, self.full[name])
            gain = self.gain(name)
            value, low, high = (1 + one / gain for one in (short.value, short.low, short.high))
            found[name] = Interval(value, low, high, short.n_baskets, short.n_users)
        return found


def _weighted(view: View, times: float) -> View:
    return replace(view, weight=view.weight * times)
