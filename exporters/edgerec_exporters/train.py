"""Central training, the story on one page: fit without what is held out, choose there, fit again on everything."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import Scenario
from edgerec.errors import TrainingError
from edgerec_exporters import mixes, neighbours, repeat_fit
from edgerec_exporters.checkpoint import Checkpoint, digest_of, identity
from edgerec_exporters.cold_fit import fit_boost, held_out_users
from edgerec_exporters.content.projection import with_content
from edgerec_exporters.content.vectors import Content
from edgerec_exporters.distil import compare
from edgerec_exporters.distributed import ALONE, Ranks
from edgerec_exporters.encoder_fit import Progress, chances, pick_device
from edgerec_exporters.event_limits import event_limits
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.federated_fit import section
from edgerec_exporters.holdout import HOLD_OUT, HoldOut, hold_out_last, hold_out_period, iso, last_of_each_user
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.parity import History
from edgerec_exporters.recipe import Mix, Recipe, recipe_for
from edgerec_exporters.spaces import SPACES
from edgerec_exporters.taste_fit import Learned, TasteFit, check_teacher
from edgerec_exporters.trained import Trained
from edgerec_exporters.validation import Judge, Linear, Parts

Float32 = NDArray[np.float32]

MAX_VALIDATION_SHARE = 0.35
MAX_GAP_DAYS = 31.0
"""A cut-off later than that after the last event is taken for a mistake."""
N_HISTORIES = 1000
N_NEGATIVES = 4096


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def train(
    data: Interactions,
    *,
    cutoff: float | None = None,
    hold_out: str = "period",
    model: str = "bag",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    content: Content | None = None,
    progress: Progress = silent,
    checkpoint: str | os.PathLike[str] | None = None,
    ranks: Ranks = ALONE,
    teacher: Trained | None = None,
) -> Trained:
    """Trains on the baskets before `cutoff` (POSIX seconds; None: on all of them).

    Weights of the blend, item-to-item weights and the number of epochs are chosen on what is held out, by a model
    that has not seen it: the last `validation_days` ("period"), or each user's last basket ("last"). Then everything
    is fitted again with those constants. Items without events are placed by their `content`, if it is given. The same
    seed, data and machine give the same model. `checkpoint`: a folder from which a training that was cut off goes on ·
    `ranks`: the processes that train together · `teacher`: a model of the same data that the encoder learns from, too.
    Raises TrainingError where the data cannot be trained on.
    """
    started = time.monotonic()
    recipe = recipe or recipe_for(model)
    where = pick_device(device)
    _check(data, cutoff)
    data = data if cutoff is None else data.before(cutoff)
    until = float(cutoff if cutoff is not None else data.at.max() + 1)
    held = _held_out(data, until, hold_out, recipe)
    if recipe.cold_share:
        held = held.without(held_out_users(held.baskets, recipe.cold_share, seed))
    judge = Judge(held, seed)
    if teacher is not None:
        check_teacher(teacher, data, iso(until), model, recipe)
    run = {"cutoff": cutoff, "hold_out": hold_out, "model": model, "recipe": recipe, "seed": seed}
    keeper = None if checkpoint is None else _keeper(checkpoint, data, ranks, teacher, run)
    progress = progress if ranks.first else silent

    fitting = _Fitting(TasteFit(recipe, model, seed, where, progress, ranks, keeper, teacher))
    trial, chosen = fitting.fit(held.rest, held.until, "choosing", judge=judge)
    scenarios, boost, metrics = judge.choose(trial, recipe, progress)
    popular = {"boost": boost, "half_events": recipe.boost_half_events}
    if len(held.cold):
        popular, metrics["cold_users"] = fit_boost(judge, trial, recipe, scenarios["default"].weights, held.cold)
    federated: dict[str, Any] = {}
    if hold_out == "period":  # what everybody did lately, there is only where time passes
        count = np.bincount(data.item, minlength=data.n_items)
        federated, told = section(judge, trial, recipe, held.until, count, seed)
        metrics["validation"] |= told
    parts, _ = fitting.fit(data, until, "training", chosen=chosen)

    metrics |= {"trained_before": iso(until), **held.told, **_told(chosen.learned, model)}
    metrics["seconds"] = round(time.monotonic() - started + (keeper.spent_before if keeper else 0.0), 2)
    trained = _assemble(data, held.baskets, parts, scenarios, popular, metrics, fitting.taste, federated)
    if teacher is not None and ranks.first:
        metrics["distilled"] = compare(teacher, trained)
    if content is None:
        return trained
    return with_content(trained, content, np.bincount(data.item, minlength=data.n_items))


def _told(learned: Learned, model: str) -> dict[str, Any]:
    told: dict[str, Any] = {"epochs": learned.epochs, "trial_seconds": learned.seconds}
    if model in SPACES:
        told["item_vectors"] = "fixed" if learned.fixed else "trained"
    return told


def _keeper(
    folder: str | os.PathLike[str], data: Interactions, ranks: Ranks, teacher: Trained | None, run: dict[str, Any]
) -> Checkpoint:
    taught_by = None if teacher is None else digest_of(teacher)
    return Checkpoint.open(folder, identity(data, teacher=taught_by, **run), writes=ranks.first)


def _held_out(data: Interactions, until: float, hold_out: str, recipe: Recipe) -> HoldOut:
    if hold_out not in HOLD_OUT:
        raise TrainingError(f"hold_out = {hold_out!r}", hint=f"one of {', '.join(HOLD_OUT)}")
    if hold_out == "last":
        return hold_out_last(data)
    longest = MAX_VALIDATION_SHARE * (until - float(data.at.min()))
    return hold_out_period(data, until - min(recipe.validation_days * DAY, longest))


def _check(data: Interactions, cutoff: float | None) -> None:
    if not len(data.item):
        raise TrainingError("the data set is empty")
    if data.n_items > neighbours.MAX_DENSE:
        raise TrainingError(
            f"{data.n_items} items are more than the {neighbours.MAX_DENSE} that item-to-item weights are made for",
            hint="import with a higher threshold of events per item",
        )
    if cutoff is not None and not data.at.min() < cutoff <= data.at.max() + MAX_GAP_DAYS * DAY:
        raise TrainingError(
            f"the cut-off {iso(cutoff)} lies outside the data", hint=f"{iso(data.at.min())} … {iso(data.at.max())}"
        )
    users = data.user if cutoff is None else data.user[data.at < cutoff]
    if len(np.unique(users)) < 2:
        raise TrainingError("training needs more than one user")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the trial found best."""

    learned: Learned
    mix: Mix | None


