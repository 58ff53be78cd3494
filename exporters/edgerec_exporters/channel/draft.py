"""The next state of a channel: what is published, edits on top, signatures as far as the keys are at hand.

On disk every file but `timestamp.json` bears its version or digest in its name and is written before anything refers
to it. A new `timestamp.json` makes them current in one rename; a new root follows, and roles whose keys it changes are
signed with the old keys too where they are at hand, so that devices find a whole repository at every moment.
Metadata that still lack signatures wait in `pending/`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgerec.errors import ChannelError
from edgerec.files import scratch, sync
from edgerec_exporters.channel.keys import KeyRing

ROOT, TARGETS, BUNDLES, SNAPSHOT, TIMESTAMP = "root", "targets", "bundles", "snapshot", "timestamp"
ROLES = (ROOT, TARGETS, BUNDLES, SNAPSHOT, TIMESTAMP)
EDITED_BY_HAND = (ROOT, TARGETS, BUNDLES)
_FIRST = {BUNDLES: Targets, SNAPSHOT: Snapshot, TIMESTAMP: Timestamp}
PERIOD = "x-edgerec-expiry-days"
"""Beside a role's keys, how many days its metadata are good for; signed with them, ignored by devices."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Saved:
    """What became of edits. `versions`: of each role that was published. `waiting`: how many signatures each lacks."""

    versions: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)


class Draft:
    """One command's work on a channel. Hold the channel's lock while there is one."""

    def __init__(self, home: Path, ring: KeyRing, now: Clock = utc_now, *, new: bool = False) -> None:
        """`new`: nothing is published yet. Raises ChannelError where there is no channel, or its files are damaged."""
        self.home, self.ring, self.now = home, ring, now
        self.published = {} if new else _published(home / "metadata")
        self.pending = self._read_pending()
        self.edited: dict[str, Metadata[Any]] = self.pending  # what waits is judged as it would be together
        self.wanted = {keyid for name in self.pending for keyid in self._keyids(name)}
        self.waiting = self._lacking()
        self.edited = {}

    def role(self, name: str) -> Any:
        """The signed part of a role's metadata as it will be."""
        return (self.edited.get(name) or self.published[name]).signed

    def delegator(self, name: str) -> Any:
        """Who says which keys sign a role: root, or targets for bundles."""
        return self.role(TARGETS if name == BUNDLES else ROOT)

    def keys(self, name: str) -> Any:
        """The `Role` that lists a role's keys and threshold, as it will be."""
        return self.delegator(name).get_delegated_role(name)

    def edit(self, name: str) -> Any:
        """The next version of a role's metadata, to be changed. Raises ChannelError while one waits for signatures."""
        if name in self.pending:
            raise ChannelError(
                f"a version of {name} waits for signatures",
                hint="`edgerec channel sign` adds one; deleting the folder pending gives it up",
            )
        if name not in self.edited and name in self.published:
            fresh = copy.deepcopy(self.published[name])
            fresh.signed.version += 1
            self.edited[name] = fresh
        elif name not in self.edited:
            self.edited[name] = Metadata(_FIRST[name]())
        self.edited[name].signatures.clear()
        signed = self.edited[name].signed
        signed.expires = self.now() + timedelta(days=self.keys(name).unrecognized_fields[PERIOD])
        return signed

    def remaining(self, name: str) -> float:
        """The share of a role's period until it expires, as published; 0 or less when it has."""
        left = self.published[name].signed.expires - self.now()
        return float(left / timedelta(days=self.keys(name).unrecognized_fields[PERIOD]))

    def can_sign(self, name: str) -> bool:
        """Whether enough of a role's keys are at hand, and unlocked."""
        role = self.keys(name)
        return bool(sum(map(self.ring.holds, role.keyids)) >= role.threshold)

    def take_up(self) -> Saved:
        """Signs what waits, and publishes it where that was the last signature. Call it before any edit."""
        self.edited = dict(self.pending)
        if not self.edited:
            return Saved()
        if self._sign():
            self._keep_pending(self.edited)  # at once, so that a signature is never lost
        self.waiting = self._lacking()
        saved = Saved({}, self.waiting)
        if not self.waiting:
            saved = self.save()
            self.waiting = saved.waiting
        if saved.versions:
            self.pending, self.published = {}, _published(self.home / "metadata")
        self.edited = {}
        return saved

    def save(self) -> Saved:
        """Publishes the edits, with the snapshot and timestamp they need; or lets them wait for signatures."""
        self._sign()
        by_hand = {name: metadata for name, metadata in self.edited.items() if name in EDITED_BY_HAND}
        lacking = self._lacking()
        if not lacking:
            self._follow()
            lacking = self._lacking()
        if not lacking:
            self._publish()
            return Saved({name: metadata.signed.version for name, metadata in self.edited.items()}, self.waiting)
        if not by_hand:
            raise ChannelError(f"the key of {min(lacking)} is not at hand", hint="name its folder with --keys")
        self._keep_pending(by_hand)
        return Saved({}, {**self.waiting, **lacking})

    # signatures

    def _sign(self) -> bool:
        """Signs the edits with every key at hand; whether that added a signature."""
        before = sum(len(metadata.signatures) for metadata in self.edited.values())
        for name, metadata in self.edited.items():
            for keyid in sorted(self._keyids(name)):
                signer = None if keyid in metadata.signatures else self.ring.signer(keyid)
                if signer is not None:
                    metadata.sign(signer, append=True)
        return sum(len(metadata.signatures) for metadata in self.edited.values()) > before

    def _keyids(self, name: str) -> set[str]:
        """Keys whose signature counts for a role, before the edits or after them."""
        found = set(self.keys(name).keyids)
        if old := self.published.get(TARGETS if name == BUNDLES else ROOT):
            found |= set(old.signed.get_delegated_role(name).keyids)
        return found

    def _lacking(self) -> dict[str, int]:
        """How many signatures each edited role lacks; only those that lack any."""
        found = {}
        for name, metadata in self.edited.items():
            payload, signatures = metadata.signed_bytes, metadata.signatures
            if name == ROOT:
                old = self.published.get(ROOT)
                both = metadata.signed.get_root_verification_result(old.signed if old else None, payload, signatures)
                found[name] = max(both.first.missing, both.second.missing)
            else:
                found[name] = self.delegator(name).get_verification_result(name, payload, signatures).missing
        return {name: missing for name, missing in found.items() if missing}

    def _follow(self) -> None:
        """Edits snapshot and timestamp where the edits change what they list, or who must sign them."""
        listed = [name for name in (TARGETS, BUNDLES) if name in self.edited]
        if listed or not self._is_trusted(SNAPSHOT):
            snapshot = self.edit(SNAPSHOT)
            for name in listed:
                snapshot.meta[f"{name}.json"] = _described(self.edited[name])
            self._sign()
        if SNAPSHOT in self.edited or not self._is_trusted(TIMESTAMP):
            timestamp = self.edit(TIMESTAMP)
            if SNAPSHOT in self.edited:
                timestamp.snapshot_meta = _described(self.edited[SNAPSHOT])
            self._sign()

    def _is_trusted(self, name: str) -> bool:
        """Whether what is published of a role is signed as the edited root wants it."""
        metadata = self.published[name]
        return bool(self.delegator(name).get_verification_result(name, metadata.signed_bytes, metadata.signatures))

    # files

    def _read_pending(self) -> dict[str, Metadata[Any]]:
        """What waits; a file that was published already, or is older, is what somebody left behind."""
        found = {name: self.home / "pending" / f"{name}.json" for name in EDITED_BY_HAND}
        pending = {name: _read(path) for name, path in found.items() if path.exists()}
        return {
            name: metadata
            for name, metadata in pending.items()
            if metadata.signed.version == self.published[name].signed.version + 1
        }

    def _keep_pending(self, roles: dict[str, Metadata[Any]]) -> None:
        with scratch(self.home) as folder:
            (self.home / "pending").mkdir(exist_ok=True)
            for name, metadata in roles.items():
                _write(folder / f"{name}.json", metadata)
                os.replace(folder / f"{name}.json", self.home / "pending" / f"{name}.json")

    def _publish(self) -> None:
        target = self.home / "metadata"
        target.mkdir(parents=True, exist_ok=True)
        order = [name for name in (TARGETS, BUNDLES, SNAPSHOT, TIMESTAMP, ROOT) if name in self.edited]
        with scratch(self.home) as folder:
            for name in order:
                _write(folder / _file_name(name, self.edited[name]), self.edited[name])
            for name in order:
                if name in (TIMESTAMP, ROOT):
                    sync(target)  # what it makes current is there after a power loss too
                os.replace(folder / _file_name(name, self.edited[name]), target / _file_name(name, self.edited[name]))
        sync(target)
        for name in order:
            (self.home / "pending" / f"{name}.json").unlink(missing_ok=True)


