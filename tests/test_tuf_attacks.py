"""Every class of attack in the TUF specification, against a real device over HTTP on loopback.

A device updated to version 2 meets a mirror in an attacker's hands, who may have stolen keys. Each attack is refused:
version 2 goes on serving the same page, and of the trusted metadata nothing changes but to what the publisher signed.
https://theupdateframework.github.io/specification/latest/ (1.5.2, and the client's workflow, 5)
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from channels import Mirror, StaticFiles, days_ago, described, make_channel, publish, read, ring, serving, sign, write
from conftest import Opener
from tuf.api.metadata import MetaFile, TargetFile

import edgerec
from edgerec.errors import ChannelError
from edgerec.updates import fetching
from edgerec.updates.client import Client
from edgerec_exporters.channel import publishing
from edgerec_exporters.channel.publishing import Quorum

ONLINE = ("bundles", "snapshot", "timestamp")


class World:
    """A publisher's channel, the attacker's mirror of it, and a device that asks the mirror."""

    def __init__(self, folder: Path, states: Path, rec: edgerec.Recommender) -> None:
        self.folder, self.states, self.rec = folder, states, rec
        self.keys = states / "keys"
        self.mirror = Mirror(folder / "mirror", self.keys)
        self.mirror.show(states / "two")
        self.url = ""
        self.genuine = self.published(states / "three")

    def published(self, channel: Path) -> set[bytes]:
        return {path.read_bytes() for path in (channel / "metadata").iterdir()}

    def page(self) -> list[tuple[str, float]]:
        return [(one.item, one.score) for one in self.rec.recommend(10)]

    def trusted(self) -> dict[str, bytes]:
        home = self.folder / "state" / "channel" / "metadata"
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*.json")}

    def keys_of(self, role: str) -> list[str]:
        files = sorted(self.keys.rglob(f"{role}-*.pem"))
        return ring(files=files).given

    def refused(self, reason: str, **options: Any) -> None:
        """The attack comes to nothing; once the mirror is honest again, the device gets what it was kept from."""
        page, trusted = self.page(), self.trusted()
        with pytest.raises(ChannelError, match=reason):
            self.rec.update(self.url, **options)
        assert (self.rec.bundle.version, self.page()) == (2, page)
        for name, data in self.trusted().items():
            assert data == trusted.get(name) or data in self.genuine, f"{name} was forged"
        assert trusted.keys() <= self.trusted().keys()
        assert not list((self.folder / "state" / "channel").glob(".tmp-*"))

    def recovers(self, channel: Path | None = None, version: int = 3) -> None:
        self.mirror.show(channel or self.states / "three")
        assert self.rec.update(self.url).version == self.rec.bundle.version == version


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's channel with version 2, and later with version 3 too; and all its private keys."""
    folder = tmp_path_factory.mktemp("channel")
    quorums = {"root": Quorum(2, 3), "bundles": Quorum(2, 2)}
    make_channel(folder / "two", folder / "keys", quorums=quorums)
    publish(folder / "two", folder / "keys", 2)
    shutil.copytree(folder / "two", folder / "three")
    publish(folder / "three", folder / "keys", 3)
    return folder


@pytest.fixture
def world(tmp_path: Path, states: Path, opener: Opener) -> Iterator[World]:
    found = World(tmp_path, states, opener())
    with serving(found.mirror.folder) as server:
        found.url = server.url
        done = found.rec.update(server.url, root=states / "two" / "metadata" / "1.root.json")
        assert done.status == "installed"
        yield found


def hostile_bundle(world: World, version: int = 9) -> TargetFile:
    """The attacker's own bundle, in place on the mirror, and its entry."""
    bundle = tiny_bundle(world.folder / "hostile.edgerec", seed=99, version=version)
    return offered(world, bundle, version)


def offered(world: World, file: Path, version: int) -> TargetFile:
    """A file where devices would ask for a bundle of that version, and its entry."""
    entry = TargetFile.from_file(f"bundles/tiny-{version}.edgerec", str(file), ["sha256"])
    told = {"name": "tiny", "version": version, "digest": "0" * 64, "min_runtime": "0.1.0"}
    entry.unrecognized_fields["custom"] = told
    name = f"{entry.hashes['sha256']}.tiny-{version}.edgerec"
    shutil.copy(file, world.mirror.folder / "targets" / "bundles" / name)
    return entry


