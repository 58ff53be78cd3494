"""One round from deltas to a candidate bundle, and again from wherever a crash left it.

journal     the deltas are taken and the budget is spent                   one transaction, on the disk
result      the numbers, noise and all, in the state folder                a file that is there whole or not at all
candidate   made of the old bundle, the old counts and the result          as often as one likes, the same each time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

from edgerec.bundle import Bundle, load_bundle
from edgerec.bundle.federated import ITEM_COUNTS, METRICS, PAIR_SKETCH, BlockSpec, Federated
from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError
from edgerec.federation.metrics import read_metrics
from edgerec.files import exclusive
from edgerec.plugins import Plugins
from edgerec_exporters.bundle_files import Stories
from edgerec_exporters.federation import pairs, popularity, results
from edgerec_exporters.federation.accountant import with_multiplier
from edgerec_exporters.federation.engine import Aggregate, Noise, aggregate, aggregate_sum, joined
from edgerec_exporters.federation.journal import (
    BEGUN,
    DONE,
    DROPPED,
    BudgetSpent,
    Journal,
    JournalError,
    Round,
    loss_of,
)
from edgerec_exporters.federation.noise import discrete_gaussian
from edgerec_exporters.federation.popularity import Counts, after_round, counts_of
from edgerec_exporters.federation.rewriting import candidate
from edgerec_exporters.federation.rules import ServerState
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_exporters.federation.sources import Found, Source, Split, Waiting

JOURNAL = "journal.db"
NO_BUDGET = "without budget"


@dataclass(frozen=True)
class Desk:
    """What one round works with. `state`: the folder that it keeps from round to round · `clock`: POSIX seconds ·
    `stories`, `noise`: for tests and simulations."""

    bundle: Path
    source: Source
    state: Path
    settings: RoundSettings
    clock: Callable[[], float] = time.time
    plugins: Plugins | None = None
    stories: Stories | None = None
    noise: Noise = discrete_gaussian


def run_round(desk: Desk, out: Path) -> dict[str, Any]:
    """Runs a round, or ends the one that was begun, writes the candidate bundle `out`, and reports.

    Raises DeltaError for too few devices, BudgetSpent, JournalError where a round on another bundle was begun and not
    ended, ConfigError, BundleError, ExportError; `out` is then as it was.
    """
    started = time.monotonic()
    desk.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = with_multiplier(desk.settings)
    with (
        exclusive(desk.state / ".lock"),
        Journal(desk.state / JOURNAL) as journal,
        load_bundle(desk.bundle, desk.state / "cache") as bundle,
    ):
        federated = _federated(bundle)
        _check_noise(desk.source, settings, federated.blocks)
        one, told = _begun(desk, settings, journal, bundle, federated.blocks)
        result = _result(desk, settings, journal, one, federated.blocks)
        _make(desk, bundle, federated, one, result, out)
        report = {
            **{"round": one.id, "bundle": one.bundle, "candidate": one.candidate, "out": str(out)},
            **result.told(),
            "refused": _added(told.pop("refused", {}), result.refused),
            **told,
            "field": _field(bundle, federated.blocks, result),
            "privacy": {"kind": settings.privacy.kind, **journal.spent(settings.privacy, one.at)},
            "seconds": round(time.monotonic() - started, 3),
        }
        journal.end(one.id, DONE, report)
    return report


def abandon(state: Path) -> str | None:
    """Gives up the round that was begun and not ended; its deltas stay counted, its budget spent. Its id, or None."""
    with exclusive(state / ".lock"), Journal(state / JOURNAL) as journal:
        unfinished = _unfinished(journal)
        if unfinished is None:
            return None
        journal.end(unfinished.id, DROPPED, {"reason": "abandoned"})
        return unfinished.id


def status(state: Path, settings: RoundSettings, *, at: float | None = None) -> dict[str, Any]:
    """Every round with its status, and what is spent of the budget. Raises JournalError where there is no journal."""
    if not (state / JOURNAL).is_file():
        raise JournalError(f"no round was ever run in {state}", hint="`edgerec round run` makes the folder")
    with Journal(state / JOURNAL) as journal:
        listed = [
            {"round": one.id, "at": one.at, "bundle": one.bundle, "candidate": one.candidate, "status": one.status,
             "devices": one.devices, "reason": (one.report or {}).get("reason")}
            for one in journal.rounds()
        ]  # fmt: skip
        spent = journal.spent(settings.privacy, time.time() if at is None else at)
    return {"rounds": listed, "privacy": {"kind": settings.privacy.kind, **spent}}


def _federated(bundle: Bundle) -> Federated:
    federated = bundle.manifest.federation
    if not federated.blocks:
        raise ConfigError(f"bundle {bundle.manifest.name} declares no federated blocks", hint="export it with some")
    return federated


def _unfinished(journal: Journal) -> Round | None:
    return next((one for one in journal.rounds() if one.status == BEGUN), None)


def _begun(
    desk: Desk, settings: RoundSettings, journal: Journal, bundle: Bundle, blocks: Sequence[BlockSpec]
) -> tuple[Round, dict[str, Any]]:
    """The round to end, or a new one; and what the report says of how it began."""
    version = bundle.manifest.version
    if (unfinished := _unfinished(journal)) is not None:
        if unfinished.bundle != version:
            raise JournalError(
                f"round {unfinished.id} on bundle version {unfinished.bundle} was begun and not ended",
                hint="run it with that bundle, or give it up with --abandon",
            )
        if unfinished.loss != loss_of(settings.privacy):
            raise JournalError(
                f"round {unfinished.id} was begun, and paid for, with other noise",
                hint="run it with the settings of before, or give it up with --abandon",
            )
        return unfinished, {"repeated": True}
    oldest = max(1, version - settings.most_lag)
    found = desk.source.waiting(range(oldest, version + 1), blocks)
    at = desk.clock()
    chosen, refused = _chosen(settings, journal, found, at)
    spent = refused.get(NO_BUDGET, 0)
    if len(chosen) < settings.least_cohort <= len(chosen) + spent:
        raise BudgetSpent(
            f"{spent} of {len(chosen) + spent} deltas are of keys that a round would cost more than their budget",
            hint="wait until their earlier rounds are older than the period",
        )
    if len(chosen) < settings.least_cohort:
        raise DeltaError(f"{len(chosen)} deltas wait, at least {settings.least_cohort} are needed", hint=_told(refused))
    rounds = journal.rounds()
    span = settings.most_lag + 1
    mine = [int(one.id) for one in rounds if one.id.isdecimal()]  # Flower's rounds have other names
    number = desk.source.number(max(mine, default=1 - span) + span, span)
    keys = None if any(one.key is None for one in chosen) else [str(one.key) for one in chosen]
    one = journal.begin(
        str(number),
        bundle=version,
        candidate=max([version, *[one.candidate for one in rounds]]) + 1,
        at=at,
        privacy=settings.privacy,
        ids=[one.id for one in chosen],
        keys=keys,
    )
    sizes = [one.size for one in chosen]
    return one, {
        "repeated": False,
        "refused": refused,
        "bytes": {"all": sum(sizes), "largest": max(sizes)},
    }


def _chosen(
    settings: RoundSettings, journal: Journal, found: Found, at: float
) -> tuple[list[Waiting], Mapping[str, int]]:
    """Those that no round counted yet and whose sender has budget left; and why the others are left out."""
    before = journal.counted()
    fresh = [one for one in found.waiting if one.id not in before]
    refused = _added(found.refused, {"counted before": len(found.waiting) - len(fresh)})
    keyed = [one for one in fresh if one.key is not None]
    able = dict(zip(keyed, journal.able([str(one.key) for one in keyed], settings.privacy, at), strict=True))
    chosen = [one for one in fresh if able.get(one, True)]
    return chosen, _added(refused, {NO_BUDGET: len(fresh) - len(chosen)})


def _result(
    desk: Desk,
    settings: RoundSettings,
    journal: Journal,
    one: Round,
    blocks: Sequence[BlockSpec],
) -> Aggregate:
    """The round's numbers: those on the disk, else computed from its deltas and brought there."""
    path = desk.state / "results" / f"{one.id}.npz"
    if (before := results.load(path)) is not None:
        return before
    ids, server = journal.ids(one.id), _server(desk.state, journal, one)
    if isinstance(desk.source, Split):
        result = _split(desk.source, settings, one, ids, blocks, server)
    else:
        rows, keys = desk.source.rows(int(one.id), ids, one.bundle, blocks), journal.senders(one.id)
        result = aggregate(settings, blocks, rows, keys=keys, server=server, plugins=desk.plugins, noise=desk.noise)
    results.save(path, result)
    return result


