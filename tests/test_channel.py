"""The publisher's end of a channel: roles and keys, publishing, refreshing, rotating, signing offline."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from channels import days_ago, make_channel, publish, read, ring
from click.testing import CliRunner, Result
from conftest import Opener
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import edgerec
from edgerec.cli import main
from edgerec.errors import BundleError, BundleInvalid, ChannelError
from edgerec_exporters.channel import publishing
from edgerec_exporters.channel.draft import Draft
from edgerec_exporters.channel.keys import public_key
from edgerec_exporters.channel.publishing import Quorum


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def home(tmp_path: Path, keys: Path) -> Path:
    return make_channel(tmp_path / "channel", keys)


def files(home: Path) -> dict[str, bytes]:
    """What a file server would serve."""
    found = (path for folder in ("metadata", "targets") for path in (home / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(home)): path.read_bytes() for path in found}


def roles(home: Path) -> dict[str, Any]:
    told: dict[str, Any] = publishing.status(home)["roles"]
    return told


def versions(home: Path) -> dict[str, int]:
    return {role: told["version"] for role, told in roles(home).items()}


# making one


def test_a_new_channel_has_five_roles_and_its_private_keys_elsewhere(home: Path, keys: Path) -> None:
    told = roles(home)
    assert set(told) == {"root", "targets", "bundles", "snapshot", "timestamp"}
    assert all(one["version"] == one["threshold"] == len(one["keys"]) == 1 for one in told.values())
    assert [round(told[role]["days_left"]) for role in ("root", "bundles", "timestamp")] == [365, 90, 7]
    private = {
        path.parent.name: sorted(p.name.split("-")[0] for p in path.parent.iterdir()) for path in keys.rglob("*.pem")
    }
    assert private == {"offline": ["root", "targets"], "online": ["bundles", "snapshot", "timestamp"]}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys.rglob("*.pem"))
    assert not list(home.rglob("*.pem"))


def test_thresholds_and_expiries_are_settable(tmp_path: Path) -> None:
    home, keys = tmp_path / "channel", tmp_path / "keys"
    publishing.init(home, keys, quorums={"root": Quorum(2, 3)}, days={"timestamp": 1, "root": 30})
    told = roles(home)
    assert (told["root"]["threshold"], len(told["root"]["keys"])) == (2, 3)
    assert len(read(home / "metadata" / "1.root.json").signatures) == 3
    assert [round(told[role]["days_left"]) for role in ("root", "timestamp")] == [30, 1]
    assert len(list((keys / "offline").glob("root-*.pem"))) == 3


def test_a_folder_with_something_in_it_becomes_no_channel(home: Path, keys: Path) -> None:
    before = files(home)
    with pytest.raises(ChannelError, match="not empty"):
        make_channel(home, keys)
    assert files(home) == before
    with pytest.raises(ChannelError, match="threshold of 3 with 2"):
        Quorum(3, 2)


# publishing


def test_a_published_bundle_is_listed_with_what_a_device_must_know(home: Path, keys: Path) -> None:
    publish(home, keys / "online", 3)
    publish(home, keys / "online", 7)
    listed = publishing.status(home)["bundles"]
    assert [(one["name"], one["version"], one["min_runtime"]) for one in listed] == [
        ("tiny", 3, "0.1.0"),
        ("tiny", 7, "0.1.0"),
    ]
    assert versions(home) == {"root": 1, "targets": 1, "bundles": 3, "snapshot": 3, "timestamp": 3}
    assert len(listed[0]["digest"]) == 64


def test_only_a_higher_version_is_taken(home: Path, keys: Path) -> None:
    publish(home, keys, 3)
    before = files(home)
    for version in (3, 2):
        with pytest.raises(ChannelError, match="not newer than 3"):
            publish(home, keys, version)
    assert files(home) == before
    publish(home, keys, 1, name="other")  # every name counts for itself
    publishing.withdraw(home, 3, ring(keys))
    with pytest.raises(ChannelError, match="not newer than 3"):
        publish(home, keys, 3)


def test_an_unsound_bundle_is_not_published(home: Path, keys: Path, tmp_path: Path) -> None:
    before = files(home)
    bundle = tiny_bundle(tmp_path / "b.edgerec")
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 0xFF
    bundle.write_bytes(data)
    with pytest.raises(BundleInvalid):
        publishing.publish(home, bundle, ring(keys))
    with pytest.raises(ChannelError, match="no bundle named"):
        publish(home, keys, 1, name="../escape")
    with pytest.raises(ChannelError, match="no file"):
        publishing.publish(home, tmp_path, ring(keys))
    with pytest.raises(BundleError, match="asks for edgerec 99"):
        publish(home, keys, 1, min_runtime="99.0.0")
    assert files(home) == before


def test_whoever_stops_a_publisher_leaves_a_whole_channel(
    home: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every rename in turn: devices see all of the old state, and the next command goes through."""
    publish(home, keys, 1)
    rename, seen, going = os.replace, [], [0]

    def stopping(source: Any, target: Any) -> None:
        if home in Path(target).parents and "cache" not in Path(target).parts:
            seen.append(Path(target).name)
            if len(seen) > going[0]:
                raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    for renames in range(4):
        going[0] = renames
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            publish(home, keys, 2)
        assert [one["version"] for one in publishing.status(home)["bundles"]] == [1]
        assert not list(home.glob(".tmp-*"))
    monkeypatch.undo()
    assert seen[1:] == ["3.bundles.json", "3.snapshot.json", "timestamp.json"], "the timestamp comes last"
    publish(home, keys, 2)
    assert [one["version"] for one in publishing.status(home)["bundles"]] == [1, 2]


