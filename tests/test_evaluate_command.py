"""`edgerec evaluate`: bundles as devices rank them, the document, held-out users, the command and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from click.testing import CliRunner, Result
from evaluation_data import Fixed, events
from toy_data import CUTOFF, toy_dataset

import edgerec
from edgerec import Event
from edgerec.bundle import load_bundle
from edgerec.errors import DataError, EdgeRecError, RequestError, UnknownEventKind
from edgerec_tools.baselines import Evidence
from edgerec_tools.baselines.ease import EaseRecency
from edgerec_tools.datasets import Dataset, load, write
from edgerec_tools.evaluate.cold import hold_out_users, ndcg
from edgerec_tools.evaluate.document import document
from edgerec_tools.evaluate.measures import METRICS
from edgerec_tools.evaluate.ranking import K, Questions, rank
from edgerec_tools.evaluate.run import evaluate
from edgerec_tools.evaluate.runtime_models import OnDevice
from edgerec_tools.evaluate.tuning import tuned, validation
from edgerec_tools.evaluate.unseen import cases
from edgerec_tools.evaluate_commands import evaluate as command
from edgerec_tools.protocols import Split, leave_one_out, temporal


@pytest.fixture(scope="module")
def data() -> Dataset:
    return events()


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return leave_one_out(data)


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return toy_dataset(n_users=20)


@pytest.fixture(scope="module")
def data_file(toy: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.dataset"
    write(toy, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


# Bundles


def test_a_bundle_is_ranked_as_a_device_serves_it(toy: Dataset, bundle_path: Path, tmp_path: Path) -> None:
    split = temporal(toy, cutoff=CUTOFF)
    for seen in ("hide", "show"):
        questions = Questions.of(split, seen)
        with load_bundle(bundle_path, tmp_path / seen) as bundle:
            found = rank(OnDevice("tiny", bundle, toy, seen), questions)
        for number in range(0, len(questions), 25):
            expected = served(toy, questions, number, bundle_path, tmp_path / f"{seen}{number}", seen)
            assert [toy.items[row] for row in found.top[number].tolist()] == expected
        unknown = [toy.items[row] == "novelty" for row in questions.item]
        assert found.unknown == sum(unknown)


def served(toy: Dataset, questions: Questions, number: int, bundle: Path, home: Path, seen: str) -> list[str]:
    """What the runtime recommends after that past."""
    pasts = questions.pasts(slice(number, number + 1))
    home.mkdir(parents=True)
    told = [
        Event(toy.items[item], "purchase", at=at, group=str(group), event_id=f"{n:04}")
        for n, (item, at, group) in enumerate(
            zip(pasts.item.tolist(), pasts.at.tolist(), pasts.group.tolist(), strict=True)
        )
    ]
    with edgerec.open(bundle, home, plugins=[], config=edgerec.Config(updater="none", learn_blend=False)) as rec:
        rec.record_many(told)
        scenario = "default" if seen == "hide" else "reorder"
        return [one.item for one in rec.recommend(K, scenario=scenario, seen=seen)]


def test_kinds_that_a_bundle_does_not_know_are_an_error(toy: Dataset, bundle_path: Path, tmp_path: Path) -> None:
    with (
        load_bundle(bundle_path, tmp_path) as bundle,
        pytest.raises(UnknownEventKind, match="no event kind 'rating'"),
    ):
        OnDevice("tiny", bundle, replace(toy, kinds=("rating",)), "hide")


def test_a_bundle_that_saw_the_future_is_refused_and_one_that_says_nothing_is_doubted(
    toy: Dataset, bundle_path: Path, tmp_path: Path
) -> None:
    split = temporal(toy, cutoff=CUTOFF)
    late = tiny_bundle(tmp_path / "late.edgerec", metrics={"trained_before": "2020-11-23T00:00:00Z"})
    with pytest.raises(RequestError, match="late was trained on what happened before 2020-11-23"):
        evaluate(split, [str(late)], baselines=[])
    found = evaluate(split, [str(bundle_path)], baselines=[])
    assert "does not say what it was trained on" in found.warnings[0]


# The document


@pytest.fixture(scope="module")
def result(toy: Dataset, bundle_path: Path) -> dict[str, Any]:
    split = leave_one_out(toy)
    return document(evaluate(split, [str(bundle_path), "popular"], baselines=["ease-recency", "markov"], seen="show"))


def test_the_document_has_what_readers_rely_on(result: dict[str, Any], toy: Dataset) -> None:
    asked = ("data", "model", "protocol", "seed", "n_users", "n_items", "metrics", "ci95", "baselines", "cpu_seconds")
    assert set(asked) <= set(result)
    assert (result["data"], result["model"], result["protocol"]) == ("toy", "tiny", "loo")
    assert (result["n_users"], result["n_items"]) == (20, toy.n_items)
    assert set(result["metrics"]) == set(result["ci95"]) == set(METRICS)
    assert list(result["baselines"]) == ["ease-recency", "markov"]
    for metrics_of in result["baselines"].values():
        assert set(metrics_of) == set(METRICS)
    assert list(result["models"]) == ["tiny", "popular"]
    assert list(result["vs"]) == ["popular", "ease-recency", "markov"]
    assert set(result["lists"]) == {"tiny", "popular", "ease-recency", "markov"}
    assert result["lists"]["popular"]["diversity@10"] is not None, "judged by the bundle's vectors"
    json.dumps(result, allow_nan=False)


def test_intervals_surround_means_and_differences_are_paired(result: dict[str, Any]) -> None:
    for name in METRICS:
        low, high = result["ci95"][name]
        assert low <= result["metrics"][name] <= high
        for other, found in result["vs"].items():
            theirs = result["baselines"].get(other) or result["models"][other]["metrics"]
            assert found["metrics"][name] == pytest.approx(result["metrics"][name] - theirs[name], abs=2e-6)
            assert found["ci95"][name][0] <= found["metrics"][name] <= found["ci95"][name][1]


def test_slices_add_up_to_the_whole(result: dict[str, Any]) -> None:
    for kind in ("users", "items"):
        parts = [part for name, part in result["slices"].items() if kind in name]
        weights = [part["n_targets"] for part in parts]
        assert sum(weights) == result["n_targets"]
        means = [part["models"]["tiny"]["metrics"]["ndcg@10"] for part in parts]
        assert np.average(means, weights=weights) == pytest.approx(result["metrics"]["ndcg@10"], abs=1e-5)


def test_several_models_have_a_mean_and_a_deviation(result: dict[str, Any]) -> None:
    found = [model["metrics"]["ndcg@10"] for model in result["models"].values()]
    mean = result["mean_of_models"]
    assert mean["metrics"]["ndcg@10"] == pytest.approx(np.mean(found), abs=1e-6)
    assert mean["deviation"]["ndcg@10"] == pytest.approx(np.std(found, ddof=1), abs=1e-6)


def test_the_same_seed_gives_the_same_document(toy: Dataset) -> None:
    split = temporal(toy, cutoff=CUTOFF)
    found = [document(evaluate(split, ["markov"], baselines=["ials"], tune=False, seed=3)) for _ in range(2)]
    for one in found:
        del one["cpu_seconds"], one["costs"]
    assert found[0] == found[1]


def test_baselines_are_tuned_on_request(data: Dataset) -> None:
    split = leave_one_out(data)
    found = document(evaluate(split, ["popular"], baselines=["ease-recency"], tune=True))
    held = validation(split)
    best, _ = tuned(EaseRecency(), Evidence(held.train), Questions.of(held, "hide"))
    assert found["constants"]["ease-recency"] == {"l2": best.l2, "half_life": best.half_life}  # type: ignore[attr-defined]


# Cold users


def test_cold_users_are_held_out_whole_and_asked_for_the_rest(data: Dataset) -> None:
    split = hold_out_users(data, seed=1)
    assert len(split.users) == round(0.2 * data.n_users)
    assert not np.isin(split.train.user, split.users).any()
    assert split.train.n_events == (~np.isin(data.user, split.users)).sum()
    asked, targets = split.after(3)
    for number, user in enumerate(asked.user.tolist()):
        mine = data.item[data.user == user].tolist()
        assert asked.pasts(slice(number, number + 1)).item.tolist() == mine[:3]
        assert targets[number].tolist() == sorted(mine[3:])
    with pytest.raises(DataError, match="more than 8 events"):
        split.after(8)


def test_the_metric_of_cold_users_counts_all_targets_alike(data: Dataset) -> None:
    split = hold_out_users(data)
    asked, targets = split.after(2)
    scores = np.random.default_rng(0).random(data.n_items).tolist()
    found = ndcg(Fixed(scores), asked, targets)
    for number, wanted in enumerate(targets):
        past = asked.pasts(slice(number, number + 1)).item.tolist()
        order = [row for row in np.argsort(-np.array(scores)).tolist() if row not in past]
        gains = [1 / np.log2(place + 2) for place, row in enumerate(order) if row in wanted]
        assert found[number] == pytest.approx(sum(gains) / sum(1 / np.log2(2 + np.arange(len(wanted)))))


def test_the_command_asks_for_cold_users(data_file: Path, bundle_path: Path, tmp_path: Path) -> None:
    rest = tmp_path / "rest.dataset"
    asked = ("--data", data_file, "--protocol", "cold-users", "--model", bundle_path, "--k", "1,2")
    found = run(*asked, "--baselines", "ease", "--write-train", rest, "--json")
    assert found.exit_code == 0, found.output
    shown = json.loads(found.stdout)
    assert list(shown["metrics"]) == ["ndcg@100 after 1", "ndcg@100 after 2"]
    assert list(shown["baselines"]) == ["popular", "ease"]
    assert set(shown["vs_popular"]) == {"tiny", "ease"}
    difference = shown["metrics"]["ndcg@100 after 1"] - shown["baselines"]["popular"]["ndcg@100 after 1"]
    assert shown["vs_popular"]["tiny"]["metrics"]["ndcg@100 after 1"] == pytest.approx(difference, abs=2e-6)
    assert len(np.unique(load(rest).user)) == 16
    assert "cold users: 4 held out" in run(*asked, "--baselines", "none").stdout


# Unseen users


def test_unseen_users_are_asked_for_their_last_item_among_what_they_never_had(toy: Dataset) -> None:
    split = hold_out_users(toy)
    found = list(cases(split, last=3, negatives=20))
    assert found
    for case in found:
        mine = toy.item[toy.user == case.user].tolist()
        assert case.target == toy.items[mine[-1]]
        assert [event.item for event in case.events] == [toy.items[row] for row in mine[:-1][-3:]]
        assert len(set(case.candidates)) == 21
        assert set(case.candidates) & {toy.items[row] for row in mine} == {case.target}
    assert found == list(cases(split, last=3, negatives=20))
    with pytest.raises(DataError, match="left to draw 60 negatives"):
        list(cases(split, negatives=60))


def test_updaters_are_compared_on_unseen_users(
    data_file: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgerec_tools.evaluate.unseen.NEGATIVES", 20)
    asked = ("--data", data_file, "--protocol", "unseen-users", "--model", bundle_path, "--k", "4")
    found = run(*asked, "--json")
    assert found.exit_code == 0, found.exception
    shown = json.loads(found.stdout)
    assert set(shown["metrics"]) == {"hr@10", "ndcg@10", "full hr@10", "full ndcg@10"}
    assert list(shown["baselines"]) == ["foldin", "foldin alone", "encoder", "popular"]
    assert shown["metrics"]["hr@10"] >= shown["metrics"]["full hr@10"], "fewer stand in the way"
    assert "unseen users" in run(*asked).stdout


# The command


def test_the_command_prints_one_document(data_file: Path, bundle_path: Path) -> None:
    found = run("--data", data_file, "--model", bundle_path, "--protocol", "gts", "--cutoff", "2020-10-23", "--json")
    assert found.exit_code == 0, found.output
    shown = json.loads(found.stdout)
    assert list(shown["baselines"]) == ["popular", "itemknn", "ease", "ease-recency", "markov", "ials"]
    assert shown["cutoff"] == "2020-10-23T00:00:00Z"
    assert shown["left_out"]["repeats"] > 0


def test_the_command_shows_tables_and_notes(data_file: Path, bundle_path: Path) -> None:
    found = run("--data", data_file, "--model", bundle_path, "--model", "popular", "--baselines", "markov")
    assert found.exit_code == 0, found.output
    for text in ("toy, loo", "seen items hidden", "markov", "NDCG@10 by slice", "coverage@10", "mean of the models"):
        assert text in found.stdout


def test_a_trained_file_is_exported_and_compared_with_pytorch(data_file: Path, toy: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "bag.model"
    trained(toy).save(path)
    found = run("--data", data_file, "--model", path, "--baselines", "none", "--json")
    assert found.exit_code == 0, found.exception
    shown = json.loads(found.stdout)
    torch = shown["pytorch"]["bag"]
    assert torch["equal_ranks"] > 0.99
    assert torch["metrics"] == pytest.approx(shown["metrics"], abs=1e-3)
    assert max(abs(value) for value in torch["exported_minus_pytorch"].values()) < 1e-3


def trained(toy: Dataset) -> Any:
    """A model of random vectors, with a real encoder."""
    from edgerec.bundle.manifest import Scenario
    from edgerec_exporters.interactions import Interactions
    from edgerec_exporters.models import build
    from edgerec_exporters.parity import History
    from edgerec_exporters.trained import Trained

    rng, kinds = np.random.default_rng(0), Interactions.from_dataset(toy).event_kinds
    n, dim = toy.n_items, 8
    encoder = build("bag", {"dim": dim, "kind_weights": [kind.weight for kind in kinds.values()], "gain": 20.0})
    past = History(np.array([1, 2, 3], np.int32), np.array([2, 1, 0], np.float32), np.zeros(3, np.int64))
    return Trained(
        name="toy",
        model="bag",
        encoder=encoder,
        vectors=rng.standard_normal((n, dim)).astype(np.float32),
        bias=np.zeros(n, np.float32),
        popularity=rng.random(n).astype(np.float32),
        negatives=rng.integers(0, n, 64).astype(np.int32),
        neighbours=None,
        items=toy.items,
        titles=toy.items,
        attributes=[{} for _ in toy.items],
        histories=[past],
        event_kinds=kinds,
        history_length=16,
        history_kinds=tuple(kinds),
        scenarios={"default": Scenario("hide", {"taste": 1.0, "popular": 0.1})},
        sources={},
    )


def test_a_users_mistake_is_an_error_with_a_hint(data_file: Path, bundle_path: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.model"
    junk.write_bytes(b"not a model")
    sequences = tmp_path / "order.txt"
    sequences.write_text("\n".join(f"{user} 1 2 3 4 5" for user in range(9)))
    ours = ("--data", data_file, "--model")
    cases = [
        (40, "no baseline 'oracle'", (*ours, "popular", "--baselines", "oracle")),
        (40, "no bundle or trained file", (*ours, tmp_path / "gone.edgerec")),
        (40, "named twice", (*ours, "popular", "--model", "popular")),
        (40, "means nothing under the protocol loo", (*ours, "popular", "--cutoff", "2020-10-23")),
        (40, "means nothing under the protocol gts", (*ours, "popular", "--protocol", "gts", "--hold-out", 2)),
        (40, "both say where", (*ours, "popular", "--protocol", "gts", "--cutoff", "2020-10-23", "--quantile", 0.5)),
        (40, "means nothing under the protocol gts", (*ours, "popular", "--protocol", "gts", "--k", "3")),
        (40, "means nothing under the protocol cold-users", (*ours, "popular", "--protocol", "cold-users", "--tune")),
        (40, "whole numbers", (*ours, "popular", "--protocol", "cold-users", "--k", "few")),
        (40, "one bundle", (*ours, "popular", "--model", "ease", "--protocol", "unseen-users")),
        (21, "no bundle", (*ours, "popular", "--protocol", "unseen-users")),
        (40, "from 1", (*ours, "popular", "--protocol", "cold-users", "--k", "0")),
        (80, "more than 999 events", (*ours, "popular", "--protocol", "cold-users", "--k", "999")),
        (40, "no folder", (*ours, "popular", "--write-train", tmp_path / "no" / "train.dataset")),
        (40, "means nothing under the protocol loo", (*ours, "popular", "--until", "2020-10-23")),
        (40, "is no time", (*ours, "popular", "--protocol", "gts", "--cutoff", "soon")),
        (80, "one side of the cut-off", (*ours, "popular", "--protocol", "gts", "--cutoff", "2031-01-01")),
        (80, "not their times", ("--data", sequences, "--model", "popular", "--protocol", "gts")),
        (80, "no data set", ("--data", tmp_path / "none", "--model", "popular")),
        (80, "not a trained model", (*ours, junk)),
        (40, "none of the items", ("--data", sequences, "--model", bundle_path)),
    ]
    for code, message, arguments in cases:
        found = run(*arguments, "--json")
        assert isinstance(found.exception, EdgeRecError), (message, found.output)
        assert found.exception.exit_code == code, message
        assert message in str(found.exception)
        assert found.stdout == ""


def test_the_commands_module_is_cheap_to_import() -> None:
    heavy = ["torch", "onnx", "polars", "matplotlib", "rich", "numba", "edgerec_tools.evaluate.run"]
    code = f"import sys, edgerec_tools.evaluate_commands; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
