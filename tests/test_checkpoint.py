"""Training that survives: a process killed by SIGKILL and started again ends in the same model, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_worker
from click.testing import CliRunner
from toy_data import toy_dataset
from train_worker import small_recipe

from edgerec.errors import TrainingError
from edgerec_exporters.checkpoint import Checkpoint, digest, identity, restore, state_of
from edgerec_exporters.encoder_fit import Taste, Trainer
from edgerec_exporters.epochs import Plan, run
from edgerec_exporters.examples import Baskets
from edgerec_exporters.models import build
from edgerec_exporters.sequence_fit import SequenceTrainer
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as command
from edgerec_exporters.trained import load_trained
from edgerec_tools.datasets import SUFFIX, write

Weights = dict[str, Any]


def trainer(kind: str = "bag", seed: int = 0, dropout: float = 0.3) -> Trainer | SequenceTrainer:
    """On small data; with `dropout` PyTorch's own generator matters, too."""
    torch.manual_seed(seed)
    baskets = Baskets.of(train_worker.shop())
    recipe = small_recipe("bag" if kind == "bag" else "sasrec")
    vectors = np.random.default_rng(seed).standard_normal((train_worker.N_ITEMS, 8)).astype(np.float32)
    prior = np.zeros(train_worker.N_ITEMS, np.float32)
    device = torch.device("cpu")
    if kind == "bag":
        taste = Taste(build("bag", {"dim": 8}), vectors, prior)
        return Trainer(taste, baskets, train_worker.CUTOFF, 16, recipe.encoder, seed, device)
    architecture = {**recipe.architecture, "dropout": dropout}
    taste = Taste(build("sasrec", {"dim": 8, "length": 16, **architecture}), vectors, prior)
    return SequenceTrainer(taste, baskets, 16, recipe.encoder, seed, device)


def weights(each: Trainer | SequenceTrainer) -> Weights:
    return {name: tensor.clone() for name, tensor in each.taste.state_dict().items()}


def same(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def silent(*_: int) -> None:
    """Shows nothing."""


@pytest.mark.parametrize("kind", ["bag", "sequence"])
def test_a_restored_trainer_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole = trainer(kind)
    losses = [whole.epoch(4, silent) for _ in range(4)]

    before = trainer(kind)
    for _ in range(2):
        before.epoch(4, silent)
    Checkpoint(tmp_path).save("phase", {"trainer": state_of(before)})

    torch.manual_seed(99)
    after = trainer(kind, seed=5)  # another start: all of it must come from the file
    state = Checkpoint(tmp_path).load("phase")
    assert state is not None
    restore(after, state["trainer"])
    assert [after.epoch(4, silent) for _ in range(2)] == losses[2:]
    assert same(weights(after), weights(whole))


@pytest.mark.parametrize("kind", ["bag", "sequence"])
def test_epochs_that_were_cut_off_are_made_up_for(kind: str, tmp_path: Path) -> None:
    """The judge's best epoch, kept weights and the end by patience, whatever the process that ran them."""
    values = [0.1, 0.3, 0.2, 0.25, 0.1, 0.9]
    plan = Plan(schedule=6, last=6, patience=3)
    asked: list[int] = []

    def judge() -> float:
        asked.append(each.steps)
        return values[len(asked) - 1]

    each = trainer(kind)
    assert run(each, plan, judge, silent).epoch == 2  # 3 epochs without gain end it before the .9
    expected, n_asked = weights(each), len(asked)
    assert n_asked == 5

    asked.clear()
    for stop_after in (1, 2, 4, 5):
        each = trainer(kind, seed=0)
        short = replace(plan, last=stop_after)
        run(each, short, judge, silent, phase="p", checkpoint=Checkpoint(tmp_path))
    each = trainer(kind)
    assert run(each, plan, judge, silent, phase="p", checkpoint=Checkpoint(tmp_path)).epoch == 2
    assert len(asked) == n_asked  # no epoch was run or judged twice
    assert same(weights(each), expected)


RUN = {"data": "a" * 64, "seed": 3, "recipe": {"dim": 8, "encoder": {"epochs": 4}}}


def test_a_checkpoint_of_another_run_is_refused_and_says_why(tmp_path: Path) -> None:
    Checkpoint.open(tmp_path / "run", RUN)
    Checkpoint.open(tmp_path / "run", RUN)
    for changed, reason in [
        ({**RUN, "seed": 4}, "seed 3, not 4"),
        ({**RUN, "data": "b" * 64}, "another run: data"),
        ({**RUN, "recipe": {"dim": 8, "encoder": {"epochs": 9}}}, "recipe.encoder.epochs 4, not 9"),
    ]:
        with pytest.raises(TrainingError, match=reason) as caught:
            Checkpoint.open(tmp_path / "run", changed)
        assert "delete" in (caught.value.hint or "")


def test_every_column_and_name_of_the_data_counts() -> None:
    data = train_worker.shop()
    others = [
        replace(data, item=np.where(np.arange(len(data.item)) == 7, 3, data.item).astype(np.int32)),
        replace(data, at=data.at + 1),
        replace(data, titles=[*data.titles[:-1], "other"]),
        train_worker.shop(1),
    ]
    assert len({digest(each) for each in [data, *others]}) == 5
    assert digest(train_worker.shop()) == digest(data)
    recipe = small_recipe("bag")
    made = identity(data, cutoff=None, model="bag", recipe=recipe, seed=1)
    assert made == identity(data, cutoff=None, model="bag", recipe=recipe, seed=1)
    assert made != identity(data, cutoff=1.0, model="bag", recipe=recipe, seed=1)


def test_damage_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path, RUN)
    checkpoint.save("choosing", {"steps": 3})
    assert checkpoint.load("choosing") == {"steps": 3}
    assert checkpoint.load("training") is None
    whole = (tmp_path / "choosing.pt").read_bytes()
    (tmp_path / "choosing.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="damaged"):
        checkpoint.load("choosing")
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(TrainingError, match="none of ours"):
        Checkpoint.open(tmp_path, RUN)
    (tmp_path / "run.json").write_text("no json")
    with pytest.raises(TrainingError, match="cannot be used"):
        Checkpoint.open(tmp_path, RUN)
    (tmp_path / "run.json").unlink()
    with pytest.raises(TrainingError, match=r"no run\.json"):
        Checkpoint.open(tmp_path, RUN)
    with pytest.raises(TrainingError, match="cannot be used"):
        Checkpoint.open(tmp_path / "choosing.pt" / "below", RUN)


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"trainer": Planted(tmp_path / "planted")}, tmp_path / "choosing.pt")
    with pytest.raises(TrainingError, match="damaged"):
        Checkpoint(tmp_path).load("choosing")
    assert not (tmp_path / "planted").exists()


