"""Sequence encoders and their trainer: what they may see, what they learn, and that the export is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from edgerec.bundle.manifest import Scenario
from edgerec.errors import RequestError, TrainingError
from edgerec_exporters import affinity, neighbours
from edgerec_exporters.affinity import Markov
from edgerec_exporters.bundle_writer import export
from edgerec_exporters.encoder_fit import Taste
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.losses import draw_candidates, sampled_softmax, shared_softmax
from edgerec_exporters.models import SequenceEncoder, build
from edgerec_exporters.models.base import Dropout
from edgerec_exporters.neighbours import Recency
from edgerec_exporters.recipe import Recipe, changed, recipe_for
from edgerec_exporters.sequence_fit import SequenceRecipe, SequenceTrainer
from edgerec_exporters.train import train
from edgerec_exporters.train_commands import train as command
from edgerec_exporters.trained import Trained, load_trained
from edgerec_tools.datasets import SUFFIX, Dataset, write

DIM, LENGTH, N_ITEMS = 8, 10, 30
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("sasrec", {}),
    "ligr": ("sasrec", {"block": "ligr", "positions": "rotary", "heads": 2, "widen": 2}),
    "gru": ("gru4rec", {"hidden": 12, "layers": 2}),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> SequenceEncoder:
    name, settings = ENCODERS[request.param]
    torch.manual_seed(0)
    built = build(name, {"dim": DIM, "length": LENGTH, "dropout": 0.3, **settings}).eval()
    for parameter in built.parameters():  # untrained, blocks pass on what comes in
        torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(built, SequenceEncoder)
    return built


def ask(encoder: SequenceEncoder, history: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones(history.shape[:2]).bool() if mask is None else mask
    nothing = torch.zeros(history.shape[:2])
    return encoder(history * mask.unsqueeze(-1), nothing, nothing.long(), mask).detach()


# the encoders


def test_later_events_do_not_matter(encoder: SequenceEncoder) -> None:
    history, mask = torch.randn(3, LENGTH, DIM), torch.ones(3, LENGTH).bool()
    other = history.clone()
    other[:, 6:] = torch.randn(3, LENGTH - 6, DIM)
    states, others = encoder.states(history, mask), encoder.states(other, mask)
    torch.testing.assert_close(states[:, :6], others[:, :6])
    assert not torch.allclose(states[:, 6:], others[:, 6:])


def test_the_query_is_the_newest_state(encoder: SequenceEncoder) -> None:
    history, mask = torch.randn(3, LENGTH, DIM), torch.ones(3, LENGTH).bool()
    mask[1, :4] = False
    history = history * mask.unsqueeze(-1)
    torch.testing.assert_close(ask(encoder, history, mask), encoder.states(history, mask)[:, -1].detach())


def test_padding_in_front_does_not_matter_and_its_content_neither(encoder: SequenceEncoder) -> None:
    short = torch.randn(2, 4, DIM)
    padded = torch.cat([torch.randn(2, LENGTH - 4, DIM), short], 1)
    mask = torch.arange(LENGTH).expand(2, -1) >= LENGTH - 4
    torch.testing.assert_close(ask(encoder, padded, mask), ask(encoder, short))


def test_a_history_of_nothing_gives_the_zero_query(encoder: SequenceEncoder) -> None:
    assert not ask(encoder, torch.randn(2, LENGTH, DIM), torch.zeros(2, LENGTH).bool()).any()


def test_order_matters(encoder: SequenceEncoder) -> None:
    history = torch.randn(1, LENGTH, DIM)
    swapped = history[:, [1, 0, *range(2, LENGTH)]]
    assert not torch.allclose(ask(encoder, history), ask(encoder, swapped))


def test_an_untrained_transformer_asks_with_the_newest_items_own_vector() -> None:
    encoder = build("sasrec", {"dim": DIM, "length": LENGTH, "positions": "rotary", "block": "ligr"}).eval()
    history = torch.randn(2, LENGTH, DIM)
    query = encoder(history, torch.zeros(2, LENGTH), torch.zeros(2, LENGTH).long(), torch.ones(2, LENGTH).bool())
    torch.testing.assert_close(query, functional.layer_norm(history[:, -1] * DIM**0.5, (DIM,)))


def test_attention_equals_a_plain_loop() -> None:
    torch.manual_seed(1)
    encoder = build("sasrec", {"dim": DIM, "length": LENGTH, "blocks": 1}).eval()
    block = encoder.blocks[0]
    torch.nn.init.normal_(block.out.weight)
    x, mask = torch.randn(1, 4, DIM), torch.ones(1, 4).bool()
    normed = block.before_attention(x * DIM**0.5 + encoder.position[-4:])[0]
    key, value = block.key_value(normed).chunk(2, -1)
    shares = torch.softmax(block.query(normed[-1]) @ key.T / DIM**0.5, 0)
    after = x[0, -1] * DIM**0.5 + encoder.position[-1] + block.out(shares @ value)
    torch.testing.assert_close(encoder.states(x, mask)[0, -1], encoder.norm(after))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"block": "nope"}, {"positions": "nope"}, {"heads": 3}):
        with pytest.raises(TrainingError, match=r"block is one of|dim"):
            build("sasrec", {"dim": DIM, "length": LENGTH, **wrong})


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.25), torch.ones(200, 101)
    dropped = layer(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert layer.eval()(x) is x


# the loss


def loss_inputs(n_negatives: int = 6) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.ones(N_ITEMS))
    rows, log_inclusion = draw_candidates(np.array([3, 7]), N_ITEMS, n_negatives, chance, rng)
    torch.manual_seed(0)
    states, vectors, bias = torch.randn(700, DIM), torch.randn(N_ITEMS, DIM), torch.randn(N_ITEMS)
    target = torch.from_numpy(rng.integers(0, N_ITEMS, 700))
    return states, target, vectors, bias, torch.from_numpy(rows), torch.from_numpy(log_inclusion), torch.rand(700)


@pytest.mark.parametrize("n_negatives", [6, N_ITEMS])
def test_the_shared_softmax_and_its_gradients_are_those_of_the_plain_one(n_negatives: int) -> None:
    states, target, vectors, bias, rows, log_inclusion, weight = loss_inputs(n_negatives)
    found = [tensor.clone().requires_grad_() for tensor in (states, vectors, bias)]
    loss = shared_softmax(found[0], target, found[1], found[2], rows, log_inclusion, weight)
    loss.backward()
    plain = [tensor.clone().requires_grad_() for tensor in (states, vectors, bias)]
    inclusion = torch.full((N_ITEMS,), 0.0).index_put((rows,), log_inclusion)
    left_out = torch.ones(N_ITEMS).bool().index_put((rows,), torch.tensor(False)).expand(len(target), -1)
    wanted = functional.one_hot(target, N_ITEMS).bool()
    expected = sampled_softmax(plain[0] @ plain[1].T + plain[2], wanted, inclusion, left_out, weight)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


# the trainer


def chain(n_users: int = 60, length: int = 14, seed: int = 0) -> Interactions:
    """Everybody walks along the ring of items, from anywhere, skipping one now and then."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([1, 1, 1, 2], (n_users, length))
    item = (rng.integers(0, N_ITEMS, (n_users, 1)) + np.cumsum(steps, 1)) % N_ITEMS
    user = np.repeat(np.arange(n_users), length)
    at = 1e9 + DAY * np.tile(np.arange(length), n_users) + 60 * user
    order = np.argsort(at, kind="stable")
    names = [f"i{row}" for row in range(N_ITEMS)]
    return Interactions(
        user=user[order].astype(np.int32),
        item=item.ravel()[order].astype(np.int32),
        at=at[order],
        group=np.arange(len(at)),
        kind=np.zeros(len(at), np.int64),
        value=np.full(len(at), np.nan, np.float32),
        n_users=n_users,
        items=names,
        titles=names,
        attributes=[{} for _ in names],
        kinds=("rating",),
    )


