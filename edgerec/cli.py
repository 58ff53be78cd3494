"""The `edgerec` command. Other distributions attach theirs by the entry-point group `edgerec.commands`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import click

import edgerec
from edgerec import library_commands, runtime_commands, sync_commands, update_commands
from edgerec.errors import EdgeRecError, MissingDistribution

GROUP = "edgerec.commands"
ATTACHED = {
    "train": ("edgerec-exporters", "Trains a model on a data set."),
    "content": ("edgerec-exporters", "Makes content vectors of items."),
    "export": ("edgerec-exporters", "Writes a trained model as a bundle."),
    "channel": ("edgerec-exporters", "Publishes bundles to devices."),
    "round": ("edgerec-exporters", "Makes the next bundle of what devices sent."),
    "gateway": ("edgerec-exporters", "Takes in deltas of devices, for rounds."),
    "data": ("edgerec-tools", "Data sets: list, fetch, import your own."),
    "simulate": ("edgerec-tools", "Replays real users as devices and compares."),
    "evaluate": ("edgerec-tools", "Ranks for real users: models against baselines."),
    "demo": ("edgerec-tools", "All of it on built-in data, with a report."),
    "bench": ("edgerec-tools", "Measures speed and size against peers."),
}
"""Commands of edgerec's own distributions: which one, so that a missing one can be named, and what they do."""


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


for _command in (
    *runtime_commands.COMMANDS,
    *library_commands.COMMANDS,
    *update_commands.COMMANDS,
    *sync_commands.COMMANDS,
):
    main.add_command(_command)
