"""Do content vectors rank items that nobody has bought yet? Against nothing, and against popularity.

    python -m edgerec_tools.studies.cold_items --data retail --period validation
    python -m edgerec_tools.studies.cold_items --data ml-100k --period test

Online Retail: items first sold in the period, a model trained before it, every basket of the period predicted from its
user's earlier ones. MovieLens 100K: a tenth of the items is held out of training, another tenth of the rest for
validation; a user's held-out films are predicted from all the others that the user rated. Items the user had are
hidden. Targets are cold items; they are ranked among all items, and among the cold ones alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from edgerec_tools import intervals, metrics
from edgerec_tools.datasets import data_home, load
from edgerec_tools.periods import seconds
from edgerec_tools.progress import Progress, bars

if TYPE_CHECKING:
    from edgerec_exporters.content.projection import ContentRecipe, Space
    from edgerec_exporters.content.vectors import Content
    from edgerec_exporters.examples import Baskets
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.trained import Trained

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

TOP = 10
PERIODS = {"validation": ("2011-06-01", "2011-09-01"), "test": ("2011-09-01", "2012-01-01")}
HELD_OUT = 0.1
VIEWS = ("cold among all", "cold among cold", "all new items")
"""Cold targets among all items · among cold ones · all new targets among all items."""
Ranked = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]
"""Per view: users, NDCG@10, R@10 of the baskets that have a target there."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """`train`: what the model sees · `data`: with the baskets to predict, those from `since` until before `until` ·
    `cold` bool (n_items,): the items held out, or not sold before · `epochs`: at most, None: the recipe's own."""

    train: Interactions
    data: Interactions
    cutoff: float | None
    since: float
    until: float
    cold: Bools
    epochs: int | None


def retail(period: str, seed: int) -> Setting:
    """Cold: not sold before the period, and sold in it."""
    from edgerec_exporters.interactions import Interactions

    since, until = (seconds(moment) for moment in PERIODS[period])
    data = Interactions.from_dataset(load("retail")).before(until)
    return Setting(data, data, since, since, until, ~_occurring(data.before(since)) & _occurring(data), None)


def movielens(period: str, seed: int) -> Setting:
    """Cold: a tenth of the items drawn by `seed` for the test, a tenth of the others for validation."""
    from edgerec_exporters.interactions import Interactions

    data = Interactions.from_dataset(load("ml-100k"))
    rng = np.random.default_rng(seed)
    order = rng.permutation(data.n_items)
    n_test = round(HELD_OUT * data.n_items)
    test, rest = order[:n_test], order[n_test:]
    validation = rest[: round(HELD_OUT * len(rest))]
    cold, absent = np.zeros(data.n_items, np.bool_), np.zeros(data.n_items, np.bool_)
    cold[test if period == "test" else validation] = True
    absent[test if period == "validation" else []] = True
    known = _selected(data, ~(cold | absent)[data.item])
    end = float(data.at.max()) + 1
    held = _selected(data, cold[data.item])
    # what was held out of a user's past becomes one basket after it
    later = replace(held, at=np.full(len(held.item), end), group=held.user.astype(np.int64) + len(data.item))
    joined = {
        name: np.concatenate([getattr(known, name), getattr(later, name)])
        for name in ("user", "item", "at", "group", "kind", "value")
    }
    return Setting(known, replace(known, **joined), None, end, end + 1, cold & _occurring(data), 1)


def _occurring(data: Interactions) -> Bools:
    return np.bincount(data.item, minlength=data.n_items) > 0


def _selected(data: Interactions, keep: Bools) -> Interactions:
    columns = {name: getattr(data, name)[keep] for name in ("user", "item", "at", "kind", "value")}
    return replace(data, group=np.unique(data.group[keep], return_inverse=True)[1], **columns)


def contents(name: str, data: Interactions, progress: Progress) -> dict[str, Content]:
    """The content vectors under trial, by arm."""
    from edgerec_exporters.content.text import described, text_content
    from edgerec_exporters.content.vectors import Content

    texts = described(data.titles, data.attributes, ("genres",))
    text = text_content(data.items, texts, cache=data_home() / "content", progress=progress)
    if name == "retail":
        return {"text": text}
    labels = [set(str(known.get("genres", "")).split("|")) - {""} for known in data.attributes]
    names = sorted(set().union(*labels))
    genres = Content(tuple(data.items), {"genres": np.array([[g in own for g in names] for own in labels], np.float32)})
    return {"text": text, "genres": genres, "text + genres": text.joined(genres)}


