"""`edgerec train`: from a data set to a trained model in one file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import DataError, MissingDistribution, RequestError

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained


@click.command()
@click.option("--data", "data_name", default="retail", show_default=True, help="A data set's name, or a file.")
@click.option(
    "--model",
    type=click.Choice(["bag", "ials", "lightgcn", "sasrec", "gru4rec"]),
    default="bag",
    show_default=True,
    help="The encoder; ials and lightgcn are bags over item vectors of these spaces.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--cutoff",
    metavar="TIME",
    help="Train on what begins before, ISO 8601, UTC by default.  [default: the test period, or the end]",
)
@click.option(
    "--protocol",
    type=click.Choice(["temporal", "loo"]),
    default="temporal",
    show_default=True,
    help="loo: train without each user's last event, choose on the one before; temporal: before one moment for all.",
)
@click.option("--seed", default=0, show_default=True, help="For everything that is drawn.")
@click.option("--epochs", type=click.IntRange(min=1), help="At most; validation decides how many are best.")
@click.option("--dim", type=click.IntRange(min=2), help="Size of the item vectors.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another constant of the recipe, such as encoder.learning_rate=0.002; may be repeated.",
)
@click.option(
    "--content",
    "contents",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Content vectors of items, an .npz file; places items that nobody has had yet. May be repeated.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the state of every epoch there, and go on from it where the same command was cut off.",
)
@click.option("--distil", type=click.Path(path_type=Path), metavar="FROM", help="A trained model to learn from, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def train(
    data_name: str,
    model: str,
    out: Path,
    cutoff: str | None,
    protocol: str,
    seed: int,
    epochs: int | None,
    dim: int | None,
    settings: tuple[str, ...],
    contents: tuple[Path, ...],
    device: str,
    checkpoint: Path | None,
    distil: Path | None,
    as_json: bool,
) -> None:
    """Train an encoder, item-to-item weights and a popularity prior, and choose how to blend them.

    Several processes train one model where torchrun starts them: torchrun --nproc-per-node 2 -m edgerec train …
    """
    if not out.absolute().parent.is_dir():
        raise DataError(f"there is no folder {out.absolute().parent}", hint=f"{out.name} was to be written there")
    _check_tools()
    from edgerec_exporters.content.vectors import load_contents
    from edgerec_exporters.distributed import started
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.recipe import changed, recipe_for
    from edgerec_exporters.train import train as run
    from edgerec_exporters.trained import load_trained
    from edgerec_tools.comparison import TEST_FROM
    from edgerec_tools.datasets import load
    from edgerec_tools.progress import bars
    from edgerec_tools.protocols import leave_one_out
    from edgerec_tools.simulate_commands import time_of

    begins = None if cutoff is None else time_of(cutoff, "--cutoff")
    if protocol == "loo" and begins is not None:
        raise RequestError("leave-one-out has no cut-off", hint="leave out --cutoff or --protocol loo")
    recipe = changed(recipe_for(model), _constants(settings, {"encoder.epochs": epochs, "dim": dim}))
    content = load_contents(contents) if contents else None
    dataset = load(data_name)
    if protocol == "loo":
        dataset = leave_one_out(dataset).train
    elif begins is None:
        begins = TEST_FROM.get(dataset.name)
    teacher = None if distil is None else load_trained(distil)
    with started(device) as ranks, bars() as progress:
        trained = run(
            Interactions.from_dataset(dataset),
            cutoff=begins,
            hold_out="last" if protocol == "loo" else "period",
            model=model,
            recipe=recipe,
            seed=seed,
            device=device,
            content=content,
            progress=progress,
            checkpoint=checkpoint,
            ranks=ranks,
            teacher=teacher,
        )
    if not ranks.first:
        return
    size = trained.save(out)
    click.echo(json.dumps(document(trained, out, size)) if as_json else _describe(trained, out, size))


def _constants(settings: tuple[str, ...], options: dict[str, int | None]) -> dict[str, str]:
    """NAME=VALUE pairs and the options that are constants of the recipe too."""
    found = {}
    for text in settings:
        name, given, value = text.partition("=")
        if not given:
            raise RequestError(f"--set {text}: a name, =, and a value", hint="--set encoder.learning_rate=0.002")
        found[name.strip()] = value.strip()
    return found | {name: str(value) for name, value in options.items() if value is not None}


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
    found, kept = metrics["validation"], metrics["validation"]["neighbours"]
    since = metrics.get("validated_on") or f"baskets from {metrics['validated_from']}"
    lines = [
        f"{out}: {trained.name}, {len(trained.items)} items × {trained.vectors.shape[1]}, {size / 1e6:.1f} MB, "
        f"{metrics['seconds']:.0f} s, {metrics['epochs']} epochs",
        f"validation on {since}, {found['baskets']} of them, NDCG@10 novel · all",
        *(f"  {name:<12}{value['novel']:.4f} · {value['all']:.4f}" for name, value in found["sources"].items()),
    ]
    if "dense" in kept:
        before = kept["dense"]
        lines.append(
            f"  neighbours before the cut to {kept['kept']:,} weights: {before['novel']:.4f} · {before['all']:.4f}"
        )
    if placed := metrics.get("content"):
        named = ", ".join(placed["modalities"])
        lines.append(f"  {placed['placed']} items without events placed by {named}")
    for name, scenario in trained.scenarios.items():
        weights = " ".join(f"{source} {weight:.2f}" for source, weight in scenario.weights.items())
        fitted = found["scenarios"].get(name)
        value = f"{fitted['ndcg@10']['crossed']:.4f} cross-fitted" if fitted else "as default, for nobody repeats"
        lines.append(f"  blend {name} ({scenario.seen} seen) {value}: {weights}")
    return "\n".join(lines + _describe_distilled(metrics.get("distilled", {})))


def _describe_distilled(distilled: dict[str, Any]) -> list[str]:
    """Teacher and pupil side by side."""
    return [
        f"  {name:<12}{each['model']} {each['dim']}, encoder {each['bytes']['encoder'] / 1e3:.0f} kB, vectors "
        f"{each['bytes']['vectors'] / 1e3:.0f} kB, {each['query_ms']:.3f} ms a query, "
        f"taste {each['ndcg@10'].get('novel', math.nan):.4f} · {each['ndcg@10'].get('all', math.nan):.4f}"
        for name, each in distilled.items()
    ]
