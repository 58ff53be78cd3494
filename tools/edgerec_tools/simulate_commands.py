"""`edgerec simulate`: replays real users as devices and says what learning on the device is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import RequestError
from edgerec_tools.output import json_text, wide_console

if TYPE_CHECKING:
    from edgerec_tools.datasets import Dataset


@click.command()
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="The bundle that every device runs.")
@click.option("--data", "data_name", default="retail", show_default=True, help="A data set's name, or a file.")
@click.option("--arms", metavar="A,B,…", help="Arms to compare; `central` adds the dense ones, `all` is everything.")
@click.option(
    "--updater",
    metavar="NAME",
    help="Adds the personalised arm under another updater, compared with the personalised one.",
)
@click.option("--devices", type=click.IntRange(min=1), help="A random sample of so many users.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--cutoff", metavar="TIME", help="Where the replay begins, ISO 8601, UTC by default.")
@click.option(
    "--until", metavar="TIME", help="Where the replay ends (this moment excluded).  [default: end of the data]"
)
@click.option(
    "--federate",
    metavar="EVERY",
    help="Adds the federated arm, with rounds daily, weekly, fortnightly, or every so many days.",
)
@click.option("--epsilon", type=float, help="Adds the arm federated+dp, with that budget per device for the replay.")
@click.option("--available", default=1.0, show_default=True, help="Share of the devices that sync in a round.")
@click.option("--dropout", default=0.0, show_default=True, help="Share of the deltas that get lost.")
@click.option("--stragglers", default=0.0, show_default=True, help="Share of the deltas that come a round late.")
@click.option("--hostile", default=0.0, show_default=True, help="Share of a round's devices that are hostile.")
@click.option("--attack", default="promotion", show_default=True, help="What hostile devices do.")
@click.option("--held-out", default=0.0, show_default=True, help="Share of the devices that only judge candidates.")
@click.option("--staged", default=0.0, show_default=True, help="Share of the devices that run a candidate first.")
@click.option(
    "--round-config", type=click.Path(path_type=Path, dir_okay=False), help="The server's settings, [round] in TOML."
)
@click.option("--seed", default=0, show_default=True, help="For the sample and the bootstrap.")
@click.option("--report", type=click.Path(path_type=Path), help="Writes an HTML page with plots.")
@click.option("--record-run", type=click.Path(path_type=Path), help="Appends a run on a test period to this CSV file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def simulate(
    bundle: Path,
    data_name: str,
    arms: str | None,
    updater: str | None,
    devices: int | None,
    workers: int | None,
    cutoff: str | None,
    until: str | None,
    federate: str | None,
    epsilon: float | None,
    available: float,
    dropout: float,
    stragglers: float,
    hostile: float,
    attack: str,
    held_out: float,
    staged: float,
    round_config: Path | None,
    seed: int,
    report: Path | None,
    record_run: Path | None,
    as_json: bool,
) -> None:
    """Replay real users as devices, test-then-train, under several arms.

    Every user is a device with its own recommender and store. Before each basket is revealed the device
    recommends, in the view `novel` (items never bought) and in the view `all`; then it records the basket.
    With --federate devices also send deltas, and the bundles that rounds make of them come back.
    """
    from edgerec_tools import simulate as room
    from edgerec_tools.arms import DEFAULT
    from edgerec_tools.comparison import document
    from edgerec_tools.datasets import load
    from edgerec_tools.progress import bars
    from edgerec_tools.simulate import Period

    for file in (report, record_run):
        if file is not None and not file.absolute().parent.is_dir():
            raise RequestError(
                f"there is no folder {file.absolute().parent}", hint=f"{file.name} was to be written there"
            )
    rounds = None
    names = [name.strip() for name in arms.split(",")] if arms else [*DEFAULT]
    if federate is not None or epsilon is not None:
        from edgerec_tools.federation.options import asked

        shares = {"available": available, "dropout": dropout, "stragglers": stragglers, "hostile": hostile}
        shares |= {"held_out": held_out, "staged": staged}
        rounds, more = asked(federate or "weekly", epsilon, round_config, attack=attack, **shares)
        names += [name for name in more if name not in names]
    dataset = load(data_name)
    begins = time_of(cutoff, "--cutoff") if cutoff else default_cutoff(dataset, bundle)
    period = Period(begins, time_of(until, "--until") if until else None)
    with bars() as progress:
        found = room.simulate(
            dataset,
            bundle,
            period,
            arms=names,
            federate=rounds,
            updater=updater,
            devices=devices,
            workers=workers,
            seed=seed,
            progress=progress,
        )
    result = document(found)
    if report is not None:
        from edgerec_tools.report import write_report

        write_report(report, found, result)
    if record_run is not None:
        from edgerec_tools.ledger import record

        if not record(result, record_run):
            click.echo("not recorded: the run lies in a validation period", err=True)
    show(result, as_json)
    if report is not None:
        click.echo(f"report: {report}", err=True)


def show(result: dict[str, Any], as_json: bool) -> None:
    """The document, or its table."""
    if as_json:
        click.echo(json_text(result))
        return
    from edgerec_tools.comparison import rounds_told, table

    wide_console().print(table(result))
    for line in rounds_told(result):
        click.echo(line)


def time_of(text: str, option: str) -> float:
    """POSIX seconds of an ISO 8601 time, which is UTC where it names no zone. Raises RequestError."""
    from edgerec_tools.periods import seconds

    try:
        return seconds(text)
    except ValueError:
        raise RequestError(f"{option} {text!r} is no time", hint="write 2011-09-01 or 2011-09-01T00:00:00Z") from None


def default_cutoff(dataset: Dataset, bundle: Path) -> float:
    """Where a data set's test period begins; else where the bundle's training ended, POSIX seconds.

    Raises RequestError where neither is laid down.
    """
    from edgerec.bundle import verify
    from edgerec_tools.comparison import TEST_FROM
    from edgerec_tools.periods import trained_before

    if dataset.name in TEST_FROM:
        return TEST_FROM[dataset.name]
    ended = trained_before(verify(bundle))
    if ended is None:
        raise RequestError(f"{dataset.name!r} has no test period of its own", hint="say where it begins with --cutoff")
    return ended
