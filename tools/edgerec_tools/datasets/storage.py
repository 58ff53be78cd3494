"""One file per data set: an xz stream of a JSON header line and the columns' bytes. No pickle, numpy and stdlib only.

Columns are little-endian integers of the smallest type that holds them, stored byte plane by byte plane (all low
bytes, then the next ones) because that compresses best; `delta` columns hold differences; a float column whose
values are whole multiples of 1/scale is stored as such. Equal data gives equal bytes under one liblzma version.
"""

from __future__ import annotations

import json
import lzma
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import DataError
from edgerec_tools.datasets.dataset import Dataset

FORMAT = 1
SUFFIX = ".dataset"
_LZMA2 = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24, "lc": 0, "lp": 0, "pb": 0, "mode": lzma.MODE_NORMAL}
_FILTERS = [_LZMA2 | {"mf": lzma.MF_BT4, "nice_len": 64, "depth": 0}]
_SCALES = (1, 100, 1000)
_TEXTS = ("users", "items", "titles", "kinds", "group_ids", "country")
_INTEGERS = {"basket_user": np.int32, "basket_size": np.int64, "item": np.int32, "kind": np.int16}
_FLOATS = {"at": np.float64, "value": np.float32, "price": np.float32}
_DELTA = ("at", "item")
_STORED = tuple(np.dtype(code) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "i8"))


def write(dataset: Dataset, path: str | os.PathLike[str]) -> int:
    """Writes `dataset` to `path` at once or not at all; returns the file's size in bytes.

    Raises DataError where the place cannot be written.
    """
    target, content = Path(path), dumps(dataset)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent, delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.chmod(file.name, 0o644)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    return len(content)


def dumps(dataset: Dataset) -> bytes:
    """The bytes of the file."""
    blobs: list[bytes] = []
    columns: dict[str, dict[str, Any]] = {}
    for name, column in _columns(dataset).items():
        columns[name], blob = _pack(name, column)
        blobs.append(blob)
    header = {
        "format": FORMAT,
        "name": dataset.name,
        "timed": dataset.timed,
        "counts": summary(dataset),
        "attributes": list(dataset.attributes),
        "columns": columns,
    }
    body = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" + b"".join(blobs)
    return lzma.compress(body, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=_FILTERS)


def summary(dataset: Dataset) -> dict[str, Any]:
    """Counts of users, items, baskets, events, and the first and last time (POSIX seconds)."""
    return {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "baskets": dataset.n_baskets,
        "events": dataset.n_events,
        "first": float(dataset.at.min()) if dataset.n_events else None,
        "last": float(dataset.at.max()) if dataset.n_events else None,
    }


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header alone: `name`, `counts` (see `summary`), `timed`, and how the columns are stored."""
    with _opened(path) as file:
        return _header(file)


def read(path: str | os.PathLike[str]) -> Dataset:
    """Reads what `write` wrote. Raises DataError where the file is absent, damaged or of a newer format."""
    with _opened(path) as file:
        header = _header(file)
        return _dataset(header, file.read())


def _dataset(header: Mapping[str, Any], body: bytes) -> Dataset:
    columns: dict[str, Any] = {}
    offset = 0
    for name, spec in header["columns"].items():
        columns[name] = _unpack(spec, body[offset : offset + spec["bytes"]])
        offset += spec["bytes"]
    attributes = {name: columns.pop(f"attribute {name}") for name in header["attributes"]}
    size = columns.pop("basket_size")
    return Dataset(
        name=header["name"],
        timed=header["timed"],
        user=np.repeat(columns.pop("basket_user"), size).astype(np.int32),
        group=np.repeat(np.arange(len(size)), size),
        attributes=attributes,
        **{"price": None, **columns},
    )


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The decompressed stream; every way in which the file can be wrong becomes a DataError."""
    try:
        with lzma.open(path) as file:
            yield file  # type: ignore[misc]
    except OSError as error:
        raise DataError(f"cannot read the data set {path}: {error.strerror or error}") from error
    except (lzma.LZMAError, EOFError, ValueError, KeyError, TypeError) as error:
        hint = "import or fetch it again"
        raise DataError(f"{path} is not a data set of edgerec, or it is damaged", hint=hint) from error


