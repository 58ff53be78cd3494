"""Which plugins installed packages announce: the entry points of the group `edgerec`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from edgerec.records import record

GROUP = "edgerec"


def entry_points_of_group() -> Sequence[Any]:
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
        found = installed(folders)
    return sorted(found, key=lambda point: str(point.name))


def name_of(plugin: object) -> str:
    """What a plugin object is called: a module or a class by its name, anything else by its class's."""
    return str(plugin.__name__ if isinstance(plugin, (ModuleType, type)) else type(plugin).__name__)


def module_of(plugin: object) -> str:
    """The module that a plugin object's code is in."""
    return str(plugin.__name__ if isinstance(plugin, ModuleType) else getattr(type(plugin), "__module__", ""))


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


def installed(folders: Iterable[Path]) -> list[EntryPoint]:
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
