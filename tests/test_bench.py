"""The benchmark: synthetic bundles are real ones, every family gives rows, and peers find what we find."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edgerec
from edgerec.bundle import verify
from edgerec.cli import main
from edgerec.types import Model
from edgerec_tools.bench import families, recording, report, rounds, serving, sgd, topk
from edgerec_tools.bench.measure import Row, in_turns
from edgerec_tools.bench_commands import _FAMILIES
from edgerec_tools.synthetic import HISTORY, random_vectors, write_bundle

N_ITEMS = 500


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bench") / "items", N_ITEMS)


def test_a_synthetic_bundle_is_a_sound_bundle(bundle: Path) -> None:
    manifest = verify(bundle)
    assert (manifest.n_items, manifest.dim, manifest.history_length) == (N_ITEMS, 64, HISTORY)


def test_the_synthetic_encoder_decays_with_age(bundle: Path, tmp_path: Path) -> None:
    with edgerec.load_bundle(bundle, tmp_path) as opened:
        vectors = opened.model.vectors
        query = opened.encoder.encode(vectors, np.array([3, 4], np.int32), np.array([8.0, 0.0]), np.array([0, 0]))
    old, new = (1 + 8.0) ** -0.5, 1.0
    np.testing.assert_allclose(query, (old * vectors[3] + new * vectors[4]) / (old + new) ** 0.5, rtol=1e-4, atol=1e-6)


def test_every_search_finds_the_same_ten(tmp_path: Path) -> None:
    vectors = random_vectors(5_000, topk.DIM)
    queries = np.random.default_rng(3).standard_normal((8, topk.DIM)).astype(np.float32)
    searches = {
        "exact": topk.exact(vectors, queries),
        "scanned": topk.scanned(vectors, queries, tmp_path),
        **topk.faiss_searches(vectors, queries),
    }
    reference = topk.numpy_search(vectors, queries)
    for query in range(8):
        truth = set(reference(query).tolist())
        for name, search in searches.items():
            assert len(truth & set(search(query).tolist())) >= (9 if "fp16" in name else 10), name


def test_without_faiss_its_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = list(topk.rows([600], 1))
    assert {row.peer_name for row in rows} == {"numpy", "faiss"}
    assert all(
        row.ratio is None and row.met is None and "not installed" in row.note for row in rows if row.peer is None
    )


def test_the_plain_sgd_step_is_the_plugins(bundle: Path) -> None:
    rng = np.random.default_rng(0)
    u, query = rng.normal(0, 0.1, (2, 64)).astype(np.float32)
    vectors, bias = random_vectors(9, 64), rng.normal(0, 0.1, 9).astype(np.float32)
    model = Model(vectors, bias, np.zeros(9, np.float32))
    updater = sgd.Sgd({"rate": sgd.RATE, "pull": sgd.PULL})
    (example,) = updater.examples(sgd._batch(model, query, np.arange(9, dtype=np.int32)))
    ours = updater.step(u, 0, example)
    np.testing.assert_allclose(ours, sgd.plain_step(u, query, vectors, bias), rtol=1e-4, atol=1e-6)


def test_actions_run_in_turns_and_warm_up_is_not_timed() -> None:
    calls: list[tuple[str, int]] = []
    actions = {name: partial(lambda name, turn: calls.append((name, turn)), name) for name in "ab"}
    taken = in_turns(2, actions, 1, before=lambda turn: calls.append(("before", turn)))
    expected = [("before", -1), ("b", -1), ("a", -1), ("before", 0), ("a", 0), ("b", 0)]
    assert calls == [*expected, ("before", 1), ("b", 1), ("a", 1)]
    assert [len(timing.wall) for timing in taken.values()] == [2, 2]
    assert all((timing.wall > 0).all() for timing in taken.values())


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("a", 4.0, "µs", "b", 2.0, target=2.0), 2.0, True),
        (Row("a", 5.0, "µs", "b", 2.0, target=2.0), 2.5, False),
        (Row("a", 5.0, "ms", "b", 20.0, target=4.0, target_of="ours"), 0.25, False),
        (Row("a", 5.0, "ms", "b", 2.0), 2.5, None),
        (Row("a", 5.0, "ms", target=1.0), None, None),
    ],
)
def test_a_row_says_whether_its_target_is_met(row: Row, ratio: float | None, met: bool | None) -> None:
    assert (row.as_dict()["ratio"], row.as_dict()["met"]) == (ratio, met)


def test_recommending_and_recording_are_measured_on_real_recommenders(bundle: Path) -> None:
    served = {row.name: row for row in serving.rows({N_ITEMS: bundle}, 3)}
    added = {f"what {name} of where adds to a page of {N_ITEMS:,}" for name in ("a pair", "an expression")}
    assert set(served) - added == {
        f"recommend(10) of {N_ITEMS:,}, {state}, {what}"
        for state in ("nothing new", "after an event")
        for what in ("p50", "p99")
    }
    recorded = list(recording.rows({N_ITEMS: bundle}, users=2, rounds=3))
    assert [row.target for row in recorded] == [recording.MOST, None]
    compared = [row for name, row in served.items() if name not in added] + recorded
    assert all(row.ours > 0 and row.peer for row in compared)


def test_the_command_gives_one_document_and_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "edgerec", "bench", "--quick", "--json", "--only", "sgd", "--only", "memory"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document == json.loads(out.read_text())
    assert [row["unit"] for row in document["rows"]] == ["µs", "µs", "MB"]
    assert {"name", "ours", "peer", "ratio", "unit", "target", "met"} <= set(document["rows"][0])
    assert document["machine"]["cores"] >= 1
    assert "measuring" in done.stderr


def test_starts_are_measured_in_processes(bundle: Path) -> None:
    rows = families.FAMILIES["startup"](families.QUICK, {N_ITEMS: bundle})
    assert [(row.unit, row.target) for row in rows] == [("ms", 1.25), ("ms", 1.45)]


def test_the_command_offers_every_family() -> None:
    assert tuple(families.FAMILIES) == _FAMILIES


def test_the_table_marks_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    rows = [Row("fast", 1.0, "µs", "b", 2.0, 1.0).as_dict(), Row("slow", 3.0, "µs", "b", 2.0, 1.0).as_dict()]
    Console(width=120).print(report.table({"machine": report.machine(), "rows": rows}))
    fast, slow = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("fast", "slow")))
    assert "ok" in fast
    assert "over" in slow


@pytest.mark.parametrize("options", [["--quick", "--large"], ["--quick", "--out", "no/such/folder/x.json"]])
def test_bad_options_end_in_a_typed_error(options: list[str]) -> None:
    done = CliRunner().invoke(main, ["bench", *options])
    assert done.exit_code == 40
    assert "Traceback" not in done.output


def test_without_the_exporters_the_command_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx.parser", None)
    done = CliRunner().invoke(main, ["bench", "--quick"])
    assert done.exit_code == 90
    assert "edgerec-exporters" in done.output


def test_the_rounds_that_are_compared_have_one_result() -> None:
    from edgerec_exporters.federation.engine import aggregate
    from edgerec_exporters.federation.settings import RoundSettings

    client = rounds.clients(30)
    sent = np.stack([client(number) for number in range(30)])
    found = aggregate(RoundSettings(least_cohort=1), rounds.blocks(), sent).blocks
    plain = rounds.plain_round(client, 30)
    np.testing.assert_allclose(np.concatenate([found["popularity"], found["metrics"]]), plain, rtol=1e-9)
    mean, trimmed = rounds.rows(30, 2)
    assert mean.peer == trimmed.peer
    assert "client rounds a second" in mean.note
