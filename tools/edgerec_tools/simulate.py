"""Replays real users as devices under several arms, in worker processes, and compares the arms.

Results do not depend on the number of workers: every device is a function of its user's events, and all work is
done in processes of one thread each.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgerec import Bundle, EdgeRecError, load_bundle
from edgerec.bundle.manifest import Manifest
from edgerec.errors import DataError, RequestError
from edgerec_tools import central, metrics
from edgerec_tools.arms import CENTRAL, DEFAULT, Arm, choose
from edgerec_tools.central import ViewMetrics
from edgerec_tools.datasets import Dataset
from edgerec_tools.federation.options import Federate
from edgerec_tools.periods import Period, iso, trained_before
from edgerec_tools.progress import Progress, silent
from edgerec_tools.replay import RULES, Fleet, Outcome, Stories, Switch, template
from edgerec_tools.scratch import scratch
from edgerec_tools.workers import installed_plugins, one_thread_each, prepare

_CHUNKS_PER_WORKER = 40


class SimulationError(EdgeRecError):
    """A simulation that could not be carried through."""

    exit_code = 86


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm's metrics of every scored basket, per view; baskets are numbered as in `dataset.since(cutoff)`.
    `against`: as in `Arm` · `rounds`: a report per round, of an arm that takes part in some."""

    name: str
    title: str
    views: Mapping[str, ViewMetrics]
    against: tuple[str, ...] = ()
    rounds: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came out. `events`: revealed one basket after the other, on all devices of all arms together; the
    history before the cut-off is not counted · `at` float64 (n_baskets,): POSIX seconds of the period's baskets."""

    data: str
    bundle: Mapping[str, Any]
    period: Period
    seed: int
    devices: int
    events: int
    seconds: float
    at: NDArray[np.float64]
    arms: tuple[ArmResult, ...]


def simulate(
    dataset: Dataset,
    bundle: str | os.PathLike[str],
    period: Period,
    *,
    arms: Iterable[str] = DEFAULT,
    updater: str | None = None,
    devices: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    switch: tuple[float, str | os.PathLike[str]] | None = None,
    asked: NDArray[np.bool_] | None = None,
    federate: Federate | None = None,
    progress: Progress = silent,
) -> Simulation:
    """Replays the period under each arm (names as in `arms.choose`; `updater` adds one).

    `devices` takes a sample of so many users, drawn by `seed`, from those with a basket to be scored. `workers`:
    processes, None for one per core. `switch`: (POSIX seconds, bundle): before its first basket from then on every
    device installs that bundle, whatever its shadow evaluation says, and relearns its events in the new space.
    `asked` bool (n_events,): events that may be targets; the others happen, and are never asked for. `federate`: how
    the arms that take part in rounds hold them.
    Raises BundleError, DataError, RequestError, PluginError, SimulationError.
    """
    started = time.perf_counter()
    chosen, central_arms = choose(arms, period.cutoff, updater)
    device_arms = tuple(arm for arm in chosen if not arm.rounds)
    with scratch() as folder, load_bundle(bundle, folder) as opened:
        _check_fit(dataset, opened)
        _check_honest(opened.manifest, period)
        stories = Stories(dataset, period.cutoff, period.until, asked)
        users = _sample(stories, devices, seed)
        plugins = installed_plugins()
        stores = {
            arm.name: template(opened, plugins, arm, folder / f"template-{n}") for n, arm in enumerate(device_arms)
        }
        slim = replace(dataset, price=None, country=(), attributes={}, titles=dataset.items)
        after = _switch(switch, folder, period)
        job = Job(slim, opened.path, folder, device_arms, stores, central_arms, period, after, asked)
        n_workers = workers or os.cpu_count() or 1
        chunks = _chunks(users, stories, n_workers) if device_arms else []
        found = run(job, chunks, n_workers, progress)
        results = [_collected(arm, found) for arm in device_arms]
        fleet = (slim, opened.path, period, users, stories, asked, federate or Federate(), n_workers, seed, plugins)
        results += [_in_rounds(arm, folder, progress, *fleet) for arm in chosen if arm.rounds]
        results += [_restricted(arm, users, stories) for arm in found.central]
        return Simulation(
            data=dataset.name,
            bundle={"name": opened.manifest.name, "version": opened.manifest.version, "digest": opened.digest},
            period=period,
            seed=seed,
            devices=len(users),
            events=int(stories.revealed()[users].sum()) * len(chosen),
            seconds=time.perf_counter() - started,
            at=dataset.basket_at[stories.first : stories.end],
            arms=tuple(results),
        )


