"""The commands of the runtime: what an app would ask of it, from a shell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

import edgerec
from edgerec import console
from edgerec.doctor_commands import doctor
from edgerec.errors import InvalidEvent
from edgerec.options import device_options, kept, scenario_option, show

_PAIR = re.compile(r"\s*([^=<>!'\"()\[\]]+?)\s*=(?!=)(.*)", re.DOTALL)
"""NAME=VALUE: nothing before the first = makes it an expression."""


def _where(conditions: tuple[str, ...]) -> Any:
    """All conditions as one filter. A VALUE that reads as JSON is taken as such, else as text."""
    from edgerec.serving.where import filter_of

    return filter_of(*[_condition(text) for text in conditions]) if conditions else None


def _condition(text: str) -> Any:
    pair = _PAIR.fullmatch(text)
    if pair is None:
        return text
    name, value = pair.groups()
    try:
        return {name: json.loads(value)}
    except ValueError:
        return {name: value}


@click.command()
@device_options
@click.option("-n", default=10, show_default=True, help="How many.")
@scenario_option
@click.option("--exclude", multiple=True, metavar="ITEM", help="Not this one. May be repeated.")
@click.option("--only", multiple=True, metavar="ITEM", help="Of these alone. May be repeated.")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help='By attributes of the catalogue: price_max=5, \'colour=["red", "blue"]\', "price <= 5 and \'toy\' in tags". '
    "Of several all must hold.",
)
@click.option(
    "--seen", type=click.Choice(["hide", "show"]), help="What the user has had.  [default: as the scenario says]"
)
def recommend(
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    n: int,
    scenario: str,
    exclude: tuple[str, ...],
    only: tuple[str, ...],
    where: tuple[str, ...],
    seen: str | None,
) -> None:
    """The best items for the user now."""
    with edgerec.open(bundle, state, config=config) as rec:
        page = rec.recommend(n, scenario=scenario, exclude=exclude, only=only or None, where=_where(where), seen=seen)
    show(page, as_json, console.page(page))


@click.command()
@device_options
@click.argument("item")
@click.option("-n", default=10, show_default=True, help="How many.")
def similar(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, n: int) -> None:
    """Items that go with ITEM."""
    with edgerec.open(bundle, state, config=config) as rec:
        page = rec.similar(item, n)
    show(page, as_json, console.page(page))


@click.command()
@device_options
@click.argument("item")
@click.option("--kind", default="click", show_default=True, help="One of the bundle's; see `edgerec bundle info`.")
@click.option("--value", type=float, help="A rating, a quantity …")
@click.option("--at", help="POSIX seconds or an ISO time with its zone; now if absent.")
@click.option("--group", help="The basket or session it belongs to.")
@click.option("--page", "page_id", help="Id of the page that led to it; `recommend --json` tells.")
@click.option("--event-id", help="Says the same event again without storing it twice.  [default: a new one]")
def record(
    bundle: Path,
    state: Path | None,
    config: Path | None,
    as_json: bool,
    item: str,
    kind: str,
    value: float | None,
    at: str | None,
    group: str | None,
    page_id: str | None,
    event_id: str | None,
) -> None:
    """Stores what the user did with ITEM, and learns from it."""
    when = None if at is None else _time(at)
    with edgerec.open(bundle, kept(state), config=config) as rec:
        receipt = rec.record(
            item, kind, value=value, at=when, group=group, recommendation_id=page_id, event_id=event_id
        )
    show(receipt, as_json, console.receipt(receipt))


def _time(text: str) -> Any:
    from datetime import datetime

    try:
        return float(text)
    except ValueError:
        pass
    hint = "POSIX seconds, or 2026-01-31T12:00:00+00:00"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent(f"--at {text!r} is no time", hint=hint) from None
    if time.tzinfo is None:
        raise InvalidEvent(f"--at {text!r} names no zone", hint=hint)
    return time


@click.command()
@device_options
@click.argument("item")
@scenario_option
def explain(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str, scenario: str) -> None:
    """Why ITEM stands where it stands."""
    with edgerec.open(bundle, state, config=config) as rec:
        why = rec.explain(item, scenario=scenario)
    show(why, as_json, console.explanation(why))


@click.command()
@device_options
def stats(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """Counts, versions, plugins, and how every ranking did so far."""
    with edgerec.open(bundle, state, config=config) as rec:
        found = rec.stats()
    show(found, as_json, console.statistics(found))


@click.command()
@device_options
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also if it is older, was rolled back, or does worse.")
def install(bundle: Path, state: Path | None, config: Path | None, as_json: bool, new: Path, force: bool) -> None:
    """Tries the bundle NEW on this user's events and switches to it."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        done = rec.install(new, force=force)
    trial = done.trial
    compared = "no trial" if trial.difference is None else f"NDCG@10 {trial.difference:+.4f} over {trial.n} steps"
    show(done, as_json, f"version {done.bundle.version} runs ({compared}, {done.relearned} events learned from)")


