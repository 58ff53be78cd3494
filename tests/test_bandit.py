"""The updater and source `bandit`: LinUCB's formulas, on traits that tell the items apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pluggy
import pytest
from batches import DIM, make_batch, make_model, make_replayed, one_of
from conftest import Opener
from slates import REQUEST, model_of, profile_of

from edgerec import hookspecs
from edgerec.checks import conformance
from edgerec.errors import ConfigError, PluginError
from edgerec.interfaces import CandidateSource, Updater
from edgerec.types import Float32, Model, State
from edgerec_plugins import bandit
from edgerec_plugins.bandit import BanditSource, BanditUpdater, described, principal

TestUpdater = conformance(BanditUpdater)
TestSource = conformance(BanditSource)


def scored(state: State, model: Model, **settings: Any) -> Float32:
    profile = profile_of(dim=model.dim, states={"bandit": state})
    return BanditSource(settings).score(REQUEST, profile, model).standardised(model.n_items)


def test_traits_are_the_principal_directions_at_equal_scale() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 5)) * [5, 0.5, 3, 1, 2] + 7).astype(np.float32)
    mean, basis = principal(vectors, 3)
    x = described(vectors, {"basis": basis, "mean": mean})
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(x.T @ x / 500, np.eye(3), atol=1e-3)
    assert np.abs(basis).argmax(axis=1).tolist() == [0, 2, 4]
    centred = vectors - vectors.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)[:3] / np.sqrt(500)
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), 1 / values, rtol=1e-4)


def test_a_catalogue_without_variety_has_no_traits() -> None:
    model = model_of(np.ones((10, 4)))
    state = BanditUpdater({}).initial(model)
    assert not state["basis"].any()
    assert np.isfinite(scored(state, model)).all()
    narrow = BanditUpdater({"dim": 8}).initial(make_model())
    assert narrow["A"].shape == (DIM, DIM)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_state_and_scores_are_linucb(alpha: float) -> None:
    model = make_model()
    updater = BanditUpdater({"dim": 4, "ridge": 0.5})
    start = updater.initial(model)
    state = updater.update(start, make_batch([7, 3, 9, -1, 5], weight=[1, 2, -0.5, 1, 0], model=model))
    x = described(model.vectors, start).astype(np.float64)
    design, reward, weight = x[[7, 3, 9]], np.array([1, 1, -1.0]), np.array([1, 2, 0.5])
    a = 0.5 * np.eye(4) + (design.T * weight) @ design
    theta = np.linalg.solve(a, (design.T * weight) @ reward)
    expected = x @ theta + alpha * np.sqrt(np.einsum("ik,kl,il->i", x, np.linalg.inv(a), x))
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(scored(state, model, alpha=alpha), expected, atol=2e-4)


def test_what_is_liked_rises_and_what_is_disliked_falls() -> None:
    model, updater = make_model(), BanditUpdater({})
    start = updater.initial(model)
    for weight in (1.0, -1.0):
        state = updater.update(start, make_batch([7], weight=weight, model=model))
        scores = scored(state, model, alpha=0.0)
        assert weight * scores[7] > 0
        assert (weight * scores).argmax() == (weight * described(model.vectors, start) @ state["b"]).argmax()


def test_the_bonus_falls_where_items_were_tried() -> None:
    model, updater = make_model(), BanditUpdater({"dim": 4})
    few = updater.update(updater.initial(model), make_batch([7], model=model))
    many = few
    for _ in range(50):
        many = updater.update(many, make_batch([7], model=model))

    def bonus(state: State) -> Float32:
        with_bonus, without = (
            BanditSource({"alpha": alpha}).score(REQUEST, profile_of(states={"bandit": state}), model).values
            for alpha in (1.0, 0.0)
        )
        return with_bonus - without

    assert bonus(many)[7] < 0.3 * bonus(few)[7]
    x = described(model.vectors, few)
    aside = np.abs(x @ x[7]).argmin()
    assert bonus(many)[aside] > 0.9 * bonus(few)[aside]


def test_without_a_state_or_an_event_it_is_silent() -> None:
    model = make_model()
    assert not scored(BanditUpdater({}).initial(model), model).any()
    nothing = BanditSource({}).score(REQUEST, profile_of(), model)
    assert nothing.std == 0


def test_a_batch_equals_its_events_one_by_one_and_nothing_is_changed_in_place() -> None:
    batch, updater = make_batch([7, 1, 3, 7], weight=[1, 2, -1, 0.5]), BanditUpdater({})
    start = updater.initial(batch.model)
    before = {name: array.copy() for name, array in start.items()}
    for array in start.values():
        array.flags.writeable = False
    whole = updater.update(start, batch)
    state = start
    for k in range(4):
        state = updater.update(state, one_of(batch, k))
    for name in start:
        assert whole[name].tobytes() == state[name].tobytes()
        assert start[name].tobytes() == before[name].tobytes()


def test_replayed_and_meaningless_events_teach_nothing() -> None:
    updater = BanditUpdater({})
    batch = make_batch([-1, 3, 5, 7], weight=[1, 0, np.nan, np.inf], replayed=make_replayed([4, 9]))
    start = updater.initial(batch.model)
    assert updater.update(start, batch) is start


def test_new_items_behind_the_catalogue_are_described_alike() -> None:
    """What the store's overlay appends changes nothing for the others, and is scored by its own vector."""
    model, updater = make_model(), BanditUpdater({})
    state = updater.update(updater.initial(model), make_batch([7, 3], model=model))
    longer = dataclasses.replace(
        model,
        vectors=np.concatenate((model.vectors, model.vectors[7:8])),
        bias=np.append(model.bias, np.float32(0)),
        popularity=np.append(model.popularity, np.float32(0)),
    )
    source = BanditSource({})
    profile = profile_of(states={"bandit": state})
    first = source.score(REQUEST, profile, model).values
    second = source.score(REQUEST, profile, longer).values
    np.testing.assert_allclose(second[:-1], first, rtol=1e-5)
    assert second[-1] == pytest.approx(first[7], rel=1e-5)


@pytest.mark.parametrize(("make", "wrong"), [(BanditUpdater, {"dim": 0}), (BanditSource, {"alpha": -1.0})])
def test_wrong_settings_are_named(make: type[BanditUpdater | BanditSource], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make(wrong)


def test_it_registers_itself_and_fulfils_the_contracts() -> None:
    manager = pluggy.PluginManager("edgerec")
    manager.add_hookspecs(hookspecs)
    manager.register(bandit)
    [updaters], [sources] = manager.hook.edgerec_updaters(), manager.hook.edgerec_sources()
    updater = updaters["bandit"]({})
    assert isinstance(updater, Updater)
    assert isinstance(sources["bandit"]({}), CandidateSource)
    assert updater.user_vector(updater.initial(make_model())) is None
    with pytest.raises(PluginError):
        updater.migrate({}, 0)


def test_in_the_runtime_it_learns_beside_the_updater_and_survives_the_process(opener: Opener) -> None:
    options: dict[str, Any] = {
        "plugins": ["edgerec_plugins.sgd", "edgerec_plugins.bandit"],
        "config": {"blend": {"weights": {"taste": 1.0, "bandit": 1.0}}, "sources": {"popular": {"boost": 0.0}}},
    }
    rec = opener(**options)
    for item in ("i3", "i9", "i3", "i5"):
        assert rec.record(item, "click").learned
    page = rec.recommend(5)
    assert not page.degraded
    assert any(one.parts["bandit"] for one in page)
    rec.close()
    again = opener(**options).recommend(5)
    assert [(one.item, one.parts) for one in again] == [(one.item, one.parts) for one in page]
