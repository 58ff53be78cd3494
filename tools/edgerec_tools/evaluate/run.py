"""The evaluation on one page: split, ask every model and baseline the same questions, keep every answer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import RequestError
from edgerec_tools.baselines import BASELINES, Baseline, Evidence, choose
from edgerec_tools.comparison import TEST_FROM
from edgerec_tools.datasets import Dataset
from edgerec_tools.evaluate.measures import measure
from edgerec_tools.evaluate.ranking import OverData, Questions, Ranked, rank
from edgerec_tools.evaluate.runtime_models import OnDevice, is_bundle, opened
from edgerec_tools.evaluate.slices import slices
from edgerec_tools.evaluate.tuning import tuned, validation
from edgerec_tools.periods import iso, trained_before
from edgerec_tools.progress import Progress, silent
from edgerec_tools.protocols import Split, leave_one_out

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One model's answers. `values` float64 (n_targets, len(METRICS)) · `vectors` float32 (n_items, dim) by data row,
    NaN rows for items it lacks, None where it has no vectors · `torch`: the same model scored in PyTorch."""

    ranked: Ranked
    values: Float64
    fit_cpu_seconds: float = 0.0
    constants: Mapping[str, float] = field(default_factory=dict)
    vectors: Float32 | None = None
    torch: Judged | None = None

    @property
    def name(self) -> str:
        return self.ranked.name


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything that was found. `models` in the order asked for, `baselines` without those that are models.

    `skipped`: baseline → why it was not run · `slices`: name → bool (n_targets,) · `hold_out`: events at the end of
    each history that baselines did not learn from · `warnings`: what makes a figure doubtful.
    """

    split: Split
    questions: Questions
    seen: str
    seed: int
    hold_out: int
    models: Sequence[Judged]
    baselines: Sequence[Judged]
    skipped: Mapping[str, str]
    slices: Mapping[str, NDArray[np.bool_]]
    warnings: Sequence[str]


def evaluate(
    split: Split,
    models: Sequence[str],
    *,
    baselines: Sequence[str] | None = None,
    seen: str = "hide",
    hold_out: int = 1,
    tune: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Ranks every target of the split under every model and baseline.

    `models`: bundles, trained files, or names of baselines · `baselines`: names, None for all that are feasible ·
    `seen`: hide or show what is in the past · `hold_out`: 2 keeps the second last event from baselines too, as the
    published leave-one-out tables do · `tune`: choose the baselines' constants on validation · `seed`: of iALS and the
    bootstrap. Raises RequestError, DataError, BundleError, MissingDistribution.
    """
    _check(split, models, hold_out)
    questions = Questions.of(split, seen)
    warnings = _period(split)
    bench = _Bench(split, seen, hold_out, tune, seed, progress)
    wanted = [name for name in (BASELINES if baselines is None else baselines) if name not in models]
    chosen = choose(wanted)
    judged = [_judge(name, label, questions, bench, warnings) for name, label in labels(models)]
    skipped: dict[str, str] = {}
    others = []
    for baseline in chosen:
        reason = baseline.infeasible(split.train)
        if reason is not None:
            skipped[baseline.name] = reason
        else:
            others.append(bench.judge(baseline, questions))
    parts = slices(questions, bench.train)
    return Evaluation(split, questions, seen, seed, hold_out, judged, others, skipped, parts, warnings)


def _check(split: Split, models: Sequence[str], hold_out: int) -> None:
    if not models:
        raise RequestError("no model was named", hint="--model BUNDLE, a trained file, or a baseline's name")
    if hold_out != 1 and split.protocol != "loo":
        raise RequestError("under a temporal split the cut-off decides what is held out", hint="leave out --hold-out")


def _period(split: Split) -> list[str]:
    """Says so where targets lie in a period that nothing may be tuned on."""
    begins = TEST_FROM.get(split.full.name, math.inf)
    if split.full.at[split.target].max() < begins:
        return []
    return [f"targets reach into the test period of {split.full.name}, from {iso(begins)}: tune nothing on this"]