class Bench:
    """One trained model and the baskets to predict; scores them under any item space."""

    def __init__(self, setting: Setting, trained: Trained) -> None:
        from edgerec_exporters.examples import Baskets
        from edgerec_exporters.neighbours import Recency

        self.setting, self.trained = setting, trained
        self.baskets: Baskets = Baskets.of(setting.data)
        chosen = self.baskets.with_past(since=setting.since, until=setting.until)
        targets, seen = self.baskets.target_mask(chosen), self.baskets.seen_mask(chosen)
        novel = targets & ~seen
        kept = novel.any(1)
        self.chosen, self.novel, self.seen = chosen[kept], novel[kept], seen[kept]
        self.user = self.baskets.user[self.chosen]
        self.recency = Recency(**trained.sources["neighbours"])
        popular = trained.sources["popular"]
        n_events = self.baskets.start[self.chosen] - self.baskets.first[self.chosen]
        self.boost = popular["boost"] * np.exp2(-n_events / popular["half_events"])

    def none(self) -> Space:
        """The space of a model that has never heard of the cold items."""
        from edgerec.bundle.content import Sparse, to_csr, to_list
        from edgerec_exporters.content.projection import Space

        trained, cold = self.trained, ~_occurring(self.setting.train.before(self.setting.since))
        links = to_list(*trained.neighbours) if trained.neighbours else to_list(*to_csr(_no_links(), len(cold)))
        kept = ~cold[links.source] & ~cold[links.target]
        csr = to_csr(Sparse(links.source[kept], links.target[kept], links.weight[kept]), len(cold))
        vectors, bias = trained.vectors.copy(), trained.bias.copy()
        vectors[cold], bias[cold] = 0, 0
        return Space(vectors, bias, trained.popularity, csr)

    def titles(self) -> Space:
        """The same with the similarity of titles that training puts into the item-to-item weights."""
        return replace(self.none(), neighbours=self.trained.neighbours)

    def filled(self, base: Space, content: Content, recipe: ContentRecipe) -> Space:
        """The space with the cold items placed by their content."""
        from edgerec_exporters.content.projection import fill, fit

        before = self.setting.train.before(self.setting.since)
        count = np.bincount(before.item, minlength=before.n_items)
        return fill(fit(content, base, count, recipe), content, base, count == 0)

    def blended(self, space: Space) -> Float32:
        """The scenario `default`, as a device blends it before it has learned: float32 (n, n_items)."""
        from edgerec_exporters import neighbours
        from edgerec_exporters.blend_fit import standardise
        from edgerec_exporters.encoder_fit import Taste, taste_scores

        weights = self.trained.scenarios["default"].weights
        taste = Taste(self.trained.encoder, space.vectors, np.zeros(len(space.bias), np.float32))
        length = self.trained.history_length
        csr = space.neighbours or neighbours.to_csr(np.zeros((len(space.bias),) * 2, np.float32))
        total = weights["taste"] * standardise(taste_scores(taste, self.baskets, self.chosen, length, space.bias))
        total += weights["neighbours"] * standardise(neighbours.scores(self.baskets, self.chosen, csr, self.recency))
        popular = standardise(space.popularity[None])
        total += ((weights["popular"] + self.boost)[:, None] * popular).astype(np.float32)
        return total

    def ranked(self, scores: Float32) -> Ranked:
        """NDCG@10 and R@10 per view."""
        cold = self.setting.cold
        hidden = {"cold among all": self.seen, "cold among cold": self.seen | ~cold, "all new items": self.seen}
        out = {}
        for view, hide in hidden.items():
            targets = self.novel if view == "all new items" else self.novel & cold
            rows = np.flatnonzero(targets.any(1))
            found = np.zeros((len(rows), TOP), np.bool_)
            for place, row in enumerate(rows.tolist()):
                best = metrics.top_k(np.where(hide[row], -np.inf, scores[row]), TOP)
                found[place, : len(best)] = targets[row, best]
            wanted = targets[rows].sum(1)
            out[view] = self.user[rows], metrics.ndcg(found, wanted), metrics.recall(found, wanted)
        return out


def _no_links() -> Any:
    from edgerec.bundle.content import joined

    return joined([])


def arms(bench: Bench, content: Mapping[str, Content], recipe: ContentRecipe, seed: int) -> dict[str, Ranked]:
    """Every arm's metrics."""
    n, size = len(bench.chosen), len(bench.setting.cold)
    none, named = bench.none(), bench.trained.neighbours is not None and bench.setting.cutoff is not None
    chance = np.random.default_rng(seed).random((n, size), np.float32)
    out = {
        "chance": bench.ranked(chance),
        "none": bench.ranked(bench.blended(none)),
        "popular": bench.ranked(np.tile(none.popularity, (n, 1))),
    }
    for name, vectors in content.items():
        space = bench.filled(none, vectors, recipe)
        out[f"popular by {name}"] = bench.ranked(np.tile(space.popularity, (n, 1)))
        out[name] = bench.ranked(bench.blended(space))
        linear = replace(space, neighbours=none.neighbours)
        out[f"{name}, vectors alone"] = bench.ranked(bench.blended(linear))
        copied = replace(space, vectors=none.vectors, bias=none.bias)
        out[f"{name}, neighbours alone"] = bench.ranked(bench.blended(copied))
    if named:
        out["titles"] = bench.ranked(bench.blended(bench.titles()))
        for name, vectors in content.items():
            out[f"titles + {name}"] = bench.ranked(bench.blended(bench.filled(bench.titles(), vectors, recipe)))
    return out


