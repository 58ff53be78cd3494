"""The pluggy hooks: they register implementations of `edgerec.interfaces`, review, observe, and wrap a page.

Everything is passed by keyword; an implementation names the arguments it wants. `settings` are always the constants of
the section [plugins.NAME] of the app's configuration, NAME being the plugin's.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from edgerec.interfaces import (
    AggregatorFactory,
    DeltaFilterFactory,
    FilterFactory,
    RerankerFactory,
    Settings,
    SourceFactory,
    TransportFactory,
    UpdaterFactory,
)
from edgerec.types import (
    BundleFacts,
    BundleReview,
    Event,
    Float32,
    LearningBatch,
    Model,
    Page,
    PageRequest,
    Receipt,
    Request,
    State,
)

hookspec = pluggy.HookspecMarker("edgerec")
hookimpl = pluggy.HookimplMarker("edgerec")


@hookspec
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:  # type: ignore[empty-body]
    """Updaters by name. A factory takes the updater's settings and returns an `Updater`."""


@hookspec
def edgerec_sources() -> Mapping[str, SourceFactory]:  # type: ignore[empty-body]
    """Candidate sources by name. A factory takes the source's settings and returns a `CandidateSource`."""


@hookspec
def edgerec_event_filters() -> Mapping[str, FilterFactory]:  # type: ignore[empty-body]
    """Event filters by name. A factory takes the filter's settings and returns an `EventFilter`."""


@hookspec
def edgerec_rerankers() -> Mapping[str, RerankerFactory]:  # type: ignore[empty-body]
    """Rerankers by name. A factory takes the reranker's settings and returns a `Reranker`."""


@hookspec
def edgerec_delta_filters() -> Mapping[str, DeltaFilterFactory]:  # type: ignore[empty-body]
    """Delta filters by name. A factory takes the filter's settings and returns a `DeltaFilter`."""


@hookspec
def edgerec_transports() -> Mapping[str, TransportFactory]:  # type: ignore[empty-body]
    """Transports by name. A factory takes the transport's settings and returns a `Transport`."""


@hookspec
def edgerec_aggregators() -> Mapping[str, AggregatorFactory]:  # type: ignore[empty-body]
    """Aggregators by name. A factory takes the aggregator's settings and returns an `Aggregator`."""


@hookspec
def edgerec_review_update(
    updater: str, before: State, after: State, batch: LearningBatch, settings: Settings
) -> str | None:
    """Why a step that the guard found sound is not taken, None where it may be. An exception counts as a veto."""


@hookspec
def edgerec_review_bundle(review: BundleReview, settings: Settings) -> str | None:
    """Why a bundle that was verified and tried is not installed, None where it may be. An exception is a veto."""


@hookspec
def edgerec_event_recorded(event: Event, receipt: Receipt, settings: Settings) -> None:
    """An event was recorded: told after its transaction, once per event, repeated ones included."""


@hookspec
def edgerec_update_decided(updater: str, verdict: str, n_events: int, settings: Settings) -> None:
    """What became of a learning step over `n_events` events: "learned", or "refused: …". Told after the transaction."""


@hookspec
def edgerec_bundle_changed(old: BundleFacts | None, new: BundleFacts, reason: str, settings: Settings) -> None:
    """Another bundle runs from now on. Told after the transaction; `old` is None on a device's first start."""


@hookspec(firstresult=True)
def edgerec_recommend(request: PageRequest, settings: Settings) -> Page:  # type: ignore[empty-body]
    """Makes a page. For wrappers only (`@hookimpl(wrapper=True)`): they see the request and may change the page."""


@hookspec(firstresult=True)
def edgerec_cold_start(request: Request, model: Model, settings: Settings) -> Float32 | None:
    """Scores that stand in for popularity, float32 (n_items,), while the user has done nothing. The first to answer
    something else than None is taken.
    """
