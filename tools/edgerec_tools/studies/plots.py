"""Small plots beside the results: SVG files that are the same whenever the figures are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fa8", "#d1495b", "#2a9d8f", "#e39b3b", "#8e5ea2")
_STYLE: Any = {
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgerec",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ec",
    "legend.frameon": False,
}


@contextmanager
def panels(path: Path, titles: tuple[str, ...]) -> Iterator[list[Axes]]:
    """One panel per title, at most two side by side; written to `path` at the end."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        wide = min(len(titles), 2)
        tall = -(-len(titles) // wide)
        figure = Figure(figsize=(4.6 * wide, 3.2 * tall), layout="constrained")
        axes = figure.subplots(tall, wide, squeeze=False).ravel().tolist()
        for one, title in zip(axes, titles, strict=True):
            one.set_title(title)
        yield axes
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