SMALL = SequenceRecipe(epochs=12, validate_every=3, batch_size=16, learning_rate=0.01, n_negatives=20)


def recipe(model: str = "sasrec") -> Recipe:
    known = recipe_for(model)
    architecture = {**known.architecture, "dropout": 0.0, **({"hidden": 16} if model == "gru4rec" else {"blocks": 1})}
    return replace(known, dim=16, history_length=LENGTH, encoder=SMALL, architecture=architecture, per_item=10)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(chain(), hold_out="last", model="sasrec", recipe=recipe(), seed=3, device="cpu")


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_the_trainer_learns_a_chain_from_random_vectors(model: str) -> None:
    baskets = Baskets.of(chain())
    torch.manual_seed(0)
    settings = {"dim": 16, "length": LENGTH, **recipe(model).architecture}
    vectors = np.random.default_rng(0).standard_normal((N_ITEMS, 16)).astype(np.float32) * 0.1
    taste = Taste(build(model, settings), vectors, np.zeros(N_ITEMS, np.float32))
    trainer = SequenceTrainer(taste, baskets, LENGTH, SMALL, 0, "cpu")
    losses = [trainer.epoch(20, lambda step, steps: None) for _ in range(20)]
    assert losses[-1] < 1.0 < 2.0 < losses[0]  # nearly ln 4 − .75 ln 3 = .56, from ln 30 = 3.4
    taste.eval()
    rows = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        query = taste.queries(rows, torch.zeros(1, 3), torch.zeros(1, 3).long(), torch.ones(1, 3).bool())
        best = torch.topk(query @ taste.vectors.T + taste.bias, 2).indices[0]
    assert best.tolist() == [7, 8]


