"""Distillation: the divergence against torch's, what a pupil learns, and which teachers are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import train_worker
from click.testing import CliRunner
from test_checkpoint import silent, trainer
from torch.nn import functional
from toy_data import toy_dataset
from train_worker import CUTOFF, DAY, small_recipe

from edgerec.errors import TrainingError
from edgerec_exporters.distil import DistilRecipe, Teacher, divergence
from edgerec_exporters.recipe import recipe_of
from edgerec_exporters.sequence_fit import SequenceTrainer
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as command
from edgerec_exporters.trained import Trained
from edgerec_tools.datasets import SUFFIX, write


def trained(*, dim: int = 8, teacher: Trained | None = None, share: float = 0.5) -> Trained:
    recipe = replace(small_recipe("sasrec", epochs=12, learning_rate=0.01), dim=dim, distil=DistilRecipe(share=share))
    return train(train_worker.shop(), model="sasrec", recipe=recipe, seed=3, device="cpu", teacher=teacher)


@pytest.fixture(scope="module")
def teacher() -> Trained:
    return trained()


# the divergence


def test_without_sampling_it_is_torchs_divergence() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 9), torch.randn(5, 9)
    for temperature in (1.0, 3.0):
        expected = functional.kl_div(
            torch.log_softmax(ours / temperature, 1), torch.softmax(theirs / temperature, 1), reduction="batchmean"
        )
        found = divergence(ours, theirs, torch.zeros(9), None, torch.ones(5), temperature)
        torch.testing.assert_close(found, expected * temperature**2)
    assert float(divergence(ours, ours, torch.randn(9), None, torch.ones(5))) == pytest.approx(0, abs=1e-6)


def test_excluded_items_and_weightless_rows_do_not_count() -> None:
    torch.manual_seed(0)
    ours, theirs, excluded = torch.randn(2, 6), torch.randn(2, 6), torch.zeros(2, 6).bool()
    excluded[0, 4:] = True
    found = divergence(ours, theirs, torch.zeros(6), excluded, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, divergence(ours[:1, :4], theirs[:1, :4], torch.zeros(4), None, torch.ones(1)))
    ours.requires_grad_()
    divergence(ours, theirs, torch.zeros(6), excluded, torch.ones(2)).backward()
    assert torch.isfinite(ours.grad).all()
    assert not ours.grad[excluded].any()


def test_a_candidate_stands_for_one_over_its_chance_of_items() -> None:
    """One candidate of chance 1/2 counts as two of its kind would."""
    ours, theirs = torch.tensor([[0.3, 1.0, -0.5]]), torch.tensor([[1.0, 0.2, 0.4]])
    twice = [each[:, [0, 1, 1, 2]] for each in (ours, theirs)]
    found = divergence(ours, theirs, torch.tensor([0.0, -math.log(2.0), 0.0]), None, torch.ones(1))
    torch.testing.assert_close(found, divergence(*twice, torch.zeros(4), None, torch.ones(1)))


# pupils


@pytest.mark.parametrize("kind", ["bag", "sequence"])
def test_with_the_teachers_loss_alone_a_pupil_becomes_like_it(kind: str) -> None:
    model, pupil = trainer("sequence", seed=1, dropout=0.0), trainer(kind, seed=2, dropout=0.0)
    pupil.teacher = Teacher.of(model.taste, 16, DistilRecipe(share=1.0), torch.device("cpu"))
    if isinstance(pupil, SequenceTrainer):
        pupil.recipe = replace(pupil.recipe, learning_rate=0.02)
    losses = [pupil.epoch(12, silent) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert not any(parameter.requires_grad for parameter in model.taste.parameters())


def test_a_bag_cannot_teach_a_sequence() -> None:
    pupil = trainer("sequence")
    pupil.teacher = Teacher.of(trainer("bag").taste, 16, DistilRecipe(), torch.device("cpu"))
    with pytest.raises(TrainingError, match="after every event"):
        pupil.epoch(1, silent)


def test_a_pupil_ranks_more_like_its_teacher_than_one_that_learned_alone(teacher: Trained) -> None:
    pupil, alone = trained(dim=4, teacher=teacher, share=1.0), trained(dim=4)
    assert agreement(pupil, teacher) > agreement(alone, teacher) + 0.03
    told = pupil.metrics["distilled"]
    assert set(told) == {"teacher", "student"}
    assert told["student"]["bytes"]["vectors"] == 4 * 4 * train_worker.N_ITEMS
    assert told["teacher"]["bytes"]["vectors"] == 4 * 8 * train_worker.N_ITEMS
    assert told["student"]["bytes"]["encoder"] < told["teacher"]["bytes"]["encoder"]
    assert told["student"]["ndcg@10"] == pupil.metrics["validation"]["sources"]["taste"]
    assert all(each["query_ms"] > 0 for each in told.values())
    assert "distilled" not in alone.metrics


def agreement(left: Trained, right: Trained) -> float:
    """Mean correlation of both models' scores over the catalogue, after the histories that they were trained on."""
    found = []
    for past in left.histories:
        scores = []
        for model in (left, right):
            rows = past.rows[-model.history_length :]
            with torch.no_grad():
                query = model.encoder(
                    torch.from_numpy(model.vectors[rows])[None],
                    torch.from_numpy(past.age_days[-len(rows) :])[None],
                    torch.from_numpy(past.kinds[-len(rows) :])[None],
                    torch.ones(1, len(rows), dtype=torch.bool),
                )[0].numpy()
            scores.append(model.vectors @ query + model.bias)
        found.append(np.corrcoef(*scores)[0, 1])
    return float(np.mean(found))


