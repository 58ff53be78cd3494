"""`edgerec content`: makes content vectors, and says what a file of them holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgerec.errors import DataError, MissingDistribution


@click.group()
def content() -> None:
    """Content vectors of items: text, or any modality from a file of one's own."""


@content.command()
@click.option("--data", "data_name", default="retail", show_default=True, help="A data set's name, or a file.")
@click.option("--attribute", "attributes", multiple=True, help="An attribute told after the title; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def text(data_name: str, attributes: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Turn titles into text vectors with a sentence encoder that is installed, offline."""
    if not out.absolute().parent.is_dir():
        raise DataError(f"there is no folder {out.absolute().parent}", hint=f"{out.name} was to be written there")
    try:
        from edgerec_tools.datasets import data_home, load
        from edgerec_tools.progress import bars
    except ImportError:
        raise MissingDistribution("reading data sets needs edgerec-tools", hint="pip install edgerec-tools") from None
    from edgerec_exporters.content.text import described, text_content
    from edgerec_exporters.interactions import Interactions

    data = Interactions.from_dataset(load(data_name))
    known = {name for described_ in data.attributes for name in described_}
    if unknown := sorted(set(attributes) - known):
        raise DataError(f"no item has an attribute {unknown[0]!r}", hint=f"there are: {', '.join(sorted(known))}")
    texts = described(data.titles, data.attributes, attributes)
    with bars() as progress:
        made = text_content(data.items, texts, cache=data_home() / "content", progress=progress)
    size = made.save(out)
    if as_json:
        click.echo(json.dumps({"content": str(out), "bytes": size, "n_items": len(made), **_told(out)}))
        return
    click.echo(f"{out}: text vectors of {int(made.given().sum()):,} items, {size / 1e6:.1f} MB")


@content.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info(file: Path, as_json: bool) -> None:
    """What the content file FILE holds: an .npz with `items` (ids) and one float array per modality."""
    told = _told(file)
    if as_json:
        click.echo(json.dumps({"content": str(file), **told}))
        return
    for name, found in told["modalities"].items():
        click.echo(f"{name}: {found['items']:,} items × {found['length']}")


def _told(file: Path) -> dict[str, dict[str, dict[str, int]]]:
    from edgerec_exporters.content.vectors import load_content

    found = load_content(file).arrays
    return {
        "modalities": {
            name: {"items": int((values[:, 0] == values[:, 0]).sum()), "length": values.shape[1]}
            for name, values in found.items()
        }
    }
