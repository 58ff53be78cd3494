"""Writes a new plugin: a whole package that can be installed, tested and measured as it is."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from edgerec.discovery import entry_points_of_group
from edgerec.errors import PluginError, RequestError
from edgerec.version import __version__

TEMPLATE = Path(__file__).parent / "template"
RESERVED = ("none",)
"""What the settings take for no updater at all."""


def new_plugin(name: str, out: Path | None = None) -> Path:
    """Writes the package of a plugin that brings the updater `name`, into `out`, else into a folder of its name here.

    Either the whole package is there afterwards or nothing is. Returns its folder. Raises RequestError for a name that
    cannot be one or a folder that is there, PluginError for a name that is taken.
    """
    _check_name(name)
    target = (out or Path(name)).absolute()
    if os.path.lexists(target):
        raise RequestError(f"{target} is there already", hint="name another folder with --out")
    if not target.parent.is_dir():
        raise RequestError(f"there is no folder {target.parent}", hint=f"{target.name} was to be written there")
    values = _values(name)
    try:
        _write(target, values)
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error}", hint="name another folder with --out") from None
    return target


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", name) or len(name) > 50:
        raise RequestError(
            f"a plugin cannot be called {name!r}",
            hint="lower case letters and digits, with single hyphens or underscores between, a letter first",
        )
    module = _module(name)
    if keyword.iskeyword(name) or name in RESERVED:
        raise RequestError(f"a plugin cannot be called {name!r}", hint="the word has another meaning")
    if name in {point.name for point in entry_points_of_group()}:
        raise PluginError(f"a plugin {name!r} is installed already", hint="see `edgerec plugins list`")
    if importlib.util.find_spec(module) is not None:
        raise PluginError(f"a package {module!r} is installed already", hint="choose another name")


def _module(name: str) -> str:
    return f"edgerec_{name.replace('-', '_')}"


def _values(name: str) -> dict[str, str]:
    words = re.split("[-_]", name)
    return {
        "name": name,
        "module": _module(name),
        "distribution": f"edgerec-{name.replace('_', '-')}",
        "class_name": "".join(word.capitalize() for word in words) + "Updater",
        "version": ".".join(__version__.split(".")[:2]),
    }


def _write(target: Path, values: dict[str, str]) -> None:
    """Writes all files into a folder beside the target, which then takes its name."""
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for source, place in (
            ("pyproject.toml", "pyproject.toml"),
            ("README.md", "README.md"),
            ("updater.py", f"src/{values['module']}/__init__.py"),
            ("test_conformance.py", "tests/test_conformance.py"),
        ):
            file = beside / place
            file.parent.mkdir(parents=True, exist_ok=True)
            text = Template((TEMPLATE / f"{source}.txt").read_text("utf-8")).substitute(values)
            file.write_text(text, "utf-8")
        (beside / "src" / values["module"] / "py.typed").touch()
        beside.chmod(0o755)
        beside.rename(target)  # fails where somebody was faster, unless with an empty folder
    finally:
        shutil.rmtree(beside, ignore_errors=True)
