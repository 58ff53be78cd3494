"""Plugin `journal`: what the runtime does, for the logger `edgerec.journal` at DEBUG; nothing of the user in it."""

from __future__ import annotations

from collections.abc import Generator

from edgerec import log
from edgerec.hookspecs import hookimpl
from edgerec.types import BundleFacts, Event, Page, PageRequest, Receipt

LOGGER = "edgerec.journal"


def _note(message: str, *values: object) -> None:
    if log.debugging(LOGGER):
        import logging

        logging.getLogger(LOGGER).debug(message, *values)


@hookimpl
def edgerec_event_recorded(event: Event, receipt: Receipt) -> None:
    _note("event %s: %s, learned %s", event.kind, receipt.status, receipt.learned)


@hookimpl
def edgerec_update_decided(updater: str, verdict: str, n_events: int) -> None:
    _note("updater %s, %d events: %s", updater, n_events, verdict)


@hookimpl
def edgerec_bundle_changed(old: BundleFacts | None, new: BundleFacts, reason: str) -> None:
    _note("bundle %s version %d in place of %s: %s", new.name, new.version, old.version if old else "none", reason)


@hookimpl(wrapper=True)
def edgerec_recommend(request: PageRequest) -> Generator[None, Page, Page]:
    page = yield
    if not log.debugging(LOGGER):
        return page
    took = sum(page.timings.values())
    _note("page of %d in %s: %d items, %.2f ms, failed: %s", request.n, page.scenario, len(page), took, page.degraded)
    return page
