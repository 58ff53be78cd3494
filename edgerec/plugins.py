"""Loading plugins: by entry point or named outright; one that is broken is reported and never stops the host."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from edgerec import hookspecs
from edgerec.errors import EdgeRecError, PluginError, PluginNotFound
from edgerec.interfaces import FAILURES, CandidateSource, Settings, SourceFactory, Updater, UpdaterFactory

log = logging.getLogger("edgerec")

GROUP = "edgerec"


class Plugins:
    """The plugins of one recommender. `loaded`: their names; `broken`: name → why it is not used."""

    def __init__(self, wanted: Sequence[object] | None = None) -> None:
        """`wanted` None: every installed plugin (entry-point group `edgerec`). Else entry-point names, dotted
        module paths, or plugin objects, which need no entry points and so suit frozen apps.

        Raises PluginNotFound or PluginError for a plugin that was named outright and cannot be loaded.
        """
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.loaded: list[str] = []
        self.broken: dict[str, str] = {}
        if wanted is None:
            for point in _entry_points():
                self._try(point.name, point.load)
        else:
            for one in wanted:
                name, plugin = _named(one)
                self._register(name, plugin)
        self._updaters: dict[str, UpdaterFactory] = self._collect("edgerec_updaters")
        self._sources: dict[str, SourceFactory] = self._collect("edgerec_sources")

    def updater(self, name: str, settings: Settings) -> Updater:
        """A new updater of that name. Raises PluginNotFound, or PluginError where its factory fails."""
        if name not in self._updaters:
            known = ", ".join(sorted(self._updaters)) or "none"
            raise PluginNotFound(f"no plugin registers an updater named {name!r}", hint=f"registered: {known}")
        updater: Updater = self._made(name, self._updaters[name], settings)
        return updater

    def sources(self, settings_of: Callable[[str], Settings]) -> list[CandidateSource]:
        """Every registered candidate source, in order of name; one that cannot be made is reported."""
        made = []
        for name in sorted(self._sources):
            try:
                made.append(self._made(name, self._sources[name], settings_of(name)))
            except EdgeRecError as error:
                self._report(f"source:{name}", error)
        return made

    def summary(self) -> dict[str, dict[str, Any]]:
        """`loaded`: plugin → what it registers; `broken`: plugin → why it is not used."""
        registered: dict[str, list[str]] = {name: [] for name in self.loaded}
        for hook, kind in (("edgerec_updaters", "updater"), ("edgerec_sources", "source")):
            for implementation in getattr(self.manager.hook, hook).get_hookimpls():
                if implementation.plugin_name not in self.broken:
                    registered[implementation.plugin_name] += [f"{kind} {name}" for name in implementation.function()]
        return {"loaded": registered, "broken": dict(self.broken)}

    def _made(self, name: str, factory: Callable[[Settings], Any], settings: Settings) -> Any:
        try:
            return factory(settings)
        except EdgeRecError:
            raise
        except FAILURES as error:
            raise PluginError(f"{name!r} could not be made: {type(error).__name__}: {error}") from error

    def _try(self, name: str, load: Callable[[], object]) -> None:
        try:
            self._register(name, load())
        except FAILURES as error:  # a plugin's import may raise anything, SystemExit too
            self._report(name, error)

    def _register(self, name: str, plugin: object) -> None:
        try:
            self.manager.register(plugin, name)
        except ValueError as error:
            raise PluginError(f"plugin {name!r} is registered twice: {error}") from None
        except pluggy.PluginValidationError as error:
            self.manager.unregister(plugin)
            raise PluginError(f"plugin {name!r} does not fit the hooks: {error}") from None
        self.loaded.append(name)

    def _report(self, name: str, error: BaseException) -> None:
        self.broken[name] = f"{type(error).__name__}: {error}"
        log.warning("plugin %s is not used: %s", name, self.broken[name])

    def _collect(self, hook: str) -> dict[str, Any]:
        """Joins the mappings of all implementations, called one by one; a name belongs to the first to take it."""
        joined: dict[str, Any] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                found = implementation.function()
                if not isinstance(found, Mapping):
                    raise TypeError(f"{hook} must return a mapping, not {type(found).__name__}")
                if taken := sorted(set(found) & set(joined)):
                    raise PluginError(f"{hook}: {', '.join(taken)} is registered by another plugin")
                joined.update(found)
            except FAILURES as error:
                self._report(implementation.plugin_name, error)
        return joined


def _entry_points() -> Sequence[Any]:
    from importlib.metadata import entry_points

    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _named(one: object) -> tuple[str, object]:
    if not isinstance(one, str):
        return getattr(one, "__name__", None) or type(one).__name__, one
    try:
        if "." in one:
            return one.rpartition(".")[2], importlib.import_module(one)
        for point in _entry_points():
            if point.name == one:
                return one, point.load()
    except FAILURES as error:
        raise PluginError(f"plugin {one!r} cannot be loaded: {type(error).__name__}: {error}") from error
    raise PluginNotFound(f"no installed plugin is called {one!r}", hint="see `edgerec plugins list`")
