"""Training that survives: the state of a run in a folder, written after every epoch and taken up again.

A run that is killed and started again with the same arguments ends in the same model, bit for bit on one machine: the
weights, the optimiser's moments and every random generator are where they were. What is not written, such as
item-to-item weights, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from edgerec.errors import TrainingError
from edgerec_exporters.interactions import Interactions

if TYPE_CHECKING:
    import torch

    from edgerec_exporters.trained import Trained

FORMAT = 1
_RUN = "run.json"
_CLOCK = "seconds"
_COLUMNS = ("user", "item", "at", "group", "kind", "value")


class Resumable(Protocol):
    """A trainer: what it trains, and all that its next epoch depends on."""

    steps: int

    @property
    def taste(self) -> torch.nn.Module: ...

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...

    @property
    def rng(self) -> np.random.Generator: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The folder of one run. `writes`: False in processes that only read, so that one of several writes ·
    `spent_before`: seconds that earlier processes of the run had lasted at their last `save`."""

    folder: Path
    writes: bool = True
    spent_before: float = 0.0
    opened: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], run: Mapping[str, Any], *, writes: bool = True) -> Checkpoint:
        """The checkpoint of this `run`, see `identity`; a folder that is not there is made.

        Raises TrainingError where the folder holds another run's state, or cannot be read or written.
        """
        path = Path(folder) / _RUN
        mine = {"format": FORMAT, **json.loads(json.dumps(run))}
        try:
            if writes:
                path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _check_same(mine, json.loads(path.read_text("utf-8")), path.parent)
            elif any(path.parent.glob("*.pt")):
                raise TrainingError(f"{folder} holds states but no {_RUN}", hint="name an empty folder")
            elif writes:
                _write(path, lambda file: file.write(json.dumps(mine, indent=1).encode()))
            clock = path.parent / _CLOCK
            spent = float(clock.read_text()) if clock.exists() else 0.0
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder} cannot be used for checkpoints: {error}") from error
        return cls(path.parent, writes, spent)

    def save(self, phase: str, state: Mapping[str, Any]) -> None:
        """Replaces the phase's state, at once or not at all; it is on the disk on return."""
        if not self.writes:
            return
        import torch

        try:
            _write(self.folder / f"{phase}.pt", lambda file: torch.save(dict(state), file))
            spent = self.spent_before + time.monotonic() - self.opened
            _write(self.folder / _CLOCK, lambda file: file.write(f"{spent:.2f}".encode()))
        except OSError as error:
            raise TrainingError(f"the checkpoint cannot be written: {error}") from error

    def load(self, phase: str) -> dict[str, Any] | None:
        """What `save` was last given for that phase, on the CPU; None where it was not called yet.

        No code is unpickled. Raises TrainingError where the file is damaged.
        """
        import torch

        path = self.folder / f"{phase}.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{path} is damaged: {str(error).splitlines()[0]}", hint="delete it to begin that phase again"
            ) from error
        return state


def identity(
    data: Interactions, *, cutoff: float | None, model: str, recipe: Any, seed: int, **others: Any
) -> dict[str, Any]:
    """What makes a run this one and no other: its data (a digest), and its arguments. `recipe`: a dataclass."""
    return {
        "data": digest(data),
        "cutoff": cutoff,
        "model": model,
        "recipe": asdict(recipe),
        "seed": seed,
        **others,
    }


def digest_of(trained: Trained) -> str:
    """SHA-256 over what a trained model scores with."""
    found = hashlib.sha256(trained.vectors.tobytes() + trained.bias.tobytes())
    for tensor in trained.encoder.state_dict().values():
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def digest(data: Interactions) -> str:
    """SHA-256 over all columns, item ids and titles."""
    found = hashlib.sha256()
    for name in _COLUMNS:
        column = np.ascontiguousarray(getattr(data, name))
        found.update(f"{name} {column.dtype.str} {column.shape} ".encode())
        found.update(column.tobytes())
    described = [data.n_users, list(data.items), list(data.titles), list(data.kinds)]
    found.update(json.dumps(described).encode())
    return found.hexdigest()


def state_of(trainer: Resumable) -> dict[str, Any]:
    """All that the trainer's next epoch depends on, as copies."""
    import torch

    return {
        "taste": {name: tensor.detach().cpu().clone() for name, tensor in trainer.taste.state_dict().items()},
        "optimiser": trainer.optimiser.state_dict(),
        "steps": trainer.steps,
        "numpy": json.dumps(trainer.rng.bit_generator.state),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(trainer: Resumable, state: Mapping[str, Any]) -> None:
    """Puts a trainer that was made with the same arguments where `state_of` found it.

    Raises TrainingError where the state does not fit.
    """
    import torch

    try:
        trainer.taste.load_state_dict(state["taste"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.steps = state["steps"]
        trainer.rng.bit_generator.state = json.loads(state["numpy"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
            torch.cuda.set_rng_state_all(state["cuda"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"the checkpoint does not fit this training: {error}") from error


def _check_same(mine: Mapping[str, Any], found: Any, folder: Path) -> None:
    if not isinstance(found, dict):
        raise TrainingError(f"{folder / _RUN} is none of ours", hint="name an empty folder")
    other = sorted(_differences(mine, found))
    if other:
        named = ", ".join(other[:4]) + (" …" if len(other) > 4 else "")
        raise TrainingError(
            f"the checkpoint in {folder} is of another run: {named}",
            hint="name another folder, or delete this one to begin again",
        )


def _differences(mine: Any, found: Any, name: str = "") -> list[str]:
    """Where two JSON documents differ: "seed 0, not 3"; digests are not spelled out."""
    if isinstance(mine, dict) and isinstance(found, dict):
        keys = sorted(mine.keys() | found.keys())
        return [one for key in keys for one in _differences(mine.get(key), found.get(key), f"{name}.{key}".strip("."))]
    if mine == found:
        return []
    return [name if isinstance(mine, str) and len(mine) == 64 else f"{name} {found}, not {mine}"]


def _write(path: Path, put: Callable[[BinaryIO], Any]) -> None:
    """Through a file beside it that is synced and renamed: a reader sees the old one or the new one. What a killed
    process left of that file is written over by the next."""
    half = path.with_name(f".{path.name}.new")
    try:
        with half.open("wb") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
