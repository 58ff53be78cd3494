"""What diversity costs: accuracy against intra-list diversity, for every method and strength of the reranker.

    edgerec train --data retail --cutoff 2011-06-01 --out val.model
    python -m edgerec_tools.studies.diversity val.model --plot docs/results/diversity.svg

Every device replays its life through the real runtime. Before a basket its 100 best candidates are taken down, and
every setting reranks the same ones. Two measures of a page, both from 1 - cosine of its items' vectors: `diversity`,
the mean over all pairs (intra-list diversity: Smyth & McClave 2001), and `nearest`, the mean over the items of the
distance to the one that is most like it. Half of the users choose each method's strength: the most diverse one that
loses no more than 2 % of NDCG@10. The others are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

import edgerec
from edgerec.types import Model, Page, Profile, Request, Slate
from edgerec_plugins.diversity import Diversity, unit
from edgerec_tools import intervals, metrics
from edgerec_tools.datasets import Dataset, load
from edgerec_tools.periods import Period, seconds
from edgerec_tools.progress import Progress, bars
from edgerec_tools.protocols import by_user
from edgerec_tools.replay import RULES, Clock, Stories, scenario_of
from edgerec_tools.scratch import scratch
from edgerec_tools.studies.plots import COLOURS, panels
from edgerec_tools.studies.trials import exported

PERIOD = Period(seconds("2011-06-01"), seconds("2011-09-01"))
PLUGINS = ("edgerec_plugins.sgd",)
UNFILTERED = {"learning": {"filter_events": False}}
"""Ratings come in by the dozen in one minute."""
K, POOL = 10, 100
MOST_LOSS = 0.02
HEAD = "| method | strength | NDCG@10 | change | diversity | change | nearest | change |\n" + "| --- " * 8 + "|"
STRENGTHS = {
    "mmr": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0),
    "dpp": (0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 1.0),
    "calibration": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 1.0),
}

Float64 = NDArray[np.float64]
Users = NDArray[np.int64]


class Basket(NamedTuple):
    """A basket to come: the candidates before it, what it held (rows of the bundle, -1 unknown), and the past."""

    user: int
    slate: Slate
    targets: NDArray[np.int32]
    profile: Profile


class Point(NamedTuple):
    """One setting's figures of every basket, each float64 (n_baskets,)."""

    ndcg: Float64
    diversity: Float64
    nearest: Float64