def test_windows_hold_the_newest_events_and_reach_all_others() -> None:
    baskets = Baskets.of(chain(n_users=3, length=50))
    taste = Taste(build("sasrec", {"dim": 8, "length": 10}), np.zeros((N_ITEMS, 8), np.float32), np.zeros(30, "f4"))
    trainer = SequenceTrainer(taste, baskets, 10, replace(SMALL, batch_size=4), 0, "cpu")
    reached = np.zeros(len(baskets.item), bool)
    for _ in range(30):
        spans = [span for batch in trainer._batches() for span in zip(*batch, strict=True)]
        assert {50, 100, 150} <= {int(end) for _, end in spans}
        for first, end in spans:
            assert 2 <= end - first <= 11
            assert first // 50 == (end - 1) // 50  # of one user
            reached[first:end] = True
    assert reached.all()


@pytest.mark.parametrize("length", [2, 9, 10, 11, 12, 21, 50])
def test_each_event_but_a_users_first_is_asked_for_once_in_every_epoch(length: int) -> None:
    baskets = Baskets.of(chain(n_users=3, length=length))
    taste = Taste(build("sasrec", {"dim": 8, "length": 10}), np.zeros((N_ITEMS, 8), np.float32), np.zeros(30, "f4"))
    trainer = SequenceTrainer(taste, baskets, 10, SMALL, 0, "cpu")
    cuts = set()
    for _ in range(8):
        first, end = trainer._windows()
        asked = np.concatenate([np.arange(begin + 1, stop) for begin, stop in zip(first, end, strict=True)])
        np.testing.assert_array_equal(np.sort(asked), np.flatnonzero(np.arange(3 * length) % length))
        cuts.add(tuple(end.tolist()))
    assert len(cuts) > 1 or length <= 12  # where there is one place to cut at, or none


def test_the_model_finds_the_next_of_the_chain_and_says_what_was_chosen(trained: Trained) -> None:
    found = trained.metrics["validation"]
    assert found["scenarios"]["default"]["ndcg@10"]["crossed"] > 0.8  # .91 at best
    assert found["sources"]["popular"]["novel"] < 0.5
    assert trained.metrics["validated_on"] == "each user's last event"
    assert set(trained.sources["neighbours"]) == {"half_life_days", "half_life_events", "last"}
    assert trained.scenarios["default"].weights.keys() == {"taste", "neighbours", "popular"}


