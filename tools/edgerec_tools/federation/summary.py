"""What a federated arm's rounds came to, and how much of the way to central retraining they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CENTRAL = ("central/ease-weekly+recent", "central/ease-weekly")
"""Retrained on everybody's raw data; the first that ran is what devices are compared with."""


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Held and failed rounds, devices, bytes up per device and round, what of a privacy budget was spent."""
    held = [one for one in rounds if "round" in one]
    sizes = [one["bytes"] for one in held if "bytes" in one]
    privacy = held[-1]["privacy"] if held else {}
    return {
        "rounds": len(held),
        "failed": [one["reason"] for one in rounds if "round" not in one],
        "devices": [one["devices"] for one in held],
        "bytes_up": {
            "per_delta": max((size["largest"] for size in sizes), default=0),
            "all": sum(size["all"] for size in sizes),
        },
        "privacy": dict(privacy),
    }


def closed(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """View → arm → share of the gap from `frozen` to central retraining that it closes, by NDCG@10; empty without both.

    More than 1: better than retraining on everybody's raw data.
    """
    found = {arm["name"]: arm["views"] for arm in arms}
    top = next((name for name in CENTRAL if name in found), None)
    if top is None or "frozen" not in found:
        return {}
    out: dict[str, Any] = {"central": top}
    for view, figures in found["frozen"].items():
        gap = found[top][view]["ndcg@10"] - figures["ndcg@10"]
        out[view] = {
            name: round((views[view]["ndcg@10"] - figures["ndcg@10"]) / gap, 4)
            for name, views in found.items()
            if name not in ("frozen", top) and gap > 0
        }
    return out
