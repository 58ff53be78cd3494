"""The updater `sgd`: its steps are the gradients it claims, its state finite, bounded, a function of the input."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pluggy
import pytest
import torch
from batches import DIM, N_ITEMS, M, make_batch, make_model, make_replayed, one_of, some_u, state_with
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgerec import hookspecs
from edgerec.errors import ConfigError, PluginError
from edgerec.interfaces import Updater
from edgerec.types import Float32, LearningBatch, State
from edgerec_plugins import sgd
from edgerec_plugins.sgd import LOSSES, Sgd

FREE = {"pull": 0.0, "max_norm": 1e6, "max_step": 1e6, "rate": 1.0}
RANKING = ("softmax", "bpr", "logistic")
EACH = [loss for loss in LOSSES if loss != "perceptron"]
"""Losses of one event; the perceptron's is one of the whole batch."""


def without_query(batch: LearningBatch) -> LearningBatch:
    """The same events where neither query nor bias says anything yet."""
    model = dataclasses.replace(batch.model, bias=np.zeros_like(batch.model.bias))
    return dataclasses.replace(batch, query=np.zeros_like(batch.query), model=model)


def loss_of(u: torch.Tensor, batch: LearningBatch, k: int, loss: str, **constants: float) -> torch.Tensor:
    """The docstring's loss of event k in float64, |weight| times; written with torch's own loss functions."""
    row, weight = int(batch.rows[k]), float(batch.weight[k])
    drawn = [int(j) for j in batch.negatives[k]]
    vectors, bias = torch.tensor(batch.model.vectors).double(), torch.tensor(batch.model.bias).double()
    scores = (vectors @ (torch.tensor(batch.query[k]).double() + u) + bias) / constants.get("temperature", 1.0)
    others = torch.stack([scores[j] for j in drawn if j != row])
    if weight < 0:
        value = torch.nn.functional.softplus(scores[row] - others).sum() / len(drawn)
    elif loss == "softmax":
        both = torch.cat([scores[row][None], others])
        value = torch.nn.functional.cross_entropy(both[None], torch.tensor([0]))
    elif loss == "bpr":
        value = -torch.nn.functional.logsigmoid(scores[row] - others).sum() / len(drawn)
    elif loss == "logistic":
        softplus = torch.nn.functional.softplus
        value = softplus(-scores[row]) + softplus(others).sum() / len(drawn)
    else:
        target = (float(batch.value[k]) - constants.get("centre", 0.0)) / constants.get("scale", 1.0)
        value = (scores[row] - target) ** 2 / 2
    return abs(weight) * value


def numeric_gradient(u: Float32, batch: LearningBatch, loss: str, **constants: float) -> np.ndarray[Any, Any]:
    width = 1e-5
    shifts = torch.eye(DIM, dtype=torch.float64) * width
    at = torch.tensor(u).double()
    ends = [[loss_of(at + sign * shift, batch, 0, loss, **constants) for sign in (1, -1)] for shift in shifts]
    return np.array([float(up - down) / (2 * width) for up, down in ends])


GRADIENT_CASES = [
    (loss, weight, constants)
    for loss in EACH
    for weight in (1.0, 2.5, -1.5)
    for constants in ({}, {"temperature": 0.5}, {"centre": 3.0, "scale": 2.0})
]


