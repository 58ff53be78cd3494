"""The updaters `adagrad` and `ftrl`: the same steps as torch's, the optimum that FTRL promises, bounded states."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pluggy
import pytest
import torch
from batches import DIM, make_batch, make_model, make_replayed, one_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize  # type: ignore[import-untyped]
from test_sgd import EACH, loss_of

from edgerec import hookspecs
from edgerec.checks import conformance
from edgerec.errors import ConfigError, PluginError
from edgerec.interfaces import Updater
from edgerec.types import Float32, Float64, LearningBatch, State
from edgerec_plugins import adaptive
from edgerec_plugins.adaptive import Adagrad, Adaptive, Ftrl
from edgerec_plugins.sgd import LOSSES

BOTH = (Adagrad, Ftrl)
FREE = {"max_norm": 1e6}
TestAdagrad = conformance(Adagrad, settings=[{"loss": loss} for loss in LOSSES])
TestFtrl = conformance(Ftrl, settings=[{}, {"l1": 0.1}, {"loss": "bpr"}])
ROWS, WEIGHTS, VALUES = [7, 1, 3, 7, 20], [1, 2, -1, 0.5, 1], [1, 5, 2, 3, 4]


def five() -> LearningBatch:
    return make_batch(ROWS, weight=WEIGHTS, value=VALUES)


def learned(updater: Adaptive, batch: LearningBatch) -> State:
    return updater.update(updater.initial(batch.model), batch)


def torch_adagrad(batch: LearningBatch, loss: str, rate: float, epsilon: float) -> Float64:
    u = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adagrad([u], lr=rate, eps=epsilon)
    for k in range(len(batch.rows)):
        [u.grad] = torch.autograd.grad(loss_of(u, batch, k, loss), u)
        optimiser.step()
    found: Float64 = u.detach().numpy()
    return found


@pytest.mark.parametrize("loss", EACH)
def test_adagrad_is_torch_s(loss: str) -> None:
    settings = {"loss": loss, "rate": 0.2, "pull": 0.0, "max_step": 1e6, **FREE}
    u = learned(Adagrad(settings), five())["u"]
    np.testing.assert_allclose(u, torch_adagrad(five(), loss, 0.2, 1e-10), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", EACH)
def test_ftrl_without_penalties_is_adagrad(loss: str) -> None:
    settings = {"loss": loss, "rate": 0.2, "beta": 0.7, "l1": 0.0, "l2": 0.0, **FREE}
    u = learned(Ftrl(settings), five())["u"]
    np.testing.assert_allclose(u, torch_adagrad(five(), loss, 0.2, 0.7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.5), (1.0, 0.0), (1.0, 0.5)])
def test_ftrl_is_the_minimum_that_it_is_named_after(l1: float, l2: float) -> None:
    """McMahan et al. (2013), eq. 1: g_{1:t}·u + ½ Σ_s σ_s |u - u_s|² + l1 |u|_1 + ½ l2 |u|², and ½ beta/rate |u|²."""
    rate, beta, batch = 0.3, 0.6, five()
    updater = Ftrl({"rate": rate, "beta": beta, "l1": l1, "l2": l2, **FREE})
    state = updater.initial(batch.model)
    points, slopes = [], []
    for k in range(len(ROWS)):
        at = torch.tensor(state["u"]).double().requires_grad_()
        [gradient] = torch.autograd.grad(loss_of(at, batch, k, "softmax"), at)
        points.append(state["u"].astype(np.float64))
        slopes.append(gradient.numpy())
        state = updater.update(state, one_of(batch, k))
    g, past = np.array(slopes), np.array(points)
    sigma = np.diff(np.sqrt(np.cumsum(g**2, axis=0)), axis=0, prepend=0) / rate
    for i in range(DIM):

        def objective(u: float, i: int = i) -> float:
            near = (sigma[:, i] * (u - past[:, i]) ** 2).sum()
            return float(g[:, i].sum() * u + near / 2 + l1 * abs(u) + (l2 + beta / rate) * u * u / 2)

        best = optimize.minimize_scalar(objective, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10}).x
        assert state["u"][i] == pytest.approx(best, abs=2e-5)
    assert (state["u"] == 0).any() == (l1 > 0)


def test_the_pull_is_proximal() -> None:
    batch, settings = make_batch([7]), {"rate": 0.3, "epsilon": 0.5, "max_step": 1e6, **FREE}
    free = learned(Adagrad({**settings, "pull": 0.0}), batch)
    pulled = learned(Adagrad({**settings, "pull": 2.0}), batch)
    np.testing.assert_array_equal(pulled["G"], free["G"])
    np.testing.assert_allclose(pulled["u"], free["u"] / (1 + 2.0 * 0.3 / (np.sqrt(free["G"]) + 0.5)), rtol=1e-5)


def test_often_used_coordinates_move_less() -> None:
    batch = make_batch([7])
    updater = Adagrad({"pull": 0.0})
    once = learned(updater, batch)
    start: State = {"u": np.zeros(DIM, np.float32), "G": np.array([1e4] + [0.0] * (DIM - 1))}
    used = updater.update(start, batch)
    assert abs(used["u"][0]) < 0.1 * abs(once["u"][0])
    np.testing.assert_allclose(used["u"][1:], once["u"][1:], rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_epochs_repeat_the_batch_and_replayed_events_follow_at_their_own_weight(kind: type[Adagrad | Ftrl]) -> None:
    again = make_replayed([4], weight=2.0)
    batch = make_batch([7], replayed=again)
    alone = dataclasses.replace(batch, replayed=make_replayed())
    past = dataclasses.replace(alone, rows=again.rows, weight=again.weight * np.float32(0.25), query=again.query)
    updater = kind({})
    by_hand = updater.update(updater.update(learned(updater, alone), alone), past)
    together = learned(kind({"replay": 0.25, "epochs": 2}), batch)
    assert {name: array.tobytes() for name, array in by_hand.items()} == {
        name: array.tobytes() for name, array in together.items()
    }


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("loss", EACH)
def test_a_batch_equals_its_events_one_by_one(kind: type[Adagrad | Ftrl], loss: str) -> None:
    batch = make_batch([7, 1, -1, 3, 7], weight=[1, 2, 1, -1, 0.5], value=VALUES)
    updater = kind({"loss": loss})
    start = updater.initial(batch.model)
    for array in start.values():
        array.flags.writeable = False
    whole, state = updater.update(start, batch), start
    for k in range(5):
        state = updater.update(state, one_of(batch, k))
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in state.items()
    }
    assert whole["u"].any()
    assert not start["u"].any()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_an_event_moves_its_item_against_the_negatives(kind: type[Adagrad | Ftrl], weight: float) -> None:
    for seed in range(20):
        batch = make_batch([7], weight=weight, negatives=[[3, 5, 9, 11, 20]], model=make_model(seed))
        gain = batch.model.vectors @ learned(kind({}), batch)["u"]
        assert weight * (gain[7] - gain[[3, 5, 9, 11, 20]].mean()) > 0


def test_adagrad_s_move_is_at_most_max_step() -> None:
    u = learned(Adagrad({"rate": 5.0, "max_step": 0.3}), make_batch([7]))["u"]
    assert np.linalg.norm(u) == pytest.approx(0.3, rel=1e-5)


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(BOTH),
    loss=st.sampled_from(sorted(LOSSES)),
    weight=hnp.arrays(np.float32, 3, elements=anything),
    value=hnp.arrays(np.float32, 3, elements=anything),
    query=hnp.arrays(np.float32, (3, DIM), elements=anything),
)
def test_whatever_an_event_holds_the_state_stays_finite_and_bounded(
    kind: type[Adagrad | Ftrl], loss: str, weight: Float32, value: Float32, query: Float32
) -> None:
    batch = dataclasses.replace(make_batch([7, 3, 7]), weight=weight, value=value, query=query)
    state = learned(kind({"loss": loss, "max_norm": 3.0}), batch)
    assert all(np.isfinite(array).all() for array in state.values())
    assert np.linalg.norm(state["u"]) <= 3.0 + 1e-5


@pytest.mark.parametrize(
    ("kind", "wrong"), [(Adagrad, {"rate": 0}), (Adagrad, {"beta": 1.0}), (Ftrl, {"l1": -1}), (Ftrl, {"loss": "no"})]
)
def test_wrong_settings_are_named(kind: type[Adagrad | Ftrl], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(wrong)


def test_they_register_themselves_and_fulfil_the_contract() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(adaptive)
    [registered] = manager.hook.edgerec_updaters()
    assert set(registered) == {"adagrad", "ftrl"}
    for factory in registered.values():
        updater = factory({})
        assert isinstance(updater, Updater)
        with pytest.raises(PluginError):
            updater.migrate({}, 0)
