"""Unpacked bundles that nobody needs any more are removed; those that somebody runs are not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bundles import contents, tiny_bundle
from conftest import Opener

from edgerec import errors
from edgerec.tidying import Hold, load_held, remove, unneeded


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    return [tiny_bundle(tmp_path / f"v{version}.edgerec", version=version) for version in range(1, 6)]


def unpacked(state: Path) -> set[int]:
    """The versions that lie unpacked in a data directory; each has its index."""
    found = set()
    for folder in (state / "bundles").iterdir():
        if not folder.name.startswith("."):
            assert (state / "index" / f"{folder.name}.db").exists()
            with load_held(folder, state) as bundle:
                found.add(bundle.manifest.version)
    assert len(list((state / "index").glob("*.db"))) == len(found)
    return found


def test_an_install_removes_what_no_rollback_can_come_back_to(
    opener: Opener, versions: list[Path], tmp_path: Path
) -> None:
    rec = opener(versions[0])
    state = rec._device.data_dir
    rec.install(versions[1])
    assert unpacked(state) == {1, 2}
    rec.install(versions[2])
    assert unpacked(state) == {1, 2, 3}, "the first one is the factory bundle of a process that runs"
    rec.install(versions[3])
    assert unpacked(state) == {1, 3, 4}
    assert rec.rollback().version == 3
    assert unpacked(state) == {1, 3}
    assert len(rec.recommend(5)) == 5
    rec.close()
    again = opener(versions[0])
    assert again.bundle.version == 3


OTHER = """
import sys, edgerec
with edgerec.open(sys.argv[1], sys.argv[2], plugins=["edgerec_plugins.sgd"]) as rec:
    print(rec.bundle.version, flush=True)
    sys.stdin.readline()
    assert len(rec.recommend(5)) == 5
    rec.record("i1")
    rec._factory.encoder  # nothing of it was opened before
"""


def test_a_bundle_that_another_process_holds_stays(opener: Opener, versions: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-c", OTHER, str(versions[1]), str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "2\n"
        rec = opener(versions[0])
        rec.install(versions[2])
        rec.install(versions[3])
        assert unpacked(state) == {1, 2, 3, 4}, "no row names the second one any more"
        other.communicate("\n")
        assert other.returncode == 0
    rec.install(versions[4])
    assert unpacked(state) == {1, 4, 5}


def test_what_a_killed_process_left_is_removed_by_the_next_switch(
    opener: Opener, versions: list[Path], tmp_path: Path
) -> None:
    rec = opener(versions[0])
    state = rec._device.data_dir
    with load_held(versions[4], state):  # unpacked by an install that was killed before it switched
        pass
    assert 5 in unpacked(state)
    (state / "bundles" / ".tmp-killed").mkdir()
    (state / "bundles" / "notes").mkdir()
    rec.install(versions[1])
    shutil.rmtree(state / "bundles" / "notes")  # not ours: it was left alone
    assert unpacked(state) == {1, 2}
    assert not (state / "bundles" / ".tmp-killed").exists()


def test_what_is_removed_while_it_is_opened_is_unpacked_again(versions: list[Path], tmp_path: Path) -> None:
    with load_held(versions[0], tmp_path) as bundle:
        digest = bundle.digest
    del bundle
    for _ in range(10):
        opened = threading.Event()

        def take_away(opened: threading.Event = opened) -> None:
            """Twice at most: whoever opens it tries three times."""
            removed = 0
            while removed < 2 and not opened.is_set():
                removed += len(remove(tmp_path, [digest]))

        thread = threading.Thread(target=take_away)
        thread.start()
        try:
            bundle = load_held(versions[0], tmp_path)
        finally:
            opened.set()
            thread.join()
        assert bundle.encoder is not None
        bundle.close()
        del bundle


def test_tidying_again_changes_nothing(versions: list[Path], tmp_path: Path) -> None:
    assert unneeded(tmp_path, ()) == []
    kept = [load_held(path, tmp_path) for path in versions[:2]]
    with load_held(versions[2], tmp_path) as gone:
        digest = gone.digest
    del gone
    assert unneeded(tmp_path, {kept[0].digest}) == sorted([kept[1].digest, digest])
    assert remove(tmp_path, [kept[1].digest, digest]) == [digest], "the other one is held"
    before = contents(tmp_path)
    assert remove(tmp_path, [kept[1].digest, digest]) == []
    assert contents(tmp_path) == before
    with pytest.raises(FileNotFoundError):
        Hold(tmp_path / "bundles" / digest)
    with pytest.raises(errors.BundleNotFound):
        load_held(tmp_path / "bundles" / digest, tmp_path)
    assert load_held(versions[2], tmp_path).digest == digest, "unpacked once more"
