"""Cold users: how good the ranking of everything else is once a user nobody trained on has done k things."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import DataError, RequestError
from edgerec_tools import metrics
from edgerec_tools.baselines import BASELINES, Evidence, choose
from edgerec_tools.datasets import Dataset
from edgerec_tools.evaluate.ranking import Asked, Model, OverData, best_rows, scored
from edgerec_tools.evaluate.run import labels
from edgerec_tools.evaluate.runtime_models import opened
from edgerec_tools.intervals import Interval, bootstrap_means
from edgerec_tools.progress import Progress, silent
from edgerec_tools.protocols import by_user

Float64 = NDArray[np.float64]
Rows = NDArray[np.int64]

EVENTS = (1, 3, 5, 10, 20)
SHARE = 0.2
TOP = 100
REFERENCE = "popular"


@dataclass(frozen=True, slots=True, eq=False)
class ColdUsers:
    """`train`: the events of everybody else · `full`: all events · `users` int32: rows of those held out."""

    train: Dataset
    full: Dataset
    users: NDArray[np.int32]

    def after(self, k: int) -> tuple[Asked, list[Rows]]:
        """The first k events of each held-out user with more, and the distinct new items of the rest, their targets."""
        order = by_user(self.full)
        users, item = self.full.user[order], self.full.item[order]
        first = np.searchsorted(users, self.users)
        stop = np.searchsorted(users, self.users, side="right")
        targets, kept = [], []
        for place, (begin, end) in enumerate(zip(first.tolist(), stop.tolist(), strict=True)):
            new = np.setdiff1d(item[begin + k : end], item[begin : begin + k]).astype(np.int64)
            if len(new):
                targets.append(new)
                kept.append(place)
        if not kept:
            raise DataError(f"no held-out user has more than {k} events", hint="ask after fewer: --k")
        return Asked(self.full, order, first[kept], first[kept] + k, self.users[kept], hide=True), targets


def hold_out_users(dataset: Dataset, *, share: float = SHARE, seed: int = 0) -> ColdUsers:
    """A random `share` of the users, at least one, is held out of training. Raises DataError for a single user."""
    there = np.unique(dataset.user)
    if len(there) < 2:
        raise DataError("holding users out needs more than one")
    count = min(max(round(share * len(there)), 1), len(there) - 1)
    chosen = np.sort(np.random.default_rng(seed).permutation(there)[:count])
    return ColdUsers(dataset.of_users(np.setdiff1d(there, chosen)), dataset, chosen)


def ndcg(model: Model, asked: Asked, targets: Sequence[Rows], progress: Progress = silent) -> Float64:
    """NDCG@100 after each past, (n,), all of its targets counting alike; seen items are hidden."""
    out = np.empty(len(asked))
    for chosen, scores in scored(model, asked, progress):
        for place, row in enumerate(best_rows(model, scores, TOP), start=chosen.start):
            hit = metrics.hits(row, targets[place], TOP)
            out[place] = metrics.ndcg(hit, len(targets[place]))
    return out


def evaluate_cold(
    split: ColdUsers,
    models: Sequence[str],
    *,
    baselines: Sequence[str] | None = None,
    events: Sequence[int] = EVENTS,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The document: NDCG@100 after k events of every model, and its paired difference to `popular`, over users."""
    asked = {k: split.after(k) for k in dict.fromkeys(events)}
    found: dict[str, dict[int, Float64]] = {}
    seconds: dict[str, float] = {}

    def judge(model: Model) -> None:
        started = time.process_time()
        found[model.name] = {k: ndcg(model, *question, progress) for k, question in asked.items()}
        seconds[model.name] = time.process_time() - started

    for name, label in labels(models):
        if name in BASELINES:
            continue
        if not Path(name).exists():
            raise RequestError(f"there is no bundle or trained file {name}", hint=f"baselines: {', '.join(BASELINES)}")
        with opened(Path(name), label, split.full, "hide") as model:
            judge(model.device)
    evidence = Evidence(split.train, seed)
    wanted = [*(name for name in models if name in BASELINES), REFERENCE, *(baselines or ())]
    for baseline in choose(list(BASELINES) if baselines is None else wanted):
        reason = baseline.infeasible(split.train)
        if reason is not None and baseline.name in models:
            raise RequestError(f"{baseline.name} cannot be fitted here: {reason}")
        if reason is None:
            judge(OverData(baseline.name, baseline.fit(evidence), np.arange(split.full.n_items)))
    first = labels(models)[0][1]
    return _document(split, first, [label for _, label in labels(models)], found, seconds, asked, seed)


def _document(
    split: ColdUsers,
    first: str,
    models: Sequence[str],
    found: dict[str, dict[int, Float64]],
    seconds: dict[str, float],
    asked: dict[int, tuple[Asked, list[Rows]]],
    seed: int,
) -> dict[str, Any]:
    names = list(found)
    rows: dict[str, dict[str, Interval]] = {name: {} for name in names}
    differences: dict[str, dict[str, Interval]] = {name: {} for name in names}
    for k, (question, _) in asked.items():
        values = np.stack([found[name][k] for name in names], axis=1)
        against = values - found[REFERENCE][k][:, None]
        intervals = bootstrap_means(question.user, np.concatenate([values, against], axis=1), seed=seed)
        for place, name in enumerate(names):
            rows[name][key(k)] = intervals[place]
            differences[name][key(k)] = intervals[len(names) + place]
    summary = {name: _row(row) for name, row in rows.items()}
    return {
        "data": split.full.name,
        "model": first,
        "protocol": "cold-users",
        "seed": seed,
        "n_users": len(split.users),
        "n_items": split.full.n_items,
        "n_users_after": {str(k): len(question) for k, (question, _) in asked.items()},
        "seen": "hide",
        **summary[first],
        "baselines": {name: summary[name]["metrics"] for name in names if name not in models},
        "cpu_seconds": round(seconds[first], 2),
        "models": {name: summary[name] for name in names if name in models},
        "vs_popular": {name: _row(row) for name, row in differences.items() if name != REFERENCE},
        "warnings": ["models must have been trained without the held-out users: see --write-train"],
    }


def key(k: int) -> str:
    """What the figure after k events is called."""
    return f"ndcg@{TOP} after {k}"


def _row(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {
        "metrics": {name: round(one.value, 6) for name, one in intervals.items()},
        "ci95": {name: [round(one.low, 6), round(one.high, 6)] for name, one in intervals.items()},
    }
