"""What privacy, absence and every setting cost in accuracy: the studies that need no attacker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgerec.types import Float32, Float64
from edgerec_exporters.federation.growth import Growth
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_tools import intervals
from edgerec_tools.intervals import Interval
from edgerec_tools.studies.federated.fleet import Round, Server, Wire, honest, learn
from edgerec_tools.studies.federated.harness import VIEWS, Devices, Field, View, serve, view_of
from edgerec_tools.studies.federated.private import READERS, Budget, Gains, noisy_rounds
from edgerec_tools.studies.federated.reports import Tell
from edgerec_tools.studies.federated.tables import around, number, table
from edgerec_tools.studies.plots import COLOURS, panels

NONE = float("inf")
EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0, NONE)
FLEETS = (1.0, 3.0, 10.0, 30.0)
PLAIN, FILTER = "added up", "Kalman filter"


class Trial(NamedTuple):
    """The settings of rounds; `every` in days · `devices`: so many of a round's send, None: all of them."""

    wire: Wire = Wire()
    half_life: float = 7.0
    every: float = 7.0
    devices: int | None = None
    growth: Growth | None = Growth()


def learned(fleet: Field, trial: Trial, seed: int) -> list[Float32]:
    """The popularity after each round."""
    if trial.devices is not None:
        random = np.random.default_rng([seed, 5])
        fleet = replace(fleet, rounds=[_some(one, trial.devices, random) for one in fleet.rounds])
    server = Server(RoundSettings(aggregator="bounded_mean", least_cohort=1), trial.wire, trial.growth)
    return learn(fleet, honest(fleet, trial.wire, seed).__getitem__, server, half_life=trial.half_life, seed=seed)


def _some(one: Devices, most: int, random: np.random.Generator) -> Devices:
    chosen = random.permutation(len(one.user))[:most]
    return Devices(one.user[chosen], one.items[chosen])


def privacy_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """The share of the gain that is kept: over ε and the size of the fleet, over caps and bounds, and local noise."""
    gains = Gains.of(fleet)
    curve = [(name, Budget(epsilon)) for epsilon in EPSILONS for name in (PLAIN, FILTER)]
    sizes = [(FILTER, Budget(fleet=size)) for size in FLEETS[1:]]
    caps = [(FILTER, Budget(8.0, most, bound)) for most in (1, 2, 3, 5, 13) for bound in (2.0, 4.0)]
    local = [(FILTER, Budget(epsilon, local=True)) for epsilon in (8.0, 16.0)]
    local += [(FILTER, Budget(NONE, 99, 4.0, local=True, times=times)) for times in (0.1, 0.25, 0.5, 1.0)]
    whole = [*curve, *sizes, *caps, *local]
    kept = {}
    for done, (name, budget) in enumerate(whole, 1):
        rounds = [noisy_rounds(fleet, budget, seed) for seed in range(seeds)]
        kept[name, budget] = gains.kept([READERS[name](fleet, one) for one in rounds])
        tell(done, len(whole))
    parts = [f"Gain without noise: {', '.join(f'{view} {number(gains.gain(view))}' for view in VIEWS)}."]
    for title, chosen in (("ε", curve), ("fleet", sizes), ("caps and bounds", caps), ("local noise", local)):
        parts += [f"By {title}:", _kept_table((key, kept[key]) for key in chosen)]
    if plot:
        _plot_privacy(plot, kept)
    return "\n\n".join(parts)


def _kept_table(found: Iterable[tuple[tuple[str, Budget], Mapping[str, Interval]]]) -> str:
    lines = [
        [
            name,
            "∞" if budget.epsilon == NONE else f"{budget.epsilon:g}",
            f"{budget.multiplier:.2f}",
            f"{budget.most_rounds}",
            f"{budget.bound:g}",
            f"{budget.fleet:g}",
            *(_share(kept[view]) for view in VIEWS),
        ]
        for (name, budget), kept in found
    ]
    return table(("read by", "ε", "multiplier", "rounds", "bound", "fleet ×", "kept, novel", "kept, all"), lines)


def _share(found: Interval) -> str:
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]".replace("%", " %").replace("-", "−")


def _plot_privacy(path: Path, kept: Mapping[tuple[str, Budget], Mapping[str, Interval]]) -> None:
    titles = (
        "all: share of the gain kept",
        "novel: share of the gain kept",
        "all, larger fleets",
        "novel, larger fleets",
    )
    finite = [epsilon for epsilon in EPSILONS if epsilon != NONE]
    with panels(path, titles) as axes:
        for panel, view in zip(axes, reversed(VIEWS), strict=False):
            for colour, name in zip(COLOURS, (PLAIN, FILTER), strict=False):
                _line(panel, finite, [kept[name, Budget(one)][view] for one in finite], colour, name)
            panel.set_xlabel("ε per user and quarter, δ = 1e-5")
            panel.legend()
        for panel, view in zip(axes[2:], reversed(VIEWS), strict=True):
            found = [kept[FILTER, Budget(fleet=size)][view] for size in FLEETS]
            _line(panel, [265 * size for size in FLEETS], found, COLOURS[1], f"{FILTER}, ε = 8")
            panel.set_xlabel("devices a week")
            panel.legend()


