"""The replay of a fleet in rounds: devices live, sync and are ranked by; the server's round makes the next bundle.

devices live until the round, and send deltas  →  what arrives  →  `run_round`  →  the bundle that runs from then on
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgerec import Config, load_bundle
from edgerec.bundle.federated import ITEM_COUNTS
from edgerec.deltas import DeltaError
from edgerec.federation_settings import FederationSettings
from edgerec_tools.arms import Arm
from edgerec_tools.datasets import Dataset
from edgerec_tools.federation import devices
from edgerec_tools.federation.devices import FleetJob, Found, Span
from edgerec_tools.federation.gate import judged
from edgerec_tools.federation.mail import Keyed, Mail
from edgerec_tools.federation.options import Federate, round_settings
from edgerec_tools.periods import Period
from edgerec_tools.progress import Progress
from edgerec_tools.replay import RULES, Stories, template
from edgerec_tools.simulate import SimulationError
from edgerec_tools.workers import one_thread_each

DAY = 86_400.0
_CHUNKS_PER_WORKER = 8


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a federated arm runs on. `users`: those that are devices."""

    dataset: Dataset
    bundle: Path
    period: Period
    users: NDArray[np.int64]
    stories: Stories
    asked: NDArray[np.bool_] | None
    options: Federate
    workers: int
    seed: int
    plugins: Sequence[object]


@dataclass(frozen=True, slots=True)
class Rounds:
    """What came out: outcomes per view, and a report per round, as `edgerec round run` gives it."""

    found: Found
    reports: list[dict[str, Any]]


def replayed(fleet: Fleet, arm: Arm, folder: Path, progress: Progress) -> Rounds:
    """Replays the period in rounds. Raises what stands in the way of the arm or of its rounds."""
    from edgerec_exporters.federation.journal import BudgetSpent

    sent, arrived, state = (folder / name for name in ("sent", "arrived", "state"))
    for one in (sent, arrived, folder / "homes"):
        one.mkdir(parents=True)
    config = federated(arm.config, sent)
    with load_bundle(fleet.bundle, folder) as opened:
        empty = template(opened, fleet.plugins, Arm(arm.name, arm.title, config), folder / "template")
    rng = np.random.default_rng([fleet.seed, 1])
    mail = Mail(sent, arrived, rng, fleet.options.dropout, fleet.options.stragglers)
    server = Server(fleet, mail, state, private=arm.rounds == "dp")
    job = FleetJob(fleet.dataset, fleet.period, fleet.asked, config, empty, folder / "homes")
    out: Found = {view: [] for view in RULES}
    spans = list(_spans(fleet, rng))
    with one_thread_each(), _pool(fleet, job) as pool:
        for number, span in enumerate(spans):
            progress(f"{arm.name}: rounds", number, len(spans))
            senders = _live(pool, span, server, fleet.workers, out)
            if number + 1 < len(spans):  # nobody lives under what the last one would make
                mail.carry(senders)
                server.stage_over(pool, span)
                try:
                    server.round(pool, span)
                except (DeltaError, BudgetSpent) as error:
                    server.reports.append({"at": span.ends, "reason": str(error)})
        progress(f"{arm.name}: rounds", len(spans), len(spans))
    return Rounds(out, server.reports)


def federated(config: Config, sent: Path) -> Config:
    """The arm's configuration with federation on; nobody is a control, as the other arms are what to compare with."""
    settings = FederationSettings(enabled=True, transport="folder", control_share=0.0, most_per_week=168)
    return replace(config, federation=settings, transports={"folder": {"path": str(sent)}})


