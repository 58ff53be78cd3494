"""numpy arrays of a bundle, mapped read-only after their headers were read by hand: no pickle, no surprises."""

from __future__ import annotations

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import BundleInvalid

MAGIC = b"\x93NUMPY\x01\x00"
ALIGNMENT = 64
MAX_HEADER = 512
MOST = 1e12
"""Largest value: products of two, summed over a vector, still fit float32."""

_SIZE = "(?:0|[1-9][0-9]{0,11})"
_HEADER = re.compile(
    r"\{'descr': ?'(?P<descr>[^']{1,16})', ?'fortran_order': ?(?P<fortran>True|False), ?"
    rf"'shape': ?\((?P<shape>{_SIZE},|{_SIZE}(?:, ?{_SIZE}){{1,3}}|)\),? ?\}} *\n"
)


def map_array(root: Path, name: str, descr: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Maps `root/name`, an .npy file of version 1.0, as a read-only C-ordered array.

    `descr` is the exact type, such as '<f4'; None in `shape` allows any length ≥ 0 there.
    Raises BundleInvalid naming the file and what differs.
    """
    with (root / name).open("rb") as file:
        prefix = file.read(len(MAGIC) + 2)
        offset, found = _header(name, prefix, file.read(MAX_HEADER), descr)
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            raise BundleInvalid(f"{name}: shape {found} is not {_pretty(shape)}")
        dtype = np.dtype(descr)
        count = math.prod(found)
        size = file.seek(0, 2)
        if size != offset + count * dtype.itemsize:
            raise BundleInvalid(f"{name}: {size} bytes where header and data make {offset + count * dtype.itemsize}")
        if count == 0:
            empty = np.empty(found, dtype)
            empty.flags.writeable = False
            return empty
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(buffer, dtype, count, offset).reshape(found)


def _header(name: str, prefix: bytes, rest: bytes, descr: str) -> tuple[int, tuple[int, ...]]:
    if len(prefix) != len(MAGIC) + 2 or prefix[: len(MAGIC)] != MAGIC:
        raise BundleInvalid(f"{name}: not an .npy file of version 1.0")
    (length,) = struct.unpack("<H", prefix[-2:])
    offset = len(prefix) + length
    if length > MAX_HEADER or length > len(rest) or offset % ALIGNMENT:
        raise BundleInvalid(f"{name}: header of {length} bytes is too long or not aligned to {ALIGNMENT}")
    match = _HEADER.fullmatch(rest[:length].decode("latin-1"))
    if match is None:
        raise BundleInvalid(f"{name}: unreadable .npy header")
    if match["descr"] != descr:
        raise BundleInvalid(f"{name}: type {match['descr']} is not {descr}")
    if match["fortran"] != "False":
        raise BundleInvalid(f"{name}: arrays must be in C order")
    return offset, tuple(int(part) for part in match["shape"].split(",") if part.strip())


def _pretty(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


def check_values(name: str, array: NDArray[Any]) -> None:
    """Raises BundleInvalid where a float array holds NaN, or a value beyond ±1e12, infinity included; works in blocks
    to stay small."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, 1 << 20):
        block = flat[start : start + (1 << 20)]
        if not (block.min() >= -MOST and block.max() <= MOST):  # NaN meets neither
            what = "beyond ±1e12" if np.isfinite(block).all() else "that are not finite"
            raise BundleInvalid(f"{name}: holds values {what}")


def check_range(name: str, array: NDArray[Any], high: int) -> None:
    """Raises BundleInvalid unless 0 <= array < high."""
    if array.size and (int(array.min()) < 0 or int(array.max()) >= high):
        raise BundleInvalid(f"{name}: values lie outside 0 … {high - 1}")
