"""What a publisher does with a channel: make it, publish and withdraw bundles, refresh, rotate keys, sign, look."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, TargetFile, Targets

from edgerec.bundle import Manifest
from edgerec.errors import ChannelError
from edgerec.files import exclusive, file_sha256, scratch, sync
from edgerec_exporters.channel.draft import (
    BUNDLES,
    EDITED_BY_HAND,
    PERIOD,
    ROLES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Clock,
    Draft,
    Saved,
    utc_now,
)
from edgerec_exporters.channel.keys import KeyRing, Passphrase

OFFLINE = (ROOT, TARGETS)
DAYS = {ROOT: 365, TARGETS: 365, BUNDLES: 90, SNAPSHOT: 14, TIMESTAMP: 7}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RENEW_BELOW = 0.5


@dataclass(frozen=True)
class Quorum:
    """`threshold` of `keys` keys must sign."""

    threshold: int = 1
    keys: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys:
            raise ChannelError(f"a threshold of {self.threshold} with {self.keys} keys", hint="1 ≤ threshold ≤ keys")


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    if not home.is_dir():
        raise ChannelError(f"there is no channel at {home}", hint="`edgerec channel init` makes one")
    try:
        with exclusive(home / ".channel.lock"):
            yield
    except OSError as error:
        raise ChannelError(f"the channel cannot be written: {error}") from error


@contextmanager
def _opened(home: Path, ring: KeyRing, now: Clock) -> Iterator[Draft]:
    """A draft of an existing channel, what waited taken up."""
    with _locked(home):
        draft = Draft(home, ring, now)
        draft.take_up()
        yield draft


def init(
    home: Path,
    keys: Path,
    *,
    quorums: Mapping[str, Quorum],
    days: Mapping[str, int],
    passphrase: str | None = None,
    now: Clock = utc_now,
) -> Saved:
    """Makes a channel and its keys: `keys/offline` for root and targets, `keys/online` for the rest.

    `passphrase` locks the offline keys. `quorums` and `days` are by role. Raises ChannelError unless `home` is empty.
    """
    if home.is_dir() and any(home.iterdir()):
        raise ChannelError(f"{home} is not empty", hint="a channel gets a folder of its own")
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        ring = KeyRing(passphrase=str)
        made = {
            role: [_new_key(ring, keys, role, passphrase) for _ in range(quorums.get(role, Quorum()).keys)]
            for role in ROLES
        }
        draft = Draft(home, ring, now, new=True)
        periods = {**DAYS, **days}

        def listed(role: str) -> tuple[list[str], int, dict[str, Any]]:
            return [key.keyid for key in made[role]], quorums.get(role, Quorum()).threshold, {PERIOD: periods[role]}

        root = Root(
            expires=now() + timedelta(days=periods[ROOT]),
            keys={key.keyid: key for role in ROLES if role != BUNDLES for key in made[role]},
            roles={role: Role(*listed(role)) for role in ROLES if role != BUNDLES},
        )
        keyids, threshold, period = listed(BUNDLES)
        delegated = DelegatedRole(
            BUNDLES, keyids, threshold, terminating=True, paths=[f"{BUNDLES}/*"], unrecognized_fields=period
        )
        delegations = Delegations({key.keyid: key for key in made[BUNDLES]}, {BUNDLES: delegated})
        targets = Targets(expires=now() + timedelta(days=periods[TARGETS]), delegations=delegations)
        draft.edited = {ROOT: Metadata(root), TARGETS: Metadata(targets)}
        draft.edit(BUNDLES)
        return draft.save()


def _new_key(ring: KeyRing, keys: Path, role: str, passphrase: str | None) -> Key:
    offline = role in OFFLINE
    return ring.make(keys / ("offline" if offline else "online"), role, passphrase if offline else None)


def publish(home: Path, bundle: Path, ring: KeyRing, *, now: Clock = utc_now) -> tuple[Manifest, Saved]:
    """Adds a bundle, verified as a device would, and makes it the newest of its name; all of it or nothing.

    Raises BundleError for an unsound bundle, ChannelError for one that is not newer than every one published before.
    """
    if not bundle.is_file():
        raise ChannelError(f"there is no file {bundle.name}", hint="a channel takes .edgerec files")
    with _opened(home, ring, now) as draft, scratch(home) as folder:
        copy = folder / "bundle.edgerec"
        shutil.copyfile(bundle, copy)  # what is verified is what is published, whoever writes to the original
        manifest, digest = _verified(copy, folder)
        _check_version(manifest, draft.role(BUNDLES))
        path = f"{BUNDLES}/{manifest.name}-{manifest.version}.edgerec"
        told = {"name": manifest.name, "version": manifest.version, "digest": digest}
        target = TargetFile(
            copy.stat().st_size,
            {"sha256": file_sha256(copy)},
            path,
            {"custom": {**told, "min_runtime": manifest.min_runtime}},
        )
        draft.edit(BUNDLES).targets[path] = target
        place = home / "targets" / BUNDLES / f"{target.hashes['sha256']}.{Path(path).name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        sync(copy)
        os.replace(copy, place)
        sync(place.parent)
        return manifest, draft.save()


def _verified(bundle: Path, folder: Path) -> tuple[Manifest, str]:
    """The bundle's manifest and digest, once everything a device checks was checked."""
    from edgerec.bundle import load_bundle
    from edgerec.lifecycle import check_host
    from edgerec.plugins import Plugins

    with load_bundle(bundle, folder / "cache") as opened:
        check_host(opened, Plugins())
        manifest = opened.manifest
        if not _NAME.fullmatch(manifest.name):
            raise ChannelError(f"a channel takes no bundle named {manifest.name!r}", hint="letters, digits, . _ -")
        return manifest, opened.digest


