"""What an event filter is worth: a fifth of every user's events is replaced by noise, with and without the filter.

    edgerec train --data retail --cutoff 2011-06-01 --out val.model
    python -m edgerec_tools.studies.noise val.model

`bursts`: runs of 20 random items, a second apart. `rates`: the same, a tenth of a second apart. `swaps`: items of real
baskets exchanged for random ones at natural times, which nothing can tell one by one. Random items are drawn by their
popularity. Noise is never asked for, and neither is what it replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from edgerec_tools.comparison import document
from edgerec_tools.datasets import Dataset, load
from edgerec_tools.periods import Period, seconds
from edgerec_tools.studies.trials import replayed

SHARE, BURST = 0.2, 20
SPACING_S = {"bursts": 1.0, "rates": 0.1}
MODES = ("bursts", "rates", "swaps")
ARMS = ("frozen", "fresh", "personalised")

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Noisy(NamedTuple):
    """A data set with noise in it, and which events are real, bool (n_events,)."""

    dataset: Dataset
    real: Bools


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--cutoff", default="2011-06-01", show_default=True)
@click.option("--until", default="2011-09-01", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), default=500, show_default=True, help="A random sample of users.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one per core by default.")
def study(model: Path, cutoff: str, until: str, devices: int, seed: int, workers: int | None) -> None:
    """Prints a Markdown table: NDCG@10 without noise, with noise, and with noise and the filter."""
    from edgerec_exporters.event_limits import event_limits
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.trained import load_trained

    dataset, period = load("retail"), Period(seconds(cutoff), seconds(until))
    trained = load_trained(model)
    limits = {"quality": event_limits(Interactions.from_dataset(dataset.before(period.cutoff)))}
    click.echo("| noise | filter | novel | fall | all | fall | worse share against fresh | worst decile |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- |")

    def run(data: Dataset, filters: Mapping[str, Any], asked: Bools | None = None) -> dict[str, Any]:
        options = {"devices": devices, "seed": seed, "workers": workers}
        return document(replayed(replace(trained, filters=filters), data, period, arms=ARMS, asked=asked, **options))

    swapped = add_noise(dataset, "swaps", seed)
    clean = run(swapped.dataset.select(swapped.real), {})  # the same events are left in every mode
    base = {view: _arm(clean)["views"][view]["ndcg@10"] for view in ("novel", "all")}
    click.echo(_line("none", False, clean, base))
    for mode in MODES:
        noisy = add_noise(dataset, mode, seed)
        for filters in ({}, limits):
            click.echo(_line(mode, bool(filters), run(noisy.dataset, filters, noisy.real), base))


def add_noise(dataset: Dataset, mode: str, seed: int) -> Noisy:
    """SHARE of every user's events replaced; the same events for every mode."""
    rng = np.random.default_rng(seed)
    gone = _chosen(dataset, rng)
    popular = rng.permutation(dataset.item)  # an event drawn at random is an item drawn by popularity
    if mode == "swaps":
        item = dataset.item.copy()
        item[gone] = popular[: len(gone)]
        real = np.ones(dataset.n_events, np.bool_)
        real[gone] = False
        return Noisy(replace(dataset, item=item), real)
    keep = np.ones(dataset.n_events, np.bool_)
    keep[gone] = False
    user = dataset.user[gone]
    at = np.empty(len(gone))
    for rows in _bursts(user):
        at[rows] = _begin(dataset, int(user[rows[0]]), rng) + SPACING_S[mode] * np.arange(len(rows))
    return _joined(dataset, keep, user, popular[: len(gone)], at)


def _chosen(dataset: Dataset, rng: np.random.Generator) -> Rows:
    """Places of the events that go, SHARE of each user's, by user."""
    order = np.argsort(dataset.user, kind="stable")
    bounds = np.cumsum(np.bincount(dataset.user, minlength=dataset.n_users))
    parts = np.split(order, bounds[:-1])
    return np.concatenate([rng.permutation(part)[: round(SHARE * len(part))] for part in parts]).astype(np.int64)


def _bursts(user: NDArray[np.int32]) -> Iterator[Rows]:
    """Places of each burst's events; `user` is sorted into blocks."""
    begins = np.flatnonzero(np.diff(user, prepend=-1))
    for first, end in zip(begins.tolist(), np.append(begins[1:], len(user)).tolist(), strict=True):
        for start in range(first, end, BURST):
            yield np.arange(start, min(start + BURST, end))


def _begin(dataset: Dataset, user: int, rng: np.random.Generator) -> float:
    """A moment between the user's first and last event, POSIX seconds."""
    at = dataset.at[dataset.user == user]
    return float(rng.uniform(at.min(), at.max() + 1.0))


def _joined(
    dataset: Dataset, keep: Bools, user: NDArray[np.int32], item: NDArray[np.int32], at: NDArray[np.float64]
) -> Noisy:
    """Real events and noise in one data set, each noise event a basket of its own."""
    n = len(user)
    begins = np.concatenate([dataset.basket_at[dataset.group[keep]], at])
    group = np.concatenate([dataset.group[keep], dataset.n_baskets + np.arange(n)])
    order = np.lexsort((np.arange(len(group)), group, begins))
    begun = np.diff(group[order], prepend=-1) != 0
    ids = [dataset.group_ids[g] if g < dataset.n_baskets else f"noise-{g}" for g in group[order][begun].tolist()]

    def both(real: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([real[keep], noise.astype(real.dtype)])[order]

    joined = replace(
        dataset,
        user=both(dataset.user, user),
        item=both(dataset.item, item),
        at=both(dataset.at, at),
        kind=both(dataset.kind, np.zeros(n)),
        value=both(dataset.value, np.ones(n)),
        group=np.cumsum(begun) - 1,
        group_ids=tuple(ids),
        price=None,
        country=(),
    )
    return Noisy(joined, np.concatenate([np.ones(int(keep.sum()), np.bool_), np.zeros(n, np.bool_)])[order])


def _arm(result: dict[str, Any]) -> dict[str, Any]:
    arm: dict[str, Any] = next(arm for arm in result["arms"] if arm["name"] == "personalised")
    return arm


def _line(name: str, filtered: bool, result: dict[str, Any], base: dict[str, float]) -> str:
    arm = _arm(result)
    cells = [name, "on" if filtered else "off"]
    for view, value in base.items():
        cells += [f"{arm['views'][view]['ndcg@10']:.4f}", f"{arm['views'][view]['ndcg@10'] - value:+.4f}"]
    tails = [arm["vs"]["fresh"][view] for view in base]
    cells.append(" · ".join("–" if t["worse_share"] is None else f"{t['worse_share']:.1%}" for t in tails))
    cells.append(" · ".join("–" if t["worst_decile"] is None else f"{t['worst_decile']:+.4f}" for t in tails))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    study()
