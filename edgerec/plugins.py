"""Loading plugins: by entry point or named outright; one that is broken is reported and never stops the host."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pluggy

from edgerec import hookspecs, log
from edgerec.errors import EdgeRecError, PluginError, PluginNotFound
from edgerec.interfaces import (
    FAILURES,
    CandidateSource,
    EventFilter,
    FilterFactory,
    Settings,
    SourceFactory,
    Updater,
    UpdaterFactory,
)
from edgerec.records import record

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
        self._filters: dict[str, FilterFactory] = self._collect("edgerec_event_filters")

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

    def filters(self, wanted: Mapping[str, Settings]) -> list[EventFilter]:
        """The event filters of those names, in order of name; one that is missing or cannot be made is reported."""
        made = []
        for name in sorted(wanted):
            try:
                if name not in self._filters:
                    raise PluginNotFound(f"no plugin registers an event filter named {name!r}")
                made.append(self._made(name, self._filters[name], wanted[name]))
            except EdgeRecError as error:
                self._report(f"filter:{name}", error)
        return made

    def summary(self) -> dict[str, dict[str, Any]]:
        """`loaded`: plugin → what it registers; `broken`: plugin → why it is not used."""
        registered: dict[str, list[str]] = {name: [] for name in self.loaded}
        hooks = {"edgerec_updaters": "updater", "edgerec_sources": "source", "edgerec_event_filters": "filter"}
        for hook, kind in hooks.items():
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
    """Entry points of the group, by name. Read straight from the folders where packages are installed.

    `importlib.metadata` does the same with packages that lie elsewhere (in a zip, or behind an importer that finds
    them in its own way), but loads the parsers of e-mail, CSV and zip files first.
    """
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    folders = [Path(entry or ".") for entry in dict.fromkeys(sys.path)]
    if finders != [PathFinder] or any(folder.is_file() or folder.suffix == ".egg" for folder in folders):
        from importlib.metadata import entry_points

        found: Sequence[Any] = tuple(entry_points(group=GROUP))
    else:
        found = _installed(folders)
    return sorted(found, key=lambda point: str(point.name))


@record
class EntryPoint:
    """A plugin that an installed package announces: its name, and `value`, "module" or "module:attribute"."""

    name: str
    value: str

    def load(self) -> object:
        """Imports it."""
        module, _, attributes = self.value.partition("[")[0].strip().partition(":")
        found: object = importlib.import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            found = getattr(found, attribute)
        return found


def _installed(folders: Iterable[Path]) -> list[EntryPoint]:
    """As `importlib.metadata` sees it: of a package that is there twice, the first one counts."""
    points: list[EntryPoint] = []
    seen: set[str] = set()
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in names:
            package, kind = os.path.splitext(entry)
            if kind not in (".dist-info", ".egg-info"):
                continue
            package = package.partition("-")[0].lower().replace("_", "-").replace(".", "-")
            if package not in seen:
                seen.add(package)
                points += _announced(folder / entry / "entry_points.txt")
    return points


def _announced(file: Path) -> list[EntryPoint]:
    """The entry points of GROUP in one package's file."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    points, section = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line[1:].rstrip("]").strip()
        elif section == GROUP and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            points.append(EntryPoint(name.strip(), value.strip()))
    return points


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
