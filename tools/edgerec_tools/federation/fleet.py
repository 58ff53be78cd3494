"""The replay of a fleet in rounds: devices live, sync and are ranked by; the server's round makes the next bundle.

devices live until the round, and send deltas  →  what arrives  →  `run_round`  →  the bundle that runs from then on
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec import Config, load_bundle
from edgerec.deltas import DeltaError
from edgerec.federation_settings import FederationSettings
from edgerec_tools.arms import Arm
from edgerec_tools.datasets import Dataset
from edgerec_tools.federation import devices
from edgerec_tools.federation.devices import FleetJob, Found, Span
from edgerec_tools.federation.mail import Keyed, Mail
from edgerec_tools.federation.options import Federate, round_settings
from edgerec_tools.periods import Period
from edgerec_tools.progress import Progress
from edgerec_tools.replay import RULES, Stories, template
from edgerec_tools.simulate import SimulationError, one_thread_each

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
        for number, (begins, ends, users, syncing) in enumerate(spans):
            progress(f"{arm.name}: rounds", number, len(spans))
            span = Span(server.bundle, begins, ends, frozenset(syncing))
            senders = _live(pool, span, users, fleet.workers, out)
            if number + 1 < len(spans):  # nobody lives under what the last one would make
                mail.carry(senders)
                try:
                    server.round(ends)
                except (DeltaError, BudgetSpent) as error:
                    server.reports.append({"at": ends, "reason": str(error)})
        progress(f"{arm.name}: rounds", len(spans), len(spans))
    return Rounds(out, server.reports)


def federated(config: Config, sent: Path) -> Config:
    """The arm's configuration with federation on; nobody is a control, as the other arms are what to compare with."""
    from dataclasses import replace

    settings = FederationSettings(enabled=True, transport="folder", control_share=0.0, most_per_week=168)
    return replace(config, federation=settings, transports={"folder": {"path": str(sent)}})


class Server:
    """Makes a bundle of what arrived, by the same code as `edgerec round run`. `bundle`: the one that runs now."""

    def __init__(self, fleet: Fleet, mail: Mail, state: Path, *, private: bool) -> None:
        self.bundle = fleet.bundle
        self.reports: list[dict[str, Any]] = []
        self._fleet, self._mail, self._state = fleet, mail, state
        self._settings = round_settings(fleet.options, private=private)
        self._made = state.parent / "bundles"
        self._made.mkdir()

    def round(self, at: float) -> None:
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
            clock=lambda: at,
            stories=lambda _: [],
            noise=self._noise,
        )
        report = run_round(desk, out)
        with Journal(self._state / JOURNAL) as journal:
            self._mail.clear(journal.ids(report["round"]))
        self.bundle = out
        self.reports.append({"at": at, **report})

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
            specs = bundle.manifest.federation.blocks
            popularity = np.expm1(bundle.model.popularity.astype(np.float64))
            version = bundle.manifest.version
        known = {**TARGETED, **UNTARGETED}
        honest = len(list(self._mail.arrived.iterdir()))
        target = int(np.argsort(-popularity, kind="stable")[options.target])
        scene = Scene(hostile(honest, options.hostile), popularity, target, specs[0].bound, self._mail.rng)
        self._mail.forge(known[options.attack](scene), version, specs)


def _spans(fleet: Fleet, rng: np.random.Generator) -> Iterable[tuple[float, float, list[int], list[int]]]:
    """From when to when, who lives then, and who of them syncs at the end."""
    options, stories = fleet.options, fleet.stories
    last = stories.dataset.basket_at[stories.end - 1]
    owed: set[int] = set()
    starts = {int(user): _starts(stories, int(user)) for user in fleet.users}
    for number in range(math.floor((last - fleet.period.cutoff) / (options.every_days * DAY)) + 1):
        begins, ends = (fleet.period.cutoff + (number + n) * options.every_days * DAY for n in (0, 1))
        users = [user for user, at in starts.items() if ((at >= begins) & (at < ends)).any()]
        due = sorted({*users, *owed})
        syncing = [user for user in due if options.available >= 1 or rng.random() < options.available]
        owed = {*due} - {*syncing}
        yield begins, ends, sorted({*users, *syncing}), syncing


def _starts(stories: Stories, user: int) -> NDArray[np.float64]:
    baskets = stories.by_user[user]
    return stories.dataset.basket_at[baskets[(baskets >= stories.first) & (baskets < stories.end)]]


def _pool(fleet: Fleet, job: FleetJob) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(fleet.workers, get_context("spawn"), devices.start, (job,))


def _live(pool: ProcessPoolExecutor, span: Span, users: Sequence[int], workers: int, out: Found) -> dict[str, int]:
    """Lets the users' devices live; their outcomes are added to `out`, the ids of their deltas given back."""
    n = max(1, min(len(users), workers * _CHUNKS_PER_WORKER))
    senders: dict[str, int] = {}
    try:
        parts = [pool.submit(devices.live, span, users[first::n]) for first in range(n)]
        for part in as_completed(parts):
            _, found, sent = part.result()
            for view, outcomes in found.items():
                out[view] += outcomes
            senders |= sent
    except BrokenProcessPool:
        raise SimulationError("a worker process died", hint="try fewer --workers, or fewer --devices") from None
    return senders
