"""What a simulation says: means with intervals, paired differences, how many users an arm makes worse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec_tools import intervals
from edgerec_tools.arms import REFERENCES
from edgerec_tools.central import VIEWS, ViewMetrics
from edgerec_tools.federation.summary import closed, summary
from edgerec_tools.periods import iso
from edgerec_tools.simulate import ArmResult, Simulation

if TYPE_CHECKING:
    from rich.table import Table

MIN_BASKETS = 5
"""From this many scored baskets on, a user's own mean difference is looked at."""

TEST_FROM = {"retail": datetime(2011, 9, 1, tzinfo=UTC).timestamp()}
"""Data set → where its test period begins, POSIX seconds; nothing may be tuned on what lies behind."""


def document(simulation: Simulation) -> dict[str, Any]:
    """The simulation as one JSON object; a figure that does not exist is null.

    `events` and `events_per_second` count what was revealed to the devices of all arms together.
    """
    cutoff, until = simulation.period
    arms = [_arm(arm, simulation) for arm in simulation.arms]
    told: dict[str, Any] = {}
    if any(arm.rounds for arm in simulation.arms):
        told["rounds"] = {arm.name: summary(arm.rounds) for arm in simulation.arms if arm.rounds}
        told["gap_closed"] = closed(arms)
    return {
        "data": simulation.data,
        "bundle": dict(simulation.bundle),
        "period": period_name(simulation),
        "cutoff": iso(cutoff),
        "until": None if until is None else iso(until),
        "seed": simulation.seed,
        "devices": simulation.devices,
        "events": simulation.events,
        "seconds": round(simulation.seconds, 3),
        "events_per_second": round(simulation.events / simulation.seconds, 1),
        "arms": arms,
        **told,
    }


def period_name(simulation: Simulation) -> str:
    """`test` where the replay reaches baskets that nothing may be tuned on, else `validation`."""
    until, begins = simulation.period.until, TEST_FROM.get(simulation.data)
    return "test" if until is None or (begins is not None and until > begins) else "validation"


def _arm(arm: ArmResult, simulation: Simulation) -> dict[str, Any]:
    views = {view: _mean(arm.views[view], simulation.seed) for view in VIEWS}
    others = {
        other.name: {view: _against(arm.views[view], other.views[view], simulation.seed) for view in VIEWS}
        for other in simulation.arms
        if other.name != arm.name and other.name in (*REFERENCES, *arm.against)
    }
    return {"name": arm.name, "views": views, "vs": others}


def references(simulation: Simulation) -> Iterator[ArmResult]:
    """The arms that the others are compared with, those that ran."""
    return (arm for arm in simulation.arms if arm.name in REFERENCES)


def compared(result: dict[str, Any]) -> list[str]:
    """Names of the arms of a document that others are compared with, `REFERENCES` first."""
    names = dict.fromkeys(name for arm in result["arms"] for name in arm["vs"])
    return [*(name for name in REFERENCES if name in names), *(name for name in names if name not in REFERENCES)]


def _mean(found: ViewMetrics, seed: int) -> dict[str, Any]:
    interval = intervals.bootstrap_mean(found.user, found.ndcg, seed=seed)
    return {
        "recall@10": _number(found.recall.mean() if len(found.recall) else math.nan),
        "ndcg@10": _number(interval.value),
        "ci95": [_number(interval.low), _number(interval.high)],
        "n_baskets": interval.n_baskets,
        "n_users": interval.n_users,
    }


def _against(ours: ViewMetrics, theirs: ViewMetrics, seed: int) -> dict[str, Any]:
    """The paired difference over all baskets; `n_users` are those with enough of them for a difference of their own."""
    difference = paired(ours, theirs)
    interval = intervals.bootstrap_mean(ours.user, difference, seed=seed)
    tail = intervals.tail(ours.user, difference, min_baskets=MIN_BASKETS)
    return {
        "ndcg@10": _number(interval.value),
        "ci95": [_number(interval.low), _number(interval.high)],
        "worse_share": _number(tail.worse_share),
        "worst_decile": _number(tail.worst_decile),
        "n_users": tail.n_users,
    }