class Server:
    """Makes a bundle of what arrived, by the same code as `edgerec round run`.

    `bundle`: the one that runs now · `staged`: a candidate that some devices run first; None: there is none.
    """

    def __init__(self, fleet: Fleet, mail: Mail, state: Path, *, private: bool) -> None:
        self.bundle = fleet.bundle
        self.staged: Path | None = None
        self.reports: list[dict[str, Any]] = []
        self._judged: dict[str, Any] = {}
        self._fleet, self._mail, self._state = fleet, mail, state
        with load_bundle(fleet.bundle, state.parent / "first") as bundle:
            self._settings = round_settings(fleet.options, bundle.manifest.federation.blocks, private=private)
        self._made = state.parent / "bundles"
        self._made.mkdir()

    def stage_over(self, pool: ProcessPoolExecutor, span: Life) -> None:
        """Releases the candidate that some devices ran until now, or drops it."""
        if self.staged is not None:
            if self._passes(pool, self.staged, span.first, span.begins, "staged"):
                self.bundle = self.staged
            self.staged = None

    def round(self, pool: ProcessPoolExecutor, span: Life) -> None:
        """Raises DeltaError where too few arrived, BudgetSpent where the budget does not reach."""
        from edgerec_exporters.federation.journal import Journal
        from edgerec_exporters.federation.rounds import JOURNAL, Desk, run_round

        self._forge()
        out = self._made / f"{len(self.reports)}.edgerec"
        desk = Desk(
            self.bundle,
            Keyed(self._mail),
            self._state,
            self._settings,
            clock=lambda: span.ends,
            stories=lambda _: [],
            noise=self._noise,
        )
        report = run_round(desk, out)
        with Journal(self._state / JOURNAL) as journal:
            self._mail.clear(journal.ids(report["round"]))
        self.reports.append({"at": span.ends, **report})
        options = self._fleet.options
        self._judged = self.reports[-1]
        if options.held_out and not self._passes(pool, out, span.held_out, span.begins, "held_out"):
            return
        if options.staged:
            self.staged = out
        else:
            self.bundle = out

    def _passes(self, pool: ProcessPoolExecutor, new: Path, users: Sequence[int], since: float, how: str) -> bool:
        """Whether the devices found the candidate good enough; its round's report tells of it."""
        decision = judged(pool, new, self.bundle, users, since, self._fleet.workers, self._fleet.seed)
        self._judged[how] = decision.to_dict()
        return decision.publish

    def _noise(self, sigma: float, n: int) -> NDArray[np.int64]:
        """Rounded Gaussian noise from the simulation's seed, so that a run can be repeated: nobody's privacy hangs on
        it. The server's own is exact and comes from the OS."""
        return np.rint(self._mail.rng.normal(0.0, sigma, n)).astype(np.int64)

    def _forge(self) -> None:
        options = self._fleet.options
        if not options.hostile:
            return
        from edgerec_tools.studies.federated.attacks import TARGETED, UNTARGETED, Scene, hostile

        with load_bundle(self.bundle, self._state.parent / "seen") as bundle:
            federation = bundle.manifest.federation
            popularity = np.expm1(bundle.model.popularity.astype(np.float64))
            version = bundle.manifest.version
        known = {**TARGETED, **UNTARGETED}
        honest = len(list(self._mail.arrived.iterdir()))
        target = int(np.argsort(-popularity, kind="stable")[options.target])
        counts = federation.of(ITEM_COUNTS)
        assert counts is not None
        scene = Scene(hostile(honest, options.hostile), popularity, target, counts.bound, self._mail.rng)
        self._mail.forge(known[options.attack](scene), version, federation.blocks, counts)


class Life(NamedTuple):
    """From when to when, POSIX seconds; and users: who lives then, who of them syncs at the end, who runs a candidate
    first, who is held out."""

    begins: float
    ends: float
    users: list[int]
    syncing: frozenset[int]
    first: list[int]
    held_out: list[int]


def _spans(fleet: Fleet, rng: np.random.Generator) -> Iterator[Life]:
    options, stories = fleet.options, fleet.stories
    last = stories.dataset.basket_at[stories.end - 1]
    owed: set[int] = set()
    starts = {int(user): _starts(stories, int(user)) for user in fleet.users}
    fate = dict(zip(starts, np.random.default_rng([fleet.seed, 2]).random(len(starts)), strict=True))
    out = {user for user in starts if fate[user] < options.held_out}
    first = {user for user in starts if fate[user] >= 1 - options.staged}
    for number in range(math.floor((last - fleet.period.cutoff) / (options.every_days * DAY)) + 1):
        begins, ends = (fleet.period.cutoff + (number + n) * options.every_days * DAY for n in (0, 1))
        users = [user for user, at in starts.items() if ((at >= begins) & (at < ends)).any()]
        due = sorted({*users, *owed} - out)
        syncing = {user for user in due if options.available >= 1 or rng.random() < options.available}
        owed = {*due} - syncing
        living = sorted({*users, *syncing})
        held_out, early = (sorted(chosen & {*users}) for chosen in (out, first))
        yield Life(begins, ends, living, frozenset(syncing), early, held_out)


def _starts(stories: Stories, user: int) -> NDArray[np.float64]:
    baskets = stories.by_user[user]
    return stories.dataset.basket_at[baskets[(baskets >= stories.first) & (baskets < stories.end)]]


def _pool(fleet: Fleet, job: FleetJob) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(fleet.workers, get_context("spawn"), devices.start, (job,))


def _live(pool: ProcessPoolExecutor, life: Life, server: Server, workers: int, out: Found) -> dict[str, int]:
    """Lets the devices live; their outcomes are added to `out`, the ids of their deltas given back."""
    early = {*life.first} if server.staged is not None else set()
    groups = [(server.bundle, [user for user in life.users if user not in early]), (server.staged, sorted(early))]
    senders: dict[str, int] = {}
    try:
        parts = []
        for bundle, users in groups:
            n = max(1, min(len(users), workers * _CHUNKS_PER_WORKER))
            if bundle is not None and users:
                span = Span(bundle, life.begins, life.ends, life.syncing)
                parts += [pool.submit(devices.live, span, users[first::n]) for first in range(n)]
        for part in as_completed(parts):
            _, found, sent = part.result()
            for view, outcomes in found.items():
                out[view] += outcomes
            senders |= sent
    except BrokenProcessPool:
        raise SimulationError("a worker process died", hint="try fewer --workers, or fewer --devices") from None
    return senders
