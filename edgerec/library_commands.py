"""Commands that look into bundles, the catalogue and the plugins of this environment."""

from __future__ import annotations

import json
from pathlib import Path

import click

import edgerec
from edgerec import console
from edgerec.options import device_options, json_option, kept, show
from edgerec.plugin_commands import check_command, new_command


@click.group("bundle")
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
    show(manifest, as_json, console.manifest(manifest))


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
    show(result, as_json, f"{path}: {manifest.name} version {manifest.version} is sound")


@click.group("catalogue")
def catalogue_group() -> None:
    """The items on the device."""


@catalogue_group.command("update")
@device_options
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
    with edgerec.open(bundle, kept(state), config=config) as rec:
        done = rec.update_catalogue(items, remove=remove)
    told = f"{done.added} new, {done.changed} changed, {done.removed} removed; {done.overlay} beside the bundle's own"
    show(done, as_json, told)


@click.group("plugins")
def plugins_group() -> None:
    """Plugins of this environment."""


@plugins_group.command("list")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="A user's data directory: tells what failed there when it was last open, too.",
)
@json_option
def plugins_list(state: Path | None, as_json: bool) -> None:
    """Which plugins are installed, what they register, which are broken, and which failed."""
    from edgerec.plugins import Plugins
    from edgerec.statistics import failures_in

    found = Plugins().summary()
    if state is not None:
        found["failures"] = failures_in(state)
    show(found, as_json, console.plugins(found))


plugins_group.add_command(new_command)
plugins_group.add_command(check_command)

COMMANDS = (bundle_group, catalogue_group, plugins_group)
