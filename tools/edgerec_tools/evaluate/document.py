"""An evaluation as one JSON object: means, per-user bootstrap intervals, paired differences, slices, lists, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.evaluate.lists import describe
from edgerec_tools.evaluate.measures import METRICS
from edgerec_tools.evaluate.run import Evaluation, Judged
from edgerec_tools.intervals import Interval, bootstrap_means
from edgerec_tools.periods import iso

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

IN_SLICES = ("hr@10", "ndcg@10", "mrr")
TIES = {
    "score": "by catalogue row",
    "time": "by the data set's order: time, then user, then the source's order; in a basket by item id",
}


def document(found: Evaluation) -> dict[str, Any]:
    """Plain values; a figure that does not exist is null. Differences are the first model's value minus the other's."""
    first, everyone = found.models[0], [*found.models, *found.baselines]
    others = everyone[1:]
    blocks = [one.values for one in everyone] + [first.values - other.values for other in others]
    rows = _bootstrapped(found, blocks, METRICS)
    summary = dict(zip([one.name for one in everyone], rows, strict=False))
    differences = dict(zip([other.name for other in others], rows[len(everyone) :], strict=True))
    return {
        **_what(found),
        **summary[first.name],
        "baselines": {one.name: summary[one.name]["metrics"] for one in found.baselines},
        "cpu_seconds": round(first.ranked.cpu_seconds, 2),
        "baselines_ci95": {one.name: summary[one.name]["ci95"] for one in found.baselines},
        "vs": differences,
        "models": {one.name: summary[one.name] for one in found.models},
        **_mean_of_models(found),
        "pytorch": {one.name: _against_torch(one, one.torch, found) for one in found.models if one.torch},
        "slices": {name: _slice(found, everyone, mask) for name, mask in found.slices.items()},
        "lists": _lists(everyone, found),
        "constants": {one.name: dict(one.constants) for one in everyone if one.constants},
        "costs": {
            one.name: {
                "fit_cpu_seconds": round(one.fit_cpu_seconds, 2),
                "score_cpu_seconds": round(one.ranked.cpu_seconds, 2),
            }
            for one in everyone
        },
        "skipped": dict(found.skipped),
        "warnings": list(found.warnings),
    }


def _what(found: Evaluation) -> dict[str, Any]:
    split, questions = found.split, found.questions
    return {
        "data": split.full.name,
        "model": found.models[0].name,
        "protocol": split.protocol,
        "targets": split.targets,
        "cutoff": None if split.cutoff is None else iso(split.cutoff),
        "hold_out": found.hold_out if split.protocol == "loo" else None,
        "seen": found.seen,
        "ties": TIES,
        "seed": found.seed,
        "n_users": len(np.unique(questions.user)),
        "n_items": split.full.n_items,
        "n_targets": len(questions),
        "left_out": {"repeats": questions.repeats},
        "unknown_to_model": {one.name: one.ranked.unknown for one in found.models},
    }


def _bootstrapped(
    found: Evaluation, blocks: Sequence[Float64], names: Sequence[str], mask: Bools | None = None
) -> list[dict[str, Any]]:
    """Per block (n_targets, len(names)) the means and intervals of its columns, all on the same draws of users."""
    user = found.questions.user
    if mask is not None:
        user, blocks = user[mask], [block[mask] for block in blocks]
    intervals = bootstrap_means(user, np.concatenate(blocks, axis=1), seed=found.seed)
    width = len(names)
    return [_row(names, intervals[at : at + width]) for at in range(0, len(intervals), width)]


def _row(names: Sequence[str], intervals: Sequence[Interval]) -> dict[str, Any]:
    return {
        "metrics": {name: _number(one.value) for name, one in zip(names, intervals, strict=True)},
        "ci95": {name: [_number(one.low), _number(one.high)] for name, one in zip(names, intervals, strict=True)},
    }


def _mean_of_models(found: Evaluation) -> dict[str, Any]:
    """Over several models, seeds of one recipe say: the mean, its interval over users, the deviation over models."""
    if len(found.models) < 2:
        return {}
    values = np.stack([one.values for one in found.models])
    row = _bootstrapped(found, [values.mean(axis=0)], METRICS)[0]
    spread = values.mean(axis=1).std(axis=0, ddof=1)
    deviation = {name: _number(value) for name, value in zip(METRICS, spread.tolist(), strict=True)}
    return {"mean_of_models": {**row, "deviation": deviation}}


def _against_torch(exported: Judged, torch: Judged, found: Evaluation) -> dict[str, Any]:
    row, difference = _bootstrapped(found, [torch.values, exported.values - torch.values], METRICS)
    return {
        **row,
        "exported_minus_pytorch": difference["metrics"],
        "equal_ranks": _number(float((exported.ranked.ranks == torch.ranked.ranks).mean())),
        "cpu_seconds": round(torch.ranked.cpu_seconds, 2),
    }


def _slice(found: Evaluation, everyone: Sequence[Judged], mask: Bools) -> dict[str, Any]:
    columns = [METRICS.index(name) for name in IN_SLICES]
    rows = _bootstrapped(found, [one.values[:, columns] for one in everyone], IN_SLICES, mask)
    return {
        "n_targets": int(mask.sum()),
        "n_users": len(np.unique(found.questions.user[mask])),
        "models": {one.name: row for one, row in zip(everyone, rows, strict=True)},
    }


def _lists(everyone: Sequence[Judged], found: Evaluation) -> Mapping[str, Any]:
    """All lists are compared in one space: the vectors of the first model that has any."""
    vectors = next((one.vectors for one in everyone if one.vectors is not None), None)
    described = {one.name: describe(one.ranked.top, found.split.full.n_items, vectors) for one in everyone}
    return {
        name: {figure: None if value is None else _number(value) for figure, value in row.items()}
        for name, row in described.items()
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
