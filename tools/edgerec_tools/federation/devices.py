"""The devices of a simulated fleet between two rounds: each has a store of its own that lasts, and syncs at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import edgerec
from edgerec import Bundle, Config, Recommender, load_bundle
from edgerec.federation.sync import SENT
from edgerec.trials import compared
from edgerec.types import Float64
from edgerec_tools import metrics
from edgerec_tools.datasets import Dataset
from edgerec_tools.periods import Period
from edgerec_tools.replay import RULES, STORE, Clock, K, Outcome, Stories, Story, Visit, scenario_of
from edgerec_tools.workers import installed_plugins, prepare

Found = dict[str, list[Outcome]]


class FleetJob(NamedTuple):
    """What every worker process needs. `homes`: the folder of the devices' stores."""

    dataset: Dataset
    period: Period
    asked: NDArray[np.bool_] | None
    config: Config
    template: bytes
    homes: Path


class Span(NamedTuple):
    """What the devices of a task live through: `bundle` runs from `begins` to `ends`, POSIX seconds; then `syncing` of
    them, users, send their deltas."""

    bundle: Path
    begins: float
    ends: float
    syncing: frozenset[int]


class FleetWorker:
    """One process's share of the fleet; a device may live in another process in the next span."""

    current: FleetWorker | None = None
    """Set by `start` in a worker process; tasks find it there."""

    def __init__(self, job: FleetJob) -> None:
        self.job = job
        self.stories = Stories(job.dataset, *job.period, job.asked)
        self.row_of = {item: row for row, item in enumerate(job.dataset.items)}
        self.plugins = installed_plugins()
        self._bundle: tuple[Path, Bundle] | None = None

    def live(self, span: Span, users: Sequence[int]) -> tuple[int, Found, dict[str, int]]:
        """How many users; their outcomes per view; and the ids of the deltas that were sent, with their users."""
        out: Found = {view: [] for view in RULES}
        sent: dict[str, int] = {}
        for user in users:
            story = self.stories.of(user)
            visits = [visit for visit in story.visits if span.begins <= visit.begins < span.ends]
            with self._device(span, story) as (rec, clock):
                for visit in visits:
                    self._visit(rec, clock, user, visit, out)
                clock.now = span.ends
                if user in span.syncing and (report := rec.sync()).status == SENT:
                    assert report.delta_id is not None
                    sent[report.delta_id] = user
        return len(users), out, sent

    def _visit(self, rec: Recommender, clock: Clock, user: int, visit: Visit, out: Found) -> None:
        clock.now = visit.begins
        for view, rows in visit.targets.items():
            scenario = scenario_of(self.bundle.manifest, RULES[view])
            page = rec.recommend(K, seen=RULES[view], scenario=scenario, log_exposure=False)
            ranked = np.array([self.row_of.get(one.item, -1) for one in page], np.int64)
            out[view].append(Outcome(visit.number, user, len(rows), metrics.hits(ranked, rows, K)))
        clock.now = visit.ends
        rec.record_many(visit.events)

    def differences(self, new: Path, current: Path, users: Sequence[int], since: float) -> Float64:
        """How much better the new bundle ranked what each user did since then, NDCG@10, float64 (n,); those who did
        nothing are left out."""
        found = []
        with load_bundle(new, self.job.homes / f"judged-{os.getpid()}") as candidate:
            for user in users:
                with self._device(Span(current, since, since, frozenset()), self.stories.of(user)) as (rec, _):
                    device = rec._device  # the comparison that an install makes, without an install
                    old, other = device.snapshot().engine, device.engine(candidate)
                    trial = compared(old, other, device.events(), since=round(since * 1e6))
                    if trial.difference is not None:
                        found.append(trial.difference)
        return np.array(found, np.float64)

    @property
    def bundle(self) -> Bundle:
        """The bundle that was opened last."""
        assert self._bundle is not None
        return self._bundle[1]

    def _opened(self, path: Path) -> Bundle:
        if self._bundle is None or self._bundle[0] != path:
            if self._bundle is not None:
                self._bundle[1].close()
            self._bundle = path, load_bundle(path, self.job.homes / f"bundles-{os.getpid()}")
        return self._bundle[1]

    @contextmanager
    def _device(self, span: Span, story: Story) -> Iterator[tuple[Recommender, Clock]]:
        """The user's device as it was left, or a new one with the history of before the cut-off."""
        home, bundle = self.job.homes / str(story.user), self._opened(span.bundle)
        clock, new = Clock(span.begins), not home.exists()
        if new:
            home.mkdir(mode=0o700)
            (home / STORE).write_bytes(self.job.template)
        with edgerec.open(
            bundle, home, plugins=self.plugins, config=self.job.config, clock=clock, seed=story.user
        ) as rec:
            if new:
                self._settle(rec, story)
            yield rec, clock

    def _settle(self, rec: Recommender, story: Story) -> None:
        learns_history = self.bundle.manifest.learn_history
        if learns_history:
            rec.resume_learning()
        if story.history:
            rec.record_many(story.history)
        if not learns_history:
            rec.resume_learning()
        rec.consent(True)  # what was before the cut-off, the model knows already


def start(job: FleetJob) -> None:
    """Prepares a worker process."""
    prepare()
    FleetWorker.current = FleetWorker(job)


def differences(new: Path, current: Path, users: Sequence[int], since: float) -> Float64:
    """`FleetWorker.differences` in a worker process."""
    assert FleetWorker.current is not None
    return FleetWorker.current.differences(new, current, users, since)


def live(span: Span, users: Sequence[int]) -> tuple[int, Found, dict[str, int]]:
    """`FleetWorker.live` in a worker process."""
    assert FleetWorker.current is not None
    return FleetWorker.current.live(span, users)