def test_the_same_seed_gives_the_same_model_and_another_one_does_not(trained: Trained) -> None:
    again = train(chain(), hold_out="last", model="sasrec", recipe=recipe(), seed=3, device="cpu")
    np.testing.assert_array_equal(again.vectors, trained.vectors)
    assert again.scenarios == trained.scenarios
    other = train(chain(), hold_out="last", model="sasrec", recipe=recipe(), seed=4, device="cpu")
    assert not np.array_equal(other.vectors, trained.vectors)


def test_what_is_held_out_is_chosen_on_by_a_model_that_has_not_seen_it() -> None:
    data = chain()
    last = np.append(np.flatnonzero(np.diff(data.user[np.argsort(data.user, kind="stable")])), len(data.user) - 1)
    item = data.item.copy()
    places = np.argsort(data.user, kind="stable")[last]
    item[places] = np.random.default_rng(0).integers(0, N_ITEMS, len(places))
    blind = train(replace(data, item=item), hold_out="last", model="sasrec", recipe=recipe(), device="cpu")
    assert blind.metrics["validation"]["sources"]["taste"]["novel"] < 0.4
    assert blind.metrics["validation"]["sources"]["neighbours"]["novel"] < 0.4


def test_a_period_may_be_held_out_too() -> None:
    data = chain()
    cutoff = float(data.at.max()) - DAY
    found = train(data, cutoff=cutoff, model="sasrec", recipe=replace(recipe(), validation_days=3.0), device="cpu")
    assert found.metrics["validation"]["scenarios"]["default"]["ndcg@10"]["crossed"] > 0.7
    with pytest.raises(TrainingError, match="hold_out"):
        train(data, hold_out="half", model="sasrec", recipe=recipe())


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_the_exported_bundle_equals_the_trained_model(model: str, tmp_path: Path) -> None:
    small = replace(recipe(model), encoder=replace(SMALL, epochs=2))
    found = train(chain(), hold_out="last", model=model, recipe=small, device="cpu")
    found.save(tmp_path / "chain.model")
    again = load_trained(tmp_path / "chain.model")
    report = export(again, tmp_path / "chain.edgerec", name="chain", version=1)
    assert report.float32.differing == 0
    assert report.float32.max_query_error < 1e-4


# item-to-item weights


def test_successions_count_what_comes_within_the_window() -> None:
    user, item = np.array([0, 0, 0, 1, 1]), np.array([2, 0, 1, 0, 2])
    indptr, ids, weights = affinity.successions(user, item, 4, Markov(window=2, decay=0.5, backwards=0.0, out=1.0))
    dense = np.zeros((4, 4))
    dense[np.repeat(np.arange(4), np.diff(indptr)), ids] = weights
    np.testing.assert_allclose(dense, [[0, 0.5, 0.5, 0], [0, 0, 0, 0], [2 / 3, 1 / 3, 0, 0], [0, 0, 0, 0]], rtol=1e-6)
    both = affinity.successions(user, item, 4, Markov(window=1, decay=1.0, backwards=0.25, out=0.0))
    assert dict(zip(both[1][: both[0][1]].tolist(), both[2].tolist(), strict=False)) == {1: 1.0, 2: 1.25}


