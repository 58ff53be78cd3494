"""The families of measurements, how large each is, and running one in a process of its own with one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerec_tools.bench.measure import Row

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of catalogues and numbers of rounds, per family."""

    topk_sizes: tuple[int, ...] = (10_000, 100_000)
    topk_rounds: int = 200
    serving_sizes: tuple[int, ...] = (10_000, 100_000)
    serving_rounds: int = 300
    recording_sizes: tuple[int, ...] = (3_200, 4_096)
    users: int = 8
    recording_rounds: int = 30
    sgd_rounds: int = 3_000
    process_size: int = 10_000
    starts: int = 15
    clients: int = 1_000
    client_rounds: int = 15

    @property
    def bundle_sizes(self) -> tuple[int, ...]:
        """Catalogues of the synthetic bundles that the families need."""
        return tuple(sorted({*self.serving_sizes, *self.recording_sizes, self.process_size}))


FULL = Scale()
LARGE = Scale(topk_sizes=(10_000, 100_000, 1_000_000))
QUICK = Scale((2_000,), 5, (500,), 5, (500,), 1, 5, 50, 500, 1, 40, 2)
SCALES = {"full": FULL, "large": LARGE, "quick": QUICK}


def _topk(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import topk

    return topk.rows(scale.topk_sizes, scale.topk_rounds)


def _serving(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import serving

    return serving.rows({n: bundles[n] for n in scale.serving_sizes}, scale.serving_rounds)


def _isolation(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import isolation

    return isolation.rows({n: bundles[n] for n in scale.serving_sizes[:1]}, scale.serving_rounds)


def _recording(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import recording

    return recording.rows({n: bundles[n] for n in scale.recording_sizes}, scale.users, scale.recording_rounds)


def _sgd(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import sgd

    return sgd.rows(scale.sgd_rounds)


def _startup(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import startup

    return startup.rows(bundles[scale.process_size], scale.process_size, scale.starts)


def _memory(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import memory

    return memory.rows(bundles[scale.process_size], scale.process_size)


def _rounds(scale: Scale, bundles: dict[int, Path]) -> Iterator[Row]:
    from edgerec_tools.bench import rounds

    return rounds.rows(scale.clients, scale.client_rounds)


FAMILIES: dict[str, Callable[[Scale, dict[int, Path]], Iterator[Row]]] = {
    "topk": _topk,
    "serving": _serving,
    "isolation": _isolation,
    "recording": _recording,
    "sgd": _sgd,
    "startup": _startup,
    "memory": _memory,
    "rounds": _rounds,
}


def bundle_path(folder: Path, n_items: int) -> Path:
    """Where the synthetic bundle of that size lies."""
    return folder / f"items-{n_items}"


def run_apart(family: str, scale: str, folder: Path) -> list[dict[str, Any]]:
    """The family's rows, measured in a fresh process that uses one thread; its warnings go to stderr."""
    command = [sys.executable, "-m", "edgerec_tools.bench", family, scale, str(folder)]
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def main(arguments: Sequence[str]) -> None:
    """What `run_apart` starts: prints the rows of one family as JSON."""
    family, scale_name, folder = arguments
    scale = SCALES[scale_name]
    bundles = {n: bundle_path(Path(folder), n) for n in scale.bundle_sizes}
    print(json.dumps([row.as_dict() for row in FAMILIES[family](scale, bundles)]))
