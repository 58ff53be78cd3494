"""Settings of one recommender: read from TOML or a mapping, checked, frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec.errors import ConfigError
from edgerec.records import field, record

if TYPE_CHECKING:
    from edgerec.federation_settings import FederationSettings

MOST_NEGATIVES = 1024
MIN_WINDOW = 30
"""Positive events; with fewer comparisons no bundle is rolled back."""
MOST_DAYS = 36_525


@record
class Config:
    """What the app decides. Every default follows the bundle's manifest.

    `updater`: name of the updater that owns the user vector; "none" learns nothing; None takes the manifest's.
    `exposed_negatives`: how many of an event's negatives may be items that its page showed and the user passed over;
    None takes the manifest's. `learn_blend`: whether the blend's weights are learned per user. `guard`: whether
    personal state that does worse than the base is taken out of the score. `weights`: blend weights for every
    scenario, in place of
    the manifest's. `disabled_sources`: left out of the blend. `history_until`: later events are stored and
    hide seen items, but no source reads them (POSIX seconds). `sources`, `updaters`, `filters`: constants by
    name that override the manifest's; a filter named here works although the manifest does not name it.
    `rerankers`: constants by name. `scenarios`: the app's own, by name, as `serving.scenarios` reads them.
    `plugins`: constants by plugin, for hooks that ask for them. `plugin_budget_ms`: the longest a call of a plugin that
    is not first-party may take; `plugin_failures`: how often it may fail before it is called no more.
    `channel_url`: where `update` looks for bundles, a URL or a folder; `channel_root`: the file of the root that the
    app pins; `channel_http`: whether a URL may be plain http beyond this machine.
    `federation`: None or not enabled, nothing is ever sent; `delta_filters`, `transports`: constants by name.
    `filter_events`: whether event filters work at all. `synchronous`: SQLite's pragma; FULL survives power loss.
    `wait_s`: the longest a write waits for another writer. `retention_days`, `retention_events`: older events are
    taken out at open, and the oldest where there are more; None keeps all. `automatic_rollback`: whether a bundle that
    does worse than the one before is rolled back within its first `window_events` positive events or `window_days`.
    """

    updater: str | None = None
    exposed_negatives: int | None = None
    learn_blend: bool = True
    guard: bool = True
    weights: Mapping[str, float] | None = None
    disabled_sources: tuple[str, ...] = ()
    history_until: float | None = None
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    updaters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rerankers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scenarios: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plugin_budget_ms: float = 100.0
    plugin_failures: int = 3
    filter_events: bool = True
    channel_url: str | None = None
    channel_root: str | None = None
    channel_http: bool = False
    wait_s: float = 2.0
    synchronous: str = "NORMAL"
    retention_days: int | None = None
    retention_events: int | None = None
    automatic_rollback: bool = True
    window_events: int = 200
    window_days: float = 60.0
    federation: FederationSettings | None = None
    delta_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    transports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def retains(self) -> bool:
        """Whether events are kept for a time, or up to a number, only."""
        return self.retention_days is not None or self.retention_events is not None


# section.key → (field, accepted types)
_KEYS: dict[str, tuple[str, tuple[type, ...]]] = {
    "learning.updater": ("updater", (str,)),
    "learning.exposed_negatives": ("exposed_negatives", (int,)),
    "learning.guard": ("guard", (bool,)),
    "learning.filter_events": ("filter_events", (bool,)),
    "blend.learn": ("learn_blend", (bool,)),
    "blend.weights": ("weights", (dict,)),
    "sources.disabled": ("disabled_sources", (list, tuple)),
    "channel.url": ("channel_url", (str,)),
    "channel.root": ("channel_root", (str,)),
    "channel.allow_http": ("channel_http", (bool,)),
    "history.until": ("history_until", (int, float)),
    "plugins.budget_ms": ("plugin_budget_ms", (int, float)),
    "plugins.max_failures": ("plugin_failures", (int,)),
    "store.wait_s": ("wait_s", (int, float)),
    "store.synchronous": ("synchronous", (str,)),
    "retention.days": ("retention_days", (int,)),
    "retention.events": ("retention_events", (int,)),
    "install.automatic_rollback": ("automatic_rollback", (bool,)),
    "install.window_events": ("window_events", (int,)),
    "install.window_days": ("window_days", (int, float)),
}
_FEDERATION = "federation"
_OPEN_SECTIONS = (
    "sources",
    "updaters",
    "filters",
    "rerankers",
    "scenarios",
    "plugins",
    "delta_filters",
    "transports",
)
_OPEN = ", ".join(f"[{section}.NAME]" for section in _OPEN_SECTIONS)


def load_config(source: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """A checked Config from a TOML file, a mapping of sections, or None for the defaults."""
    if source is None:
        return Config()
    if isinstance(source, Config):
        return _checked(source)
    data = source if isinstance(source, Mapping) else read_toml(Path(source))
    values: dict[str, Any] = {section: {} for section in _OPEN_SECTIONS}
    for section, content in data.items():
        if not isinstance(content, Mapping):
            raise ConfigError(f"'{section}' must be a section", hint=f"write [{section}] and its keys below")
        if section == _FEDERATION:
            from edgerec.federation_settings import federation_settings  # hardly any app asks for it

            values[section] = federation_settings(content)
            continue
        for key, value in content.items():
            _take(values, section, key, value)
    return _checked(Config(**values))


def read_toml(path: Path) -> Mapping[str, Any]:
    """The tables of a configuration file. Raises ConfigError where it is missing, or not TOML."""
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _take(values: dict[str, Any], section: str, key: str, value: Any) -> None:
    name = f"{section}.{key}"
    if name in _KEYS:
        target, kinds = _KEYS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(f"{name} = {value!r} has the wrong type", hint=f"expected {kinds[0].__name__}")
        values[target] = tuple(value) if isinstance(value, list) else value
    elif section in _OPEN_SECTIONS and isinstance(value, Mapping):
        values[section][key] = value
    else:
        known = ", ".join(sorted(_KEYS))
        raise ConfigError(f"unknown setting {name}", hint=f"known settings: {known}, {_OPEN}")


def _checked(config: Config) -> Config:
    if config.synchronous not in ("NORMAL", "FULL"):
        raise ConfigError(f"store.synchronous = {config.synchronous!r}", hint="NORMAL or FULL")
    if not 0 <= config.wait_s < math.inf:
        raise ConfigError(f"store.wait_s = {config.wait_s!r} must be a number of seconds >= 0")
    for name, value, least in (
        ("retention.days", config.retention_days, 1),
        ("retention.events", config.retention_events, 1),
        ("install.window_events", config.window_events, MIN_WINDOW),
        ("plugins.max_failures", config.plugin_failures, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} = {value!r} must be {least} or more")
    if not 0 < config.window_days < MOST_DAYS:
        raise ConfigError(f"install.window_days = {config.window_days!r}", hint=f"more than 0, less than {MOST_DAYS}")
    if config.exposed_negatives is not None and not 0 <= config.exposed_negatives <= MOST_NEGATIVES:
        raise ConfigError(f"learning.exposed_negatives = {config.exposed_negatives!r}", hint=f"0 to {MOST_NEGATIVES}")
    if not 0 < config.plugin_budget_ms < math.inf:
        raise ConfigError(f"plugins.budget_ms = {config.plugin_budget_ms!r} must be a number of milliseconds > 0")
    if config.weights is not None:
        numbers = [w for w in config.weights.values() if isinstance(w, (int, float)) and 0 <= w < math.inf]
        if len(numbers) != len(config.weights) or not sum(numbers) > 0:
            raise ConfigError("blend.weights must be non-negative numbers, not all zero")
    return config
