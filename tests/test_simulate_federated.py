"""Simulated rounds: real devices, real deltas, the server's own engine; and what happens where rounds do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from click.testing import CliRunner
from toy_data import CUTOFF, toy_dataset

from edgerec.cli import main
from edgerec.errors import RequestError
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_tools.comparison import document, rounds_told
from edgerec_tools.datasets import Dataset, write
from edgerec_tools.federation import gate
from edgerec_tools.federation.options import Federate, asked, every_days
from edgerec_tools.federation.summary import closed
from edgerec_tools.simulate import ArmResult, Period, Simulation, simulate

PERIOD = Period(CUTOFF)
N_ITEMS = 60
SOME = RoundSettings(aggregator="bounded_mean", least_cohort=2)
BLOCKS: list[dict[str, Any]] = [
    {"name": "popularity", "kind": "item_counts", "size": N_ITEMS, "bound": 4.0, "unit": 0.0625, "half_life_days": 7.0},
    {"name": "pairs", "kind": "pair_sketch", "size": 256, "bound": 8.0, "unit": 0.125, "seed": 3, "focus": [0, 1, 2]},
    {"name": "metrics", "kind": "metrics", "size": 36, "bound": 1.0, "unit": 2.0**-10},
]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return toy_dataset(n_users=16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {"default": {"taste": 0.2, "neighbours": 0.3, "popular": 2.0}}
    section = {"blocks": BLOCKS, "weights": weights, "sources": {"popular": {"boost": 1.0, "half_events": 5.0}}}
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "fleet.edgerec", N_ITEMS, federated=section)


def run(dataset: Dataset, bundle: Path, arms: list[str], workers: int = 1, **options: Any) -> Simulation:
    federate = Federate(**{"settings": SOME, **options})
    return simulate(dataset, bundle, PERIOD, arms=arms, federate=federate, workers=workers)


@pytest.fixture(scope="module")
def found(dataset: Dataset, bundle: Path) -> Simulation:
    return run(dataset, bundle, ["personalised", "federated"])


def same(one: ArmResult, other: ArmResult) -> bool:
    return all(np.array_equal(one.views[view].ndcg, other.views[view].ndcg) for view in one.views)


def test_rounds_are_held_and_their_bundles_come_back(found: Simulation) -> None:
    alone, fleet = found.arms
    held = [one for one in fleet.rounds if "round" in one]
    assert len(held) >= 3
    assert [one["bundle"] for one in held] == list(range(1, len(held) + 1))
    assert len({one["bytes"]["largest"] for one in held}) == 1
    for view in ("novel", "all"):
        assert np.array_equal(alone.views[view].basket, fleet.views[view].basket)
    assert not same(alone, fleet)


def test_nothing_changes_where_no_round_is_held(dataset: Dataset, bundle: Path, found: Simulation) -> None:
    """The devices of a fleet are the devices of the other arms: only rounds make them differ."""
    silent = run(dataset, bundle, ["federated"], settings=RoundSettings(least_cohort=1000)).arms[0]
    assert same(found.arms[0], silent)
    assert all("1000 are needed" in one["reason"] for one in silent.rounds)


def test_deltas_that_are_lost_are_in_no_round(dataset: Dataset, bundle: Path, found: Simulation) -> None:
    assert same(found.arms[0], run(dataset, bundle, ["federated"], dropout=1.0).arms[0])


def test_deltas_that_are_late_are_in_the_next_round(dataset: Dataset, bundle: Path, found: Simulation) -> None:
    late = run(dataset, bundle, ["federated"], stragglers=1.0).arms[0]
    on_time = [one["devices"] for one in found.arms[1].rounds if "round" in one]
    assert "round" not in late.rounds[0]
    assert [one["devices"] for one in late.rounds if "round" in one][:2] == on_time[:2]


def test_a_device_that_did_not_sync_sends_it_all_the_next_time(dataset: Dataset, bundle: Path) -> None:
    some = run(dataset, bundle, ["federated"], available=0.5).arms[0]
    assert len([one for one in some.rounds if "round" in one]) >= 1


def test_results_do_not_depend_on_the_number_of_workers(dataset: Dataset, bundle: Path, found: Simulation) -> None:
    """Up to what the OS's chance decides when a clipped delta is rounded."""
    two = run(dataset, bundle, ["federated"], workers=2).arms[0]
    assert same(found.arms[1], two)


def test_a_budget_that_is_spent_ends_the_rounds(dataset: Dataset, bundle: Path) -> None:
    arm = run(dataset, bundle, ["federated+dp"], dp={"epsilon": 8.0, "most_rounds": 2}).arms[0]
    held = [one for one in arm.rounds if "round" in one]
    assert held
    assert all(one["privacy"]["epsilon"] <= 8.0 + 1e-6 for one in held)
    sent = sum(one["devices"] for one in held)
    assert sent <= 2 * 16
    assert any(one.get("refused", {}).get("without budget") or "reason" in one for one in arm.rounds)