def _check_version(manifest: Manifest, published: Targets) -> None:
    highest = max((entry["version"] for entry in _entries(published) if entry["name"] == manifest.name), default=0)
    if manifest.version <= highest:
        raise ChannelError(
            f"version {manifest.version} of {manifest.name} is not newer than {highest}, published before",
            hint="export it under a higher version",
        )


def withdraw(home: Path, version: int, ring: KeyRing, *, name: str | None = None, now: Clock = utc_now) -> Saved:
    """Offers a version no more; its number stays taken. `name`: needed where the channel holds several bundles.

    Devices that run it are told so, and stay on it unless the app forces them back. Raises ChannelError.
    """
    with _opened(home, ring, now) as draft:
        entries = [entry for entry in _entries(draft.role(BUNDLES)) if entry["version"] == version]
        found = [entry for entry in entries if name in (None, entry["name"])]
        if len(found) != 1:
            names = ", ".join(entry["name"] for entry in entries) or "none"
            raise ChannelError(
                f"version {version} names {len(found)} bundles", hint=f"published by that number: {names}"
            )
        draft.edit(BUNDLES).targets[found[0]["path"]].custom["withdrawn"] = True
        return draft.save()


def refresh(home: Path, ring: KeyRing, *, roles: Sequence[str] = (), now: Clock = utc_now) -> Saved:
    """Signs the timestamp anew, and `roles`, and every role that is half expired and has its keys here, unlocked.

    Publishes what waited for signatures and has them. Raises ChannelError where the timestamp cannot be signed.
    """
    with _opened(home, ring, now) as draft:
        for role in (*EDITED_BY_HAND, SNAPSHOT):
            due = draft.remaining(role) < _RENEW_BELOW and role not in draft.pending and draft.can_sign(role)
            if due or role in roles:
                draft.edit(role)
        draft.edit(TIMESTAMP)
        return draft.save()


def rotate(
    home: Path,
    role: str,
    ring: KeyRing,
    *,
    keys: Path | None = None,
    public: Sequence[Key] = (),
    quorum: Quorum | None = None,
    passphrase: Passphrase | None = None,
    now: Clock = utc_now,
) -> Saved:
    """Replaces all keys of a role: by new ones, made in `keys`, or by `public` ones with private halves elsewhere.

    `quorum`: another threshold and number of keys; those of before by default. `passphrase`: locks new offline keys.
    A new root is signed by the old keys and the new. Raises ChannelError.
    """
    with _opened(home, ring, now) as draft:
        delegator = draft.edit(TARGETS if role == BUNDLES else ROOT)
        if role != ROOT and role in EDITED_BY_HAND:
            draft.edit(role)
        old = draft.keys(role)
        wanted = quorum or Quorum(old.threshold, len(public) or len(old.keyids))
        fresh = list(public)
        if not fresh and keys is not None:
            secret = passphrase() if passphrase and role in OFFLINE else None
            fresh = [_new_key(ring, keys, role, secret) for _ in range(wanted.keys)]
        if len({key.keyid for key in fresh}) != wanted.keys:
            raise ChannelError(f"{role} needs {wanted.keys} different keys, {len(fresh)} were named")
        for keyid in list(old.keyids):
            delegator.revoke_key(keyid, role)
        for key in fresh:
            delegator.add_key(key, role)
        draft.keys(role).threshold = wanted.threshold
        return draft.save()


def sign(home: Path, ring: KeyRing, *, now: Clock = utc_now) -> Saved:
    """Adds signatures to what waits, and publishes what has enough. Raises ChannelError for keys nobody waits for."""
    with _locked(home):
        draft = Draft(home, ring, now)
        if not draft.wanted:
            raise ChannelError("nothing waits for signatures")
        if useless := set(ring.given) - draft.wanted:
            raise ChannelError(f"nothing waits for the signature of key {min(useless)[:16]}")
        return draft.take_up()


def status(home: Path, *, now: Clock = utc_now) -> dict[str, Any]:
    """Roles with their keys and expiries, what waits for signatures, and every bundle, as plain values."""
    draft = Draft(home, KeyRing(passphrase=str), now)
    return {
        "roles": {role: _told(draft, role) for role in ROLES},
        "waiting": draft.waiting,
        "bundles": sorted(_entries(draft.role(BUNDLES)), key=lambda entry: (entry["name"], entry["version"])),
    }


def _told(draft: Draft, role: str) -> dict[str, Any]:
    keys, signed = draft.keys(role), draft.published[role].signed
    left = (signed.expires - draft.now()).total_seconds() / 86400
    return {
        "version": signed.version,
        "expires": signed.expires.isoformat(),
        "days_left": round(left, 1),
        "threshold": keys.threshold,
        "keys": list(keys.keyids),
    }


def _entries(bundles: Targets) -> list[dict[str, Any]]:
    return [
        {"path": path, "bytes": target.length, "withdrawn": False, **target.custom}
        for path, target in bundles.targets.items()
    ]
