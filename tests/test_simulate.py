"""Simulation: users replayed as devices give what a plain recommender gives, on any number of workers."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from click.testing import CliRunner, Result
from conftest import Clock
from toy_data import CUTOFF, DAY, START, toy_dataset

import edgerec
from edgerec import Config, Event
from edgerec.cli import main
from edgerec.errors import DataError, PluginNotFound, RequestError
from edgerec_plugins import foldin, sgd
from edgerec_tools import central
from edgerec_tools.arms import choose
from edgerec_tools.comparison import document
from edgerec_tools.datasets import Dataset, write
from edgerec_tools.ledger import record
from edgerec_tools.progress import bars
from edgerec_tools.replay import Stories
from edgerec_tools.simulate import ArmResult, Job, Period, Simulation, SimulationError, run, simulate
from edgerec_tools.workers import Once

PERIOD = Period(CUTOFF)
ARMS = ("popular", "frozen", "fresh", "foldin", "personalised")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return toy_dataset()


@pytest.fixture(scope="module")
def data_file(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.dataset"
    write(dataset, path)
    return path


@pytest.fixture(scope="module")
def found(dataset: Dataset, bundle_path: Path) -> Simulation:
    return simulate(dataset, bundle_path, PERIOD, arms=[*ARMS, "central"], workers=1)


@pytest.fixture(scope="module")
def learns_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "eager.edgerec", learn_history=True)


def arm_of(found: Simulation, name: str) -> ArmResult:
    return next(arm for arm in found.arms if arm.name == name)


def ndcg(page: Sequence[str], targets: set[str]) -> float:
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(page) if item in targets)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(10, len(targets))))


def events_of(dataset: Dataset, basket: int) -> list[Event]:
    first, last = dataset.basket_start[basket], dataset.basket_start[basket + 1]
    name = dataset.group_ids[basket]
    return [
        Event(item, "purchase", None, float(at), name, event_id=f"{name}/{item}")
        for item, at in zip(
            (dataset.items[row] for row in dataset.item[first:last]), dataset.at[first:last], strict=True
        )
    ]


def by_hand(
    dataset: Dataset, bundle: Path, folder: Path, config: Config, *, learn: bool
) -> dict[str, dict[int, float]]:
    """View → basket → NDCG@10, from one plain recommender per user."""
    out: dict[str, dict[int, float]] = {"novel": {}, "all": {}}
    first = int((dataset.basket_at < CUTOFF).sum())
    for user, baskets in enumerate(dataset.baskets_by_user()):
        clock, bought = Clock(), set[str]()
        state = folder / f"user-{user}"
        with edgerec.open(bundle, state, plugins=[sgd, foldin], config=config, clock=clock) as rec:
            for basket in baskets.tolist():
                events = events_of(dataset, basket)
                clock.now = float(events[-1].at)  # type: ignore[arg-type]
                items = {event.item for event in events}
                if basket < first and not learn:
                    rec.pause_learning()
                elif basket >= first and bought:
                    shown = [r.item for r in rec.recommend(10, scenario="reorder", log_exposure=False)]
                    out["all"][basket - first] = ndcg(shown, items)
                    if items - bought:
                        shown = [r.item for r in rec.recommend(10, scenario="default", log_exposure=False)]
                        out["novel"][basket - first] = ndcg(shown, items - bought)
                rec.record_many(events)
                rec.resume_learning()
                bought |= items
    return out


def assert_equals(arm: ArmResult, expected: dict[str, dict[int, float]]) -> None:
    for view, values in expected.items():
        got = arm.views[view]
        assert got.basket.tolist() == sorted(values)
        assert got.ndcg == pytest.approx([values[basket] for basket in sorted(values)], abs=1e-12)


def test_an_arm_is_a_plain_recommender_per_user(
    found: Simulation, dataset: Dataset, bundle_path: Path, tmp_path: Path
) -> None:
    expected = by_hand(dataset, bundle_path, tmp_path, Config(), learn=False)
    assert min(len(values) for values in expected.values()) > 20
    assert_equals(arm_of(found, "personalised"), expected)


def test_history_is_learned_from_where_the_bundle_says_so(
    found: Simulation, dataset: Dataset, learns_history: Path, tmp_path: Path
) -> None:
    eager = simulate(dataset, learns_history, PERIOD, arms=["personalised"], workers=1)
    assert_equals(eager.arms[0], by_hand(dataset, learns_history, tmp_path, Config(), learn=True))
    same = [eager.arms[0].views["all"].ndcg, arm_of(found, "personalised").views["all"].ndcg]
    assert not np.array_equal(*same)


def test_frozen_knows_no_later_event_but_hides_what_was_bought_later(
    found: Simulation, dataset: Dataset, bundle_path: Path, tmp_path: Path
) -> None:
    stories = Stories(dataset, *PERIOD)
    expected: dict[str, dict[int, float]] = {"novel": {}, "all": {}}
    for user in np.flatnonzero(stories.scored()).tolist():
        story, clock = stories.of(user), Clock()
        clock.now = CUTOFF
        with edgerec.open(
            bundle_path, tmp_path / f"user-{user}", plugins=[], config={"learning": {"updater": "none"}}, clock=clock
        ) as rec:
            rec.pause_learning()
            rec.record_many(story.history)
            full = {
                name: [r.item for r in rec.recommend(60, scenario=name, seen="show")] for name in ("default", "reorder")
            }
        bought = {event.item for event in story.history}
        for visit in story.visits:
            items = {event.item for event in visit.events}
            if "all" in visit.targets:
                expected["all"][visit.number] = ndcg(full["reorder"][:10], items)
            if "novel" in visit.targets:
                unseen = [item for item in full["default"] if item not in bought]
                expected["novel"][visit.number] = ndcg(unseen[:10], items - bought)
            bought |= items
    assert_equals(arm_of(found, "frozen"), expected)
    assert not np.array_equal(arm_of(found, "frozen").views["all"].ndcg, arm_of(found, "fresh").views["all"].ndcg)


def test_arms_and_central_arms_are_scored_on_the_same_baskets(found: Simulation, dataset: Dataset) -> None:
    assert [arm.name for arm in found.arms] == [*ARMS, *(f"central/{name}" for name in central.ARMS)]
    for view in ("novel", "all"):
        first = found.arms[0].views[view]
        assert all(arm.views[view].basket.tolist() == first.basket.tolist() for arm in found.arms)
        assert all(arm.views[view].user.tolist() == first.user.tolist() for arm in found.arms)
    dense = central.central(dataset, CUTOFF, arms=["ease-fresh"])["ease-fresh"]
    assert arm_of(found, "central/ease-fresh").views["novel"].ndcg.tolist() == dense.views["novel"].ndcg.tolist()


def test_results_do_not_depend_on_the_number_of_workers(dataset: Dataset, bundle_path: Path) -> None:
    options: dict[str, Any] = {"arms": ["fresh", "personalised", "central/popular"], "devices": 7, "seed": 3}
    one, two = (document(simulate(dataset, bundle_path, PERIOD, workers=n, **options)) for n in (1, 2))
    for result in (one, two):
        assert result.pop("seconds") > 0
        assert result.pop("events_per_second") > 0
    assert one == two
    assert one["devices"] == 7
    assert one["arms"][2]["views"]["all"]["n_users"] == 7


def test_the_replay_ends_where_it_is_told_to(found: Simulation, dataset: Dataset, bundle_path: Path) -> None:
    until = CUTOFF + 15 * DAY
    short = simulate(dataset, bundle_path, Period(CUTOFF, until), arms=["fresh", "central/ease-fresh"], workers=1)
    for name in ("fresh", "central/ease-fresh"):
        whole, part = arm_of(found, name).views["all"], arm_of(short, name).views["all"]
        kept = found.at[whole.basket] < until
        assert 0 < kept.sum() < len(kept)
        assert part.ndcg.tolist() == whole.ndcg[kept].tolist()
    assert document(short)["period"] == "validation"
    assert document(found)["period"] == "test"


def test_a_user_without_an_earlier_basket_is_not_scored_but_recorded(dataset: Dataset) -> None:
    stories = Stories(dataset, START - DAY, None)
    story = stories.of(0)
    assert not story.history
    assert not story.visits[0].targets
    assert story.visits[0].events
    assert set(story.visits[1].targets) <= {"novel", "all"}
    assert stories.scored()[0] == len(story.visits) - 1


def test_the_document_holds_what_is_promised(found: Simulation, dataset: Dataset) -> None:
    result = json.loads(json.dumps(document(found), allow_nan=False))
    assert set(result) == {
        *("data", "bundle", "period", "cutoff", "until", "seed", "devices", "events", "seconds", "events_per_second"),
        "arms",
    }
    revealed = int((dataset.at >= CUTOFF).sum())
    assert result["events"] == revealed * len(ARMS)
    for arm in result["arms"]:
        assert set(arm) == {"name", "views", "vs"}
        assert set(arm["vs"]) == {"frozen", "fresh"} - {arm["name"]}
        for view in ("novel", "all"):
            assert set(arm["views"][view]) == {"recall@10", "ndcg@10", "ci95", "n_baskets", "n_users"}
            low, high = arm["views"][view]["ci95"]
            assert low <= arm["views"][view]["ndcg@10"] <= high
            for other in arm["vs"].values():
                assert set(other[view]) == {"ndcg@10", "ci95", "worse_share", "worst_decile", "n_users"}
    fresh, frozen = (next(a for a in result["arms"] if a["name"] == name) for name in ("fresh", "frozen"))
    difference = fresh["views"]["all"]["ndcg@10"] - frozen["views"]["all"]["ndcg@10"]
    assert fresh["vs"]["frozen"]["all"]["ndcg@10"] == pytest.approx(difference, abs=2e-6)


def test_an_updater_gets_an_arm_of_its_name() -> None:
    arms, dense = choose(["fresh", "central/habit"], CUTOFF, "counting")
    assert [arm.name for arm in arms] == ["fresh", "counting"]
    assert arms[1].config == Config(updater="counting")
    assert dense == ("habit",)
    assert choose(["foldin"], CUTOFF, "foldin")[0][1].name == "personalised+foldin"


def test_ablations_leave_out_one_thing_each() -> None:
    arms = {arm.name: arm.config for arm in choose(["all"], CUTOFF)[0]}
    assert arms["personalised"] == Config()
    assert arms["personalised-sgd"] == Config(updater="none")
    assert arms["personalised-blend"] == Config(learn_blend=False)
    assert arms["personalised-habit"] == Config(disabled_sources=("habit", "repeat"))


def test_what_cannot_be_simulated_is_refused(dataset: Dataset, bundle_path: Path) -> None:
    with pytest.raises(RequestError, match="no arm 'best'"):
        simulate(dataset, bundle_path, PERIOD, arms=["best"])
    with pytest.raises(PluginNotFound, match="astrology"):
        simulate(dataset, bundle_path, PERIOD, arms=["fresh"], updater="astrology")
    strangers = toy_dataset(items=tuple(f"x{n:02d}" for n in range(60)))
    with pytest.raises(DataError, match="none of the items"):
        simulate(strangers, bundle_path, PERIOD)
    with pytest.raises(DataError, match="no basket to be scored"):
        simulate(dataset, bundle_path, Period(CUTOFF, CUTOFF))


def test_a_worker_that_dies_is_reported(dataset: Dataset, tmp_path: Path) -> None:
    job = Job(dataset, tmp_path / "gone", tmp_path, (), {}, (), PERIOD)
    with pytest.raises(SimulationError, match="worker process died"):
        run(job, [[0]], 1, lambda *_: None)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


def test_the_command_prints_one_document_and_writes_what_it_is_told(
    bundle_path: Path, data_file: Path, tmp_path: Path
) -> None:
    runs, page = tmp_path / "runs.csv", tmp_path / "report.html"
    result = invoke(
        *("--bundle", bundle_path, "--data", data_file, "--arms", "frozen,fresh", "--workers", 1, "--json"),
        *("--cutoff", "2020-10-23T12:26:40Z", "--record-run", runs, "--report", page),
    )
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["cutoff"] == "2020-10-23T12:26:40Z"
    assert [arm["name"] for arm in shown["arms"]] == ["frozen", "fresh"]
    assert page.read_text("utf-8").startswith("<!doctype html>")
    with runs.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["arm"] for row in rows] == ["frozen", "fresh"]
    assert float(rows[1]["all_ndcg@10"]) == shown["arms"][1]["views"]["all"]["ndcg@10"]


def test_runs_are_added_up_and_validation_is_not_recorded(found: Simulation, tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    result = document(found)
    assert record(result, runs) == record(result, runs) == len(found.arms)
    assert len(runs.read_text().splitlines()) == 1 + 2 * len(found.arms)
    before = runs.read_text()
    assert record({**result, "period": "validation"}, runs) == 0
    assert runs.read_text() == before


def test_a_ledger_keeps_its_own_columns(found: Simulation, tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_text("date,data,period,arm,all_ndcg@10,by\n2026-01-01,toy,test,fresh,0.5,hand\n")
    record(document(found), runs)
    rows = list(csv.DictReader(runs.read_text().splitlines()))
    assert rows[0]["by"] == "hand"
    assert [row["arm"] for row in rows[1:]] == [arm.name for arm in found.arms]
    assert all(float(row["all_ndcg@10"]) >= 0 and row["by"] == "" for row in rows[1:])


def test_a_file_that_is_no_ledger_is_left_alone(found: Simulation, tmp_path: Path) -> None:
    for text in ("a,b\n1,2\n", "date,data,period,arm\n2026-01-01,toy"):
        other = tmp_path / "other.csv"
        other.write_text(text)
        with pytest.raises(DataError, match="not a record of runs"):
            record(document(found), other)
        assert other.read_text() == text


def test_a_model_that_has_seen_what_is_replayed_is_refused(dataset: Dataset, data_file: Path, tmp_path: Path) -> None:
    ended = {"trained_before": "2020-10-23T12:26:40Z"}
    bundle = tiny_bundle(tmp_path / "trained.edgerec", metrics=ended)
    with pytest.raises(RequestError, match="trained on what happened before 2020-10-23"):
        simulate(dataset, bundle, Period(CUTOFF - DAY))
    result = invoke("--bundle", bundle, "--data", data_file, "--arms", "popular", "--workers", 1, "--json")
    assert json.loads(result.stdout)["cutoff"] == ended["trained_before"]  # and the replay begins there by default


def test_a_users_mistake_is_an_exit_code_and_a_hint(bundle_path: Path, data_file: Path, tmp_path: Path) -> None:
    at = ("--cutoff", "2020-10-23")
    cases = [
        (40, "no arm 'best'", ("--bundle", bundle_path, "--data", data_file, *at, "--arms", "best")),
        (21, "no bundle", ("--bundle", tmp_path / "none", "--data", data_file, *at)),
        (80, "no data set", ("--bundle", bundle_path, "--data", tmp_path / "none.csv", *at)),
        (80, "none of the items", ("--bundle", bundle_path, "--data", "retail")),
        (40, "is no time", ("--bundle", bundle_path, "--data", data_file, "--cutoff", "yesterday")),
        (40, "no test period", ("--bundle", bundle_path, "--data", data_file)),
        (40, "no folder", ("--bundle", bundle_path, "--data", data_file, *at, "--report", tmp_path / "no/r.html")),
    ]
    for code, message, arguments in cases:
        result = invoke(*arguments, "--json")
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert message in result.stderr
        assert "hint" in result.stderr


def test_a_broken_plugin_is_heard_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.Logger("edgerec")
    log.addHandler(logging.StreamHandler())
    log.addFilter(Once())
    for updater in ("mine", "mine", "yours", "mine"):
        log.warning("updater %s failed", updater)
    assert capsys.readouterr().err == "updater mine failed\nupdater yours failed\n"


def test_progress_is_a_line_now_and_then_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as progress:
        for done in range(101):
            progress("devices", done, 100)
        progress("empty", 0, 0)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [*(f"devices {n}/100" for n in (0, 25, 50, 75, 100)), "empty 0/0"]
    assert shown.out == ""
