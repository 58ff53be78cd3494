"""Chooses a baseline's constants on the protocol's own validation targets, never on the targets of the evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgerec_tools.baselines import Baseline, Evidence
from edgerec_tools.evaluate.measures import column, measure
from edgerec_tools.evaluate.ranking import OverData, Questions, rank
from edgerec_tools.progress import Progress, silent
from edgerec_tools.protocols import Split, leave_one_out, temporal


def validation(split: Split) -> Split:
    """The same protocol within the training data: under `loo` each user's last event there (the second last of all),
    under `gts` the last tenth of it. Raises DataError where there is too little."""
    if split.protocol == "loo":
        return leave_one_out(split.train)
    return temporal(split.train, targets=split.targets)


def tuned(
    baseline: Baseline, evidence: Evidence, questions: Questions, progress: Progress = silent
) -> tuple[Baseline, dict[str, Any]]:
    """The constants with the best NDCG@10, found by one pass over each constant's grid in turn.

    `evidence` and `questions` of the validation split. Also returns what was tried: constants → NDCG@10.
    """
    tried: dict[str, Any] = {}

    def value_of(candidate: Baseline) -> float:
        key = repr(candidate)
        if key not in tried:
            model = OverData(f"tuning {candidate.name}", candidate.fit(evidence), np.arange(questions.data.n_items))
            tried[key] = float(column(measure(rank(model, questions, progress).ranks), "ndcg@10").mean())
        return float(tried[key])

    best, value = baseline, value_of(baseline)
    for constant, values in baseline.grid.items():
        for choice in values:
            candidate: Any = replace(best, **{constant: choice})  # type: ignore[type-var]
            found = value_of(candidate)
            if found > value:
                best, value = candidate, found
    return best, tried