@pytest.mark.parametrize(("loss", "weight", "constants"), GRADIENT_CASES)
def test_a_step_is_the_gradient_of_the_stated_loss(loss: str, weight: float, constants: dict[str, float]) -> None:
    batch = make_batch([7], weight=weight, value=4.0, negatives=[[3, 7, 9, 9, 12]])
    u = some_u()
    moved = Sgd({"loss": loss, **FREE, **constants}).update(state_with(u.copy()), batch)["u"]
    at = torch.tensor(u).double().requires_grad_()
    [gradient] = torch.autograd.grad(loss_of(at, batch, 0, loss, **constants), at)
    np.testing.assert_allclose(u - moved, gradient.numpy(), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(u - moved, numeric_gradient(u, batch, loss, **constants), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", EACH)
def test_a_batch_equals_torch_sgd(loss: str) -> None:
    batch = make_batch([7, 1, 3, 7, 20], weight=[1, 2, -1, 0.5, 1], value=[1, 5, 2, 3, 4])
    moved = Sgd({**FREE, "loss": loss, "rate": 0.2}).update(state_with(some_u()), batch)["u"]
    u = torch.tensor(some_u()).double().requires_grad_()
    optimiser = torch.optim.SGD([u], lr=0.2)
    for k in range(5):
        [u.grad] = torch.autograd.grad(loss_of(u, batch, k, loss), u)
        optimiser.step()
    np.testing.assert_allclose(moved, u.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_are_left_alone_and_equal_inputs_give_equal_states(loss: str) -> None:
    batch = make_batch([7, -1, 3], weight=[1, 1, -1], value=3.0, replayed=make_replayed([4, 9]))
    state = state_with(some_u(), 5)
    updater = Sgd({"loss": loss, "temperature": 2.0, "epochs": 2})
    first = updater.update(state, batch)
    second = Sgd({"loss": loss, "temperature": 2.0, "epochs": 2}).update(state, batch)
    assert first["u"].tobytes() == second["u"].tobytes()
    assert first["u"].dtype == np.float32
    assert first["steps"].dtype == np.int64
    assert not np.array_equal(first["u"], state["u"])
    np.testing.assert_array_equal(state["u"], some_u())
    assert state["steps"] == 5


@pytest.mark.parametrize("loss", EACH)
def test_a_batch_equals_its_events_one_by_one(loss: str) -> None:
    batch = make_batch([7, 1, -1, 3, 7], weight=[1, 2, 1, -1, 0.5], value=[1, 5, 2, 3, 4])
    updater = Sgd({"loss": loss, "decay": 0.5})
    whole = updater.update(state_with(some_u()), batch)
    state: State = state_with(some_u())
    for k in range(5):
        state = updater.update(state, one_of(batch, k))
    assert whole["u"].tobytes() == state["u"].tobytes()
    assert whole["steps"] == state["steps"]


def test_only_events_that_teach_count_as_steps() -> None:
    state = state_with(some_u())
    after = Sgd({}).update(state, make_batch([7, -1, 3, 5], weight=[0, 1, np.nan, np.inf]))
    np.testing.assert_array_equal(after["u"], state["u"])
    assert after["steps"] == 0
    empty = Sgd({}).update(state, make_batch([], replayed=make_replayed([3])))
    np.testing.assert_array_equal(empty["u"], state["u"])


def perceptron_loss(u: torch.Tensor, batch: LearningBatch, others: list[int], temperature: float) -> torch.Tensor:
    """The docstring's loss of the positive events together, times their mean weight, in float64."""
    vectors, bias = torch.tensor(batch.model.vectors).double(), torch.tensor(batch.model.bias).double()
    scores = (vectors @ (torch.tensor(batch.query[0]).double() + u) + bias) / temperature
    speaks = (batch.rows >= 0) & (batch.weight > 0)
    weight = torch.tensor(batch.weight[speaks]).double()
    item = (weight * scores[batch.rows[speaks].tolist()]).sum() / weight.sum()
    return weight.mean() * (scores[others].mean() - item)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("rivals", [[2, 5, 30], []])
def test_the_perceptron_takes_one_step_for_a_batch(rivals: list[int], temperature: float) -> None:
    batch = make_batch([7, 1, -1, 7], weight=[1, 2, 1, 0.5], replayed=make_replayed([4, 9]))
    batch = dataclasses.replace(batch, rivals=np.array(rivals, np.int32))
    others = rivals or sorted({*batch.negatives.ravel().tolist()} - {7, 1})
    after = Sgd({"loss": "perceptron", **FREE, "temperature": temperature}).update(state_with(some_u()), batch)
    at = torch.tensor(some_u()).double().requires_grad_()
    [gradient] = torch.autograd.grad(perceptron_loss(at, batch, others, temperature), at)
    np.testing.assert_allclose(some_u() - after["u"], gradient.numpy(), rtol=1e-4, atol=2e-6)
    assert after["steps"] == 1


def test_the_perceptron_learns_from_dislikes_like_all_others_one_by_one() -> None:
    batch = make_batch([7, 3, 9], weight=[1, -1, -2])
    batch = dataclasses.replace(batch, rivals=np.array([2, 5], np.int32))
    updater, liked = Sgd({"loss": "perceptron"}), make_batch([7])
    liked = dataclasses.replace(liked, rivals=batch.rivals)
    by_hand = Sgd({}).update(updater.update(state_with(some_u()), liked), one_of(batch, 1))
    by_hand = Sgd({}).update(by_hand, one_of(batch, 2))
    after = updater.update(state_with(some_u()), batch)
    np.testing.assert_allclose(after["u"], by_hand["u"], atol=1e-6)
    assert after["steps"] == 3


def test_the_perceptron_does_not_stop_where_taste_alone_is_right() -> None:
    batch = dataclasses.replace(make_batch([7]), rivals=np.array([2, 5], np.int32))
    vectors = batch.model.vectors
    certain = dataclasses.replace(batch, query=100 * (vectors[7] - vectors[[2, 5]].mean(axis=0))[None])
    moves = [Sgd({"loss": "perceptron"}).update(state_with(some_u()), one)["u"] for one in (batch, certain)]
    np.testing.assert_array_equal(*moves)
    assert not np.array_equal(moves[0], some_u())


def test_without_a_value_squared_learns_nothing() -> None:
    state = state_with(some_u())
    after = Sgd({"loss": "squared"}).update(state, make_batch([7], replayed=make_replayed([3])))
    np.testing.assert_array_equal(after["u"], state["u"])
    assert after["steps"] == 0


@pytest.mark.parametrize("loss", RANKING)
def test_a_negative_that_is_the_item_itself_is_left_out(loss: str) -> None:
    updater, model = Sgd({"loss": loss}), make_model()
    before = state_with(np.zeros(DIM, np.float32))
    after = updater.update(before, make_batch([7], negatives=[[7] * M], model=model))
    alone = updater.update(before, make_batch([7], negatives=[[]], model=model))
    np.testing.assert_allclose(after["u"], alone["u"], atol=1e-6)
    disliked = updater.update(before, make_batch([7], weight=-1.0, negatives=[[7] * M], model=model))
    np.testing.assert_array_equal(disliked["u"], 0)


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_an_event_moves_its_item_against_the_negatives(loss: str, weight: float) -> None:
    updater = Sgd({"loss": loss})
    for seed in range(20):
        batch = without_query(make_batch([7], weight=weight, negatives=[[3, 5, 9, 11, 20]], model=make_model(seed)))
        u = updater.update(updater.initial(batch.model), batch)["u"]
        gain = batch.model.vectors @ u
        assert weight * (gain[7] - gain[[3, 5, 9, 11, 20]].mean()) > 0


@pytest.mark.parametrize("level", [-50.0, 0.0, 50.0])
def test_a_dislike_does_not_hang_on_the_level_of_the_scores(level: float) -> None:
    model = make_model()
    shifted = dataclasses.replace(model, bias=model.bias + np.float32(level))
    steps = [
        Sgd({}).update(state_with(some_u()), make_batch([7], weight=-1.0, model=each))["u"] for each in (model, shifted)
    ]
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-4)


def test_replayed_events_are_learned_after_the_batch_at_their_own_weight() -> None:
    updater, model, again = Sgd({"replay": 0.25, "decay": 0.1}), make_model(), make_replayed([4, 9, 30], weight=2.0)
    batch = make_batch([7, 8], model=model, replayed=again)
    by_hand = updater.update(state_with(some_u()), dataclasses.replace(batch, replayed=make_replayed()))
    for k, negatives in enumerate([0, 1, 0]):
        one = dataclasses.replace(
            one_of(batch, negatives),
            rows=again.rows[k : k + 1],
            weight=again.weight[k : k + 1] * np.float32(0.25),
            query=again.query[k : k + 1],
            replayed=make_replayed(),
        )
        by_hand = updater.update(by_hand, one)
    together = updater.update(state_with(some_u()), batch)
    np.testing.assert_array_equal(together["u"], by_hand["u"])
    assert together["steps"] == 5
    without = Sgd({"replay": 0, "decay": 0.1}).update(state_with(some_u()), batch)
    assert without["steps"] == 2


def test_epochs_repeat_the_batch_in_order() -> None:
    batch = make_batch([7, 8, 9])
    twice = Sgd({}).update(Sgd({}).update(state_with(some_u()), batch), batch)
    epochs = Sgd({"epochs": 2}).update(state_with(some_u()), batch)
    assert twice["u"].tobytes() == epochs["u"].tobytes()
    assert epochs["steps"] == 6


def test_the_rate_decays_with_the_steps() -> None:
    batch, u = make_batch([7]), some_u()
    fresh = Sgd({**FREE, "decay": 0.5}).update(state_with(u.copy(), 0), batch)["u"] - u
    later = Sgd({**FREE, "decay": 0.5}).update(state_with(u.copy(), 6), batch)["u"] - u
    np.testing.assert_allclose(later, fresh / 4, atol=1e-6)


def test_the_pull_is_the_proximal_operator_of_the_prior() -> None:
    batch, u = make_batch([7]), some_u()
    constants = {**FREE, "rate": 0.3}
    free = Sgd(constants).update(state_with(u.copy()), batch)["u"]
    pulled = Sgd({**constants, "pull": 2.0}).update(state_with(u.copy()), batch)["u"]
    np.testing.assert_allclose(pulled, free / (1 + 0.3 * 2.0), rtol=1e-5)
    assert np.linalg.norm(pulled) < np.linalg.norm(free)


def test_a_move_is_at_most_max_step_and_u_at_most_max_norm() -> None:
    batch, u = make_batch([7], weight=50.0), some_u()
    whole = Sgd(FREE).update(state_with(u.copy()), batch)["u"] - u
    cut = Sgd({**FREE, "max_step": 0.2}).update(state_with(u.copy()), batch)["u"] - u
    np.testing.assert_allclose(cut, whole * 0.2 / np.linalg.norm(whole), atol=1e-5)
    near = Sgd({**FREE, "max_norm": 0.7}).update(state_with(u.copy()), batch)["u"]
    np.testing.assert_allclose(near, (u + whole) * 0.7 / np.linalg.norm(u + whole), atol=1e-5)


def test_what_is_cut_to_max_norm_is_not_above_it() -> None:
    updater, u = Sgd({"loss": "perceptron", "max_norm": 0.7}), some_u()
    for seed in range(200):
        batch = dataclasses.replace(make_batch([7], model=make_model(seed)), rivals=np.array([2, 5], np.int32))
        u = updater.update(state_with(u.copy()), batch)["u"]
        assert np.sqrt(u.dot(u)) <= 0.7


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    loss=st.sampled_from(sorted(LOSSES)),
    weight=hnp.arrays(np.float32, 3, elements=anything),
    value=hnp.arrays(np.float32, 3, elements=anything),
    query=hnp.arrays(np.float32, (3, DIM), elements=anything),
)
def test_whatever_an_event_holds_the_state_stays_finite_and_bounded(
    loss: str, weight: Float32, value: Float32, query: Float32
) -> None:
    batch = dataclasses.replace(make_batch([7, 3, 7]), weight=weight, value=value, query=query)
    updater = Sgd({"loss": loss, "max_norm": 3.0})
    for again in (make_replayed(), dataclasses.replace(make_replayed([4, 5, 6]), weight=weight, query=query)):
        u = updater.update(state_with(some_u()), dataclasses.replace(batch, replayed=again))["u"]
        assert np.isfinite(u).all()
        assert np.linalg.norm(u) <= max(3.0, float(np.linalg.norm(some_u()))) * (1 + 1e-5)


@pytest.mark.parametrize("loss", RANKING)
def test_a_taste_is_learned(loss: str) -> None:
    """A user who only takes items of one direction gets these on top."""
    rng, model, updater = np.random.default_rng(5), make_model(), Sgd({"loss": loss})
    liked = np.argsort(-(model.vectors @ some_u(8)))[:6]
    state = updater.initial(model)
    for _ in range(300):
        batch = make_batch([int(rng.choice(liked))], model=model, negatives=rng.integers(0, N_ITEMS, (1, M)).tolist())
        state = updater.update(state, without_query(batch))
    place = np.argsort(np.argsort(-(model.vectors @ updater.user_vector(state))))
    assert place[liked].mean() < 5


def test_ratings_are_learned() -> None:
    model, truth = make_model(), some_u(9)
    stars = 3 + 2 * (model.vectors @ truth)
    updater = Sgd({"loss": "squared", "centre": 3.0, "scale": 2.0, "pull": 0.0, "rate": 0.05})
    state = updater.initial(model)
    for row in list(range(N_ITEMS)) * 30:
        batch = make_batch([row], value=float(stars[row]), model=model)
        state = updater.update(state, without_query(batch))
    np.testing.assert_allclose(updater.user_vector(state), truth, atol=1e-2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("loss", "hinge"),
        ("loss", 3),
        ("rate", 0),
        ("rate", -0.1),
        ("rate", float("nan")),
        ("rate", "fast"),
        ("rate", True),
        ("decay", -1.0),
        ("pull", float("inf")),
        ("max_norm", 0.0),
        ("max_step", 0.0),
        ("replay", -1),
        ("temperature", 0.0),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("centre", None),
        ("scale", 0.0),
        ("learning_rate", 0.1),
    ],
)
def test_a_wrong_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting) as caught:
        Sgd({setting: value})
    assert caught.value.hint


def test_it_registers_as_an_updater() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(sgd)
    [found] = manager.hook.edgerec_updaters()
    updater = found["sgd"]({})
    assert isinstance(updater, Updater)
    model = make_model()
    np.testing.assert_array_equal(updater.user_vector(updater.initial(model)), np.zeros(DIM, np.float32))
    with pytest.raises(PluginError, match="schema 0"):
        updater.migrate(updater.initial(model), 0)
