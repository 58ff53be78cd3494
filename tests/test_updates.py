"""Updates on the device, from a file server on loopback or a folder: installed, refused, withdrawn, unreachable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from channels import Mirror, Server, StaticFiles, make_channel, publish, ring, serving
from click.testing import CliRunner
from conftest import START, Opener
from test_lifecycle import useless_bundle

import edgerec
from edgerec.cli import main
from edgerec.errors import ChannelError, ConfigError, MissingDistribution
from edgerec.updates import fetching
from edgerec_exporters.channel import publishing


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def home(tmp_path: Path, keys: Path) -> Path:
    return make_channel(tmp_path / "channel", keys)


@pytest.fixture
def root(home: Path) -> Path:
    """The root that the app ships."""
    return shutil.copy(home / "metadata" / "1.root.json", home.parent / "root.json")


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with serving(home) as found:
        yield found


def page(rec: edgerec.Recommender) -> list[tuple[str, float]]:
    return [(one.item, one.score) for one in rec.recommend(10)]


# what an update does


def test_a_device_follows_its_channel(opener: Opener, home: Path, keys: Path, root: Path, server: Server) -> None:
    rec = opener()
    rec.record("i3", "purchase")
    assert rec.update(server.url, root=root) == edgerec.updates.Update(
        "up_to_date", "version 1 runs; the channel offers no bundle 'tiny' for this runtime", None
    )
    publish(home, keys, 2)
    done = rec.update(server.url + "/")
    assert (done.status, done.version, done.reason) == ("installed", 2, "version 2 runs")
    assert done.installation is not None
    assert (rec.bundle, done.installation.relearned) == (done.installation.bundle, 1)
    assert rec.update(server.url).status == "up_to_date"
    publish(home, keys, 3)
    publish(home, keys, 4)
    assert rec.update(server.url).version == 4, "versions between are not needed"
    before = page(rec)
    rec.close()
    again = opener()
    assert again.bundle.version == 4
    assert page(again) == before


def test_a_channel_may_be_a_folder_and_named_by_the_configuration(
    opener: Opener, home: Path, keys: Path, root: Path
) -> None:
    publish(home, keys, 2)
    rec = opener(config={"channel": {"url": str(home), "root": str(root)}})
    assert rec.update().version == 2
    with pytest.raises(ConfigError):
        opener(config={"channel": {"url": 7}})


def test_a_bundle_of_another_name_is_none_of_the_devices_business(
    opener: Opener, home: Path, keys: Path, root: Path
) -> None:
    publish(home, keys, 9, name="other")
    publish(home, keys, 8, name="tiny-9")
    rec = opener()
    assert rec.update(home, root=root).version is None
    publish(home, keys, 2)
    assert rec.update(home, root=root).version == 2


def test_an_old_runtime_takes_the_newest_that_it_can_run(
    opener: Opener, home: Path, keys: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home, keys, 2)
    with monkeypatch.context() as newer:  # the publisher's runtime
        newer.setattr("edgerec.bundle.reader.__version__", "0.9.0")
        publish(home, keys, 3, min_runtime="0.9.0")
    assert opener().update(home, root=root).version == 2


def test_a_bundle_that_does_worse_is_refused_and_not_fetched_again(
    opener: Opener, home: Path, keys: Path, root: Path, tmp_path: Path
) -> None:
    scenarios = {"default": {"seen": "show", "weights": {"popular": 1.0}}}
    first = tiny_bundle(tmp_path / "first.edgerec", scenarios=scenarios, updater="none")
    rec = opener(first)
    for n in range(40):
        rec.record(f"i{n % 5}", "click", at=START + n * 86400)
    publishing.publish(home, useless_bundle(tmp_path / "worse.edgerec"), ring(keys))
    done = rec.update(home, root=root)
    assert (done.status, done.version, rec.bundle.version) == ("refused", 2, 1)
    assert "worse" in done.reason
    for path in (home / "targets").rglob("*.edgerec"):
        path.unlink()
    assert rec.update(home).status == "refused"
    assert rec.update(home, force=True).status == "installed"
    assert rec.bundle.version == 2


def test_a_version_that_was_rolled_back_stays_refused(opener: Opener, home: Path, keys: Path, root: Path) -> None:
    publish(home, keys, 2)
    rec = opener()
    rec.update(home, root=root)
    rec.rollback()
    done = rec.update(home)
    assert (done.status, rec.bundle.version) == ("refused", 1)
    assert "rolled back" in done.reason
    publish(home, keys, 3)
    assert rec.update(home).version == rec.bundle.version == 3


def test_a_withdrawn_version_is_told_and_left_only_when_the_app_says_so(
    opener: Opener, home: Path, keys: Path, root: Path
) -> None:
    publish(home, keys, 2)
    publish(home, keys, 3)
    rec = opener()
    rec.update(home, root=root)
    publishing.withdraw(home, 3, ring(keys))
    done = rec.update(home)
    assert (done.status, done.version, rec.bundle.version) == ("withdrawn", 2, 3)
    assert opener(data_dir=home.parent / "another").update(home, root=root).version == 2
    assert rec.update(home, force=True).status == "installed"
    assert rec.bundle.version == 2
    publish(home, keys, 4)
    assert rec.update(home).version == rec.bundle.version == 4


def test_an_older_channel_takes_nobody_back(opener: Opener, home: Path, keys: Path, root: Path, tmp_path: Path) -> None:
    publish(home, keys, 2)
    rec = opener(tiny_bundle(tmp_path / "factory.edgerec", seed=5, version=5))
    done = rec.update(home, root=root)
    assert (done.status, done.version, rec.bundle.version) == ("up_to_date", 2, 5)


# the root


def test_a_device_that_trusts_no_root_asks_for_one(opener: Opener, home: Path, tmp_path: Path) -> None:
    rec = opener()
    with pytest.raises(ChannelError, match="trusts no channel yet"):
        rec.update(home)
    with pytest.raises(ChannelError, match="no channel was named"):
        rec.update()
    with pytest.raises(ChannelError, match="cannot be read"):
        rec.update(home, root=tmp_path / "absent.json")
    (tmp_path / "junk.json").write_bytes(b"{" * 1_000_000)
    with pytest.raises(ChannelError, match="damaged"):
        rec.update(home, root=tmp_path / "junk.json")
    assert not list((tmp_path / "state" / "channel").rglob("*.json"))


def test_an_app_may_ship_a_newer_root_later(opener: Opener, home: Path, keys: Path, root: Path) -> None:
    publish(home, keys, 2)
    rec = opener()
    rec.update(home, root=root)
    publishing.rotate(home, "root", ring(keys), keys=keys)
    publishing.rotate(home, "timestamp", ring(keys), keys=keys)
    (home / "metadata" / "2.root.json").unlink()  # the way from the first root is lost
    publish(home, keys, 3)
    with pytest.raises(ChannelError, match="not signed by enough keys"):
        rec.update(home)
    assert rec.update(home, root=home / "metadata" / "3.root.json").version == 3
    assert rec.update(home).status == "up_to_date"


# where it may look


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("http://203.0.113.1/", "not https"),
        ("ftp://127.0.0.1/", "not https"),
        ("file:///tmp", "not https"),
        ("https://user@127.0.0.1/", "a query, a fragment or a user"),
        ("https://127.0.0.1/?token=1", "a query"),
        ("nowhere", "no folder and no URL"),
    ],
)
def test_only_https_and_this_machine_are_asked(opener: Opener, root: Path, place: str, told: str) -> None:
    with pytest.raises(ChannelError, match=told):
        opener().update(place, root=root)


def test_plain_http_elsewhere_needs_the_apps_word() -> None:
    for place in ("http://127.0.0.1:80", "http://localhost/x", "http://[::1]/x", "https://example.org/x"):
        assert fetching.checked_place(place + "/", allow_http=False) == place
    assert fetching.checked_place("http://example.org", allow_http=True)


class Redirecting(StaticFiles):
    to = ""

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(302)
        self.send_header("Location", self.to + self.path)
        self.end_headers()


@pytest.mark.parametrize("to", ["http://203.0.113.1", "file:///etc", "ftp://127.0.0.1"])
def test_a_redirect_leads_nowhere_else(opener: Opener, home: Path, root: Path, to: str) -> None:
    handler = type("Elsewhere", (Redirecting,), {"to": to})
    with serving(home, handler) as server, pytest.raises(ChannelError, match="status 302"):
        opener().update(server.url, root=root)


def test_a_redirect_on_this_machine_is_followed(
    opener: Opener, home: Path, keys: Path, root: Path, server: Server
) -> None:
    publish(home, keys, 2)
    handler = type("Here", (Redirecting,), {"to": server.url})
    with serving(home, handler) as other:
        assert opener().update(other.url, root=root).version == 2


# failures


class Failing(StaticFiles):
    """Answers a path's first requests with what went wrong."""

    failures: dict[str, list[Callable[[Failing], None]]]

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.rpartition("/")[2]
        waiting = next((queue for part, queue in self.failures.items() if part in name and queue), None)
        if waiting:
            waiting.pop(0)(self)
        else:
            super().do_GET()

    def busy(self) -> None:
        self.send_error(503)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def cut_short(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True


def failing(**failures: list[Callable[[Failing], None]]) -> type[Failing]:
    return type("Now", (Failing,), {"failures": failures})


def test_a_failure_that_may_pass_is_tried_once_more(opener: Opener, home: Path, keys: Path, root: Path) -> None:
    publish(home, keys, 2)
    with serving(home, failing(timestamp=[Failing.busy], edgerec=[Failing.hang_up])) as server:
        assert opener().update(server.url, root=root).version == 2
    twice = failing(timestamp=[Failing.busy, Failing.busy])
    with serving(home, twice) as server, pytest.raises(ChannelError, match="status 503"):
        opener(data_dir=home.parent / "b").update(server.url, root=root)


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", "bundles", "edgerec"])
def test_a_connection_that_breaks_leaves_all_as_it_was(
    opener: Opener, home: Path, keys: Path, root: Path, name: str
) -> None:
    publish(home, keys, 2)
    rec = opener()
    rec.update(home, root=root)
    publishing.rotate(home, "targets", ring(keys), keys=keys)
    publish(home, keys, 3)
    before = page(rec)
    with serving(home, failing(**{name: [Failing.cut_short]})) as server:
        with pytest.raises(ChannelError):
            rec.update(server.url)
        assert (rec.bundle.version, page(rec)) == (2, before)
        assert [path.name for path in (home.parent / "state" / "channel").iterdir() if "tmp" in path.name] == []
        assert rec.update(server.url).version == 3, "once the connection holds"


def test_without_a_connection_the_device_goes_on(opener: Opener, home: Path, keys: Path, root: Path) -> None:
    publish(home, keys, 2)
    rec = opener()
    with serving(home) as server:
        url = server.url
        rec.update(url, root=root)
    with pytest.raises(ChannelError, match="cannot be reached"):
        rec.update(url)
    assert rec.bundle.version == 2
    assert len(rec.recommend(5)) == 5
    shutil.rmtree(home / "metadata")
    with pytest.raises(ChannelError, match="no timestamp"):
        rec.update(home)


DYING = """
import edgerec, edgerec.updates.client, onnxruntime, os, sys
bundle, folder, channel, root = sys.argv[1:5]
rename = os.replace
def update(going):
    rec = edgerec.open(bundle, f"{folder}/{going}", plugins=["edgerec_plugins.sgd"])
    def counted(*places, left=[going]):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        rename(*places)
    os.replace = counted
    return rec.update(channel, root=root).status != "installed"
for going in range(40):
    child = os.fork()
    if not child:
        os._exit(update(going))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 9:
        sys.exit(code)
"""


def test_a_process_that_dies_in_an_update_is_as_before(
    opener: Opener, home: Path, keys: Path, root: Path, bundle_path: Path, tmp_path: Path
) -> None:
    """Dead before every rename of an update in turn; the next one goes through."""
    publish(home, keys, 2)
    places = [str(each) for each in (bundle_path, tmp_path / "states", home, root)]
    subprocess.run([sys.executable, "-c", DYING, *places], check=True)
    states = list((tmp_path / "states").iterdir())
    assert len(states) >= 8
    for state in states:
        rec = opener(data_dir=state)
        assert rec.bundle.version in (1, 2)
        assert rec.update(home, root=root).status in ("installed", "up_to_date")
        assert rec.bundle.version == 2
        assert not list((state / "channel").glob(".tmp-*"))


FULL = """
import edgerec, resource, sys
bundle, state, channel, root, limit = sys.argv[1:6]
with edgerec.open(bundle, state, plugins=["edgerec_plugins.sgd"]) as rec:
    before = [(one.item, one.score) for one in rec.recommend(10)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        rec.update(channel, root=root)
    except edgerec.errors.BundleError as error:
        print(type(error).__name__, error)
    assert [(one.item, one.score) for one in rec.recommend(10)] == before
"""


@pytest.mark.parametrize(("limit", "error"), [(100, "ChannelError"), (6000, "ChannelError"), (16000, "BundleError")])
def test_a_full_disk_stops_an_update_and_nothing_else(
    opener: Opener, home: Path, keys: Path, root: Path, bundle_path: Path, tmp_path: Path, limit: int, error: str
) -> None:
    """No file may grow beyond a limit: that of metadata, of the download, of what is unpacked."""
    publish(home, keys, 2)
    places = [str(each) for each in (bundle_path, tmp_path / "state", home, root, limit)]
    done = subprocess.run([sys.executable, "-c", FULL, *places], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{error} ")
    assert "is there space" in done.stdout
    rec = opener()
    assert rec.bundle.version == 1
    assert rec.update(home, root=root).version == rec.bundle.version == 2


def test_updates_of_two_threads_end_in_one(opener: Opener, home: Path, keys: Path, root: Path, server: Server) -> None:
    publish(home, keys, 2)
    rec = opener()
    found: list[str] = []

    def update() -> None:
        found.append(rec.update(server.url, root=root).status)

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["installed", "up_to_date", "up_to_date", "up_to_date"]


def test_without_tuf_the_app_is_told_what_to_install(
    opener: Opener, home: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgerec.updates.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tuf", None)
    monkeypatch.setitem(sys.modules, "tuf.api", None)
    with pytest.raises(MissingDistribution, match=r"edgerec\[update\]"):
        opener().update(home, root=root)


def test_a_device_without_cryptography_verifies_too(
    home: Path, keys: Path, root: Path, bundle_path: Path, tmp_path: Path
) -> None:
    publish(home, keys, 2)
    script = (
        "import sys\nsys.modules['cryptography'] = None\nimport edgerec\n"
        "with edgerec.open(sys.argv[1], sys.argv[2]) as rec:\n"
        "    sys.exit(rec.update(sys.argv[3], root=sys.argv[4]).status != 'installed')\n"
    )
    places = [str(each) for each in (bundle_path, tmp_path / "state", home, root)]
    subprocess.run([sys.executable, "-c", script, *places], check=True)
    mirror = Mirror(home, keys)
    mirror.forge({"timestamp": lambda signed: None}, stolen=())
    refused = subprocess.run([sys.executable, "-c", script, *places], check=False, capture_output=True, text=True)
    assert "ChannelError: not signed by enough keys" in refused.stderr


# the command


def test_the_command_updates(
    home: Path, keys: Path, root: Path, server: Server, bundle_path: Path, tmp_path: Path
) -> None:
    publish(home, keys, 2)
    common = ["update", "--bundle", str(bundle_path), "--state", str(tmp_path / "state"), "--channel", server.url]

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, [*common, *map(str, arguments)])

    missing = run()
    assert (missing.exit_code, missing.stdout) == (26, "")
    assert "hint: name the root that the app ships" in missing.stderr
    done = json.loads(run("--root", root, "--json").stdout)
    assert (done["status"], done["version"], done["installation"]["bundle"]["version"]) == ("installed", 2, 2)
    assert run().stdout == "up to date: version 2 runs; its newest is 2\n"
    CliRunner().invoke(main, ["rollback", *common[1:5]])
    refused = run()
    assert refused.exit_code == 24
    assert refused.stdout.startswith("refused: this bundle was rolled back")
    assert json.loads(run("--force", "--json").stdout)["status"] == "installed"
