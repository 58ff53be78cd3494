"""Loading plugins: by entry point or named outright; one that is broken is reported and never stops the host."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pluggy

from edgerec import hookspecs, log
from edgerec.discovery import GROUP, entry_points_of_group, module_of, name_of
from edgerec.errors import EdgeRecError, PluginError, PluginNotFound
from edgerec.hooks import CALLED, Hooks, check_fit
from edgerec.interfaces import (
    FAILURES,
    Aggregator,
    CandidateSource,
    DeltaFilter,
    EventFilter,
    Reranker,
    Settings,
    Transport,
    Updater,
)
from edgerec.isolation import BUDGET_MS, MOST_FAILURES, Isolation, first_party, told
from edgerec.records import record
from edgerec.version import satisfies

ALLOWED = "EDGEREC_LOAD_PLUGINS"
LOAD_SECONDS = 10.0
_HOOKS = {
    "updater": "edgerec_updaters",
    "source": "edgerec_sources",
    "filter": "edgerec_event_filters",
    "reranker": "edgerec_rerankers",
    "delta_filter": "edgerec_delta_filters",
    "transport": "edgerec_transports",
    "aggregator": "edgerec_aggregators",
}
_METHODS = {
    "updater": ("initial", "update", "user_vector"),
    "source": ("score",),
    "filter": ("review",),
    "reranker": ("rerank",),
    "delta_filter": ("filter",),
    "transport": ("send",),
    "aggregator": ("aggregate",),
}
_PATIENCE_S = {"transport": 120.0, "aggregator": 600.0}
"""Kinds that may take so long, and then not on the thread that serving waits for."""


@record
class _Registered:
    """An implementation's factory, and the plugin that brought it."""

    plugin: str
    factory: Callable[[Settings], Any]