@click.command()
@device_options
def rollback(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """Goes back to the bundle before."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        info = rec.rollback()
    show(info, as_json, f"version {info.version} runs again")


@click.group()
def profile() -> None:
    """What the device knows of its user."""


@profile.command("show")
@device_options
def show_profile(bundle: Path, state: Path | None, config: Path | None, as_json: bool) -> None:
    """What the device believes: counts, tastes, habits, and what is served of what was learned."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        found = rec.profile()
    show(found, as_json, console.profile(console.plain(found)))


@profile.command()
@device_options
@click.option("--policy", required=True, metavar="SCENARIO", help="The scenario whose pages are in question.")
@click.option("--logged", default="default", show_default=True, metavar="SCENARIO", help="Whose pages were shown.")
def evaluate(bundle: Path, state: Path | None, config: Path | None, as_json: bool, policy: str, logged: str) -> None:
    """What another scenario's pages would have earned, from this device's own log.

    The pages of the scenario that was shown must have left something to chance, by a reranker such as epsilon or
    softmax, as the last one. The policy in question may have one reranker that knows its probabilities, or none.
    """
    with edgerec.open(bundle, kept(state), config=config) as rec:
        found = rec.evaluate(policy, logged=logged)
    show(found, as_json, console.estimates(console.plain(found)))


passphrase_option = click.option(
    "--passphrase",
    envvar="EDGEREC_PASSPHRASE",
    help="Of an encrypted file.  [env: EDGEREC_PASSPHRASE, which shows in no list of processes]",
)


@profile.command("export")
@device_options
@passphrase_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_profile(
    bundle: Path, state: Path | None, config: Path | None, as_json: bool, passphrase: str | None, file: Path
) -> None:
    """Writes what the user did to FILE, for another device; encrypted where a passphrase is given."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        n_events = rec.export_profile(file, passphrase=passphrase)
    show({"file": file, "events": n_events, "encrypted": passphrase is not None}, as_json, f"{n_events} events: {file}")


@profile.command("import")
@device_options
@passphrase_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def import_profile(
    bundle: Path, state: Path | None, config: Path | None, as_json: bool, passphrase: str | None, file: Path
) -> None:
    """Joins the events of FILE with those here, and learns from all of them anew."""
    with edgerec.open(bundle, kept(state), config=config) as rec:
        done = rec.import_profile(file, passphrase=passphrase)
    show(done, as_json, f"{done.added} events are new, {done.known} were here, {done.forgotten} stay forgotten")


@profile.command()
@device_options
@click.option("--item", help="Only what has to do with this item.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(bundle: Path, state: Path | None, config: Path | None, as_json: bool, item: str | None, yes: bool) -> None:
    """Forgets what the user did, to the last byte; it cannot be undone."""
    what = "everything the user did" if item is None else f"all that has to do with {item}"
    if not yes:
        click.confirm(f"Forget {what}?", abort=True, err=True)
    with edgerec.open(bundle, kept(state), config=config) as rec:
        done = rec.forget(item)
    show(done, as_json, f"{done.events} events and {done.exposures} shown items are forgotten")


COMMANDS = (recommend, similar, record, explain, profile, stats, install, rollback, doctor)