def _check_noise(source: Source, settings: RoundSettings, blocks: Sequence[BlockSpec]) -> None:
    """Raises ConfigError where the gateways of split mode add less noise than the budget needs: before it is spent."""
    privacy = settings.privacy
    if not isinstance(source, Split) or privacy.kind != "central":
        return
    share = privacy.share_of({block.name: block.bound for block in blocks})
    needed = (privacy.multiplier or 0.0) / min(share.values()) ** 0.5
    if source.multiplier < needed * (1 - 1e-9):
        raise ConfigError(
            f"a gateway adds noise of {source.multiplier:.4g} bounds, this budget needs {needed:.4g}",
            hint="set noise_multiplier in both gateways' settings",
        )


def _split(
    source: Split,
    settings: RoundSettings,
    one: Round,
    ids: Sequence[str],
    blocks: Sequence[BlockSpec],
    server: ServerState | None,
) -> Aggregate:
    sigma = {}
    if settings.privacy.kind == "central":
        sigma = {block.name: source.multiplier * block.bound * sqrt(2) for block in blocks}  # both add noise
    total = joined(source.sums(int(one.id), ids, one.bundle))
    return aggregate_sum(settings, blocks, total, len(ids), server=server, sigma=sigma)


def _server(state: Path, journal: Journal, one: Round) -> ServerState | None:
    """The server optimiser's state after the round that made this round's bundle."""
    made = [before for before in journal.rounds() if before.candidate == one.bundle]
    result = results.load(state / "results" / f"{made[-1].id}.npz") if made else None
    return None if result is None else result.server


