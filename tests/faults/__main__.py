"""Kills under the shim, from a process that may fork: python -m faults kills NAME, python -m faults lives."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np  # noqa: F401 - loaded once, before the children are forked
import onnxruntime  # noqa: F401

import edgerec.recording  # noqa: F401
from faults.catalogue import OPERATIONS
from faults.failing import Failures, WholeFails
from faults.kills import Killer, Outcome, some
from faults.lives import live
from faults.operations import Whole
from faults.world import World

SHARED = Path("/dev/shm")
"""A folder in memory: death by SIGKILL does not ask what has reached the disk."""

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=SHARED if os.access(SHARED, os.W_OK) else None,
    help="Where the data directory is made.",
)


@click.group()
def main() -> None:
    """Prints what came of the kills as one line of JSON."""


@main.command()
@click.argument("name", type=click.Choice([*OPERATIONS]))
@click.option("--most", type=int, help="So many kills at most; all there are by default.")
@click.option("--seed", type=int, default=0)
@folder_option
def kills(name: str, most: int | None, seed: int, folder: Path | None) -> None:
    """Kills one operation at its write boundaries."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        killer = Killer(OPERATIONS[name], World(Path(place)))
        points = killer.points()
        outcome = killer.kill_all(points if most is None else some(points, most, seed))
    click.echo(json.dumps(asdict(outcome)))


@main.command()
@click.option("--seed", type=int, default=0, help="The first one.")
@click.option("--count", type=int, default=1, help="So many seeds, one after the other.")
@click.option("--length", type=int, default=8, help="Lives per seed.")
@folder_option
def lives(seed: int, count: int, length: int, folder: Path | None) -> None:
    """Kills sequences of operations at random boundaries, over many lives of one folder."""
    outcome = Outcome("random sequences")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        world = World(Path(place))
        for each in range(seed, seed + count):
            live(world, each, length, outcome)
    click.echo(json.dumps(asdict(outcome)))


@main.command()
@click.argument("name", type=click.Choice([*OPERATIONS]))
@click.option("--every", type=click.IntRange(min=1), default=1, help="Only each so-manieth.")
@click.option("--seed", type=int, default=0)
@click.option("--ending", default="", help="Only calls on paths that end so.")
@folder_option
def fails(name: str, every: int, seed: int, ending: str, folder: Path | None) -> None:
    """Lets the calls of one operation fail instead."""
    operation = OPERATIONS[name]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        failures = (WholeFails if isinstance(operation, Whole) else Failures)(operation, World(Path(place)))
        outcome = failures.all(every, seed, ending)
    click.echo(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
