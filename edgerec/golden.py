"""Golden stories: events, the state they lead to, and the ranking that follows, the same on every host.

An exporter computes them with `story`; a device repeats them before it takes a bundle (`check_golden`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgerec.bundle import Bundle
from edgerec.engine import Engine
from edgerec.errors import GoldenMismatch
from edgerec.learning.learner import Situation
from edgerec.serving.pipeline import best, blended, score_parts
from edgerec.serving.rules import eligibility
from edgerec.store import EventRow

TOLERANCE = 1e-3
"""Largest difference of a score between hosts; scores are sums of standardised terms, of the order of 1."""


def story(engine: Engine, events: Iterable[Mapping[str, Any]], top: int = 10) -> dict[str, Any]:
    """Plays events (item, kind, at, group, event_id) to a new user and tells what follows.

    The result holds the events themselves, the user vector after them, and per scenario the `top` items.
    """
    told = [dict(event) for event in events]
    replayed = engine.replay([_row(n, event) for n, event in enumerate(told, 1)], obey=False)
    situation = engine.situation(replayed.history, replayed.learned)
    return {
        "events": told,
        "user_vector": engine.learner.updaters.user_vector(replayed.learned.updater).tolist(),
        "rankings": {
            name: _ranking(engine, situation, replayed.learned, name, top) for name in engine.bundle.manifest.scenarios
        },
    }


def _row(seq: int, event: Mapping[str, Any]) -> EventRow:
    at = round(float(event["at"]) * 1e6)
    value, group = event.get("value"), event.get("group")
    return EventRow(seq, event["event_id"], event["item"], event["kind"], value, at, group, None, None, received=at)


def _ranking(engine: Engine, situation: Situation, learned: Any, scenario: str, top: int) -> dict[str, Any]:
    catalogue = engine.bundle.catalogue
    mix = engine.mix(situation, learned, scenario)
    scores = blended(situation.table, mix)
    seen = engine.bundle.manifest.scenarios[scenario].seen
    rows, _ = best(scores, eligibility(catalogue, situation.history, seen=seen), top)
    parts = score_parts(situation.table, mix, rows)
    return {"items": [item for item, _ in catalogue.items(rows)], "scores": parts.sum(axis=0).tolist()}


def check_golden(engine: Engine, *, stories: bool = True) -> None:
    """Repeats the bundle's golden cases. Raises GoldenMismatch, naming the first that differs.

    `stories` False: the encoder's cases only, where the bundle's own updater is not at hand.
    """
    _check_encoder(engine.bundle)
    for number, told in enumerate(engine.bundle.golden["stories"] if stories else ()):
        again = story(engine, told["events"], top=len(next(iter(told["rankings"].values()))["items"]))
        _close(f"story {number}: user vector", told["user_vector"], again["user_vector"])
        for scenario, expected in told["rankings"].items():
            found = again["rankings"].get(scenario)
            if found is None:
                raise GoldenMismatch(f"story {number}: the bundle has no scenario {scenario!r}")
            _close(f"story {number}: scores of {scenario}", expected["scores"], found["scores"])


def _check_encoder(bundle: Bundle) -> None:
    length, dim = bundle.manifest.history_length, bundle.manifest.dim
    for number, case in enumerate(bundle.golden["encoder"]):
        query = bundle.encoder(
            np.array(case["history"], np.float32).reshape(-1, length, dim),
            np.array(case["age_days"], np.float32).reshape(-1, length),
            np.array(case["kind"], np.int64).reshape(-1, length),
            np.array(case["mask"], np.bool_).reshape(-1, length),
        )
        _close(f"encoder case {number}", case["query"], query)


def _close(what: str, expected: Any, found: Any) -> None:
    left, right = np.asarray(expected, np.float64).ravel(), np.asarray(found, np.float64).ravel()
    if left.shape != right.shape or not np.allclose(left, right, rtol=0, atol=TOLERANCE):
        raise GoldenMismatch(f"{what}: this host computes something else than the exporter did")
