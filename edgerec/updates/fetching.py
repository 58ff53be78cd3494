"""Fetches a channel's files over HTTP, or from a folder, with bounds on time; python-tuf bounds the bytes.

The standard library's client is used because its sockets can be watched while they trickle: a server that sends a byte
now and then, in headers or body, would outlast any timeout that starts anew with every byte.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from edgerec.errors import ChannelError
from edgerec.version import __version__

GAP_S = 15.0
"""The longest wait for a connection, or for the next byte."""
GRACE_S = 30.0
SLOWEST = 2048.0
"""An answer may take `GRACE_S` seconds, and one more for every so many bytes of it that came."""
RETRY_S = 0.25
"""After a failure that may pass (no connection, status 5xx) a request is made once more, so much later."""

_CHUNK = 1 << 16


def checked_place(place: str, *, allow_http: bool) -> str:
    """A channel's URL or folder without a slash at its end. Raises ChannelError for one that cannot be used."""
    if "://" not in place:
        if not Path(place).is_dir():
            raise ChannelError("the channel is no folder and no URL", hint="https://…, or a folder")
        return Path(place).as_posix()
    parts = urlsplit(place)
    if parts.query or parts.fragment or parts.username:
        raise ChannelError("the channel's URL has a query, a fragment or a user", hint="a plain https://host/path")
    if not _is_allowed(place, allow_http):
        raise ChannelError(
            "the channel's URL is not https", hint="plain http is for this machine alone, or with channel.allow_http"
        )
    return place.rstrip("/")


def _is_allowed(url: str, allow_http: bool) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and (allow_http or _is_loopback(parts.hostname or "")))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Fetcher(FetcherInterface):
    """What python-tuf asks for files: `_fetch` yields the bytes of a URL, or of a path, or raises DownloadError."""

    def __init__(self, *, allow_http: bool) -> None:
        self._opener = urllib.request.build_opener(_Http, _Https, _Redirects(allow_http))
        self._opener.addheaders = [("User-Agent", f"edgerec/{__version__}")]

    def _fetch(self, url: str) -> Iterator[bytes]:
        source = self._requested(url) if "://" in url else _opened(Path(url))
        with closing(source):
            while piece := _read(source):
                yield piece

    def _requested(self, url: str) -> Any:
        try:
            return self._answer(url)
        except SlowRetrievalError:
            raise
        except DownloadError as error:
            if isinstance(error, DownloadHTTPError) and error.status_code < 500:
                raise
        time.sleep(RETRY_S)
        return self._answer(url)

    def _answer(self, url: str) -> Any:
        try:
            return self._opener.open(url, timeout=GAP_S)
        except HTTPError as error:
            error.close()
            raise DownloadHTTPError(f"status {error.code}", error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise _failure(error) from error


def _opened(path: Path) -> Any:
    try:
        return io.FileIO(path)
    except FileNotFoundError:
        raise DownloadHTTPError(f"no {path.name}", 404) from None
    except OSError as error:
        raise DownloadError(f"{path.name}: {error.strerror}") from error


def _read(source: Any) -> bytes:
    """The next bytes as they come, none at the end."""
    try:
        piece: bytes = source.read1(_CHUNK) if hasattr(source, "read1") else source.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(error) from error
    return piece


def _failure(error: Exception) -> DownloadError:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return SlowRetrievalError("no answer in time")
    return DownloadError(f"{type(cause).__name__}: {cause}")


class _Paced(io.RawIOBase):
    """A socket's bytes, as long as they come fast enough on the whole. Raises TimeoutError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._began = time.monotonic()
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._began + GRACE_S + self._received / SLOWEST - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self._sock.settimeout(min(GAP_S, left))
        count: int | None = self._raw.readinto(buffer)
        self._received += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Paced(sock))


class _HttpConnection(http.client.HTTPConnection):
    response_class = _Response


class _HttpsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_HttpConnection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_HttpsConnection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only to where the channel itself might have been."""

    def __init__(self, allow_http: bool) -> None:
        self._allow_http = allow_http

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_allowed(newurl, self._allow_http):
            raise HTTPError(req.full_url, code, "leads to a place that is not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
