"""The runtime's version, which a bundle's `min_runtime` and a plugin's `edgerec_requires` are compared with."""

from __future__ import annotations

__version__ = "0.1.0"

# what the comparison of two versions, -1, 0 or 1, may be
_SIGNS = {">=": (0, 1), "<=": (-1, 0), "==": (0,), "!=": (-1, 1), ">": (1,), "<": (-1,)}


def satisfies(wanted: str, version: str = __version__) -> bool:
    """Whether a version of numbers and dots lies within a range such as ">=0.1,<1"; False for one that says nothing.

    Versions with letters ("1.0rc1") are not compared: a range that names one is not met.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    return bool(parts) and all(_meets(version, part) for part in parts)


def _meets(version: str, part: str) -> bool:
    sign = next((sign for sign in _SIGNS if part.startswith(sign)), None)
    if sign is None:
        return False
    bound = part[len(sign) :].strip()
    if not all(piece.isdecimal() for piece in bound.split(".")):
        return False
    left, right = _numbers(version), _numbers(bound)
    length = max(len(left), len(right))
    left += [0] * (length - len(left))
    right += [0] * (length - len(right))
    return (left > right) - (left < right) in _SIGNS[sign]


def _numbers(version: str) -> list[int]:
    return [int(piece) for piece in version.split(".")]
