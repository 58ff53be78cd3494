"""The `edgerec` command. Other distributions attach theirs by the entry-point group `edgerec.commands`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click

import edgerec
from edgerec import console
from edgerec.errors import EdgeRecError, InvalidEvent, MissingDistribution, RequestError

GROUP = "edgerec.commands"
ATTACHED = {
    "train": ("edgerec-exporters", "Trains a model on a data set."),
    "content": ("edgerec-exporters", "Makes content vectors of items."),
    "export": ("edgerec-exporters", "Writes a trained model as a bundle."),
    "data": ("edgerec-tools", "Data sets: list, fetch, import your own."),
    "simulate": ("edgerec-tools", "Replays real users as devices and compares."),
    "evaluate": ("edgerec-tools", "Ranks for real users: models against baselines."),
    "demo": ("edgerec-tools", "All of it on built-in data, with a report."),
    "bench": ("edgerec-tools", "Measures speed and size against peers."),
}
"""Commands of edgerec's own distributions: which one, so that a missing one can be named, and what they do."""

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """Core commands and, resolved only when invoked, those of other distributions. Errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        attached = {point.name for point in entry_points(group=GROUP)}
        return sorted({*super().list_commands(ctx), *attached, *ATTACHED})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        core = super().get_command(ctx, name)
        if core is not None:
            return core
        for point in entry_points(group=GROUP):
            if point.name == name:
                return _attached(name, point.load)
        return _missing(name) if name in ATTACHED else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Help must not import every distribution: what attached commands do is said by ATTACHED.
        attached = {point.name: point.dist.name if point.dist else "?" for point in entry_points(group=GROUP)}
        rows = []
        for name in self.list_commands(ctx):
            core = super().get_command(ctx, name)
            home, does = ATTACHED.get(name, (f"from {attached.get(name)}", ""))
            absent = "" if name in attached else f"[not installed: pip install {home}]"
            rows.append((name, core.get_short_help_str(80) if core else f"{does} {absent}".strip() or f"[{home}]"))
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
    home, _ = ATTACHED[name]
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


def _show(result: Any, as_json: bool, text: str) -> None:
    click.echo(json.dumps(console.plain(result), ensure_ascii=False, indent=1) if as_json else text)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
scenario_option = click.option(
    "--scenario", default="default", show_default=True, help="One of the bundle's; see `edgerec bundle info`."
)


def _device_options(command: F) -> F:
    """--bundle, --state, --config, --json: what every command of the runtime takes."""
    options = (
        click.option("--bundle", required=True, type=click.Path(path_type=Path), help="The app's bundle."),
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False),
            help="The user's data directory, made if absent; without it, a new user's.",
        ),
        click.option("--config", type=click.Path(path_type=Path), help="Settings, a TOML file."),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


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
@scenario_option
@click.option("--exclude", multiple=True, metavar="ITEM", help="Not this one. May be repeated.")
@click.option("--only", multiple=True, metavar="ITEM", help="Of these alone. May be repeated.")
@click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE",
    help="By an attribute of the catalogue: price_max=5, price_min=2, colour=red. May be repeated.",
)
@click.option(
    "--seen", type=click.Choice(["hide", "show"]), help="What the user has had.  [default: as the scenario says]"
)
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
    _show(page, as_json, console.page(page))


@main.command()
@_device_options
@click.argument("item")
@click.option("-n", default=10, show_default=True, help="How many.")
def similar(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, n: int) -> None:
    """Items that go with ITEM."""
    with edgerec.open(bundle, state, config=config) as rec:
        page = rec.similar(item, n)
    _show(page, as_json, console.page(page))


@main.command()
@_device_options
@click.argument("item")
@click.option("--kind", default="click", show_default=True, help="One of the bundle's; see `edgerec bundle info`.")
@click.option("--value", type=float, help="A rating, a quantity …")
@click.option("--at", help="POSIX seconds or an ISO time with its zone; now if absent.")
@click.option("--group", help="The basket or session it belongs to.")
@click.option("--page", "page_id", help="Id of the page that led to it; `recommend --json` tells.")
@click.option("--event-id", help="Says the same event again without storing it twice.  [default: a new one]")
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
    with edgerec.open(bundle, _kept(state), config=config) as rec:
        receipt = rec.record(
            item, kind, value=value, at=when, group=group, recommendation_id=page_id, event_id=event_id
        )
    _show(receipt, as_json, console.receipt(receipt))


def _time(text: str) -> Any:
    from datetime import datetime

    try:
        return float(text)
    except ValueError:
        pass
    hint = "POSIX seconds, or 2026-01-31T12:00:00+00:00"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent(f"--at {text!r} is no time", hint=hint) from None
    if time.tzinfo is None:
        raise InvalidEvent(f"--at {text!r} names no zone", hint=hint)
    return time


@main.command()
@_device_options
@click.argument("item")
@scenario_option
def explain(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, scenario: str) -> None:
    """Why ITEM stands where it stands."""
    with edgerec.open(bundle, state, config=config) as rec:
        why = rec.explain(item, scenario=scenario)
    _show(why, as_json, console.explanation(why))


@main.command()
@_device_options
def stats(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """Counts, versions, plugins, and how every ranking did so far."""
    with edgerec.open(bundle, state, config=config) as rec:
        found = rec.stats()
    _show(found, as_json, console.statistics(found))


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
    if state is None:  # what is done would be gone at once
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
    _show(manifest, as_json, console.manifest(manifest))


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


@main.group("catalogue")
def catalogue_group() -> None:
    """The items on the device."""


@catalogue_group.command("update")
@_device_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--content", type=click.Path(path_type=Path), help="Content vectors of new items, an .npz file.")
@click.option("--remove", multiple=True, metavar="ITEM", help="Take this one, told of before, out again.")
def catalogue_update(
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    file: Path,
    content: Path | None,
    remove: tuple[str, ...],
) -> None:
    """Takes the new and changed items in FILE, JSON lines of item, title and attributes, without a new bundle."""
    from edgerec.catalogue_update import read_items

    items = read_items(file, content)
    with edgerec.open(bundle, _kept(state), config=config) as rec:
        done = rec.update_catalogue(items, remove=remove)
    told = f"{done.added} new, {done.changed} changed, {done.removed} removed; {done.overlay} beside the bundle's own"
    _show(done, as_json, told)


@main.group("plugins")
def plugins_group() -> None:
    """Plugins of this environment."""


@plugins_group.command("list")
@json_option
def plugins_list(as_json: bool) -> None:
    """Which plugins are installed, what they register, and which are broken."""
    from edgerec.plugins import Plugins

    found = Plugins().summary()
    _show(found, as_json, console.plugins(found))
