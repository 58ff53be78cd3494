"""The recommender an app holds: the whole story on one page.

serving   request ─► snapshot of the profile ─► sources ─► blend ─► rules ─► rerankers ─► Page
learning  event ─► progressive validation ─► updater ─► guard ─► event and state stored in one transaction
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec import lifecycle, pages, recovery
from edgerec.bundle import Bundle
from edgerec.config import Config, load_config
from edgerec.device import Device, Snapshot
from edgerec.errors import RequestError
from edgerec.lifecycle import BundleInfo, Installation
from edgerec.pages import row_of
from edgerec.plugins import Plugins
from edgerec.probation import Watch
from edgerec.serving import pipeline
from edgerec.serving.rules import Eligibility
from edgerec.store import MetaTable
from edgerec.types import CatalogueUpdate, Event, Explanation, Page, PageRequest, Receipt

if TYPE_CHECKING:
    from edgerec.federation.sync import Synchroniser, SyncReport
    from edgerec.federation_settings import Conditions
    from edgerec.merging import Merged
    from edgerec.off_policy import Estimates
    from edgerec.privacy import Forgotten
    from edgerec.profile import ProfileSummary
    from edgerec.updates import Update

MAX_N = 10_000


def open(
    bundle: str | os.PathLike[str] | Bundle,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    plugins: Sequence[object] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    clock: Callable[[], float] = time.time,
    seed: int | None = None,
) -> Recommender:
    """Opens a recommender. One `data_dir` is one user; None is a temporary one that `close` removes.

    `bundle`: the app's own (factory) bundle, a path, or a `Bundle` that several recommenders share. A higher
    version that was installed in `data_dir` runs in its place; `rec.bundle` says which, and why. `plugins`:
    entry-point names, module paths or objects; None loads every installed one. `config`: TOML file, mapping or
    `Config`. `clock`: POSIX seconds. `seed`: makes page ids reproducible.

    Raises BundleError, StoreError, ConfigError or PluginError.
    """
    return Recommender(bundle, data_dir, plugins=plugins, config=config, clock=clock, seed=seed)


class Recommender:
    """Ranks, records and learns for one user. Thread-safe; use it as a context manager or call `close`."""

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        plugins: Sequence[object] | None = None,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        settings = load_config(config)
        self._temporary = _temporary_folder() if data_dir is None else None
        self._random = None if seed is None else _random_bits(seed)
        self._syncs: Synchroniser | None = None
        self._device = Device(self._temporary or Path(data_dir or ""), _plugins(plugins, settings), settings, clock)
        try:
            # kept open, so that its files stay while newer ones run
            self._factory = bundle if isinstance(bundle, Bundle) else self._device.load(Path(bundle))
            chosen = recovery.started(self._device, lambda: lifecycle.start(self._device, self._factory))
            self._watch = Watch(self._device)
            self.bundle: BundleInfo = self._watch.after(0, chosen)
        except BaseException:
            self.close()
            raise

    def recommend(
        self,
        n: int = 10,
        *,
        scenario: str = "default",
        exclude: Collection[str] = (),
        only: Collection[str] | None = None,
        where: Mapping[str, Any] | str | None = None,
        context: Mapping[str, Any] | None = None,
        seen: str | None = None,
        log_exposure: bool = True,
    ) -> Page:
        """The n best items for the user now; fewer only with `page.reason`.

        `exclude`, `only`: item ids. `where`: conditions on attributes, `{"price_max": 5.0, "colour": "red"}`, or an
        expression, `"price <= 5 and colour == 'red'"`. `scenario`: the bundle's, or one of the app's configuration.
        `seen`: "hide" leaves out what the user consumed, "show" does not; None takes the scenario's rule. Never
        waits for a lock, never fails for a broken source or encoder (`page.degraded` names it).

        Raises RequestError, UnknownScenario or UnknownAttribute for a request that cannot be answered.
        """
        _check_request(n, seen)
        request = PageRequest(n, scenario, exclude, only, where, context, seen)
        return pages.recommend(self._device, request, self._page_id(), log_exposure=log_exposure)

    def similar(self, item: str, n: int = 10) -> Page:
        """Items that go with one item, by the bundle's item-to-item weights, then by its vectors.

        Raises UnknownItem or RequestError.
        """
        _check_request(n, None)
        engine = self._device.snapshot().engine
        row = row_of(engine.bundle, item)
        table, mix = engine.similar_to(row)
        scores = pipeline.blended(table, mix)
        blocked = np.zeros(len(scores), np.bool_)
        blocked[row] = True
        rows, reason = pipeline.best(scores, Eligibility(blocked, ("the item itself",)), n)
        parts = pipeline.score_parts(table, mix, rows)
        items = pipeline.page_items(rows, parts, table.names, np.ones(len(rows)), engine.bundle.catalogue)
        return Page(self._page_id(), items, "similar", reason)

    def record(
        self,
        item: str,
        kind: str = "click",
        *,
        value: float | None = None,
        at: float | datetime | None = None,
        group: str | None = None,
        recommendation_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Receipt:
        """Stores what the user did and learns from it; when it returns, the event survives the process's death.

        Idempotent by `event_id`. An item the catalogue does not know is kept, and learned from when a bundle
        brings it. Raises InvalidEvent, UnknownEventKind, EventConflict or StoreBusy; then nothing was stored.
        """
        return self.record_many([Event(item, kind, value, at, group, recommendation_id, context, event_id)])[0]

    def record_many(self, events: Iterable[Event]) -> list[Receipt]:
        """Records many events in one transaction: all or none.

        Ungrouped events equal `record` one by one. Events of one `group` are all tested against the state
        before the first of them, then learned together, in the order of their time and id.
        """
        from edgerec.recording import record  # what the first page does not need waits until it is asked for

        receipts = record(self._device, events)
        self.bundle = self._watch.after(len(receipts), self.bundle)
        return receipts

    def explain(self, item: str, *, recommendation_id: str | None = None, scenario: str = "default") -> Explanation:
        """Why the item stands where it stands: parts that add up to its score, and the events that moved it most.

        `recommendation_id`: explains in the scenario of that page, with the chance that its rerankers had. Raises
        UnknownItem or UnknownScenario.
        """
        from edgerec.explanations import explanation  # most apps never ask

        shown = None if recommendation_id is None else self._device.shown_in(recommendation_id)
        return explanation(self._device, item, shown or scenario, page=recommendation_id if shown else None)

    def profile(self) -> ProfileSummary:
        """What the device believes of its user: counts, tastes, habits, and what is served of what was learned."""
        from edgerec.profile import profile

        return profile(self._device)

    def evaluate(self, policy: str, *, logged: str = "default") -> Estimates:
        """What the pages of scenario `logged` would have earned, made by scenario `policy`, from this device's own log
        (`edgerec.off_policy`). Raises UnknownScenario or RequestError where the log does not tell.
        """
        from edgerec.policy_evaluation import evaluate_policy

        return evaluate_policy(self._device, policy, logged=logged)

    def update_catalogue(self, items: Iterable[Mapping[str, Any]], *, remove: Collection[str] = ()) -> CatalogueUpdate:
        """Takes new items, and changes to known ones, without a new bundle; all of it or nothing.

        An item is `{"item": id, "title": …, "attributes": {…}}`; a new one is placed by its `content`, content
        vectors by modality, or by a ready `vector`, and by its `popularity` where that is known. Told of again, it is
        replaced. What was told holds until a bundle brings the item. `remove`: ids that were told of.

        Raises DataError, naming the item, or StoreBusy.
        """
        # imported here because most apps get new items with a new bundle
        from edgerec.catalogue_update import update

        return update(self._device, items, remove)

    def install(self, bundle: str | os.PathLike[str], *, force: bool = False) -> Installation:
        """Verifies a bundle, repeats its golden cases, tries it on this user's events, and switches to it.

        Raises BundleError, and goes on serving what runs, where the bundle is unsound, older, was rolled back,
        or does worse in the shadow evaluation.
        """
        installation = lifecycle.install(self._device, Path(bundle), force=force)
        self.bundle = installation.bundle
        return installation

    def rollback(self) -> BundleInfo:
        """Goes back to the bundle before; the one that ran is not taken again. Raises BundleRefused."""
        self.bundle = lifecycle.rollback(self._device)
        return self.bundle

    def export_profile(self, path: str | os.PathLike[str], *, passphrase: str | None = None) -> int:
        """Writes what the user did to a file that another device can import; returns the number of events.

        `passphrase`: encrypts it, an age file (age-encryption.org). Raises StoreError or MissingDistribution.
        """
        from edgerec.privacy import export_profile

        return len(export_profile(self._device, Path(path), passphrase).rows)

    def import_profile(self, path: str | os.PathLike[str], *, passphrase: str | None = None) -> Merged:
        """Joins the events of another device with those here, and learns from all of them anew.

        Two devices under one bundle that import each other's profile have learned the same. What was forgotten on
        either is forgotten on both. Raises ProfileInvalid, EventConflict, StoreBusy or ForgetPending.
        """
        from edgerec.privacy import import_profile

        return import_profile(self._device, Path(path), passphrase)

    def forget(self, item: str | None = None) -> Forgotten:
        """Forgets all that the user did, or all that has to do with one item, to the last byte of the data directory.

        What was learned is learned anew from what remains. Raises StoreBusy, having done nothing, or ForgetPending
        when another process reads the store: all is out of it then, and the next open erases the last bytes.
        """
        from edgerec.privacy import forget

        return forget(self._device, item)

    def pause_learning(self) -> None:
        """From now on events are stored, and count as history, but nothing is learned from them."""
        self._set_paused(True)

    def resume_learning(self) -> None:
        """Learns from the events to come; those recorded meanwhile stay unlearned."""
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        with self._device.latest() as (connection, before):
            MetaTable.set(connection, "paused", "1" if paused else "0")
            self._device.adopt(Snapshot(before.engine, before.history, before.learned, paused, before.recent))

    def stats(self) -> dict[str, Any]:
        """Counts, versions, sizes, plugins, and per scenario how every ranking did, test-then-train."""
        from edgerec.statistics import statistics

        return statistics(self._device, self.bundle)

    def update(
        self,
        channel: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> Update:
        """Asks a channel, a URL or a folder, for a newer bundle, and installs it (`edgerec.updates.update`).

        Raises ChannelError where the channel cannot be reached or trusted; a bundle that is refused is a status.
        """
        from edgerec.updates import update  # nothing of it is loaded before the app asks

        done = update(self._device, channel, root=root, force=force)
        if done.installation is not None:
            self.bundle = done.installation.bundle
        return done

    def consent(self, given: bool) -> None:
        """What the user said to federation; it is kept until they say otherwise.

        Given: what is recorded from now on may be counted by a `sync`, nothing of before. Taken back: nothing is sent
        any more, and what waits is deleted. Raises StoreBusy.
        """
        self._synchroniser().consent(given)

    def sync(self, *, conditions: Conditions | Mapping[str, Any] | None = None) -> SyncReport:
        """Sends what a delta may tell of the events since the last one, then asks the configured channel for a bundle.

        Off unless the app enabled federation and the user gave `consent`. `conditions`: what the app knows of the
        device, `{"metered": False, "charging": True}`. A network that fails is a status, not an error: the delta waits
        (`edgerec.federation.sync.Synchroniser.sync`). Raises ConfigError, PluginError, StoreBusy or RequestError.
        """
        report = self._synchroniser().sync(conditions)
        if report.update is not None and report.update.installation is not None:
            self.bundle = report.update.installation.bundle
        return report

    def _synchroniser(self) -> Synchroniser:
        if self._syncs is None:
            from edgerec.federation.sync import Synchroniser  # nothing of it is loaded before the app asks

            self._syncs = Synchroniser(self._device)
        return self._syncs

    def close(self) -> None:
        """Writes what is buffered and lets go of the store. Closing twice is fine."""
        self._device.close()
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Recommender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page_id(self) -> str:
        return os.urandom(8).hex() if self._random is None else f"{self._random(64):016x}"


def _plugins(wanted: Sequence[object] | None, settings: Config) -> Plugins:
    return Plugins(
        wanted,
        settings=settings.plugins,
        budget_ms=settings.plugin_budget_ms,
        most_failures=settings.plugin_failures,
    )


def _temporary_folder() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="edgerec-"))


def _random_bits(seed: int) -> Callable[[int], int]:
    import random

    return random.Random(seed).getrandbits


def _check_request(n: int, seen: str | None) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= MAX_N:
        raise RequestError(f"n = {n!r}", hint=f"ask for 1 to {MAX_N} items")
    if seen not in (None, "hide", "show"):
        raise RequestError(f"seen = {seen!r}", hint="'hide', 'show' or None")
