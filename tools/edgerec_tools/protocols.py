"""Evaluation protocols: which events a model may learn from, and which it is asked for, as one frozen `Split`.

Leave-one-out leaks the future (a model learns from what others did after a user's target), so the global temporal
split stands beside it (Meng et al. 2020; Gusak et al. 2025).

**Ties.** "Last", "earlier" and "later" go by the order in which the data set holds its events: by time, then user,
then as the source has them; baskets that the source names, by time, then item id. 42 % of MovieLens users have tied
last timestamps, so this rule decides what their target is; it is the same for every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import DataError
from edgerec_tools.datasets import Dataset

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]
Targets = Literal["last", "successive"]

MIN_EVENTS = 3
"""Of a user's events under leave-one-out: one to learn from, one to choose on, one to be asked for."""
QUANTILE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What a protocol makes of a data set. All three data sets share one numbering of users and items.

    `train`: what a model may learn from · `full`: every event, the pasts of the targets come from it · `target`
    int64 (n_targets,): places of the targets among the events of `full`, ascending · `protocol`: `loo` or `gts` ·
    `targets`: `last` or `successive` · `cutoff`: POSIX seconds that `train` ends before, None under `loo`.
    """

    train: Dataset
    full: Dataset
    target: Rows
    protocol: Literal["loo", "gts"]
    targets: Targets
    cutoff: float | None = None

    @property
    def test(self) -> Dataset:
        """The targets alone, in the data set's order."""
        keep = np.zeros(self.full.n_events, np.bool_)
        keep[self.target] = True
        return self.full.select(keep)

    @property
    def user(self) -> NDArray[np.int32]:
        """User row of each target, int32 (n_targets,)."""
        return self.full.user[self.target]

    @property
    def item(self) -> NDArray[np.int32]:
        """Item row of each target, int32 (n_targets,)."""
        return self.full.item[self.target]

    def pasts(self) -> tuple[Rows, Rows, Rows]:
        """Everything the user did before each target: (order, first, end).

        `order` int64 (n_events,): places in `full`, by user, each user's oldest first; the past of target k is
        `order[first[k]:end[k]]`, with `first`, `end` int64 (n_targets,). Events between the cut-off and a target
        belong to its past ("history live"); under `loo` the past is what `train` holds of the user.
        """
        order = by_user(self.full)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        starts = np.searchsorted(self.full.user[order], self.user)
        return order, starts.astype(np.int64), place[self.target]


def leave_one_out(dataset: Dataset) -> Split:
    """Each user's last event is the target; see the module about ties.

    Users with fewer than MIN_EVENTS events keep all of them in `train` and are not asked for anything. Raises
    DataError where no user has so many.
    """
    last = last_events(dataset, MIN_EVENTS)
    if not len(last):
        raise DataError(f"no user has {MIN_EVENTS} events, so there is nothing to leave out")
    keep = np.ones(dataset.n_events, np.bool_)
    keep[last] = False
    return Split(dataset.select(keep), dataset, last, "loo", "last")


def temporal(
    dataset: Dataset,
    *,
    quantile: float | None = None,
    cutoff: float | None = None,
    targets: Targets = "successive",
) -> Split:
    """Learn from events before one moment for everybody, ask for events from then on.

    The moment is `cutoff` (POSIX seconds), else the `quantile` (QUANTILE by default) of the events' times, linearly
    interpolated. `targets`: `successive` asks for each later event in turn, `last` for each user's last one. A
    target needs a past: at least one earlier event of its user, before the cut-off or after it. Raises DataError
    where the data know no times, nothing lies before the cut-off, or nothing can be asked for.
    """
    if not dataset.timed:
        raise DataError(f"{dataset.name} knows the order of events but not their times", hint="use leave-one-out")
    share = QUANTILE if quantile is None else quantile
    if cutoff is None and not 0 < share < 1:
        raise DataError(f"quantile {share} lies outside 0 … 1")
    at = float(np.quantile(dataset.at, share)) if cutoff is None and dataset.n_events else float(cutoff or 0.0)
    later = dataset.at >= at
    later[by_user(dataset)[_firsts(dataset)]] = False
    if targets == "last":
        last = np.zeros_like(later)
        last[last_events(dataset, 2)] = True
        later &= last
    train = dataset.select(dataset.at < at)
    if not train.n_events or not later.any():
        raise DataError("nothing lies on one side of the cut-off", hint="choose another cut-off or quantile")
    return Split(train, dataset, np.flatnonzero(later), "gts", targets, at)


def by_user(dataset: Dataset) -> Rows:
    """Places of the events by user, each user's in the data set's order, int64 (n_events,)."""
    return np.argsort(dataset.user, kind="stable").astype(np.int64)


def last_events(dataset: Dataset, at_least: int) -> Rows:
    """Places of the last event of each user with that many events, int64, ascending."""
    order = by_user(dataset)
    counts = np.bincount(dataset.user, minlength=dataset.n_users)
    ends = np.cumsum(counts)[counts >= at_least] - 1
    return np.sort(order[ends])


def _firsts(dataset: Dataset) -> Rows:
    """Where each user begins in the order of `by_user`."""
    counts = np.bincount(dataset.user, minlength=dataset.n_users)
    return (np.cumsum(counts) - counts)[counts > 0].astype(np.int64)