def _in_rounds(arm: Arm, folder: Path, progress: Progress, *fleet: Any) -> ArmResult:
    """An arm whose devices take part in rounds."""
    from edgerec_tools.federation.fleet import Fleet, replayed

    done = replayed(Fleet(*fleet), arm, folder / f"fleet-{arm.name}", progress)
    views = {view: _measured(done.found[view]) for view in RULES}
    return ArmResult(arm.name, arm.title, views, arm.against, done.reports)


def _check_fit(dataset: Dataset, bundle: Bundle) -> None:
    if not (bundle.catalogue.rows(list(dataset.items)) >= 0).any():
        raise DataError(
            f"the bundle knows none of the items of {dataset.name!r}",
            hint=f"it was made for other data; its items are like {bundle.catalogue.item(0)!r}",
        )
    if unknown := sorted(set(dataset.kinds) - set(bundle.manifest.event_kinds)):
        raise DataError(
            f"{dataset.name!r} has events of kinds that the bundle does not know: {', '.join(unknown)}",
            hint=f"the bundle knows {', '.join(bundle.manifest.event_kinds)}",
        )


def _check_honest(manifest: Manifest, period: Period) -> None:
    seen = trained_before(manifest)
    if seen is not None and seen > period.cutoff:
        raise RequestError(
            f"the bundle's model was trained on what happened before {iso(seen)}, which the replay would predict",
            hint=f"begin there, or train with --cutoff {iso(period.cutoff)}",
        )


def _switch(switch: tuple[float, str | os.PathLike[str]] | None, folder: Path, period: Period) -> Switch | None:
    """The switch with its bundle unpacked once for all devices."""
    if switch is None:
        return None
    at, path = switch
    if not period.cutoff <= at < (math.inf if period.until is None else period.until):
        raise RequestError(f"the switch at {iso(at)} lies outside the replay", hint=f"it begins {iso(period.cutoff)}")
    with load_bundle(path, folder) as after:
        _check_honest(after.manifest, Period(at))
        return Switch(at, after.path)


def _sample(stories: Stories, devices: int | None, seed: int) -> NDArray[np.int64]:
    """User rows in ascending order."""
    users = np.flatnonzero(stories.scored())
    if not len(users):
        raise DataError("the period has no basket to be scored", hint="choose another --cutoff or --until")
    if devices is None or devices >= len(users):
        return users
    if devices < 1:
        raise RequestError(f"{devices} devices", hint="at least one is needed")
    return np.sort(np.random.default_rng(seed).choice(users, devices, replace=False))


def _chunks(users: NDArray[np.int64], stories: Stories, workers: int) -> list[list[int]]:
    """Users in portions of like effort, the busiest first, so that no worker is left with a long tail."""
    sizes = np.diff(stories.dataset.basket_start)
    events = np.array([sizes[stories.by_user[user]].sum() for user in users.tolist()])
    order = users[np.argsort(-events, kind="stable")].tolist()
    n = max(1, min(len(order), workers * _CHUNKS_PER_WORKER))
    return [order[first::n] for first in range(n)]


class Job(NamedTuple):
    """All that a worker process needs."""

    dataset: Dataset
    bundle: Path
    folder: Path
    arms: tuple[Arm, ...]
    templates: Mapping[str, bytes]
    central: tuple[str, ...]
    period: Period
    switch: Switch | None = None
    asked: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Found:
    """What the workers brought: (arm, view) → outcomes, and the central arms."""

    outcomes: dict[tuple[str, str], list[Outcome]]
    central: list[ArmResult]


