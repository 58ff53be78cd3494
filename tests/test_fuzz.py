"""The fuzzer: what it counts as a finding, that it goes on where it stopped, and a short run of every target."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from bundles import bag_encoder
from click.testing import CliRunner

from edgerec.errors import BundleError, BundleInvalid, ConfigError
from edgerec_tools.fuzz import target as target_module
from edgerec_tools.fuzz.__main__ import _reports, fuzz
from edgerec_tools.fuzz.distil import chosen
from edgerec_tools.fuzz.json_shape import mutate_json, mutate_lines
from edgerec_tools.fuzz.ledger import Ledger
from edgerec_tools.fuzz.mutation import MAX_LENGTH, inputs
from edgerec_tools.fuzz.protobuf_shape import mutate_protobuf
from edgerec_tools.fuzz.target import BrokenPromise, Finding, Run, Target, TooSlow, execute, promise
from edgerec_tools.fuzz.targets import TARGETS

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "tests/corpus"
SHORT = 400
"""Inputs that every target gets here beyond its corpus."""


def files(name: str) -> list[Path]:
    return sorted(path for path in (CORPUS / name).iterdir())


# -- the short run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_a_short_run_of_a_seed_find_nothing(name: str, tmp_path: Path) -> None:
    count = len(files(name)) + SHORT
    command = [sys.executable, "-m", "edgerec_tools.fuzz", "--target", name, "--engine", "mutation", "--json"]
    command += ["--executions", str(count), "--seed", "20260101", "--resume", str(tmp_path), "--corpus", str(CORPUS)]
    run = subprocess.run(command, capture_output=True, text=True)
    entry = json.loads(run.stdout)["targets"][name]
    assert entry["findings"] == []
    assert run.returncode == 0
    assert entry["executions"] == count


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", ["manifest", "blob", "array", "config"])
def test_atheris_sees_the_readers_and_keeps_what_reaches_something_new(name: str, tmp_path: Path) -> None:
    first = tmp_path / "first" / name
    first.mkdir(parents=True)
    (first / "one").write_bytes(min((path.read_bytes() for path in files(name)), key=len))
    command = [sys.executable, "-m", "edgerec_tools.fuzz", "--target", name, "--engine", "atheris", "--json"]
    command += ["--executions", "3000", "--resume", str(tmp_path), "--corpus", str(first.parent)]
    run = subprocess.run(command, capture_output=True, text=True)
    entry = json.loads(run.stdout)["targets"][name]
    assert (entry["executions"], entry["findings"], run.returncode) == (3000, [], 0)
    assert entry["runs"][0]["engine"] == "atheris"
    assert len(list((tmp_path / name / "corpus").iterdir())) > 3


def test_every_target_has_a_corpus_and_all_of_them_are_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    sizes = {name: sum(path.stat().st_size for path in files(name)) for name in TARGETS}
    assert min(sizes.values()) > 0
    assert sum(sizes.values()) < 300_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_something_of_its_corpus(name: str, tmp_path: Path) -> None:
    """A target that refused everything would keep every promise."""
    run = TARGETS[name].make(tmp_path)
    taken = 0
    for path in files(name):
        try:
            run(path.read_bytes())
            taken += 1
        except TARGETS[name].refusals:
            pass
    assert 0 < taken < len(files(name))


# -- what counts as a finding ------------------------------------------------------------------------------------


def target(run: Run, **more: Any) -> Target:
    return Target("planted", "a reader with a fault", lambda folder: run, (BundleError,), **more)


def raising(error: BaseException) -> Run:
    def run(data: bytes) -> None:
        raise error

    return run


def tried(run: Run, **more: Any) -> Finding | None:
    return execute(target(run, **more), run, b"input")


def test_taking_and_refusing_are_no_findings() -> None:
    assert tried(lambda data: None) is None
    assert tried(raising(BundleInvalid("no"))) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("odd"), "ValueError"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (ConfigError("of another room"), "ConfigError"),
        (TooSlow("no end"), "TooSlow"),
        (BundleInvalid("x" * 5000), "BrokenPromise"),
        (BundleInvalid(""), "BrokenPromise"),
        (BundleInvalid("\ud800"), "BrokenPromise"),
    ],
)
def test_whatever_else_comes_out_is_one(error: BaseException, kind: str) -> None:
    found = tried(raising(error))
    assert found is not None
    assert (found.kind, found.data) == (kind, b"input")


def test_a_broken_promise_is_one() -> None:
    found = tried(lambda data: promise(data == b"other", "the other"))
    assert found is not None
    assert (found.kind, found.place) == ("BrokenPromise", "the other")
    with pytest.raises(BrokenPromise):
        promise(False, "it")


def test_a_text_that_grows_is_one_only_where_it_may_not() -> None:
    assert tried(raising(BundleInvalid("x" * 5000)), bounded=False) is None


def test_an_input_that_takes_long_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "SLOW_S", 0.01)

    def busy(data: bytes) -> None:
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass

    found = tried(busy)
    assert found is not None
    assert found.kind == "slow"


def test_one_way_to_go_wrong_is_one_finding() -> None:
    one, other = tried(raising(ValueError("a"))), tried(raising(ValueError("b")))
    third = tried(raising(TypeError("a")))
    assert one is not None
    assert other is not None
    assert third is not None
    assert one.key == other.key != third.key


# -- inputs ------------------------------------------------------------------------------------------------------


def test_the_corpus_comes_first_and_a_seed_draws_the_same_inputs() -> None:
    corpus = [b'{"a":1}', b"[]"]
    one, two, other = (list(islice(inputs(corpus, (b"x",), mutate_json, seed), 300)) for seed in (7, 7, 8))
    assert one[:2] == corpus
    assert one == two != other
    assert len(set(one)) > 150
    assert max(map(len, one)) <= MAX_LENGTH


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        (mutate_json, b'{"a": [1, 2.5, "x", null, {"b": true}], "c": "d"}'),
        (mutate_lines, b'{"a": 1}\n{"b": [2]}\n'),
        (mutate_protobuf, bag_encoder(4, 3)),
    ],
)
def test_a_shape_changes_what_it_knows_and_leaves_the_rest(shape: Callable[..., bytes | None], data: bytes) -> None:
    rng = random.Random(1)
    made = [shape(rng, data, (b'"name"', b"Relu")) for _ in range(300)]
    known = {each for each in made if each is not None}
    assert len(known) > 100
    assert shape(rng, b"\xff\xff\xff", ()) in (None, b"", b"\xff\xff\xff\n\xff\xff\xff")


def test_changed_json_is_json_for_the_most_part() -> None:
    rng = random.Random(2)
    valid = 0
    for _ in range(300):
        made = mutate_json(rng, b'{"a": [1, 2.5, "x", null, {"b": true}], "c": "d"}', ())
        try:
            json.loads(made or b"")
            valid += 1
        except (ValueError, RecursionError):
            pass
    assert valid > 200


def test_changed_messages_keep_lengths_that_fit() -> None:
    import onnx
    from google.protobuf.message import DecodeError

    rng = random.Random(3)
    parsed = 0
    for _ in range(200):
        try:
            onnx.ModelProto.FromString(mutate_protobuf(rng, bag_encoder(4, 3), (b"Relu",)) or b"")
            parsed += 1
        except DecodeError:
            pass
    assert parsed > 150


def test_a_corpus_is_distilled_to_what_reaches_something(tmp_path: Path) -> None:
    some = [b'{"encoder":[],"stories":[]}', b'{"encoder":[],"stories": []}', b"[]", b"[ ]", b"\xff"]
    assert chosen(TARGETS["golden"], some, 1000) == [some[0], some[2], some[4]]
    assert chosen(TARGETS["golden"], some, 3) == [some[2], some[4]]


# -- runs --------------------------------------------------------------------------------------------------------


def test_counts_add_up_over_runs_and_each_has_a_seed_of_its_own(tmp_path: Path) -> None:
    arguments = ["--target", "array", "--engine", "mutation", "--executions", "50", "--corpus", str(CORPUS), "--json"]
    for times in (1, 2):
        run = CliRunner().invoke(fuzz, [*arguments, "--seed", "5", "--resume", str(tmp_path)])
        entry = json.loads(run.stdout)["targets"]["array"]
        assert entry["executions"] == 50 * times
    assert [one["seed"] for one in entry["runs"]] == [5, 6]


def test_a_worker_that_is_killed_counts_for_what_it_reported(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.begin("zip", "mutation", 3) == 3
    ledger.add("zip", {"executions": 10, "seconds": 1.0, "findings": []})
    ledger.add("zip", {"executions": 25, "seconds": 2.0, "findings": [{"key": "k"}]})
    again = Ledger(tmp_path)
    assert again.begin("zip", "mutation", 3) == 4
    again.add("zip", {"executions": 5, "seconds": 0.5, "findings": [{"key": "k"}]})
    entry = Ledger(tmp_path).targets["zip"]
    assert (entry["executions"], entry["seconds"], entry["findings"]) == (30, 2.5, [{"key": "k"}])


def test_a_worker_that_dies_is_a_finding(tmp_path: Path) -> None:
    order = {"target": "no such", "engine": "mutation", "executions": 1, "seconds": None, "seed": 9}
    order |= {"corpus": [], "findings": str(tmp_path)}
    (last,) = _reports(order, tmp_path / "log")
    assert last["findings"][0]["kind"] == "died"
    assert (tmp_path / "died-9").exists()
    assert "KeyError" in (tmp_path / "log").read_text()


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    listed = CliRunner().invoke(fuzz, ["--list"])
    assert {line.split()[0] for line in listed.output.splitlines()} == set(TARGETS)
    run = CliRunner().invoke(fuzz, ["--corpus", str(tmp_path), "--target", "zip", "--resume", str(tmp_path / "r")])
    assert run.exit_code != 0
    assert "no first inputs" in str(run.exception)
