"""Runs the gateway as a process: the socket, TLS, uvicorn."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import uvicorn

from edgerec.errors import ConfigError
from edgerec_exporters.gateway import logs
from edgerec_exporters.gateway.app import Gateway
from edgerec_exporters.gateway.patience import PatientProtocol
from edgerec_exporters.gateway.settings import Settings
from edgerec_exporters.gateway.store import GatewayStore

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEAD_BYTES = 16_384
_BACKLOG = 2048
_SHUTDOWN_S = 15


def serve(
    store: GatewayStore,
    settings: Settings,
    *,
    host: str,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM; what was begun is finished first. `port` 0 takes any that is free, and the log
    says which. Raises ConfigError where it cannot listen, or would speak plain HTTP beyond this machine.
    """
    if (certificate is None) != (key is None):
        raise ConfigError("gateway: a certificate and its key come together", hint="--tls-cert and --tls-key")
    if certificate is None and host not in _LOOPBACK and not settings.behind_tls:
        raise ConfigError(
            f"gateway: plain HTTP on {host}",
            hint="give --tls-cert and --tls-key, or set behind_tls where something before it speaks TLS",
        )
    server = server_of(store, settings, certificate=certificate, key=key)
    with listening(host, port) as listener:
        logs.say("listening", port=listener.getsockname()[1], tls=certificate is not None)
        server.run(sockets=[listener])


def server_of(
    store: GatewayStore, settings: Settings, *, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """The server, to be run on a socket that listens. Raises ConfigError for a certificate that cannot be used."""
    config = uvicorn.Config(
        Gateway(store, settings).app(),
        http=partial(PatientProtocol, head_s=settings.head_s),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies) or None,
        limit_concurrency=settings.connections,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()  # reads the certificate
    except OSError as error:
        raise ConfigError(f"gateway: the certificate or its key cannot be used: {error}") from None
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; `port` 0 takes any that is free. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, for else asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"gateway: cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return listener
