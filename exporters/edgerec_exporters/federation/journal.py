"""What rounds have taken and spent, in one SQLite file: written and on the disk before a result may be seen.

A round that was begun is counted, whether or not it ever came to a result; one with the same id is begun once. So
whoever is killed in between has spent what nobody saw, and never the other way round.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from edgerec.errors import EdgeRecError
from edgerec_exporters.federation.accountant import SLACK, epsilon_of, most_loss
from edgerec_exporters.federation.settings import PrivacySettings

DAY = 86_400.0
BEGUN, DONE, DROPPED, PUBLISHED, WITHDRAWN = "begun", "done", "dropped", "published", "withdrawn"
_SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS rounds (
  id TEXT PRIMARY KEY, at REAL NOT NULL, bundle INTEGER NOT NULL, candidate INTEGER NOT NULL,
  status TEXT NOT NULL, loss REAL NOT NULL, everyone INTEGER NOT NULL, devices INTEGER NOT NULL, report TEXT
);
CREATE TABLE IF NOT EXISTS deltas (
  id TEXT PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds(id), key BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
  key BLOB NOT NULL, round TEXT NOT NULL REFERENCES rounds(id), PRIMARY KEY (key, round)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rounds_by_time ON rounds(at);
"""


class BudgetSpent(EdgeRecError):
    """A round that would cost somebody more privacy than the budget allows. Nothing was released, nothing spent."""

    exit_code = 70


class JournalError(EdgeRecError):
    """The journal of rounds cannot be read or written, or says something else than what is asked of it."""

    exit_code = 50


@dataclass(frozen=True, slots=True)
class Round:
    """One round. `bundle`: the version it was computed on · `candidate`: the version it makes · `loss`: 1/z², 0 without
    privacy · `everyone`: whether nobody knows who took part, so that it counts for all keys."""

    id: str
    at: float
    bundle: int
    candidate: int
    status: str
    loss: float
    everyone: bool
    devices: int
    report: Mapping[str, Any] | None


