"""Ranks every target within the whole catalogue under one model. Nothing is sampled.

Ties in score go by the model's catalogue order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import DataError, EdgeRecError
from edgerec_tools import metrics
from edgerec_tools.baselines import Learned, Pasts
from edgerec_tools.datasets import Dataset
from edgerec_tools.progress import Progress, silent
from edgerec_tools.protocols import Split

Rows = NDArray[np.int64]
Float32 = NDArray[np.float32]

K = 10
_CELLS = 6_000_000  # scores held at once
_MOST = 512  # targets held at once


class Model(Protocol):
    """Whatever scores a catalogue."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def columns(self) -> Rows:
        """The data set's row of each scored item, int64 (n_columns,); -1 for one that the data set does not have."""
        ...

    def scores(self, pasts: Pasts) -> Float32:
        """For each past the scores of all its items, float32 (n, n_columns); −inf: never to be served."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Pasts after which a model is asked for what comes next.

    `order`, `first`, `end` as `Split.pasts` gives them · `user` int32 (n,) rows · `hide`: whether what is in the past
    is never recommended.
    """

    data: Dataset
    order: Rows
    first: Rows
    end: Rows
    user: NDArray[np.int32]
    hide: bool

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lengths(self) -> Rows:
        """Events in each past, int64 (n,)."""
        return self.end - self.first

    def pasts(self, chosen: slice) -> Pasts:
        """Some of the pasts."""
        return Pasts.cut(self.data, self.order, self.first[chosen], self.end[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Questions(Asked):
    """With one right answer each: `item` int64 (n_targets,) rows. `repeats`: targets left out because the past already
    held the item, so that with `hide` nobody could find them."""

    item: Rows
    repeats: int

    @classmethod
    def of(cls, split: Split, seen: str) -> Questions:
        """`seen`: hide or show. Raises DataError where no target is left."""
        order, first, end = split.pasts()
        keep = _first_places(split, order) == end if seen == "hide" else np.ones(len(end), np.bool_)
        if not keep.any():
            raise DataError("every target was in its user's past already", hint="show seen items: --seen show")
        return cls(
            data=split.full,
            order=order,
            first=first[keep],
            end=end[keep],
            user=split.user[keep],
            hide=seen == "hide",
            item=split.item[keep].astype(np.int64),
            repeats=int((~keep).sum()),
        )


def _first_places(split: Split, order: Rows) -> Rows:
    """Where in `order` each target's user has the target's item for the first time, int64 (n_targets,)."""
    n_items = split.full.n_items
    held, place = np.unique(
        split.full.user[order].astype(np.int64) * n_items + split.full.item[order], return_index=True
    )
    wanted = split.user.astype(np.int64) * n_items + split.item
    places: Rows = place[np.searchsorted(held, wanted)]
    return places


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """What one model made of the questions.

    `ranks` int64 (n_targets,), from 1; 0 where the model cannot serve the target · `top` int64 (n_targets, K): the
    data set's rows of the list, best first, -1 where there is none · `unknown`: targets that are not in the model's
    catalogue; they count as misses · `cpu_seconds` of scoring and ranking, all threads.
    """

    name: str
    ranks: Rows
    top: Rows
    unknown: int
    cpu_seconds: float


def rank(model: Model, questions: Questions, progress: Progress = silent) -> Ranked:
    """Ranks every target under the model. Raises EdgeRecError where a score is NaN."""
    started = time.process_time()
    wanted = columns_of(model, questions.data)[questions.item]
    ranks = np.zeros(len(questions), np.int64)
    top = np.full((len(questions), K), -1, np.int64)
    for chosen, scores in scored(model, questions, progress):
        place = np.flatnonzero(wanted[chosen] >= 0)
        target = wanted[chosen][place]
        found = metrics.target_rank(scores[place], target)
        servable = scores[place, target] > -np.inf
        ranks[chosen.start + place[servable]] = found[servable]
        best = best_rows(model, scores, K)
        top[chosen, : best.shape[1]] = best
    return Ranked(model.name, ranks, top, int((wanted < 0).sum()), time.process_time() - started)


def best_rows(model: Model, scores: Float32, k: int) -> Rows:
    """The data set's rows of the k best items, int64 (n, min(k, n_columns)); -1 for what is no item of the data, or
    may not be served."""
    best = metrics.top_k(scores, k)
    served = np.take_along_axis(scores, best, axis=1) > -np.inf
    return np.where(served, model.columns[best], -1)


def columns_of(model: Model, data: Dataset) -> Rows:
    """The model's column of each item of the data, int64 (n_items,), -1 where it has none."""
    out = np.full(data.n_items, -1, np.int64)
    known = model.columns >= 0
    out[model.columns[known]] = np.flatnonzero(known)
    return out


def scored(model: Model, asked: Asked, progress: Progress = silent) -> Iterator[tuple[slice, Float32]]:
    """The scores float32 (n, n_columns) after some of the pasts at a time, −inf what may not be served.

    Raises EdgeRecError where a score is NaN.
    """
    column_of = columns_of(model, asked.data)
    size = min(max(_CELLS // max(len(model.columns), 1), 1), _MOST)
    for start in range(0, len(asked), size):
        chosen = slice(start, min(start + size, len(asked)))
        pasts = asked.pasts(chosen)
        scores = model.scores(pasts)
        if np.isnan(scores).any():
            raise EdgeRecError(f"{model.name} gave scores that are no numbers")
        if asked.hide:
            column = column_of[pasts.item]
            scores[pasts.owner[column >= 0], column[column >= 0]] = -np.inf
        yield chosen, scores
        progress(model.name, chosen.stop, len(asked))


@dataclass(frozen=True, slots=True, eq=False)
class OverData:
    """A fitted baseline as a model: its catalogue is the data set's."""

    name: str
    learned: Learned
    columns: Rows

    def scores(self, pasts: Pasts) -> Float32:
        """Float32 (n, n_items)."""
        return self.learned.scores(pasts)
