"""The updater `foldin`: its vector is the closed form of the stated ridge regression over the newest events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pluggy
import pytest
from batches import DIM, N_ITEMS, make_batch, make_model, one_of

from edgerec import hookspecs
from edgerec.errors import ConfigError, PluginError
from edgerec.interfaces import Updater
from edgerec.types import Event, Float64, LearningBatch, Model, State
from edgerec_plugins import foldin
from edgerec_plugins.foldin import FoldIn

DAY = 86400.0
START = 1_300_000_000.0


def dated(days: Sequence[float], batch: LearningBatch) -> LearningBatch:
    """The batch with its events `days` after START."""
    times = [START + day * DAY for day in days]
    events = tuple(Event(str(k), at=at) for k, at in enumerate(times))
    return dataclasses.replace(batch, events=events, now=max(times))


def closed_form(
    rows: Sequence[int], weight: Float64, query: Float64, model: Model, settings: Mapping[str, Any]
) -> Float64:
    """Least squares over stacked rows, which shares no line with the normal equations; `weight` decayed already."""
    vectors = model.vectors.astype(np.float64)
    explained = vectors @ query + model.bias if settings.get("use_query", True) else np.zeros(N_ITEMS)
    root = np.sqrt(weight)[:, None]
    left = [root * vectors[rows], np.sqrt(settings.get("alpha", 0.0)) * vectors, np.sqrt(settings["l2"]) * np.eye(DIM)]
    right = [root[:, 0] * (settings.get("target", 1.0) - explained[rows]), np.zeros(N_ITEMS + DIM)]
    solution: Float64 = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]
    return solution


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": 0.5},
        {"l2": 0.5, "use_query": False},
        {"l2": 2.0, "alpha": 0.3, "target": 4.0},
        {"l2": 0.1, "alpha": 1.0, "use_query": False, "half_life_days": 5.0},
    ],
)
def test_the_vector_is_the_closed_form(settings: dict[str, Any]) -> None:
    rows, weight, days = [7, 3, 7, 20, 5], np.array([1.0, 2.0, 1.0, 0.5, 1.0]), np.array([0.0, 10.0, 35.0, 40.0, 40.0])
    batch = dated(days.tolist(), make_batch(rows, weight=weight.tolist()))
    updater = FoldIn(settings)
    state = updater.update(updater.initial(batch.model), batch)
    decayed = weight * 0.5 ** ((40.0 - days) / settings.get("half_life_days", 60.0))
    expected = closed_form(rows, decayed, batch.query[-1].astype(np.float64), batch.model, settings)
    np.testing.assert_allclose(state["u"], expected, rtol=1e-5, atol=1e-6)
    assert updater.user_vector(state).dtype == np.float32


def test_with_a_background_it_is_hu_koren_volinsky() -> None:
    """x = (YᵀCY + l2 I)⁻¹ YᵀC p with confidence 1 + r for the chosen items and 1 for all others (their eq. 4)."""
    rows, r = [7, 3, 20], 5.0
    batch = dated([0, 0, 0], make_batch(rows, weight=r))
    updater = FoldIn({"alpha": 1.0, "target": (1 + r) / r, "l2": 0.7, "use_query": False})
    state = updater.update(updater.initial(batch.model), batch)
    preference = np.zeros(N_ITEMS)
    preference[rows] = 1
    y, confidence = batch.model.vectors.astype(np.float64), 1 + r * preference
    expected = np.linalg.solve((y.T * confidence) @ y + 0.7 * np.eye(DIM), y.T @ (confidence * preference))
    np.testing.assert_allclose(state["u"], expected, rtol=1e-5, atol=1e-6)


def test_the_background_follows_the_model() -> None:
    updater = FoldIn({"alpha": 1.0})
    one, other = make_model(0), make_model(1)
    for model in (one, other, one):
        batch = dated([0], make_batch([7], model=model))
        known = updater.update(updater.initial(batch.model), batch)
        fresh = FoldIn({"alpha": 1.0}).update(updater.initial(batch.model), batch)
        np.testing.assert_array_equal(known["u"], fresh["u"])


def test_one_by_one_equals_all_at_once_in_any_order() -> None:
    whole = dated([3, 1, 2, 9], make_batch([7, 3, 20, 5]))
    whole = dataclasses.replace(whole, query=np.broadcast_to(whole.query[:1], whole.query.shape))
    updater = FoldIn({"last": 3})
    together = updater.update(updater.initial(whole.model), whole)
    state: State = updater.initial(whole.model)
    for k in (3, 0, 2, 1):
        state = updater.update(state, one_of(whole, k))
    assert {name: array.tolist() for name, array in state.items()} == {
        name: array.tolist() for name, array in together.items()
    }
    assert together["rows"].tolist() == [20, 7, 5]


def test_only_positive_events_of_known_items_are_kept() -> None:
    batch = dated([0, 1, 2, 3, 4, 5], make_batch([7, -1, 3, 5, 9, 11], weight=[1, 1, -1, 0, np.nan, np.inf]))
    updater = FoldIn({})
    state = updater.update(updater.initial(batch.model), batch)
    assert state["rows"].tolist() == [7]
    nothing = dated([6], make_batch([3], weight=-1.0))
    assert updater.update(state, nothing)["u"].tobytes() == state["u"].tobytes()


def test_times_may_be_missing_aware_or_absurd() -> None:
    batch = make_batch([7, 3, 20])
    events = (Event("a"), Event("b", at=datetime(2011, 6, 1, tzinfo=UTC)), Event("c", at=float("nan")))
    state = FoldIn({}).update(FoldIn({}).initial(batch.model), dataclasses.replace(batch, events=events, now=2e9))
    assert state["rows"].tolist() == [3, 7]
    assert state["at"].tolist() == [datetime(2011, 6, 1, tzinfo=UTC).timestamp(), 2e9]


def test_state_dtypes_and_inputs_left_alone() -> None:
    updater, batch = FoldIn({}), dated([0, 1], make_batch([7, 3]))
    first = updater.update(updater.initial(batch.model), batch)
    for array in first.values():
        array.flags.writeable = False
    before = {name: array.tobytes() for name, array in first.items()}
    second = updater.update(first, dated([2, 3], make_batch([20, 7], seed=4)))
    assert {name: array.tobytes() for name, array in first.items()} == before
    dtypes = {"u": np.float32, "rows": np.int32, "at": np.float64, "weight": np.float32}
    assert {name: array.dtype.type for name, array in second.items()} == dtypes
    again = FoldIn({}).update(first, dated([2, 3], make_batch([20, 7], seed=4)))
    assert {name: array.tobytes() for name, array in again.items()} == {n: a.tobytes() for n, a in second.items()}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_query_that_is_not_finite_leaves_the_vector_as_it_was(bad: float) -> None:
    updater, batch = FoldIn({}), dated([0], make_batch([7]))
    state = updater.update(updater.initial(batch.model), batch)
    broken = dataclasses.replace(batch, query=np.full((1, DIM), bad, np.float32))
    assert np.isfinite(updater.update(state, broken)["u"]).all()


def test_huge_weights_stay_finite() -> None:
    updater, batch = FoldIn({}), dated([0, 0], make_batch([7, 3], weight=3e38))
    assert np.isfinite(updater.update(updater.initial(batch.model), batch)["u"]).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("l2", 0.0),
        ("l2", float("nan")),
        ("half_life_days", 0),
        ("half_life_days", "60"),
        ("last", 0),
        ("last", 2.5),
        ("target", float("inf")),
        ("use_query", 1),
        ("alpha", -0.1),
        ("lambda", 1.0),
    ],
)
def test_a_wrong_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting) as caught:
        FoldIn({setting: value})
    assert caught.value.hint


def test_it_registers_as_an_updater() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(foldin)
    [found] = manager.hook.edgerec_updaters()
    updater = found["foldin"]({})
    assert isinstance(updater, Updater)
    initial = updater.initial(make_model())
    np.testing.assert_array_equal(updater.user_vector(initial), np.zeros(DIM, np.float32))
    with pytest.raises(PluginError, match="schema 0"):
        updater.migrate(initial, 0)
