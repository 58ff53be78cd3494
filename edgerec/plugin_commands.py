"""`edgerec plugins new` and `edgerec plugins check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pluggy import PluginManager

from edgerec.errors import PluginError
from edgerec.interfaces import FAILURES
from edgerec.isolation import Isolation

SECONDS = 60.0
"""The longest a check may take."""
FEW = 3
"""So many failures are named to begin with, and a reason that more checks give is told once."""


@click.command("new")
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where it is written.  [default: a folder NAME]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def new_command(name: str, out: Path | None, as_json: bool) -> None:
    """Writes a package with an updater NAME: it can be installed, passes its checks, and learns."""
    from edgerec.plugin_new import new_plugin

    folder = new_plugin(name, out)
    if as_json:
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        click.echo(json.dumps({"plugin": name, "folder": str(folder), "files": files}, indent=1))
        return
    click.echo(f'{folder}\nnext: cd {folder} && pip install -e ".[test]" && pytest && edgerec plugins check {name}')


@click.command("check")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def check_command(name: str, as_json: bool) -> None:
    """Runs the checks of all that the installed plugin NAME brings."""
    results = list(_checked(name))
    failed = sum(not one["ok"] for one in results)
    if as_json:
        found = {"plugin": name, "checks": len(results), "failed": failed, "results": results}
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        click.echo(_table(results) or f"{name} brings nothing that can be checked")
    if failed:
        raise PluginError(f"{name} fails {failed} of {len(results)} checks", hint=_advice(results))


def _advice(results: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(one["check"] for one in results if not one["ok"]))
    told = f"begin with {', '.join(names[:FEW])}"
    if any(one["reason"].startswith("raises ") for one in results):
        told += "; in pytest, `conformance` of edgerec.checks shows the line that raises"
    return told


def _checked(name: str) -> Iterator[dict[str, Any]]:
    """A result per check of each implementation; a source is given the state of the updater of its name."""
    from edgerec.checks import run_checks

    found = dict(_brought(name))
    for (kind, each), factory in found.items():
        updater = found.get(("updater", each)) if kind == "source" else None
        made = None if updater is None else _maker(updater)
        click.echo(f"checking {kind} {each}", err=True)
        for result in run_checks(kind, factory, updater=made, seconds=SECONDS):
            yield {"kind": kind, "name": each, "check": result.check, "ok": result.ok, "reason": result.reason}


def _maker(factory: Any) -> Any:
    return lambda: factory({})


def _brought(name: str) -> Iterator[tuple[tuple[str, str], Any]]:
    """(kind, name) and factory of all that the plugin registers. Raises PluginError where it cannot say, or cannot make
    what it registers."""
    from edgerec.checks.subjects import KINDS
    from edgerec.plugins import Plugins

    plugins = Plugins([name])
    try:
        if why := plugins.broken:
            raise PluginError(f"plugin {name!r} is broken: {'; '.join(why.values())}")
        _all_marked(plugins.loaded[0], plugins.manager)
        for kind, of in KINDS.items():
            for implementation in getattr(plugins.manager.hook, of.hook).get_hookimpls():
                for each, factory in implementation.function().items():
                    _tried(plugins.isolation, f"{kind} {each}", factory)
                    yield (kind, str(each)), factory
    finally:
        plugins.close()


def _tried(isolation: Isolation, label: str, factory: Any) -> None:
    """Makes one. Raises PluginError where that fails, for no check could say more."""
    if not callable(factory):
        raise PluginError(
            f"{label}: {factory!r} cannot be called",
            hint="register a class, or a function, that takes the settings and returns an implementation",
        )
    try:
        isolation.call(label, factory, {}, seconds=SECONDS)
    except FAILURES as error:
        raise PluginError(
            f"{label} cannot be made: {type(error).__name__}: {error}",
            hint="its factory is called with the settings, an empty mapping where the app has none",
        ) from error


def _all_marked(name: str, manager: PluginManager) -> None:
    """Raises PluginError for a function that is called as a hook is, and would never be called."""
    plugin: Any = manager.get_plugin(name)
    for hook in vars(manager.hook):
        if hook.startswith("edgerec_") and hasattr(plugin, hook) and manager.parse_hookimpl_opts(plugin, hook) is None:
            raise PluginError(f"{name}: {hook} is not marked, and never called", hint="write @hookimpl above it")


def _table(results: list[dict[str, Any]]) -> str:
    """A block per implementation: how many checks it passed, and a line for each; of a reason that many give, one."""
    lines: list[str] = []
    for kind, name in dict.fromkeys((one["kind"], one["name"]) for one in results):
        mine = [one for one in results if (one["kind"], one["name"]) == (kind, name)]
        lines.append(f"{kind} {name}: {sum(one['ok'] for one in mine)} of {len(mine)} checks passed")
        lines += [f"  {line}".rstrip() for line in _told(mine)]
    return "\n".join(lines)


def _told(results: list[dict[str, Any]]) -> Iterator[str]:
    width = max(len(one["check"]) for one in results)
    times = Counter(one["reason"] for one in results if not one["ok"])
    said: Counter[str] = Counter()
    for one in results:
        reason = one["reason"]
        said[reason] += 1
        if one["ok"] or times[reason] <= FEW or said[reason] == 1:
            yield f"{'ok' if one['ok'] else 'FAIL':<4}  {one['check']:<{width}}  {reason}"
    for reason, count in times.items():
        if count > FEW:
            yield f"FAIL  {count - 1} more checks, for the same reason: {reason}"
