"""What the device believes of its user: counts, attributes, habits, what serves, and what taste is closest to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.catalogue import Catalogue, Column, Flags, Labels, Numbers
from edgerec.device import Device, Snapshot
from edgerec.records import record
from edgerec.types import Int64, Profile

DAY = 86400.0
MOST_ATTRIBUTES = 10
MOST_HABITS = 10
MOST_CLOSEST = 5
LEAST_ITEMS = 2
"""A value that fewer of the user's items have says nothing."""


@record
class AttributeLift:
    """`share` of the user's items that have the value, `catalogue_share` of all; `lift` is the first over the second.

    `items`: how many of the user's. A number's values are the catalogue's quarters.
    """

    attribute: str
    value: str
    items: int
    share: float
    catalogue_share: float
    lift: float


@record
class HabitItem:
    """An item consumed in more than one group: in how many, and the median days from one to the next."""

    item: str
    title: str
    times: int
    interval_days: float


@record
class ScenarioBelief:
    """`weights` of the sources that take part now; whether the learned blend and the user vector are in the score."""

    weights: Mapping[str, float]
    blend_trusted: bool
    user_vector_trusted: bool


@record
class Closest:
    """An item and how far the user vector raises it: u · v."""

    item: str
    title: str
    score: float


@record
class ProfileSummary:
    """What the device believes, in plain values.

    `events`: count per kind, those that a filter set aside left out · `first`, `last`: POSIX seconds, None without
    events · `liked`: items with an event that speaks for them, not disliked since · `seen`, `disliked`: items ·
    `attributes`: by how much each tells the user's items from the catalogue, most telling first · `vector_norm`: |u|.
    """

    events: Mapping[str, int]
    first: float | None
    last: float | None
    liked: int
    seen: int
    disliked: int
    attributes: tuple[AttributeLift, ...]
    habits: tuple[HabitItem, ...]
    scenarios: Mapping[str, ScenarioBelief]
    updater: str | None
    steps: int
    vector_norm: float
    closest: tuple[Closest, ...]


def profile(device: Device) -> ProfileSummary:
    """The user as the device knows them now."""
    snapshot = device.snapshot()
    happened = [row for row in device.events() if not row.set_aside]
    times = [row.effective_seconds for row in happened]
    engine, history, learned = snapshot.engine, snapshot.history, snapshot.learned
    catalogue = engine.bundle.catalogue
    kinds = engine.bundle.manifest.event_kinds
    positive = {row.item for row in happened if row.kind in kinds and kinds[row.kind].weight > 0}
    rows = catalogue.rows(sorted(positive))
    liked = np.sort(rows[(rows >= 0) & ~history.disliked[rows]]).astype(np.int64)
    user = engine.profile(snapshot.situation, learned)
    owner = engine.learner.updaters.owner
    return ProfileSummary(
        events=dict(Counter(row.kind for row in happened).most_common()),
        first=min(times, default=None),
        last=max(times, default=None),
        liked=len(liked),
        seen=int(history.seen.sum()),
        disliked=int(history.disliked.sum()),
        attributes=attribute_lifts(catalogue, liked),
        habits=habits(catalogue, user),
        scenarios={name: _belief(snapshot, name) for name in learned.names},
        updater=owner.name if owner else None,
        steps=learned.steps,
        vector_norm=float(np.linalg.norm(user.user_vector)),
        closest=_closest(snapshot, user),
    )


def _belief(snapshot: Snapshot, name: str) -> ScenarioBelief:
    engine, learned = snapshot.engine, snapshot.learned
    weights = engine.mix(snapshot.situation, learned, name).weights.tolist()
    blend, vector = engine.learner.trusted(learned.scenario(name).guard)
    active = {source: weight for source, weight in zip(engine.scorer.names, weights, strict=True) if weight > 0}
    return ScenarioBelief(dict(sorted(active.items(), key=lambda pair: -pair[1])), blend, vector)


