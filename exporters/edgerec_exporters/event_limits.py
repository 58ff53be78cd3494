"""How fast real users act: the constants of the event filter `quality`, from the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_exporters.interactions import Interactions

WITHIN_S, LONG_S = 10.0, 60.0
RARE = 1e-3
"""Share of real arrivals that the limits may at most set aside."""
MOST = 1000
"""Greater limits say that the data's times mean nothing, and the rule is left off."""


def event_limits(data: Interactions) -> dict[str, Any]:
    """`most` arrivals within `within_s` seconds and `most_long` within `long_s`, as the plugin takes them.

    Each is one more than what all but RARE of the arrivals (a basket each) keep to, and at least 3. 0, which turns
    the rule off, where that is above MOST, or where there are too few arrivals to know. `kinds`: those in the data.
    """
    begins = np.flatnonzero(np.diff(data.group, prepend=-1))
    user, at = data.user[begins], data.at[begins]
    order = np.lexsort((at, user))
    limits = [_limit(user[order], at[order], window) for window in (WITHIN_S, LONG_S)]
    kinds = [data.kinds[kind] for kind in np.unique(data.kind).tolist()]
    return {"most": limits[0], "within_s": WITHIN_S, "most_long": limits[1], "long_s": LONG_S, "kinds": kinds}


def _limit(user: NDArray[np.int32], at: NDArray[np.float64], window: float) -> int:
    """`user`, `at` (n_arrivals,) by user, then time."""
    n = len(at)
    if n * RARE < 1:
        return 0
    # one clock for all users, far enough apart never to share a window
    shifted = (at - at.min()) + user.astype(np.float64) * (np.ptp(at) + 2 * window)
    counts = np.arange(1, n + 1) - np.searchsorted(shifted, shifted - window, side="left")
    limit = int(np.quantile(counts, 1 - RARE, method="higher"))
    return max(limit + 1, 3) if limit < MOST else 0
