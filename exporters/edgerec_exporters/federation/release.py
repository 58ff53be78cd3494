"""What becomes of a candidate: judged on held-out devices, published to a channel or dropped, and taken back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle import verify
from edgerec.errors import ChannelError, DataError
from edgerec.files import exclusive, scratch
from edgerec.types import Float64
from edgerec_exporters.bundle_files import Stories
from edgerec_exporters.channel import publishing
from edgerec_exporters.channel.draft import Clock, Saved, utc_now
from edgerec_exporters.channel.keys import KeyRing
from edgerec_exporters.federation.journal import DROPPED, PUBLISHED, WITHDRAWN, Journal
from edgerec_exporters.federation.rewriting import candidate
from edgerec_exporters.federation.rounds import JOURNAL

LEAST_DEVICES = 30
LEAST_CONTROLS = 30
FIELD_LOSS = 0.02
_RESAMPLES = 2000

Evaluation = Callable[[Path, Path], Float64]
"""(candidate, current) → how much better the candidate was for each held-out device, float64 (n,), finite."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`difference`: mean over devices, `low` … `high` its 95 % interval; None where nothing was evaluated."""

    publish: bool
    reason: str
    devices: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def decide(
    new: Path,
    current: Path,
    evaluation: Evaluation,
    *,
    most_loss: float = 0.0,
    least_devices: int = LEAST_DEVICES,
    seed: int = 0,
) -> Decision:
    """Whether a candidate may be published: it is dropped where its mean difference is below −`most_loss`, or the whole
    95 % interval (bootstrap over devices) below 0. Fewer than `least_devices` decide nothing, and it is dropped.

    Raises DataError where the evaluation gives no differences.
    """
    differences = np.asarray(evaluation(new, current), np.float64)
    if differences.ndim != 1 or not np.isfinite(differences).all():
        raise DataError("an evaluation gives a finite number for each held-out device")
    n = len(differences)
    if n < least_devices:
        return Decision(False, f"{n} held-out devices, at least {least_devices} are needed", n)
    mean, (low, high) = float(differences.mean()), _interval(differences, seed)
    if high < 0:
        return Decision(False, f"worse than what runs: {mean:+.4f}, 95 % {low:+.4f} … {high:+.4f}", n, mean, low, high)
    if mean < -most_loss:
        reason = f"{mean:+.4f} on average, at most {-most_loss:+.4f} may be lost"
        return Decision(False, reason, n, mean, low, high)
    return Decision(True, f"{mean:+.4f} on average, 95 % {low:+.4f} … {high:+.4f}", n, mean, low, high)


def in_the_field(state: Path, version: int, *, most_loss: float = FIELD_LOSS) -> str | None:
    """Why a candidate should not be released by how devices fared before it; None where nothing speaks against it.

    Its round's metrics block tells how the rankings did on devices that serve what they learned, and on the control
    group, which serves the base: with at least `LEAST_CONTROLS` of these, learning that does worse than they do by more
    than `most_loss` of NDCG@10 must not be spread. A version that no round in `state` made is not spoken of.
    """
    with Journal(state / JOURNAL) as journal:
        made = [one for one in journal.rounds() if one.candidate == version]
    field = (made[-1].report or {}).get("field", {}) if made else {}
    for scenario, control in field.get("control", {}).items():
        treated = field.get("treated", {}).get(scenario)
        if treated is None or control["devices"] < LEAST_CONTROLS:
            continue
        difference = treated["personal"] - control["base"]
        if difference < -most_loss:
            return f"in the field, {scenario}: {difference:+.4f} against the control group of {control['devices']:.0f}"
    return None


