"""A gateway's settings: a TOML file, overridden by the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgerec.errors import ConfigError
from edgerec_exporters.gateway.limits import Rate
from edgerec_exporters.gateway.policy import MODES, OPEN_MODE, Policy
from edgerec_plugins.settings import SettingsReader

_SECTIONS = ("gateway", "enrolment", "limits", "privacy", "keep")
_ADDRESS, _KEY, _ENROLMENT = Rate(600, 200), Rate(10, 20), Rate(10, 60)


@dataclass(frozen=True)
class Settings:
    """`window_s`: how far a request's time may be from the gateway's · `local_noise`: the multiplier of the noise that
    devices add · `token_required`: for enrolment · `proxies`: addresses whose X-Forwarded-For is believed ·
    `behind_tls`: something before the gateway speaks TLS · rates: of requests per address and per key, of enrolments
    per address · `head_s`, `body_s`: the longest that a request's head and body may take · `connections`: at once ·
    `counted_days`, `waiting_days`, `ids_days`: see `GatewayStore.prune`.
    """

    policy: Policy = field(default_factory=Policy)
    window_s: int = 300
    local_noise: float = 0.0
    token_required: bool = False
    proxies: tuple[str, ...] = ()
    behind_tls: bool = False
    per_address: Rate = _ADDRESS
    per_key: Rate = _KEY
    enrolments: Rate = _ENROLMENT
    head_s: float = 20.0
    body_s: float = 20.0
    connections: int = 1000
    counted_days: float = 7.0
    waiting_days: float = 30.0
    ids_days: float = 400.0


def read_settings(path: Path | None) -> Settings:
    """The file's settings, or the defaults. Raises ConfigError."""
    if path is None:
        return Settings()
    try:
        with path.open("rb") as file:
            return settings_of(tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def settings_of(tables: Mapping[str, Any]) -> Settings:
    """Settings from tables by name. Raises ConfigError for what is unknown or out of range."""
    if unknown := sorted(set(tables) - set(_SECTIONS)):
        raise ConfigError(f"gateway: unknown section {unknown[0]!r}", hint=f"known: {', '.join(_SECTIONS)}")
    take = {name: _reader(name, tables.get(name, {})) for name in _SECTIONS}
    gateway, limits, privacy, keep = (take[name] for name in ("gateway", "limits", "privacy", "keep"))
    policy = Policy(
        mode=gateway.choice("mode", OPEN_MODE, MODES),
        minimum_cohort=gateway.whole("minimum_cohort", 20, 1, 1_000_000),
        most_per_round=gateway.whole("most_per_round", 1, 1, 1000),
        noise_multiplier=privacy.number("noise_multiplier", 0.0, 0, 1000),
    )
    done = Settings(
        policy=policy,
        window_s=gateway.whole("window_s", 300, 1, 86_400),
        local_noise=privacy.number("local_noise", 0.0, 0, 1000),
        token_required=take["enrolment"].flag("token_required", False),
        proxies=gateway.texts("proxies"),
        behind_tls=gateway.flag("behind_tls", False),
        per_address=_rate(limits, "address", _ADDRESS),
        per_key=_rate(limits, "key", _KEY),
        enrolments=_rate(limits, "enrolment", _ENROLMENT),
        head_s=limits.number("head_s", 20.0, 0, 3600, above_low=True),
        body_s=limits.number("body_s", 20.0, 0, 3600, above_low=True),
        connections=limits.whole("connections", 1000, 1, 100_000),
        counted_days=keep.number("counted_days", 7.0, 0, 36_500),
        waiting_days=keep.number("waiting_days", 30.0, 0, 36_500),
        ids_days=keep.number("ids_days", 400.0, 0, 36_500),
    )
    for reader in take.values():
        reader.done()
    return done


def _reader(name: str, values: object) -> SettingsReader:
    if not isinstance(values, dict):
        raise ConfigError(f"gateway: [{name}] must be a table")
    return SettingsReader(f"gateway: [{name}]", values)


def _rate(take: SettingsReader, of: str, default: Rate) -> Rate:
    per_minute = take.number(f"{of}_per_minute", default.per_minute, 0, 1e9, above_low=True)
    return Rate(per_minute, take.whole(f"{of}_burst", default.burst, 1, 1_000_000_000))
