"""`edgerec simulate --updater NAME`: compared with `sgd` on the same users, basket by basket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from toy_data import CUTOFF, toy_dataset

from edgerec.cli import main
from edgerec_tools import intervals
from edgerec_tools.comparison import compared, document, paired
from edgerec_tools.datasets import write
from edgerec_tools.periods import Period
from edgerec_tools.report import html
from edgerec_tools.simulate import ArmResult, Simulation, simulate


@pytest.fixture(scope="module")
def found(bundle_path: Path) -> Simulation:
    arms = ["fresh", "personalised"]
    return simulate(toy_dataset(), bundle_path, Period(CUTOFF), arms=arms, updater="foldin", workers=1)


def arm_of(found: Simulation, name: str) -> ArmResult:
    return next(arm for arm in found.arms if arm.name == name)


def against(result: dict[str, Any], name: str) -> dict[str, Any]:
    (arm,) = (arm for arm in result["arms"] if arm["name"] == name)
    found: dict[str, Any] = arm["vs"]
    return found


def test_the_difference_is_paired_on_the_same_baskets(found: Simulation) -> None:
    result = document(found)
    assert [arm["name"] for arm in result["arms"]] == ["fresh", "personalised", "personalised+foldin"]
    assert set(against(result, "personalised+foldin")) == {"fresh", "personalised"}
    assert set(against(result, "personalised")) == {"fresh"}, "the others are compared with what they always were"
    for view in ("novel", "all"):
        mine, sgd = (arm_of(found, name).views[view] for name in ("personalised+foldin", "personalised"))
        assert np.array_equal(mine.basket, sgd.basket)
        expected = intervals.bootstrap_mean(mine.user, mine.ndcg - sgd.ndcg, seed=found.seed)
        told = against(result, "personalised+foldin")["personalised"][view]
        assert told["ndcg@10"] == pytest.approx(expected.value, abs=1e-6)
        assert told["ci95"] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert np.any(paired(arm_of(found, "personalised+foldin").views["all"], arm_of(found, "personalised").views["all"]))


def test_the_page_and_the_table_show_it(found: Simulation) -> None:
    result = document(found)
    assert compared(result) == ["fresh", "personalised"]
    assert "<th>N − personalised</th>" in html(found, result)


def test_sgd_against_itself_differs_in_nothing(bundle_path: Path, tmp_path: Path) -> None:
    data = tmp_path / "toy.dataset"
    write(toy_dataset(), data)
    arguments = ["--bundle", bundle_path, "--data", data, "--cutoff", "2020-10-23T12:26:40Z", "--updater", "sgd"]
    arguments += ["--arms", "fresh,personalised", "--workers", 1, "--devices", 6]
    done = CliRunner().invoke(main, ["simulate", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr
    told = against(json.loads(done.stdout), "sgd")["personalised"]
    assert {view: (told[view]["ndcg@10"], told[view]["ci95"]) for view in told} == {
        view: (0.0, [0.0, 0.0]) for view in ("novel", "all")
    }
    shown = CliRunner().invoke(main, ["simulate", *map(str, arguments)])
    assert "personalised" in shown.stdout
