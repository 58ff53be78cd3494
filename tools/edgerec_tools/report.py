"""A simulation as one HTML page: figures, plots, settings and where the data come from. It loads nothing."""

from __future__ import annotations

import os
import platform
from html import escape
from importlib.metadata import version
from typing import Any

from edgerec import __version__
from edgerec_tools import charts
from edgerec_tools.central import VIEWS
from edgerec_tools.comparison import MIN_BASKETS, compared, figure, rounds_told
from edgerec_tools.files import write_whole
from edgerec_tools.simulate import Simulation

ATTRIBUTIONS = {
    "retail": (
        "Chen, D. (2015). Online Retail [Dataset]. UCI Machine Learning Repository. "
        '<a href="https://doi.org/10.24432/C5BW33">https://doi.org/10.24432/C5BW33</a>, CC BY 4.0. '
        "Cleaned: rows without a customer, cancellations and items in fewer than five baskets are left out."
    ),
    "ml-100k": "MovieLens 100K, GroupLens Research, University of Minnesota. Not to be redistributed.",
    "ml-1m": "MovieLens 1M, GroupLens Research, University of Minnesota. Not to be redistributed.",
}

_CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #22262e; font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 25px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 80ch; } .muted, figcaption, footer { color: #5c6470; font-size: 13.5px; }
section { background: #fff; border: 1px solid #e4e7ec; border-radius: 10px; padding: 20px 22px; margin-top: 18px; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.fact { flex: 1 1 160px; background: #fff; border: 1px solid #e4e7ec; border-radius: 10px; padding: 14px 18px; }
.fact { font-size: 13.5px; }
.fact b { display: block; font-size: 24px; font-weight: 600; }
.scroll { overflow-x: auto; } svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; width: 100%; }
th { font-weight: 600; text-align: right; color: #5c6470; padding: 4px 9px; vertical-align: bottom; }
td { text-align: right; padding: 5px 9px; border-top: 1px solid #e4e7ec; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } td small { display: block; color: #5c6470; font-size: 11.5px; }
td:first-child { font-weight: 600; white-space: normal; min-width: 150px; } td:first-child small { font-weight: 400; }
h3 { font-size: 14px; margin: 18px 0 4px; }
tr.lead td { background: #fdf3f4; } .better { color: #1d7a46; } .worse { color: #b3261e; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; font-size: 13.5px; }
dt { color: #5c6470; } dd { margin: 0; overflow-wrap: anywhere; } a { color: #1f5fa8; }
"""


def write_report(file: str | os.PathLike[str], simulation: Simulation, result: dict[str, Any]) -> None:
    """Writes the page at once or not at all. `result`: the simulation's document (`comparison.document`)."""
    write_whole(file, html(simulation, result).encode())


def html(simulation: Simulation, result: dict[str, Any]) -> str:
    """The page's text."""
    title = f"{result['data']}: learning on the device, replayed"
    per_user = charts.differences(simulation)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(_subtitle(result))}</p>',
        _facts(result),
        _section("Arms", _HEADLINE, _tables(simulation, result)),
        _section("Ranking quality", "Bars: mean over baskets. Lines: 95 % interval over users.", charts.means(result)),
        _section(
            "Over time",
            "Every week's scored baskets, each predicted before it was revealed.",
            charts.over_time(simulation),
        ),
        _rounds(result),
        _section("User by user", _STRIPS, per_user) if per_user else "",
        _section("Settings and provenance", "", _provenance(simulation, result)),
        f"<footer><p>Data: {ATTRIBUTIONS.get(result['data'], escape(result['data']))}</p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


_HEADLINE = (
    "R and N: recall@10 and NDCG@10, mean over baskets, with the 95\u00a0% interval of a bootstrap over users. "
    "Differences are paired, basket by basket. “Worse” is the share of users with at least "
    f"{MIN_BASKETS} baskets whose mean difference lies more than one standard error below zero (chance alone gives "
    "about 16\u00a0%); “decile” is the mean difference of the tenth of them that fares worst."
)
_ROUNDS = (
    "Devices of the federated arms sent deltas, and from each round on ran the bundle that it made. The gap is that in "
    "NDCG@10 between the model and profiles frozen at the cut-off and a central model retrained on all raw data."
)
_STRIPS = (
    f"A dot is one user with at least {MIN_BASKETS} scored baskets; bar: middle half; line: 10th to 90th percentile; "
    "ring: median. To the right of zero the arm does better for that user."
)


def _subtitle(result: dict[str, Any]) -> str:
    until = f" until {result['until'][:10]}" if result["until"] else " to the end of the data"
    return (
        f"{result['period'].capitalize()} period from {result['cutoff'][:10]}{until}. Every user is a device with its "
        "own recommender and SQLite store; each basket is predicted, then revealed and learned from."
    )


def _facts(result: dict[str, Any]) -> str:
    facts = [(f"{result['devices']:,}", "devices"), (f"{result['events']:,}", "events revealed, all arms")]
    facts += [(f"{result['events_per_second']:,.0f}", f"events per second, in {result['seconds']:,.0f} s")]
    lead = next((arm for arm in result["arms"] if arm["name"] == "personalised"), None)
    gains = lead["vs"].get("frozen", {}) if lead else {}
    for view, gain in gains.items():
        if gain["ndcg@10"] is not None:
            low, high = gain["ci95"]
            text = f"NDCG@10 {view}, personalised over frozen ({figure(low, '+')} to {figure(high, '+')})"
            facts.append((figure(gain["ndcg@10"], "+"), text))
    cards = (f'<div class="fact"><b>{value}</b>{escape(label)}</div>' for value, label in facts)
    return f'<div class="facts">{"".join(cards)}</div>'


def _rounds(result: dict[str, Any]) -> str:
    lines = rounds_told(result)
    return _section("Rounds", _ROUNDS, "".join(f"<p>{escape(line)}</p>" for line in lines)) if lines else ""


def _section(title: str, text: str, body: str) -> str:
    intro = f'<p class="muted">{escape(text)}</p>' if text else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{intro}{body}\n</section>"


def _tables(simulation: Simulation, result: dict[str, Any]) -> str:
    """A table per view, so that it fits the page."""
    return "".join(
        f'<h3>{escape(charts.TITLES[view])}</h3><div class="scroll">{_table(simulation, result, view)}</div>'
        for view in VIEWS
    )


def _table(simulation: Simulation, result: dict[str, Any], view: str) -> str:
    shown = compared(result)
    titles = {arm.name: arm.title for arm in simulation.arms}
    rows = []
    for arm in result["arms"]:
        found = arm["views"][view]
        cells = [f"<td>{escape(arm['name'])}<small>{escape(titles[arm['name']])}</small></td>"]
        cells += [f"<td>{figure(found['recall@10'])}</td>", f"<td>{figure(found['ndcg@10'])}{_range(found)}</td>"]
        for name in shown:
            cells += _against(arm["vs"].get(name, {}).get(view))
        lead = ' class="lead"' if arm["name"] == "personalised" else ""
        rows.append(f"<tr{lead}>{''.join(cells)}</tr>")
    columns = "".join(f"<th>N − {name}</th><th>worse</th><th>decile</th>" for name in shown)
    head = f"<tr><th>arm</th><th>R</th><th>N</th>{columns}</tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _against(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["<td></td>"] * 3
    low, high = found["ci95"]
    sure = "" if low is None else " class='better'" if low > 0 else " class='worse'" if high < 0 else ""
    share = "–" if found["worse_share"] is None else f"{found['worse_share']:.1%}"
    return [
        f"<td{sure}>{figure(found['ndcg@10'], '+')}{_range(found, '+')}</td>",
        f"<td>{share}<small>{found['n_users']} users</small></td>",
        f"<td>{figure(found['worst_decile'], '+')}</td>",
    ]


def _range(found: dict[str, Any], sign: str = "") -> str:
    low, high = (figure(end, sign) for end in found["ci95"])
    return f"<small>{low} to {high}</small>"


def _provenance(simulation: Simulation, result: dict[str, Any]) -> str:
    bundle = result["bundle"]
    facts = {
        "Bundle": f"{bundle['name']}, version {bundle['version']}, sha256 of its manifest {bundle['digest']}",
        "Data": result["data"],
        "Replayed": f"from {result['cutoff']} until {result['until'] or 'the end of the data'}",
        "Arms": ", ".join(arm.name for arm in simulation.arms),
        "Seed": result["seed"],
        "Protocol": "full ranking of the catalogue; ties by catalogue order; novel: targets are items the user never "
        "bought and seen items are hidden; all: targets are whole baskets; users without an earlier basket are skipped",
        "Versions": f"edgerec {__version__}, Python {platform.python_version()}, numpy {version('numpy')}, "
        f"onnxruntime {version('onnxruntime')}",
    }
    rows = (f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(rows)}</dl>"
