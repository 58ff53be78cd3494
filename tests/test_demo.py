"""The demo: from a data set to a trained model, a bundle, a replay and a report, in one call."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from toy_data import CUTOFF, toy_dataset

import edgerec
from edgerec.bundle import verify
from edgerec.cli import main
from edgerec.errors import MissingDistribution, RequestError
from edgerec_plugins import foldin, sgd
from edgerec_tools import demo


class Stages:
    """What was announced, and whether it came to its end."""

    def __init__(self) -> None:
        self.done: dict[str, bool] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        self.done[what] = done == total


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "new" / "folder"


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages()


@pytest.fixture(scope="module")
def result(out: Path, stages: Stages) -> dict[str, Any]:
    return demo.run(toy_dataset(n_users=40), CUTOFF, out, devices=None, workers=1, progress=stages)


def test_everything_is_left_in_the_folder(result: dict[str, Any], out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"toy.model", "toy.edgerec", "report.html", "demo.json"}
    assert json.loads((out / "demo.json").read_text("utf-8")) == result
    assert set(result) == {"bundle", "report", "train", "export", "simulate"}
    assert Path(result["bundle"]) == out / "toy.edgerec"
    assert Path(result["report"]).read_text("utf-8").startswith("<!doctype html>")


def test_the_bundle_is_the_one_that_was_replayed_and_saw_nothing_of_it(result: dict[str, Any]) -> None:
    manifest = verify(result["bundle"])
    assert manifest.metrics["trained_before"] == result["simulate"]["cutoff"]
    assert result["export"]["digest"] == result["simulate"]["bundle"]["digest"]
    with edgerec.open(result["bundle"], plugins=[sgd, foldin]) as rec:
        assert len(rec.recommend(5)) == 5


def test_device_arms_and_central_arms_are_compared(result: dict[str, Any]) -> None:
    names = [arm["name"] for arm in result["simulate"]["arms"]]
    assert names[:5] == ["popular", "frozen", "fresh", "foldin", "personalised"]
    assert "central/ease-weekly" in names
    assert all(arm["views"]["all"]["n_baskets"] > 0 for arm in result["simulate"]["arms"])


def test_progress_is_shown_from_training_to_the_end(result: dict[str, Any], stages: Stages) -> None:
    assert {"export", "devices", "central arms"} <= set(stages.done)
    assert len(stages.done) > 3  # training announces its own
    assert all(stages.done.values()), stages.done


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot make the folder"):
        demo.run(toy_dataset(), CUTOFF, tmp_path / "file" / "demo", devices=None, workers=1, progress=Stages())


def test_without_the_exporters_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "edgerec_exporters.train", None)
    shown = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert shown.exit_code == MissingDistribution.exit_code
    assert shown.stdout == ""
    assert "pip install edgerec-exporters" in shown.stderr
    assert not (tmp_path / "demo").exists()
