"""Trains a sequence encoder with its item vectors: the next item after every event of every user."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgerec.errors import TrainingError
from edgerec_exporters.distil import Teacher, divergence
from edgerec_exporters.distributed import ALONE, Ranks
from edgerec_exporters.encoder_fit import Taste, chances
from edgerec_exporters.examples import Baskets, Padded
from edgerec_exporters.losses import draw_candidates, shared_softmax
from edgerec_exporters.models import SequenceEncoder

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]
SORTED_TOGETHER = 16
"""Batches whose sequences are sorted by length, so that little of a batch is padding."""


@dataclass(frozen=True, slots=True)
class SequenceRecipe:
    """How a sequence encoder is trained.

    `batch_size`: sequences · `warm_up`: share of the steps in which the rate rises to `learning_rate`, from where it
    falls along a cosine to `final_rate` of it · `n_negatives` draws by popularity^alpha and `in_batch` of the batch's
    own targets are what all positions are ranked against · `item_dropout` leaves events out of the history · `crop`:
    share of the sequences that end at an event drawn by chance instead of the newest · `start_norm`: length of the
    item vectors at the start, see `neighbours.near_factors` · `patience`: validations without gain before training
    stops, one every `validate_every` epochs.
    """

    epochs: int = 12
    patience: int = 3
    validate_every: int = 2
    batch_size: int = 32
    learning_rate: float = 2e-3
    final_rate: float = 0.05
    warm_up: float = 0.05
    weight_decay: float = 0.0
    n_negatives: int = 384
    in_batch: int = 0
    alpha: float = 0.5
    item_dropout: float = 0.0
    crop: float = 0.0
    clip: float = 5.0
    start_norm: float = 0.5


class SequenceTrainer:
    """One training run, with the same face as `encoder_fit.Trainer`; all randomness from `seed`.

    `ranks`: the processes that share each batch · `teacher`: what it learns from beside the data.
    """

    def __init__(
        self,
        taste: Taste,
        baskets: Baskets,
        length: int,
        recipe: SequenceRecipe,
        seed: int,
        device: Any,
        ranks: Ranks = ALONE,
        teacher: Teacher | None = None,
    ) -> None:
        self.taste, self.baskets, self.length, self.recipe = taste.to(device), baskets, length, recipe
        self.device, self.ranks, self.teacher = device, ranks, teacher
        ranks.same_start(taste)
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        ends = np.flatnonzero(np.diff(np.append(baskets.user, -1)) != 0)
        self.first, self.end = baskets.first[ends], baskets.stop[ends]
        long = self.end - self.first > 1
        self.first, self.end = self.first[long], self.end[long]
        if not len(self.first):
            raise TrainingError("no user comes back: there is no event with an earlier one to learn from")
        self.chance = chances(baskets, recipe.alpha)
        decayed = [p for p in taste.encoder.parameters() if p.ndim > 1]
        plain = [p for p in taste.encoder.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [taste.vectors, *decayed], "weight_decay": recipe.weight_decay},
                {"params": [taste.bias, *plain], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.steps = 0

    def epoch(self, epochs: int, tick: Callable[[int, int], None]) -> float:
        """One pass; `epochs` is the length of the schedule. Returns the mean loss. `tick` gets (step, steps)."""
        self.taste.train()
        batches = self._batches()
        total = 0.0
        for number, (first, end) in enumerate(batches):
            rate = self.recipe.learning_rate * self._rate(self.steps / (epochs * len(batches)))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            total += self._step(first, end)
            self.steps += 1
            tick(number + 1, len(batches))
        total = self.ranks.add(total)
        if not math.isfinite(total):
            raise TrainingError("training did not stay finite", hint="lower the learning rate")
        return total / len(batches)

    def _rate(self, share: float) -> float:
        recipe = self.recipe
        if share < recipe.warm_up:
            return (share + 1e-3) / (recipe.warm_up + 1e-3)
        fallen = 0.5 * (1 + math.cos(math.pi * min((share - recipe.warm_up) / (1 - recipe.warm_up), 1.0)))
        return recipe.final_rate + (1 - recipe.final_rate) * fallen

    def _batches(self) -> list[tuple[Rows, Rows]]:
        """Slices first:end of the columns, in batches of about the same length."""
        first, end = self._windows()
        order = self.rng.permutation(len(first))
        out = []
        for part in np.array_split(order, math.ceil(len(order) / (self.recipe.batch_size * SORTED_TOGETHER))):
            part = part[np.argsort((end - first)[part], kind="stable")]
            out += np.array_split(part, math.ceil(len(part) / self.recipe.batch_size))
        return [(first[out[k]], end[out[k]]) for k in self.rng.permutation(len(out)).tolist()]

    def _windows(self) -> tuple[Rows, Rows]:
        """What is read in this epoch: each user's newest events and, side by side, windows over those that do not fit,
        cut at places that chance moves. Each event is asked for once, and seldom after the same past."""
        first, end = self.first, self.end.copy()
        cropped = (self.rng.random(len(end)) < self.recipe.crop) & (end - first > 2)
        end[cropped] = self.rng.integers(first[cropped] + 2, end[cropped] + 1)
        long = np.flatnonzero(self.end - first > self.length + 1)
        older = self.end[long] - self.length  # events before that one are asked for in further windows
        cut = older - self.rng.integers(1, self.length + 1, len(long))
        count = 1 + -(-np.maximum(cut - first[long] - 1, 0) // self.length)
        which = np.repeat(np.arange(len(long)), count)
        number = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        asked_from = cut[which] - number * self.length
        begins = np.concatenate([end - self.length, asked_from]) - 1
        ends = np.concatenate([end, np.minimum(older[which], asked_from + self.length)])
        return np.maximum(np.concatenate([first, first[long[which]]]), begins), ends

    def _step(self, first: Rows, end: Rows) -> float:
        """One step of all processes. Returns this process's part of the batch's loss."""
        n_targets = int((end - first - 1).sum())
        past = self.baskets.window(first, end, int((end - first).max()))
        among, log_inclusion = self._candidates(past.rows[:, 1:][past.mask[:, :-1]])
        mask = self._thinned(past) if self.recipe.item_dropout else past.mask[:, :-1]
        mine = self.ranks.share(len(first))
        asked, target = past.mask[mine, :-1], past.rows[mine, 1:]
        loss = self._loss(past.rows[mine, :-1], mask[mine], asked, target[asked], among, log_inclusion)
        loss = loss * (int(asked.sum()) / n_targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.add_gradients(self.taste.parameters())
        torch.nn.utils.clip_grad_norm_(self.taste.parameters(), self.recipe.clip)
        self.optimiser.step()
        return float(loss.detach())

    def _loss(
        self, rows: Rows, mask: Bools, asked: Bools, target: Rows, among: Rows, log_inclusion: NDArray[np.float32]
    ) -> Tensor:
        taste, encoder = self.taste, self.taste.encoder
        assert isinstance(encoder, SequenceEncoder)
        if not len(target):  # more processes than sequences
            return taste.bias.sum() * 0.0
        to = lambda array: torch.from_numpy(array).to(self.device)  # noqa: E731
        read, known, candidates, inclusion = to(mask), to(rows), to(among), to(log_inclusion)
        history = taste.vectors.index_select(0, known.flatten()).unflatten(0, known.shape)
        history = history * read.unsqueeze(-1).to(history.dtype)
        states = encoder.states(history, read).flatten(0, 1).index_select(0, to(np.flatnonzero(asked)))
        weight = torch.ones(len(target), device=self.device)
        loss = shared_softmax(states, to(target), taste.vectors, taste.bias, candidates, inclusion, weight)
        if self.teacher is None:
            return loss
        logits = states @ taste.vectors[candidates].T + taste.bias[candidates]
        theirs = self.teacher.logits_everywhere(known, to(asked), candidates)
        apart = divergence(logits, theirs, inclusion, None, weight, self.teacher.recipe.temperature)
        return (1 - self.teacher.recipe.share) * loss + self.teacher.recipe.share * apart

    def _thinned(self, past: Padded) -> Bools:
        kept = self.rng.random(past.mask.shape) >= self.recipe.item_dropout
        kept[:, -2] = True
        mask: Bools = (past.mask & kept)[:, :-1]
        return mask

    def _candidates(self, targets: Rows) -> tuple[Rows, NDArray[np.float32]]:
        recipe = self.recipe
        some = self.rng.choice(targets, min(recipe.in_batch, len(targets)), replace=False)
        return draw_candidates(some, self.baskets.n_items, recipe.n_negatives, self.chance, self.rng)
