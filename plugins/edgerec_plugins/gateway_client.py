"""The client of a gateway, which the plugin `https` registers. docs/gateway-protocol.md writes down what it says.

The device enrols with an Ed25519 key of its own, made here at the first sync and never told to anybody. An upload that
was interrupted is sent again whole, under the same id: it is 64 KiB at most, and the gateway takes each id once.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerec.bundle.federated import MAX_PAYLOAD
from edgerec.deltas import DeltaRefused, TransportError
from edgerec.errors import ConfigError
from edgerec.files import write_private
from edgerec.interfaces import Settings
from edgerec_plugins.settings import SettingsReader

KEY_FILE = "device.key"
ENROLLED = "enrolled"
"""Beside the key, once the gateway of that URL knows it."""
MOST_ANSWER = 1 << 14
"""Bytes of an answer that are looked at."""
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_DONE = (200, 201)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_FOR_GOOD = (409, 413, 422, 426)
_FIRST_WAIT_S = 0.5


class Answer(NamedTuple):
    """What a gateway said: `told` is its JSON, empty where it is none."""

    status: int
    told: Mapping[str, Any]
    retry_after: str | None

    @property
    def reason(self) -> str:
        """Its own words, on one line."""
        said = self.told.get("error")
        text = re.sub(r"[^\x20-\x7e]+", " ", said)[:200] if isinstance(said, str) else ""
        return f"status {self.status}{': ' if text else ''}{text}"


class Https:
    name = "https"

    def __init__(self, settings: Settings) -> None:
        """`url`: the gateway's, without `/v1` · `token`: what its operator asks for at enrolment · `ca_file`: trusted
        instead of the system's authorities · `allow_http`: plain http beyond this machine, for tests of the app's own ·
        `tries`, `timeout_s` (a connection, a byte), `most_wait_s` (between two tries), `most_bytes` of a delta.

        Raises ConfigError.
        """
        take = SettingsReader("https", settings)
        self.url = _checked_url(take.text("url", ""), take.flag("allow_http", False))
        self._token = take.text("token", "") or None
        self._ca_file = take.text("ca_file", "") or None
        self._tries = take.whole("tries", 3, 1, 10)
        self._timeout_s = take.number("timeout_s", 15.0, 0, 600, above_low=True)
        self._most_wait_s = take.number("most_wait_s", 10.0, 0, 600)
        self._most_bytes = take.whole("most_bytes", MAX_PAYLOAD, 1, 1 << 30)
        take.done()
        self._context = _tls(self._ca_file) if self.url.startswith("https:") else None
        self._folder: Path | None = None
        self._raw_key: bytes | None = None
        self._offset = 0.0
        self._now = time.time
        self._sleep = time.sleep

    def keep_in(self, folder: Path) -> None:
        """Where the key lives from now on."""
        self._folder = folder

    def send(self, payload: bytes, *, delta_id: str) -> None:
        """Enrols where that was not done yet, and uploads.

        Raises DeltaRefused where the gateway will never count the delta (it is unsound, or of a bundle version that is
        closed), TransportError where it did not get through, or not to anybody who is trusted.
        """
        if not _PLAIN.fullmatch(delta_id):
            raise TransportError(f"https: {delta_id!r} is no plain id", hint="letters, digits, . _ -")
        if len(payload) > self._most_bytes:
            raise DeltaRefused(f"https: {len(payload)} bytes, more than {self._most_bytes}")
        key = self._key()
        if not self._is_enrolled():
            self._enrol(key)
        answer = self._request("PUT", f"/v1/deltas/{delta_id}", payload, key)
        if answer.status == 403 and answer.told.get("reason") == "unknown_key":  # it lost its memory, we did not
            self._enrol(key)
            answer = self._request("PUT", f"/v1/deltas/{delta_id}", payload, key)
        if answer.status in _FOR_GOOD:
            raise DeltaRefused(f"https: refused for good, {answer.reason}")
        if answer.status not in _DONE:
            raise TransportError(f"https: {answer.reason}")

    def _enrol(self, key: Ed25519PrivateKey) -> None:
        asked = {"public_key": key.public_key().public_bytes_raw().hex()}
        if self._token is not None:
            asked["token"] = self._token
        answer = self._request("POST", "/v1/enrol", json.dumps(asked).encode(), None)
        if answer.status not in _DONE:
            raise TransportError(f"https: the gateway does not enrol this device, {answer.reason}")
        if self._folder is not None:
            _write(self._folder / ENROLLED, self.url.encode())

    def _is_enrolled(self) -> bool:
        try:
            return self._folder is not None and (self._folder / ENROLLED).read_bytes() == self.url.encode()
        except OSError:
            return False

    def _key(self) -> Ed25519PrivateKey:
        """The device's key, read anew each time: whoever forgot meanwhile has another one."""
        path = None if self._folder is None else self._folder / KEY_FILE
        try:
            raw = self._raw_key if path is None else path.read_bytes()
        except FileNotFoundError:
            raw = None
        except OSError as error:
            raise TransportError(f"https: the device's key cannot be read: {error.strerror}") from error
        if raw is None or len(raw) != 32:
            raw = os.urandom(32)
            if path is None:
                self._raw_key = raw
            else:
                (path.parent / ENROLLED).unlink(missing_ok=True)
                _write(path, raw)
        return Ed25519PrivateKey.from_private_bytes(raw)

    def _request(self, method: str, path: str, body: bytes, key: Ed25519PrivateKey | None) -> Answer:
        """One request, tried again where that may help. Raises TransportError where no answer comes."""
        corrected = False
        for left in reversed(range(self._tries)):
            tried = self._try(method, path, body, key)
            if isinstance(tried, Answer):
                theirs = tried.told.get("time")
                if tried.status == 401 and isinstance(theirs, int) and not corrected and left:
                    corrected, self._offset = True, theirs - self._now()  # the device's clock is wrong
                    continue
                if tried.status not in _AGAIN:
                    return tried
            said, asked = (tried.reason, tried.retry_after) if isinstance(tried, Answer) else (tried, None)
            wait = self._wait_s(self._tries - 1 - left, asked)
            if not left or wait > self._most_wait_s:
                later = f"; try again in {wait:.0f} s" if asked else ""
                raise TransportError(f"https: {said}{later}", hint="the delta is kept and sent with the next sync")
            self._sleep(wait)
        raise TransportError("https: the gateway does not take this device's time")

    def _try(self, method: str, path: str, body: bytes, key: Ed25519PrivateKey | None) -> Answer | str:
        """An answer, or why there is none but may be at the next try. Raises TransportError for a peer that is not
        trusted."""
        timeout = urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s)
        path = urlsplit(self.url).path + path
        headers = {"Content-Type": "application/octet-stream" if key else "application/json", "User-Agent": "edgerec"}
        if key is not None:
            headers |= self._signed(key, method, path, body)
        place = urlsplit(self.url)
        with urllib3.PoolManager(retries=False, timeout=timeout, ssl_context=self._context) as pool:
            try:
                response = pool.request(
                    method,
                    f"{place.scheme}://{place.netloc}{path}",
                    body=body,
                    headers=headers,
                    redirect=False,
                    preload_content=False,
                )
                try:
                    said = response.read(MOST_ANSWER, decode_content=False)
                finally:
                    response.close()
            except urllib3.exceptions.SSLError as error:
                raise TransportError(f"https: the gateway is not trusted: {_first_line(error)}") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                return f"the gateway cannot be reached: {_first_line(error)}"
        return Answer(response.status, _json(said), response.headers.get("Retry-After"))

    def _signed(self, key: Ed25519PrivateKey, method: str, path: str, body: bytes) -> dict[str, str]:
        """The four headers; a time and a nonce of their own for every try, since a gateway takes each nonce once."""
        now, nonce = str(max(int(self._now() + self._offset), 0)), os.urandom(16).hex()
        message = "\n".join((method, path, now, nonce, sha256(body).hexdigest()))
        return {
            "X-Edgerec-Key": key.public_key().public_bytes_raw().hex(),
            "X-Edgerec-Time": now,
            "X-Edgerec-Nonce": nonce,
            "X-Edgerec-Signature": key.sign(message.encode()).hex(),
        }

    def _wait_s(self, tries: int, asked: str | None) -> float:
        """What the gateway asks for, or twice as long with every try, of which a random half at least."""
        if asked is not None and (seconds := self._seconds(asked)) is not None:
            return seconds
        return min(_FIRST_WAIT_S * 2.0**tries, self._most_wait_s) * random.SystemRandom().uniform(0.5, 1)

    def _seconds(self, asked: str) -> float | None:
        if asked.isascii() and asked.isdecimal() and len(asked) < 10:
            return float(asked)
        try:
            return max(parsedate_to_datetime(asked).timestamp() - self._now(), 0.0)
        except (ValueError, TypeError, OverflowError):
            return None


def _checked_url(url: str, allow_http: bool) -> str:
    parts = urlsplit(url)
    try:
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.scheme not in ("https", "http") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"https: 'url' cannot be {url!r}", hint="a plain https://host/path")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname or ""):
        raise ConfigError("https: 'url' is not https", hint="plain http is for this machine alone, or with allow_http")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"https: 'ca_file' {ca_file} cannot be used: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, data)
    except OSError as error:
        raise TransportError(f"https: {path.name} cannot be written: {error.strerror}") from error


def _json(said: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(error: BaseException) -> str:
    return re.sub(r"[^\x20-\x7e]+", " ", str(error))[:200] or type(error).__name__
