"""The commands of federation on the device."""

from __future__ import annotations

from pathlib import Path

import click

import edgerec
from edgerec.deltas import TransportError
from edgerec.federation.sync import REFUSED, WAITING, SyncReport
from edgerec.options import device_options, kept, show


@click.command()
@device_options
@click.option("--metered/--unmetered", default=None, help="Whether the network costs money.  [default: not known]")
@click.option("--charging/--on-battery", default=None, help="Whether the device is charging.  [default: not known]")
@click.pass_context
def sync(
    ctx: click.Context,
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    metered: bool | None,
    charging: bool | None,
) -> None:
    """Sends the delta that is due, then asks the channel for a newer bundle.

    Both as --config says, in its sections federation and channel; nothing is sent without them and the user's consent.
    """
    with edgerec.open(bundle, kept(state), config=config) as rec:
        report = rec.sync(conditions={"metered": metered, "charging": charging})
    show(report, as_json, _told(report))
    if report.status in (WAITING, REFUSED):
        ctx.exit(TransportError.exit_code)


@click.command()
@device_options
@click.argument("answer", type=click.Choice(["yes", "no"]))
def consent(bundle: Path, state: Path | None, config: Path | None, as_json: bool, answer: str) -> None:
    """Keeps whether the user agrees to federation.

    `yes` holds for what is recorded from then on; `no` deletes what waits to be sent.
    """
    with edgerec.open(bundle, kept(state), config=config) as rec:
        rec.consent(answer == "yes")
        now = rec.stats()["federation"]
    show(now, as_json, "deltas may be sent" if now["consent"] else "no delta will be sent")


def _told(report: SyncReport) -> str:
    lines = [f"{report.status.replace('_', ' ')}: {report.reason}"]
    if report.bytes:
        lines.append(f"{report.bytes} bytes sent, delta {report.delta_id}")
    if report.update is not None:
        lines.append(f"channel: {report.update.status.replace('_', ' ')}: {report.update.reason}")
    if report.update_error is not None:
        lines.append(f"channel: {report.update_error}")
    return "\n".join(lines)


COMMANDS = (sync, consent)