def listing(entry: TargetFile) -> Callable[[Any], None]:
    def change(bundles: Any) -> None:
        bundles.targets[entry.path] = entry

    return change


# arbitrary software


def test_another_file_in_place_of_the_bundle(world: World) -> None:
    world.mirror.show(world.states / "three")
    place = world.mirror.bundle(3)
    shutil.copy(tiny_bundle(world.folder / "hostile.edgerec", seed=99, version=3), place)
    world.refused("not the one that was signed|larger than it may be")
    world.recovers()


def test_a_repository_of_the_attackers_own(world: World) -> None:
    own = make_channel(world.folder / "own", world.folder / "own-keys")
    publish(own, world.folder / "own-keys", 9)
    publishing.refresh(own, ring(world.folder / "own-keys"))
    world.mirror.show(own)
    world.refused("not signed by enough keys")
    world.recovers()


def test_a_listing_that_nobody_signed(world: World) -> None:
    world.mirror.forge({"bundles": listing(hostile_bundle(world))}, stolen=())
    world.refused("not signed by enough keys")
    world.recovers()


# wrong software, extraneous dependencies


def test_an_older_bundle_of_the_publisher_under_the_new_name(world: World) -> None:
    world.mirror.show(world.states / "three")
    shutil.copy(world.mirror.bundle(2), world.mirror.bundle(3))
    world.refused("not the one that was signed|larger than it may be")
    world.recovers()


def test_what_else_the_channel_signs_is_not_fetched(world: World) -> None:
    """The publisher's other bundle has a higher version: neither it nor anything beside it is asked for."""
    channel = world.folder / "more"
    shutil.copytree(world.states / "three", channel)
    publish(channel, world.keys, 50, name="other")
    for path in (channel / "targets" / "bundles").glob("*-50.edgerec"):
        path.unlink()
    world.mirror.show(channel)
    assert world.rec.update(world.url).version == 3
    assert world.rec.bundle.name == "tiny"


# rollback


def test_an_older_timestamp(world: World) -> None:
    world.recovers()
    world.mirror.show(world.states / "two")
    before = world.trusted()
    with pytest.raises(ChannelError, match="older than what this device has seen"):
        world.rec.update(world.url)
    assert (world.rec.bundle.version, world.trusted()) == (3, before)


def test_an_older_snapshot_under_a_new_timestamp(world: World) -> None:
    """With the timestamp's key stolen."""
    snapshot = read(world.mirror / "1.snapshot.json")
    change = {"timestamp": lambda signed: setattr(signed, "snapshot_meta", described(snapshot))}
    world.mirror.forge(change, stolen={"timestamp"})
    world.refused("older than what this device has seen")
    world.recovers()


@pytest.mark.parametrize("gone", [False, True], ids=["older", "gone"])
def test_an_older_listing_under_a_new_snapshot(world: World, gone: bool) -> None:
    """With the keys of snapshot and timestamp stolen: the listing before version 2, or none at all."""
    before = described(read(world.mirror / "1.bundles.json"))

    def change(snapshot: Any) -> None:
        snapshot.meta["bundles.json"] = before
        if gone:
            del snapshot.meta["bundles.json"]

    world.mirror.forge({"snapshot": change}, stolen={"snapshot", "timestamp"})
    with pytest.raises(ChannelError, match="missing info" if gone else "older than what this device has seen"):
        world.rec.update(world.url)
    assert world.rec.bundle.version == 2
    assert b'"bundles.json"' in world.trusted()["snapshot.json"]
    assert world.trusted()["snapshot.json"] in world.published(world.states / "two")


def test_an_older_root(world: World) -> None:
    """The timestamp's key was stolen and revoked by a new root; the mirror hides the root and uses the old key."""
    channel = rotated(world, "timestamp")
    world.recovers(channel, 4)
    world.mirror.show(world.states / "three")
    world.mirror.forge({"timestamp": lambda signed: setattr(signed, "version", 99)}, stolen={"timestamp"})
    before = world.trusted()
    with pytest.raises(ChannelError, match="not signed by enough keys"):
        world.rec.update(world.url)
    shutil.copy(world.mirror / "1.root.json", world.mirror / "3.root.json")
    with pytest.raises(ChannelError, match="older than what this device has seen"):
        world.rec.update(world.url)
    assert (world.rec.bundle.version, world.trusted()) == (4, before)


