"""Rounds on Flower: gateways answer as ClientApps with their devices' deltas, one ServerApp aggregates over devices.

docs/flower.md is for whoever runs it. The extra `flower` of edgerec-exporters brings Flower; no device imports it.
Importing this package switches off what Flower and Ray would report home; a process in which they were imported before
is refused by both apps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from edgerec.errors import ConfigError, MissingDistribution

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read by Flower and Ray when they are imported, or when one of their programs starts."""

os.environ.update(QUIET)


def require_flower() -> None:
    """Raises MissingDistribution without Flower, ConfigError where it was imported while its telemetry was on."""
    try:
        from flwr.supercore import telemetry
    except ModuleNotFoundError as error:
        raise MissingDistribution(
            f"rounds on Flower need {error.name}", hint="pip install 'edgerec-exporters[flower]'"
        ) from None
    if telemetry.FLWR_TELEMETRY_ENABLED != "0":
        raise ConfigError(
            "Flower's telemetry is on in this process",
            hint="start Flower's programs by `edgerec gateway flower …`, or set FLWR_TELEMETRY_ENABLED=0",
        )


def loaded() -> bool:
    """Whether Flower has been imported in this process."""
    return "flwr" in sys.modules
