"""The metrics block: how the rankings did for this user, test-then-train, as a round can add up over devices.

The block has two halves, devices that serve what they learned and devices of the control group; a device fills one. A
half holds, per scenario, `default` first and then by name, as many as fit, nine values, each in [0, 1]:

    1 where there were tests · tests / 64, at most 1 · mean NDCG@10 of base, blend, personal, taste, neighbours,
    popular, habit over the events since the last delta

All are multiplied by bound / sqrt(9 · scenarios), so that no block is longer than its bound and none needs a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.learning.progressive import METRICS
from edgerec.learning.state import RANKINGS, Learned
from edgerec.records import record
from edgerec.types import Float32, Float64, State

GROUPS = ("treated", "control")
SHOWN = (*RANKINGS, "taste", "neighbours", "popular", "habit")
MOST_TESTS = 64
_WIDTH = 2 + len(SHOWN)
_N, _NDCG = METRICS.index("n"), METRICS.index("ndcg@10")


@record
class Tests:
    """Sums of METRICS since the last delta, float64 (K, 3 + S, 4), of K `scenarios` and the sources `sources`."""

    control: bool
    scenarios: tuple[str, ...]
    sources: tuple[str, ...]
    sums: Float64


def block_of(spec: BlockSpec, tests: Tests | None) -> Float32:
    """float32 (size,); zeros where there was nothing to test."""
    values = np.zeros(spec.size)
    if tests is None:
        return values.astype(np.float32)
    count = _scenarios_in(spec)
    start = GROUPS.index("control" if tests.control else "treated") * (spec.size // 2)
    for place, scenario in enumerate(_ordered(tests.scenarios)[:count]):
        at = start + place * _WIDTH
        values[at : at + _WIDTH] = _of_scenario(tests, tests.scenarios.index(scenario))
    return (values * _scale(spec, count)).astype(np.float32)


def read_metrics(spec: BlockSpec, total: Float64, scenarios: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Group → scenario → `devices`, `tests` (as counted, 64 of a device at most) and mean NDCG@10 per ranking, from a
    block's sum over devices, (size,). Of a mean over devices, `devices` and `tests` are shares. Scenarios that nobody
    tested are left out.
    """
    count, names = _scenarios_in(spec), _ordered(scenarios)
    values = np.asarray(total, np.float64) / _scale(spec, count)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for group, name in enumerate(GROUPS):
        found[name] = {}
        for place, scenario in enumerate(names[:count]):
            at = group * (spec.size // 2) + place * _WIDTH
            devices = float(values[at])
            if devices > 0:
                means = (values[at + 2 : at + _WIDTH] / devices).tolist()
                tests = float(values[at + 1]) * MOST_TESTS
                found[name][scenario] = {"devices": devices, "tests": tests, **dict(zip(SHOWN, means, strict=True))}
    return found


def baseline(learned: Learned, stamp: str) -> State:
    """What the next delta's tests are counted from. `stamp`: of the events and the bundle that the sums are of."""
    return {"sums": learned.progress.sums, "stamp": np.frombuffer(stamp.encode(), np.uint8)}


def since(before: Mapping[str, Any] | None, learned: Learned, stamp: str) -> Float64 | None:
    """The sums since a baseline, None where it is of other events or of another bundle."""
    sums = learned.progress.sums
    if before is None or before["stamp"].tobytes() != stamp.encode() or before["sums"].shape != sums.shape:
        return None
    difference: Float64 = sums - before["sums"]
    return difference if (difference[..., _N] >= 0).all() and difference[..., _N].any() else None


def _of_scenario(tests: Tests, place: int) -> Float64:
    sums, names = tests.sums[place], (*RANKINGS, *tests.sources)
    n = float(sums[0, _N])
    if n <= 0:
        return np.zeros(_WIDTH)
    ndcg = [float(sums[names.index(one), _NDCG]) / n if one in names else 0.0 for one in SHOWN]
    return np.clip([1.0, min(n / MOST_TESTS, 1.0), *ndcg], 0, 1)


def _ordered(scenarios: Sequence[str]) -> list[str]:
    return sorted(scenarios, key=lambda name: (name != "default", name))


def _scenarios_in(spec: BlockSpec) -> int:
    return spec.size // 2 // _WIDTH


def _scale(spec: BlockSpec, count: int) -> float:
    return spec.bound / sqrt(_WIDTH * count)
