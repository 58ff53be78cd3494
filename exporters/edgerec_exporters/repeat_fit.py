"""Fits the network of the source `repeat`: which of the items that a user had are in the user's next basket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgerec.bundle.repeat import HALF_LIVES, N_FEATURES, PRIOR, PRIOR_COUNT, RepeatModel
from edgerec.serving.repeat import Repeat, user_features
from edgerec_exporters import device_scores
from edgerec_exporters.examples import DAY, Baskets

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = NDArray[np.int64]
SHARE_HALF_LIFE = 60.0
"""Days, of the events by which an item's share of second and later purchases is measured."""


@dataclass(frozen=True, slots=True)
class RepeatRecipe:
    """`days`: how far back before the end of the data baskets are learned from · `every_days`: how old at most what is
    known of the items is then, as in bundles that rounds refresh · `hidden`: units of each of `members` networks, whose
    mean is one network again; 0: no such source · `most`: baskets, drawn where there are more."""

    days: float = 182.0
    every_days: float = 7.0
    hidden: int = 32
    members: int = 3
    epochs: int = 20
    batch_size: int = 4096
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    most: int = 20_000


class ItemHistory:
    """What everybody did with the items, as of any moment. `again` bool (n_events,): of an item that the user had in an
    earlier basket."""

    def __init__(self, baskets: Baskets) -> None:
        self._baskets = baskets
        basket = np.repeat(np.arange(len(baskets.start)), baskets.stop - baskets.start)
        by_time = np.argsort(baskets.when[basket], kind="stable")
        key = baskets.user[basket] * baskets.n_items + baskets.item
        _, first = np.unique(key[by_time], return_index=True)
        self.again = np.ones(len(key), np.bool_)
        self.again[by_time[first]] = False

    def table(self, until: float) -> Float32:
        """`RepeatModel.items` before a moment (POSIX seconds), float32 (n_items, 4)."""
        n, happened = self._baskets.n_items, self._baskets.at < until
        age, item = (until - self._baskets.at[happened]) / DAY, self._baskets.item[happened]
        counts = [np.bincount(item, np.exp2(-age / half_life), n) for half_life in HALF_LIVES]
        weight = np.exp2(-age / SHARE_HALF_LIFE)
        again = np.bincount(item, weight * self.again[happened], n)
        share = (again + PRIOR * PRIOR_COUNT) / (np.bincount(item, weight, n) + PRIOR_COUNT)
        return np.stack([*np.log1p(counts), share], 1).astype(np.float32)


def scores(baskets: Baskets, chosen: Rows, model: RepeatModel) -> Float32:
    """What the device's own source gives before each of the chosen baskets, float32 (n, n_items)."""
    return device_scores.scores(baskets, chosen, Repeat(model))


def fit(baskets: Baskets, until: float, recipe: RepeatRecipe, seed: int) -> RepeatModel | None:
    """The network, from the baskets of the last `days` before `until`; None where nobody takes anything again."""
    chosen, history = baskets.with_past(until - recipe.days * DAY, until), ItemHistory(baskets)
    if not recipe.hidden or not len(chosen) or not history.again.any():
        return None
    if len(chosen) > recipe.most:
        chosen = np.random.default_rng(seed).choice(chosen, recipe.most, replace=False)
    features, taken = _examples(baskets, history, chosen, until, recipe)
    if not taken.any():
        return None
    bounds = np.stack([features.min(0), features.max(0)])
    return RepeatModel(history.table(until), bounds, *_trained(features, taken, recipe, seed))


def _examples(
    baskets: Baskets, history: ItemHistory, chosen: Rows, until: float, recipe: RepeatRecipe
) -> tuple[Float32, NDArray[np.bool_]]:
    """Features float32 (p, 25) of every basket's items that its user had, and which of them it holds, bool (p,)."""
    step = recipe.every_days * DAY
    back = np.ceil((until - baskets.when[chosen]) / step).astype(np.int64)
    tables = {steps: history.table(until - steps * step) for steps in np.unique(back).tolist()}
    features, taken = [], []
    for basket, steps, profile in zip(
        chosen.tolist(), back.tolist(), device_scores.profiles(baskets, chosen), strict=True
    ):
        rows, known = user_features(profile)
        features.append(np.concatenate([known, tables[steps][rows]], 1))
        taken.append(np.isin(rows, baskets.item[baskets.start[basket] : baskets.stop[basket]]))
    return np.concatenate(features), np.concatenate(taken)


class _Network(nn.Module):
    """`RepeatModel.probability` before σ, of standardised features."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner, self.last, self.past = nn.Linear(N_FEATURES, hidden), nn.Linear(hidden, 1), nn.Linear(N_FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.last(torch.relu(self.inner(x))) + self.past(x)
        return logit.squeeze(1)


def _trained(features: Float32, taken: NDArray[np.bool_], recipe: RepeatRecipe, seed: int) -> tuple[Float32, Float32]:
    """`hidden` and `out` of the members' mean, by logistic loss; the features' mean and spread are folded in."""
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-6
    x = torch.from_numpy(((features - mean) / spread).astype(np.float32))
    y = torch.from_numpy(taken.astype(np.float32))
    with torch.random.fork_rng(devices=()), _one_thread():
        torch.manual_seed(seed)
        members = [_folded(_member(x, y, recipe), mean, spread) for _ in range(recipe.members)]
    hidden = np.concatenate([inner for inner, _, _ in members], axis=1)
    last = np.concatenate([weights for _, weights, _ in members]) / len(members)
    past = np.mean([weights for _, _, weights in members], axis=0)
    return hidden.astype(np.float32), np.concatenate([last, past]).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small take two threads as long as one, and twice the processor's time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _member(x: torch.Tensor, y: torch.Tensor, recipe: RepeatRecipe) -> _Network:
    network = _Network(recipe.hidden)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(x) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(x)).split(recipe.batch_size):
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network


def _folded(network: _Network, mean: Float64, spread: Float64) -> tuple[Float64, Float64, Float64]:
    """The weights for features as they are: into the hidden layer, out of it, and past it, each with its constants."""
    values = {name: value.detach().numpy().astype(np.float64) for name, value in network.named_parameters()}
    inner, past = values["inner.weight"].T / spread[:, None], values["past.weight"][0] / spread
    hidden = np.concatenate([inner, (values["inner.bias"] - mean @ inner)[None]])
    shift = values["last.bias"] + values["past.bias"] - mean @ past
    return hidden, values["last.weight"][0], np.concatenate([past, shift])