def test_a_save_that_fails_leaves_the_state_before_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save("p", {"steps": 1})
    with pytest.raises(AttributeError):
        checkpoint.save("p", {"steps": lambda: 0})
    assert checkpoint.load("p") == {"steps": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.pt", "seconds"]


# real processes


def worker(**settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, train_worker.__file__, json.dumps(settings, default=str)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


KILLS = {
    "bag": [("choosing: encoder", 2.3), ("training: encoder", 0.5)],
    "sasrec": [("choosing: blend", 0)],
    "ials": [("choosing, vectors fixed: encoder", 1)],
}


@pytest.mark.parametrize("model", KILLS)
def test_a_killed_training_ends_in_the_model_of_one_that_was_not(model: str, tmp_path: Path) -> None:
    """Killed within an epoch of the trial, between epochs, right after the last one, and within the second pass."""
    recipe, epoch = small_recipe(model), 0

    def count(what: str, done: int, total: int) -> None:
        nonlocal epoch
        epoch = max(epoch, total // recipe.encoder.epochs if what == "choosing: encoder" else 0)

    asked = {"model": model, "recipe": recipe, "device": "cpu"}
    whole = train(train_worker.shop(), **asked, seed=3, progress=count)
    settings = {"model": model, "out": tmp_path / "out.model", "checkpoint": tmp_path / "state"}
    for what, epochs in KILLS[model]:
        killed = worker(**settings, die_at=[what, round(epochs * epoch)])
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "out.model").exists()
    found = train(train_worker.shop(), **asked, seed=3, checkpoint=tmp_path / "state")
    expected = train_worker.learned(whole)
    for name, array in train_worker.learned(found).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert found.scenarios == whole.scenarios
    for name, value in whole.metrics.items():
        assert "seconds" in name or found.metrics[name] == value, name
    with pytest.raises(TrainingError, match="seed 3, not 4"):
        train(train_worker.shop(), **asked, seed=4, checkpoint=tmp_path / "state")
    with pytest.raises(TrainingError, match="another run: data"):
        train(train_worker.shop(1), **asked, seed=3, checkpoint=tmp_path / "state")


def test_the_command_goes_on_from_its_checkpoint_and_refuses_anothers(tmp_path: Path) -> None:
    write(toy_dataset(n_users=40), tmp_path / f"toy{SUFFIX}")
    out, state = tmp_path / "toy.model", tmp_path / "state"
    arguments = ["--data", tmp_path / f"toy{SUFFIX}", "--out", out, "--checkpoint", state, "--epochs", 2]
    arguments = [str(each) for each in [*arguments, "--device", "cpu", "--json"]]
    first = CliRunner().invoke(command, arguments)
    assert first.exception is None, first.output
    written = {path.name: path.stat().st_mtime_ns for path in state.glob("*.pt")}
    assert set(written) == {"choosing.pt", "training.pt"}
    vectors = load_trained(out).vectors
    out.unlink()
    again = CliRunner().invoke(command, arguments)
    assert again.exception is None, again.output
    np.testing.assert_array_equal(load_trained(out).vectors, vectors)
    assert {path.name: path.stat().st_mtime_ns for path in state.glob("*.pt")} == written  # no epoch was left to train
    other = CliRunner().invoke(command, [*arguments, "--dim", "8"])
    assert isinstance(other.exception, TrainingError)
    assert "recipe.dim 64, not 8" in str(other.exception)
