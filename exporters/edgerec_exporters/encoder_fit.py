"""Trains an encoder with its item vectors: the next basket, given the baskets before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgerec.errors import TrainingError
from edgerec_exporters.distil import Teacher, divergence
from edgerec_exporters.distributed import ALONE, Ranks
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.losses import draw_candidates, sampled_softmax

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """How the encoder is trained. `targets`: "novel" asks for items new to the user, "all" for whole baskets.

    An example counts 0.5^(age before the cut-off / example_half_life_days). `item_dropout` leaves out events of the
    history. Negatives are drawn by popularity^alpha. `patience`: epochs without gain before training stops.
    """

    epochs: int = 5
    patience: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-3
    encoder_rate: float = 3e-3
    weight_decay: float = 0.0
    item_dropout: float = 0.5
    n_negatives: int = 1024
    alpha: float = 0.75
    targets: str = "novel"
    example_half_life_days: float = 90.0


class Taste(nn.Module):
    """An encoder with the item vectors and biases that it is trained with; `log_prior` (n_items,) is fixed."""

    def __init__(self, encoder: nn.Module, vectors: Float32, log_prior: Float32) -> None:
        super().__init__()
        self.encoder = encoder
        self.vectors = nn.Parameter(torch.from_numpy(vectors.copy()))
        self.bias = nn.Parameter(torch.from_numpy(log_prior.copy()))

    def queries(self, rows: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, dim)."""
        query: Tensor = self.encoder(self.vectors[rows] * mask.unsqueeze(-1), age_days, kind, mask)
        return query


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA where there is one. Raises TrainingError for a device that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device '{name}' is unknown", hint="auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("there is no CUDA device", hint="use --device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def chances(baskets: Baskets, alpha: float) -> NDArray[np.float64]:
    """Probability of each item as a negative, by (count + 1)^alpha, float64 (n_items,)."""
    weight = (np.bincount(baskets.item, minlength=baskets.n_items) + 1.0) ** alpha
    total: NDArray[np.float64] = weight / weight.sum()
    return total


class Trainer:
    """One training run: epochs over shuffled examples with a cosine schedule, all randomness from `seed`.

    `ranks`: the processes that share each batch · `teacher`: what it learns from beside the data.
    """

    def __init__(
        self,
        taste: Taste,
        baskets: Baskets,
        until: float,
        length: int,
        recipe: EncoderRecipe,
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
        self.examples = baskets.with_past(until=until)
        if not len(self.examples):
            raise TrainingError("no user comes back: there is no basket with an earlier one to learn from")
        self.weight = np.exp2(-(until - baskets.when) / DAY / recipe.example_half_life_days).astype(np.float32)
        self.chance = chances(baskets, recipe.alpha)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [taste.vectors], "weight_decay": recipe.weight_decay, "peak": recipe.learning_rate},
                {"params": [taste.bias], "peak": recipe.learning_rate},
                {"params": taste.encoder.parameters(), "peak": recipe.encoder_rate},
            ],
            weight_decay=0.0,
        )
        self.steps = 0

    def epoch(self, epochs: int, tick: Callable[[int, int], None]) -> float:
        """One pass; `epochs` is the length of the schedule. Returns the mean loss. `tick` gets (step, steps)."""
        self.taste.train()
        order = self.rng.permutation(self.examples)
        parts = np.array_split(order, math.ceil(len(order) / self.recipe.batch_size))
        total = 0.0
        for number, part in enumerate(parts):
            share = self.steps / (epochs * len(parts))
            for group in self.optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, 0.05 + 20 * share) * 0.5 * (1 + math.cos(math.pi * share))
            total += self._step(part)
            self.steps += 1
            tick(number + 1, len(parts))
        total = self.ranks.add(total)
        if not math.isfinite(total):
            raise TrainingError("training did not stay finite", hint="lower the learning rate")
        return total / len(parts)

    def _step(self, part: Rows) -> float:
        """One step of all processes. Returns this process's part of the batch's loss."""
        place, item = self.baskets.targets(part)
        novel = self.recipe.targets == "novel"
        if novel:
            seen = self.baskets.seen_mask(part)
            new = ~seen[place, item]
            place, item = place[new], item[new]
        if not len(item):
            return 0.0
        rows, log_inclusion = draw_candidates(
            item, self.baskets.n_items, self.recipe.n_negatives, self.chance, self.rng
        )
        wanted = np.zeros((len(part), len(rows)), np.bool_)
        wanted[place, np.searchsorted(rows, item)] = True
        kept = self.rng.random((len(part), self.length)) >= self.recipe.item_dropout
        weight = self.weight[part] / np.sqrt(np.maximum(wanted.sum(1), 1))
        mine, counted = self.ranks.share(len(part)), wanted.sum(1) * weight
        past = self.baskets.padded(part[mine], self.length)
        to = lambda array: torch.from_numpy(array).to(self.device)  # noqa: E731
        query = self.taste.queries(to(past.rows), to(past.age_days), to(past.kind), to(past.mask & kept[mine]))
        among = to(rows)
        logits = query @ self.taste.vectors[among].T + self.taste.bias[among]
        excluded = to(seen[mine][:, rows]) if novel else None
        inclusion, share = to(log_inclusion), to(weight[mine].astype(np.float32))
        loss = sampled_softmax(logits, to(wanted[mine]), inclusion, excluded, share)
        if self.teacher is not None:
            theirs = self.teacher.logits(*map(to, self._read_by(self.teacher, part[mine])), among)
            counts = to(counted[mine].astype(np.float32))
            apart = divergence(logits, theirs, inclusion, excluded, counts, self.teacher.recipe.temperature)
            loss = (1 - self.teacher.recipe.share) * loss + self.teacher.recipe.share * apart
        loss = loss * float(counted[mine].sum() / max(counted.sum(), 1e-9))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.add_gradients(self.taste.parameters())
        self.optimiser.step()
        return float(loss.detach())

    def _read_by(self, teacher: Teacher, part: Rows) -> tuple[NDArray[Any], ...]:
        past = self.baskets.padded(part, teacher.length)
        return past.rows, past.age_days, past.kind, past.mask


def taste_scores(taste: Taste, baskets: Baskets, chosen: Rows, length: int, bias: Float32) -> Float32:
    """query · V + bias before each of the chosen baskets, float32 (n, n_items)."""
    out = np.empty((len(chosen), baskets.n_items), np.float32)
    taste.eval()
    device = taste.vectors.device
    with torch.no_grad():
        for at in range(0, len(chosen), 512):
            past = baskets.padded(chosen[at : at + 512], length)
            arrays = (past.rows, past.age_days, past.kind, past.mask)
            query = taste.queries(*(torch.from_numpy(array).to(device) for array in arrays))
            out[at : at + 512] = (query @ taste.vectors.T).cpu().numpy() + bias
    return out
