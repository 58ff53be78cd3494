"""Twelve plugins that mean no good, as installed packages in a folder that a process may be pointed at."""

from __future__ import annotations

from pathlib import Path

HEAD = """
import os, socket, sys, time, threading
import numpy as np
from edgerec.hookspecs import hookimpl
from edgerec.types import Reranking, SourceScores
"""

SOURCE = """
class Source:
    name = "{name}"
    def score(self, request, profile, model):
        {act}

@hookimpl
def edgerec_sources():
    return {{"{name}": lambda settings: Source()}}
"""

FINE_SCORES = "return SourceScores.dense(np.arange(model.n_items, dtype=np.float32))"

UPDATER = """
class Updater:
    name, schema, item_space = "{name}", 1, True
    def initial(self, model):
        return {{"x": np.zeros(4, np.float32)}}
    def update(self, state, batch):
        {act}
    def user_vector(self, state):
        return None
    def migrate(self, state, old_schema):
        return state

@hookimpl
def edgerec_updaters():
    return {{"{name}": lambda settings: Updater()}}
"""

RERANKER = """
class Reranker:
    name = "{name}"
    def rerank(self, slate, request, profile, model):
        {act}

@hookimpl
def edgerec_rerankers():
    return {{"{name}": lambda settings: Reranker()}}
"""


def _source(name: str, act: str) -> str:
    return HEAD + SOURCE.format(name=name, act=act)


def _aside(name: str, act: str) -> str:
    """An updater that works aside, because a source of its name reads its state."""
    return _source(name, FINE_SCORES) + UPDATER.format(name=name, act=act)


MODULES = {
    "raises": _source("raises", "raise RuntimeError('boom')"),
    "hangs": _source("hangs", "threading.Event().wait()"),
    "nan": _source("nan", "return SourceScores.dense(np.full(model.n_items, np.nan, np.float32))"),
    "shape": _source("shape", "return SourceScores.dense(np.arange(3, dtype=np.float32))"),
    "mutates": _aside("mutates", "batch.query[:] = 0; batch.model.vectors[:] = 0; return state"),
    "giant": _aside("giant", "return {'x': np.zeros(1_000_000, np.float32)}"),
    "twin": _source("twin", FINE_SCORES),
    "unimportable": "raise ImportError('a library that is not there')",
    "ancient": 'edgerec_requires = ">=0.0.1,<0.0.9"' + _source("ancient", FINE_SCORES),
    "slow": HEAD + RERANKER.format(name="slow", act="time.sleep(5); return Reranking(slate.rows)"),
    "network": _source("network", "socket.create_connection(('127.0.0.1', 9), timeout=60)"),
    "exits": _source("exits", "sys.exit(3)"),
}
SOURCES = [name for name in MODULES if name not in ("slow", "unimportable")]


def install(folder: Path) -> None:
    """Writes the packages; `twin` is announced by two of them."""
    for name, text in MODULES.items():
        (folder / f"hostile_{name}.py").write_text(text)
        _announce(folder, f"hostile_{name}", name, f"hostile_{name}")
    (folder / "hostile_other.py").write_text(MODULES["twin"])
    _announce(folder, "hostile_other", "twin", "hostile_other")


def _announce(folder: Path, package: str, name: str, module: str) -> None:
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[edgerec]\n{name} = {module}\n")