def _closest(snapshot: Snapshot, user: Profile) -> tuple[Closest, ...]:
    if not user.user_vector.any():
        return ()
    scores = snapshot.engine.bundle.model.vectors @ user.user_vector
    best = np.argsort(-scores, kind="stable")[:MOST_CLOSEST]
    named = snapshot.engine.bundle.catalogue.items(best)
    return tuple(Closest(item, title, float(s)) for (item, title), s in zip(named, scores[best], strict=True))


def habits(catalogue: Catalogue, user: Profile) -> tuple[HabitItem, ...]:
    """What the user consumed in more than one group, most often first, then latest first."""
    begun: dict[int, dict[int, float]] = {}
    for row, group, at, consumed in zip(
        user.rows.tolist(), user.groups.tolist(), user.at.tolist(), user.consumes.tolist(), strict=True
    ):
        if consumed:
            begun.setdefault(row, {}).setdefault(group, at)
    often = [(row, sorted(times.values())) for row, times in begun.items() if len(times) > 1]
    often.sort(key=lambda pair: (-len(pair[1]), -pair[1][-1]))
    return tuple(
        HabitItem(catalogue.item(row), catalogue.title(row), len(at), float(np.median(np.diff(at)) / DAY))
        for row, at in often[:MOST_HABITS]
    )


def attribute_lifts(catalogue: Catalogue, rows: Int64) -> tuple[AttributeLift, ...]:
    """The values that the user's items have more often than the catalogue's, most telling first.

    `rows` int64 (m,), each once. What a value tells is its term p ln(p / q) of the Kullback-Leibler divergence of the
    user's shares p from the catalogue's q (Kullback and Leibler 1951).
    """
    found: list[tuple[float, AttributeLift]] = []
    for name in catalogue.attribute_names if len(rows) else ():
        column = catalogue.attribute(name)
        if column is not None:
            owner, codes, labels = _coded(column)
            mine = np.bincount(codes[np.isin(owner, rows)], minlength=len(labels))
            everywhere = np.bincount(codes, minlength=len(labels))
            for code in (mine >= LEAST_ITEMS).nonzero()[0].tolist():
                p, q = mine[code] / len(rows), everywhere[code] / catalogue.n_items
                if p > q:
                    lift = AttributeLift(name, labels[code], int(mine[code]), float(p), float(q), float(p / q))
                    found.append((p * math.log(p / q), lift))
    found.sort(key=lambda pair: (-pair[0], pair[1].attribute, pair[1].value))
    return tuple(lift for _, lift in found[:MOST_ATTRIBUTES])


def _coded(column: Column) -> tuple[Int64, NDArray[Any], tuple[str, ...]]:
    """Who has which value: rows int64 (m,), codes (m,), each pair once; and what the codes stand for."""
    if isinstance(column, Numbers):
        return _quarters(column)
    if isinstance(column, (Flags, Labels)):
        rows = (column.codes >= 0).nonzero()[0]
        return rows, column.codes[rows], ("no", "yes") if isinstance(column, Flags) else column.labels
    owner = np.arange(len(column.indptr) - 1).repeat(np.diff(column.indptr))
    pairs = np.unique(owner * max(1, len(column.labels)) + column.codes)
    return *np.divmod(pairs, max(1, len(column.labels))), column.labels


def _quarters(column: Numbers) -> tuple[Int64, NDArray[Any], tuple[str, ...]]:
    rows = (~np.isnan(column.values)).nonzero()[0]
    values = column.values[rows]
    if not len(rows):
        return rows, rows, ()
    bounds = np.unique(np.quantile(values, (0.25, 0.5, 0.75), method="lower"))
    said = [f"{bound:.6g}" for bound in bounds]
    labels = (f"up to {said[0]}", *(f"above {low}, up to {high}" for low, high in pairwise(said)))
    return rows, np.searchsorted(bounds, values), (*labels, f"above {said[-1]}")