def test_a_withdrawn_version_stays_listed_as_such(home: Path, keys: Path) -> None:
    publish(home, keys, 1)
    publish(home, keys, 2)
    publishing.withdraw(home, 2, ring(keys))
    assert [one["withdrawn"] for one in publishing.status(home)["bundles"]] == [False, True]
    with pytest.raises(ChannelError, match="names 0 bundles"):
        publishing.withdraw(home, 5, ring(keys))
    publish(home, keys, 1, name="other")
    with pytest.raises(ChannelError, match="names 2 bundles"):
        publishing.withdraw(home, 1, ring(keys))
    publishing.withdraw(home, 1, ring(keys), name="other")
    assert publishing.status(home)["bundles"][0]["withdrawn"]


# time


def test_refresh_renews_what_is_due_and_has_its_keys_here(tmp_path: Path, keys: Path) -> None:
    home = make_channel(tmp_path / "channel", keys, now=days_ago(6))
    publishing.refresh(home, ring(keys / "online"))
    assert versions(home) == {"root": 1, "targets": 1, "bundles": 1, "snapshot": 1, "timestamp": 2}
    later = make_channel(tmp_path / "later", tmp_path / "more", now=days_ago(200))
    assert all(told["days_left"] < 0 for role, told in roles(later).items() if role not in ("root", "targets"))
    publishing.refresh(later, ring(tmp_path / "more" / "online"))
    assert versions(later) == {"root": 1, "targets": 1, "bundles": 2, "snapshot": 2, "timestamp": 2}
    publishing.refresh(later, ring(tmp_path / "more"))
    assert versions(later) == {"root": 2, "targets": 2, "bundles": 2, "snapshot": 3, "timestamp": 3}
    assert all(told["days_left"] > 5 for told in roles(later).values())
    publishing.refresh(later, ring(tmp_path / "more"), roles=["root"])
    assert versions(later)["root"] == 3
    with pytest.raises(ChannelError, match="key of timestamp"):
        publishing.refresh(later, ring(tmp_path / "more" / "offline"))


# keys


def test_every_role_rotates_and_devices_follow(home: Path, keys: Path, opener: Opener) -> None:
    root = home / "metadata" / "1.root.json"
    pinned = home.parent / "root.json"
    pinned.write_bytes(root.read_bytes())
    publish(home, keys, 2)
    rec = opener()
    assert rec.update(home, root=pinned).status == "installed"
    before = roles(home)
    for version, role in enumerate(("timestamp", "snapshot", "bundles", "targets", "root"), 3):
        publishing.rotate(home, role, ring(keys), keys=keys)
        assert not set(roles(home)[role]["keys"]) & set(before[role]["keys"])
        assert rec.update(home).status == "up_to_date"
        publish(home, keys / "online", version)
        assert rec.update(home).version == rec.bundle.version == version
    assert opener(data_dir=home.parent / "late").update(home, root=pinned).version == 7, (
        "from the first root to the last"
    )
    assert versions(home)["root"] == 5


