"""How the taste source is fitted: where its item vectors start, what trains them, and who else it learns from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from edgerec.errors import TrainingError
from edgerec_exporters import neighbours
from edgerec_exporters.checkpoint import Checkpoint
from edgerec_exporters.distil import Teacher, taste_of
from edgerec_exporters.distributed import ALONE, Ranks
from edgerec_exporters.encoder_fit import EncoderRecipe, Progress, Taste, Trainer
from edgerec_exporters.epochs import Plan, Ran, run
from edgerec_exporters.examples import Baskets
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.models import build
from edgerec_exporters.recipe import Recipe, recipe_for, recipe_of
from edgerec_exporters.sequence_fit import SequenceTrainer
from edgerec_exporters.spaces import SPACES, item_space

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained

Float32 = NDArray[np.float32]
Judging = Callable[[Taste], float]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the trial found best: the number of epochs, and whether the item vectors stay as their space made them;
    `seconds` of processor time that an epoch took."""

    epochs: int
    fixed: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TasteFit:
    """The same procedure for every pass. `teacher`: a trained model of the same catalogue to learn from as well."""

    recipe: Recipe
    model: str
    seed: int
    device: torch.device
    progress: Progress
    ranks: Ranks = ALONE
    keeper: Checkpoint | None = None
    teacher: Trained | None = None

    def fit(
        self,
        data: Interactions,
        baskets: Baskets,
        until: float,
        what: str,
        *,
        judge: Judging | None = None,
        learned: Learned | None = None,
    ) -> tuple[Taste, Float32, Learned]:
        """The trained taste, the log prior in its biases float32 (n_items,), and `learned`, else what the judge found
        best: also of vectors kept and vectors trained, where they come from a space."""
        teacher = self._teacher(data, baskets, until, what, judge) if self.teacher else None
        start, prior = self._start(data, baskets, until, what)
        found: list[tuple[Taste, Ran, bool]] = []
        tries = (False, True) if judge and self.model in SPACES else (learned.fixed if learned else False,)
        for fixed in tries:
            taste = copy.deepcopy(start)
            taste.vectors.requires_grad_(not fixed)
            name = f"{what}, vectors fixed" if fixed and judge else what
            ran = self._train(taste, baskets, until, name, judge, learned.epochs if learned else None, teacher)
            found.append((taste, ran, fixed))
        taste, ran, fixed = max(found, key=lambda each: each[1].best)
        return taste, prior, Learned(ran.epoch, fixed, ran.seconds)

    def _start(self, data: Interactions, baskets: Baskets, until: float, what: str) -> tuple[Taste, Float32]:
        """An untrained encoder with its item vectors, and the log prior that its biases start from."""
        recipe = self.recipe
        if not isinstance(recipe.encoder, EncoderRecipe):
            torch.manual_seed(self.seed)
            settings = {"dim": recipe.dim, "length": recipe.history_length, **recipe.architecture}
            vectors = neighbours.near_factors(baskets, recipe.dim, recipe.encoder.start_norm, self.seed)
            prior = np.zeros(baskets.n_items, np.float32)
            return Taste(build(self.model, settings), vectors, prior), prior
        weights = [max(kind.weight, 0.0) for kind in data.event_kinds.values()]
        encoder = build(self.model, {"dim": recipe.dim, "kind_weights": weights, "gain": recipe.gain})
        prior = log_prior(baskets, until)
        return Taste(encoder, self._vectors(baskets, until, what), prior), prior

    def _vectors(self, baskets: Baskets, until: float, what: str) -> Float32:
        recipe = self.recipe
        if self.model not in SPACES:
            co_occurrence = neighbours.gram(baskets, until, recipe.factor_half_life_days)
            return neighbours.item_factors(co_occurrence, recipe.dim, recipe.factor_l2, self.seed)
        phase = _file_name(f"{what} {self.model}")
        kept = self.keeper.load(phase) if self.keeper else None
        if kept:
            known: Float32 = kept["vectors"].numpy()
            return known
        made = item_space(
            self.model,
            baskets,
            until,
            recipe.dim,
            recipe.space,
            seed=self.seed,
            device=self.device,
            progress=lambda space, done, total: self.progress(f"{what}: {space}", done, total),
        )
        if self.keeper:
            self.keeper.save(phase, {"vectors": torch.from_numpy(made)})
        return made

    def _train(
        self,
        taste: Taste,
        baskets: Baskets,
        until: float,
        what: str,
        judge: Judging | None,
        epochs: int | None,
        teacher: Teacher | None,
    ) -> Ran:
        """Trains `taste` in place, for `epochs` or until the judge has seen enough."""
        recipe, length = self.recipe.encoder, self.recipe.history_length
        trainer: Trainer | SequenceTrainer
        if isinstance(recipe, EncoderRecipe):
            trainer = Trainer(taste, baskets, until, length, recipe, self.seed, self.device, self.ranks, teacher)
            every = 1
        else:
            trainer = SequenceTrainer(taste, baskets, length, recipe, self.seed, self.device, self.ranks, teacher)
            every = recipe.validate_every
        last = epochs or recipe.epochs
        ran = run(
            trainer,
            Plan(recipe.epochs, last, every, recipe.patience),
            (lambda: judge(taste)) if judge else None,
            lambda done, step, steps: self.progress(f"{what}: encoder", done * steps + step, last * steps),
            phase=_file_name(what),
            checkpoint=self.keeper,
            ranks=self.ranks,
            seed=self.seed,
        )
        self.progress(f"{what}: encoder", last, last)
        return ran

    def _teacher(self, data: Interactions, baskets: Baskets, until: float, what: str, judge: Judging | None) -> Teacher:
        """The teacher as it is; for the trial, one that was made the same way without what is held out."""
        trained = self.teacher
        assert trained is not None
        recipe = recipe_of(trained.model, trained.recipe)
        if judge is None:
            prior = log_prior(baskets, until) if isinstance(recipe.encoder, EncoderRecipe) else np.float32(0)
            taste = taste_of(trained, prior)
        else:
            own = replace(self, recipe=recipe, model=trained.model, seed=trained.seed, teacher=None)
            learned = Learned(int(trained.metrics["epochs"]), trained.metrics.get("item_vectors") == "fixed")
            taste, _, _ = own.fit(data, baskets, until, f"{what}, teacher", learned=learned)
        return Teacher.of(taste, trained.history_length, self.recipe.distil, self.device)


