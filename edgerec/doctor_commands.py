"""`edgerec doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from edgerec.errors import RequestError
from edgerec.options import config_option, json_option, kept, show


@click.command()
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="The user's data directory.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The app's bundle: verified too, and needed to repair.")
@click.option("--repair", is_flag=True, help="Set a damaged store aside, recover what it holds, finish erasures.")
@config_option
@json_option
@click.pass_context
def doctor(
    context: click.Context, state: Path | None, bundle: Path | None, repair: bool, config: Path | None, as_json: bool
) -> None:
    """Looks the installation and a user's data over. Exits with 0 where all is sound, warnings or not."""
    from edgerec import doctor as room

    done: list[str] = []
    if repair:
        if bundle is None:
            raise RequestError("--bundle is missing", hint="what is recovered is learned from, which needs the bundle")
        done = room.repair(kept(state), bundle, config)
    found = room.examine(state, bundle)
    lines = [f"{one.status:8} {one.name:12} {one.message}" + (f"  ({one.hint})" if one.hint else "") for one in found]
    show({"findings": found, "repaired": done}, as_json, "\n".join([*(f"repaired {one}" for one in done), *lines]))
    context.exit(next((one.exit_code for one in found if one.status == room.FAILURE), 0))
