"""`edgerec gateway flower-app` and `edgerec gateway flower`: rounds on Flower from a shell."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from edgerec.errors import ConfigError, MissingDistribution
from edgerec_exporters.flower import QUIET

APP = Path(__file__).parent / "app"
PROGRAMS = {"superlink": "flower-superlink", "supernode": "flower-supernode", "flwr": "flwr"}
NO_INSTALLING = {"superlink": ("--disable-runtime-dependency-installation",)}
"""SuperLink would otherwise run `uv sync` against a package registry whenever a run starts."""


@click.command("flower-app")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="A folder to be made.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def flower_app(out: Path, as_json: bool) -> None:
    """Writes the Flower app of edgerec's rounds, for `flwr run`; see docs/flower.md."""
    written = write_app(out)
    told = f"a Flower app in {out}\n  edgerec gateway flower flwr run {out} SUPERLINK --stream"
    click.echo(json.dumps({"app": str(out), "files": written}) if as_json else told)


@click.command("flower", context_settings={"ignore_unknown_options": True})
@click.argument("program", type=click.Choice(list(PROGRAMS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def flower(program: str, arguments: tuple[str, ...]) -> None:
    """Runs a program of Flower with telemetry, update checks and installing at run time switched off."""
    command, environment = quiet_command(program, arguments)
    sys.stdout.flush()
    os.execve(command[0], command, environment)  # the program takes this process's place, signals and exit code


def write_app(out: Path) -> list[str]:
    """Copies the app's files into a new folder; their names. Raises ConfigError where there is something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"there is something at {out}", hint="name a folder that is not there")
    names = [path.relative_to(APP) for path in sorted(APP.rglob("*")) if path.suffix in (".py", ".toml")]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes((APP / name).read_bytes())
    return [name.as_posix() for name in names]


def quiet_command(
    program: str, arguments: tuple[str, ...], environment: Mapping[str, str] = os.environ
) -> tuple[list[str], dict[str, str]]:
    """The command line of one of Flower's programs, and its environment. Raises MissingDistribution."""
    beside = Path(sys.executable).parent
    path = beside / PROGRAMS[program]
    if find_spec("flwr") is None or not path.is_file():
        raise MissingDistribution(
            "Flower is not installed beside edgerec", hint="pip install 'edgerec-exporters[flower]'"
        )
    # Flower's programs start each other by name
    search = os.pathsep.join((str(beside), environment.get("PATH", os.defpath)))
    return [str(path), *NO_INSTALLING.get(program, ()), *arguments], {**environment, **QUIET, "PATH": search}
