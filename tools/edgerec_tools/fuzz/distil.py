"""A small corpus out of a large one: `python -m edgerec_tools.fuzz.distil`.

Inputs are taken from the shortest on; one is kept if it takes a step from line to line that none before it took. Inputs
of the corpus that somebody gave a name are kept in any case: something was found by them once.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from edgerec_tools.fuzz.target import Run, Target, execute
from edgerec_tools.fuzz.targets import TARGETS

_WATCHED = ("/edgerec/", "/zipfile", "/tomllib/")
_NAMELESS = re.compile("[0-9a-f]{12}")
Steps = set[tuple[int, int, int]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--target", "targets", multiple=True, type=click.Choice(sorted(TARGETS)), help="Only this; repeatable.")
@click.option("--resume", required=True, type=click.Path(path_type=Path), help="The folder of a fuzzing run.")
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("tests/corpus"), show_default=True)
@click.option("--bytes", "budget", default=24_000, show_default=True, help="Most that a target's corpus may take.")
def distil(targets: tuple[str, ...], resume: Path, corpus: Path, budget: int) -> None:
    """Replace each target's corpus by the few inputs, of its own and of a run's, that reach the most."""
    for name in targets or tuple(TARGETS):
        home = corpus / name
        home.mkdir(parents=True, exist_ok=True)
        folders = [folder for folder in (home, resume / name / "corpus") if folder.is_dir()]
        found = {path.read_bytes() for folder in folders for path in folder.iterdir()}
        kept = chosen(TARGETS[name], sorted(found, key=lambda data: (len(data), data)), budget)
        for path in home.iterdir():
            if _NAMELESS.fullmatch(path.name):
                path.unlink()
        for data in kept:
            (home / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
        click.echo(f"{name:10} {len(found):6} → {len(kept):4} inputs, {sum(map(len, kept))} bytes")


def chosen(target: Target, inputs: Iterable[bytes], budget: int) -> list[bytes]:
    """Those that reach something new, as long as there is room."""
    reached: Steps = set()
    kept: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        run = target.make(Path(folder))
        for data in inputs:
            steps = _steps(target, run, data)
            if steps <= reached or len(data) > budget:
                continue
            budget -= len(data)
            reached |= steps
            kept.append(data)
    return kept


def _steps(target: Target, run: Run, data: bytes) -> Steps:
    steps: Steps = set()

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in _WATCHED):
            return None
        code, last = hash(frame.f_code), 0

        def line(inner: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            steps.add((code, last, inner.f_lineno))
            last = inner.f_lineno
            return line

        return line

    sys.settrace(watch)
    try:
        execute(target, run, data)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    distil()