def _make(desk: Desk, bundle: Bundle, federated: Federated, one: Round, result: Aggregate, out: Path) -> None:
    """Writes the candidate and the counts that are its own: the same however often it is done."""
    counts = _popularity(desk, bundle, federated.of(ITEM_COUNTS), one, result)
    candidate(
        desk.bundle,
        None if counts is None else counts.popularity(),
        federated.weights,
        one.candidate,
        out,
        sources=federated.sources,
        neighbours=_neighbours(desk, bundle, federated, one, result),
        repeat_items=None if counts is None else counts.repeat_items(bundle.repeat),
        stories=desk.stories,
        created=datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _popularity(desk: Desk, bundle: Bundle, block: BlockSpec | None, one: Round, result: Aggregate) -> Counts | None:
    """The candidate's counts, kept beside it; None where the bundle declares none."""
    if block is None:
        return None
    new = after_round(desk.settings, block, counts_at(desk.state, bundle), result, one.at)
    popularity.save(desk.state / f"counts-{one.candidate}.npz", new)
    return new


def _neighbours(desk: Desk, bundle: Bundle, federated: Federated, one: Round, result: Aggregate) -> pairs.Csr | None:
    """The candidate's item-to-item weights; None where they stay. Under a privacy budget they do: noise that hides one
    device drowns the pairs of all."""
    spec, counted = federated.of(PAIR_SKETCH), federated.of(ITEM_COUNTS)
    if spec is None or counted is None or desk.settings.privacy.kind != "none":
        return None
    version, n_items, own = bundle.manifest.version, bundle.manifest.n_items, bundle.neighbours
    known = pairs.load(desk.state / f"pairs-{version}.npz", spec, n_items)
    base = known or pairs.begun(spec, n_items, _counted_until(bundle), (own.indptr, own.ids, own.weights))
    new = base.after(result.sums(spec.name), result.sums(counted.name), one.at)
    pairs.save(desk.state / f"pairs-{one.candidate}.npz", new)
    return new.neighbours(spec)


def counts_at(state: Path, bundle: Bundle) -> Counts:
    """The counts behind a bundle's popularity: those that its round left, else read from the popularity itself."""
    kept = popularity.load(state / f"counts-{bundle.manifest.version}.npz", bundle.manifest.n_items)
    counts = kept or counts_of(bundle.model.popularity, _counted_until(bundle))
    return counts.paced(bundle.repeat)


def _counted_until(bundle: Bundle) -> float:
    """As of when the bundle's own popularity is: where its training data ended, else when it was made."""
    for said in (bundle.manifest.metrics.get("trained_before"), bundle.manifest.created):
        with suppress(TypeError, ValueError):
            return datetime.fromisoformat(said).timestamp()  # type: ignore[arg-type]
    return 0.0


def _field(bundle: Bundle, blocks: Sequence[BlockSpec], result: Aggregate) -> dict[str, Any]:
    """How the rankings did on the devices themselves, by group and scenario; empty where no block tells."""
    block = next((block for block in blocks if block.kind == METRICS), None)
    return {} if block is None else read_metrics(block, result.sums(block.name), list(bundle.manifest.scenarios))


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    out = dict(one)
    for reason, count in other.items():
        if count:
            out[reason] = out.get(reason, 0) + count
    return out


def _told(refused: Mapping[str, int]) -> str:
    if not refused:
        return "wait for more, or lower least_cohort"
    return "left out: " + ", ".join(f"{count} {reason}" for reason, count in refused.items())
