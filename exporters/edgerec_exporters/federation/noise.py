"""Discrete Gaussian noise, from the operating system's secure generator and never from a seed."""

from __future__ import annotations

from edgerec.types import Int64


def discrete_gaussian(sigma: float, n: int) -> Int64:
    raise NotImplementedError