def test_teachers_that_do_not_fit_are_refused(teacher: Trained) -> None:
    data = train_worker.shop()
    recipe = small_recipe("sasrec")
    others = replace(data, items=[*data.items[:-1], "other"])
    with pytest.raises(TrainingError, match="knows other items"):
        train(others, model="sasrec", recipe=recipe, teacher=teacher, device="cpu")
    with pytest.raises(TrainingError, match="trained on what lies before"):
        train(data, cutoff=CUTOFF - 10 * DAY, model="sasrec", recipe=recipe, teacher=teacher, device="cpu")
    with pytest.raises(TrainingError, match="cannot teach"):
        train(data, model="sasrec", recipe=recipe, teacher=replace(teacher, model="bag"), device="cpu")
    with pytest.raises(TrainingError, match="reads 16 events, not 32"):
        train(data, model="sasrec", recipe=replace(recipe, history_length=32), teacher=teacher, device="cpu")


def test_a_recipe_comes_back_from_its_dictionary(teacher: Trained) -> None:
    expected = replace(small_recipe("sasrec", epochs=12, learning_rate=0.01), dim=8, distil=DistilRecipe(share=0.5))
    assert recipe_of("sasrec", json.loads(json.dumps(teacher.recipe))) == expected


def test_the_command_shows_teacher_and_pupil_side_by_side(tmp_path: Path) -> None:
    write(toy_dataset(n_users=40), tmp_path / f"toy{SUFFIX}")
    common = ["--data", str(tmp_path / f"toy{SUFFIX}"), "--epochs", "1", "--device", "cpu"]
    for arguments in (
        ["--out", "big.model", "--dim", "16"],
        ["--out", "small.model", "--dim", "4", "--distil", "big.model"],
    ):
        paths = [str(tmp_path / each) if each.endswith(".model") else each for each in arguments]
        result = CliRunner().invoke(command, common + paths)
        assert result.exception is None, result.output
    lines = [line.split()[:3] for line in result.stdout.splitlines()]
    assert ["teacher", "bag", "16,"] in lines
    assert ["student", "bag", "4,"] in lines
