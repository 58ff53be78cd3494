"""What a bundle knows of buying again: a small network over a user's past with an item, and everybody's.

The network has one hidden layer and a straight way past it: with x (25,) the features, cut to `range`,

    p = σ(relu(x · A + a) · c + x · l + d)

`hidden` (25 + 1, H) holds A and, as its last row, a; `out` (H + 25 + 1,) holds c, l and d.

`edgerec.serving.repeat` says what the features are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgerec.bundle.arrays import check_values, map_array
from edgerec.bundle.constants import MOST
from edgerec.errors import BundleInvalid
from edgerec.records import changed, record
from edgerec.types import Float32

ITEMS, RANGE, HIDDEN, OUT = REPEAT = tuple(f"repeat/{name}.npy" for name in ("items", "range", "hidden", "out"))
N_USER, N_ITEM = 21, 4
N_FEATURES = N_USER + N_ITEM
HALF_LIVES = (7.0, 30.0, 120.0)
"""Days, of the counts in the first columns of `items`."""
PRIOR, PRIOR_COUNT = 0.2, 5.0
"""How often an item of which nothing is known is bought by somebody who had it, and how many events that weighs."""
MAX_HIDDEN = 256


@record
class RepeatModel:
    """`items` float32 (n_items, 4): log(1 + count) of an item's events, counts fading with HALF_LIVES, and the share of
    them that were somebody's second or later · `range` float32 (2, 25): least and largest value of each feature ·
    `hidden` float32 (26, H) · `out` float32 (H + 26,)."""

    items: Float32
    range: Float32
    hidden: Float32
    out: Float32

    def arrays(self) -> dict[str, Float32]:
        """By the names of their files."""
        return dict(zip(REPEAT, (self.items, self.range, self.hidden, self.out), strict=True))

    def probability(self, features: Float32) -> Float32:
        """The network's p for each of some items, float32 (m,), from features float32 (m, 25)."""
        x = np.clip(features, self.range[0], self.range[1])
        width = self.hidden.shape[1]
        inner = np.maximum(x @ self.hidden[:-1] + self.hidden[-1], 0)
        logit = inner @ self.out[:width] + x @ self.out[width:-1] + self.out[-1]
        p: Float32 = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        return p

    def extended(self, n_items: int) -> RepeatModel:
        """The same with rows for items behind its own, of which nothing is known."""
        unknown = np.tile(np.array([0.0, 0.0, 0.0, PRIOR], np.float32), (n_items - len(self.items), 1))
        return changed(self, items=np.concatenate([self.items, unknown]))


def map_repeat(root: Path, n_items: int) -> RepeatModel:
    """Maps the four files. Raises BundleInvalid where they do not fit one another."""
    items = map_array(root, ITEMS, "<f4", (n_items, N_ITEM))
    bounds = map_array(root, RANGE, "<f4", (2, N_FEATURES))
    hidden = map_array(root, HIDDEN, "<f4", (N_FEATURES + 1, None))
    width = hidden.shape[1]
    if not 0 < width <= MAX_HIDDEN:
        raise BundleInvalid(f"{HIDDEN}: {width} hidden units, not 1 to {MAX_HIDDEN}")
    return RepeatModel(items, bounds, hidden, map_array(root, OUT, "<f4", (width + N_FEATURES + 1,)))


def check_repeat(model: RepeatModel) -> None:
    """Raises BundleInvalid where a range is empty, or a value not finite or so large that a product could overflow."""
    for name, array in model.arrays().items():
        check_values(name, array)
        if max(array.max(), -array.min()) > MOST:
            raise BundleInvalid(f"{name}: holds values beyond ±{MOST:g}")
    if (model.range[0] > model.range[1]).any():
        raise BundleInvalid(f"{RANGE}: a least value is larger than the largest")