def paired(ours: ViewMetrics, theirs: ViewMetrics) -> NDArray[np.float64]:
    """Difference in NDCG@10, basket by basket."""
    if not np.array_equal(ours.basket, theirs.basket):
        raise ValueError("the arms were not scored on the same baskets")
    return ours.ndcg - theirs.ndcg


def user_differences(ours: ViewMetrics, theirs: ViewMetrics) -> NDArray[np.float64]:
    """Mean difference of every user with at least `MIN_BASKETS` scored baskets, ascending, float64 (n_users,)."""
    _, inverse, counts = np.unique(ours.user, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=paired(ours, theirs), minlength=len(counts)) / np.maximum(counts, 1)
    return np.sort(means[counts >= MIN_BASKETS])


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def table(result: dict[str, Any]) -> Table:
    """The headline of a document: metrics per view, and differences from the references."""
    from rich.table import Table

    until = f" to {result['until'][:10]}" if result["until"] else ""
    out = Table(
        title=f"{result['data']}, {result['period']} period from {result['cutoff'][:10]}{until}: "
        f"{result['devices']:,} devices, {result['events']:,} events, {result['events_per_second']:,.0f} per second",
        caption="N@10: NDCG@10 with its 95 % interval; worse: share of users made worse by more than a standard error",
    )
    out.add_column("arm", no_wrap=True)
    for header in ("R@10", "N@10"):
        out.add_column(header, justify="right")
    columns = list(dict.fromkeys((*REFERENCES, *compared(result))))
    for reference in columns:
        out.add_column(f"N@10 − {reference}", justify="right")
        out.add_column("worse", justify="right")
    for view in VIEWS:
        out.add_section()
        out.add_row(f"[b]{view}[/b]")
        for arm in result["arms"]:
            out.add_row(f"  {arm['name']}", *_cells(arm, view, columns))
    return out


def rounds_told(result: dict[str, Any]) -> list[str]:
    """Lines about the rounds of a document, and the gap that they closed; none without rounds."""
    lines = []
    for name, told in result.get("rounds", {}).items():
        devices = told["devices"] or [0]
        up = f"{told['bytes_up']['per_delta'] / 1024:.1f} KB up per device and round"
        spent = f", ε = {told['privacy']['epsilon']:.2f} spent" if told["privacy"].get("kind", "none") != "none" else ""
        lines.append(f"{name}: {told['rounds']} rounds of {min(devices)} to {max(devices)} devices, {up}{spent}")
        lines += [f"  no round: {reason}" for reason in dict.fromkeys(told["failed"])]
    gap = result.get("gap_closed", {})
    for view in VIEWS:
        shares = [f"{name} {share:.0%}" for name, share in gap.get(view, {}).items() if name in result["rounds"]]
        if shares:
            lines.append(f"gap from frozen to {gap['central']} closed, {view}: {', '.join(shares)}")
    return lines


def _cells(arm: dict[str, Any], view: str, columns: Iterable[str]) -> Iterator[str]:
    found = arm["views"][view]
    yield figure(found["recall@10"])
    yield _with_interval(found)
    for reference in columns:
        other = arm["vs"].get(reference, {}).get(view)
        yield _with_interval(other, "+") if other else ""
        yield _percent(other["worse_share"]) if other else ""


def figure(value: float | None, sign: str = "") -> str:
    """A figure of a document to four decimals, a dash where there is none; `sign` "+" for differences."""
    return "–" if value is None else f"{round(value, 4) + 0.0:{sign}.4f}".replace("-", "−")


def _with_interval(found: dict[str, Any], sign: str = "") -> str:
    low, high = found["ci95"]
    return f"{figure(found['ndcg@10'], sign)}\n[dim]{figure(low, sign)} {figure(high, sign)}[/dim]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
