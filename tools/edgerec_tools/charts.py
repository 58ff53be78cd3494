"""The plots of a simulation's report, as SVG elements that an HTML page can hold as they are."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec_tools.arms import CENTRAL
from edgerec_tools.central import VIEWS, WEEK
from edgerec_tools.comparison import references, user_differences
from edgerec_tools.simulate import ArmResult, Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "popular": "#8a8f98",
    "frozen": "#5b9bd5",
    "fresh": "#1f5fa8",
    "foldin": "#2a9d8f",
    "personalised": "#d1495b",
    "personalised-sgd": "#e39b3b",
    "personalised-blend": "#8e5ea2",
    "personalised-habit": "#7d6b4f",
}
_CENTRAL_COLOUR = "#b9bec6"
_OTHER_COLOUR = "#1b998b"
_INK, _MUTED, _GRID = "#22262e", "#5c6470", "#e4e7ec"
TITLES = {"novel": "novel: items never bought before", "all": "all: whole baskets"}
_MIN_WEEK = 10
"""A week with fewer scored baskets gives no point: it would be noise."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "axes.axisbelow": True,
}


def _colour(name: str) -> str:
    return _COLOURS.get(name, _CENTRAL_COLOUR if name.startswith(f"{CENTRAL}/") else _OTHER_COLOUR)


def _drawn(name: str, draw: Callable[[], Figure]) -> str:
    """The figure as one <svg> element: no declaration, no metadata, ids that no other figure has."""
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(<g) id="[A-Za-z0-9_.]+_\d+"', r"\1", svg)
    svg = re.sub(r"<svg [^>]*viewBox", f'<svg role="img" aria-label="{name}" viewBox', svg, count=1)
    return re.sub(r"\n\s*", "\n", svg)


def means(result: dict[str, Any]) -> str:
    """NDCG@10 of every arm with its interval, a panel per view."""
    from matplotlib.figure import Figure

    arms = result["arms"]

    def draw() -> Figure:
        figure = Figure(figsize=(10, 0.9 + 0.3 * len(arms)), layout="constrained")
        for axes, view in zip(figure.subplots(1, 2, sharey=True), VIEWS, strict=True):
            found = [arm["views"][view] for arm in arms]
            values = np.array([_or_nan(one["ndcg@10"]) for one in found])
            low, high = (np.array([_or_nan(one["ci95"][end]) for one in found]) for end in (0, 1))
            places = np.arange(len(arms))[::-1]
            axes.barh(places, values, height=0.62, color=[_colour(arm["name"]) for arm in arms])
            axes.errorbar(values, places, xerr=(values - low, high - values), fmt="none", ecolor=_INK, elinewidth=1)
            for place, value, end in zip(places, values, high, strict=True):
                axes.annotate(
                    f"{value:.4f}", (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5
                )
            axes.set_yticks(places, [arm["name"] for arm in arms])
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.12)
            axes.grid(axis="x")
            axes.set_title(TITLES[view])
            axes.set_xlabel("NDCG@10, 95 % interval")
        return figure

    return _drawn("NDCG@10 per arm and view", draw)


def over_time(simulation: Simulation) -> str:
    """Mean NDCG@10 of every week of the period, a line per device arm."""
    from matplotlib.figure import Figure

    arms = [arm for arm in simulation.arms if not arm.name.startswith(f"{CENTRAL}/")] or list(simulation.arms)

    def draw() -> Figure:
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, view in zip(panels, VIEWS, strict=True):
            for arm in arms:
                weeks, values = _by_week(simulation, arm, view)
                axes.plot(
                    weeks, values, color=_colour(arm.name), label=arm.name, lw=_width(arm.name), marker="o", ms=2.5
                )
            axes.set_ylim(bottom=0)
            axes.grid(axis="y")
            axes.tick_params(length=0)
            axes.set_title(TITLES[view])
            axes.set_ylabel("mean NDCG@10 of the week")
            _date_axis(axes)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
        return figure

    return _drawn("NDCG@10 per week", draw)


def _width(name: str) -> float:
    return 2.2 if name == "personalised" else 1.3


def _date_axis(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _by_week(simulation: Simulation, arm: ArmResult, view: str) -> tuple[list[datetime], list[float]]:
    """Start of each week from the cut-off on, and the mean over its scored baskets."""
    found = arm.views[view]
    week = ((simulation.at[found.basket] - simulation.period.cutoff) // WEEK).astype(np.int64)
    count = np.bincount(week)
    enough = np.flatnonzero(count >= min(_MIN_WEEK, max(count.max(initial=1) // 4, 1)))
    mean = np.bincount(week, weights=found.ndcg)[enough] / count[enough]
    starts = [datetime.fromtimestamp(simulation.period.cutoff + WEEK * int(n), UTC) for n in enough]
    return starts, mean.tolist()


def differences(simulation: Simulation) -> str | None:
    """Every user's own mean difference from the reference arms; None where nothing can be compared."""
    from matplotlib.figure import Figure

    bases = list(references(simulation))
    compared = {base.name: [arm for arm in simulation.arms if _beside(arm.name, base.name)] for base in bases}
    found = {
        (base.name, view): [user_differences(arm.views[view], base.views[view]) for arm in compared[base.name]]
        for base in bases
        for view in VIEWS
    }
    if not any(len(one) for rows in found.values() for one in rows):
        return None

    def draw() -> Figure:
        heights = [0.8 + 0.4 * len(compared[base.name]) for base in bases]
        figure = Figure(figsize=(10, sum(heights)), layout="constrained")
        panels = figure.subplots(len(bases), 2, sharey="row", squeeze=False, height_ratios=heights)
        for row, base in zip(panels, bases, strict=True):
            for axes, view in zip(row, VIEWS, strict=True):
                users = found[base.name, view]
                _strips(axes, [arm.name for arm in compared[base.name]], users)
                axes.set_title(f"against {base.name}, {view} ({len(users[0]) if users else 0} users)")
        for axes in panels[-1]:
            axes.set_xlabel("a user's mean difference in NDCG@10")
        return figure

    return _drawn("Differences per user", draw)


def _beside(name: str, base: str) -> bool:
    """Whether the strips show the arm: what is far from the base, as popularity alone, would stretch the scale."""
    far = ("popular", "frozen") if base == "fresh" else ("popular",)
    return name != base and name not in far and not name.startswith(f"{CENTRAL}/")


def _strips(axes: Axes, names: Sequence[str], values: Sequence[np.ndarray[Any, Any]]) -> None:
    """A row per arm: a dot per user, a bar over the middle half, a line from the 10th to the 90th percentile."""
    jitter = np.random.default_rng(0)
    axes.axvline(0, color=_MUTED, lw=0.8)
    for place, (name, users) in enumerate(zip(names, values, strict=True)):
        if not len(users):
            continue
        height = place + jitter.uniform(-0.26, 0.26, len(users))
        axes.scatter(users, height, s=5, color=_colour(name), alpha=0.3, linewidths=0)
        low, first, middle, third, high = np.percentile(users, [10, 25, 50, 75, 90])
        axes.plot([low, high], [place, place], color=_INK, lw=1)
        axes.plot([first, third], [place, place], color=_INK, lw=3.5, solid_capstyle="butt")
        axes.plot(middle, place, "o", color="white", mec=_INK, ms=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
