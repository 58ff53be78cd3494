"""The app that `test_frozen.py` freezes: what a quickstart does, told as one JSON document on stdout."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
HERE = Path(sys.executable).parent
NOT_WANTED = ("torch", "onnx", "matplotlib", "pandas", "scipy", "flwr", "rich", "pytest", "edgerec_exporters")


def visit(state: str, plugins: list[str] | None) -> dict[str, Any]:
    """One start of the app: a page, and a purchase of what stands on top of it."""
    import edgerec

    with edgerec.open(HERE / "tiny.edgerec", state, plugins=plugins) as rec:
        before = rec.profile()
        page = rec.recommend(3)
        first_page_s = time.perf_counter() - STARTED
        receipt = rec.record(page[0].item, "purchase", recommendation_id=page.id)
        after, stats = rec.profile(), rec.stats()
        return {
            "first_page_s": first_page_s,
            "items": [one.item for one in page],
            "status": receipt.status,
            "learned": receipt.learned,
            "purchases": [summary.events.get("purchase", 0) for summary in (before, after)],
            "vector_norm": [before.vector_norm, after.vector_norm],
            "updater": stats["learning"]["updater"],
            "plugins": stats["plugins"],
            "bundled": [name for name in NOT_WANTED if importlib.util.find_spec(name)],
        }


def main(mode: str, state: str, *plugins: str) -> dict[str, Any]:
    named = list(plugins) or None
    if mode == "spawn":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(visit, (state, named))
    if mode == "fork":
        child = os.fork()
        if child == 0:
            visit(state, named)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    return visit(state, named)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    print(json.dumps(main(*sys.argv[1:])))
