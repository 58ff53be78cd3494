"""`edgerec train`: from a data set to a trained model in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import DataError, MissingDistribution

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained


@click.command()
@click.option("--data", "data_name", default="retail", show_default=True, help="A data set's name, or a file.")
@click.option("--model", type=click.Choice(["bag"]), default="bag", show_default=True, help="The encoder.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--cutoff",
    metavar="TIME",
    help="Train on what begins before, ISO 8601, UTC by default.  [default: the test period, or the end]",
)
@click.option("--seed", default=0, show_default=True, help="For everything that is drawn.")
@click.option("--epochs", type=click.IntRange(min=1), help="At most; validation decides how many are best.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def train(
    data_name: str,
    model: str,
    out: Path,
    cutoff: str | None,
    seed: int,
    epochs: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Train an encoder, item-to-item weights and a popularity prior, and choose how to blend them."""
    if not out.absolute().parent.is_dir():
        raise DataError(f"there is no folder {out.absolute().parent}", hint=f"{out.name} was to be written there")
    _check_tools()
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.recipe import Recipe, with_epochs
    from edgerec_exporters.train import train as run
    from edgerec_tools.comparison import TEST_FROM
    from edgerec_tools.datasets import load
    from edgerec_tools.progress import bars
    from edgerec_tools.simulate_commands import time_of

    begins = None if cutoff is None else time_of(cutoff, "--cutoff")
    dataset = load(data_name)
    recipe = Recipe() if epochs is None else with_epochs(Recipe(), epochs)
    with bars() as progress:
        trained = run(
            Interactions.from_dataset(dataset),
            cutoff=TEST_FROM.get(dataset.name) if begins is None else begins,
            model=model,
            recipe=recipe,
            seed=seed,
            device=device,
            progress=progress,
        )
    size = trained.save(out)
    click.echo(json.dumps(document(trained, out, size)) if as_json else _describe(trained, out, size))


def document(trained: Trained, out: Path, size: int) -> dict[str, Any]:
    """The command's JSON."""
    return {
        "model": str(out),
        "name": trained.name,
        "bytes": size,
        "seed": trained.seed,
        "n_items": len(trained.items),
        "dim": int(trained.vectors.shape[1]),
        "scenarios": {name: {"seen": s.seen, "weights": dict(s.weights)} for name, s in trained.scenarios.items()},
        "sources": dict(trained.sources),
        "metrics": dict(trained.metrics),
    }


def _check_tools() -> None:
    """Data sets, times and progress are read and shown by another distribution."""
    try:
        import edgerec_tools  # noqa: F401
    except ImportError:
        raise MissingDistribution("reading data sets needs edgerec-tools", hint="pip install edgerec-tools") from None


def _describe(trained: Trained, out: Path, size: int) -> str:
    metrics = trained.metrics
    found, cut = metrics["validation"], metrics["validation"]["cut"]
    lines = [
        f"{out}: {trained.name}, {len(trained.items)} items × {trained.vectors.shape[1]}, {size / 1e6:.1f} MB, "
        f"{metrics['seconds']:.0f} s, {metrics['epochs']} epochs",
        f"validation from {metrics['validated_from']}, {found['baskets']} baskets, NDCG@10 novel · all",
        *(f"  {name:<12}{value['novel']:.4f} · {value['all']:.4f}" for name, value in found["sources"].items()),
        f"  neighbours before the cut to {cut['kept']:,} weights: {cut['dense']['novel']:.4f} · "
        f"{cut['dense']['all']:.4f}",
    ]
    for name, scenario in trained.scenarios.items():
        weights = " ".join(f"{source} {weight:.2f}" for source, weight in scenario.weights.items())
        value = found["scenarios"][name]["ndcg@10"]
        lines.append(f"  blend {name} ({scenario.seen} seen) {value['crossed']:.4f} cross-fitted: {weights}")
    return "\n".join(lines)