def log_prior(baskets: Baskets, until: float, half_life_days: float = 60.0) -> Float32:
    """Half the log of each item's share of recent events: what training's softmax starts from, float32 (n_items,)."""
    count = np.expm1(baskets.popularity(until, half_life_days).astype(np.float64))
    prior: Float32 = (0.5 * np.log(count / count.sum() + 1e-5)).astype(np.float32)
    return prior


def check_teacher(teacher: Trained, data: Interactions, trained_before: str, model: str, recipe: Recipe) -> None:
    """Raises TrainingError where the teacher knows another catalogue, has seen what the pupil may not, or cannot be
    asked what the pupil is asked."""
    if list(teacher.items) != list(data.items) or list(teacher.event_kinds) != list(data.event_kinds):
        raise TrainingError(
            f"the teacher '{teacher.name}' knows other items or kinds of events than the data",
            hint="train it on the same data set",
        )
    if teacher.metrics.get("trained_before") != trained_before:
        raise TrainingError(
            f"the teacher was trained on what lies before {teacher.metrics.get('trained_before')}, "
            f"and is to teach what lies before {trained_before}",
            hint="train it with the same --cutoff and --protocol",
        )
    if _reads_order(model) and not _reads_order(teacher.model):
        raise TrainingError(f"a {teacher.model} cannot teach a {model}: it knows no order of events")
    if _reads_order(model) and teacher.history_length < recipe.history_length:
        raise TrainingError(
            f"the teacher reads {teacher.history_length} events, not {recipe.history_length}",
            hint=f"--set history_length={teacher.history_length}",
        )


def _reads_order(model: str) -> bool:
    return not isinstance(recipe_for(model).encoder, EncoderRecipe)


def _file_name(what: str) -> str:
    return "-".join("".join(sign if sign.isalnum() else " " for sign in what).split())
