"""No older version takes over by itself: not side-loaded, not from the factory, not after a rollback or a restart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import tiny_bundle
from conftest import Opener

from edgerec.errors import BundleRefused

Versions = Callable[..., Path]


@pytest.fixture
def version(tmp_path: Path) -> Versions:
    """The bundle of a version, other vectors for each."""

    def made(number: int, **changes: object) -> Path:
        return tiny_bundle(tmp_path / f"v{number}-{len(changes)}.edgerec", seed=number, version=number, **changes)

    return made


def test_a_side_loaded_file_that_is_older_is_refused_by_every_process(opener: Opener, version: Versions) -> None:
    rec = opener()
    rec.install(version(3))
    for _ in range(2):
        for number in (3, 2, 1):
            with pytest.raises(BundleRefused):
                rec.install(version(number))
        assert rec.bundle.version == 3
        rec.close()
        rec = opener()


def test_another_bundle_of_the_same_version_is_refused(opener: Opener, version: Versions) -> None:
    rec = opener()
    rec.install(version(3))
    with pytest.raises(BundleRefused, match="not newer"):
        rec.install(version(3, created="2026-02-02T00:00:00Z"))


def test_an_older_factory_bundle_takes_nobody_back(opener: Opener, version: Versions) -> None:
    """The app itself was downgraded, or its data came along to an older one."""
    opener().install(version(3))
    for factory in (2, 1):
        rec = opener(version(factory))
        assert rec.bundle.version == 3
        with pytest.raises(BundleRefused, match="not newer"):
            rec.install(version(2, created="2026-02-02T00:00:00Z"))
        rec.close()


def test_a_factory_bundle_that_ran_before_is_the_floor_too(opener: Opener, version: Versions) -> None:
    opener(version(3)).close()
    rec = opener(version(1))
    assert rec.bundle.version == 3
    with pytest.raises(BundleRefused, match="not newer"):
        rec.install(version(2))


def test_a_version_that_was_rolled_back_comes_back_by_no_road(opener: Opener, version: Versions) -> None:
    rec = opener()
    rec.install(version(3))
    rec.rollback()
    for _ in range(2):
        with pytest.raises(BundleRefused, match="rolled back"):
            rec.install(version(3))
        rec.close()
        rec = opener(version(3))  # not even as the factory's
        assert rec.bundle.version == 1
    assert rec.install(version(4)).bundle.version == 4


def test_the_app_may_force_an_older_one(opener: Opener, version: Versions) -> None:
    rec = opener()
    rec.install(version(3))
    assert rec.install(version(2), force=True).bundle.version == 2
    with pytest.raises(BundleRefused, match="not newer"):
        rec.install(version(1))


def test_what_the_app_forced_outlives_the_process(opener: Opener, version: Versions) -> None:
    rec = opener()
    rec.install(version(3))
    rec.install(version(2), force=True)
    rec.close()
    assert opener().bundle.version == 2


@pytest.mark.parametrize("gone", [False, True], ids=["copied", "moved"])
def test_a_data_directory_elsewhere_keeps_its_version(
    opener: Opener, version: Versions, tmp_path: Path, gone: bool
) -> None:
    rec = opener()
    rec.install(version(3))
    rec.close()
    shutil.copytree(tmp_path / "state", tmp_path / "elsewhere")
    if gone:
        shutil.rmtree(tmp_path / "state")
    moved = opener(data_dir=tmp_path / "elsewhere")
    assert moved.bundle.version == 3
    assert (tmp_path / "elsewhere") in moved.bundle.path.parents
    with pytest.raises(BundleRefused, match="not newer"):
        moved.install(version(2))


def test_a_bundle_of_another_name_is_no_newer_version(opener: Opener, version: Versions) -> None:
    rec = opener()
    with pytest.raises(BundleRefused, match="name"):
        rec.install(version(9, name="other"))