def _line(panel: object, x: Sequence[float], found: Sequence[Interval], colour: str, name: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    panel.plot(x, [one.value for one in found], color=colour, marker="o", ms=3, label=name)
    panel.fill_between(x, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.12, lw=0)
    panel.set_xscale("log", base=2)
    panel.axhline(0.9, color="#8a8f98", lw=0.8, ls="--")
    panel.set_xticks(list(x), [f"{one:g}" for one in x])


def dropout_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """Deltas that never come, deltas that come a week late, and both."""
    ways = {
        "all come in time": (0.0, 0.0),
        "30 % never come": (0.3, 0.0),
        "20 % come a week late": (0.0, 0.2),
        "30 % never, 20 % late": (0.3, 0.2),
    }
    server = Server(RoundSettings(aggregator="bounded_mean"), growth=Growth())
    views, found = _views(fleet), {}
    for done, (name, way) in enumerate(ways.items(), 1):
        popularity = [learn(fleet, absent(fleet, seed, *way).__getitem__, server, seed=seed) for seed in range(seeds)]
        found[name] = _served(views, popularity)
        tell(done, len(ways))
    return _compared(views, found, "deltas")


def absent(fleet: Field, seed: int, never: float, late: float) -> list[Round]:
    """What comes in: every delta at most once, in its round or in the next."""
    random = np.random.default_rng([seed, 4])
    waiting = np.zeros((0, fleet.n_items), np.float32)
    found = []
    for one in honest(fleet, Wire(), seed):
        drawn = random.random(len(one.rows))
        now, then = drawn >= never + late, (drawn >= never) & (drawn < never + late)
        found.append(Round(np.concatenate((one.rows[now], waiting))))
        waiting = one.rows[then]
    return found


def settings_report(fleet: Field, seeds: int, plot: Path | None, tell: Tell) -> str:
    """One setting at a time, against those that are recommended."""
    base = Trial()
    trials = {
        "recommended": base,
        **{f"bound {one:g}": base._replace(wire=Wire(bound=one)) for one in (1.0, 2.0, 3.0, 6.0, 100.0)},
        **{f"unit 1/{one}": base._replace(wire=Wire(unit=1 / one)) for one in (1, 4, 64, 256)},
        **{f"half-life {one:g} days": base._replace(half_life=one) for one in (2.0, 4.0, 10.0, 15.0, 30.0)},
        **{f"rounds every {one:g} days": base._replace(every=one) for one in (1.0, 3.5, 14.0, 28.0)},
        **{f"{one} devices a round": base._replace(devices=one) for one in (50, 100, 200)},
        "growth: none": base._replace(growth=None),
        **{f"growth: floor {one:g}": base._replace(growth=Growth(floor=one)) for one in (0.01, 0.03)},
        **{f"growth: most {one:g}": base._replace(growth=Growth(most=one)) for one in (1.25, 1.5)},
        "growth: least .5": base._replace(growth=Growth(least=0.5)),
    }
    views, found = _views(fleet), {}
    for done, (name, trial) in enumerate(trials.items(), 1):
        own = fleet if trial.every == fleet.every else fleet.with_rounds(trial.every)
        timed = {v: replace(view, week=own.week[view.kept]) for v, view in views.items()}
        found[name] = _served(timed, [learned(own, trial, seed) for seed in range(seeds)])
        tell(done, len(trials))
    return _compared(views, found, "setting")


def _views(fleet: Field) -> dict[str, View]:
    """With the weights of the recommended settings, which stay."""
    fresh = learned(fleet, Trial(), 0)
    return {view: view_of(fleet, view, fresh) for view in VIEWS}


def _served(views: Mapping[str, View], popularity: Sequence[Sequence[Float32]]) -> dict[str, Float64]:
    """NDCG@10 of each basket, the mean over the seeds."""
    return {name: np.mean([serve(view, one).ndcg for one in popularity], axis=0) for name, view in views.items()}


def _compared(views: Mapping[str, View], found: Mapping[str, Mapping[str, Float64]], head: str) -> str:
    """NDCG@10 of each trial, and how it differs from that of the first, paired by user."""
    base = next(iter(found.values()))
    lines = []
    for name, one in found.items():
        cells = [name]
        for view in VIEWS:
            apart = intervals.bootstrap_difference(views[view].user, one[view], base[view])
            cells += [number(float(one[view].mean())), around(apart, float(base[view].mean()))]
        lines.append(cells)
    return table((head, "novel", "change", "all", "change"), lines)
