"""`edgerec round`: from deltas to a candidate bundle, what was spent, what is published, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgerec.errors import ConfigError

if TYPE_CHECKING:
    from edgerec_exporters.federation.settings import RoundSettings
    from edgerec_exporters.federation.sources import Source

_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_state = click.option(
    "--state", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder kept between rounds."
)
_config = click.option("--config", type=click.Path(path_type=Path), help="A TOML file with [round]; docs/rounds.md.")
_channel = click.option(
    "--channel", "home", required=True, type=click.Path(path_type=Path, file_okay=False), help="The channel's folder."
)
_keys = click.option(
    "--keys",
    multiple=True,
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Private keys at hand. May be repeated.",
)


@click.group("round")
def round_() -> None:
    """Turns devices' deltas into the next bundle; see docs/rounds.md."""


@round_.command()
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="The bundle that devices have now.")
@click.option("--store", "stores", multiple=True, help="A gateway's store, a file or URL; both for split mode.")
@click.option("--deltas", type=click.Path(path_type=Path), help="A folder of ID.delta files instead.")
@_state
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The candidate bundle to write.")
@_config
@click.option("--abandon", is_flag=True, help="First give up a round that was begun and cannot be ended.")
@_json
def run(
    bundle: Path,
    stores: tuple[str, ...],
    deltas: Path | None,
    state: Path,
    out: Path,
    config: Path | None,
    abandon: bool,
    as_json: bool,
) -> None:
    """Runs one round, or ends the one that a crash left, and writes the candidate bundle."""
    from edgerec_exporters.federation import rounds
    from edgerec_exporters.federation.settings import load_settings

    settings = load_settings(config)
    with _source(stores, deltas, settings) as source:
        if abandon and (given_up := rounds.abandon(state)):
            click.echo(f"round {given_up} is given up", err=True)
        report = rounds.run_round(rounds.Desk(bundle, source, state, settings), out)
    click.echo(json.dumps(report) if as_json else _described(report))


@round_.command()
@_state
@_config
@_json
def status(state: Path, config: Path | None, as_json: bool) -> None:
    """Every round, what became of it, and what is left of the privacy budget."""
    from edgerec_exporters.federation.rounds import status as read
    from edgerec_exporters.federation.settings import load_settings

    found = read(state, load_settings(config))
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found["rounds"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        made = f"version {one['bundle']} → {one['candidate']}"
        click.echo(f"round {one['round']}: {one['devices']} devices, {made}, {one['status']}{reason}")
    click.echo(_budget(found["privacy"]))


@round_.command()
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--current", required=True, type=click.Path(path_type=Path), help="The bundle that devices have now.")
@click.option(
    "--differences",
    required=True,
    type=click.Path(path_type=Path),
    help="A JSON list: how much better the candidate was for each held-out device.",
)
@click.option("--most-loss", type=click.FloatRange(0), default=0.0, show_default=True, help="Bearable on average.")
@_channel
@_keys
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Where its round is noted.")
@_json
def release(
    candidate: Path,
    current: Path,
    differences: Path,
    most_loss: float,
    home: Path,
    keys: tuple[Path, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Publishes CANDIDATE where held-out devices are not worse off with it, else drops it.

    With --state it is dropped, too, where devices that learn did worse in its round than the control group.
    """
    from edgerec.bundle import verify
    from edgerec_exporters.channel.commands import ring_of
    from edgerec_exporters.federation import release as releasing

    evaluation = releasing.differences_in(differences)
    decision = releasing.decide(candidate, current, evaluation, most_loss=most_loss)
    if decision.publish and state is not None and (why := releasing.in_the_field(state, verify(candidate).version)):
        decision = replace(decision, publish=False, reason=why)
    releasing.release(candidate, decision, home, ring_of(keys), state)
    told = "published" if decision.publish else "dropped"
    click.echo(json.dumps(decision.to_dict()) if as_json else f"{told}: {decision.reason}")


@round_.command()
@_channel
@_keys
@click.option("--name", help="The bundle's name, where the channel holds several.")
@click.option("--to", type=click.IntRange(1), help="The version to go back to.  [default: the one before]")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Where its round is noted.")
@click.option("--withdraw-only", is_flag=True, help="Do not publish the older content under a new number.")
@_json
def rollback(
    home: Path,
    keys: tuple[Path, ...],
    name: str | None,
    to: int | None,
    state: Path | None,
    withdraw_only: bool,
    as_json: bool,
) -> None:
    """Withdraws the newest version, and offers the one before again under the next number."""
    from edgerec_exporters.channel.commands import ring_of
    from edgerec_exporters.federation import release as releasing

    done = releasing.rollback(home, ring_of(keys), name=name, to=to, state=state, again=not withdraw_only)
    if as_json:
        click.echo(json.dumps({"withdrawn": done.withdrawn, "back_to": done.back_to, "version": done.version}))
        return
    again = "" if done.version is None else f"; version {done.back_to} is offered again, as version {done.version}"
    click.echo(f"version {done.withdrawn} is withdrawn{again}")


@contextmanager
def _source(stores: tuple[str, ...], deltas: Path | None, settings: RoundSettings) -> Iterator[Source]:
    """Where the deltas come from. Raises ConfigError unless that is clear, and fits the mode."""
    from edgerec_exporters.federation.sources import Folder, Split, Store

    expected = 2 if settings.mode == "split" else 1
    if (deltas is not None) == bool(stores):
        raise ConfigError("where are the deltas?", hint="either --deltas FOLDER or --store PLACE")
    if len(stores) not in (0, expected) or (deltas is not None and settings.mode == "split"):
        raise ConfigError(f"round.mode = {settings.mode!r} takes {expected} --store, {len(stores)} were named")
    if deltas is not None:
        yield Folder(deltas)
        return
    from edgerec_exporters.gateway.store import GatewayStore

    with ExitStack() as stack:
        opened = [stack.enter_context(GatewayStore(place)) for place in stores]
        yield Split(*opened) if settings.mode == "split" else Store(opened[0])


def _described(report: dict[str, Any]) -> str:
    lines = [
        f"round {report['round']}: {report['devices']} devices by {report['aggregator']}, {report['seconds']:.1f} s",
        f"  version {report['bundle']} → {report['candidate']}: {report['out']}",
    ]
    lines += [f"  left out: {count} {reason}" for reason, count in report["refused"].items()]
    for name, norm in report["norms"].items():
        cut = report["clipped"].get(name, 0)
        lines.append(f"  {name}: norm {norm['median']:.3g} (median), {norm['largest']:.3g} (largest), {cut} cut")
    return "\n".join([*lines, _budget(report["privacy"])])


def _budget(privacy: dict[str, Any]) -> str:
    if privacy["kind"] == "none":
        return "no differential privacy"
    return f"ε {privacy['epsilon']:.3f} spent by whoever took part most ({privacy['rounds']:.0f} rounds), " + (
        f"{privacy['left']:.3f} left"
    )