@dataclass(frozen=True, slots=True)
class _Fitting:
    """The same procedure for both passes: everything fitted to some data, as seen at a moment."""

    taste: TasteFit

    def fit(
        self, data: Interactions, until: float, what: str, *, judge: Judge | None = None, chosen: _Chosen | None = None
    ) -> tuple[Parts, _Chosen]:
        """The parts, and what was chosen: `chosen`, else what the judge found best."""
        baskets, recipe, progress = Baskets.of(data), self.taste.recipe, self.taste.progress
        progress(f"{what}: neighbours", 0, 1)
        linear, mix = self._linear(data, baskets, until, judge, chosen)
        progress(f"{what}: neighbours", 1, 1)
        judging = (lambda taste: judge.taste(taste, recipe.history_length)) if judge else None
        taste, prior, learned = self.taste.fit(
            data, baskets, until, what, judge=judging, learned=chosen.learned if chosen else None
        )
        # how popular an item is, is the popular source's affair: taste keeps what it learned beside it
        bias = taste.bias.detach().cpu().numpy() - prior
        popularity = baskets.popularity(until, recipe.popular_half_life_days)
        progress(f"{what}: repeat", 0, 1)
        again = repeat_fit.fit(baskets, until, recipe.repeat, self.taste.seed)
        progress(f"{what}: repeat", 1, 1)
        return Parts(taste, bias, linear, popularity, again), _Chosen(learned, mix)

    def _linear(
        self, data: Interactions, baskets: Baskets, until: float, judge: Judge | None, chosen: _Chosen | None
    ) -> tuple[Linear, Mix | None]:
        recipe = self.taste.recipe
        if recipe.mixes:
            return mixes.fit(recipe, baskets, until, judge, chosen.mix if chosen else None)
        named = list(data.titles) != list(data.items)
        shares = neighbours.Shares(recipe.text if named else 0.0, recipe.follows)
        co_occurrence = neighbours.gram(baskets, until, recipe.ease_half_life_days, recipe.ease_lasting)
        dense = neighbours.item_to_item(baskets, co_occurrence, list(data.titles), recipe.ease_l2, shares)
        kept = neighbours.to_csr(neighbours.cut(dense, recipe.per_item, recipe.cut))
        return Linear(kept, neighbours.Recency(recipe.neighbour_half_life_days), dense if judge else None), None


def _assemble(
    data: Interactions,
    baskets: Baskets,
    parts: Parts,
    scenarios: dict[str, Scenario],
    popular: dict[str, float],
    metrics: dict[str, Any],
    fitting: TasteFit,
    federated: dict[str, Any],
) -> Trained:
    recipe, kinds = fitting.recipe, data.event_kinds
    rng = np.random.default_rng(fitting.seed)
    chance = chances(baskets, recipe.encoder.alpha)
    drawn = rng.choice(data.n_items, N_NEGATIVES, p=chance)
    return Trained(
        name=data.name,
        model=fitting.model,
        encoder=parts.taste.encoder.cpu().eval(),
        vectors=parts.taste.vectors.detach().cpu().numpy(),
        bias=parts.bias,
        popularity=parts.popularity,
        negatives=drawn.astype(np.int32),
        neighbours=parts.linear.weights,
        repeat=parts.repeat,
        items=list(data.items),
        titles=list(data.titles),
        attributes=list(data.attributes),
        histories=_some_histories(baskets, rng),
        event_kinds=kinds,
        history_length=recipe.history_length,
        history_kinds=tuple(name for name, kind in kinds.items() if kind.weight > 0),
        scenarios=scenarios,
        sources={
            "neighbours": parts.linear.recency.constants(),
            "popular": popular,
            "habit": {"half_life_days": recipe.habit_half_life_days},
        },
        blend=dict(recipe.blend),
        guard=dict(recipe.guard),
        updaters=dict(recipe.updaters),
        n_rivals=recipe.n_rivals,
        learn_history=recipe.learn_history,
        filters={"quality": event_limits(data)},
        federated=federated,
        metrics=metrics,
        recipe=asdict(recipe),
        seed=fitting.seed,
    )


def _some_histories(baskets: Baskets, rng: np.random.Generator) -> list[History]:
    """Up to N_HISTORIES users' pasts, their last basket being the targets."""
    picked = rng.permutation(last_of_each_user(baskets, baskets.with_past()))[:N_HISTORIES]
    out = []
    for basket in picked.tolist():
        past = slice(int(baskets.first[basket]), int(baskets.start[basket]))
        age = (baskets.at[past][-1] - baskets.at[past]) / DAY
        targets = baskets.item[baskets.start[basket] : baskets.stop[basket]]
        rows = baskets.item[past].astype(np.int32)
        out.append(History(rows, np.maximum(age, 0).astype(np.float32), baskets.kind[past], targets.astype(np.int32)))
    return out
