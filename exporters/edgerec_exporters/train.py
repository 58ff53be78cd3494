"""Central training, the story on one page: fit before the validation period, choose there, fit again on everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import Scenario
from edgerec.errors import TrainingError
from edgerec_exporters import neighbours
from edgerec_exporters.encoder_fit import Progress, Taste, Trainer, chances, pick_device
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.models import build
from edgerec_exporters.parity import History
from edgerec_exporters.recipe import Recipe
from edgerec_exporters.trained import Trained
from edgerec_exporters.validation import Judge, Parts, iso

if TYPE_CHECKING:
    import torch

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]

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
    model: str = "bag",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Trained:
    """Trains on the baskets before `cutoff` (POSIX seconds; None: on all of them).

    Weights of the blend and the number of epochs are chosen on the last `validation_days` of them, by a model that
    has not seen these; then everything is fitted again with those constants. The same seed, data and machine give
    the same model. Raises TrainingError where the data cannot be trained on.
    """
    started = time.monotonic()
    recipe = recipe or Recipe()
    where = pick_device(device)
    _check(data, cutoff)
    data = data if cutoff is None else data.before(cutoff)
    baskets = Baskets.of(data)
    until = float(cutoff if cutoff is not None else data.at.max() + 1)
    since = until - min(recipe.validation_days * DAY, MAX_VALIDATION_SHARE * (until - float(data.at.min())))
    judge = Judge(baskets, since, seed)

    fitting = _Fitting(data, recipe, model, seed, where, progress)
    trial, epochs = fitting.fit(since, "choosing", judge=judge)
    scenarios, boost, metrics = judge.choose(trial, recipe, progress)
    parts, _ = fitting.fit(until, "training", epochs=epochs)

    metrics.update({"trained_before": iso(until), "validated_from": iso(since), "epochs": epochs})
    metrics["seconds"] = round(time.monotonic() - started, 2)
    return _assemble(data, baskets, parts, scenarios, boost, metrics, fitting)


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
class _Fitting:
    """The same procedure for both passes: everything fitted to the baskets before a moment."""

    data: Interactions
    recipe: Recipe
    model: str
    seed: int
    device: torch.device
    progress: Progress

    def fit(
        self, until: float, what: str, *, judge: Judge | None = None, epochs: int | None = None
    ) -> tuple[Parts, int]:
        """The parts, and the number of epochs: `epochs`, else where the judge's metric was best."""
        recipe, baskets = self.recipe, Baskets.of(self.data.before(until))
        self.progress(f"{what}: neighbours", 0, 2)
        weights = self._weights(baskets, until)
        self.progress(f"{what}: neighbours", 1, 2)
        kept = neighbours.cut(weights, recipe.per_item, recipe.cut)
        co_occurrence = neighbours.gram(baskets, until, recipe.factor_half_life_days)
        factors = neighbours.item_factors(co_occurrence, recipe.dim, recipe.factor_l2, self.seed)
        self.progress(f"{what}: neighbours", 2, 2)
        prior = _log_prior(baskets, until)
        taste, epochs = self._encoder(baskets, until, factors, prior, what, judge, epochs)
        # how popular an item is, is the popular source's affair: taste keeps what it learned beside it
        bias = taste.bias.detach().cpu().numpy() - prior
        popularity = baskets.popularity(until, recipe.popular_half_life_days)
        return Parts(taste, bias, weights, kept, popularity), epochs

    def _weights(self, baskets: Baskets, until: float) -> Float32:
        recipe, data = self.recipe, self.data
        named = list(data.titles) != list(data.items)
        shares = neighbours.Shares(recipe.text if named else 0.0, recipe.follows)
        co_occurrence = neighbours.gram(baskets, until, recipe.ease_half_life_days)
        return neighbours.item_to_item(baskets, co_occurrence, list(data.titles), recipe.ease_l2, shares)

    def _encoder(
        self,
        baskets: Baskets,
        until: float,
        factors: Float32,
        prior: Float32,
        what: str,
        judge: Judge | None,
        epochs: int | None,
    ) -> tuple[Taste, int]:
        recipe = self.recipe.encoder
        weights = [max(kind.weight, 0.0) for kind in self.data.event_kinds.values()]
        encoder = build(self.model, {"dim": self.recipe.dim, "kind_weights": weights, "gain": self.recipe.gain})
        taste = Taste(encoder, factors, prior)
        trainer = Trainer(taste, baskets, until, self.recipe.history_length, recipe, self.seed, self.device)
        last = epochs or recipe.epochs
        best, kept, state = -1.0, 0, taste.state_dict()
        for number in range(1, last + 1):
            trainer.epoch(recipe.epochs, self._ticker(f"{what}: encoder", number - 1, last))
            value = judge.taste(taste, self.recipe.history_length) if judge else float(number)
            if value > best:
                best, kept = value, number
                state = {name: tensor.clone() for name, tensor in taste.state_dict().items()}
            elif number - kept >= recipe.patience:
                break
        self.progress(f"{what}: encoder", last, last)
        taste.load_state_dict(state)
        return taste, kept

    def _ticker(self, what: str, done: int, epochs: int) -> Callable[[int, int], None]:
        return lambda step, steps: self.progress(what, done * steps + step, epochs * steps)


def _log_prior(baskets: Baskets, until: float, half_life_days: float = 60.0) -> Float32:
    """Half the log of each item's share of recent events: what training's softmax starts from, float32 (n_items,)."""
    count = np.expm1(baskets.popularity(until, half_life_days).astype(np.float64))
    return (0.5 * np.log(count / count.sum() + 1e-5)).astype(np.float32)


def _assemble(
    data: Interactions,
    baskets: Baskets,
    parts: Parts,
    scenarios: dict[str, Scenario],
    boost: float,
    metrics: dict[str, Any],
    fitting: _Fitting,
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
        neighbours=neighbours.to_csr(parts.weights),
        items=list(data.items),
        titles=list(data.titles),
        attributes=list(data.attributes),
        histories=_some_histories(baskets, rng),
        event_kinds=kinds,
        history_length=recipe.history_length,
        history_kinds=tuple(name for name, kind in kinds.items() if kind.weight > 0),
        scenarios=scenarios,
        sources={
            "neighbours": {"half_life_days": recipe.neighbour_half_life_days},
            "popular": {"boost": boost, "half_events": recipe.boost_half_events},
            "habit": {"half_life_days": recipe.habit_half_life_days},
        },
        blend=dict(recipe.blend),
        guard=dict(recipe.guard),
        updaters=dict(recipe.updaters),
        metrics=metrics,
        recipe=asdict(recipe),
        seed=fitting.seed,
    )


def _some_histories(baskets: Baskets, rng: np.random.Generator) -> list[History]:
    """Up to N_HISTORIES users' pasts, their last basket being the targets."""
    picked = rng.permutation(_last(baskets, baskets.with_past()))[:N_HISTORIES]
    out = []
    for basket in picked.tolist():
        past = slice(int(baskets.first[basket]), int(baskets.start[basket]))
        age = (baskets.at[past][-1] - baskets.at[past]) / DAY
        targets = baskets.item[baskets.start[basket] : baskets.stop[basket]]
        rows = baskets.item[past].astype(np.int32)
        out.append(History(rows, np.maximum(age, 0).astype(np.float32), baskets.kind[past], targets.astype(np.int32)))
    return out


def _last(baskets: Baskets, chosen: Rows) -> Rows:
    """The last of the chosen baskets of each user."""
    ordered = np.sort(chosen)  # by user, then time
    users = baskets.user[ordered]
    return ordered[np.append(users[1:] != users[:-1], True)]
