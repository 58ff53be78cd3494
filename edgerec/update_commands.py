"""The command that asks a channel for a newer bundle."""

from __future__ import annotations

from pathlib import Path

import click

import edgerec
from edgerec.errors import BundleRefused
from edgerec.options import device_options, kept, show


@click.command()
@device_options
@click.option("--channel", help="A URL or a folder.  [default: channel.url of --config]")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="The root metadata to trust, a file.  [default: channel.root of --config, or that of an earlier update]",
)
@click.option("--force", is_flag=True, help="The channel's newest even if it is older, was rolled back, or does worse.")
@click.pass_context
def update(
    ctx: click.Context,
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    channel: str | None,
    root: Path | None,
    force: bool,
) -> None:
    """Asks a channel for a newer bundle, tries it on this user's events and switches to it."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        done = rec.update(channel, root=root, force=force)
    show(done, as_json, f"{done.status.replace('_', ' ')}: {done.reason}")
    if done.status == "refused":
        ctx.exit(BundleRefused.exit_code)


COMMANDS = (update,)
