"""`edgerec export`: a trained model becomes a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgerec_exporters.bundle_writer import ExportReport


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle to write, an .edgerec file.")
@click.option("--name", help="The bundle's name; the model's by default.")
@click.option("--version", type=click.IntRange(1), default=1, show_default=True, help="Must grow with every release.")
@click.option(
    "--retrieve",
    type=click.Choice(["auto", "exact", "int8"]),
    default="auto",
    show_default=True,
    help="Whether an int8 scan is shipped; auto: above 20,000 items.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(file: Path, out: Path, name: str | None, version: int, retrieve: str, as_json: bool) -> None:
    """Writes the trained model FILE as a bundle, checks it against PyTorch, and prints sizes and parity."""
    from edgerec_exporters.bundle_writer import export as write
    from edgerec_exporters.golden import tell_stories
    from edgerec_exporters.trained import load_trained

    click.echo(f"exporting {file} …", err=True)
    trained = load_trained(file)
    report = write(
        trained,
        out,
        name=name or trained.name,
        version=version,
        metrics=trained.metrics,
        retrieve=retrieve,
        stories=tell_stories,
    )
    click.echo(json.dumps(report.to_dict()) if as_json else describe(report))


def describe(report: ExportReport) -> str:
    """The report as lines for a person."""
    float32, int8 = report.float32, report.int8
    sizes = sorted(report.files.items(), key=lambda entry: -entry[1])
    scan = "shipped" if int8.shipped else "not shipped"
    lines = [
        f"{report.bundle}: {report.name} version {report.version}, {report.n_items} items × {report.dim}",
        *(f"  {size:>12,} B  {name}" for name, size in sizes),
        f"  {report.size:>12,} B  zip ({report.ratio_zip:.0%} of the files)",
        f"float32: top-10 equals PyTorch's for {float32.equal} of {float32.histories} histories"
        f" ({float32.ties} by ties, largest query difference {float32.max_query_error:.1e})",
        f"int8 scan ({scan}): recall@10 {int8.recall:.4f} of {int8.candidates} candidates, "
        f"{int8.relative_ndcg:.4f} of float32's NDCG@10 by {int8.judged_by}; "
        f"{int8.scan_ms:.3f} ms, float32 {int8.float32_ms:.3f} ms",
    ]
    if report.ratio_int8 is not None:
        lines.append(f"  retrieve.onnx is {report.ratio_int8:.0%} of the float32 arrays")
    return "\n".join([*lines, f"digest {report.digest}, {report.seconds:.1f} s"])