def _file_name(name: str, metadata: Metadata[Any]) -> str:
    return "timestamp.json" if name == TIMESTAMP else f"{metadata.signed.version}.{name}.json"


def _described(metadata: Metadata[Any]) -> MetaFile:
    return MetaFile.from_data(metadata.signed.version, _bytes(metadata), ["sha256"])


def _bytes(metadata: Metadata[Any]) -> bytes:
    return metadata.to_bytes(JSONSerializer(compact=True))


def _write(path: Path, metadata: Metadata[Any]) -> None:
    path.write_bytes(_bytes(metadata))
    sync(path)


def _read(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(path.read_bytes())
    except (OSError, RepositoryError) as error:
        raise ChannelError(f"{path.name} cannot be read: {error}", hint="is it a channel's folder?") from None


def _published(metadata: Path) -> dict[str, Metadata[Any]]:
    """What devices see now, by role."""
    roots = [int(path.name.partition(".")[0]) for path in metadata.glob("*.root.json")]
    if not roots:
        raise ChannelError(f"there is no channel at {metadata.parent}", hint="`edgerec channel init` makes one")
    timestamp = _read(metadata / "timestamp.json")
    snapshot = _read(metadata / f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
    found = {ROOT: _read(metadata / f"{max(roots)}.root.json"), SNAPSHOT: snapshot, TIMESTAMP: timestamp}
    for name in (TARGETS, BUNDLES):
        found[name] = _read(metadata / f"{snapshot.signed.meta[f'{name}.json'].version}.{name}.json")
    return found