def rotated(world: World, *roles: str) -> Path:
    """The publisher's channel after roles got new keys, with version 4."""
    channel, fresh = world.folder / "rotated", world.folder / "fresh"
    shutil.copytree(world.states / "three", channel)
    for role in roles:
        publishing.rotate(channel, role, ring(world.keys, *([fresh] if fresh.exists() else [])), keys=fresh)
    publish_with = ring(world.keys, fresh)
    bundle = tiny_bundle(world.folder / "v4.edgerec", seed=4, version=4)
    publishing.publish(channel, bundle, publish_with)
    world.genuine |= world.published(channel)
    return channel


# fast-forward


def test_fast_forward_ends_with_new_keys(world: World) -> None:
    """A thief of both keys signs version 2^31 of all they may, so that nothing newer can come; new keys end it."""
    far = {
        "snapshot": lambda signed: setattr(signed, "version", 2**31),
        "timestamp": lambda signed: (
            setattr(signed, "version", 2**31),
            setattr(signed.snapshot_meta, "version", 2**31),
        ),
    }
    world.mirror.show(world.states / "three")
    world.mirror.forge(far, stolen={"snapshot", "timestamp"})
    snapshot = world.mirror / f"{2**31}.snapshot.json"
    timestamp = read(world.mirror / "timestamp.json")
    timestamp.signed.snapshot_meta = described(read(snapshot))
    timestamp.signatures.clear()
    sign(timestamp, "timestamp", world.keys)
    write(world.mirror / "timestamp.json", timestamp)
    assert world.rec.update(world.url).version == 3, "what it lists is the publisher's still"
    world.mirror.show(world.states / "three")
    with pytest.raises(ChannelError, match="older than what this device has seen"):
        world.rec.update(world.url)
    world.recovers(rotated(world, "timestamp", "snapshot"), 4)


# indefinite freeze


def test_a_timestamp_that_is_served_for_ever(world: World) -> None:
    """What the device took eight days ago was good for seven, and is all that the mirror shows."""
    channel = world.folder / "past"
    keys = world.folder / "past-keys"
    make_channel(channel, keys, now=days_ago(9))
    publish(channel, keys, 2, now=days_ago(8))
    world.mirror.show(channel)
    home = world.folder / "state" / "channel" / "metadata"
    shutil.rmtree(home)
    (home / "root_history").mkdir(parents=True)
    shutil.copy(channel / "metadata" / "1.root.json", home / "root_history")
    (home / "root.json").symlink_to("root_history/1.root.json")
    for role in ("timestamp", "snapshot", "targets", "bundles"):
        shutil.copy(world.mirror.current(role), home / f"{role}.json")
    world.genuine |= world.published(channel)
    world.refused("out of date: timestamp.json is expired")
    publishing.refresh(channel, ring(keys))
    world.mirror.show(channel)
    assert world.rec.update(world.url).status == "up_to_date"


@pytest.mark.parametrize("role", ["root", "targets", "bundles", "snapshot"])
def test_expired_metadata_of_any_role(world: World, role: str) -> None:
    """The publisher let a role expire: its own signature does not help, and no stolen key beyond it."""
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    world.mirror.show(world.states / "three")
    stolen = {"root", "targets", *ONLINE}
    world.mirror.forge({role: lambda signed: setattr(signed, "expires", past)}, stolen=stolen)
    world.genuine |= world.published(world.mirror.folder)  # all of it is truly signed
    world.refused("out of date")


# endless data


class Endless(StaticFiles):
    """Never ends a file whose name holds `target`, from its true beginning on; counts what it sent."""

    target = ""
    sent = 0
    ended = threading.Event()

    def do_GET(self) -> None:  # noqa: N802
        if self.target not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        try:
            path = Path(self.translate_path(self.path))
            self.wfile.write(path.read_bytes() if path.is_file() else b"")
            while True:
                self.wfile.write(b" " * 65536)
                type(self).sent += 65536
        except OSError:
            self.ended.set()


@pytest.mark.parametrize("target", ["2.root", "timestamp", "3.snapshot", "3.bundles", "tiny-3.edgerec"])
def test_a_file_without_end(world: World, target: str) -> None:
    world.mirror.show(world.states / "three")
    handler = type("Now", (Endless,), {"target": target, "ended": threading.Event()})
    with serving(world.mirror.folder, handler) as server:
        world.url = server.url
        world.refused("larger than it may be")
        assert handler.ended.wait(10)
    assert handler.sent < 16 << 20, "what sockets buffer, not more"


