"""The server's side: a ServerApp whose strategy joins the deltas of all gateways and aggregates over devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from edgerec.errors import ConfigError, StoreBusy
from edgerec.files import exclusive
from edgerec_exporters.federation.settings import load_settings
from edgerec_exporters.flower import refuse_telemetry
from edgerec_exporters.flower.book import Book
from edgerec_exporters.flower.strategy import DeviceRounds

refuse_telemetry()
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ends what a crash left, then runs the configured number of rounds. Raises StoreBusy where another server works in
    the folder.
    """
    config = context.run_config
    book = book_of(config)
    wait_s, timeout_s = (_seconds(config, name) for name in ("wait-s", "timeout-s"))
    strategy = DeviceRounds(book, gateways=_whole(config, "gateways"), wait_s=wait_s, timeout_s=timeout_s)
    try:
        with exclusive(book.state / ".flower.lock", wait_s=1.0):
            book.resume()
            strategy.start(grid, ArrayRecord(), num_rounds=_whole(config, "rounds"), timeout=timeout_s)
    except TimeoutError:
        raise StoreBusy(f"another server runs rounds in {book.state}", hint="wait for it to end") from None


def book_of(config: Mapping[str, Any]) -> Book:
    """What the run's configuration names: `bundle`, `state` and `settings`. Raises ConfigError, BundleError."""
    bundle, state = (_place(config, name) for name in ("bundle", "state"))
    settings = load_settings(str(config.get("settings") or "") or None)
    return Book(bundle, state, settings, most=_whole(config, "most"))


def _place(config: Mapping[str, Any], name: str) -> Path:
    value = config.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"the run does not say its {name}", hint=f"--run-config '{name}=\"/path\"'")
    return Path(value)


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"'{name}' cannot be {value!r}", hint="a whole number of at least 1")
    return value


def _seconds(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise ConfigError(f"'{name}' cannot be {value!r}", hint="seconds, more than 0")
    return float(value)
