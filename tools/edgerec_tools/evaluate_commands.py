"""`edgerec evaluate`: honest metrics of models and baselines, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import RequestError
from edgerec_tools.output import json_text, wide_console

if TYPE_CHECKING:
    from edgerec_tools.datasets import Dataset
    from edgerec_tools.protocols import Split


@click.command()
@click.option("--data", "data_name", default="retail", show_default=True, help="A data set's name, or a file.")
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    metavar="MODEL",
    help="A bundle, a trained file, or a baseline's name. May be repeated; the first is compared with all others.",
)
@click.option(
    "--protocol",
    type=click.Choice(["loo", "gts", "cold-users", "unseen-users"]),
    default="loo",
    show_default=True,
    help="Leave-one-out, global temporal split; users held out of training after their first events, or their last.",
)
@click.option("--targets", type=click.Choice(["successive", "last"]), help="gts: what is asked for.  [successive]")
@click.option("--quantile", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="gts: the cut-off.  [0.9]")
@click.option("--cutoff", metavar="TIME", help="gts: the cut-off as ISO 8601, UTC by default, instead of a quantile.")
@click.option("--until", metavar="TIME", help="gts: where the data end (this moment excluded).  [their own end]")
@click.option(
    "--hold-out",
    type=click.IntRange(1, 2),
    help="loo: how many of each user's last events baselines do not learn from; published tables have 2.  [1]",
)
@click.option(
    "--k",
    metavar="1,3,…",
    help="cold-users: after how many events to ask.  [1,3,5,10,20]  unseen-users: how many are recorded.  [10]",
)
@click.option("--seen", type=click.Choice(["hide", "show"]), default="hide", show_default=True, help="What users had.")
@click.option("--baselines", metavar="A,B,…", help="Baselines to run beside; `none` for none.  [all that are feasible]")
@click.option("--tune", is_flag=True, help="Choose the baselines' constants on the protocol's validation targets.")
@click.option("--seed", default=0, show_default=True, help="For the bootstrap and iALS.")
@click.option(
    "--write-train",
    type=click.Path(path_type=Path),
    help="Writes what models may learn from as a data set, for `edgerec train --data`.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def evaluate(
    data_name: str,
    models: tuple[str, ...],
    protocol: str,
    seen: str,
    baselines: str | None,
    tune: bool,
    seed: int,
    write_train: Path | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Rank the whole catalogue for real users under a model and its baselines, and say how sure the figures are.

    `loo` asks for each user's last event; `gts` for everything after one moment in time. Bundles are scored by the
    runtime itself; a trained file is exported first and scored in PyTorch as well.
    """
    from edgerec_tools.datasets import load
    from edgerec_tools.progress import bars

    _check(protocol, limits, seen=seen, tune=tune)
    if write_train is not None and not write_train.absolute().parent.is_dir():
        raise RequestError(f"there is no folder {write_train.absolute().parent}", hint="--write-train needs one")
    dataset, chosen = load(data_name), _names(baselines)
    if protocol.endswith("-users"):
        result = _held_out_users(dataset, protocol, models, chosen, limits["k"], seed, write_train)
    else:
        from edgerec_tools.evaluate.document import document
        from edgerec_tools.evaluate.run import evaluate as run

        split = split_of(dataset, protocol, **{name: limits[name] for name in _ONLY["gts"]})
        _write_train(split.train, write_train)
        held = limits["hold_out"] or 1
        with bars() as progress:
            result = document(
                run(split, models, baselines=chosen, seen=seen, hold_out=held, tune=tune, seed=seed, progress=progress)
            )
    show(result, as_json)


def _held_out_users(
    dataset: Dataset,
    protocol: str,
    models: tuple[str, ...],
    baselines: list[str] | None,
    k: str | None,
    seed: int,
    write_train: Path | None,
) -> dict[str, Any]:
    from edgerec_tools.evaluate.cold import EVENTS, evaluate_cold, hold_out_users
    from edgerec_tools.evaluate.unseen import LAST, evaluate_unseen
    from edgerec_tools.progress import bars

    split = hold_out_users(dataset, seed=seed)
    events = _numbers(k, EVENTS if protocol == "cold-users" else (LAST,))
    unseen = protocol == "unseen-users"
    if unseen and (len(models) > 1 or baselines or len(events) > 1):
        raise RequestError(f"{protocol} takes one bundle and one number of events", hint="see --help")
    _write_train(split.train, write_train)
    with bars() as progress:
        if unseen:
            return evaluate_unseen(split, Path(models[0]), last=events[0], seed=seed, progress=progress)
        return evaluate_cold(split, models, baselines=baselines, events=events, seed=seed, progress=progress)


def split_of(
    dataset: Dataset,
    protocol: str,
    *,
    targets: str | None = None,
    quantile: float | None = None,
    cutoff: str | None = None,
    until: str | None = None,
) -> Split:
    """The protocol's split. Raises DataError where the data do not allow it, RequestError for a bad time."""
    from edgerec_tools.protocols import leave_one_out, temporal
    from edgerec_tools.simulate_commands import time_of

    if protocol == "loo":
        return leave_one_out(dataset)
    at = None if cutoff is None else time_of(cutoff, "--cutoff")
    if until is not None:
        dataset = dataset.before(time_of(until, "--until"))
    return temporal(dataset, quantile=quantile, cutoff=at, targets="last" if targets == "last" else "successive")


_ONLY = {
    "loo": ("hold_out",),
    "gts": ("targets", "quantile", "cutoff", "until"),
    "cold-users": ("k",),
    "unseen-users": ("k",),
}


def _check(protocol: str, limits: dict[str, Any], *, seen: str, tune: bool) -> None:
    """Options that belong to another protocol are mistakes, not noise."""
    wrong = [name for name, value in limits.items() if value is not None and name not in _ONLY[protocol]]
    if protocol.endswith("-users"):
        wrong += (["tune"] if tune else []) + (["seen"] if seen != "hide" else [])
    if wrong:
        option = f"--{wrong[0].replace('_', '-')}"
        raise RequestError(f"{option} means nothing under the protocol {protocol}", hint="leave it out")
    if limits["quantile"] is not None and limits["cutoff"] is not None:
        raise RequestError("--quantile and --cutoff both say where to cut", hint="give one of them")


def _numbers(text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    try:
        found = default if text is None else tuple(int(k) for k in text.split(","))
    except ValueError:
        raise RequestError(f"--k {text}: whole numbers with commas", hint="write --k 1,3,5") from None
    if min(found) < 1:
        raise RequestError(f"--k {text}: numbers of events from 1", hint="write --k 1,3,5")
    return found


def _write_train(train: Dataset, path: Path | None) -> None:
    if path is not None:
        from edgerec_tools.datasets import write

        write(train, path)
        click.echo(f"training part: {path}, {train.n_events:,} events", err=True)


def _names(baselines: str | None) -> list[str] | None:
    if baselines is None:
        return None
    return [] if baselines == "none" else [name.strip() for name in baselines.split(",") if name.strip()]


def show(result: dict[str, Any], as_json: bool) -> None:
    """The document, or its tables."""
    if as_json:
        click.echo(json_text(result))
        return
    from edgerec_tools.evaluate.table import cold_table, notes, tables, unseen_table

    console = wide_console()
    alone = {"cold-users": cold_table, "unseen-users": unseen_table}.get(result["protocol"])
    for table in tables(result) if alone is None else [alone(result)]:
        console.print(table)
    for note in notes(result) if alone is None else result["warnings"]:
        click.echo(note)