def differences_in(file: Path) -> Evaluation:
    """An evaluation that was made elsewhere: a JSON list, how much better the candidate was for each device."""

    def read(new: Path, current: Path) -> Float64:
        try:
            return np.asarray(json.loads(file.read_bytes()), np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{file.name} is no list of differences: {error}") from error

    return read


def release(new: Path, decision: Decision, home: Path, ring: KeyRing, state: Path | None = None) -> Saved | None:
    """Publishes the candidate to the channel in `home` where the decision says so; notes what became of its round.

    None where it was dropped. Raises BundleError, ChannelError; then nothing is noted.
    """
    version = verify(new).version
    saved = publishing.publish(home, new, ring)[1] if decision.publish else None
    _note(state, version, PUBLISHED if decision.publish else DROPPED, decision.to_dict())
    return saved


@dataclass(frozen=True, slots=True)
class Rollback:
    """`withdrawn`: the version that is offered no more · `back_to`: the one whose content is offered again ·
    `version`: the number that it has now, None where it was not published again."""

    withdrawn: int
    back_to: int
    version: int | None


def rollback(
    home: Path,
    ring: KeyRing,
    *,
    name: str | None = None,
    to: int | None = None,
    state: Path | None = None,
    again: bool = True,
    stories: Stories | None = None,
    now: Clock = utc_now,
) -> Rollback:
    """Withdraws the newest version of a channel and publishes the one before, or `to`, under the next number.

    Devices go only forward, so a withdrawal alone leaves those that have the bad version on it. Where the newest one
    was withdrawn before, what a crash left undone is done. Raises ChannelError where there is nothing to go back to.
    """
    name, entries = _entries(home, name)
    top = max(entry["version"] for entry in entries)
    below = [entry for entry in entries if not entry["withdrawn"] and entry["version"] < top]
    wanted = [entry for entry in below if to in (None, entry["version"])]
    if not wanted:
        what = f"version {to}" if to else f"a version before {top}"
        raise ChannelError(f"the channel does not offer {what} of {name}", hint="see `edgerec channel status`")
    target = max(wanted, key=lambda entry: int(entry["version"]))
    if not next(entry["withdrawn"] for entry in entries if entry["version"] == top):
        publishing.withdraw(home, top, ring, name=name, now=now)
    _note(state, top, WITHDRAWN, None)
    if not again:
        return Rollback(top, target["version"], None)
    with scratch(home) as work:
        out = work / f"{name}.edgerec"
        candidate(_file(home, target["path"]), None, {}, top + 1, out, stories=stories)
        publishing.publish(home, out, ring, now=now)
    _carry_counts(state, target["version"], top + 1)
    return Rollback(top, target["version"], top + 1)


def _interval(differences: Float64, seed: int) -> tuple[float, float]:
    chosen = np.random.default_rng(seed).integers(0, len(differences), (_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _entries(home: Path, name: str | None) -> tuple[str, Sequence[dict[str, Any]]]:
    """The channel's one name, and its bundles of that name."""
    every = publishing.status(home)["bundles"]
    names = sorted({entry["name"] for entry in every if name in (None, entry["name"])})
    if len(names) != 1:
        raise ChannelError(
            f"the channel holds {len(names)} bundles that may be meant", hint=f"name one of {', '.join(names)}"
        )
    return names[0], [entry for entry in every if entry["name"] == names[0]]


def _file(home: Path, path: str) -> Path:
    """Where a channel keeps a bundle that it offers."""
    place = home / "targets" / path
    found = sorted(place.parent.glob(f"*.{place.name}"))
    if len(found) != 1:
        raise ChannelError(f"the channel's file {place.name} is not there")
    return found[0]


def _note(state: Path | None, version: int, status: str, report: dict[str, Any] | None) -> None:
    """What became of the round that made a version, where the journal knows it."""
    if state is None or not (state / JOURNAL).is_file():
        return
    with exclusive(state / ".lock"), Journal(state / JOURNAL) as journal:
        for one in journal.rounds():
            if one.candidate == version:
                journal.end(one.id, status, None if report is None else {**(one.report or {}), **report})


def _carry_counts(state: Path | None, before: int, after: int) -> None:
    """The version that is offered again goes on from the counts that it had."""
    if state is not None and (kept := state / f"counts-{before}.npz").is_file():
        shutil.copyfile(kept, state / f"counts-{after}.npz")
