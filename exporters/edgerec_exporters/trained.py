"""A trained model as one value: everything an export needs, and one file to keep it in."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.content import OFFSET, ContentModel, ContentRule, Modality
from edgerec.bundle.manifest import EventKind, Scenario
from edgerec.bundle.repeat import REPEAT, RepeatModel
from edgerec.errors import DataError
from edgerec_exporters.parity import History

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
_ARRAYS = ("vectors", "bias", "popularity", "negatives")
_PLAIN = ("name", "model", "history_length", "sources", "blend", "guard", "updater", "updaters", "n_negatives")
_PLAIN += ("n_replayed", "n_rivals", "learn_history", "metrics", "recipe", "seed", "filters", "federated")
_NEIGHBOURS = ("indptr", "ids", "weights")
_HISTORIES = ("rows", "age_days", "kinds", "targets")


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """`vectors` float32 (n_items, dim) · `bias`, `popularity` float32 (n_items,) · `negatives` int32 (m,) drawn by
    popularity^alpha · `neighbours` CSR by source item · `histories` of real users, the last basket as targets: an
    export is compared on them, and never ships them · `metrics` on the validation period · `recipe`, `seed`: what
    to train again with · `content` places items without events, None: nothing does."""

    name: str
    model: str
    encoder: nn.Module
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    popularity: NDArray[np.float32]
    negatives: NDArray[np.int32]
    neighbours: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None
    items: Sequence[str]
    titles: Sequence[str]
    attributes: Sequence[Mapping[str, Any]]
    histories: Sequence[History]
    event_kinds: Mapping[str, EventKind]
    history_length: int
    history_kinds: Sequence[str]
    scenarios: Mapping[str, Scenario]
    sources: Mapping[str, Mapping[str, Any]]
    blend: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    updater: str = "sgd"
    updaters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_negatives: int = 8
    n_replayed: int = 4
    n_rivals: int = 0
    learn_history: bool = False
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    federated: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    content: ContentModel | None = None
    repeat: RepeatModel | None = None

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes the model to one file, a zip of arrays and JSON, at once or not at all. Returns its size in bytes.

        Raises DataError where the folder is missing or cannot be written.
        """
        target = Path(path)
        try:
            with tempfile.TemporaryDirectory(prefix=".edgerec-train-", dir=target.parent) as scratch:
                whole = Path(scratch) / "model.npz"
                with whole.open("wb") as file:
                    np.savez_compressed(file, **_pack(self))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(whole, target)
        except OSError as error:
            raise DataError(f"cannot write {target}: {error.strerror}") from error
        return target.stat().st_size


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """The model that `save` wrote; no pickle is read. Raises DataError where the file is none of ours."""
    if not Path(path).is_file():
        raise DataError(f"there is no trained model {path}", hint="edgerec train --data … --out FILE")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _unpack({name: archive[name] for name in archive.files})
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a trained model: {error}") from error


def _pack(trained: Trained) -> dict[str, NDArray[Any]]:
    settings: Any = trained.encoder.settings
    meta = {
        "format": FORMAT,
        **{name: getattr(trained, name) for name in _PLAIN},
        "encoder": settings,
        "items": list(trained.items),
        "titles": list(trained.titles),
        "attributes": [dict(known) for known in trained.attributes],
        "history_kinds": list(trained.history_kinds),
        "event_kinds": {name: [kind.weight, kind.consumes, kind.hides] for name, kind in trained.event_kinds.items()},
        "scenarios": {name: [scenario.seen, dict(scenario.weights)] for name, scenario in trained.scenarios.items()},
    }
    arrays: dict[str, NDArray[Any]] = {name: getattr(trained, name) for name in _ARRAYS}
    for name, tensor in trained.encoder.state_dict().items():
        arrays[f"encoder/{name}"] = tensor.cpu().numpy()
    if trained.neighbours is not None:
        arrays.update({f"neighbours/{n}": part for n, part in zip(_NEIGHBOURS, trained.neighbours, strict=True)})
    if trained.repeat is not None:
        arrays.update(trained.repeat.arrays())
    if trained.content is not None:
        meta["content"] = trained.content.constants()
        arrays.update(trained.content.arrays())
    arrays["meta"] = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), np.uint8)
    for name in _HISTORIES:
        parts = [getattr(past, name) for past in trained.histories]
        arrays[f"histories/{name}"] = np.concatenate(parts) if parts else np.empty(0)
    for name in ("rows", "targets"):
        arrays[f"histories/n_{name}"] = np.array([len(getattr(past, name)) for past in trained.histories], np.int64)
    return arrays


def _unpack(arrays: dict[str, NDArray[Any]]) -> Trained:
    import torch

    from edgerec_exporters.models import build

    meta = json.loads(arrays["meta"].tobytes().decode())
    if meta["format"] > FORMAT:
        raise ValueError(f"format {meta['format']} is newer than {FORMAT}")
    encoder = build(meta["model"], meta["encoder"])
    state = {n.removeprefix("encoder/"): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("encoder/")}
    encoder.load_state_dict(state)
    neighbours = None
    if "neighbours/ids" in arrays:
        neighbours = (arrays["neighbours/indptr"], arrays["neighbours/ids"], arrays["neighbours/weights"])
    return Trained(
        encoder=encoder.eval(),
        neighbours=neighbours,
        histories=_histories(arrays),
        items=meta["items"],
        titles=meta["titles"],
        attributes=meta["attributes"],
        history_kinds=tuple(meta["history_kinds"]),
        event_kinds={name: EventKind(*values) for name, values in meta["event_kinds"].items()},
        scenarios={name: Scenario(*values) for name, values in meta["scenarios"].items()},
        **{name: arrays[name] for name in _ARRAYS},
        **{name: meta[name] for name in _PLAIN if name in meta},
        content=_content(arrays, meta.get("content")),
        repeat=RepeatModel(*(arrays[name] for name in REPEAT)) if REPEAT[0] in arrays else None,
    )


def _content(arrays: dict[str, NDArray[Any]], constants: dict[str, Any] | None) -> ContentModel | None:
    if constants is None:
        return None
    parts = ("mean", "basis", "codes", "weights")
    modalities = [
        Modality(name, *(arrays[f"content/{name}/{part}.npy"] for part in parts)) for name in constants["modalities"]
    ]
    return ContentModel(tuple(modalities), arrays[OFFSET], ContentRule.of(constants))


def _histories(arrays: dict[str, NDArray[Any]]) -> list[History]:
    counts = {"targets": arrays["histories/n_targets"]}
    parts = []
    for name in _HISTORIES:
        ends = np.cumsum(counts.get(name, arrays["histories/n_rows"]))
        parts.append(np.split(arrays[f"histories/{name}"], ends)[: len(ends)])
    return [History(*columns) for columns in zip(*parts, strict=True)]
