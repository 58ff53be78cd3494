"""Updates from a channel, a TUF repository (docs/channel.md): what it offers is verified, tried, and installed or not.

Nothing here runs, and no connection is made, unless the app asks for an update. python-tuf is an extra, loaded then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgerec import lifecycle
from edgerec.bundle import Bundle
from edgerec.device import Device
from edgerec.errors import (
    BundleError,
    BundleInvalid,
    BundleRefused,
    BundleUnsupported,
    ChannelError,
    GoldenMismatch,
    MissingDistribution,
)
from edgerec.files import exclusive, scratch
from edgerec.lifecycle import Installation
from edgerec.records import record
from edgerec.version import satisfies

if TYPE_CHECKING:
    from edgerec.updates.client import Client, Offer

INSTALLED, UP_TO_DATE, REFUSED, WITHDRAWN = "installed", "up_to_date", "refused", "withdrawn"
HOME = "channel"
"""Where in the data directory the trusted metadata are kept, and the root that was pinned at the first update."""

MAX_ROOT = 1 << 17


@record
class Update:
    """What an update came to.

    `status`: installed · up_to_date · refused (what is offered is sound, but not for this device: `reason` says why)
    · withdrawn (the publisher took back the version that runs, and there is nothing newer; `force` takes the newest
    there is, `rollback` goes back). `version`: the highest that the channel offers to this runtime, None for none.
    """

    status: str
    reason: str
    version: int | None
    installation: Installation | None = None


def update(
    device: Device,
    channel: str | os.PathLike[str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Update:
    """Asks a channel, a URL or a folder, for a newer version of the bundle that runs, and installs it.

    `channel` and `root` default to the configuration's. `root`: the file of the root metadata that the app pins;
    without it the root of an earlier update is trusted. `force`: takes the channel's newest even if it is older, was
    rolled back, or does worse.

    Raises ChannelError where the channel cannot be reached or trusted, BundleError or StoreBusy where the bundle cannot
    be stored, or MissingDistribution without python-tuf; then what runs goes on, and nothing is trusted that was not
    signed.
    """
    place, pinned = _place(device, channel), _pinned(device, root)
    home = device.data_dir / HOME
    home.mkdir(parents=True, exist_ok=True)
    with exclusive(home / "update.lock"):
        running = device.snapshot().engine.bundle
        client = _client()(place, home, pinned, allow_http=device.config.channel_http)
        offers = client.offers(running.manifest.name)
        best = max(filter(_fits, offers), key=lambda offer: offer.version, default=None)
        if best is None or not _wanted(best, running, force):
            return _nothing_new(best, offers, running)
        try:
            installation = lifecycle.install(device, _unpacked(device, client, best, home), force=force)
        except (BundleInvalid, BundleUnsupported, BundleRefused, GoldenMismatch) as error:
            return Update(REFUSED, str(error), best.version)
    return Update(INSTALLED, f"version {best.version} runs", best.version, installation)


def _place(device: Device, channel: str | os.PathLike[str] | None) -> str:
    place = channel if channel is not None else device.config.channel_url
    if place is None:
        raise ChannelError("no channel was named", hint="name a URL or a folder, or set channel.url")
    return os.fspath(place)


def _pinned(device: Device, root: str | os.PathLike[str] | None) -> bytes | None:
    """The root metadata that the app trusts, None for those of an earlier update."""
    path = root if root is not None else device.config.channel_root
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                return file.read(MAX_ROOT)
        except OSError as error:
            raise ChannelError(f"the root to trust cannot be read: {error}") from None
    if not (device.data_dir / HOME / "metadata" / "root.json").is_file():
        raise ChannelError(
            "this device trusts no channel yet", hint="name the root that the app ships, or set channel.root"
        )
    return None


def _client() -> type[Client]:
    try:
        from edgerec.updates.client import Client
    except ModuleNotFoundError as error:
        raise MissingDistribution(f"updates need {error.name}", hint="pip install 'edgerec[update]'") from None
    return Client


def _fits(offer: Offer) -> bool:
    return not offer.withdrawn and satisfies(f">={offer.min_runtime}")


def _wanted(best: Offer, running: Bundle, force: bool) -> bool:
    return best.digest != running.digest and (force or best.version > running.manifest.version)


def _nothing_new(best: Offer | None, offers: Sequence[Offer], running: Bundle) -> Update:
    name, version = running.manifest.name, running.manifest.version
    newest = None if best is None else best.version
    offered = f"the channel offers no bundle {name!r} for this runtime" if best is None else f"its newest is {newest}"
    if any(offer.withdrawn and offer.digest == running.digest for offer in offers):
        return Update(WITHDRAWN, f"version {version}, which runs, was withdrawn; {offered}", newest)
    return Update(UP_TO_DATE, f"version {version} runs; {offered}", newest)


def _unpacked(device: Device, client: Client, offer: Offer, home: Path) -> Path:
    """The offered bundle as a verified folder of the data directory; what is there already is not fetched again."""
    try:
        with device.load(device.data_dir / "bundles" / offer.digest) as known:
            if known.digest == offer.digest:
                return known.path
    except BundleError:
        pass  # not there, or damaged
    with scratch(home) as folder, device.load(client.fetch(offer, folder)) as bundle:
        if bundle.digest != offer.digest:
            raise ChannelError(f"{offer.path} is another bundle than was signed", hint="its publisher must repair it")
        return bundle.path
