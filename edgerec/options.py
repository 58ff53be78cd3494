"""What the commands share: options that every one takes, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgerec import console
from edgerec.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])


def show(result: Any, as_json: bool, text: str) -> None:
    click.echo(json.dumps(console.plain(result), ensure_ascii=False, indent=1) if as_json else text)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings, a TOML file.")
scenario_option = click.option(
    "--scenario",
    default="default",
    show_default=True,
    help="One of the bundle's (see `edgerec bundle info`), or of --config.",
)


def device_options(command: F) -> F:
    """--bundle, --state, --config, --json: what every command of the runtime takes."""
    options = (
        click.option("--bundle", required=True, type=click.Path(path_type=Path), help="The app's bundle."),
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False),
            help="The user's data directory, made if absent; without it, a new user's.",
        ),
        config_option,
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def kept(state: Path | None) -> Path:
    if state is None:  # what is done would be gone at once
        raise RequestError("--state is missing", hint="name the user's data directory")
    return state
