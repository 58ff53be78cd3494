"""What a device reads beside bundles: learned states, an app's conditions and settings, events."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle import Flags, Labels, Numbers, Tags
from edgerec.bundle.catalogue import Column
from edgerec.config import Config, load_config
from edgerec.event_rows import MAX_CONTEXT, MAX_TEXT, event_row
from edgerec.serving.where import filter_of
from edgerec.store.blob import decode_state, encode_state
from edgerec.types import Event
from edgerec_tools.fuzz.bundle_targets import manifest
from edgerec_tools.fuzz.target import Run, promise

_NOW = 1_700_000_000.0
_MAGIC = b"ers1"


def make_blob(_: Path) -> Run:
    """A blob as it is, or its header and, behind a line end, its data: length and checksum are then made to fit."""

    def run(data: bytes) -> None:
        if data[:4] != _MAGIC:
            header, _, arrays = data.partition(b"\n")
            body = len(header).to_bytes(4, "little") + header + arrays
            data = _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
        state = decode_state(data)
        again = decode_state(encode_state(state))
        promise(list(again) == list(state), "the same names when it is written again")
        for name, array in state.items():
            promise(not array.flags.writeable, "read-only arrays")
            same = again[name].dtype == array.dtype and again[name].shape == array.shape
            promise(same and again[name].tobytes() == array.tobytes(), "the same arrays when it is written again")

    return run


class Shelf:
    """A catalogue of four items, the last of which has no attributes."""

    n_items = 4

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {
            "price": Numbers(np.array([1.0, 2.5, 9.0, math.nan])),
            "colour": Labels(np.array([0, 1, 0, -1], np.int32), ("red", "blue")),
            "new": Flags(np.array([1, 0, 1, -1], np.int8)),
            "tags": Tags(np.array([0, 2, 2, 3, 3]), np.array([0, 1, 1], np.int32), ("a", "b")),
        }

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def attribute(self, name: str) -> Column | None:
        return self._columns.get(name)


def make_where(_: Path) -> Run:
    """An expression, or where it is a JSON object pairs."""
    shelf = Shelf()

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        where = _json(text) if text.startswith("{") else text
        chosen = filter_of(where if isinstance(where, dict) else text)
        mask = chosen.mask(shelf)
        promise(mask.dtype == np.bool_ and mask.shape == (4,), "one answer per item")

    return run


def make_config(home: Path) -> Run:
    path = home / "edgerec.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        config = load_config(path)
        promise(isinstance(config, Config) and load_config(config) is config, "what was checked stays as it is")
        promise(0 <= config.wait_s < math.inf and 0 < config.plugin_budget_ms < math.inf, "limits are limits")
        promise(isinstance(config.updater, (str, type(None))), "names are text")

    return run


def make_event(_: Path) -> Run:
    """A JSON object holds the fields of an event; other inputs are the item of one."""
    known = manifest()

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        given = _json(text)
        fields = given if isinstance(given, Mapping) else {"item": text}
        row = event_row(_event(fields), known, _NOW)
        for value in (row.item, row.event_id, row.group, row.recommendation_id):
            promise(value is None or 0 < len(value.encode()) <= 4 * MAX_TEXT, "texts that can be stored")
        promise(row.kind in known.event_kinds, "a kind that the bundle knows")
        promise(row.value is None or math.isfinite(row.value), "a finite value")
        promise(abs(row.at) < 1 << 62 and isinstance(row.at, int), "a time that SQLite can hold")
        promise(row.context is None or len(row.context) <= MAX_CONTEXT, "a context that is not too large")

    return run


def _event(fields: Mapping[str, Any]) -> Event:
    names = ("item", "kind", "value", "at", "group", "recommendation_id", "context", "event_id")
    given = {"item": "i1", "kind": "click"} | {name: fields[name] for name in names if name in fields}
    if isinstance(given.get("at"), str):
        with suppress(ValueError):
            given["at"] = datetime.fromisoformat(given["at"])
    return Event(**given)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