class Journal:
    """The journal in a file; it is made where there is none. Raises JournalError."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # what is spent survives power loss
            if (found := self._db.execute("PRAGMA user_version").fetchone()[0]) > _SCHEMA:
                raise JournalError(f"{path.name} is of schema {found}", hint="update edgerec-exporters")
            self._db.executescript(f"BEGIN IMMEDIATE;{_TABLES}PRAGMA user_version={_SCHEMA};COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"no journal of rounds at {path}: {error}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def begin(
        self,
        round_id: str,
        *,
        bundle: int,
        candidate: int,
        at: float,
        privacy: PrivacySettings,
        ids: Sequence[str] = (),
        keys: Sequence[str] | None = None,
        devices: int | None = None,
    ) -> Round:
        """Takes the deltas `ids` and spends what the round costs the `keys` that sent them, one for each id, or those
        that took part where there are no ids; None: it may cost everyone. All or nothing, and on the disk when it
        returns. A round that was begun before is given back as it was.

        Raises BudgetSpent, and JournalError where a delta went into another round.
        """
        with self._writing():
            loss = loss_of(privacy)
            if (before := self._row(round_id)) is not None:
                if before.loss != loss:
                    raise JournalError(f"round {round_id} was begun, and paid for, with other noise")
                return before
            at = max(at, *self._db.execute("SELECT coalesce(max(at), 0) FROM rounds").fetchone())
            if loss and (spent := self._unable(keys, loss, privacy, at)):
                who = "everyone" if keys is None else f"{len(spent)} of {len(set(keys))} keys"
                raise BudgetSpent(
                    f"this round would cost {who} more than ε = {privacy.epsilon:g} at δ = {privacy.delta:g}, or "
                    f"be one of more than {privacy.most_rounds} in {privacy.period_days:g} days",
                    hint="wait until earlier rounds are that old",
                )
            n = len(ids) if devices is None else devices
            row = (round_id, at, bundle, candidate, BEGUN, loss, keys is None, n, None)
            self._db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            try:
                senders = [None] * len(ids) if keys is None else [hashed(key) for key in keys]
                taken = zip(ids, [round_id] * len(ids), senders, strict=True) if ids else ()
                self._db.executemany("INSERT INTO deltas VALUES (?, ?, ?)", taken)
            except sqlite3.IntegrityError:
                raise JournalError("a delta of this round went into another one", hint="leave it out") from None
            own = {hashed(key) for key in keys or ()}
            self._db.executemany("INSERT INTO parts VALUES (?, ?)", [(key, round_id) for key in own])
        return self.round(round_id)

    def able(self, keys: Sequence[str], privacy: PrivacySettings, at: float) -> list[bool]:
        """Whether each key may take part in one more round at a time, POSIX seconds."""
        if privacy.kind == "none":
            return [True] * len(keys)
        with self._errors():
            spent = self._unable(keys, loss_of(privacy), privacy, at)
        return [hashed(key) not in spent for key in keys]

    def spent(self, privacy: PrivacySettings, at: float) -> dict[str, float]:
        """What the key that took part most has spent in the period until `at`: "epsilon", "rounds"; and what is
        "left" of its budget, "epsilon" less what it spent."""
        with self._errors():
            losses, everyone, rounds = self._losses(privacy, at)
        most = max((loss for loss, _ in losses.values()), default=0.0) + everyone
        used = max((count for _, count in losses.values()), default=0) + rounds
        epsilon = epsilon_of(most, privacy.delta)
        return {"epsilon": epsilon, "left": max(privacy.epsilon - epsilon, 0.0), "rounds": float(used)}

    def counted(self) -> set[str]:
        """The ids of all deltas that went into a round."""
        with self._errors():
            return {one for (one,) in self._db.execute("SELECT id FROM deltas")}

    def ids(self, round_id: str) -> list[str]:
        """The ids of the deltas of a round, sorted."""
        with self._errors():
            rows = self._db.execute("SELECT id FROM deltas WHERE round = ? ORDER BY id", (round_id,))
            return [one for (one,) in rows]

    def senders(self, round_id: str) -> list[str] | None:
        """Who sent each of the deltas that `ids` names: not the keys, but alike where the keys are. None: unknown."""
        with self._errors():
            rows = self._db.execute("SELECT key FROM deltas WHERE round = ? ORDER BY id", (round_id,))
            found = [key for (key,) in rows]
        return None if None in found else [key.hex() for key in found]

    def round(self, round_id: str) -> Round:
        """The round of that id. Raises JournalError where there is none."""
        with self._errors():
            found = self._row(round_id)
        if found is None:
            raise JournalError(f"there is no round {round_id!r}")
        return found

    def rounds(self) -> list[Round]:
        """All rounds, oldest first."""
        with self._errors():
            return [_read(row) for row in self._db.execute("SELECT * FROM rounds ORDER BY at, rowid")]

    def end(self, round_id: str, status: str, report: Mapping[str, Any] | None = None) -> None:
        """What became of a round; a report replaces the one before."""
        told = None if report is None else json.dumps(report, allow_nan=False)
        with self._writing():
            self._db.execute(
                "UPDATE rounds SET status = ?, report = coalesce(?, report) WHERE id = ?", (status, told, round_id)
            )

    def _row(self, round_id: str) -> Round | None:
        row = self._db.execute("SELECT * FROM rounds WHERE id = ?", (round_id,)).fetchone()
        return None if row is None else _read(row)

    def _losses(self, privacy: PrivacySettings, at: float) -> tuple[dict[bytes, tuple[float, int]], float, int]:
        """Key → loss and rounds within the period; and those that count for everyone."""
        since = at - privacy.period_days * DAY
        own = self._db.execute(
            "SELECT key, sum(loss), count(*) FROM parts JOIN rounds ON rounds.id = parts.round "
            "WHERE at > ? AND loss > 0 GROUP BY key",
            (since,),
        )
        losses = {key: (loss, count) for key, loss, count in own}
        everyone = "SELECT coalesce(sum(loss), 0), count(*) FROM rounds WHERE at > ? AND loss > 0 AND everyone"
        loss, count = self._db.execute(everyone, (since,)).fetchone()
        return losses, loss, count

    def _unable(self, keys: Sequence[str] | None, loss: float, privacy: PrivacySettings, at: float) -> set[bytes]:
        """Those whom one more round of that loss would cost too much; of everyone, whoever took part most."""
        losses, everyone, rounds = self._losses(privacy, at)
        most = most_loss(privacy.epsilon, privacy.delta) * (1 + SLACK)
        asked = {b"", *losses} if keys is None else {hashed(key) for key in keys}
        found = set()
        for key in asked:
            before, count = losses.get(key, (0.0, 0))
            if before + everyone + loss > most or count + rounds >= privacy.most_rounds:
                found.add(key)
        return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"the journal of rounds: {error}") from error


def hashed(key: str) -> bytes:
    """What is kept of an enrolled key: enough to know it again."""
    return blake2b(key.encode(), digest_size=16).digest()


def loss_of(privacy: PrivacySettings) -> float:
    """What a round costs everyone who takes part: 1 / multiplier², 0 without privacy."""
    if privacy.kind == "none":
        return 0.0
    if privacy.multiplier is None:
        raise JournalError("there is no noise multiplier", hint="accountant.with_multiplier finds it")
    return 1 / privacy.multiplier**2


def _read(row: tuple[Any, ...]) -> Round:
    name, at, bundle, candidate, status, loss, everyone, devices, report = row
    told = None if report is None else json.loads(report)
    return Round(name, at, bundle, candidate, status, loss, bool(everyone), devices, told)