# slow retrieval


class Slow(StaticFiles):
    """Sends a byte of a file, or of its header, now and then; `ended` is set when the test is over."""

    target = "timestamp"
    beginning = b""
    ended = threading.Event()

    def do_GET(self) -> None:  # noqa: N802
        if self.target not in self.path:
            super().do_GET()
            return
        try:
            self.wfile.write(self.beginning)
            while not self.ended.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            pass


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("beginning", [b"", HEAD + b"X: ", HEAD + b"\r\n{"], ids=["status", "header", "body"])
def test_a_server_that_trickles(world: World, beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every single byte comes well before a socket's timeout."""
    monkeypatch.setattr(fetching, "GRACE_S", 0.2)
    world.mirror.show(world.states / "three")
    handler = type("Now", (Slow,), {"beginning": beginning, "ended": threading.Event()})
    with serving(world.mirror.folder, handler) as server:
        world.url = server.url
        world.refused("too slow")
        handler.ended.set()


def test_a_server_that_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "GAP_S", 0.2)
    handler = type("Now", (Slow,), {"ended": threading.Event(), "do_GET": lambda self: self.ended.wait(10)})
    with serving(world.mirror.folder, handler) as server:
        world.url = server.url
        world.refused("too slow")
        handler.ended.set()


# mix and match


@pytest.mark.parametrize("role", ["snapshot", "targets", "bundles"])
def test_metadata_of_two_moments(world: World, role: str) -> None:
    """The new timestamp, and below it a role as it was before, under the name of the new one."""
    world.mirror.show(world.states / "three")
    channel = world.folder / "four"
    shutil.copytree(world.states / "three", channel)
    publishing.rotate(channel, "bundles", ring(world.keys), keys=world.folder / "fresh")
    world.genuine |= world.published(channel)
    old = world.mirror.current(role).read_bytes()
    world.mirror.show(channel)
    world.mirror.current(role).write_bytes(old)
    world.refused("not the one that was signed")
    world.recovers(channel)


# keys


def test_one_stolen_key_of_two(world: World) -> None:
    """Below the threshold of the bundles' role, with all keys of snapshot and timestamp."""
    entry = hostile_bundle(world)
    forged = Mirror(world.mirror.folder, world.keys)
    forged.forge({"bundles": listing(entry)}, stolen=ONLINE, keys_per_role=1)
    page = world.page()
    with pytest.raises(ChannelError, match="bundles was signed by 1/2 keys"):
        world.rec.update(world.url)
    assert (world.rec.bundle.version, world.page()) == (2, page)
    assert b"tiny-9" not in world.trusted()["bundles.json"]


def test_one_stolen_key_that_signs_twice(world: World) -> None:
    """A second signature by the same key, under its own id or another's, makes no second signer."""
    entry = hostile_bundle(world)
    world.mirror.forge({"bundles": listing(entry)}, stolen=ONLINE, keys_per_role=1)
    place = world.mirror.current("bundles")
    (keyid, signature) = next(iter(read(place).signatures.items()))
    other = next(one for one in world.keys_of("bundles") if one != keyid)
    text = place.read_text()
    twice, theirs = (
        text.replace('"signatures":[', f'"signatures":[{{"keyid":"{name}","sig":"{signature.signature}"}},')
        for name in (keyid, other)
    )
    for forged, reason in ((twice, "damaged"), (theirs, "bundles was signed by 1/2 keys")):
        place.write_text(forged)
        relisted(world)
        with pytest.raises(ChannelError, match=reason):
            world.rec.update(world.url)
        assert world.rec.bundle.version == 2
        assert b"tiny-9" not in world.trusted()["bundles.json"]


def relisted(world: World) -> None:
    """Snapshot and timestamp list the bundles' file as it is now, signed with stolen keys."""
    place = world.mirror.current("bundles")
    meta = MetaFile.from_data(int(place.name.split(".")[0]), place.read_bytes(), ["sha256"])
    world.mirror.forge({"snapshot": lambda signed: signed.meta.update({"bundles.json": meta})}, stolen=ONLINE)