def _header(file: BinaryIO) -> dict[str, Any]:
    header = json.loads(file.readline(1 << 20))
    if header["format"] > FORMAT:
        raise DataError(f"a data set of format {header['format']}, newer than {FORMAT}", hint="upgrade edgerec-tools")
    return header  # type: ignore[no-any-return]


def _columns(dataset: Dataset) -> dict[str, Any]:
    columns: dict[str, Any] = {name: getattr(dataset, name) for name in _TEXTS}
    columns |= {f"attribute {name}": values for name, values in dataset.attributes.items()}
    columns |= {"basket_user": dataset.basket_user, "basket_size": np.diff(dataset.basket_start)}
    columns |= {name: getattr(dataset, name) for name in ("item", "kind", "at", "value")}
    return columns if dataset.price is None else columns | {"price": dataset.price}


def _pack(name: str, column: Any) -> tuple[dict[str, Any], bytes]:
    if isinstance(column, tuple):
        blob = json.dumps(column, ensure_ascii=False, separators=(",", ":")).encode()
        return {"coding": "json", "bytes": len(blob)}, blob
    scale = _scale(column) if name in _FLOATS else 1
    spec: dict[str, Any] = {"dtype": np.dtype(column.dtype).str.lstrip("<|"), "delta": name in _DELTA and scale > 0}
    if scale == 0:
        blob = np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()
        return spec | {"coding": "raw", "bytes": len(blob)}, blob
    whole = np.rint(column.astype(np.float64) * scale).astype(np.int64)
    if spec["delta"]:
        whole = np.diff(whole, prepend=0)
    stored = next(dtype for dtype in _STORED if len(whole) == 0 or _holds(dtype, whole))
    planes = whole.astype(stored.newbyteorder("<")).view(np.uint8).reshape(-1, stored.itemsize)
    blob = np.ascontiguousarray(planes.T).tobytes()
    return spec | {"coding": "planes", "stored": stored.str.lstrip("<|"), "scale": scale, "bytes": len(blob)}, blob


def _holds(dtype: np.dtype[Any], whole: NDArray[np.int64]) -> bool:
    limits = np.iinfo(dtype)
    return int(whole.min()) >= limits.min and int(whole.max()) <= limits.max


def _scale(column: NDArray[Any]) -> int:
    """The smallest scale at which every value comes back equal; 0 where there is none."""
    if not np.isfinite(column).all() or (len(column) and float(np.abs(column).max()) * _SCALES[-1] > 2**53):
        return 0
    wide = column.astype(np.float64)
    exact = (s for s in _SCALES if np.array_equal((np.rint(wide * s) / s).astype(column.dtype), column))
    return next(exact, 0)


def _unpack(spec: Mapping[str, Any], blob: bytes) -> Any:
    if len(blob) != spec["bytes"]:
        raise ValueError("the file ends early")
    if spec["coding"] == "json":
        return tuple(json.loads(blob))
    dtype = np.dtype(spec["dtype"])
    if spec["coding"] == "raw":
        return np.frombuffer(blob, dtype.newbyteorder("<")).astype(dtype)
    stored = np.dtype(spec["stored"]).newbyteorder("<")
    planes = np.frombuffer(blob, np.uint8).reshape(stored.itemsize, -1)
    whole = np.ascontiguousarray(planes.T).view(stored).reshape(-1).astype(np.int64)
    whole = np.cumsum(whole) if spec["delta"] else whole
    return whole.astype(dtype) if dtype.kind == "i" else (whole / spec["scale"]).astype(dtype)
