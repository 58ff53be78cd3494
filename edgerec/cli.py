"""The `edgerec` command. Other distributions attach theirs by the entry-point group `edgerec.commands`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click

import edgerec
from edgerec.errors import EdgeRecError, InvalidEvent, MissingDistribution, RequestError

GROUP = "edgerec.commands"
DISTRIBUTIONS = {
    "train": "edgerec-exporters",
    "export": "edgerec-exporters",
    "data": "edgerec-tools",
    "simulate": "edgerec-tools",
    "demo": "edgerec-tools",
    "bench": "edgerec-tools",
}
"""Commands of edgerec's own distributions, so that a missing one can be named."""

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """Core commands and, resolved only when invoked, those of other distributions. Errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        attached = {point.name for point in entry_points(group=GROUP)}
        return sorted({*super().list_commands(ctx), *attached, *DISTRIBUTIONS})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        core = super().get_command(ctx, name)
        if core is not None:
            return core
        for point in entry_points(group=GROUP):
            if point.name == name:
                return _attached(name, point.load)
        return _missing(name) if name in DISTRIBUTIONS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Help must not import every distribution: attached commands are listed with where they come from.
        rows = []
        for name in self.list_commands(ctx):
            core = super().get_command(ctx, name)
            rows.append((name, core.get_short_help_str(80) if core else f"[{DISTRIBUTIONS.get(name, 'plugin')}]"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeRecError as error:
            click.echo(f"edgerec: {error.args[0]}", err=True)
            if error.hint:
                click.echo(f"  hint: {error.hint}", err=True)
            ctx.exit(error.exit_code)


def _attached(name: str, load: Callable[[], click.Command]) -> click.Command:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0].replace("_", "-")
        return _failing(name, MissingDistribution(f"`edgerec {name}` needs {missing}", hint=f"pip install {missing}"))


def _missing(name: str) -> click.Command:
    home = DISTRIBUTIONS[name]
    return _failing(name, MissingDistribution(f"`edgerec {name}` is not installed", hint=f"pip install {home}"))


def _failing(name: str, error: EdgeRecError) -> click.Command:
    @click.command(name, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("anything", nargs=-1, type=click.UNPROCESSED)
    def command(anything: tuple[str, ...]) -> None:
        raise error

    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgerec.__version__, prog_name="edgerec")
def main() -> None:
    """Recommendations inside your app, offline, learning on the device."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _show(result: Any, as_json: bool, text: str) -> None:
    click.echo(json.dumps(_plain(result), ensure_ascii=False, indent=1) if as_json else text)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _device_options(command: F) -> F:
    """--bundle, --state, --config, --json: what every command of the runtime takes."""
    options = (
        click.option("--bundle", required=True, type=click.Path(path_type=Path), help="The app's bundle."),
        click.option(
            "--state", type=click.Path(path_type=Path), help="The user's data directory; temporary if absent."
        ),
        click.option("--config", type=click.Path(path_type=Path), help="Settings, a TOML file."),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _page_text(page: edgerec.Page) -> str:
    lines = [f"{r.rank:3d}  {r.score:8.3f}  {r.item}  {r.title}" for r in page]
    return "\n".join([*lines, *([f"({page.reason})"] if page.reason else [])])


def _pairs(pairs: tuple[str, ...], what: str) -> dict[str, Any]:
    """`name=value` arguments; a value that reads as JSON is taken as such, else as text."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"{what} {pair!r}", hint="write name=value")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


@main.command()
@_device_options
@click.option("-n", default=10, show_default=True, help="How many.")
@click.option("--scenario", default="default", show_default=True)
@click.option("--exclude", multiple=True, metavar="ITEM")
@click.option("--only", multiple=True, metavar="ITEM")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="price_max=5, colour=red …")
@click.option("--seen", type=click.Choice(["hide", "show"]))
def recommend(
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    n: int,
    scenario: str,
    exclude: tuple[str, ...],
    only: tuple[str, ...],
    where: tuple[str, ...],
    seen: str | None,
) -> None:
    """The best items for the user now."""
    with edgerec.open(bundle, state, config=config) as rec:
        conditions = _pairs(where, "--where")
        page = rec.recommend(n, scenario=scenario, exclude=exclude, only=only or None, where=conditions, seen=seen)
    _show(page, as_json, _page_text(page))


@main.command()
@_device_options
@click.argument("item")
@click.option("-n", default=10, show_default=True, help="How many.")
def similar(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, n: int) -> None:
    """Items that go with ITEM."""
    with edgerec.open(bundle, state, config=config) as rec:
        page = rec.similar(item, n)
    _show(page, as_json, _page_text(page))


@main.command()
@_device_options
@click.argument("item")
@click.option("--kind", default="click", show_default=True)
@click.option("--value", type=float)
@click.option("--at", help="POSIX seconds or an ISO time with its zone; now if absent.")
@click.option("--group")
@click.option("--page", "page_id", help="Id of the page that led to it.")
@click.option("--event-id")
def record(
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    item: str,
    kind: str,
    value: float | None,
    at: str | None,
    group: str | None,
    page_id: str | None,
    event_id: str | None,
) -> None:
    """Stores what the user did with ITEM, and learns from it."""
    when = None if at is None else _time(at)
    with edgerec.open(bundle, state, config=config) as rec:
        receipt = rec.record(
            item, kind, value=value, at=when, group=group, recommendation_id=page_id, event_id=event_id
        )
    flags = f" ({', '.join(receipt.flags)})" if receipt.flags else ""
    rank = f", was at place {receipt.rank}" if receipt.rank else ""
    _show(receipt, as_json, f"{receipt.status}{rank}{flags}  {receipt.event_id}")


def _time(text: str) -> Any:
    from datetime import datetime

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent(f"--at {text!r} is no time", hint="POSIX seconds, or 2026-01-31T12:00:00+00:00") from None


@main.command()
@_device_options
@click.argument("item")
@click.option("--scenario", default="default", show_default=True)
def explain(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, scenario: str) -> None:
    """Why ITEM stands where it stands."""
    with edgerec.open(bundle, state, config=config) as rec:
        why = rec.explain(item, scenario=scenario)
    place = f"not served: {why.filtered}" if why.filtered else f"place {why.rank}"
    lines = [f"{why.item}  {why.title}", f"{place}, score {why.score:.3f} ="]
    lines += [f"  {value:+8.3f}  {name} (weight {why.weights[name]:.3f})" for name, value in why.parts.items()]
    lines += (
        ["moved most by:", *(f"  {e.effect:+8.3f}  {e.kind} of {e.item}" for e in why.events)] if why.events else []
    )
    _show(why, as_json, "\n".join(lines))


@main.command()
@_device_options
def stats(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """Counts, versions, plugins, and how every ranking did so far."""
    with edgerec.open(bundle, state, config=config) as rec:
        found = rec.stats()
    _show(found, as_json, json.dumps(_plain(found), indent=1, ensure_ascii=False))


@main.command()
@_device_options
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also if it is older, was rolled back, or does worse.")
def install(bundle: Path, state: Path | None, config: Path | None, as_json: bool, new: Path, force: bool) -> None:
    """Tries the bundle NEW on this user's events and switches to it."""
    with edgerec.open(bundle, _kept(state), config=config) as rec:
        done = rec.install(new, force=force)
    compared = (
        f"NDCG@10 {done.trial.difference:+.4f} over {done.trial.n} steps" if done.trial.difference else "no trial"
    )
    _show(done, as_json, f"version {done.bundle.version} runs ({compared}, {done.relearned} events learned from)")


@main.command()
@_device_options
def rollback(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """Goes back to the bundle before."""
    with edgerec.open(bundle, _kept(state), config=config) as rec:
        info = rec.rollback()
    _show(info, as_json, f"version {info.version} runs again")


def _kept(state: Path | None) -> Path:
    if state is None:
        raise RequestError("--state is missing", hint="name the user's data directory")
    return state


@main.group("bundle")
def bundle_group() -> None:
    """Looks into bundles."""


@bundle_group.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def info(path: Path, as_json: bool) -> None:
    """What a bundle says of itself."""
    from edgerec.bundle import verify
    from edgerec.bundle.manifest import dump

    manifest = json.loads(dump(verify(path)))
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in manifest.items() if key != "files"]
    lines += [f"  {entry['size']:>10,} bytes  {name}" for name, entry in manifest["files"].items()]
    _show(manifest, as_json, "\n".join(lines))


@bundle_group.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify_command(path: Path, as_json: bool) -> None:
    """Checks digests, schema, arrays and models, and repeats the golden cases."""
    import tempfile

    from edgerec.lifecycle import check_host
    from edgerec.plugins import Plugins

    with tempfile.TemporaryDirectory(prefix="edgerec-") as cache, edgerec.load_bundle(path, Path(cache)) as bundle:
        check_host(bundle, Plugins())
        manifest = bundle.manifest
    result = {"valid": True, "name": manifest.name, "version": manifest.version}
    _show(result, as_json, f"{path}: {manifest.name} version {manifest.version} is sound")


@main.group("plugins")
def plugins_group() -> None:
    """Plugins of this environment."""


@plugins_group.command("list")
@json_option
def plugins_list(as_json: bool) -> None:
    """Which plugins are installed, what they register, and which are broken."""
    from edgerec.plugins import Plugins

    found = Plugins().summary()
    lines = [f"{name}: {', '.join(what) or '-'}" for name, what in found["loaded"].items()]
    lines += [f"{name}: BROKEN, {why}" for name, why in found["broken"].items()]
    _show(found, as_json, "\n".join(lines) or "no plugins")
