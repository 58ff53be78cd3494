"""`edgerec bench`: speed and size against peers that do the same work, as ratios in one run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgerec.errors import RequestError

if TYPE_CHECKING:
    pass

WIDTH = 150
"""Of the table where there is no terminal."""

_FAMILIES = ("topk", "serving", "isolation", "recording", "sgd", "startup", "memory", "rounds")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(_FAMILIES), help="Only this family; may be repeated.")
@click.option("--large", is_flag=True, help="Also the top-10 of a million items.")
@click.option("--quick", is_flag=True, help="Tiny sizes and few rounds: whether it runs, not how fast.")
@click.option("--out", type=click.Path(path_type=Path), help="Writes the JSON document to this file as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench(only: tuple[str, ...], large: bool, quick: bool, out: Path | None, as_json: bool) -> None:
    """Measure speed and size against peers on synthetic catalogues.

    Every figure of edgerec stands beside a peer's that was taken in turns with it, with one thread; read the
    ratios, not the times. `over` marks a target that was missed.
    """
    from edgerec_tools.bench.report import measure, table
    from edgerec_tools.progress import bars

    if large and quick:
        raise RequestError("--large and --quick exclude each other")
    if out is not None and not out.absolute().parent.is_dir():
        raise RequestError(f"there is no folder {out.absolute().parent}", hint=f"{out.name} was to be written there")
    with bars() as progress:
        result = measure(only or _FAMILIES, "large" if large else "quick" if quick else "full", progress)
    document = json.dumps(result, ensure_ascii=False, indent=1)
    if out is not None:
        _write(out, document)
    if as_json:
        click.echo(document)
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDTH).print(table(result))


def _write(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{text}\n", "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
