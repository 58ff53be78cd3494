"""Transport `https`: deltas go to a gateway, in signed requests (docs/gateway-protocol.md).

What it needs, urllib3 and cryptography, is an extra, `edgerec[sync]`; it is loaded when a sync makes the transport, so
that an app that never syncs, or does so by other ways, does not pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgerec.errors import MissingDistribution
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, TransportFactory

if TYPE_CHECKING:
    from edgerec_plugins.gateway_client import Https


def https(settings: Settings) -> Https:
    """The transport. Raises ConfigError, or MissingDistribution without the extra."""
    try:
        from edgerec_plugins.gateway_client import Https
    except ModuleNotFoundError as error:
        raise MissingDistribution(f"https needs {error.name}", hint="pip install 'edgerec[sync]'") from None
    return Https(settings)


@hookimpl
def edgerec_transports() -> Mapping[str, TransportFactory]:
    return {"https": https}