def test_the_bundles_keys_alone_reach_nobody(world: World) -> None:
    """Both keys of the role, but not the snapshot's: what devices take is listed there."""
    entry = hostile_bundle(world)
    place = world.mirror.current("bundles")
    metadata = read(place)
    listing(entry)(metadata.signed)
    metadata.signatures.clear()
    sign(metadata, "bundles", world.keys)
    (world.folder / "state" / "channel" / "metadata" / "bundles.json").unlink()  # so that it is asked for again
    write(place, metadata)
    page = world.page()
    with pytest.raises(ChannelError, match=r"not the one that was signed|larger than it may be"):
        world.rec.update(world.url)
    assert (world.rec.bundle.version, world.page()) == (2, page)
    world.recovers()


def test_a_root_without_the_old_signatures(world: World) -> None:
    """The attacker's root, signed by its own new keys alone, or by one of the two old ones that it takes."""
    own = ring()
    fresh = own.make(world.folder / "own", "root")
    for old_signatures in (0, 1):
        root = read(world.mirror / "1.root.json")
        root.signed.version = 2
        for keyid in list(root.signed.roles["root"].keyids):
            root.signed.revoke_key(keyid, "root")
        root.signed.add_key(fresh, "root")
        root.signed.roles["root"].threshold = 1
        root.signatures.clear()
        signer = own.signer(fresh.keyid)
        assert signer is not None
        root.sign(signer)
        if old_signatures:
            sign(root, "root", world.keys, 1)
        write(world.mirror / "2.root.json", root)
        world.refused(f"root was signed by {old_signatures}/2 keys")
    world.recovers()


def test_a_root_that_skips_a_version(world: World) -> None:
    channel = rotated(world, "root", "root")
    (channel / "metadata" / "3.root.json").replace(channel / "metadata" / "2.root.json")
    world.mirror.show(channel)
    world.refused("older than what this device has seen|not signed by enough keys")


def test_a_stolen_timestamp_key_is_of_no_use_once_it_is_replaced(world: World) -> None:
    channel = rotated(world, "timestamp")
    world.mirror.show(channel)
    world.mirror.forge({"timestamp": lambda signed: None}, stolen={"timestamp"})
    with pytest.raises(ChannelError, match="not signed by enough keys"):
        world.rec.update(world.url)
    world.recovers(channel, 4)


def test_all_online_keys_do_not_get_a_hostile_bundle_past_the_reader(world: World) -> None:
    """Whoever holds every online key can have a bundle fetched, not have one run that is unsound or misnamed."""
    entry = hostile_bundle(world)
    world.mirror.forge({"bundles": listing(entry)}, stolen=ONLINE)
    world.genuine |= world.published(world.mirror.folder)
    world.refused("another bundle than was signed")
    broken = world.folder / "broken.edgerec"
    broken.write_bytes(b"PK junk" * 1000)
    world.mirror.forge({"bundles": listing(offered(world, broken, 10))}, stolen=ONLINE)
    done = world.rec.update(world.url)
    assert (done.status, world.rec.bundle.version) == ("refused", 2)


def test_flipped_bytes_are_never_trusted(world: World) -> None:
    """One bit of one file of the new version, 200 times: refused, or the very same outcome as without."""
    dice, refusals = random.Random(0), 0
    world.mirror.show(world.states / "three")
    names = ("3.bundles.json", "3.snapshot.json", "timestamp.json")
    files = [*(world.mirror / name for name in names), world.mirror.bundle(3)]
    bundle = world.mirror.bundle(3).read_bytes()

    def found(home: Path) -> tuple[set[int], bytes]:
        shutil.copytree(world.folder / "state" / "channel", home, symlinks=True)
        client = Client(str(world.mirror.folder), home, None, allow_http=False)
        offers = client.offers("tiny")
        return {one.version for one in offers}, client.fetch(
            max(offers, key=lambda one: one.version), home
        ).read_bytes()

    for turn in range(200):
        place = dice.choice(files)
        data = place.read_bytes()
        spot = dice.randrange(len(data))
        place.write_bytes(data[:spot] + bytes([data[spot] ^ (1 << dice.randrange(8))]) + data[spot + 1 :])
        home = world.folder / f"trust{turn}"
        try:
            assert found(home) == ({2, 3}, bundle)
        except ChannelError:
            refusals += 1
        kept = {path.name: path.read_bytes() for path in (home / "metadata").glob("*.json")}
        kept.pop("timestamp.json")  # what is not signed in it, a signature's key for one, may differ
        assert set(kept.values()) <= world.genuine
        place.write_bytes(data)
    assert refusals > 180
    assert found(world.folder / "whole") == ({2, 3}, bundle)
