"""The device's end of a channel: python-tuf's client with bounds, and its errors as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from edgerec import log
from edgerec.errors import ChannelError
from edgerec.records import record
from edgerec.updates.fetching import Fetcher, checked_place

BUNDLES = "bundles"
"""The role that signs bundles, and the folder of its targets: `bundles/NAME-VERSION.edgerec`."""

MAX_BUNDLE = 1 << 33
_DIGEST = re.compile(r"[0-9a-f]{64}")

# what went wrong, as the app's developer reads it; the first that fits
_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (tuf.ExpiredMetadataError, "the channel is out of date", "is this device's clock right? else it must be refreshed"),
    (tuf.UnsignedMetadataError, "not signed by enough keys that are trusted here", "is it the right channel and root?"),
    (tuf.BadVersionNumberError, "older than what this device has seen, or than was announced", "try again later"),
    (tuf.LengthOrHashMismatchError, "a file is not the one that was signed", "try again later"),
    (tuf.RepositoryError, "the channel's metadata are damaged", "does the server answer 404 for files it lacks?"),
    (tuf.DownloadLengthMismatchError, "a file is larger than it may be", "try again later"),
    (tuf.SlowRetrievalError, "the channel is too slow", "try again later"),
    (tuf.DownloadError, "the channel cannot be reached", "is the device online, and the address right?"),
    (OSError, "the update could not be stored", "is there space in the data folder?"),
)


@record
class Offer:
    """A version of a bundle in a channel, as signed."""

    path: str
    version: int
    digest: str
    min_runtime: str
    withdrawn: bool


class Client:
    """A channel as one device sees it. What was verified is kept in `home/metadata`, piece by piece, as TUF asks."""

    def __init__(self, place: str, home: Path, root: bytes | None, *, allow_http: bool) -> None:
        """`root`: the metadata to trust; None trusts those that are kept. Raises ChannelError."""
        base = checked_place(place, allow_http=allow_http)
        self._metadata = home / "metadata"
        with _translated():
            self._updater = Updater(
                str(self._metadata),
                f"{base}/metadata",
                target_base_url=f"{base}/targets",
                fetcher=Fetcher(allow_http=allow_http),
                config=_bounds(),
                bootstrap=root,
            )

    def offers(self, name: str) -> list[Offer]:
        """Every version of a bundle that the channel lists. Raises ChannelError."""
        with _translated():
            self._updater.refresh()
            self._updater.get_targetinfo(f"{BUNDLES}/{name}")  # the way there verifies and keeps the role's metadata
            kept = self._metadata / f"{BUNDLES}.json"
            listed = Metadata[Targets].from_bytes(kept.read_bytes()).signed.targets if kept.is_file() else {}
        found = (_offer(path, target, name) for path, target in listed.items())
        return [offer for offer in found if offer is not None]

    def fetch(self, offer: Offer, folder: Path) -> Path:
        """The offer's bundle, verified, as a file in `folder`. Raises ChannelError."""
        with _translated():
            target = self._updater.get_targetinfo(offer.path)
            if target is None:
                raise ChannelError(f"the channel does not offer {offer.path} any more", hint="try again")
            if target.length > MAX_BUNDLE:
                raise ChannelError(f"{offer.path} is larger than {MAX_BUNDLE} bytes")
            return Path(self._updater.download_target(target, str(folder / "offered.edgerec")))


def _offer(path: str, target: TargetFile, name: str) -> Offer | None:
    """An entry of the role as an offer of the bundle `name`; None for others and for what says nothing sound."""
    told: Any = target.custom
    if not isinstance(told, dict) or told.get("name") != name:
        return None
    values: list[Any] = [told.get(key) for key in ("version", "digest", "min_runtime")]
    version, digest, runtime = values
    sound = isinstance(version, int) and isinstance(digest, str) and isinstance(runtime, str)
    if not sound or not _DIGEST.fullmatch(digest) or path != f"{BUNDLES}/{name}-{version}.edgerec":
        log.warning("the channel lists a bundle with an unsound entry")
        return None
    return Offer(path, version, digest, runtime, told.get("withdrawn") is True)


def _bounds() -> UpdaterConfig:
    """Bytes per file, and steps of one update. A version of a bundle takes some 400 bytes of targets metadata."""
    return UpdaterConfig(
        max_root_rotations=256,
        max_delegations=8,
        root_max_length=1 << 17,
        timestamp_max_length=1 << 14,
        snapshot_max_length=1 << 16,
        targets_max_length=1 << 22,
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (tuf.RepositoryError, tuf.DownloadError, OSError) as error:
        _, reason, hint = next(row for row in _REASONS if isinstance(error, row[0]))
        raise ChannelError(f"{reason}: {error}", hint=hint) from error