def test_the_old_keys_open_nothing_any_more(home: Path, keys: Path, tmp_path: Path) -> None:
    old = {path.name: path.read_bytes() for path in (keys / "online").iterdir()}
    for role in ("bundles", "snapshot", "timestamp"):
        publishing.rotate(home, role, ring(keys), keys=tmp_path / "new")
    stale = tmp_path / "stale"
    stale.mkdir()
    for name, pem in old.items():
        (stale / name).write_bytes(pem)
    before = files(home)
    with pytest.raises(ChannelError, match="not at hand"):
        publishing.refresh(home, ring(stale))
    assert files(home) == before


def test_root_changes_hands_by_signatures_of_old_and_new(tmp_path: Path) -> None:
    """Two of three holders, each with a key on a machine of their own, sign one after the other."""
    home, keys = tmp_path / "channel", tmp_path / "keys"
    make_channel(home, keys, quorums={"root": Quorum(2, 3)})
    old = sorted((keys / "offline").glob("root-*.pem"))
    holders = [tmp_path / f"holder{n}" for n in range(2)]
    public = []
    for holder in holders:
        key = ring().make(holder, "root")
        public.append(key)
    saved = publishing.rotate(home, "root", ring(keys / "online"), public=public, quorum=Quorum(2, 2))
    assert (saved.versions, saved.waiting) == ({}, {"root": 2})
    for file, missing in ((old[0], 2), (old[1], 2), (next(holders[0].iterdir()), 1)):
        assert publishing.sign(home, ring(files=[file])).waiting == {"root": missing}
        assert versions(home)["root"] == 1
    publishing.refresh(home, ring(keys / "online"))  # the rest of the channel need not wait
    publish(home, keys / "online", 2)
    with pytest.raises(ChannelError, match="nothing waits for the signature"):
        publishing.sign(home, ring(files=[next((keys / "online").glob("bundles-*"))]))
    with pytest.raises(ChannelError, match="waits for signatures"):
        publishing.rotate(home, "timestamp", ring(keys), keys=keys)
    assert publishing.sign(home, ring(files=[next(holders[1].iterdir())])).versions == {"root": 2}
    assert roles(home)["root"]["keys"] == [key.keyid for key in public]
    assert not list((home / "pending").glob("*.json"))
    with pytest.raises(ChannelError, match="nothing waits"):
        publishing.sign(home, ring(files=[old[0]]))


def test_a_change_waits_for_offline_keys_and_the_build_server_publishes_it(
    home: Path, keys: Path, opener: Opener
) -> None:
    pinned = home.parent / "root.json"
    pinned.write_bytes((home / "metadata" / "1.root.json").read_bytes())
    offline = home.parent / "vault"
    (keys / "offline").rename(offline)
    saved = publishing.rotate(home, "timestamp", ring(keys), keys=keys)
    assert saved.waiting == {"root": 1}
    assert publishing.status(home)["waiting"] == {"root": 1}
    root_key = next(offline.glob("root-*.pem"))
    assert publishing.sign(home, ring(files=[root_key])).waiting == {"timestamp": 1}, "the vault has no online keys"
    publish(home, keys, 2)  # signs what waited too
    assert versions(home)["root"] == 2
    assert opener().update(home, root=pinned).version == 2
    saved = publishing.rotate(home, "bundles", ring(keys), keys=keys)
    assert saved.waiting == {"targets": 1}
    with pytest.raises(ChannelError, match="bundles waits"):
        publish(home, keys, 3)
    publishing.sign(home, ring(keys, files=[next(offline.glob("targets-*.pem"))]))
    publish(home, keys, 3)
    assert versions(home)["targets"] == 2


