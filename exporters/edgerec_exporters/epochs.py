"""The epochs of one training: a judge says when to stop, and what is reached survives the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgerec.errors import TrainingError
from edgerec_exporters.checkpoint import Checkpoint, Resumable, restore, state_of
from edgerec_exporters.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from torch import Tensor


class Trainable(Resumable, Protocol):
    """A trainer that takes one epoch after another."""

    def epoch(self, epochs: int, tick: Callable[[int, int], None]) -> float:
        """One pass; `epochs` is the length of the schedule. Returns the mean loss."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """`schedule`: epochs that the schedule of rates is made for · `last`: epochs at most · `every`: epochs from one
    validation to the next · `patience`: validations without gain before training stops."""

    schedule: int
    last: int
    every: int = 1
    patience: int = 3


@dataclass(frozen=True, slots=True)
class Ran:
    """The epoch that was kept, what the judge gave it (its number without a judge), and the processor seconds that an
    epoch took."""

    epoch: int
    best: float
    seconds: float


@dataclass(slots=True)
class _Reached:
    epoch: int = 0
    best: float = -1.0
    kept: int = 0
    seconds: float = 0.0


def run(
    trainer: Trainable,
    plan: Plan,
    judge: Callable[[], float] | None,
    tick: Callable[[int, int, int], None],
    *,
    phase: str = "training",
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
    seed: int = 0,
) -> Ran:
    """Trains, and leaves the weights of the best epoch in the trainer's `taste`; without a judge those of the last.

    `tick` gets (epochs done, step, steps). What `checkpoint` holds of that phase is taken up; the result is that of a
    run which was not interrupted.
    """
    found = checkpoint.load(phase) if checkpoint else None
    reached, weights = _Reached(), _weights(trainer)
    if found:
        restore(trainer, found["trainer"])
        reached, weights = _Reached(**found["reached"]), found["weights"]
    if ranks.add(reached.epoch) != reached.epoch * ranks.size:
        raise TrainingError("the processes do not see the same checkpoint", hint="name a folder that all of them share")
    while reached.epoch < plan.last and not _stops(reached, plan):
        _epoch(trainer, plan, reached, tick, ranks, seed)
        if reached.epoch % plan.every == 0 or reached.epoch == plan.last:
            value = ranks.agree(judge()) if judge else float(reached.epoch)
            if value > reached.best:
                reached.best, reached.kept, weights = value, reached.epoch, _weights(trainer)
        if checkpoint:
            told = {name: getattr(reached, name) for name in _Reached.__slots__}
            checkpoint.save(phase, {"trainer": state_of(trainer), "reached": told, "weights": weights})
    trainer.taste.load_state_dict(weights)
    return Ran(reached.kept, reached.best, round(reached.seconds / max(reached.epoch, 1), 2))


def _epoch(
    trainer: Trainable,
    plan: Plan,
    reached: _Reached,
    tick: Callable[[int, int, int], None],
    ranks: Ranks,
    seed: int,
) -> None:
    done, started = reached.epoch, time.process_time()
    ranks.own_noise(seed, trainer.steps)
    trainer.epoch(plan.schedule, lambda step, steps: tick(done, step, steps))
    reached.epoch += 1
    reached.seconds += time.process_time() - started


def _stops(reached: _Reached, plan: Plan) -> bool:
    return reached.epoch % plan.every == 0 and reached.epoch - reached.kept >= plan.patience * plan.every


def _weights(trainer: Trainable) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in trainer.taste.state_dict().items()}
