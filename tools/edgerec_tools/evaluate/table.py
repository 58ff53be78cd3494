"""An evaluation's document as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgerec_tools.comparison import figure

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("hr@10", "ndcg@10", "mrr")


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """The headline, the slices, the lists."""
    yield _headline(result)
    yield _slices(result)
    yield _lists(result)


def notes(result: dict[str, Any]) -> Iterator[str]:
    """What a reader must know beside the figures, a line each."""
    if repeats := result["left_out"]["repeats"]:
        yield f"left out: {repeats:,} targets that the user had before (seen items are hidden)"
    for name, unknown in result["unknown_to_model"].items():
        if unknown:
            yield f"{name} does not have the items of {unknown:,} targets; they count as misses"
    for name, found in result["pytorch"].items():
        worst = max(abs(value) for value in found["exported_minus_pytorch"].values())
        yield (
            f"{name}: exported against PyTorch, {found['equal_ranks']:.2%} of the ranks equal, "
            f"largest difference of a metric {worst:.6f}"
        )
    if mean := result.get("mean_of_models"):
        yield "mean of the models: " + ", ".join(
            f"{name} {figure(mean['metrics'][name])} ± {figure(mean['deviation'][name])}" for name in SHOWN
        )
    for name, reason in result["skipped"].items():
        yield f"not run: {name}, {reason}"
    for warning in result["warnings"]:
        yield f"warning: {warning}"


def _headline(result: dict[str, Any]) -> Table:
    from rich.table import Table

    when = f" from {result['cutoff']}" if result["cutoff"] else ""
    out = Table(
        title=f"{result['data']}, {result['protocol']}, {result['targets']} targets{when}: "
        f"{result['n_targets']:,} targets of {result['n_users']:,} users, {result['n_items']:,} items, "
        f"seen items {'hidden' if result['seen'] == 'hide' else 'shown'}",
        caption="full ranking; 95 % intervals over users; differences are the first model's minus the row's",
    )
    out.add_column("model", no_wrap=True)
    for name in (*SHOWN, f"{SHOWN[1]} difference", "CPU s"):
        out.add_column(name, justify="right")
    for name, found in result["models"].items():
        out.add_row(name, *_figures(found["metrics"], found["ci95"]), _difference(result, name), _seconds(result, name))
    out.add_section()
    for name, metrics in result["baselines"].items():
        figures = _figures(metrics, result["baselines_ci95"][name])
        out.add_row(name, *figures, _difference(result, name), _seconds(result, name))
    return out


def _figures(metrics: dict[str, Any], ci95: dict[str, Any]) -> Iterator[str]:
    return (_interval(metrics[name], ci95[name]) for name in SHOWN)


def _difference(result: dict[str, Any], name: str) -> str:
    other = result["vs"].get(name)
    return _interval(other["metrics"][SHOWN[1]], other["ci95"][SHOWN[1]], "+") if other else ""


def _interval(value: float | None, bounds: list[float | None], sign: str = "", bounds_sign: str = "") -> str:
    low, high = (figure(bound, sign or bounds_sign) for bound in bounds)
    return f"{figure(value, sign)}\n[dim]{low} {high}[/dim]"


def _seconds(result: dict[str, Any], name: str) -> str:
    cost = result["costs"][name]
    return f"{cost['fit_cpu_seconds'] + cost['score_cpu_seconds']:,.1f}"


def _slices(result: dict[str, Any]) -> Table:
    from rich.table import Table

    out = Table(title="NDCG@10 by slice")
    out.add_column("slice", no_wrap=True)
    out.add_column("targets", justify="right")
    names = [*result["models"], *result["baselines"]]
    for name in names:
        out.add_column(name, justify="right")
    for part, found in result["slices"].items():
        cells = (figure(found["models"][name]["metrics"]["ndcg@10"]) for name in names)
        out.add_row(part, f"{found['n_targets']:,}", *cells)
    return out


def _lists(result: dict[str, Any]) -> Table:
    from rich.table import Table

    out = Table(title="The lists")
    out.add_column("model", no_wrap=True)
    figures = list(next(iter(result["lists"].values())))
    for name in figures:
        out.add_column(name, justify="right")
    for name, found in result["lists"].items():
        out.add_row(name, *(figure(found[each]) for each in figures))
    return out


def cold_table(result: dict[str, Any]) -> Table:
    """NDCG@100 after k events, and the difference to popularity."""
    from rich.table import Table

    out = Table(
        title=f"{result['data']}, cold users: {result['n_users']:,} held out of training, {result['n_items']:,} items",
        caption="NDCG@100 over the rest of the history; below it the difference to popular with its 95 % interval",
    )
    out.add_column("model", no_wrap=True)
    for k in result["n_users_after"]:
        out.add_column(f"k = {k}", justify="right")
    shown = {name: found["metrics"] for name, found in result["models"].items()} | result["baselines"]
    for name, metrics in shown.items():
        against = result["vs_popular"].get(name)
        out.add_row(name, *(_cold_cell(figure_name, metrics, against) for figure_name in metrics))
    return out


def _cold_cell(name: str, metrics: dict[str, float], against: dict[str, Any] | None) -> str:
    if against is None:
        return figure(metrics[name])
    return _interval(metrics[name], against["ci95"][name], bounds_sign="+")


def unseen_table(result: dict[str, Any]) -> Table:
    """HR and NDCG of each arm, among sampled negatives and in full."""
    from rich.table import Table

    out = Table(
        title=f"{result['data']}, {result['n_users']:,} unseen users, {result['model']}: the next item among "
        f"{result['negatives']} negatives, and in full",
        caption=f"below each figure {result['arm']} minus it, with its 95 % interval",
    )
    out.add_column("arm", no_wrap=True)
    for name in result["metrics"]:
        out.add_column(name, justify="right")
    out.add_row(result["arm"], *(_interval(result["metrics"][m], result["ci95"][m]) for m in result["metrics"]))
    for name, metrics in result["baselines"].items():
        against = result["vs"][name]["ci95"]
        out.add_row(name, *(_interval(metrics[m], against[m], bounds_sign="+") for m in metrics))
    return out