def test_a_stopped_rotation_goes_on_where_it_was(
    home: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every rename of a publication that was waited for: no signature is lost."""
    rename, going = os.replace, [0]

    def stopping(source: Any, target: Any) -> None:
        if Path(target).parent.name == "metadata":
            going[0] -= 1
            if going[0] < 0:
                raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    for renames, written in enumerate(("targets", "snapshot", "timestamp", "root")):
        before = versions(home)
        assert publishing.rotate(home, "targets", ring(keys / "online"), keys=keys).waiting
        going[0] = renames
        vault = list((keys / "offline").glob("*.pem"))
        with pytest.raises(KeyboardInterrupt):
            publishing.sign(home, ring(keys / "online", files=[p for p in vault if wanted(home, p)]))
        assert versions(home)["root"] == before["root"], written
        going[0] = 99
        publishing.refresh(home, ring(keys / "online"))  # the vault is closed again
        assert versions(home)["root"] == before["root"] + 1
        assert publishing.status(home)["waiting"] == {}


def wanted(home: Path, key: Path) -> bool:
    """Whether something waits for this key's signature."""
    return bool(set(ring(files=[key]).given) & Draft(home, ring()).wanted)


def test_what_was_left_behind_in_pending_is_not_published(home: Path, keys: Path) -> None:
    publishing.rotate(home, "snapshot", ring(keys / "online"), keys=keys)
    stale = (home / "pending" / "root.json").read_bytes()
    publishing.sign(home, ring(keys, files=[next((keys / "offline").glob("root-*"))]))
    (home / "pending" / "root.json").write_bytes(stale)
    assert publishing.status(home)["waiting"] == {}
    publishing.refresh(home, ring(keys))
    publishing.rotate(home, "snapshot", ring(keys), keys=keys)
    assert versions(home)["root"] == 3


def test_a_rotation_is_seen_whole_at_every_moment(
    home: Path, keys: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device updates between any two renames of a rotation, from the old root and from the new one."""
    pinned = home.parent / "root.json"
    pinned.write_bytes((home / "metadata" / "1.root.json").read_bytes())
    publish(home, keys, 2)
    rec = opener()
    rec.update(home, root=pinned)
    rename, asked = os.replace, []

    def watched(source: Any, target: Any) -> None:
        rename(source, target)
        if Path(target).parent == home / "metadata":
            asked.append(rec.update(home).status)

    monkeypatch.setattr(os, "replace", watched)
    for role in ("timestamp", "snapshot", "targets"):
        publishing.rotate(home, role, ring(keys), keys=keys)
    assert len(asked) >= 7
    assert set(asked) == {"up_to_date"}


def test_locked_keys_are_asked_for_only_when_they_are_needed(tmp_path: Path) -> None:
    home, keys = tmp_path / "channel", tmp_path / "keys"
    publishing.init(home, keys, quorums={}, days={}, passphrase="open sesame")
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (keys / "offline").iterdir())
    assert not any(b"ENCRYPTED" in path.read_bytes() for path in (keys / "online").iterdir())

    def never() -> str:
        raise AssertionError("nobody needs an offline key for this")

    unasked = publishing.KeyRing([keys], passphrase=never)
    publishing.publish(home, tiny_bundle(tmp_path / "b.edgerec"), unasked)
    publishing.refresh(home, unasked, now=days_ago(-300))
    assert versions(home)["root"] == 1
    with pytest.raises(ChannelError, match="cannot be used"):
        publishing.rotate(home, "snapshot", publishing.KeyRing([keys], passphrase=lambda: "wrong"), keys=keys)
    right = publishing.KeyRing([keys], passphrase=lambda: "open sesame")
    publishing.rotate(home, "root", right, keys=keys, passphrase=lambda: "new words")
    assert versions(home)["root"] == 2
    newest = max((keys / "offline").glob("root-*"), key=lambda path: path.stat().st_mtime_ns)
    assert b"ENCRYPTED" in newest.read_bytes()


def write_pair(private: Any, folder: Path, name: str) -> Path:
    """A key pair as openssl writes it; the public half's place."""
    (folder / f"{name}.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = folder / f"{name}.pub.pem"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def test_keys_made_by_openssl_serve_as_well(home: Path, keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "openssl"
    folder.mkdir()
    public = write_pair(generate_private_key(SECP256R1()), folder, "key")
    publishing.rotate(home, "bundles", ring(keys, folder), public=[public_key(public)])
    publishing.publish(home, tiny_bundle(tmp_path / "b.edgerec", version=2), ring(keys / "online", folder))
    assert publishing.status(home)["bundles"][0]["version"] == 2
    with pytest.raises(ChannelError, match="different keys"):
        publishing.rotate(home, "bundles", ring(keys), public=[public_key(public)] * 2, quorum=Quorum(2, 2))
    with pytest.raises(ChannelError, match="no public key"):
        public_key(folder / "key.pem")


# the command


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def document(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def test_the_command_does_all_of_it(tmp_path: Path, keys: Path) -> None:
    home = tmp_path / "channel"
    made = document(
        invoke("channel", "init", home, "--keys", keys, "--threshold", "root=2/3", "--expires", "root=30", "--json")
    )
    assert made["versions"] == {"root": 1, "targets": 1, "bundles": 1, "snapshot": 1, "timestamp": 1}
    assert Path(made["root"]).is_file()
    bundle = tiny_bundle(tmp_path / "b.edgerec", version=4)
    done = document(invoke("channel", "publish", home, bundle, "--keys", keys / "online", "--json"))
    assert (done["name"], done["version"], done["published"]) == ("tiny", 4, True)
    again = invoke("channel", "publish", home, bundle, "--keys", keys / "online")
    assert (again.exit_code, again.stdout) == (26, "")
    assert "hint: " in again.stderr
    assert document(invoke("channel", "withdraw", home, 4, "--keys", keys, "--json"))["published"]
    assert document(invoke("channel", "refresh", home, "--keys", keys, "--json"))["versions"] == {"timestamp": 4}
    waiting = invoke("channel", "rotate", home, "--role", "snapshot", "--keys", keys / "online")
    assert "root waits for 2 more signatures" in waiting.stdout
    root_keys = sorted((keys / "offline").glob("root-*"))
    signed = invoke("channel", "sign", home, "--key", root_keys[0], "--key", root_keys[1], "--keys", keys / "online")
    assert signed.stdout == "signed\n"
    told = document(invoke("channel", "status", home, "--json"))
    assert (told["roles"]["root"]["version"], told["waiting"]) == (2, {})
    lines = invoke("channel", "status", home).stdout.splitlines()
    assert lines[0].startswith("root       version 2    2 of 3 keys, 30.0 days left")
    assert "withdrawn" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("init", "new", "--threshold", "root=0"), "no number"),
        (("init", "new", "--threshold", "roof=1"), "names no role"),
        (("init", "new", "--threshold", "root=3/2"), "threshold of 3"),
        (("init", "new", "--expires", "root=never"), "no number"),
        (("publish", "nowhere", "b.edgerec"), "no folder of keys"),
        (("refresh", "nowhere", "--keys", "."), "no folder of keys at keys"),
    ],
)
def test_a_mistake_is_told(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("channel", *arguments, "--keys", "keys")
    assert (result.exit_code, result.stdout) == (26, "")
    assert re.search(told, result.stderr), result.stderr


def test_the_passphrase_comes_from_the_environment(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "channel"
    assert "locked" in invoke("channel", "init", home, "--keys", keys, "--encrypt").stderr
    monkeypatch.setenv("EDGEREC_CHANNEL_PASSPHRASE", "open sesame")
    document(invoke("channel", "init", home, "--keys", keys, "--encrypt", "--json"))
    assert document(invoke("channel", "rotate", home, "--role", "root", "--keys", keys, "--encrypt", "--json"))[
        "published"
    ]


def test_a_channel_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom edgerec.cli import main\n"
        "main(['channel', 'init', sys.argv[1], '--keys', sys.argv[2]], standalone_mode=False)\n"
        "assert 'tuf' in sys.modules\n"
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "c"), str(tmp_path / "k")], check=True)