class Plugins:
    """The plugins of one recommender. `loaded`: their names; `broken`: name → why it is not used."""

    def __init__(
        self,
        wanted: Sequence[object] | None = None,
        *,
        settings: Mapping[str, Settings] | None = None,
        budget_ms: float = BUDGET_MS,
        most_failures: int = MOST_FAILURES,
    ) -> None:
        """`wanted` None: every installed plugin (entry-point group `edgerec`), or those that EDGEREC_LOAD_PLUGINS
        lists, separated by commas. Else entry-point names, dotted module paths, or plugin objects, which need no entry
        points and so suit frozen apps. `settings`: constants by plugin, for hooks that ask for them. `budget_ms`,
        `most_failures`: see `Isolation`.

        Raises PluginNotFound or PluginError for a plugin that was named outright and cannot be loaded.
        """
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.isolation = Isolation(budget_ms=budget_ms, most_failures=most_failures)
        self.loaded: list[str] = []
        self.broken: dict[str, str] = {}
        self._outsiders: set[str] = set()
        self._apart: list[Isolation] = []
        if wanted is None:
            self._discover(_allowed())
        else:
            for one in wanted:
                name, plugin = self._named(one)
                self._register(name, plugin)
        for name in sorted(set(settings or {}) - {*self.loaded, *self.broken}):
            self._report(name, PluginNotFound("the configuration has settings for it, but it is not loaded"))
        self._found = {kind: self._collect(hook) for kind, hook in _HOOKS.items()}
        self.hooks = Hooks(self.manager, self.isolation, self._outsiders, settings or {})

    def _discover(self, allowed: Collection[str] | None) -> None:
        points = entry_points_of_group()
        for name in sorted(set(allowed or ()) - {point.name for point in points}):
            self._report(name, PluginNotFound(f"{ALLOWED} lists it, but no installed package announces it"))
        for point in points:
            if allowed is not None and point.name not in allowed:
                continue
            told = f"{point.name} (another)" if point.name in self.loaded else point.name
            try:
                self._register(point.name, self._loaded(point.name, point.value, point.load))
            except FAILURES as error:  # a plugin's import may raise anything, SystemExit too
                self._report(told, error)

    def _loaded(self, name: str, module: str, load: Callable[[], object]) -> object:
        if first_party(module):
            return load()
        return self.isolation.call(f"{name} import", load, seconds=LOAD_SECONDS)

    def _named(self, one: object) -> tuple[str, object]:
        if not isinstance(one, str):
            return name_of(one), one
        try:
            if "." in one:  # here and now: on a thread it would wait for a package that is being imported itself
                return one.rpartition(".")[2], importlib.import_module(one)
            for point in entry_points_of_group():
                if point.name == one:
                    return one, self._loaded(one, point.value, point.load)
        except FAILURES as error:
            raise PluginError(f"plugin {one!r} cannot be loaded: {told(error)}") from error
        raise PluginNotFound(f"no installed plugin is called {one!r}", hint="see `edgerec plugins list`")

    def _register(self, name: str, plugin: object) -> None:
        _check_version(name, plugin)
        if name in self.loaded:
            raise PluginError(f"plugin {name!r} is registered twice: another one has that name")
        if (other := self.manager.get_name(plugin)) is not None:
            raise PluginError(f"plugin {name!r} is registered twice: it is {other!r} already")
        try:
            self.manager.register(plugin, name)
            check_fit(self.manager, name)
        except FAILURES as error:
            if self.manager.get_plugin(name) is not None:
                self.manager.unregister(name=name)
            reason = error if isinstance(error, PluginError) else told(error)
            raise PluginError(f"plugin {name!r} does not fit the hooks: {reason}") from None
        self.loaded.append(name)
        if not first_party(module_of(plugin)):
            self._outsiders.add(name)

    def _report(self, name: str, error: BaseException) -> None:
        self.broken[name] = told(error)
        log.warning("plugin %s is not used: %s", name, self.broken[name])

    def _collect(self, hook: str) -> dict[str, _Registered]:
        """Joins the mappings of all implementations, called one by one; a name belongs to the first to take it."""
        joined: dict[str, _Registered] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            plugin, function = implementation.plugin_name, implementation.function
            try:
                run = self.isolation.runner(f"{plugin} {hook}", outsider=plugin in self._outsiders)
                found = function() if run is None else run(function)
                if not isinstance(found, Mapping):
                    raise TypeError(f"{hook} must return a mapping, not {type(found).__name__}")
                if taken := sorted(set(found) & set(joined)):
                    raise PluginError(f"{hook}: {', '.join(taken)} is registered by another plugin")
                joined |= {str(name): _Registered(plugin, factory) for name, factory in found.items()}
            except FAILURES as error:
                self._report(plugin, error)
        return joined

    def updater(self, name: str, settings: Settings) -> Updater:
        """A new updater of that name. Raises PluginNotFound, or PluginError where its factory fails."""
        updater: Updater = self._made("updater", name, settings)
        return updater

    def names(self, kind: str) -> list[str]:
        """What is registered of a kind: "updater", "source", "filter", "reranker", "delta_filter", "transport" or
        "aggregator"."""
        return sorted(self._found[kind])

    def sources(self, wanted: Mapping[str, Settings]) -> list[CandidateSource]:
        """The candidate sources of those names; one that cannot be made is reported, one that is missing left aside."""
        return self._all("source", {name: of for name, of in wanted.items() if name in self._found["source"]})

    def filters(self, wanted: Mapping[str, Settings]) -> list[EventFilter]:
        """The event filters of those names, in order of name; one that is missing or cannot be made is reported."""
        return self._all("filter", wanted)

    def updaters(self, wanted: Mapping[str, Settings]) -> list[Updater]:
        """The updaters of those names, in order of name; one that cannot be made is reported."""
        return self._all("updater", wanted)

    def rerankers(self, wanted: Mapping[str, Settings]) -> list[Reranker]:
        """The rerankers of those names, in order of name; one that is missing or cannot be made is reported."""
        return self._all("reranker", wanted)

    def delta_filters(self, wanted: Mapping[str, Settings]) -> list[DeltaFilter]:
        """The delta filters of those names, in the given order. Raises PluginNotFound or PluginError for one that is
        missing or cannot be made: nothing is sent without a filter that was asked for.
        """
        return [self._made("delta_filter", name, settings) for name, settings in wanted.items()]

    def transport(self, name: str, settings: Settings) -> Transport:
        """The transport of that name. Raises PluginNotFound, or PluginError where its factory fails."""
        transport: Transport = self._made("transport", name, settings)
        return transport

    def aggregator(self, name: str, settings: Settings) -> Aggregator:
        """The aggregator of that name. Raises PluginNotFound, or PluginError where its factory fails."""
        aggregator: Aggregator = self._made("aggregator", name, settings)
        return aggregator

    def _all(self, kind: str, wanted: Mapping[str, Settings]) -> list[Any]:
        made = []
        for name in sorted(wanted):
            try:
                made.append(self._made(kind, name, wanted[name]))
            except EdgeRecError as error:
                self._report(f"{kind}:{name}", error)
        return made

    def _made(self, kind: str, name: str, settings: Settings) -> Any:
        if name not in self._found[kind]:
            known = ", ".join(self.names(kind)) or "none"
            what = "event filter" if kind == "filter" else kind.replace("_", " ")
            raise PluginNotFound(f"no plugin registers {_a(what)} named {name!r}", hint=f"registered: {known}")
        registered = self._found[kind][name]
        outsider = registered.plugin in self._outsiders
        label = f"{kind} {name}"
        try:
            make = self.isolation.runner(label, outsider=outsider)
            one = registered.factory(settings) if make is None else make(registered.factory, settings)
            if missing := [method for method in _METHODS[kind] if not callable(getattr(one, method, None))]:
                raise TypeError(f"{type(one).__name__} has no method {missing[0]}")
            run = self._isolation_of(kind, outsider).runner(label, outsider=outsider)
            if run is None:
                return one
            from edgerec.shields import SHIELDS  # an app without outsiders needs none

            return SHIELDS[kind](one, name, run)
        except EdgeRecError:
            raise
        except FAILURES as error:
            raise PluginError(f"{name!r} could not be made: {told(error)}") from error

    def _isolation_of(self, kind: str, outsider: bool) -> Isolation:
        """What stands before an implementation: a thread of its own where an outsider's call may take long."""
        if not outsider or kind not in _PATIENCE_S:
            return self.isolation
        self._apart.append(Isolation(budget_ms=_PATIENCE_S[kind] * 1e3))
        return self._apart[-1]

    def summary(self) -> dict[str, dict[str, Any]]:
        """`loaded`: plugin → what it registers and which hooks it answers; `broken`: plugin → why it is not used;
        `failures`: what failed since, how often, why, and whether it is disabled."""
        registered: dict[str, list[str]] = {name: [] for name in self.loaded}
        for kind, found in self._found.items():
            for name, one in found.items():
                registered[one.plugin].append(f"{kind} {name}")
        for hook in CALLED:
            for implementation in getattr(self.manager.hook, hook).get_hookimpls():
                registered[implementation.plugin_name].append(f"hook {hook}")
        return {"loaded": registered, "broken": dict(self.broken), "failures": self.isolation.report()}

    def close(self) -> None:
        """Lets go of the threads that outsiders run on."""
        for isolation in (self.isolation, *self._apart):
            isolation.close()


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def _allowed() -> Collection[str] | None:
    """The names that EDGEREC_LOAD_PLUGINS lists, None where it is not set."""
    listed = os.environ.get(ALLOWED)
    return None if listed is None else {name.strip() for name in listed.split(",") if name.strip()}


def _check_version(name: str, plugin: object) -> None:
    wanted = getattr(plugin, "edgerec_requires", None)
    if wanted is None:
        return
    if not isinstance(wanted, str):
        raise PluginError(f"plugin {name!r}: edgerec_requires must be text", hint='for instance ">=0.1,<1"')
    if not satisfies(wanted):
        from edgerec.version import __version__

        raise PluginError(f"plugin {name!r} needs edgerec {wanted}, this is {__version__}")