def test_mixing_and_cutting_sparse_weights_equals_dense_arithmetic() -> None:
    rng = np.random.default_rng(0)
    one, two = (np.where(rng.random((6, 6)) < 0.5, rng.standard_normal((6, 6)), 0).astype(np.float32) for _ in "ab")
    scaled = [part * 6 / np.abs(part).sum() for part in (one, two)]
    mixed = neighbours.mixed([(0.5, neighbours.to_csr(one)), (2.0, neighbours.to_csr(two))])
    expected = 0.5 * scaled[0] + 2.0 * scaled[1]
    np.testing.assert_allclose(to_dense(mixed), expected, rtol=1e-5, atol=1e-7)
    kept = to_dense(neighbours.cut_csr(mixed, 2))
    for row, whole in zip(kept, expected, strict=True):
        best = np.argsort(-np.abs(whole))[:2]
        np.testing.assert_allclose(row[best], whole[best], rtol=1e-5)
        assert np.count_nonzero(row) <= 2


def to_dense(csr: neighbours.Csr) -> np.ndarray[Any, Any]:
    indptr, ids, weights = csr
    out = np.zeros((len(indptr) - 1, len(indptr) - 1), np.float32)
    out[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), ids] = weights
    return out


def test_scores_of_the_validation_are_sums_over_the_newest_distinct_items() -> None:
    baskets = Baskets.of(chain(n_users=4))
    weights = neighbours.markov(baskets, Markov())
    chosen = np.array([5, 20])
    found = neighbours.scores(baskets, chosen, weights, Recency(1e9, 2.0, 3))
    for basket, line in zip(chosen.tolist(), found, strict=True):
        past = baskets.item[baskets.first[basket] : baskets.start[basket]][::-1]
        rows = list(dict.fromkeys(past.tolist()))[:3]
        expected = sum(0.5 ** (place / 2) * to_dense(weights)[row] for place, row in enumerate(rows))
        np.testing.assert_allclose(line, expected, rtol=1e-5)


def test_near_factors_bring_items_together_that_follow_each_other() -> None:
    vectors = neighbours.near_factors(Baskets.of(chain()), 8, 0.5, 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 0.5, rtol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[np.arange(29), np.arange(1, 30)].mean() > likeness.mean() + 0.1


# the recipe and the command


def test_constants_of_the_recipe_are_changed_by_their_names() -> None:
    found = changed(recipe_for("sasrec"), {"encoder.epochs": "3", "dim": "32", "architecture.heads": "2"})
    assert (found.encoder.epochs, found.dim, found.architecture["heads"]) == (3, 32, 2)
    for name, value in (("encoder.nope", "1"), ("nope", "1"), ("encoder.epochs", "many"), ("mixes", "1")):
        with pytest.raises(RequestError):
            changed(recipe_for("sasrec"), {name: value})
    with pytest.raises(TrainingError, match="no model 'nope'"):
        recipe_for("nope")


def test_the_command_trains_a_sequence_model_by_leave_one_out(tmp_path: Path) -> None:
    data = chain(n_users=20)
    write(as_dataset(data), tmp_path / f"chain{SUFFIX}")
    out = tmp_path / "chain.model"
    arguments = ["--data", tmp_path / f"chain{SUFFIX}", "--out", out, "--protocol", "loo", "--model", "sasrec"]
    arguments += ["--dim", 8, "--epochs", 1, "--set", "history_length=10"]
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exception is None, result.output
    assert "as default, for nobody repeats" in result.output or "reorder" in result.output
    found = load_trained(out)
    assert found.vectors.shape == (N_ITEMS, 8)
    assert isinstance(found.scenarios["default"], Scenario)
    assert max(len(past.rows) for past in found.histories) == 12  # of 14: one is for the test, one is asked for
    for wrong in (["--set", "dim"], ["--cutoff", "2001-09-09"]):
        refused = CliRunner().invoke(command, [str(each) for each in [*arguments, *wrong]])
        assert isinstance(refused.exception, RequestError)


def as_dataset(data: Interactions) -> Dataset:
    return Dataset(
        name="chain",
        users=tuple(f"u{row}" for row in range(data.n_users)),
        items=tuple(sorted(data.items)),
        titles=tuple(data.titles),
        kinds=tuple(data.kinds),
        user=data.user,
        item=data.item,
        at=data.at,
        kind=data.kind.astype(np.int16),
        value=data.value,
        group=data.group,
    )
