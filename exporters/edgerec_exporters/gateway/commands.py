"""`edgerec gateway`: takes in the deltas of devices; see docs/gateway.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgerec.errors import MissingDistribution
from edgerec_exporters.flower.commands import flower, flower_app

if TYPE_CHECKING:
    from edgerec_exporters.gateway.store import GatewayStore

_store = click.option(
    "--store", "place", default="gateway.db", show_default=True, help="The store: a file, or a database's URL."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDistribution(
            f"the gateway needs {error.name}", hint="pip install 'edgerec-exporters[gateway]'"
        ) from None


def _opened(place: str) -> GatewayStore:
    with _extra():
        from edgerec_exporters.gateway.store import GatewayStore
    return GatewayStore(place)


@click.group()
def gateway() -> None:
    """Takes in deltas of devices, for rounds of federation; see docs/gateway.md."""


gateway.add_command(flower_app)
gateway.add_command(flower)


@gateway.command()
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A bundle whose deltas are taken in. May be repeated, while devices move from one version to the next.",
)
@_store
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8470, show_default=True, type=click.IntRange(0, 65535), help="0 takes any.")
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="A PEM file, the chain in it.")
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="The certificate's key, a PEM file.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings, a TOML file.")
def run(
    bundles: tuple[Path, ...],
    place: str,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    config: Path | None,
) -> None:
    """Serves until it is interrupted. Logs are JSON, a line each, on stderr."""
    with _extra():
        from edgerec.bundle import verify
        from edgerec_exporters.gateway import logs, serving
        from edgerec_exporters.gateway.settings import read_settings
    settings = read_settings(config)
    manifests = [verify(path) for path in bundles]
    with _opened(place) as store:
        store.configure(settings.policy)
        store.open_bundles(manifests)
        logs.log_to()
        serving.serve(store, settings, host=host, port=port, certificate=tls_cert, key=tls_key)


@gateway.group()
def token() -> None:
    """Tokens, with which devices enrol and operators ask for rounds."""


@token.command("new")
@_store
@click.option(
    "--uses", default=1, show_default=True, type=click.IntRange(1), help="How many devices may enrol with it."
)
@click.option("--days", type=click.FloatRange(0, min_open=True), help="How long it is good for.  [default: for ever]")
@click.option("--operator", is_flag=True, help="For rounds over HTTP, in place of enrolment.")
@_json
def new_token(place: str, uses: int, days: float | None, operator: bool, as_json: bool) -> None:
    """Makes a token and prints it. It cannot be shown again: the store keeps its digest."""
    with _opened(place) as store:
        made = store.new_token("operator" if operator else "enrol", uses=uses, days=days)
    click.echo(json.dumps({"token": made}) if as_json else made)


@gateway.command()
@_store
@_json
def status(place: str, as_json: bool) -> None:
    """What the store holds."""
    with _opened(place) as store:
        found = store.status()
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:<20} {value}" for name, value in found.items()))


@gateway.command()
@_store
@click.option("--counted-days", default=7.0, show_default=True, type=click.FloatRange(0), help="Keep counted deltas.")
@click.option("--waiting-days", default=30.0, show_default=True, type=click.FloatRange(0), help="Keep waiting deltas.")
@click.option("--ids-days", default=400.0, show_default=True, type=click.FloatRange(0), help="Keep their ids.")
@_json
def prune(place: str, counted_days: float, waiting_days: float, ids_days: float, as_json: bool) -> None:
    """Deletes what is not needed any more, as a running gateway does by itself."""
    with _opened(place) as store:
        done = store.prune(counted_days=counted_days, waiting_days=waiting_days, ids_days=ids_days)
    click.echo(json.dumps(done) if as_json else ", ".join(f"{count} {what}" for what, count in done.items()))


@gateway.command()
@click.argument("delta_id")
@_store
@_json
def block(delta_id: str, place: str, as_json: bool) -> None:
    """Takes nothing more from the key that sent a delta; what of it waits is taken out."""
    with _opened(place) as store:
        done = store.block(delta_id)
    click.echo(json.dumps({"blocked": done}) if as_json else "blocked" if done else "its sender is not known any more")