def test_hostile_devices_are_in_the_rounds(dataset: Dataset, bundle: Path, found: Simulation) -> None:
    attacked = run(dataset, bundle, ["federated"], hostile=0.3, target=20, settings=RoundSettings(least_cohort=2))
    counted = [
        (one["devices"], other["devices"])
        for one, other in zip(found.arms[1].rounds, attacked.arms[0].rounds, strict=True)
        if "round" in one and "round" in other
    ]
    assert all(with_them > without for without, with_them in counted)


def test_the_document_tells_of_rounds_and_of_the_gap(dataset: Dataset, bundle: Path) -> None:
    arms = ["frozen", "personalised", "federated", "central/ease-weekly"]
    result = document(run(dataset, bundle, arms))
    told = result["rounds"]["federated"]
    assert told["rounds"] == len(told["devices"]) > 0
    assert 0 < told["bytes_up"]["per_delta"] < 65_536
    assert result["gap_closed"]["central"] == "central/ease-weekly"
    assert "up per device and round" in rounds_told(result)[0]


def test_the_gap_is_the_share_of_the_way_from_frozen_to_central() -> None:
    def arm(name: str, value: float) -> dict[str, Any]:
        return {"name": name, "views": {"novel": {"ndcg@10": value}}}

    gap = closed([arm("frozen", 0.1), arm("federated", 0.15), arm("central/ease-weekly", 0.2)])
    assert gap["novel"]["federated"] == 0.5
    assert closed([arm("federated", 0.15)]) == {}


def test_the_command_line_asks_for_rounds(dataset: Dataset, bundle: Path, tmp_path: Path) -> None:
    write(dataset, tmp_path / "toy.dataset")
    (tmp_path / "round.toml").write_text("[round]\nleast_cohort = 2\n")
    arguments = ["simulate", "--bundle", str(bundle), "--data", str(tmp_path / "toy.dataset"), "--cutoff", "2020-10-23"]
    arguments += ["--arms", "frozen", "--federate", "weekly", "--round-config", str(tmp_path / "round.toml")]
    arguments += ["--report", str(tmp_path / "report.html"), "--workers", "1", "--json"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [one["name"] for one in told["arms"]] == ["frozen", "federated"]
    assert told["rounds"]["federated"]["rounds"] >= 1
    assert "<h2>Rounds</h2>" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("text", "days"), [("weekly", 7.0), ("daily", 1.0), ("3.5", 3.5)])
def test_how_often_is_a_name_or_a_number(text: str, days: float) -> None:
    assert every_days(text) == days


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(RequestError, match="sometimes"):
        every_days("sometimes")
    with pytest.raises(RequestError, match="dropout"):
        Federate(dropout=1.5)
    shares = {"available": 1.0, "dropout": 0.0, "stragglers": 0.0, "hostile": 0.1}
    with pytest.raises(RequestError, match="teleport"):
        asked("weekly", None, None, attack="teleport", **shares)


def test_held_out_devices_judge_and_send_nothing(
    dataset: Dataset, bundle: Path, found: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "LEAST_DEVICES", 1)
    arm = run(dataset, bundle, ["federated"], held_out=0.5).arms[0]
    verdicts = [one["held_out"] for one in arm.rounds if "round" in one]
    assert any(verdict["devices"] for verdict in verdicts)
    judged = [verdict for verdict in verdicts if verdict["difference"] is not None]
    assert all(verdict["publish"] for verdict in judged if verdict["difference"] > 0)
    assert not any(verdict["publish"] for verdict in judged if verdict["difference"] < -gate.MOST_LOSS)
    devices = [sum(one["devices"] for one in each.rounds if "round" in one) for each in (arm, found.arms[1])]
    assert devices[0] < devices[1]


def test_in_a_staged_rollout_a_candidate_runs_elsewhere_first(dataset: Dataset, bundle: Path) -> None:
    arm = run(dataset, bundle, ["federated"], staged=0.4).arms[0]
    held = [one for one in arm.rounds if "round" in one]
    assert all(one["staged"]["publish"] for one in held[:-1])
    assert "staged" not in held[-1]


def test_a_candidate_that_does_worse_is_dropped(
    dataset: Dataset, bundle: Path, found: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "LEAST_DEVICES", 1)
    monkeypatch.setattr(gate, "MOST_LOSS", -1.0)  # nothing is that much better
    silent = run(dataset, bundle, ["federated"], staged=1.0, held_out=0.5).arms[0]
    dropped = [one for one in silent.rounds if "round" in one and one["held_out"]["devices"]]
    assert dropped
    assert not any(one["held_out"]["publish"] for one in dropped)