Curves = Mapping[str, Mapping[float, Point]]
"""Method → strength → what came out; strength 0 is the page as it was."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", default="retail", show_default=True, help="A data set, or a file of one.")
@click.option("--last", is_flag=True, help="Ask for each user's last event, instead of for a period's baskets.")
@click.option("--devices", type=click.IntRange(min=2), help="A random sample of so many users; all by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="An SVG file for the curves.")
def study(model: Path, data: str, last: bool, devices: int | None, seed: int, plot: Path | None) -> None:
    """Prints two Markdown tables per view: the curves of all users, and the chosen strengths on half of them."""
    from edgerec_exporters.trained import load_trained

    dataset = load(data)
    take = last_events if last else taken_down
    with scratch() as folder, bars() as progress:
        bundle_path = exported(load_trained(model), folder)
        with edgerec.load_bundle(bundle_path, folder) as bundle:
            baskets = take(dataset, bundle, devices, seed, folder, progress)
            users = {view: np.array([one.user for one in found]) for view, found in baskets.items()}
            curves = {view: measured(found, bundle.model, view, progress) for view, found in baskets.items()}
    for view in baskets:
        click.echo(f"\n{view}: {len(users[view])} baskets, {len(np.unique(users[view]))} users\n")
        _table(curves[view], users[view], seed)
        _chosen_table(curves[view], users[view], seed)
    if plot:
        _plot(plot, curves)


def taken_down(
    dataset: Dataset, bundle: edgerec.Bundle, devices: int | None, seed: int, folder: Path, progress: Progress
) -> dict[str, list[Basket]]:
    """View → every scored basket of the sampled users, from devices that learn as the bundle says."""
    stories = Stories(dataset, PERIOD.cutoff, PERIOD.until)
    users = np.flatnonzero(stories.scored())
    users = np.sort(np.random.default_rng(seed).permutation(users)[:devices])
    row_of = bundle.catalogue.rows(list(dataset.items))
    found: dict[str, list[Basket]] = {view: [] for view in RULES}
    for done, user in enumerate(users.tolist(), 1):
        for view, basket in _life(stories, user, bundle, row_of, folder / str(user)):
            found[view].append(basket)
        progress("devices", done, len(users))
    return found


def _life(
    stories: Stories, user: int, bundle: edgerec.Bundle, row_of: NDArray[np.int32], home: Path
) -> Iterator[tuple[str, Basket]]:
    story, clock, past = stories.of(user), Clock(PERIOD.cutoff), list[int]()
    scenarios = {view: scenario_of(bundle.manifest, rule) for view, rule in RULES.items()}

    def remember(events: list[edgerec.Event]) -> None:
        rows = bundle.catalogue.rows([event.item for event in events])
        past.extend(rows[rows >= 0].tolist())

    with edgerec.open(bundle, home, plugins=PLUGINS, clock=clock, seed=user) as rec:
        if not bundle.manifest.learn_history:
            rec.pause_learning()
        rec.record_many(story.history)
        rec.resume_learning()
        remember(story.history)
        for visit in story.visits:
            clock.now = visit.begins
            for view, targets in visit.targets.items():
                page = rec.recommend(POOL, seen=RULES[view], scenario=scenarios[view], log_exposure=False)
                yield view, Basket(user, _slate(page, bundle), row_of[targets], _profile(past, bundle))
            clock.now = visit.ends
            rec.record_many(visit.events)
            remember(visit.events)


def last_events(
    dataset: Dataset, bundle: edgerec.Bundle, devices: int | None, seed: int, folder: Path, progress: Progress
) -> dict[str, list[Basket]]:
    """The view `novel`: each sampled user's last event, from a device that had all the earlier ones as history."""
    order = by_user(dataset)
    users, begins = np.unique(dataset.user[order], return_index=True)
    ends = np.append(begins[1:], len(order))
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(ends - begins > 1))[:devices])
    scenario, found = scenario_of(bundle.manifest, RULES["novel"]), list[Basket]()
    for done, user in enumerate(chosen.tolist(), 1):
        places = order[begins[user] : ends[user]].tolist()
        events = [
            edgerec.Event(
                dataset.items[dataset.item[n]], dataset.kinds[dataset.kind[n]], None, float(dataset.at[n]), f"{k}"
            )
            for k, n in enumerate(places)
        ]
        rows = bundle.catalogue.rows([event.item for event in events])
        with edgerec.open(bundle, folder / str(user), plugins=PLUGINS, config=UNFILTERED, seed=user) as rec:
            rec.pause_learning()
            rec.record_many(events[:-1])
            page = rec.recommend(POOL, seen=RULES["novel"], scenario=scenario, log_exposure=False)
        past = rows[:-1][rows[:-1] >= 0].tolist()
        found.append(Basket(int(users[user]), _slate(page, bundle), rows[-1:], _profile(past, bundle)))
        progress("devices", done, len(chosen))
    return {"novel": found}


def _slate(page: Page, bundle: edgerec.Bundle) -> Slate:
    return Slate(bundle.catalogue.rows([one.item for one in page]), np.array([one.score for one in page]), K, 0)


def _profile(past: list[int], bundle: edgerec.Bundle) -> Profile:
    """A profile of which the reranker reads the rows alone."""
    count, nothing = len(past), np.zeros(bundle.manifest.dim, np.float32)
    whole = np.zeros(count, np.int64)
    return Profile(
        np.array(past, np.int32), np.zeros(count), whole, whole, np.ones(count, np.bool_), nothing, nothing, {}
    )


def measured(baskets: list[Basket], model: Model, view: str, progress: Progress) -> Curves:
    """Every method at every strength on the same candidates."""
    settings = [(method, strength) for method, strengths in STRENGTHS.items() for strength in (0.0, *strengths)]
    curves: dict[str, dict[float, Point]] = {method: {} for method in STRENGTHS}
    for done, (method, strength) in enumerate(settings, 1):
        reranker = Diversity({"method": method, "strength": strength, "pool": POOL})
        scored = [_scored(reranker, basket, model, view) for basket in baskets]
        curves[method][strength] = Point(*np.array(scored).reshape(-1, 3).T)
        progress(f"settings, {view}", done, len(settings))
    return curves


