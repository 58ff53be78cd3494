"""The pluggy hooks. They only register: implementations of `edgerec.interfaces` do the work."""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from edgerec.interfaces import FilterFactory, SourceFactory, UpdaterFactory

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