def labels(models: Sequence[str]) -> list[tuple[str, str]]:
    """What was asked for and what to call it: the file's stem, the whole path where two share one."""
    stems = [name if name in BASELINES else Path(name).stem for name in models]
    if len(set(models)) < len(models):
        raise RequestError("a model was named twice")
    return [(name, stem if stems.count(stem) == 1 else name) for name, stem in zip(models, stems, strict=True)]


class _Bench:
    """Fits and judges baselines; what they share is computed once."""

    def __init__(self, split: Split, seen: str, hold_out: int, tune: bool, seed: int, progress: Progress) -> None:
        self.split, self.seen, self.tune, self.seed, self.progress = split, seen, tune, seed, progress
        self.train: Dataset = leave_one_out(split.train).train if hold_out == 2 else split.train
        self.evidence = Evidence(self.train, seed)
        self._validation: tuple[Evidence, Questions] | None = None

    def judge(self, baseline: Baseline, questions: Questions) -> Judged:
        """Tunes where that was asked for, fits, ranks."""
        if self.tune and baseline.grid:
            baseline, _ = tuned(baseline, *self._chosen_on(), self.progress)
        started = time.process_time()
        learned = baseline.fit(self.evidence)
        spent = time.process_time() - started
        model = OverData(baseline.name, learned, np.arange(questions.data.n_items))
        ranked = rank(model, questions, self.progress)
        constants: Any = asdict(baseline)  # type: ignore[call-overload]
        return Judged(ranked, measure(ranked.ranks), spent, constants)

    def _chosen_on(self) -> tuple[Evidence, Questions]:
        if self._validation is None:
            split = validation(self.split)
            self._validation = Evidence(split.train, self.seed), Questions.of(split, self.seen)
        return self._validation


def _judge(name: str, label: str, questions: Questions, bench: _Bench, warnings: list[str]) -> Judged:
    if name in BASELINES:
        baseline = BASELINES[name]
        reason = baseline.infeasible(bench.train)
        if reason is not None:
            raise RequestError(f"{name} cannot be fitted here: {reason}")
        return bench.judge(baseline, questions)
    path = Path(name)
    if not path.exists():
        raise RequestError(f"there is no bundle or trained file {name}", hint=f"baselines: {', '.join(BASELINES)}")
    step = f"opening {label}" if is_bundle(path) else f"exporting {label}"
    bench.progress(step, 0, 1)
    with opened(path, label, questions.data, bench.seen) as model:
        bench.progress(step, 1, 1)
        _check_training(label, model.device, bench.split, warnings)
        ranked = rank(model.device, questions, bench.progress)
        found = Judged(ranked, measure(ranked.ranks), vectors=_by_data_row(model.device, questions.data.n_items))
        if model.torch is not None:
            again = rank(model.torch, questions, bench.progress)
            found = replace(found, torch=Judged(again, measure(again.ranks)))
    return found


def _by_data_row(model: OnDevice, n_items: int) -> Float32:
    out = np.full((n_items, model.vectors.shape[1]), np.nan, np.float32)
    known = model.columns >= 0
    out[model.columns[known]] = model.vectors[known]
    return out


LEFT_OUT = "each user's last event"
"""What a manifest's metrics say under `validated_on` where training kept to leave-one-out."""


def _check_training(label: str, model: OnDevice, split: Split, warnings: list[str]) -> None:
    """Whether the model may have learned from what it is asked for. Raises RequestError where it says that it has."""
    manifest = model.bundle.manifest
    if split.cutoff is None:
        if manifest.metrics.get("validated_on") != LEFT_OUT:
            warnings.append(f"{label} does not say that it was trained without the targets; train with --protocol loo")
        return
    until = trained_before(manifest)
    if until is None:
        warnings.append(f"{label} does not say what it was trained on; it may have seen the targets")
    elif until > split.cutoff:
        raise RequestError(
            f"{label} was trained on what happened before {iso(until)}, past the cut-off {iso(split.cutoff)}",
            hint="cut later, or train with that cut-off",
        )
