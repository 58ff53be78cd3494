"""How a delta leaves: the filters it goes through, whole or in two shares, by which transports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerec.bundle.federated import MAX_PAYLOAD, RING_WIDTH, BlockSpec, payload_size
from edgerec.config import Config
from edgerec.deltas import Delta, DeltaError, SystemChance, filtered
from edgerec.errors import ConfigError, EdgeRecError, StoreError
from edgerec.federation.encoding import encode
from edgerec.federation.rounding import rounded
from edgerec.federation.shares import split
from edgerec.federation_settings import KEYS, SPLIT_MODE, FederationSettings
from edgerec.interfaces import FAILURES, DeltaFilter, KeepingTransport, Settings, Transport
from edgerec.plugins import Plugins

_PLUGIN = "plugin"


class Outgoing:
    """Filters and transports as the app configured them. Raises ConfigError, PluginNotFound, PluginError or
    StoreError."""

    def __init__(self, config: Config, settings: FederationSettings, plugins: Plugins, data_dir: Path) -> None:
        self.settings = settings
        self._chance = SystemChance()
        self._filters: list[DeltaFilter] = []
        for name in settings.filters:
            plugin, constants = _implementation(name, config.delta_filters)
            self._filters += plugins.delta_filters({plugin: constants})
        names = [name for name in (settings.transport, settings.second) if name is not None]
        self.transports: list[Transport] = []
        for name in names:
            plugin, constants = _implementation(name, config.transports)
            transport = plugins.transport(plugin, constants)
            if isinstance(transport, KeepingTransport):
                transport.keep_in(_made(data_dir / KEYS / name))
            self.transports.append(transport)

    def parts(self, delta: Delta, specs: Sequence[BlockSpec]) -> tuple[bytes, ...]:
        """The delta as it travels, filtered, rounded and encoded: one payload, or two shares.

        Raises DeltaError where a filter refuses it or gives something else than a delta of the declared blocks.
        """
        for one in self._filters:
            delta = filtered(delta, self._run(one, delta))
        payload = encode(rounded(delta, specs, self._chance), specs)
        return split(payload) if self.settings.mode == SPLIT_MODE else (payload,)

    def _run(self, one: DeltaFilter, delta: Delta) -> Delta:
        try:
            return one.filter(delta, self._chance)
        except EdgeRecError:
            raise
        except FAILURES as error:  # nothing is sent without a filter that was asked for
            raise DeltaError(f"delta filter {one.name} failed: {type(error).__name__}") from error

    def check_size(self, specs: Sequence[BlockSpec]) -> None:
        """Raises ConfigError where the bundle's blocks fit one payload, but not a share."""
        size = payload_size(specs, RING_WIDTH)
        if self.settings.mode == SPLIT_MODE and size > MAX_PAYLOAD:
            raise ConfigError(
                f"federation.mode = split: a share would take {size} bytes, more than {MAX_PAYLOAD}",
                hint="this bundle's blocks travel in mode open only",
            )


def _implementation(name: str, sections: Mapping[str, Settings]) -> tuple[str, dict[str, Any]]:
    """The plugin's name, which `plugin` says where the section is called otherwise, and its constants."""
    constants = dict(sections.get(name, {}))
    plugin = constants.pop(_PLUGIN, name)
    if not isinstance(plugin, str):
        raise ConfigError(f"{name}: plugin = {plugin!r} must be a name")
    return plugin, constants


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}", hint="is data_dir writable?") from None
    return folder
