"""Whether a round's candidate is released: judged on devices that sent nothing, or by those that ran it first.

Both bundles learn from zero on a device's own events, test-then-train; what counts is the steps since a moment. On
held-out devices that is the time that the round has counted, in others' deltas; in a staged rollout it is the time
after it, which no bundle could know.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from edgerec.types import Float64
from edgerec_exporters.federation.release import Decision, decide
from edgerec_tools.federation import devices

LEAST_DEVICES = 20
MOST_LOSS = 0.01
"""Of NDCG@10, on average: a week's devices are few, and half of the candidates that change nothing would be dropped."""


def judged(
    pool: ProcessPoolExecutor, new: Path, current: Path, users: Sequence[int], since: float, workers: int, seed: int
) -> Decision:
    """The decision that `edgerec round release` takes, from the users' devices; too few of them let it pass."""
    parts = [pool.submit(devices.differences, new, current, users[first::workers], since) for first in range(workers)]
    found: Float64 = np.concatenate([part.result() for part in parts])
    if len(found) < LEAST_DEVICES:
        return Decision(True, f"{len(found)} devices say too little", len(found))
    return decide(new, current, lambda *_: found, most_loss=MOST_LOSS, least_devices=LEAST_DEVICES, seed=seed)
