"""Rounds on Flower: gateways answer as ClientApps with their devices' deltas, one ServerApp aggregates over devices.

docs/flower.md is for whoever runs it. The extra `flower` of edgerec-exporters brings Flower; no device imports it.
Importing this package switches off what Flower and Ray would report home; a process in which they were imported before
is refused by both apps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from edgerec.errors import ConfigError

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read by Flower and Ray when they are imported, or when one of their programs starts."""

os.environ.update(QUIET)


def refuse_telemetry() -> None:
    """Raises ConfigError where Flower was imported while its telemetry was on."""
    from flwr.supercore import telemetry

    if telemetry.FLWR_TELEMETRY_ENABLED != "0":
        raise ConfigError(
            "Flower's telemetry is on in this process",
            hint="start Flower's programs by `edgerec gateway flower …`, or set FLWR_TELEMETRY_ENABLED=0",
        )