# docs/channel.md

PAGE = (Path(__file__).parent.parent / "docs" / "channel.md").read_text("utf-8")


def test_the_page_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of the page in its order, then the app's code."""
    monkeypatch.chdir(tmp_path)
    for version in (1, 2, 3):
        tiny_bundle(Path(f"shop-{version}.edgerec"), name="shop", version=version, seed=version)
    Path("shop-1.edgerec").rename("shop.edgerec")
    for name in ("anna", "ben"):
        write_pair(Ed25519PrivateKey.generate(), Path(), name)
    commands = re.findall(r"^    edgerec (channel .+)$", PAGE, re.MULTILINE)
    assert len(commands) == 13
    for command in commands:
        if "old-root" in command:
            held = [
                next(Path("keys").rglob(f"root-{keyid[:16]}.pem")) for keyid in roles(Path("channel"))["root"]["keys"]
            ]
            for n in (1, 2):
                shutil.copy(held[n], f"old-root-{n}.pem")
        document(invoke(*shlex.split(command), "--json"))
    assert versions(Path("channel"))["root"] == 4
    shutil.copy("channel/metadata/1.root.json", "root.json")
    publishing.publish(Path("channel"), Path("shop-3.edgerec"), ring(Path("keys/online")))
    place = "https://updates.example.org/shop"
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    assert place in code
    exec(compile(code.replace(place, "channel"), "channel.md", "exec"), {"edgerec": edgerec})
    assert capsys.readouterr().out == "installed version 3 runs\n"
    [update] = re.findall(r"`edgerec (update [^`]+ --channel URL [^`]+)`", PAGE)
    assert document(invoke(*shlex.split(update.replace("URL", "channel")), "--json"))["status"] == "up_to_date"
