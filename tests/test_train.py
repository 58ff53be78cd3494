"""Central training: the encoder, its loss, item-to-item weights, the blend's weights, and the file they end up in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional
from toy_data import CUTOFF as TOY_CUTOFF
from toy_data import toy_dataset

from edgerec.errors import DataError, RequestError, TrainingError
from edgerec_exporters import blend_fit, neighbours
from edgerec_exporters.encoder_fit import EncoderRecipe
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.losses import draw_candidates, sampled_softmax
from edgerec_exporters.models import BagEncoder, build
from edgerec_exporters.recipe import Recipe
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as command
from edgerec_exporters.trained import Trained, load_trained
from edgerec_tools.datasets import SUFFIX, write

N_USERS, N_ITEMS, N_TASTES = 80, 60, 6
START = 1_600_000_000.0
CUTOFF = START + 100 * DAY
RECIPE = Recipe(
    dim=8,
    history_length=16,
    per_item=20,
    text=0.0,
    validation_days=30.0,
    encoder=EncoderRecipe(epochs=2, batch_size=32),
)


def shop(seed: int = 0, *, days: float = 120.0) -> Interactions:
    """Users who buy within one of six disjoint groups of items, new ones each time."""
    rng = np.random.default_rng(seed)
    baskets = []
    for user in range(N_USERS):
        own = np.arange(N_ITEMS)[np.arange(N_ITEMS) % N_TASTES == user % N_TASTES]
        for at in rng.uniform(START, START + days * DAY, 5):
            baskets.append((float(at), user, np.sort(rng.choice(own, 2, replace=False))))
    return as_interactions(sorted(baskets, key=lambda basket: basket[:2]))


def as_interactions(baskets: list[tuple[float, int, Any]], **changes: Any) -> Interactions:
    size = [len(rows) for *_, rows in baskets]
    n_events = sum(size)
    columns: dict[str, Any] = {
        "user": np.repeat([user for _, user, _ in baskets], size).astype(np.int32),
        "item": np.concatenate([rows for *_, rows in baskets]).astype(np.int32),
        "at": np.repeat([at for at, *_ in baskets], size).astype(np.float64),
        "group": np.repeat(np.arange(len(baskets)), size),
        "kind": np.zeros(n_events, np.int64),
        "value": np.ones(n_events, np.float32),
        "n_users": N_USERS,
        "items": [f"i{row}" for row in range(N_ITEMS)],
        "titles": [f"Thing {row}" for row in range(N_ITEMS)],
        "attributes": [{"price": row / 2} for row in range(N_ITEMS)],
        **changes,
    }
    return Interactions(**columns)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return shop()


@pytest.fixture(scope="module")
def trained(data: Interactions) -> Trained:
    return train(data, cutoff=CUTOFF, recipe=RECIPE, seed=3, device="cpu")


# the encoder


def bag_inputs(length: int = 6, dim: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(0)
    age = torch.tensor([[90.0, 40.0, 40.0, 7.0, 0.0, 0.0]])
    return [torch.randn(1, length, dim), age, torch.tensor([[0, 1, 0, 0, 1, 0]]), torch.ones(1, length).bool()]


@pytest.fixture
def bag() -> BagEncoder:
    encoder = BagEncoder(4, (1.0, 0.3), gain=2.0)
    with torch.no_grad():
        encoder.project.add_(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    return encoder.eval()


def test_a_bag_does_not_care_for_the_order_of_its_events(bag: BagEncoder) -> None:
    inputs = bag_inputs()
    shuffled = [array[:, [3, 1, 5, 0, 4, 2]] for array in inputs]
    torch.testing.assert_close(bag(*shuffled), bag(*inputs))


def test_what_is_masked_does_not_matter_and_padding_changes_nothing(bag: BagEncoder) -> None:
    inputs = bag_inputs()
    padded = [torch.cat([torch.zeros_like(array[:, :3]), array], 1) for array in inputs]
    torch.testing.assert_close(bag(*padded), bag(*inputs))
    padded[0][:, :3], padded[1][:, :3] = 7.0, 3.0
    torch.testing.assert_close(bag(*padded), bag(*inputs))


def test_a_history_of_nothing_gives_the_zero_query(bag: BagEncoder) -> None:
    history, age, kind, mask = bag_inputs()
    assert not bag(history, age, kind, torch.zeros_like(mask)).any()


def test_older_events_and_lesser_kinds_count_less(bag: BagEncoder) -> None:
    mask = torch.ones(1, 2).bool()
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    history = torch.stack([torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])])[None]
    plain = BagEncoder(4, (1.0, 0.3)).eval()
    older = plain(history, torch.tensor([[400.0, 0.0]]), zeros, mask)[0]
    assert older[0] < older[1]
    clicked = plain(history, torch.zeros(1, 2), torch.tensor([[1, 0]]), mask)[0]
    torch.testing.assert_close(clicked[0] / clicked[1], torch.tensor(0.3))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(TrainingError, match="there is no model 'nope'"):
        build("nope", {})


# the loss


def test_softmax_over_every_item_is_torchs_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, item = torch.randn(5, 9), np.array([3, 0, 8, 3, 1])
    rows, log_inclusion = draw_candidates(item, 9, 9, np.full(9, 1 / 9), np.random.default_rng(0))
    assert rows.tolist() == list(range(9))
    targets = functional.one_hot(torch.from_numpy(item), 9).bool()
    loss = sampled_softmax(logits[:, rows], targets, torch.from_numpy(log_inclusion), None, torch.ones(5))
    torch.testing.assert_close(loss, functional.cross_entropy(logits, torch.from_numpy(item)))


def test_excluded_items_are_no_candidates() -> None:
    logits, targets = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, False, False]])
    loss = sampled_softmax(logits, targets, torch.zeros(3), torch.tensor([[False, False, True]]), torch.ones(1))
    torch.testing.assert_close(loss, functional.cross_entropy(logits[:, :2], torch.tensor([0])))


def test_a_candidate_met_by_chance_stands_for_one_over_its_chance_of_items() -> None:
    logits, targets = torch.tensor([[0.4, 2.0, -1.0]]), torch.tensor([[True, False, False]])
    chance = torch.tensor([0.1, 0.5, 0.25])
    loss = sampled_softmax(logits, targets, chance.log(), None, torch.ones(1))
    odds = logits.exp()[0]
    total = odds[0] + odds[1] / 0.5 + odds[2] / 0.25
    torch.testing.assert_close(loss, -torch.log(odds[0] / total))


def test_the_correction_is_the_chance_of_being_met() -> None:
    """Σ over candidates of exp(s)/π estimates the sum over the catalogue without bias."""
    rng = np.random.default_rng(0)
    n, chance = 30, rng.dirichlet(np.ones(30))
    scores, mine = np.exp(rng.standard_normal(n)), 4
    shares = rng.dirichlet(np.ones(n))
    found = []
    for _ in range(4000):
        others = rng.choice(n, 6, p=shares)
        rows, _ = draw_candidates(others, n, 8, chance, rng)
        missed = (1 - chance[rows]) ** 8 * (1 - shares[rows]) ** 6
        found.append(np.where(rows == mine, scores[mine], scores[rows] / (1 - missed))[rows != mine].sum())
    assert np.mean(found) == pytest.approx(scores.sum() - scores[mine], rel=0.03)
    rows, log_inclusion = draw_candidates(np.array([2, 2, 5]), n, 8, chance, rng)
    assert {2, 5} <= set(rows.tolist())
    share = np.bincount([2, 2, 5], minlength=n)[rows] / 3
    expected = np.log(1 - (1 - chance[rows]) ** 8 * (1 - share) ** 3)
    np.testing.assert_allclose(log_inclusion, expected, rtol=1e-5)


# examples


def test_a_history_ends_before_its_basket_and_ages_count_from_its_newest_event() -> None:
    day = [START + k * DAY for k in range(10)]
    data = as_interactions([(day[0], 0, [1, 2]), (day[1], 1, [5]), (day[3], 0, [2, 4]), (day[9], 0, [7])])
    baskets = Baskets.of(data)
    chosen = baskets.with_past()
    assert baskets.when[chosen].tolist() == [day[3], day[9]]
    past = baskets.padded(chosen, 5)
    assert past.rows[1].tolist() == [0, 1, 2, 2, 4]
    assert past.mask[1].tolist() == [False, True, True, True, True]
    assert past.age_days[1].tolist() == [0, 3, 3, 0, 0]
    assert np.flatnonzero(baskets.target_mask(chosen)[0]).tolist() == [2, 4]
    assert np.flatnonzero(baskets.seen_mask(chosen)[1]).tolist() == [1, 2, 4]
    np.testing.assert_allclose(baskets.recency(chosen, 3.0)[1, [1, 2, 4]], [0.5, 1, 1])
    np.testing.assert_allclose(baskets.habits(chosen, 3.0)[1, [1, 2, 4]], [0.5, 1.5, 1])


def test_an_item_twice_in_a_basket_counts_once_and_a_dislike_not_at_all() -> None:
    twice = as_interactions([(START, 0, [1, 1, 2]), (START + DAY, 0, [3])], kinds=("purchase", "dislike"))
    assert Baskets.of(twice).item.tolist() == [1, 2, 3]
    disliked = replace(twice, kind=np.array([0, 0, 1, 0]))
    assert Baskets.of(disliked).item.tolist() == [1, 3]


# item-to-item weights


def test_ease_is_its_closed_form_and_solves_the_constrained_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    X = (rng.random((50, 12)) < 0.3).astype(np.float32)
    weights = neighbours.ease(X.T @ X, 5.0)
    P = np.linalg.inv(X.T @ X + 5.0 * np.eye(12))
    np.testing.assert_allclose(weights, np.where(np.eye(12) > 0, 0, -P / np.diag(P)), atol=1e-5)
    gradient = X.T @ (X @ weights - X) + 5.0 * weights
    assert abs(gradient[~np.eye(12, dtype=bool)]).max() < 1e-3  # only the diagonal is held


def test_the_gram_matrix_decays_per_user_and_keeps_its_trace() -> None:
    data = as_interactions([(START, 0, [1, 2]), (START + 10 * DAY, 0, [2]), (START, 1, [2])])
    found = neighbours.gram(Baskets.of(data), START + 10 * DAY, 10.0)
    scale = 3 / (0.25 + 1 + 0.25)
    np.testing.assert_allclose(found[np.ix_([1, 2], [1, 2])], np.array([[0.25, 0.5], [0.5, 1.25]]) * scale, rtol=1e-6)
    assert found.sum() == pytest.approx(2.5 * scale)


def test_factors_are_the_ridge_regression_where_the_rank_allows() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4)) @ rng.standard_normal((4, 20))
    gram = (X.T @ X).astype(np.float32)
    V = neighbours.item_factors(gram, 4, 3.0, 0)
    np.testing.assert_allclose(V @ V.T, gram @ np.linalg.inv(gram + 3.0 * np.eye(20)), atol=1e-2)


def to_dense(csr: neighbours.Csr) -> np.ndarray:
    indptr, ids, weights = csr
    n = len(indptr) - 1
    out = np.zeros((n, n), np.float32)
    out[np.repeat(np.arange(n), np.diff(indptr)), ids] = weights
    return out


@pytest.mark.parametrize(
    ("by", "kept"),
    [
        ("target", [[0, 0, 0], [-3, 0, 0], [0, 5, 0]]),
        ("source", [[0, 1, 0], [-3, 0, 0], [0, 5, 0]]),
        ("positive", [[0, 0, 0], [0, 0, 0], [2, 5, 0]]),
    ],
)
def test_the_cut_keeps_the_best_weights(by: str, kept: list[list[float]]) -> None:
    weights = np.array([[0, 1, 0], [-3, 0, 0], [2, 5, 0]], np.float32)
    found = neighbours.cut(weights, 1, by)
    np.testing.assert_array_equal(found, kept)
    np.testing.assert_array_equal(to_dense(neighbours.to_csr(found)), found)


# the blend


def test_ndcg_equals_a_plain_loop_with_ties_by_place() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 25)).astype(np.float32)
    targets, hidden = rng.random((40, 25)) < 0.15, rng.random((40, 25)) < 0.3
    targets[0] = False
    found = blend_fit.ndcg(scores, targets, hidden)
    assert np.isnan(found[0])
    for row in range(1, 40):
        if targets[row].any():
            order = np.argsort(-np.where(hidden[row], -np.inf, scores[row]), kind="stable")[:10]
            ideal = (1 / np.log2(np.arange(2, 2 + min(10, targets[row].sum())))).sum()
            gain = (targets[row][order] / np.log2(np.arange(2, 12))).sum() / ideal
            assert found[row] == pytest.approx(gain)


def test_the_fit_finds_the_weights_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    z = [rng.standard_normal((300, 80)).astype(np.float32) for _ in range(3)]
    truth = 0.8 * z[0] + 0.2 * z[1]
    targets = np.zeros((300, 80), bool)
    np.put_along_axis(targets, np.argsort(-truth, axis=1)[:, :5], True, axis=1)
    task = blend_fit.Task.of(z, targets, None, np.arange(300))
    weights, values = blend_fit.fit(["a", "b", "noise"], task)
    assert weights["a"] == pytest.approx(0.8, abs=0.03)
    assert weights["b"] == pytest.approx(0.2, abs=0.03)
    assert weights["noise"] < 0.02
    assert 0.97 < values["crossed"] <= values["fitted"] + 1e-9


# the whole


def test_the_model_beats_popularity_and_says_what_it_is(trained: Trained, data: Interactions) -> None:
    found = trained.metrics["validation"]
    popular = found["sources"]["popular"]["novel"]
    assert found["scenarios"]["default"]["ndcg@10"]["crossed"] > popular + 0.1
    assert found["sources"]["taste"]["novel"] > popular + 0.1
    assert found["sources"]["neighbours"]["novel"] > popular + 0.1
    assert trained.metrics["trained_before"] == "2020-12-22T12:26:40Z"
    assert trained.vectors.shape == (N_ITEMS, 8)
    assert trained.negatives.dtype == np.int32
    assert next(iter(trained.event_kinds)) == "purchase"
    assert set(trained.scenarios["default"].weights) == {"taste", "neighbours", "popular"}
    past = trained.histories[0]
    assert past.age_days[-1] == 0
    assert len(past.rows) == len(past.kinds)
    assert len(past.targets)


def test_the_same_seed_gives_the_same_model_and_another_one_does_not(trained: Trained, data: Interactions) -> None:
    again = train(data, cutoff=CUTOFF, recipe=RECIPE, seed=3, device="cpu")
    np.testing.assert_array_equal(again.vectors, trained.vectors)
    np.testing.assert_array_equal(again.negatives, trained.negatives)
    assert again.scenarios == trained.scenarios
    other = train(data, cutoff=CUTOFF, recipe=RECIPE, seed=4, device="cpu")
    assert not np.array_equal(other.vectors, trained.vectors)


def test_nothing_after_the_cutoff_reaches_the_model(trained: Trained, data: Interactions) -> None:
    again = train(data.before(CUTOFF), cutoff=CUTOFF, recipe=RECIPE, seed=3, device="cpu")
    np.testing.assert_array_equal(again.vectors, trained.vectors)
    np.testing.assert_array_equal(again.popularity, trained.popularity)
    assert again.scenarios == trained.scenarios


def test_validation_measures_a_model_that_has_not_seen_it(trained: Trained, data: Interactions) -> None:
    """With purchases of chance in the validation period there is nothing to find, unless they were trained on."""
    late = data.at >= CUTOFF - 30 * DAY
    chance = np.random.default_rng(0).integers(0, N_ITEMS, len(data.item)).astype(np.int32)
    blind = train(replace(data, item=np.where(late, chance, data.item)), cutoff=CUTOFF, recipe=RECIPE, device="cpu")
    values = [each.metrics["validation"]["sources"]["neighbours"]["novel"] for each in (trained, blind)]
    assert values[0] > 0.5
    assert values[1] < 0.2


def test_the_file_gives_the_model_back(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "shop.model"
    assert trained.save(path) == path.stat().st_size
    again = load_trained(path)
    for name in ("vectors", "bias", "popularity", "negatives"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trained, name))
    for ours, theirs in zip(again.neighbours, trained.neighbours, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(again.histories, trained.histories, strict=True):
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        np.testing.assert_array_equal(ours.age_days, theirs.age_days)
    for name in ("items", "titles", "attributes", "event_kinds", "scenarios", "sources", "metrics", "history_kinds"):
        assert getattr(again, name) == getattr(trained, name), name
    inputs = [torch.randn(2, 16, 8), torch.rand(2, 16) * 99, torch.zeros(2, 16).long(), torch.ones(2, 16).bool()]
    torch.testing.assert_close(again.encoder(*inputs), trained.encoder(*inputs))
    assert [each.name for each in tmp_path.iterdir()] == ["shop.model"]


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(DataError, match="there is no trained model"):
        load_trained(tmp_path / "missing")
    path = tmp_path / "shop.model"
    path.write_bytes(b"not a model")
    with pytest.raises(DataError, match="is not a trained model"):
        load_trained(path)
    trained.save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="is not a trained model"):
        load_trained(path)
    with pytest.raises(DataError, match="cannot write"):
        trained.save(tmp_path / "nowhere" / "shop.model")


# bad input


def test_data_that_cannot_be_trained_on_is_refused_with_a_reason(data: Interactions) -> None:
    nothing = data.before(START - DAY)
    with pytest.raises(TrainingError, match="the data set is empty"):
        train(nothing, recipe=RECIPE)
    alone = as_interactions([(START + k * DAY, 0, [k, k + 1]) for k in range(20)])
    with pytest.raises(TrainingError, match="more than one user"):
        train(alone, recipe=RECIPE)
    for cutoff in (START - DAY, START + 4000 * DAY):
        with pytest.raises(TrainingError, match="lies outside the data"):
            train(data, cutoff=cutoff, recipe=RECIPE)
    once = as_interactions([(START + user * DAY, user, [user, user + 1]) for user in range(40)])
    with pytest.raises(TrainingError, match="comes back"):
        train(once, recipe=RECIPE)
    with pytest.raises(TrainingError, match="device 'tpu' is unknown"):
        train(data, recipe=RECIPE, device="tpu")


def test_columns_that_contradict_each_other_are_refused(data: Interactions) -> None:
    with pytest.raises(TrainingError, match="differ in length"):
        replace(data, at=data.at[:-1])
    with pytest.raises(TrainingError, match="does not exist"):
        replace(data, item=data.item + N_ITEMS)
    with pytest.raises(TrainingError, match="no finite time"):
        replace(data, at=np.where(data.at == data.at[0], np.nan, data.at))


def test_where_no_kind_is_known_to_consume_all_of_them_do(data: Interactions) -> None:
    played = replace(data, kinds=("play",)).event_kinds
    assert played["play"].consumes
    assert not played["click"].consumes
    assert not replace(data, kinds=("click", "purchase")).event_kinds["click"].consumes


# the command


def test_the_command_trains_from_a_file_and_prints_one_json_document(tmp_path: Path) -> None:
    write(toy_dataset(n_users=40), tmp_path / f"toy{SUFFIX}")
    out = tmp_path / "toy.model"
    cutoff = datetime.fromtimestamp(TOY_CUTOFF, UTC).isoformat()
    arguments = ["--data", tmp_path / f"toy{SUFFIX}", "--out", out, "--cutoff", cutoff, "--epochs", 1, "--json"]
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exception is None, result.output
    told = json.loads(result.stdout)
    assert told["bytes"] == out.stat().st_size
    assert told["metrics"]["epochs"] == 1
    assert told["metrics"]["trained_before"] == cutoff.replace("+00:00", "Z")
    assert load_trained(out).items[0] == "i0"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--data", "no-such-data", "--out", "x.model"], DataError),
        (["--data", "retail", "--out", "nowhere/x.model"], DataError),
        (["--data", "retail", "--out", "x.model", "--cutoff", "soon"], RequestError),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, error)
    assert not list(tmp_path.iterdir())
