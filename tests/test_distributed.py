"""One training on several processes: the shares' gradients add up to the batch's, and the model is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_worker
from click.testing import CliRunner
from test_checkpoint import trainer
from toy_data import CUTOFF, toy_dataset

from edgerec.errors import TrainingError
from edgerec_exporters.distributed import ALONE, Ranks, started
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as command
from edgerec_exporters.trained import Trained, load_trained
from edgerec_tools.datasets import SUFFIX, write


@pytest.mark.parametrize(("n", "size"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_shares_are_disjoint_whole_and_even(n: int, size: int) -> None:
    parts = [np.arange(n)[Ranks(rank, size).share(n)] for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["bag", "sequence"])
def test_the_shares_of_a_batch_have_its_gradient_and_loss(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks one after the other in this process; the sum that they would exchange is made here."""
    gradients: list[dict[str, torch.Tensor]] = []
    losses = []

    def note(self: Ranks, parameters: Any) -> None:
        gradients.append({str(k): p.grad.clone() for k, p in enumerate(parameters) if p.grad is not None})

    monkeypatch.setattr(Ranks, "add_gradients", note)
    monkeypatch.setattr(Ranks, "same_start", lambda self, module: None)
    for ranks in (ALONE, Ranks(0, 3), Ranks(1, 3), Ranks(2, 3)):
        each = trainer(kind, dropout=0.0)
        each.ranks = ranks
        losses.append(first_step(each))
    whole, *shares = gradients
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares), gradient, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(shares[0][name] * 3, gradient, rtol=1e-2, atol=1e-6) or not gradient.any()
    assert sum(losses[1:]) == pytest.approx(losses[0], rel=1e-5)


def first_step(each: Any) -> float:
    if hasattr(each, "examples"):
        return float(each._step(each.examples[:32]))
    return float(each._step(*each._batches()[0]))


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with started() as ranks:
        assert ranks is ALONE
        assert ranks.first
        assert ranks.add(2.5) == ranks.agree(2.5) == 2.5
    assert not torch.distributed.is_initialized()


def test_a_group_that_does_not_come_about_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="did not find each other"), started("cpu"):
        pass


def torchrun(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def alike(one: Trained, two: Trained) -> None:
    assert one.metrics["epochs"] == two.metrics["epochs"]
    expected = train_worker.learned(one)
    moved = 0.0
    for name, array in train_worker.learned(two).items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-3, atol=2e-4, err_msg=name)
        moved += float(np.abs(array - expected[name]).sum())
    assert moved > 0  # shares do not round as a whole batch does: were they equal, one process did all the work


def test_two_processes_give_the_model_of_one_and_one_of_them_writes_and_prints(tmp_path: Path) -> None:
    recipe = train_worker.small_recipe("sasrec")
    one = train(train_worker.shop(), model="sasrec", recipe=recipe, seed=3, device="cpu")
    settings = {"model": "sasrec", "out": str(tmp_path / "two.model"), "checkpoint": str(tmp_path / "state")}
    finished = torchrun(2, train_worker.__file__, json.dumps(settings))
    assert finished.returncode == 0, finished.stderr
    assert [json.loads(line)["ranks"] for line in finished.stdout.splitlines()] == [2]
    alike(one, load_trained(tmp_path / "two.model"))


def test_the_command_trains_on_two_processes(tmp_path: Path) -> None:
    data = tmp_path / f"toy{SUFFIX}"
    write(toy_dataset(n_users=60), data)
    cutoff = datetime.fromtimestamp(CUTOFF, UTC).isoformat()
    options = ["--data", data, "--cutoff", cutoff, "--device", "cpu", "--json", "--epochs", 3, "--dim", 8]
    options += ["--set", "encoder.batch_size=32", "--set", "encoder.n_negatives=20", "--out"]
    arguments = [str(each) for each in options]
    alone = CliRunner().invoke(command, [*arguments, str(tmp_path / "one.model")])
    assert alone.exception is None, alone.output
    finished = torchrun(2, "-m", "edgerec", "train", *arguments, str(tmp_path / "two.model"))
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)  # one document
    assert told["model"] == str(tmp_path / "two.model")
    alike(load_trained(tmp_path / "one.model"), load_trained(tmp_path / "two.model"))