class Worker:
    """One process's share of a job."""

    current: Worker | None = None
    """Set by `start` in a worker process; tasks find it there."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stories = Stories(job.dataset, *job.period, job.asked)
        bundle = load_bundle(job.bundle, job.folder)
        self.fleet = Fleet(
            bundle, installed_plugins(), job.templates, self.stories, job.period.cutoff, job.folder, job.switch
        )

    def replay(self, users: Sequence[int]) -> tuple[int, dict[tuple[str, str], list[Outcome]]]:
        """The number of users, and their outcomes per arm and view."""
        out: dict[tuple[str, str], list[Outcome]] = {(arm.name, view): [] for arm in self.job.arms for view in RULES}
        for user in users:
            story = self.stories.of(user)
            for arm in self.job.arms:
                for view, outcomes in self.fleet.replay(arm, story).items():
                    out[arm.name, view] += outcomes
        return len(users), out

    def central(self) -> list[ArmResult]:
        """The central arms over everybody's baskets."""
        data, (cutoff, until) = self.job.dataset, self.job.period
        found = central.central(data if until is None else data.before(until), cutoff, arms=self.job.central)
        return [ArmResult(f"{CENTRAL}/{name}", arm.title, arm.views) for name, arm in found.items()]


def start(job: Job) -> None:
    """Prepares a worker process."""
    prepare()
    Worker.current = Worker(job)


def _replay(users: Sequence[int]) -> tuple[int, dict[tuple[str, str], list[Outcome]]]:
    assert Worker.current is not None
    return Worker.current.replay(users)


def _central() -> list[ArmResult]:
    assert Worker.current is not None
    return Worker.current.central()


def run(job: Job, chunks: Sequence[Sequence[int]], workers: int, progress: Progress) -> Found:
    """Hands the work to processes and gathers what they bring."""
    found = Found({(arm.name, view): [] for arm in job.arms for view in RULES}, [])
    with one_thread_each():
        pool = ProcessPoolExecutor(workers, get_context("spawn"), start, (job,))
        try:
            reference = pool.submit(_central) if job.central else None
            parts = [pool.submit(_replay, chunk) for chunk in chunks]
            _gather(found, parts, sum(map(len, chunks)), progress)
            if reference is not None:
                progress("central arms", 0, 1)
                found.central = reference.result()
                progress("central arms", 1, 1)
        except BrokenProcessPool:
            raise SimulationError(
                "a worker process died; it may have been killed for want of memory",
                hint="try fewer --workers, or fewer --devices",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _gather(found: Found, parts: Sequence[Future[Any]], total: int, progress: Progress) -> None:
    done = 0
    progress("devices", done, total)
    for part in as_completed(parts):
        n_users, outcomes = part.result()
        for key, more in outcomes.items():
            found.outcomes[key] += more
        done += n_users
        progress("devices", done, total)


def _collected(arm: Arm, found: Found) -> ArmResult:
    views = {view: _measured(found.outcomes[arm.name, view]) for view in RULES}
    return ArmResult(arm.name, arm.title, views, arm.against)


def _measured(outcomes: list[Outcome]) -> ViewMetrics:
    ordered = sorted(outcomes, key=lambda outcome: outcome.number)
    hit = np.array([one.hit for one in ordered], np.bool_).reshape(len(ordered), -1)
    n_targets = np.array([one.n_targets for one in ordered], np.int64)
    return ViewMetrics(
        basket=np.array([one.number for one in ordered], np.int64),
        user=np.array([one.user for one in ordered], np.int32),
        recall=metrics.recall(hit, n_targets),
        ndcg=metrics.ndcg(hit, n_targets),
    )


def _restricted(arm: ArmResult, users: NDArray[np.int64], stories: Stories) -> ArmResult:
    """A central arm on the baskets of the replayed users alone."""
    views = {}
    for view, found in arm.views.items():
        keep = np.isin(found.user, users)
        views[view] = ViewMetrics(found.basket[keep], found.user[keep], found.recall[keep], found.ndcg[keep])
    return replace(arm, views=views)
