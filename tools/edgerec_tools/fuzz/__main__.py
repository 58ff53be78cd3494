"""The command: `python -m edgerec_tools.fuzz`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from edgerec.errors import DataError, MissingDistribution
from edgerec_tools.fuzz.ledger import Ledger
from edgerec_tools.fuzz.session import CURRENT, SIZE
from edgerec_tools.fuzz.targets import TARGETS
from edgerec_tools.progress import Progress, bars

DEFAULT_SECONDS = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--target", "targets", multiple=True, type=click.Choice(sorted(TARGETS)), help="Only this; repeatable.")
@click.option("--executions", type=click.IntRange(1), help="Of each target, in this run.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="For each target; 10 if nothing is given.")
@click.option("--seed", default=0, show_default=True, help="Of a target's first run; the next ones count on from it.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "atheris", "mutation"]),
    default="auto",
    show_default=True,
    help="atheris is led by coverage; mutation needs nothing and draws the same inputs everywhere.",
)
@click.option(
    "--resume", type=click.Path(path_type=Path), help="A folder of counts, findings and corpus to go on from."
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=Path("tests/corpus"),
    show_default=True,
    help="First inputs, a folder per target.",
)
@click.option("--list", "list_targets", is_flag=True, help="Says what targets there are, and ends.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def fuzz(
    targets: tuple[str, ...],
    executions: int | None,
    seconds: float | None,
    seed: int,
    engine: str,
    resume: Path | None,
    corpus: Path,
    list_targets: bool,
    as_json: bool,
) -> None:
    """Feed readers of edgerec inputs that nobody would send in good faith.

    Each target runs in a process of its own until it has had its executions or seconds. With --resume a run goes on
    where the last one stopped, killed or not. Ends with 1 where there are findings, and says where the inputs lie.
    """
    if list_targets:
        click.echo("\n".join(f"{name:10} {TARGETS[name].about}" for name in TARGETS))
        return
    engine = _engine(engine)
    seconds = DEFAULT_SECONDS if executions is None and seconds is None else seconds
    chosen = targets or tuple(TARGETS)
    with bars() as progress:
        ledger = Ledger(resume or Path(tempfile.mkdtemp(prefix="edgerec-fuzz-")))
        for name in chosen:
            order = {"target": name, "engine": engine, "executions": executions, "seconds": seconds}
            _run(ledger, order, seed, corpus, progress)
    entries = {name: ledger.targets[name] for name in chosen}
    click.echo(json.dumps({"folder": str(ledger.folder), "targets": entries}) if as_json else _table(entries))
    if any(entry["findings"] for entry in entries.values()):
        click.echo(f"findings lie in {ledger.folder}", err=True)
        sys.exit(1)


def _engine(wanted: str) -> str:
    has = find_spec("atheris") is not None
    if wanted == "atheris" and not has:
        raise MissingDistribution("the engine atheris is not installed", hint="pip install edgerec-tools[fuzz]")
    return ("atheris" if has else "mutation") if wanted == "auto" else wanted


def _run(ledger: Ledger, order: dict[str, Any], seed: int, corpus: Path, progress: Progress) -> None:
    """One target's run, its worker's reports as they come."""
    name = order["target"]
    first = corpus / name
    if not first.is_dir():
        raise DataError(f"there are no first inputs in {first}", hint="name the folder with --corpus")
    order["seed"] = ledger.begin(name, order["engine"], seed)
    order["corpus"] = [str(ledger.home(name, "corpus")), str(first)]
    order["findings"] = str(ledger.home(name, "findings"))
    total = order["executions"] or round(order["seconds"])
    for report in _reports(order, ledger.folder / name / "worker.log"):
        ledger.add(name, report)
        done = report["executions"] if order["executions"] else report["seconds"]
        progress(name, min(round(done), total), total)


def _reports(order: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """The worker's reports; its death, where it does not end well, is one more finding."""
    last: dict[str, Any] = {"executions": 0, "seconds": 0.0}
    command = [sys.executable, "-m", "edgerec_tools.fuzz.worker", json.dumps(order)]
    with log.open("ab") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as worker:
        for line in worker.stdout or ():
            last = json.loads(line)
            yield last
    current = Path(order["findings"]) / CURRENT
    if worker.returncode:
        key = f"died-{order['seed']}"
        message = f"exit {worker.returncode}; {log.name} has its last words"
        dead = {"key": key, "kind": "died", "place": order["target"], "message": message}
        kept = current.read_bytes() if current.exists() else SIZE.pack(0)
        current.with_name(key).write_bytes(kept[SIZE.size :][: SIZE.unpack_from(kept)[0]])
        yield {**last, "findings": [{**dead, "file": str(current.with_name(key))}]}
    current.unlink(missing_ok=True)


def _table(entries: dict[str, Any]) -> str:
    lines = [f"{'target':10} {'executions':>12} {'seconds':>9} {'findings':>8}"]
    for name, entry in entries.items():
        lines.append(f"{name:10} {entry['executions']:12,} {entry['seconds']:9.0f} {len(entry['findings']):8}")
        lines += [f"  {one['kind']} at {one['place']}: {one['message']}  {one['file']}" for one in entry["findings"]]
    return "\n".join(lines)


if __name__ == "__main__":
    fuzz(prog_name="python -m edgerec_tools.fuzz")
