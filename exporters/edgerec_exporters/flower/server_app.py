"""The server's side: a ServerApp whose strategy joins the deltas of all gateways and aggregates over devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from edgerec.bundle import verify
from edgerec.errors import ConfigError
from edgerec_exporters.federation.settings import load_settings
from edgerec_exporters.flower import refuse_telemetry
from edgerec_exporters.flower.book import Book
from edgerec_exporters.flower.strategy import DeviceRounds

refuse_telemetry()
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the configured number of rounds; results are files in the folder `out`."""
    config = context.run_config
    book = book_of(config)
    strategy = DeviceRounds(
        book,
        gateways=_whole(config, "gateways", 1),
        wait_s=_seconds(config, "wait-s"),
        timeout_s=_seconds(config, "timeout-s"),
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(),
        num_rounds=_whole(config, "rounds", 1),
        timeout=_seconds(config, "timeout-s"),
    )


def book_of(config: Mapping[str, Any]) -> Book:
    """What the run's configuration names: `bundle`, `out` and `settings`. Raises ConfigError, BundleError."""
    places = {name: config.get(name) for name in ("bundle", "out")}
    if missing := [name for name, place in places.items() if not isinstance(place, str) or not place]:
        raise ConfigError(f"the run does not say its {missing[0]}", hint=f"--run-config '{missing[0]}=\"/path\"'")
    settings = load_settings(str(config.get("settings") or "") or None)
    out = Path(str(places["out"]))
    manifest = verify(str(places["bundle"]))
    specs = manifest.federation.blocks
    if not specs:
        raise ConfigError("the bundle declares no federated blocks", hint="docs/delta-format.md")
    return Book(out, settings, specs, manifest.version, most=_whole(config, "most", 1))


def _whole(config: Mapping[str, Any], name: str, least: int) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"'{name}' cannot be {value!r}", hint=f"a whole number of at least {least}")
    return value


def _seconds(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise ConfigError(f"'{name}' cannot be {value!r}", hint="seconds, more than 0")
    return float(value)
