"""docs/bundle.md is enough to write a host: one written from the page, in plain Python, agrees with edgerec."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bundles import LENGTH, bundle_files, manifest_of, repeat_files, write_folder

import edgerec
from edgerec import Config
from edgerec.engine import Engine
from edgerec.golden import story
from edgerec.learning.draws import draw, seed_of
from edgerec.plugins import Plugins
from edgerec.store import EventRow
from edgerec_plugins import foldin, sgd

DAY = 86400.0
MASK = (1 << 64) - 1
CLOSE = 1e-4  # a tenth of what the contract allows
SOURCES = ("taste", "neighbours", "popular", "habit", "repeat")
KINDS = {
    "click": {"weight": 0.5, "consumes": False},
    "purchase": {"weight": 2.0, "consumes": True},
    "dislike": {"weight": -1.0, "consumes": False},
}
Array = np.ndarray[Any, Any]
Encode = Callable[[Array, Array, Array, Array], Array]


class Happened(NamedTuple):
    event_id: str
    row: int
    kind: str
    at: float
    group: str | None
    value: float | None


def page_draws(text: str, count: int, below: int) -> list[int]:
    seed = 0xCBF29CE484222325
    for byte in text.encode():
        seed = (seed ^ byte) * 0x100000001B3 & MASK
    out = []
    for k in range(count):
        z = (seed + (k + 1) * 0x9E3779B97F4A7C15) & MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        out.append((z ^ (z >> 31)) % below)
    return out


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ndcg(ranks: Sequence[int]) -> float:
    ideal = sum(1 / math.log2(i + 1) for i in range(1, min(len(ranks), 10) + 1))
    return sum(1 / math.log2(r + 1) for r in ranks if r <= 10) / ideal


@dataclass
class PageHost:
    """State and rules of the page; `arrays` by file name."""

    manifest: dict[str, Any]
    arrays: dict[str, Array]
    encode: Encode
    history: list[Happened] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    disliked: set[int] = field(default_factory=set)
    t: int = 0

    def __post_init__(self) -> None:
        self.V, self.b = (self.arrays[f"items/{name}.npy"].astype(float) for name in ("vectors", "bias"))
        self.n, self.dim = self.V.shape
        self.u = np.zeros(self.dim)
        scenarios = self.manifest["scenarios"]
        self.start = {k: np.array([s["weights"].get(name, 0.0) for name in SOURCES]) for k, s in scenarios.items()}
        self.w = {k: w.copy() for k, w in self.start.items()}
        self.sums = {k: np.zeros((2, 3)) for k in scenarios}
        self.kept: list[tuple[int, float, float]] = []

    # scoring

    def ages(self) -> list[float]:
        return [(self.history[-1].at - event.at) / DAY for event in self.history]

    def query(self) -> Array:
        newest = list(zip(self.history, self.ages(), strict=True))[-LENGTH:]
        history, age = np.zeros((1, LENGTH, self.dim), np.float32), np.zeros((1, LENGTH), np.float32)
        kind, mask = np.zeros((1, LENGTH), np.int64), np.zeros((1, LENGTH), bool)
        for place, (event, days) in enumerate(newest, LENGTH - len(newest)):
            history[0, place], age[0, place], mask[0, place] = self.V[event.row], days, True
            kind[0, place] = list(KINDS).index(event.kind)
        query: Array = self.encode(history, age, kind, mask)[0].astype(float)
        return query

    def neighbours(self) -> Array:
        half_life = self.manifest["sources"]["neighbours"]["half_life_days"]
        indptr, ids, weights = (self.arrays[f"neighbours/{name}.npy"] for name in ("indptr", "ids", "weights"))
        newest = {event.row: age for event, age in zip(self.history, self.ages(), strict=True)}
        out = np.zeros(self.n)
        for row, age in newest.items():
            cut = slice(indptr[row], indptr[row + 1])
            np.add.at(out, ids[cut], 0.5 ** (age / half_life) * weights[cut])
        return out

    def habit(self) -> Array:
        half_life = self.manifest["sources"]["habit"]["half_life_days"]
        out = np.zeros(self.n)
        for event, age in zip(self.history, self.ages(), strict=True):
            if KINDS[event.kind]["consumes"]:
                out[event.row] += 0.5 ** (age / half_life)
        return out

    def repeat(self) -> Array:
        """The page's network over the page's features, item by item."""
        items, (low, high), hidden, last = (
            self.arrays[f"repeat/{name}.npy"].astype(float) for name in ("items", "range", "hidden", "out")
        )
        used: dict[Any, dict[int, float]] = {}
        began: dict[Any, int] = {}
        for number, (event, age) in enumerate(zip(self.history, self.ages(), strict=True)):
            if KINDS[event.kind]["consumes"]:
                group = event.group or ("alone", number)
                began.setdefault(group, number)
                used.setdefault(group, {}).setdefault(event.row, age)
        order = sorted(used, key=lambda group: -began[group])
        out, sizes = np.zeros(self.n), [len(used[group]) for group in order]
        if not order:
            return out
        span = max(age for group in used.values() for age in group.values())
        k = len(order)
        for row in {row for group in used.values() for row in group}:
            places = [place for place, group in enumerate(order) if row in used[group]]
            ages = [used[order[place]][row] for place in places]
            log = math.log
            x = [log(len(places)), len(places) / k, log(1 + places[0]), places[0] == 0, places[0] == 1]
            x += [log(1 + min(ages)), log(1 + max(ages))]
            x += [log(sum(0.5 ** (age / h) for age in ages) + 0.001) for h in (15, 40, 120, 400)]
            x += [log(sum(0.5 ** (place / h) for place in places) + 0.001) for h in (2, 6)]
            x += [log(k), log(sum(sizes) / k), log(sizes[0]), log(1 + span), log(1 + span / max(k - 1, 1))]
            x += [len({r for g in used.values() for r in g}) / sum(sizes), len(places) / (1 + places[-1])]
            x += [log(sizes[places[0]]), *items[row]]
            cut = np.clip(x, low, high)
            inner = np.maximum(cut @ hidden[:-1] + hidden[-1], 0)
            width = len(inner)
            out[row] = sigma(inner @ last[:width] + cut @ last[width:-1] + last[-1])
        return out

    def table(self, q: Array, u: Array) -> Array:
        """z, (S, n)."""
        taste = self.V @ (q + u) + self.b if (q + u).any() else np.zeros(self.n)
        scores = (taste, self.neighbours(), self.arrays["items/popularity.npy"].astype(float))
        scores += (self.habit(), self.repeat())
        return np.array([(s - s.mean()) / s.std() if s.std() > 1e-9 else s * 0 for s in scores])

    def raised(self, w: Array) -> Array:
        constants = self.manifest["sources"]["popular"]
        extra = constants["boost"] * 0.5 ** (len(self.history) / constants["half_events"])
        out: Array = w + extra * np.array([name == "popular" for name in SOURCES])
        return out

    def hidden(self, scenario: str) -> set[int]:
        hides = self.manifest["scenarios"][scenario]["seen"] == "hide"
        return self.disliked | (self.seen if hides else set())

    def ranking(self, scenario: str, scores: Array) -> list[int]:
        hidden = self.hidden(scenario)
        return [row for row in np.argsort(-scores.astype(np.float32), kind="stable").tolist() if row not in hidden]

    def trusted(self, scenario: str) -> list[bool]:
        guard = self.manifest.get("guard", {})
        low, margin = guard.get("min_count", 2.5), guard.get("margin", 0.0)
        return [c >= low and d > margin * math.sqrt(q) for d, q, c in self.sums[scenario].tolist()]

    def served(self, scenario: str) -> tuple[list[int], Array]:
        q = self.query()
        blend, vector = self.trusted(scenario)
        w = self.w[scenario] if blend else self.start[scenario]
        scores = self.raised(w) @ self.table(q, self.u if vector else self.u * 0)
        rows = self.ranking(scenario, scores)
        return rows, scores[rows]

    # learning

    def step(self, events: list[Happened]) -> None:
        q = self.query()
        impersonal, personal = self.table(q, self.u * 0), self.table(q, self.u)
        pool = self.arrays["items/negatives.npy"]
        drawn = [
            [int(pool[d]) for d in page_draws(e.event_id, self.manifest["n_negatives"], len(pool))] for e in events
        ]
        rivals = self.rivals(events, personal)
        for scenario in self.w:
            self.test(scenario, events, drawn, impersonal, personal)
        if self.manifest["updater"] == "sgd":
            self.sgd(events, drawn, rivals, q)
        else:
            self.foldin(events, q)
        for event in events:
            self.join(event)

    def rivals(self, events: list[Happened], personal: Array) -> list[int]:
        tested = [
            name
            for name in self.w
            if any(KINDS[e.kind]["weight"] > 0 and e.row not in self.hidden(name) for e in events)
        ]
        if not tested:
            return []
        shows = [name for name in tested if self.manifest["scenarios"][name]["seen"] == "show"]
        scenario = (shows or tested)[0]
        weights = self.w[scenario] if self.trusted(scenario)[0] else self.start[scenario]
        first = self.ranking(scenario, self.raised(weights) @ personal)[: self.manifest["n_rivals"]]
        return [row for row in first if row not in {e.row for e in events}]

    def test(self, scenario: str, events: list[Happened], drawn: list[list[int]], z0: Array, z1: Array) -> None:
        tested = [n for n, e in enumerate(events) if KINDS[e.kind]["weight"] > 0 and e.row not in self.hidden(scenario)]
        if not tested:
            return
        w, start = self.w[scenario], self.start[scenario]
        trusted, _ = self.trusted(scenario)
        mine = w if trusted else start
        orders = [self.ranking(scenario, self.raised(v) @ z) for v, z in ((start, z0), (w, z0), (mine, z1))]
        base, blend, user = (ndcg([order.index(events[n].row) + 1 for n in tested]) for order in orders)
        keep = 1 - 1 / self.manifest.get("guard", {}).get("window", 20)
        for part, d in enumerate((blend - base, user - (blend if trusted else base))):
            self.sums[scenario][part] = keep * self.sums[scenario][part] + np.array([d, d * d, 1])
        gradients = []
        for n in tested:
            z = z0[:, [events[n].row, *drawn[n]]]
            odds = np.exp(self.raised(w) @ z)
            gradients.append(np.clip(z @ (odds / odds.sum()) - z[:, 0], -3, 3))
        moved = w * np.exp(-0.02 * np.mean(gradients, axis=0))
        self.w[scenario] = 0.99 * start.sum() * moved / moved.sum() + 0.01 * start

    def join(self, event: Happened) -> None:
        kind = KINDS[event.kind]
        if event.kind in self.manifest["history"]["kinds"]:
            self.history = sorted([*self.history, event], key=lambda e: e.at)
        if kind["consumes"]:
            self.seen.add(event.row)
        if kind.get("hides", kind["weight"] < 0):
            self.disliked.add(event.row)
        elif kind["consumes"] and kind["weight"] > 0:
            self.disliked.discard(event.row)

    def sgd(self, events: list[Happened], drawn: list[list[int]], rivals: list[int], q: Array) -> None:
        own = self.manifest["updaters"].get("sgd", {})
        together = own.get("loss") == "perceptron"
        if together:
            for _ in range(own.get("epochs", 1)):
                self.perceptron(own, events, drawn, rivals)
        examples = [
            (KINDS[e.kind]["weight"], e.row, negatives, e.value)
            for e, negatives in zip(events, drawn, strict=True)
            if not together or KINDS[e.kind]["weight"] < 0
        ] * own.get("epochs", 1)
        past = [e for e in self.history[-50:] if KINDS[e.kind]["weight"] > 0]
        if past and own.get("loss") not in ("squared", "perceptron"):
            for k, place in enumerate(
                page_draws("replay:" + events[0].event_id, self.manifest["n_replayed"], len(past))
            ):
                weight = 0.5 * KINDS[past[place].kind]["weight"]
                examples.append((weight, past[place].row, drawn[k % len(events)], None))
        for example in examples:
            self.example(own, q, *example)

    def example(
        self, own: dict[str, Any], q: Array, weight: float, item: int, drawn: list[int], value: float | None
    ) -> None:
        loss, heat, m = own.get("loss", "softmax"), own.get("temperature", 1.0), len(drawn)
        rows = [item, *(row for row in drawn if row != item)]
        s = ((q + self.u) @ self.V[rows].T + self.b[rows]) / heat
        slope = np.zeros(len(rows))  # ∂loss/∂s
        if weight < 0:
            slope[1:] = [-sigma(s[0] - x) / m for x in s[1:]]
            slope[0] = -slope[1:].sum()
        elif loss == "softmax":
            slope = np.exp(s) / np.exp(s).sum()
            slope[0] -= 1
        elif loss == "bpr":
            slope[1:] = [sigma(x - s[0]) / m for x in s[1:]]
            slope[0] = -slope[1:].sum()
        elif loss == "logistic":
            slope[1:] = [sigma(x) / m for x in s[1:]]
            slope[0] = -sigma(-s[0])
        elif value is None:
            return
        else:
            slope[0] = s[0] - (value - own.get("centre", 0.0)) / own.get("scale", 1.0)
        self.move(own, abs(weight) * (slope @ self.V[rows]) / heat)

    def perceptron(
        self, own: dict[str, Any], events: list[Happened], drawn: list[list[int]], rivals: list[int]
    ) -> None:
        liked = [e for e in events if KINDS[e.kind]["weight"] > 0]
        rows = [e.row for e in liked]
        others = rivals or sorted({row for line in drawn for row in line} - set(rows))
        if not rows or not others:
            return
        a = np.array([KINDS[e.kind]["weight"] for e in liked])
        gradient = self.V[others].mean(axis=0) - a @ self.V[rows] / a.sum()
        self.move(own, a.mean() * gradient / own.get("temperature", 1.0))

    def move(self, own: dict[str, Any], gradient: Array) -> None:
        eta = own.get("rate", 0.1) / (1 + own.get("decay", 0.0) * self.t)
        move = -eta * gradient
        move *= min(1, own.get("max_step", 1.0) / max(np.linalg.norm(move), 1e-300))
        u = (self.u + move) / (1 + eta * own.get("pull", 0.01))
        self.u = u * min(1, own.get("max_norm", 10.0) / max(np.linalg.norm(u), 1e-300))
        self.t += 1

    def foldin(self, events: list[Happened], q: Array) -> None:
        own = {
            "l2": 1.0,
            "half_life_days": 60.0,
            "last": 50,
            "alpha": 0.0,
            **self.manifest["updaters"].get("foldin", {}),
        }
        new = [(e.row, e.at, KINDS[e.kind]["weight"]) for e in events if KINDS[e.kind]["weight"] > 0]
        if not new:
            return
        self.kept = sorted([*self.kept, *new], key=lambda k: k[1])[-own["last"] :]
        rows, at, weight = (np.array(column) for column in zip(*self.kept, strict=True))
        w = weight * 0.5 ** ((at.max() - at) / DAY / own["half_life_days"])
        vectors = self.V[rows]
        left = vectors.T @ (w[:, None] * vectors) + own["alpha"] * self.V.T @ self.V + own["l2"] * np.eye(self.dim)
        u = np.linalg.solve(left, vectors.T @ (w * (1 - (vectors @ q + self.b[rows]))))
        if np.linalg.norm(u - self.u) <= 10 and np.linalg.norm(u) <= 10:
            self.u = u


EAGER = {"min_count": 1, "margin": -100.0, "window": 8}
CASES: list[dict[str, Any]] = [
    {},
    {"guard": EAGER},
    {"guard": EAGER, "updaters": {"sgd": {"rate": 0.5, "epochs": 2, "decay": 0.1, "temperature": 0.7}}},
    {"guard": EAGER, "updaters": {"sgd": {"rate": 3.0, "loss": "bpr", "max_step": 0.4, "max_norm": 1.5}}},
    {"guard": EAGER, "updaters": {"sgd": {"loss": "logistic", "pull": 0.5}}},
    {"guard": EAGER, "updaters": {"sgd": {"loss": "squared", "centre": 3.0, "scale": 2.0}}},
    {"guard": EAGER, "n_rivals": 6, "updaters": {"sgd": {"loss": "perceptron", "rate": 0.5, "temperature": 2.0}}},
    {"guard": EAGER, "updaters": {"sgd": {"loss": "perceptron", "epochs": 2, "max_step": 0.1}}},
    {"guard": EAGER, "updater": "foldin"},
    {"guard": EAGER, "updater": "foldin", "updaters": {"foldin": {"last": 7, "alpha": 0.1, "half_life_days": 3.0}}},
]


def told(seed: int) -> list[dict[str, Any]]:
    """Events of a made-up user: single ones and baskets, late ones, disliked items, some with a value."""
    rng = np.random.default_rng(seed)
    events: list[dict[str, Any]] = []
    for step in range(25):
        size = int(rng.integers(1, 5)) if step % 3 == 0 else 1
        kind = str(rng.choice(["purchase", "purchase", "click", "dislike"])) if size == 1 else "purchase"
        at = 1.7e9 + step * 1.3 * DAY - (5 * DAY if step % 7 == 6 else 0)
        for row in rng.choice(20, size, replace=False).tolist():
            event = {"item": f"i{row}", "kind": kind, "at": at, "event_id": f"e{len(events)}"}
            event["group"] = f"g{step}" if size > 1 else None
            event["value"] = float(rng.integers(1, 6)) if step % 2 else None
            events.append(event)
    return events


def steps_of(events: Sequence[dict[str, Any]]) -> list[list[Happened]]:
    out: list[list[Happened]] = []
    for e in events:
        one = Happened(e["event_id"], int(e["item"][1:]), e["kind"], e["at"], e["group"], e["value"])
        if out and one.group is not None and out[-1][-1].group == one.group:
            out[-1].append(one)
        else:
            out.append([one])
    return out


def row_of(number: int, event: dict[str, Any]) -> EventRow:
    at = round(event["at"] * 1e6)
    what = event["event_id"], event["item"], event["kind"], event["value"], at, event["group"]
    return EventRow(number, *what, None, None, received=at)


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: str(changes.get("updaters", changes)))
def test_a_host_written_from_the_page_agrees(changes: dict[str, Any], tmp_path: Path) -> None:
    files = bundle_files() | repeat_files()
    weights = {"taste": 1.0, "neighbours": 1.0, "popular": 0.2}
    scenarios = {
        "default": {"seen": "hide", "weights": weights},
        "reorder": {"seen": "show", "weights": {**weights, "habit": 2.0, "repeat": 1.5}},
    }
    full = {
        "scenarios": scenarios,
        "updater": "sgd",
        "updaters": {},
        "n_negatives": 8,
        "n_replayed": 4,
        "n_rivals": 0,
        "event_kinds": KINDS,
        **changes,
    }
    manifest = manifest_of(files, 60, 8, **full)
    path = write_folder(tmp_path / "bundle", files, manifest)
    with edgerec.load_bundle(path, tmp_path / "cache") as bundle:
        engine = Engine(bundle, Plugins([sgd, foldin]), Config())
        arrays = {name: np.load(io.BytesIO(data)) for name, data in files.items() if name.endswith(".npy")}
        host = PageHost(manifest, arrays, bundle.encoder)
        events = told(3)
        for step in steps_of(events):
            host.step(step)
        expected = story(engine, events)
        learned = engine.replay([row_of(n, event) for n, event in enumerate(events, 1)], obey=False).learned
    np.testing.assert_allclose(host.u, expected["user_vector"], atol=CLOSE)
    assert np.linalg.norm(host.u) > 0.1
    for scenario, ranking in expected["rankings"].items():
        np.testing.assert_allclose(host.sums[scenario], learned.scenario(scenario).guard, atol=CLOSE)
        np.testing.assert_allclose(host.w[scenario], learned.scenario(scenario).weights, atol=CLOSE)
        rows, scores = host.served(scenario)
        np.testing.assert_allclose(scores[:10], ranking["scores"], atol=CLOSE)
        assert [f"i{row}" for row in rows[:10]] == ranking["items"]
    if changes:
        assert host.trusted("default") == [True, True]


def test_the_draws_on_the_page_are_those_of_the_runtime() -> None:
    page = (Path(__file__).parent.parent / "docs/bundle.md").read_text("utf-8")
    for text in ("e", "replay:café", ""):
        assert draw(text, 5, 512).tolist() == page_draws(text, 5, 512)
    assert f"The text `e` has the seed `0x{seed_of('e'):016X}`" in page
    assert f"its first draws below 512 are {', '.join(map(str, draw('e', 3, 512).tolist()))}." in page
