"""The gateway's HTTP service: devices enrol and send deltas, operators watch it and ask for rounds."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import TypeVar

from sqlalchemy import Connection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from edgerec.federation.encoding import Payload
from edgerec_exporters.gateway import inbox, logs, pruning, signing
from edgerec_exporters.gateway.http import Handler, body_of, json_of, told
from edgerec_exporters.gateway.inbox import Arrival, Enrolment, Outcome
from edgerec_exporters.gateway.limits import Limiter, asker_of
from edgerec_exporters.gateway.metrics import CONTENT_TYPE, Metrics
from edgerec_exporters.gateway.operators import Operators
from edgerec_exporters.gateway.refusal import Refused
from edgerec_exporters.gateway.settings import Settings
from edgerec_exporters.gateway.signing import Signed
from edgerec_exporters.gateway.store import GatewayStore
from edgerec_exporters.gateway.validation import Validator
from edgerec_exporters.gateway.writer import Writer

T = TypeVar("T")
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_ENROLMENT = 4096
_UPKEEP_S = 600.0
_MOST_KNOWN = 200_000
_REFUSALS = {
    Outcome.CONFLICT: (409, "conflict", "another delta is here under this id"),
    Outcome.UNKNOWN: (403, "unknown_key", "this key is not enrolled here"),
    Outcome.BLOCKED: (403, "blocked", "nothing more is taken from this key"),
    Outcome.REPLAYED: (401, "replayed", "a request with this nonce was here before"),
    Outcome.FULL: (429, "round_full", "this key's delta waits for a round already"),
}


class Gateway:
    """The service over one store. The bundles that are open, and the policy, are those of the store when it starts.

    `monotonic` gives seconds that never go back. The store stays open when the service ends.
    """

    def __init__(
        self, store: GatewayStore, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._settings = store, settings
        self._policy = store.policy
        self._validator = Validator(store.bundles(), self._policy.mode, local_noise=settings.local_noise)
        self._most = self._validator.largest()
        self._metrics = Metrics(self._waiting)
        self._addresses, self._keys, self._enrolments = (
            Limiter(rate, monotonic) for rate in (settings.per_address, settings.per_key, settings.enrolments)
        )
        self._enrolled: set[bytes] = set()
        self._writer: Writer | None = None

    def app(self) -> Starlette:
        """The ASGI application."""
        operators = Operators(self._store)
        routes = [
            ("/health", "GET", "health", self._health),
            ("/metrics", "GET", "metrics", self._show_metrics),
            ("/v1/status", "GET", "status", self._status),
            ("/v1/enrol", "POST", "enrol", self._enrol),
            ("/v1/deltas/{id}", "PUT", "deltas", self._put),
            *operators.routes(),
        ]
        return Starlette(
            routes=[
                Route(path, told(name, self._metrics, self._admitted(handler)), methods=[method])
                for path, method, name, handler in routes
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._writer = Writer(self._store, on_batch=self._metrics.batch.observe)
        upkeep = asyncio.create_task(self._keep_up())
        try:
            yield
        finally:
            upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upkeep
            await run_in_threadpool(self._writer.close)

    async def _keep_up(self) -> None:
        """Prunes now and then; what fails is logged, and tried again."""
        keep = self._settings
        days = {"counted_days": keep.counted_days, "waiting_days": keep.waiting_days, "ids_days": keep.ids_days}
        while True:
            try:
                done = await run_in_threadpool(self._store.prune, **days)
                logs.say("pruned", counts=done)
            except Exception as error:
                logs.say("upkeep failed", level=40, error=error)
            await asyncio.sleep(_UPKEEP_S)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        assert self._writer is not None, "the service has not started"
        return await asyncio.wrap_future(self._writer.submit(work))

    # What devices ask

    async def _put(self, request: Request) -> Response:
        delta_id = request.path_params["id"]
        if not _ID.fullmatch(delta_id) or request.url.query:
            raise Refused(422, "id", "a delta's address ends in its id, 32 hexadecimal digits")
        signed = self._signed(request)
        await self._check_enrolled(signed.key)
        body = await body_of(request, self._most, within_s=self._settings.body_s)
        self._metrics.bytes.inc(len(body))
        digest = sha256(body)
        if not signed.proves("PUT", request.scope["raw_path"].decode("ascii"), digest.hexdigest()):
            raise Refused(401, "signature", "the signature is not this key's, of this request")
        if wait_s := self._keys.wait_s(signed.key):
            raise Refused(429, "rate_key", "this key asks too often", wait_s=wait_s)
        refused, kept = self._checked(delta_id, body)
        arrival = Arrival(
            key=signed.key,
            nonce=signed.nonce,
            nonce_expires=signed.time + self._settings.window_s + 1,
            id=delta_id,
            bundle_version=kept.bundle_version if kept else 0,
            kind=kept.kind if kept else 0,
            digest=digest.digest(),
            payload=body if kept else None,
            arrived=int(self._store.clock()),
        )
        outcome = await self._write(lambda c: inbox.accept(c, arrival, self._policy.most_per_round))
        if outcome is Outcome.ABSENT and refused is not None:
            raise refused
        return self._acknowledged(outcome)

    def _checked(self, delta_id: str, body: bytes) -> tuple[Refused | None, Payload | None]:
        """The payload; or why it is refused if it is new. Of a bundle version that is not open it may have been
        acknowledged, and counted, before: whoever sends it again must be told that, or would count it anew.
        """
        try:
            return None, self._validator.check(delta_id, body)
        except Refused as refused:
            if refused.status != 426:
                raise
            refused.told["bundle_versions"] = self._validator.versions
            return refused, None

    def _acknowledged(self, outcome: Outcome) -> Response:
        if outcome in _REFUSALS:
            status, reason, text = _REFUSALS[outcome]
            raise Refused(status, reason, text, wait_s=3600 if outcome is Outcome.FULL else None)
        self._metrics.deltas.labels(outcome.value).inc()
        return JSONResponse({"status": outcome.value}, 201 if outcome is Outcome.STORED else 200)

    def _signed(self, request: Request) -> Signed:
        signed = signing.read(request.headers)
        if signed is None:
            raise Refused(401, "unsigned", "a header of the signature is missing, or of another form")
        now = self._store.clock()
        if abs(now - signed.time) > self._settings.window_s:
            text = f"the request's time is more than {self._settings.window_s} s from the gateway's"
            raise Refused(401, "stale", text, told={"time": int(now)})
        return signed

    async def _check_enrolled(self, key: bytes) -> None:
        """Raises Refused for a key that nobody enrolled. Keys that were found are remembered: none is ever taken out,
        and what a blocked one sends is refused when it is written.
        """
        if key in self._enrolled:
            return
        if not await run_in_threadpool(self._is_enrolled, key):
            status, reason, text = _REFUSALS[Outcome.UNKNOWN]
            raise Refused(status, reason, text)
        if len(self._enrolled) >= _MOST_KNOWN:
            self._enrolled.clear()
        self._enrolled.add(key)

    def _is_enrolled(self, key: bytes) -> bool:
        with self._store.reading() as connection:
            return inbox.is_enrolled(connection, key)

    async def _enrol(self, request: Request) -> Response:
        _admit(self._enrolments, request)
        asked = await json_of(request, _MOST_ENROLMENT, within_s=self._settings.body_s)
        key, token = asked.get("public_key"), asked.get("token")
        if not isinstance(key, str) or not signing.is_key(key):
            raise Refused(422, "form", "'public_key' must be an Ed25519 key, 64 hexadecimal digits")
        if token is not None and not isinstance(token, str):
            raise Refused(422, "form", "'token' must be a text")
        required, now = self._settings.token_required, int(self._store.clock())
        raw = bytes.fromhex(key)
        done = await self._write(lambda c: inbox.enrol(c, raw, token, required=required, now=now))
        if done is Enrolment.REFUSED:
            raise Refused(403, "token", "a token is needed to enrol, and this is none, used up or expired")
        if done is Enrolment.BLOCKED:
            raise Refused(403, "blocked", "nothing more is taken from this key")
        if done is Enrolment.ENROLLED:
            self._metrics.enrolments.inc()
        return JSONResponse({"status": done.value}, 201 if done is Enrolment.ENROLLED else 200)

    def _admitted(self, handler: Handler) -> Handler:
        async def admitted(request: Request) -> Response:
            _admit(self._addresses, request)
            return await handler(request)

        return admitted

    # What operators watch

    async def _health(self, _request: Request) -> Response:
        waiting = await run_in_threadpool(self._waiting)  # a store that cannot be read is no health
        return JSONResponse({"status": "ok", "waiting": waiting})

    async def _show_metrics(self, _request: Request) -> Response:
        return PlainTextResponse(await run_in_threadpool(self._metrics.text), media_type=CONTENT_TYPE)

    async def _status(self, _request: Request) -> Response:
        """What a device must know before it sends."""
        return JSONResponse(
            {
                "mode": self._policy.mode,
                "bundle_versions": self._validator.versions,
                "payload_bytes": self._validator.sizes(),
                "token_required": self._settings.token_required,
                "window_s": self._settings.window_s,
                "time": int(self._store.clock()),
            }
        )

    def _waiting(self) -> int:
        with self._store.reading() as connection:
            return pruning.waiting(connection)


def _admit(limiter: Limiter, request: Request) -> None:
    """Raises Refused where the request's address asks too often."""
    address = request.client.host if request.client else None
    if wait_s := limiter.wait_s(asker_of(address)):
        raise Refused(429, "rate_address", "too many requests from this address", wait_s=wait_s)
