"""Unseen users: what an updater makes of somebody nobody trained on, item vectors fixed.

Each held-out user's last events before the final one are recorded on a device; then the final item is ranked among
random negatives, and in full beside it. The negatives come from everything that is not in the user's past: a protocol
that leaves the target's fellows out of them leaks (see the canary in the tests).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgerec
from edgerec import Config, Event
from edgerec.bundle import Bundle, load_bundle
from edgerec.errors import DataError
from edgerec_tools.datasets import Dataset
from edgerec_tools.evaluate.cold import ColdUsers
from edgerec_tools.evaluate.measures import column, measure
from edgerec_tools.intervals import bootstrap_means
from edgerec_tools.progress import Progress, silent
from edgerec_tools.protocols import last_events

Ranks = NDArray[np.int64]

LAST = 10
NEGATIVES = 99
METRICS = ("hr@10", "ndcg@10", "full hr@10", "full ndcg@10")


def _taste(updater: str, **more: Any) -> Config:
    # the vector as it is: a blend or a guard would hide what the updater is worth
    alone = {"popular": {"boost": 0.0}}
    return Config(updater=updater, learn_blend=False, guard=False, weights={"taste": 1.0}, sources=alone, **more)


_EXACT = {"l2": 0.03, "half_life_days": 36_500.0, "use_query": False}
"""Of exact fold-in with nothing beside it; chosen on a fifth of the other users of ML-100K, for vectors of `ials`."""


ARMS: Mapping[str, Config] = {
    "sgd": _taste("sgd"),
    "foldin": _taste("foldin"),
    "foldin alone": _taste("foldin", updaters={"foldin": _EXACT}, history_until=0.0),
    "encoder": _taste("none"),
    "popular": Config(updater="none", learn_blend=False, weights={"popular": 1.0}),
}
"""Name → how the device is configured; the first is what the others are compared with. In `foldin alone` no event is
old enough for the encoder to read: what is left is fold-in as the literature has it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out user: what is recorded, all items of the past, the item that came next, and those it is ranked
    among."""

    user: int
    events: list[Event]
    past: list[str]
    target: str
    candidates: list[str]


def cases(split: ColdUsers, *, last: int = LAST, negatives: int | None = None, seed: int = 0) -> Iterator[Case]:
    """The held-out users with at least two events, whose last item is new to them. The same seed gives the same cases.

    `negatives` None: NEGATIVES. Raises DataError where fewer items lie beyond a user's past.
    """
    data, rng = split.full, np.random.default_rng(seed)
    negatives = NEGATIVES if negatives is None else negatives
    finals = last_events(data, 2)
    for place in finals[np.isin(data.user[finals], split.users)].tolist():
        user = int(data.user[place])
        past = np.flatnonzero(data.user == user)
        past = past[past < place]
        target = int(data.item[place])
        if target in data.item[past]:
            continue
        others = np.setdiff1d(np.arange(data.n_items), [*data.item[past].tolist(), target])
        if len(others) < negatives:
            raise DataError(f"only {len(others)} items are left to draw {negatives} negatives from")
        drawn = rng.choice(others, negatives, replace=False)
        candidates = [data.items[row] for row in np.sort([*drawn.tolist(), target]).tolist()]
        had = [data.items[row] for row in np.unique(data.item[past]).tolist()]
        yield Case(user, _events(data, past[-last:]), had, data.items[target], candidates)


def _events(data: Dataset, places: NDArray[np.int64]) -> list[Event]:
    values = data.value[places].tolist()
    return [
        Event(
            data.items[data.item[place]],
            data.kinds[data.kind[place]],
            value=value if value == value else None,
            at=float(data.at[place]),
            event_id=f"{number:06}",
        )
        for number, (place, value) in enumerate(zip(places.tolist(), values, strict=True))
    ]


def evaluate_unseen(
    split: ColdUsers, path: Path, *, last: int = LAST, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """The document: HR and NDCG@10 of every arm, among NEGATIVES and in full, and `sgd` minus each other arm.

    `path`: a bundle trained on `split.train`. Raises BundleError, DataError, and what recording raises.
    """
    started = time.process_time()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgerec-unseen-")))
        bundle = stack.enter_context(load_bundle(path, folder))
        asked = list(cases(split, last=last, seed=seed))
        if not asked:
            raise DataError("no held-out user's last item is new to that user")
        found = {}
        for name, config in ARMS.items():
            ranks = np.zeros((len(asked), 2), np.int64)
            for number, case in enumerate(asked):
                ranks[number] = _ranks(bundle, folder / f"{name}-{number}", config, case)
                progress(name, number + 1, len(asked))
            found[name] = _values(ranks)
        model = bundle.manifest.name
    return _document(split, model, asked, found, time.process_time() - started, seed)


def _ranks(bundle: Bundle, home: Path, config: Config, case: Case) -> tuple[int, int]:
    """The target's rank among the candidates, and in the whole catalogue; 0 where the bundle does not have it."""
    home.mkdir()
    now = max(float(event.at or 0.0) for event in case.events)  # type: ignore[arg-type]
    with edgerec.open(bundle, home, config=config, clock=lambda: now, seed=case.user) as rec:
        rec.record_many(case.events)
        among = rec.recommend(len(case.candidates), only=case.candidates, seen="show", log_exposure=False)
        everything = rec.recommend(bundle.manifest.n_items, exclude=case.past, seen="show", log_exposure=False)
        return _place(among, case.target), _place(everything, case.target)


def _place(page: edgerec.Page, item: str) -> int:
    return next((one.rank for one in page if one.item == item), 0)


def _values(ranks: Ranks) -> NDArray[np.float64]:
    parts = [measure(ranks[:, place]) for place in (0, 1)]
    return np.stack([column(part, name) for part in parts for name in ("hr@10", "ndcg@10")], axis=1)


def _document(
    split: ColdUsers,
    model: str,
    asked: list[Case],
    found: Mapping[str, NDArray[np.float64]],
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    first, others = next(iter(found)), list(found)[1:]
    blocks = [*found.values(), *(found[first] - found[name] for name in others)]
    user = np.array([case.user for case in asked])
    intervals = bootstrap_means(user, np.concatenate(blocks, axis=1), seed=seed)
    rows = []
    for at in range(0, len(intervals), len(METRICS)):
        named = dict(zip(METRICS, intervals[at : at + len(METRICS)], strict=True))
        rows.append(
            {
                "metrics": {name: round(one.value, 6) for name, one in named.items()},
                "ci95": {name: [round(one.low, 6), round(one.high, 6)] for name, one in named.items()},
            }
        )
    summary = dict(zip(found, rows, strict=False))
    return {
        "data": split.full.name,
        "model": model,
        "protocol": "unseen-users",
        "arm": first,
        "seed": seed,
        "n_users": len(asked),
        "n_items": split.full.n_items,
        "negatives": NEGATIVES,
        **summary[first],
        "baselines": {name: summary[name]["metrics"] for name in others},
        "baselines_ci95": {name: summary[name]["ci95"] for name in others},
        "vs": dict(zip(others, rows[len(found) :], strict=True)),
        "cpu_seconds": round(seconds, 2),
        "warnings": ["the bundle must have been trained without the held-out users: see --write-train"],
    }
