"""What hostile devices send. Each knows the bundle, so every item's popularity up to then, but no honest delta.

Attacks that name a target want it in honest users' lists; the others want the lists to be worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from edgerec.types import Float32, Float64, Int64

SIZE = 16
"""Items of a device that looks honest: so many fit within a bound of 4 at full value."""


class Scene(NamedTuple):
    """`n` hostile devices · `popularity` float64 (n_items,), as the bundle has it · `target` row · `bound` L2 norm."""

    n: int
    popularity: Float64
    target: int
    bound: float
    random: np.random.Generator


Attack = Callable[[Scene], Float32]
"""The hostile rows of one round, float32 (rows, n_items), every `scene.n` of them by as many keys."""


def promotion(scene: Scene) -> Float32:
    """All that the bound allows, on the target: the best that a sum without further checks can be given."""
    rows = _nothing(scene)
    rows[:, scene.target] = scene.bound
    return rows


def camouflage(scene: Scene) -> Float32:
    """The target among popular items, as a real basket would hold it (after FedRecAttack, Rong et al. 2022)."""
    return _baskets(scene, scene.popularity + 0.01)


def without_knowledge(scene: Scene) -> Float32:
    """The target among random items, nothing known of the others (after Spattack, Yan et al. 2024)."""
    return _baskets(scene, np.ones_like(scene.popularity))


def flipping(scene: Scene) -> Float32:
    """Labels flipped: what nobody buys is said to be bought."""
    rows = _nothing(scene)
    rows[:, _by_popularity(scene)[-SIZE:]] = scene.bound / SIZE**0.5
    return rows


def demotion(scene: Scene) -> Float32:
    """As far below 0 as the bound allows, on the most popular items."""
    rows = _nothing(scene)
    rows[:, _by_popularity(scene)[:SIZE]] = -scene.bound / SIZE**0.5
    return rows


def scaling(scene: Scene) -> Float32:
    """Camouflage a hundred times as loud."""
    return camouflage(scene) * np.float32(100)


def sabotage(scene: Scene) -> Float32:
    """Far beyond the bound: the popular taken away, the others pushed. Works where nobody sees single deltas."""
    rows, order = _nothing(scene), _by_popularity(scene)
    rows[:, order[: len(order) // 4]], rows[:, order[len(order) // 2 :]] = -1e5, 1e5
    return rows


def not_finite(scene: Scene) -> Float32:
    """NaN and infinities in place of the target."""
    rows = promotion(scene)
    rows[::2, scene.target], rows[1::2, scene.target] = np.nan, np.inf
    return rows


def sybils(scene: Scene) -> Float32:
    """Three enrolled keys for every hostile device, each of which promotes."""
    return promotion(scene._replace(n=SYBIL_KEYS * scene.n))


def replayed(scene: Scene) -> Float32:
    """One delta of every hostile device, sent ten times over."""
    return np.tile(promotion(scene), (10, 1))


TARGETED: Mapping[str, Attack] = {
    "promotion": promotion,
    "camouflage": camouflage,
    "no knowledge": without_knowledge,
    "scaling ×100": scaling,
    "sybils ×3": sybils,
    "replay ×10": replayed,
}
UNTARGETED: Mapping[str, Attack] = {
    "label flipping": flipping,
    "demotion": demotion,
    "sabotage": sabotage,
    "NaN": not_finite,
}
SYBIL_KEYS = 3


def keys_of(attack: Attack, rows: int, n: int) -> list[str]:
    """Who sent the rows of an attack by n devices: a key each, or three with sybils."""
    own = n * SYBIL_KEYS if attack is sybils else n
    return [f"hostile {place % own}" for place in range(rows)]


def hostile(honest_devices: int, share: float) -> int:
    """So many that they are `share` of all devices of a round."""
    return int(np.ceil(share * honest_devices / (1 - share) - 1e-9))


def _nothing(scene: Scene) -> Float32:
    return np.zeros((scene.n, len(scene.popularity)), np.float32)


def _by_popularity(scene: Scene) -> Int64:
    return np.argsort(-scene.popularity, kind="stable")


def _baskets(scene: Scene, weight: Float64) -> Float32:
    rows = _nothing(scene)
    for row in rows:
        row[scene.random.choice(len(row), SIZE - 1, replace=False, p=weight / weight.sum())] = 1
        row[scene.target] = 1
    return rows * np.float32(min(1.0, scene.bound / SIZE**0.5))