def pooled(runs: list[dict[str, Ranked]]) -> dict[str, dict[str, Any]]:
    """Means over baskets and seeds with intervals over users, and differences from `none` and `popular`."""
    out: dict[str, dict[str, Any]] = {}
    for arm in runs[0]:
        out[arm] = {}
        for view in VIEWS:
            users = np.concatenate([run[arm][view][0] for run in runs])
            found: dict[str, Any] = {"baskets": len(users) / len(runs)}
            for place, name in ((1, "ndcg@10"), (2, "recall@10")):
                values = np.concatenate([run[arm][view][place] for run in runs])
                found[name] = _interval(intervals.bootstrap_mean(users, values))
                for other in ("none", "popular"):
                    against = np.concatenate([run[other][view][place] for run in runs])
                    found[f"{name} - {other}"] = _interval(intervals.bootstrap_difference(users, values, against))
            out[arm][view] = found
    return out


def _interval(found: intervals.Interval) -> list[float]:
    return [round(value, 5) for value in (found.value, found.low, found.high)]


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Tables of means, then of differences."""
    head = ["arm", *(f"{view}, N · R" for view in VIEWS)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for arm, views in found.items():
        cells = [f"{_shown(views[view]['ndcg@10'][:1])} · {_shown(views[view]['recall@10'][:1])}" for view in VIEWS]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    head = ["arm, N@10 less that of", *(f"{view}: none · popular" for view in VIEWS)]
    lines += ["", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for arm, views in found.items():
        cells = [
            f"{_signed(views[view]['ndcg@10 - none'])} · {_signed(views[view]['ndcg@10 - popular'])}" for view in VIEWS
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    return f"{values[0]:.4f}".replace("0.", ".", 1)


def _signed(values: list[float]) -> str:
    value, low, high = (f"{number:+.4f}".replace("0.", ".", 1) for number in values)
    return f"{value} [{low}, {high}]"


def trained_model(setting: Setting, seed: int, keep: Path | None, name: str, progress: Progress) -> Trained:
    """Trains, or takes the model that an earlier run has kept in the folder `keep`."""
    from edgerec_exporters.recipe import changed, recipe_for
    from edgerec_exporters.train import train
    from edgerec_exporters.trained import load_trained

    file = keep / f"{name}-{seed}.model" if keep else None
    if file is not None and file.is_file():
        return load_trained(file)
    limited = {} if setting.epochs is None else {"encoder.epochs": str(setting.epochs)}
    recipe = changed(recipe_for("bag"), limited)
    trained = train(setting.train, cutoff=setting.cutoff, recipe=recipe, seed=seed, device="cpu", progress=progress)
    if file is not None:
        trained.save(file)
    return trained


SETTINGS: Mapping[str, Callable[[str, int], Setting]] = {"retail": retail, "ml-100k": movielens}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", "name", type=click.Choice(list(SETTINGS)), default="retail", show_default=True)
@click.option("--period", type=click.Choice(list(PERIODS)), default="validation", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--models", type=click.Path(path_type=Path, file_okay=False, exists=True), help="A folder to keep them.")
@click.option(
    "--set", "constants", multiple=True, metavar="NAME=VALUE", help="Of the content recipe: l2, rule.direct …"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def study(name: str, period: str, seeds: int, models: Path | None, constants: tuple[str, ...], as_json: bool) -> None:
    """Prints Markdown tables: every arm, and its differences from `none` and from `popular`."""
    from edgerec_exporters.content.projection import ContentRecipe
    from edgerec_exporters.recipe import changed

    recipe = changed(ContentRecipe(), dict(text.split("=", 1) for text in constants))  # type: ignore[arg-type]
    runs, told = [], {}
    with bars() as progress:
        for seed in range(seeds):
            setting = SETTINGS[name](period, seed)
            bench = Bench(setting, trained_model(setting, seed, models, f"{name}-{period}", progress))
            told = {
                "cold_items": int(setting.cold.sum()),
                "known_items": int(_occurring(setting.train.before(setting.since)).sum()),
            }
            runs.append(arms(bench, contents(name, setting.data, progress), recipe, seed))  # type: ignore[arg-type]
    found = pooled(runs)
    if as_json:
        click.echo(json.dumps({"data": name, "period": period, "seeds": seeds, **told, "arms": found}))
        return
    baskets = {view: round(found["none"][view]["baskets"]) for view in VIEWS}
    click.echo(f"{name}, {period}, {seeds} seeds, {told}, baskets {baskets}\n\n{markdown(found)}")


if __name__ == "__main__":
    study()
