"""Bundles as devices score them: the runtime's own history, sources, blend and rules, without a store.

Nothing is learned: a model is judged as shipped, on the live history. What learning adds is for `edgerec simulate`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec import Config
from edgerec.bundle import Bundle, load_bundle
from edgerec.engine import NO_UPDATER, Engine
from edgerec.errors import BundleError, MissingDistribution, RequestError, UnknownEventKind
from edgerec.history import Happening, History
from edgerec.learning.learner import Situation
from edgerec.plugins import Plugins
from edgerec.serving.pipeline import blended
from edgerec.serving.rules import eligibility
from edgerec.types import Request
from edgerec_tools.baselines import Pasts
from edgerec_tools.datasets import Dataset
from edgerec_tools.replay import scenario_of

if TYPE_CHECKING:
    from edgerec_exporters.trained import Trained

Rows = NDArray[np.int64]
Float32 = NDArray[np.float32]


class OnDevice:
    """A bundle as a model. `vectors` float32 (n_columns, dim) tell how alike its items are."""

    def __init__(self, name: str, bundle: Bundle, data: Dataset, seen: str) -> None:
        """Raises UnknownEventKind where the bundle does not know the data's kinds of event, RequestError where it
        knows none of its items."""
        self.name, self.bundle, self.data, self.seen = name, bundle, data, seen
        manifest = bundle.manifest
        missing = [kind for kind in data.kinds if kind not in manifest.event_kinds]
        if missing:
            raise UnknownEventKind(
                f"{name} knows no event kind {missing[0]!r}, which {data.name} holds",
                hint=f"it knows {', '.join(manifest.event_kinds)}",
            )
        self._row_of = bundle.catalogue.rows(list(data.items)).astype(np.int64)
        known = self._row_of >= 0
        if not known.any():
            raise RequestError(f"{name} has none of the items of {data.name}", hint="was it trained on other data?")
        self.columns = np.full(manifest.n_items, -1, np.int64)
        self.columns[self._row_of[known]] = np.flatnonzero(known)
        self.vectors = bundle.model.vectors
        self.scenario = scenario_of(manifest, seen)
        self._engine = Engine(bundle, Plugins([]), Config(updater=NO_UPDATER, learn_blend=False, filter_events=False))
        self._learned = self._engine.learner.initial()

    def scores(self, pasts: Pasts) -> Float32:
        """Blended scores under the scenario's weights, float32 (n, n_columns); −inf what the rules keep out."""
        out = np.empty((len(pasts), len(self.columns)), np.float32)
        for line, situation in zip(out, self._situations(pasts), strict=True):
            if situation.table.failed:
                failed = ", ".join(situation.table.failed)
                raise BundleError(f"{self.name}: {failed} failed", hint="see the log")
            line[:] = blended(situation.table, self._engine.mix(situation, self._learned, self.scenario))
            blocked = eligibility(self.bundle.catalogue, situation.history, seen=self.seen).blocked
            if blocked is not None:
                line[blocked] = -np.inf
        return out

    def _situations(self, pasts: Pasts) -> Iterator[Situation]:
        return (self._engine.situation(history, self._learned) for history in self._histories(pasts))

    def _histories(self, pasts: Pasts) -> Iterator[History]:
        empty = self._engine.empty_history()
        rows, kinds, at = self._row_of[pasts.item].tolist(), pasts.kind.tolist(), pasts.at.tolist()
        groups = [str(group) for group in pasts.group.tolist()] if self.data.group_ids else [None] * len(at)
        names, bounds = self.data.kinds, pasts.start.tolist()
        for first, last in itertools.pairwise(bounds):
            happened: list[Happening] = [
                (rows[n], names[kinds[n]], at[n], groups[n]) for n in range(first, last) if rows[n] >= 0
            ]
            yield empty.extended(happened)


class InTorch(OnDevice):
    """The same, but queries come from the trained encoder in PyTorch instead of the exported one."""

    def __init__(self, name: str, bundle: Bundle, data: Dataset, seen: str, trained: Trained) -> None:
        super().__init__(name, bundle, data, seen)
        self._encoder: Any = trained.encoder

    def _situations(self, pasts: Pasts) -> Iterator[Situation]:
        from edgerec_exporters import parity

        engine, length = self._engine, self.bundle.manifest.history_length
        histories = list(self._histories(pasts))
        windows = [parity.History(*history.window(length)) for history in histories]
        queries = parity.torch_queries(self._encoder, self.bundle.model, windows, length)
        nobody = np.zeros(self.bundle.manifest.dim, np.float32)
        for history, query in zip(histories, queries, strict=True):
            now = float(history.at[-1]) if len(history.at) else 0.0
            if not len(history.at):
                query = nobody
            table = engine.scorer.table(history.profile(query, nobody), Request("", "", now))
            yield Situation(history, query, table)


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A model that was asked for: as a device scores it, and in PyTorch where it is a trained file."""

    device: OnDevice
    torch: InTorch | None = None


@contextmanager
def opened(path: Path, name: str, data: Dataset, seen: str) -> Iterator[Opened]:
    """Opens a bundle, or exports a trained file to a temporary one.

    Raises MissingDistribution, BundleError, DataError (not a trained file), ExportError.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="edgerec-evaluate-")))
        if is_bundle(path):
            yield Opened(OnDevice(name, stack.enter_context(load_bundle(path, folder)), data, seen))
            return
        trained = _load_trained(path)
        bundle = stack.enter_context(load_bundle(_export(trained, folder), folder / "unpacked"))
        yield Opened(OnDevice(name, bundle, data, seen), InTorch(f"{name} in PyTorch", bundle, data, seen, trained))


def is_bundle(path: Path) -> bool:
    """Whether that is a bundle by its looks: a folder, or a zip called .edgerec."""
    return path.is_dir() or path.suffix == ".edgerec"


def _load_trained(path: Path) -> Trained:
    try:
        from edgerec_exporters.trained import load_trained
    except ImportError:
        raise MissingDistribution(
            f"{path.name} is not a bundle, and a trained file needs edgerec-exporters",
            hint="pip install edgerec-exporters",
        ) from None
    return load_trained(path)


def _export(trained: Trained, folder: Path) -> Path:
    from edgerec_exporters.bundle_writer import export

    out = folder / "exported.edgerec"
    (folder / "unpacked").mkdir()
    export(trained, out, name=trained.name, version=1, metrics=trained.metrics)
    return out
