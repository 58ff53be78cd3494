"""How every request of the gateway is treated: read within limits, answered in JSON, counted and logged."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from edgerec.errors import EdgeRecError, StoreError
from edgerec_exporters.gateway import logs
from edgerec_exporters.gateway.errors import RoundRefused, TooFewDevices, UnknownRound
from edgerec_exporters.gateway.metrics import Metrics
from edgerec_exporters.gateway.refusal import Refused

_ROUNDS: dict[type[RoundRefused], tuple[int, str]] = {
    UnknownRound: (404, "unknown_round"),
    TooFewDevices: (409, "too_few"),
}
Handler = Callable[[Request], Awaitable[Response]]
_CLOSED = 499
"""In logs and metrics: the client left before its answer, as nginx counts it."""


def told(route: str, metrics: Metrics, handler: Handler) -> Handler:
    """The handler, its refusals and failures turned into answers; every request counted, timed and logged."""

    async def endpoint(request: Request) -> Response:
        began = time.perf_counter()
        response, reason, failure = await _answered(handler, request)
        seconds = time.perf_counter() - began
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.seconds.labels(route).observe(seconds)
        fields: dict[str, Any] = {"route": route, "status": response.status_code, "ms": round(seconds * 1000, 2)}
        if reason:
            metrics.refused.labels(reason).inc()
            fields["reason"] = reason
        logs.say("request", level=40 if failure else 20, error=failure, **fields)
        return response

    return endpoint


async def _answered(handler: Handler, request: Request) -> tuple[Response, str, BaseException | None]:
    """The answer; why it was refused, "" where it was not; the failure behind it, where the gateway is to blame."""
    try:
        return await handler(request), "", None
    except Refused as refused:
        return refusal(refused), refused.reason, None
    except ClientDisconnect:
        return Response(status_code=_CLOSED), "disconnected", None
    except (StoreError, SQLAlchemyError) as error:
        busy = Refused(503, "store", "the gateway cannot write at the moment; send it again", wait_s=5)
        return refusal(busy), busy.reason, error
    except RoundRefused as error:
        status, reason = _ROUNDS.get(type(error), (409, "round"))
        return refusal(Refused(status, reason, str(error))), reason, None
    except EdgeRecError as error:
        return refusal(Refused(500, "failed", str(error))), "failed", error
    except Exception as error:
        return refusal(Refused(500, "failed", "the gateway failed")), "failed", error


def refusal(refused: Refused) -> Response:
    """As an answer. The connection ends with it: what is left of the body is nobody's next request."""
    headers = {"connection": "close"}
    if refused.wait_s is not None:
        headers["retry-after"] = str(max(1, ceil(refused.wait_s)))
    if refused.status == 401:
        headers["www-authenticate"] = "EdgeRec"
    if refused.status == 426:
        headers["upgrade"] = "edgerec-bundle"
    content = {"error": refused.text, "reason": refused.reason, **refused.told}
    return JSONResponse(content, refused.status, headers=headers)


async def body_of(request: Request, most: int, *, within_s: float) -> bytes:
    """The body, of which never more than `most` bytes and one piece from the network are held. Raises Refused: 413
    where it is longer, said or not; 408 where it takes longer than `within_s` seconds.
    """
    too_long = Refused(413, "size", f"more than {most} bytes", told={"most": most})
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or len(said) > 15 or int(said) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                if len(body) + len(piece) > most:
                    raise too_long
                body += piece
    except TimeoutError:
        raise Refused(408, "slow", f"the body took more than {within_s:g} s") from None
    return bytes(body)


async def json_of(request: Request, most: int, *, within_s: float) -> dict[str, Any]:
    """The body as a JSON object. Raises Refused."""
    body = await body_of(request, most, within_s=within_s)
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(422, "form", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refused(422, "form", "the body is not a JSON object")
    return found
