"""The guard: refuses impossible steps, and lets personal state into the score only while it does better.

Two personal parts are watched, in each scenario: the learned blend (against the manifest's) and the user vector
(against the blend that is served, without it). Both comparisons are paired: the same event, the same state. Neither
waits for the other: a user whose blend is best left alone may have a vector that helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.interfaces import Settings
from edgerec.types import Float32, Float64, State

PARTS = ("blend", "user_vector")


MAX_STATE_BYTES = 1 << 20
"""A state is written with every event: more than this would be felt."""


FAULTS = ("state: ", "user vector: wrong")
"""How refusals begin that only a broken updater gets."""


def refusal(old: State, new: object, vectors: tuple[Float32, Float32 | None], settings: Settings) -> str | None:
    """Why an updater's step is not taken, None where it is sound.

    `vectors`: the user vector before and after. Bounds: `max_step` and `max_norm`, Euclidean.
    """
    if not isinstance(new, Mapping) or set(new) != set(old):
        return "state: other arrays than before"
    for name, array in new.items():
        if not isinstance(array, np.ndarray) or array.dtype != old[name].dtype:
            return f"state: {name} changed its dtype"
        if array.dtype.kind == "f" and not finite(array):
            return f"state: {name} is not finite"
    if (size := sum([array.nbytes for array in new.values()])) > MAX_STATE_BYTES:
        return f"state: {size} bytes, more than {MAX_STATE_BYTES}"
    before, after = vectors
    if after is None:
        return None
    if after.shape != before.shape or not finite(after):
        return "user vector: wrong shape or not finite"
    moved = after - before
    if sqrt(moved.dot(moved)) > float(settings.get("max_step", 10.0)):
        return "user vector: step too long"
    if sqrt(after.dot(after)) > float(settings.get("max_norm", 10.0)):
        return "user vector: out of bounds"
    return None


def finite(array: NDArray[Any]) -> bool:
    """Whether all values are finite. A finite sum of squares says so at a fifth of the cost, if nothing overflows."""
    flat = array.ravel()
    return isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def watched(sums: Float64, differences: Float64, settings: Settings) -> Float64:
    """The window's sums after one more comparison, float64 (…, P, 3): Σ d, Σ d², count, each decayed.

    `differences` float64 (…, P): the metric with the personal part minus without it. Decay is 1 − 1/window.
    """
    keep = 1.0 - 1.0 / float(settings.get("window", 20.0))
    grown: Float64 = sums * keep
    grown[..., 0] += differences
    grown[..., 1] += differences * differences
    grown[..., 2] += 1.0
    return grown


def trusted(sums: Float64, settings: Settings) -> tuple[bool, bool]:
    """Whether the (blend, user vector) may take part in the score: only once they have proved better.

    A part is in while it was compared at least `min_count` times within the window and its mean difference lies more
    than `margin` standard errors above zero.
    """
    enough, margin = float(settings.get("min_count", 2.5)), float(settings.get("margin", 0.0))
    blend, user_vector = (count >= enough and total > margin * sqrt(square) for total, square, count in sums.tolist())
    return blend, user_vector
