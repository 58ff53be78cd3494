"""`edgerec demo`: the whole circle on the built-in data, from nothing to a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import MissingDistribution, RequestError
from edgerec_tools.output import json_text

if TYPE_CHECKING:
    from edgerec_tools.datasets import Dataset
    from edgerec_tools.progress import Progress


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder for the files.")
@click.option("--devices", type=click.IntRange(min=1), help="Replays a random sample of so many users.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(out: Path, devices: int | None, workers: int | None, as_json: bool) -> None:
    """Train, evaluate, export, install on simulated devices, replay, personalise, report.

    On Online Retail: a model is trained on the purchases before 2011-09-01 and exported as a bundle; every later
    customer is a device that runs it, and learns from its own purchases alone.
    """
    from edgerec_tools.comparison import TEST_FROM
    from edgerec_tools.datasets import load, retail_text_path
    from edgerec_tools.progress import bars

    _check_exporters()
    started = time.perf_counter()
    dataset = load("retail")
    with bars() as progress:
        result = run(
            dataset,
            TEST_FROM["retail"],
            out,
            devices=devices,
            workers=workers,
            progress=progress,
            content=retail_text_path(),
        )
    if as_json:
        click.echo(json_text(result))
        return
    from edgerec_tools.simulate_commands import show

    show(result["simulate"], as_json=False)
    click.echo(f"bundle: {result['bundle']}\nreport: {result['report']}")
    click.echo(f"{time.perf_counter() - started:.0f} seconds in all", err=True)


def _check_exporters() -> None:
    try:
        import edgerec_exporters.train  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDistribution(
            f"`edgerec demo` trains and exports a model, and there is no {error.name}",
            hint="pip install edgerec-exporters",
        ) from None


def run(
    dataset: Dataset,
    cutoff: float,
    out: Path,
    *,
    devices: int | None,
    workers: int | None,
    progress: Progress,
    content: Path | None = None,
) -> dict[str, Any]:
    """Does it all and leaves model, bundle, report and demo.json in `out`; returns what demo.json holds.

    `cutoff`: POSIX seconds; nothing that happened later is trained on. `content`: vectors of the items, a file.
    Raises EdgeRecError.
    """
    from edgerec_exporters.bundle_writer import export
    from edgerec_exporters.content.vectors import load_content
    from edgerec_exporters.golden import tell_stories
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.train import train
    from edgerec_tools.arms import CENTRAL, DEFAULT
    from edgerec_tools.comparison import document
    from edgerec_tools.files import write_whole
    from edgerec_tools.report import write_report
    from edgerec_tools.simulate import Period, simulate

    _make(out)
    model, bundle, report = out / f"{dataset.name}.model", out / f"{dataset.name}.edgerec", out / "report.html"
    placed = None if content is None else load_content(content).of(dataset.items)
    trained = train(Interactions.from_dataset(dataset), cutoff=cutoff, content=placed, progress=progress)
    trained.save(model)
    progress("export", 0, 1)
    exported = export(
        trained, bundle, name=trained.name, version=1, metrics=trained.metrics, stories=tell_stories
    ).to_dict()
    progress("export", 1, 1)
    found = simulate(
        dataset, bundle, Period(cutoff), arms=[*DEFAULT, CENTRAL], devices=devices, workers=workers, progress=progress
    )
    simulated = document(found)
    write_report(report, found, simulated)
    result = {
        "bundle": str(bundle),
        "report": str(report),
        "train": dict(trained.metrics),
        "export": exported,
        "simulate": simulated,
    }
    write_whole(out / "demo.json", json_text(result).encode())
    return result


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"cannot make the folder {out}: {error.strerror}", hint="choose another with --out"
        ) from None
