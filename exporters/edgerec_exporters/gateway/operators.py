"""Rounds over HTTP, for operators with a token: the store's functions, and no more than these."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from edgerec_exporters.gateway import tokens
from edgerec_exporters.gateway.http import Handler, json_of
from edgerec_exporters.gateway.refusal import Refused
from edgerec_exporters.gateway.rounds import Round
from edgerec_exporters.gateway.store import GatewayStore

_BEARER = re.compile(r"Bearer ([\x21-\x7e]{1,256})")
_MOST_BODY = 1 << 26
_BODY_S = 300.0
_Asked = dict[str, Any]


class Operators:
    """The round endpoints over a store."""

    def __init__(self, store: GatewayStore) -> None:
        self._store = store

    def routes(self) -> list[tuple[str, str, str, Handler]]:
        """Path, method, name and handler."""
        at = "/v1/rounds/{number:int}"
        return [
            (at, "GET", "round", self._guarded(self._show)),
            (at, "PUT", "round_open", self._guarded(self._open)),
            (f"{at}/ids", "GET", "round_ids", self._guarded(self._ids)),
            (f"{at}/close", "POST", "round_close", self._guarded(self._close)),
            (f"{at}/rows", "POST", "round_rows", self._guarded(self._rows)),
            (f"{at}/sum", "POST", "round_sum", self._guarded(self._sum)),
        ]

    def _guarded(self, work: Callable[[int, _Asked], Response]) -> Handler:
        """The work in a thread, for operators only."""

        async def handler(request: Request) -> Response:
            bearer = _BEARER.fullmatch(request.headers.get("authorization", ""))
            if bearer is None or not await run_in_threadpool(self._is_operator, bearer.group(1)):
                raise Refused(401, "operator", "rounds need an operator's token")
            asked: _Asked = {}
            if request.method != "GET":
                asked = await json_of(request, _MOST_BODY, within_s=_BODY_S)
            return await run_in_threadpool(work, request.path_params["number"], asked)

        return handler

    def _is_operator(self, token: str) -> bool:
        with self._store.reading() as connection:
            return tokens.is_operator(connection, token, int(self._store.clock()))

    def _show(self, number: int, _asked: _Asked) -> Response:
        return JSONResponse(_told(self._store.round(number)))

    def _open(self, number: int, asked: _Asked) -> Response:
        version = asked.get("bundle_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise Refused(422, "form", "'bundle_version' must be a whole number")
        return JSONResponse(_told(self._store.open_round(number, version)))

    def _ids(self, number: int, _asked: _Asked) -> Response:
        return JSONResponse({**_told(self._store.round(number)), "ids": self._store.ids_of(number)})

    def _close(self, number: int, asked: _Asked) -> Response:
        ids = self._store.close_round(number, _ids_in(asked), minimum=_minimum_in(asked))
        return JSONResponse({**_told(self._store.round(number)), "ids": ids})

    def _rows(self, number: int, asked: _Asked) -> Response:
        self._store.close_round(number, _ids_in(asked), minimum=_minimum_in(asked))
        ids, rows = self._store.rows_of(number)
        return _arrays(ids=np.array(ids, "S32"), rows=rows)

    def _sum(self, number: int, asked: _Asked) -> Response:
        ids = _ids_in(asked)
        if ids is None:
            raise Refused(422, "form", "'ids' is missing: the deltas of which both gateways have a share")
        return _arrays(sum=self._store.sum_of(ids, number))


def _told(one: Round) -> dict[str, Any]:
    return {
        "round": one.number,
        "bundle_version": one.bundle_version,
        "opened": one.opened,
        "closed": one.closed,
        "answered": one.answered,
    }


def _ids_in(asked: _Asked) -> list[str] | None:
    ids = asked.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise Refused(422, "form", "'ids' must be a list of texts")
    return ids


def _minimum_in(asked: _Asked) -> int:
    minimum = asked.get("minimum", 1)
    if not isinstance(minimum, int) or isinstance(minimum, bool):
        raise Refused(422, "form", "'minimum' must be a whole number")
    return minimum


def _arrays(**arrays: Any) -> Response:
    """Arrays as numpy's npz, sent from a file, because a round's rows may be larger than what memory is left."""
    handle, name = tempfile.mkstemp(prefix="edgerec-round-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    done = BackgroundTask(Path(name).unlink, missing_ok=True)
    return FileResponse(name, media_type="application/octet-stream", background=done)
