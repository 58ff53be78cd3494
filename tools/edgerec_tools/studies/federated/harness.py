"""Weekly rounds over real users, without devices: every basket's scores are computed once, only popularity changes.

The model is trained before June 2011 and replayed on the baskets from June to August, the validation period; the test
period is out of reach of this module. A week's devices are the users with a basket in it, one delta each: 1 for every
item consumed, before the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgerec.types import Float32, Float64, Int64
from edgerec_tools.periods import seconds

if TYPE_CHECKING:
    from edgerec_exporters.examples import Baskets
    from edgerec_exporters.trained import Trained

CUTOFF, UNTIL = seconds("2011-06-01"), seconds("2011-09-01")
DAY = 86_400.0
WEEK = 7 * DAY
VIEWS = ("novel", "all")
TOP = 10

Bools = NDArray[np.bool_]


class Devices(NamedTuple):
    """A round's devices: `user` int64 (n,) · `items` bool (n, n_items), what each consumed since its last delta."""

    user: Int64
    items: Bools


class Events(NamedTuple):
    """`user`, `item` int64 (n,) · `day` float64 (n,), days since the cut-off."""

    user: Int64
    item: Int64
    day: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """`z` source → standardised scores float32 (n_baskets, n_items) · `targets`, `seen` bool of that shape · `user`,
    `at` (n_baskets,), days since the cut-off · `rounds` per week · `item`, `age` (n_events,) the events before the
    cut-off and their age in days · `later` the events after it · `frozen` float32 (n_items,) the bundle's popularity
    at the cut-off · `every`: days between rounds.
    """

    z: Mapping[str, Float32]
    targets: Bools
    seen: Bools
    user: Int64
    at: Float64
    rounds: Sequence[Devices]
    item: Int64
    age: Float64
    later: Events
    frozen: Float32
    every: float = 7.0

    @property
    def n_items(self) -> int:
        return int(self.targets.shape[1])

    @property
    def week(self) -> Int64:
        """How many rounds had ended before each basket, int64 (n_baskets,)."""
        return np.minimum(self.at // self.every, len(self.rounds)).astype(np.int64)

    def with_rounds(self, every: float) -> Field:
        """The same users, with a round every so many days."""
        return replace(self, every=every, rounds=rounds_of(self.later, self.n_items, every))

    def counts(self, half_life: float) -> Float64:
        """Σ 0.5^(age / half-life) over the events before the cut-off, float64 (n_items,)."""
        return np.asarray(np.bincount(self.item, np.exp2(-self.age / half_life), self.n_items), np.float64)


def field_of(model: Trained, *, every: float = 7.0) -> Field:
    """The validation period of Online Retail under a model that was trained before it; rounds every `every` days."""
    from edgerec_exporters import neighbours
    from edgerec_exporters.blend_fit import standardise
    from edgerec_exporters.encoder_fit import Taste, taste_scores
    from edgerec_exporters.examples import Baskets
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.recipe import recipe_of
    from edgerec_tools.datasets import load

    data = Interactions.from_dataset(load("retail")).before(UNTIL)
    recipe = recipe_of(model.model, model.recipe)
    baskets = Baskets.of(data)
    chosen = baskets.with_past(CUTOFF, UNTIL)
    taste = Taste(model.encoder, model.vectors, model.bias)
    recency = neighbours.Recency(recipe.neighbour_half_life_days)
    assert model.neighbours is not None
    scores = {
        "taste": taste_scores(taste, baskets, chosen, model.history_length, model.bias),
        "neighbours": neighbours.scores(baskets, chosen, model.neighbours, recency),
        "habit": baskets.habits(chosen, recipe.habit_half_life_days),
    }
    past = baskets.at < CUTOFF
    later = _later(baskets)
    return Field(
        z={name: standardise(one) for name, one in scores.items()},
        targets=baskets.target_mask(chosen),
        seen=baskets.seen_mask(chosen),
        user=baskets.user[chosen],
        at=(baskets.when[chosen] - CUTOFF) / DAY,
        rounds=rounds_of(later, baskets.n_items, every),
        item=baskets.item[past],
        age=(CUTOFF - baskets.at[past]) / DAY,
        later=later,
        frozen=model.popularity,
        every=every,
    )


def _later(baskets: Baskets) -> Events:
    """Every event of the period, at the time of its basket."""
    own = np.repeat(np.arange(len(baskets.start)), baskets.stop - baskets.start)
    events = np.concatenate([np.arange(*ends) for ends in zip(baskets.start, baskets.stop, strict=True)])
    kept = (baskets.when[own] >= CUTOFF) & (baskets.when[own] < UNTIL)
    own, events = own[kept], events[kept]
    return Events(baskets.user[own], baskets.item[events], (baskets.when[own] - CUTOFF) / DAY)


def rounds_of(events: Events, n_items: int, every: float, days: float = (UNTIL - CUTOFF) / DAY) -> list[Devices]:
    """The devices of every whole round of the period, which lasts so many days."""
    number = events.day // every
    rounds = []
    for one in range(int(days // every)):
        own = np.flatnonzero(number == one)
        user, device = np.unique(events.user[own], return_inverse=True)
        items = np.zeros((len(user), n_items), np.bool_)
        items[device, events.item[own]] = True
        rounds.append(Devices(user, items))
    return rounds


def stored(path: Path) -> Field:
    """The field of the model at `path`, which is trained (two minutes) and saved there where it is missing."""
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.recipe import recipe_for
    from edgerec_exporters.train import train
    from edgerec_exporters.trained import load_trained
    from edgerec_tools.datasets import load

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train(Interactions.from_dataset(load("retail")), cutoff=CUTOFF, recipe=recipe_for("bag"), seed=0).save(path)
    return field_of(load_trained(path))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One way of asking for a list: `base` float32 (n, n_items), what the other sources say, −∞ where hidden · `weight`
    of popularity · `kept` the baskets (n,) that have something to find · `targets` bool (n, n_items) · `user`, `week`
    (n,).
    """

    base: Float32
    weight: float
    kept: Int64
    targets: Bools
    user: Int64
    week: Int64


class Served(NamedTuple):
    """`ndcg` float64 (n,), of each basket · `best` int64 (n, 10), the rows of each list, best first."""

    ndcg: Float64
    best: Int64


def sources_of(view: str) -> tuple[str, ...]:
    return ("taste", "neighbours") if view == "novel" else ("taste", "neighbours", "habit")


def wanted_of(field: Field, view: str) -> tuple[Bools, Bools | None]:
    """The targets of a view and what it hides, both bool (n_baskets, n_items)."""
    return (field.targets & ~field.seen, field.seen) if view == "novel" else (field.targets, None)


def view_of(field: Field, view: str, popularity: Sequence[Float32]) -> View:
    """A view whose blend weights are chosen once, on the honest `popularity` of each week, and stay."""
    from edgerec_exporters import blend_fit

    targets, hidden = wanted_of(field, view)
    names = sources_of(view)
    fresh = np.stack([standard(one) for one in popularity])[field.week]
    task = blend_fit.Task.of([*(field.z[name] for name in names), fresh], targets, hidden, field.user)
    weights = blend_fit.search(task)
    kept = np.flatnonzero(targets.any(1))
    base = np.sum([np.float32(w) * field.z[name][kept] for w, name in zip(weights, names, strict=False)], axis=0)
    if hidden is not None:
        base[hidden[kept]] = -np.inf
    return View(base, float(weights[-1]), kept, targets[kept], field.user[kept], field.week[kept])


def standard(popularity: Float32) -> Float32:
    """(p − mean) / std over the catalogue, float32 (n_items,)."""
    from edgerec_exporters.blend_fit import standardise

    row: Float32 = standardise(popularity[None].astype(np.float32))[0]
    return row


def serve(view: View, popularity: Sequence[Float32]) -> Served:
    """The lists under the popularity of each week, and what they are worth."""
    import torch  # whose top-k takes a third of numpy's time

    from edgerec_exporters.blend_fit import DISCOUNT, IDEAL

    best = np.empty((len(view.base), TOP), np.int64)
    for week in np.unique(view.week):
        rows = np.flatnonzero(view.week == week)
        scores = torch.from_numpy(view.base[rows])
        scores += torch.from_numpy(np.float32(view.weight) * standard(popularity[week]))
        best[rows] = torch.topk(scores, TOP, dim=1).indices.numpy()
    hit = np.take_along_axis(view.targets, best, 1)
    ndcg: Float64 = hit @ DISCOUNT / IDEAL[np.minimum(view.targets.sum(1), TOP)]
    return Served(ndcg, best)


def exposure(view: View, served: Served, target: int, since: int = 1) -> float:
    """The share of the lists from week `since` on that hold the item: honest users', hostile devices show none."""
    late = view.week >= since
    return float((served.best[late] == target).any(1).mean())
