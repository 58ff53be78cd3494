"""Two bundles compared on one user's events, and what is kept of a bundle on probation."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerec.config import MIN_WINDOW
from edgerec.engine import Engine
from edgerec.records import changed, record
from edgerec.store import EventRow, MetaTable
from edgerec.types import Float64

MIN_TRIALS = MIN_WINDOW
"""With fewer paired comparisons a bundle is neither refused nor rolled back."""

PROBATION = "probation"
"""The setting that keeps the probation of the bundle installed last."""

ON, KEPT, GIVEN_UP, FAILED = "on", "kept", "given up", "rolled back"

_LEVEL = 0.05
_LEAST_GROWTH = 1.5


@record
class Trial:
    """Both bundles learned from zero on this user's events, test-then-train.

    `difference`: mean NDCG@10 of the new bundle minus the old one's over `n` paired steps, each the mean of its
    scenarios; `ci95` its normal interval, which over all looks of a probation holds at 95 % together; None with fewer
    than two pairs.
    """

    n: int
    difference: float | None
    ci95: tuple[float, float] | None

    @property
    def refuses(self) -> bool:
        """Whether the interval lies below zero on enough comparisons."""
        return self.ci95 is not None and self.n >= MIN_TRIALS and self.ci95[1] < 0

    def __str__(self) -> str:
        if self.difference is None or self.ci95 is None:
            return f"too few comparisons: {self.n}"
        return f"NDCG@10 {self.difference:+.4f} ({self.ci95[0]:+.4f} to {self.ci95[1]:+.4f}) over {self.n} steps"


def compared(
    old: Engine, new: Engine, events: Sequence[EventRow], *, since: int | None = None, looks: int = 1
) -> Trial:
    """Replays the events under both. `since`: compares the steps alone whose first event arrived later, in
    microseconds · `looks`: how often the same question may be asked."""
    left, right = old.replay(events, obey=False).ndcg, new.replay(events, obey=False).ndcg
    asked = {row.seq for row in events if since is None or row.received > since}
    steps: dict[int, list[float]] = {}
    for key in left:
        if key in right and key[0] in asked:
            steps.setdefault(key[0], []).append(right[key] - left[key])
    return judged(np.array([sum(found) / len(found) for found in steps.values()]), looks=looks)


def judged(differences: Float64, *, looks: int = 1) -> Trial:
    """The trial of paired differences, float64 (n,). With several looks the interval is widened as Bonferroni asks."""
    n = len(differences)
    if n < 2:
        return Trial(n, None, None)
    mean = float(differences.mean())
    margin = _quantile(looks) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Trial(n, mean, (mean - margin, mean + margin))


def _quantile(looks: int) -> float:
    if looks == 1:
        return 1.96
    from statistics import NormalDist  # which loads a good deal, and is asked for a few times in a bundle's life

    return NormalDist().inv_cdf(1 - _LEVEL / (2 * looks))


def checkpoints(window: int) -> tuple[int, ...]:
    """After how many positive events a bundle on probation is looked at: from MIN_TRIALS, doubling, to the window."""
    points = [MIN_TRIALS]
    while points[-1] * 2 * _LEAST_GROWTH <= window:
        points.append(points[-1] * 2)
    return (*points, window) if window > points[-1] else tuple(points)


@record
class Probation:
    """`digest`: the bundle on probation · `previous`: the one that it goes back to · `at`, `until`: microseconds ·
    `checkpoints`: positive events after which there is a look; `looked`: the last of them that is done ·
    `status`: on · kept · given up · rolled back, `reason` why.
    """

    digest: str
    previous: str
    at: int
    until: int
    checkpoints: tuple[int, ...]
    looked: int = 0
    status: str = ON
    reason: str = ""

    def due(self, positives: int, now: int) -> int | None:
        """The checkpoint to look at after so many positive events; the last one too when the time is over."""
        reached = [point for point in self.checkpoints if point <= positives or now >= self.until]
        return reached[-1] if reached and reached[-1] > self.looked else None

    def remaining(self, positives: int) -> int:
        """How many positive events are missing until the next checkpoint."""
        return min((point - positives for point in self.checkpoints if point > positives), default=0)


def probation(connection: sqlite3.Connection) -> Probation | None:
    """That of the bundle installed last, None where it has none."""
    kept = MetaTable.get(connection, PROBATION)
    if kept is None:
        return None
    try:
        values = json.loads(kept)
        return Probation(**{**values, "checkpoints": tuple(values["checkpoints"])})
    except (ValueError, KeyError, TypeError):  # a newer edgerec wrote it, or nobody did
        return None


def save_probation(connection: sqlite3.Connection, one: Probation | None) -> None:
    """Keeps it in place of the one before; None: there is none."""
    if one is None:
        MetaTable.remove(connection, PROBATION)
    else:
        MetaTable.set(connection, PROBATION, json.dumps(as_values(one)))


def clear_trial(connection: sqlite3.Connection) -> None:
    """Forgets how a probation ended: how well bundles fit a user says something of the user."""
    one = probation(connection)
    if one is not None and one.status != ON:
        save_probation(connection, changed(one, reason=""))


def as_values(one: Probation) -> dict[str, Any]:
    """Its fields as plain values."""
    return {name: getattr(one, name) for name in Probation.__match_args__}
