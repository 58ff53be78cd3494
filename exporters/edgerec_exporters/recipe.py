"""Constants of central training, all in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from edgerec.errors import RequestError, TrainingError
from edgerec_exporters.affinity import Markov
from edgerec_exporters.distil import DistilRecipe
from edgerec_exporters.encoder_fit import EncoderRecipe
from edgerec_exporters.federated_fit import FederatedRecipe
from edgerec_exporters.neighbours import Recency
from edgerec_exporters.repeat_fit import RepeatRecipe
from edgerec_exporters.sequence_fit import SequenceRecipe
from edgerec_exporters.spaces import SpaceRecipe

NO_DECAY = 36_500.0
"""A half-life of a hundred years."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Item-to-item weights that may be chosen: how much of EASE, how much of what follows what, and the recency."""

    ease: float
    markov: float
    recency: Recency


@dataclass(frozen=True, slots=True)
class Recipe:
    """Constants of training; the defaults were chosen on Online Retail's validation period.

    Half-lives in days. `architecture`: further arguments of the encoder. `space`: item vectors of the models `ials`
    and `lightgcn`. `ease_lasting`: what a purchase of long ago still counts for EASE, so that last year's season is
    not forgotten. `text` and `follows` are what similar titles and next baskets count beside EASE; `cut` is the `by` of
    `neighbours.cut`. `mixes`: where there are any, the item-to-item weights are the best of these on validation,
    `markov` holds the constants of what follows what, and mixes with EASE are left out above `ease_items` items, where
    its inverse takes minutes.
    `cold_share`: of the users, held out of the trial altogether, to choose by them what popularity counts for users of
    whom little is known; with none it is chosen along with the blend.
    `validation_days`: length of the period before the cut-off on which weights and epochs are chosen, at most
    MAX_VALIDATION_SHARE of the data. `blend`, `guard`, `updaters`: constants of learning on the device; `n_rivals`: how
    many first places of a ranking its updater is shown besides; `learn_history`: whether it learns from what was before
    its bundle, too · `federated`: what devices may send.
    """

    dim: int = 64
    history_length: int = 128
    encoder: EncoderRecipe | SequenceRecipe = field(default_factory=EncoderRecipe)
    architecture: Mapping[str, Any] = field(default_factory=dict)
    factor_half_life_days: float = 90.0
    factor_l2: float = 120.0
    gain: float = 20.0
    space: SpaceRecipe = field(default_factory=SpaceRecipe)
    distil: DistilRecipe = field(default_factory=DistilRecipe)
    ease_half_life_days: float = 30.0
    ease_lasting: float = 0.2
    ease_l2: float = 400.0
    ease_items: int = 6000
    text: float = 0.05
    follows: float = 1.0
    mixes: tuple[Mix, ...] = ()
    markov: Markov = field(default_factory=Markov)
    per_item: int = 200
    cut: str = "positive"
    neighbour_half_life_days: float = 90.0
    popular_half_life_days: float = 15.0
    boost_half_events: float = 40.0
    cold_share: float = 0.0
    habit_half_life_days: float = 120.0
    repeat: RepeatRecipe = field(default_factory=RepeatRecipe)
    validation_days: float = 92.0
    blend: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    updaters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_rivals: int = 0
    learn_history: bool = False
    federated: FederatedRecipe = field(default_factory=FederatedRecipe)


def _of_baskets() -> Recipe:
    """Purchases; the constants of learning on the device fit the length of this model's queries, about 12."""
    bounds = {"max_step": 10.0, "max_norm": 50.0}
    sgd = {"rate": 3.0, "pull": 0.003, **bounds}
    return Recipe(
        blend={"rate": 0.3}, guard=bounds, updaters={"sgd": sgd, "foldin": {"l2": 5.0, "half_life_days": 120.0}}
    )


def _by_order() -> Recipe:
    """Sequences: what counts is the order of events, not their age."""
    mixes = [
        Mix(ease, markov, Recency(NO_DECAY, half_life_events, last))
        for ease, markov in ((0.0, 1.0), (0.5, 1.0), (1.0, 0.5))
        for half_life_events, last in ((1.5, 10), (3.0, 20), (6.0, 50))
    ]
    return Recipe(
        history_length=200,
        encoder=SequenceRecipe(),
        architecture={},
        ease_half_life_days=NO_DECAY,
        ease_lasting=0.0,
        mixes=tuple(mixes),
        popular_half_life_days=NO_DECAY,
        habit_half_life_days=NO_DECAY,
        neighbour_half_life_days=NO_DECAY,
    )


def recipe_for(model: str) -> Recipe:
    """The default recipe of a model family. Raises TrainingError where there is none."""
    known = {
        "bag": _of_baskets,
        "ials": lambda: Recipe(guard={"max_step": 100.0, "max_norm": 200.0}),  # its queries are about 44 long
        "lightgcn": Recipe,
        "sasrec": lambda: replace(
            _by_order(), architecture={"block": "ligr", "positions": "rotary", "blocks": 2, "widen": 2, "dropout": 0.2}
        ),
        "gru4rec": lambda: replace(_by_order(), architecture={"hidden": 128, "dropout": 0.2}),
    }
    if model not in known:
        raise TrainingError(f"there is no model '{model}'", hint=f"one of {', '.join(known)}")
    return known[model]()


def recipe_of(model: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe that `dataclasses.asdict` made `values` of; what they do not name is the model's default."""
    recipe: Recipe = _filled(recipe_for(model), values)
    return recipe


def _filled(default: Any, values: Any) -> Any:
    if is_dataclass(default) and not isinstance(default, type):
        known = {each.name: getattr(default, each.name) for each in fields(default)}
        return replace(default, **{name: _filled(known[name], values[name]) for name in known if name in values})
    if isinstance(default, tuple):
        return tuple(_filled(default[0], value) for value in values) if default else tuple(values)
    return values


def changed(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with other constants, by dotted names: `dim`, `encoder.epochs`, `architecture.dropout`.

    Raises RequestError for a name that is not there, or a value of another type.
    """
    for name, text in settings.items():
        recipe = _changed(recipe, name, name.split("."), text)
    return recipe


def _changed(holder: Any, name: str, path: list[str], text: str) -> Any:
    first, rest = path[0], path[1:]
    known: Mapping[str, Any] = (
        {each.name: getattr(holder, each.name) for each in fields(holder)} if is_dataclass(holder) else holder
    )
    if first not in known and not (isinstance(holder, Mapping) and not rest):
        raise RequestError(f"the recipe has no constant '{name}'", hint=f"here are {', '.join(sorted(known))}")
    value = _changed(known[first], name, rest, text) if rest else _parsed(name, known.get(first), text)
    return replace(holder, **{first: value}) if is_dataclass(holder) else {**holder, first: value}  # type: ignore[type-var]


def _parsed(name: str, before: Any, text: str) -> Any:
    try:
        if before is None or isinstance(before, str):
            return _guessed(text) if before is None else text
        if isinstance(before, int | float):
            return type(before)(text)
    except ValueError:
        pass
    raise RequestError(f"'{name}' cannot be '{text}'", hint=f"now it is {before!r}")


def _guessed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
