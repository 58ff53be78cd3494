"""Learning: draws that any host can repeat, ranks, the blend's rule, the guard, the learner's step."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from conftest import DAY, START, Opener
from hypothesis import given
from hypothesis import strategies as st

from edgerec.hookspecs import hookimpl
from edgerec.learning import guard, progressive, weights
from edgerec.learning.draws import draw, seed_of
from edgerec.learning.state import Learned, from_state, initial_progress, to_state
from edgerec.types import LearningBatch, Model, State

RNG = np.random.default_rng(7)


def test_seeds_are_fnv1a() -> None:
    # the published test vectors of FNV-1a, 64 bit
    assert seed_of("") == 0xCBF29CE484222325
    assert seed_of("a") == 0xAF63DC4C8601EC8C
    assert seed_of("foobar") == 0x85944171F73967E8


def test_draws_are_splitmix64() -> None:
    def splitmix(seed: int, count: int) -> list[int]:
        mask, out = (1 << 64) - 1, []
        for _ in range(count):
            seed = (seed + 0x9E3779B97F4A7C15) & mask
            z = seed
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
            out.append(z ^ (z >> 31))
        return out

    assert splitmix(0, 1) == [0xE220A8397B1DCDAF], "the published first output"
    for event_id in ("", "a", "ü", "order 17"):
        assert draw(event_id, 5, 1000).tolist() == [value % 1000 for value in splitmix(seed_of(event_id), 5)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_a_rank_is_the_place_in_a_stable_sort(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((3, n)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    row = int(rng.integers(n))
    expected = [np.argsort(-line, kind="stable").tolist().index(row) + 1 for line in scores]
    assert progressive.ranks(scores, row).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_leaders_are_the_first_places_of_a_stable_sort(seed: int, n: int, most: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(n).astype(np.float32)
    if ties:
        scores = np.round(scores)
    hidden = rng.choice(n, n // 3, replace=False)
    shown = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in hidden]
    assert progressive.leaders(scores, most, hidden).tolist() == sorted(shown[:most])


def test_group_ndcg_counts_the_ideal_of_the_group() -> None:
    ranks = np.array([[1, 3], [2, 11]])
    best = 1 + 1 / np.log2(3)
    sums = progressive.metric_values(ranks).sum(axis=0)
    np.testing.assert_allclose(progressive.ndcg_of(sums[None], [2]), [[1.0, 0.5 / best]])
    np.testing.assert_allclose(sums, [[2, 2, best, 1.5], [2, 1, 0.5, 1 / 3 + 1 / 11]])


def sampled_softmax(w: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    z = torch.cat((positives[:, :, None], negatives), dim=2)
    logits = torch.einsum("s,stm->tm", w, z)
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def test_the_blends_gradient_is_torchs() -> None:
    positives = RNG.standard_normal((4, 3)).astype(np.float32)
    negatives = RNG.standard_normal((4, 3, 6)).astype(np.float32)
    w = np.array([0.3, 1.0, 0.0, 2.0])
    leaf = torch.tensor(w, requires_grad=True)
    sampled_softmax(leaf, torch.tensor(positives).double(), torch.tensor(negatives).double()).backward()
    z = np.concatenate((positives[:, :, None], negatives), axis=2).transpose(1, 2, 0).astype(np.float64)
    found = weights.softmax_gradients(np.stack((w, -w)), z, clip=np.inf)
    assert leaf.grad is not None
    np.testing.assert_allclose(found[:, 0].mean(axis=0), leaf.grad.numpy(), atol=1e-7)


def test_the_blends_gradient_is_clipped_per_event() -> None:
    z = np.array([[[100.0], [0.0]], [[0.0], [0.0]]])
    gradients = weights.softmax_gradients(np.array([[-1.0]]), z, clip=3.0)
    np.testing.assert_allclose(gradients, [[[-3.0]], [[0.0]]])


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(0, 5), st.floats(0, 1))
def test_the_blend_keeps_its_sum_and_its_zeros(gradient: list[float], rate: float, share: float) -> None:
    start = np.array([1.0, 0.5, 0.0])
    moved = weights.exponentiated_step(start, start, np.array(gradient), {"rate": rate, "share": share})
    assert moved.sum() == pytest.approx(1.5)
    assert (moved >= 0).all()
    assert moved[2] == 0


def test_a_source_that_hurts_fades_and_comes_back() -> None:
    start = np.array([1.0, 1.0])
    settings = {"rate": 0.5, "share": 0.05}
    moved = start
    for _ in range(20):
        moved = weights.exponentiated_step(moved, start, np.array([1.0, -1.0]), settings)
    assert moved[0] < 0.2
    for _ in range(60):
        moved = weights.exponentiated_step(moved, start, np.zeros(2), settings)
    assert moved[0] > 0.9


OLD = {"u": np.zeros(3, np.float32), "steps": np.array(0)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"u": np.full(3, np.nan, np.float32)}, "finite"),
        ({"u": np.zeros(3)}, "dtype"),
        ({"u": [0, 0, 0]}, "dtype"),
        ({"v": np.zeros(3)}, "other arrays"),
    ],
)
def test_an_unsound_state_is_refused(change: dict[str, object], reason: str) -> None:
    found = guard.refusal(OLD, {**OLD, **change}, (OLD["u"], OLD["u"]), {})
    assert found is not None
    assert reason in found


def test_bounds_on_the_user_vector() -> None:
    def refusal(vector: list[float]) -> str | None:
        after = np.array(vector, np.float32)
        return guard.refusal(OLD, {**OLD, "u": after}, (OLD["u"], after), {"max_step": 2.0, "max_norm": 1.5})

    assert refusal([0.1, 0, 0]) is None
    assert "too long" in str(refusal([0, 2.5, 0]))
    assert "bounds" in str(refusal([0, 1.9, 0]))
    assert "shape" in str(refusal([0, 0]))


def test_personal_parts_are_served_only_once_proven_and_only_while_they_help() -> None:
    settings = {"window": 10.0}
    sums = np.zeros((2, 3))
    assert guard.trusted(sums, settings) == (False, False)
    for _ in range(2):
        sums = guard.watched(sums, np.array([0.1, 0.1]), settings)
    assert guard.trusted(sums, settings) == (False, False), "two comparisons prove nothing"
    for _ in range(20):
        sums = guard.watched(sums, np.array([0.1, -0.1]), settings)
    assert guard.trusted(sums, settings) == (True, False)
    for _ in range(40):
        sums = guard.watched(sums, np.array([0.0, 0.1]), settings)
    assert guard.trusted(sums, settings)[1], "what helps again may return"


def test_progress_survives_a_change_of_sources() -> None:
    progress = initial_progress(np.array([1.0, 2.0, 3.0]))
    stored = to_state(Learned.of({"default": progress}, {}, 4), ["taste", "old", "habit"])
    fresh = {"default": initial_progress(np.array([9.0, 8.0, 7.0])), "later": initial_progress(np.zeros(3))}
    back = from_state(stored, fresh, ["habit", "new", "taste"])
    assert back["default"].weights.tolist() == [3.0, 8.0, 1.0]
    assert set(back) == {"default", "later"}


def test_learning_brings_the_users_kind_of_item_up(opener: Opener) -> None:
    """Whatever the encoder says, items near those bought rise under the user vector."""
    rec = opener(config={"updaters": {"sgd": {"rate": 0.2}}, "learning": {"guard": False}})
    model = rec._device.snapshot().engine.bundle.model
    liked = np.argsort(-(model.vectors @ model.vectors[30]))[:12]
    for n in range(40):
        rec.record(f"i{liked[n % 6]}", "click", at=START + n * DAY, event_id=f"e{n}")
    learned = rec._device.snapshot().learned
    u = rec._device.snapshot().engine.learner.updaters.user_vector(learned.updater)
    gain = model.vectors @ u
    assert gain[liked[6:]].mean() > gain.mean(), "unseen items of the same kind gain"


class Contrary:
    """An updater that pushes the user vector away from whatever the user chose."""

    name, schema, item_space = "contrary", 1, True

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32)}

    def update(self, state: State, batch: LearningBatch) -> State:
        return {"u": -0.9 * batch.model.vectors[batch.rows].mean(axis=0)}

    def user_vector(self, state: State) -> np.ndarray:
        return state["u"]


def test_the_guard_takes_out_a_user_vector_that_hurts(opener: Opener) -> None:
    plugin = types.ModuleType("contrary_plugin")
    plugin.edgerec_updaters = hookimpl(lambda: {"contrary": lambda settings: Contrary()})  # type: ignore[attr-defined]
    config = {"learning": {"updater": "contrary"}, "blend": {"weights": {"taste": 1.0}}}
    rec = opener(plugins=[plugin], config=config)
    for n in range(40):
        rec.record("i30", "click", at=START + n * DAY, event_id=f"e{n}")
    scenario = rec.stats()["learning"]["scenarios"]["default"]
    ndcg = {name: ranking["ndcg@10"] for name, ranking in scenario["progressive"].items()}
    assert ndcg["personal"] < ndcg["blend"], "the set-up must hurt, else nothing is tried"
    assert not scenario["served"]["user_vector"]
    with_vector = opener(plugins=[plugin], config={**config, "learning": {**config["learning"], "guard": False}})
    assert with_vector.stats()["learning"]["scenarios"]["default"]["served"]["user_vector"]
    assert [r.item for r in rec.recommend(9)] != [r.item for r in with_vector.recommend(9)]


def test_a_refused_step_leaves_the_state_and_says_so(opener: Opener) -> None:
    rec = opener(config={"updaters": {"sgd": {"rate": 900.0, "max_step": 900.0, "max_norm": 900.0}}})
    receipt = rec.record("i3", "click")
    assert (receipt.status, receipt.learned) == ("stored", False)
    assert not rec._device.snapshot().learned.updater["u"].any()


def test_an_exact_solver_is_not_refused_for_moving_far(opener: Opener) -> None:
    """The bound on a step is for broken updaters; a ridge solution jumps to where the events are."""
    rec = opener(config={"learning": {"updater": "foldin"}})
    for n in range(10):
        rec.record(f"i{n * 6}", "purchase", at=START + n * DAY)
    assert {event.verdict for event in rec._device.events()} == {"learned"}