def _scored(reranker: Diversity, basket: Basket, model: Model, view: str) -> tuple[float, float, float]:
    page = reranker.rerank(basket.slate, Request(view, RULES[view], 0.0), basket.profile, model).rows[:K]
    hit = metrics.hits(page, basket.targets[basket.targets >= 0], K)
    return float(metrics.ndcg(hit, len(basket.targets))), *distances(model.vectors[page])


def distances(vectors: NDArray[np.float32]) -> tuple[float, float]:
    """`diversity` and `nearest` of a page of at least two items, from their vectors (k, dim)."""
    k = len(vectors)
    directions = unit(vectors).astype(np.float64)
    distance = 1 - directions @ directions.T
    np.fill_diagonal(distance, 0)
    mean = distance.sum() / (k * (k - 1))
    np.fill_diagonal(distance, np.inf)
    return float(mean), float(distance.min(axis=1).mean())


def _table(curves: Curves, users: Users, seed: int) -> None:
    base = curves["mmr"][0.0]
    ndcg, diversity, nearest = (values.mean() for values in base)
    click.echo(f"As it is: NDCG@10 {ndcg:.4f}, diversity {diversity:.3f}, nearest {nearest:.3f}.\n")
    click.echo(HEAD)
    for method, points in curves.items():
        for strength, point in points.items():
            if strength:
                click.echo(f"| {method} | {strength:g} | {_cells(point, base, users, seed)} |")


def _chosen_table(curves: Curves, users: Users, seed: int) -> None:
    """Strengths chosen by every other user, and what they do for the rest."""
    places = np.unique(users, return_inverse=True)[1]
    choosing, others = places % 2 == 0, places % 2 == 1
    click.echo(f"\nChosen on half of the users:\n\n{HEAD}")
    for method, points in curves.items():
        own = {strength: _rows(point, choosing) for strength, point in points.items()}
        floor = (1 - MOST_LOSS) * own[0.0].ndcg.mean()
        best = max((s for s in own if own[s].ndcg.mean() >= floor), key=lambda s: float(own[s].diversity.mean()))
        base, point = _rows(points[0.0], others), _rows(points[best], others)
        click.echo(f"| {method} | {best:g} | {_cells(point, base, users[others], seed)} |")


def _rows(point: Point, chosen: NDArray[np.bool_]) -> Point:
    return Point(*(values[chosen] for values in point))


def _cells(point: Point, base: Point, users: Users, seed: int) -> str:
    cells = []
    for values, against, form in zip(point, base, (".4f", ".3f", ".3f"), strict=True):
        difference = intervals.bootstrap_difference(users, values, against, seed=seed)
        low, middle, high = (end / against.mean() for end in (difference.low, difference.value, difference.high))
        cells += [f"{values.mean():{form}}", f"{middle:+.1%} [{low:+.1%}, {high:+.1%}]"]
    return " | ".join(cells)


def _plot(path: Path, curves: Mapping[str, Curves]) -> None:
    def change(now: Float64, before: Float64) -> float:
        return 100 * float(now.mean() / before.mean() - 1)

    measures = {"diversity": "diversity", "nearest": "distance to the nearest"}
    titles = tuple(f"{view}: {title}" for view in curves for title in measures.values())
    with panels(path, titles) as axes:
        for n, panel in enumerate(axes):
            measure = list(measures)[n % 2]
            for colour, (method, points) in zip(COLOURS, list(curves.values())[n // 2].items(), strict=False):
                x = [change(getattr(point, measure), getattr(points[0.0], measure)) for point in points.values()]
                y = [change(point.ndcg, points[0.0].ndcg) for point in points.values()]
                panel.plot(x, y, color=colour, label=method, marker="o", ms=3)
            panel.axhline(-100 * MOST_LOSS, color="#5c6470", lw=0.8, ls="--")
            panel.set_xlabel("change in %")
            panel.set_ylabel("NDCG@10, change in %")
            panel.set_ylim(-20, 3)
        axes[0].legend()


if __name__ == "__main__":
    study()
