"""What the commands print for people; with --json they print the same as plain values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgerec.types import Explanation, Page, Receipt

_STATUSES = {
    "duplicate": "stored before",
    "unknown_item": "stored, but the catalogue has no such item: it counts once a bundle brings it",
    "forgotten": "not stored: it was forgotten",
    "quarantined": "stored, but set aside by an event filter: nothing is learned from it",
}
_FLAGS = {"future": "its time is ahead of the clock"}
_MEANS = ("hit@10", "ndcg@10", "mrr")


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and paths as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def page(found: Page) -> str:
    """A line per item, why there are not more, and what the page was made without."""
    width = max((len(r.item) for r in found), default=0)
    lines = [f"{r.rank:3d}  {r.score:8.3f}  {r.item:{width}}  {r.title}" for r in found]
    lines += [f"({found.reason})"] if found.reason else []
    if found.degraded:
        lines.append(f"(made without {', '.join(found.degraded)}: see `edgerec plugins list --state`)")
    return "\n".join(lines)


def receipt(done: Receipt) -> str:
    """What became of an event."""
    told = [_STATUSES.get(done.status, done.status)]
    told += [f"was at place {done.rank}"] if done.rank else []
    told += [_FLAGS.get(flag, flag) for flag in done.flags]
    return f"{', '.join(told)}; event {done.event_id}"


def explanation(why: Explanation) -> str:
    """Place, score, its parts, what the rerankers did to it, and the events that moved it most."""
    place = f"not served: {why.filtered}" if why.filtered else f"place {why.rank}"
    lines = [f"{why.item}  {why.title}", f"{place}, score {why.score:.3f} ="]
    parts = {name: round(value, 3) + 0.0 for name, value in why.parts.items()}  # no -0.000
    weights = {name: f" (weight {weight:.3f})" for name, weight in why.weights.items()}  # what a rule adds has none
    lines += [f"  {value:+8.3f}  {name}{weights.get(name, '')}" for name, value in parts.items()]
    lines += [f"  {name} {_moved(place)}" for name, place in why.reranked.items()]
    if why.events:
        lines += ["moved most by:", *(f"  {e.effect:+8.3f}  {e.kind} of {e.item}" for e in why.events)]
    return "\n".join(lines)


def _moved(place: int | None) -> str:
    return "leaves it out" if place is None else f"puts it at {place}"


def statistics(found: Mapping[str, Any]) -> str:
    """Counts, and a table of the rankings per scenario; `served` marks the one that the guard lets in."""
    bundle, learning, loaded = found["bundle"], found["learning"], found["plugins"]
    state = "paused" if learning["paused"] else "on"
    lines = [
        f"bundle    {bundle['name']} version {bundle['version']}: {bundle['why']}",
        f"store     {found['events']:,} events, {found['exposures']:,} exposures, {found['store_bytes']:,} bytes",
        f"learning  {state}, updater {learning['updater']}, {learning['steps']} steps",
        f"plugins   {', '.join(loaded['loaded']) or 'none'}",
        *(f"          {name} is broken: {why}" for name, why in loaded["broken"].items()),
        *(f"          {line}" for line in _failures(loaded["failures"])),
    ]
    for name, scenario in learning["scenarios"].items():
        lines += ["", f"{name:<14}{'events':>7}{'hit@10':>9}{'NDCG@10':>9}{'MRR':>9}{'weight':>9}"]
        lines += _rankings(scenario)
    return "\n".join(lines)


def _rankings(scenario: Mapping[str, Any]) -> list[str]:
    served, weights = scenario["served"], scenario["weights"]
    best = "personal" if served["user_vector"] else "blend" if served["blend"] else "base"
    lines = []
    for ranking, done in scenario["progressive"].items():
        means = "".join(f"{'-':>9}" if done[mean] is None else f"{done[mean]:9.4f}" for mean in _MEANS)
        weight = f"{weights[ranking]:9.4f}" if ranking in weights else ""
        lines.append(f"  {ranking:<12}{done['n']:>7}{means}{weight}{'  served' if ranking == best else ''}")
    return lines


def profile(found: Mapping[str, Any]) -> str:
    """What the device believes of its user, in sentences."""
    lines = [_past(found)]
    for one in found["attributes"]:
        lines.append(
            f"{one['attribute']} {one['value']}: {one['share']:.0%} of the items liked, "
            f"{one['catalogue_share']:.0%} of the catalogue ({one['items']} items, {one['lift']:.1f} times as often)."
        )
    for habit in found["habits"]:
        lines.append(
            f"Comes back to {habit['title']}: {habit['times']} times, every {habit['interval_days']:.3g} days."
        )
    for name, scenario in found["scenarios"].items():
        weights = ", ".join(f"{source} {weight:.2f}" for source, weight in scenario["weights"].items()) or "nothing"
        parts = {"learned blend": scenario["blend_trusted"], "user vector": scenario["user_vector_trusted"]}
        trusted = " and ".join(part for part, trust in parts.items() if trust) or "nothing learned"
        lines.append(f"Scenario {name} ranks by {weights}; {trusted} is in the score.")
    lines.append(
        f"Learns by {found['updater'] or 'no updater'}: {found['steps']} steps, |u| = {found['vector_norm']:.3g}."
    )
    if found["closest"]:
        lines.append(f"The user vector is closest to {'; '.join(one['title'] for one in found['closest'])}.")
    return "\n".join(lines)


def _past(found: Mapping[str, Any]) -> str:
    if not found["events"]:
        return "Nothing is known yet: there are no events."
    from datetime import UTC, datetime

    first, last = (datetime.fromtimestamp(found[end], UTC).strftime("%Y-%m-%d") for end in ("first", "last"))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["events"].items())
    items = f"{found['liked']:,} liked, {found['seen']:,} consumed, {found['disliked']:,} disliked"
    return f"Events from {first} to {last}: {kinds}. Items: {items}."


def manifest(found: Mapping[str, Any]) -> str:
    """What a bundle says of itself, but for what is empty, the exporter's metrics and the digests."""
    told = {key: value for key, value in found.items() if key not in ("files", "metrics") and value != {}}
    lines = [f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in told.items()]
    lines += [f"  {entry['size']:>10,} bytes  {name}" for name, entry in found["files"].items()]
    return "\n".join(lines)


def plugins(found: Mapping[str, Any]) -> str:
    """A line per plugin."""
    lines = [f"{name}: {', '.join(what) or '-'}" for name, what in found["loaded"].items()]
    lines += [f"{name}: BROKEN, {why}" for name, why in found["broken"].items()]
    return "\n".join([*lines, *_failures(found["failures"])]) or "no plugins"


def _failures(found: Mapping[str, Any]) -> list[str]:
    """What failed, how often, and why at last."""
    lines = []
    for name, told in found.items():
        state = "DISABLED" if told["disabled"] else "failed"
        lines.append(f"{name}: {state} after {told['failures']} failures, the last: {told['reason']}")
    return lines


def estimates(found: Mapping[str, Any]) -> str:
    """A line per estimator."""
    names = {"logged": "the pages as shown", "ips": "IPS", "snips": "SNIPS", "dr": "doubly robust"}
    lines = [
        f"{told:<20}{found[name]['value']:>9.4f}  [{found[name]['ci95'][0]:.4f}, {found[name]['ci95'][1]:.4f}]"
        for name, told in names.items()
    ]
    lines.append(f"{found['pages']} pages, worth {found['effective_pages']:.1f} of the policy's own")
    return "\n".join(lines)
