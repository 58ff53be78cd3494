"""What is left of the personal gain when a bundle with another dimension and item set is installed in mid-life.

    python -m edgerec_tools.studies.item_space

Trains two models on Online Retail before the cut-off: 64-dimensional without one share of the items, and
96-dimensional without another. Every device starts under the first; half-way through the period it keeps it, or
installs the second, and its stored events are relearned in the new space. The personal gain is `personalised` minus
`frozen`, each under the same bundle, on the baskets after the switch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgerec_tools import intervals
from edgerec_tools.datasets import load
from edgerec_tools.periods import Period, seconds
from edgerec_tools.progress import bars
from edgerec_tools.simulate import ArmResult, Simulation, simulate
from edgerec_tools.studies.trials import exported

if TYPE_CHECKING:
    from edgerec_exporters.interactions import Interactions

ARMS = ("frozen", "personalised")
LEFT_OUT = 0.05
"""Share of the catalogue that each of the two models does not know."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cutoff", default="2011-06-01", show_default=True)
@click.option("--switch", "switch_at", default="2011-07-15", show_default=True)
@click.option("--until", default="2011-09-01", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), default=500, show_default=True, help="A random sample of users.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core by default.")
def study(cutoff: str, switch_at: str, until: str, devices: int, seed: int, workers: int | None) -> None:
    """Prints a Markdown table: the gain under the old bundle kept, and under the new one."""
    dataset, period, at = load("retail"), Period(seconds(cutoff), seconds(until)), seconds(switch_at)
    with tempfile.TemporaryDirectory() as folder, bars() as progress:
        old, new = _bundles(Path(folder), period.cutoff, seed)
        common: dict[str, Any] = {"arms": ARMS, "devices": devices, "seed": seed, "workers": workers}
        kept = simulate(dataset, old, period, progress=progress, **common)
        switched = simulate(dataset, old, period, switch=(at, new), progress=progress, **common)
    click.echo("| view | baskets | gain, old bundle kept | gain, new bundle | kept of it |")
    click.echo("| --- | --- | --- | --- | --- |")
    for view in ("novel", "all"):
        (_, before), (n, after) = (_gain(simulation, view, at, seed) for simulation in (kept, switched))
        share = after.value / before.value
        click.echo(f"| {view} | {n} | {_shown(before)} | {_shown(after)} | {share:.0%} |")


def _bundles(folder: Path, cutoff: float, seed: int) -> tuple[Path, Path]:
    """The two bundles, version 1 and 2."""
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.recipe import recipe_for
    from edgerec_exporters.train import train

    data = Interactions.from_dataset(load("retail"))
    missing = np.array_split(np.random.default_rng(seed).permutation(data.n_items), round(1 / LEFT_OUT))
    out = []
    for version, (rows, dim) in enumerate(((missing[0], 64), (missing[1], 96)), 1):
        recipe = replace(recipe_for("bag"), dim=dim)
        model = train(without_items(data, rows), cutoff=cutoff, recipe=recipe, seed=seed + version)
        out.append(exported(model, folder, version))
    return out[0], out[1]


def without_items(data: Interactions, rows: np.ndarray[Any, Any]) -> Interactions:
    """The data set as if those items, given as rows, did not exist."""
    known = np.setdiff1d(np.arange(data.n_items), rows)
    keep = np.isin(data.item, known)
    columns: Mapping[str, Any] = {name: getattr(data, name)[keep] for name in ("user", "at", "group", "kind", "value")}
    described: Mapping[str, Any] = {
        name: [getattr(data, name)[row] for row in known.tolist()] for name in ("items", "titles", "attributes")
    }
    item = np.searchsorted(known, data.item[keep]).astype(np.int32)
    return replace(data, item=item, **columns, **described)


def _gain(simulation: Simulation, view: str, at: float, seed: int) -> tuple[int, intervals.Interval]:
    """Mean difference in NDCG@10 over the baskets from the switch on, and their number."""
    frozen, personalised = (_arm(simulation, name).views[view] for name in ARMS)
    after = simulation.at[frozen.basket] >= at
    difference = (personalised.ndcg - frozen.ndcg)[after]
    return len(difference), intervals.bootstrap_mean(frozen.user[after], difference, seed=seed)


def _arm(simulation: Simulation, name: str) -> ArmResult:
    return next(arm for arm in simulation.arms if arm.name == name)


def _shown(interval: intervals.Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


if __name__ == "__main__":
    study()
