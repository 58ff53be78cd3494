"""Item spaces: implicit ALS against its loss and its gradient, the graph's propagation against dense matrices."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import train_worker
from train_worker import small_recipe

from edgerec.errors import TrainingError
from edgerec_exporters.encoder_fit import Taste
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.interactions import Interactions
from edgerec_exporters.spaces import MEAN_SQUARED_NORM, SPACES, SpaceRecipe, ials, item_space, lightgcn, newest_events
from edgerec_exporters.spaces.ials import Factors, Sparse
from edgerec_exporters.spaces.lightgcn import Graph
from edgerec_exporters.spaces.recipes import GraphRecipe
from edgerec_exporters.taste_fit import Learned, TasteFit
from edgerec_exporters.train import train
from edgerec_exporters.trained import load_trained

N_USERS, N_ITEMS, N_BLOCKS = 40, 24, 4
START = 1_600_000_000.0
Events = tuple[np.ndarray, np.ndarray, np.ndarray]


def blocks(seed: int = 0, *, chance: float = 0.6) -> Events:
    """Users who take items of their own block alone, with weights between 1/2 and 1."""
    rng = np.random.default_rng(seed)
    own = np.arange(N_USERS)[:, None] % N_BLOCKS == np.arange(N_ITEMS) % N_BLOCKS
    users, items = np.nonzero(own & (rng.random(own.shape) < chance))
    return users, items, rng.uniform(0.5, 1, len(users))


def objective(users: np.ndarray, items: np.ndarray, events: Events, l2: float, alpha: float, nu: float) -> float:
    """The loss of the module's docstring over dense matrices."""
    weight = np.zeros((len(users), len(items)))
    np.add.at(weight, events[:2], events[2])
    scores = users @ items.T
    held = ((weight.sum(1) + alpha * len(items)) ** nu) @ (users**2).sum(1)
    held += ((weight.sum(0) + alpha * len(users)) ** nu) @ (items**2).sum(1)
    return float((weight * (scores - 1) ** 2).sum() + alpha * (scores**2).sum() + l2 * held)


def fitted(iterations: int, *, nu: float = 1.0, dim: int = 5, seed: int = 0) -> Factors:
    events = blocks()
    return ials.fit(
        *events,
        N_USERS,
        N_ITEMS,
        dim=dim,
        l2=0.02,
        alpha=0.1,
        nu=nu,
        iterations=iterations,
        seed=seed,
        dtype=np.float64,
    )


def well_ordered(users: np.ndarray, items: np.ndarray) -> float:
    """How often an item that a user did not take scores higher where it is of the user's block."""
    taken = np.zeros((N_USERS, N_ITEMS), bool)
    taken[blocks()[:2]] = True
    own = np.arange(N_USERS)[:, None] % N_BLOCKS == np.arange(N_ITEMS) % N_BLOCKS
    scores = users @ items.T
    pairs = [scores[u][own[u] & ~taken[u]][:, None] > scores[u][~own[u]] for u in range(N_USERS)]
    return float(np.concatenate([each.ravel() for each in pairs]).mean())


# implicit ALS


@pytest.mark.parametrize("nu", [1.0, 0.5, 0.0])
def test_every_sweep_lowers_the_loss(nu: float) -> None:
    values = []
    for sweeps in range(1, 9):
        factors = fitted(sweeps, nu=nu)
        values.append(objective(factors.users, factors.items, blocks(), 0.02, 0.1, nu))
    assert all(after < before for before, after in pairwise(values))


def test_the_loss_is_the_one_written_down() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((N_USERS, 3)), rng.standard_normal((N_ITEMS, 3))
    taken = Sparse.of(*blocks(), N_USERS, N_ITEMS)
    found = ials.objective(users, items, taken, l2=0.3, alpha=0.2, nu=0.7)
    assert found == pytest.approx(objective(users, items, blocks(), 0.3, 0.2, 0.7))


def test_at_the_fixed_point_no_direction_leads_down() -> None:
    """Central differences of the loss along 40 random entries of either side."""
    factors = fitted(400)
    sides = {"users": factors.users.astype(np.float64), "items": factors.items.astype(np.float64)}
    rng = np.random.default_rng(1)
    for name, side in sides.items():
        for _ in range(40):
            place = tuple(rng.integers(0, side.shape))
            kept, values = side[place], []
            for step in (1e-4, -1e-4):
                side[place] = kept + step
                values.append(objective(sides["users"], sides["items"], blocks(), 0.02, 0.1, 1.0))
            side[place] = kept
            slope = (values[0] - values[1]) / 2e-4
            assert abs(slope) < 1e-4, (name, place)
    away = objective(sides["users"] * 1.1, sides["items"], blocks(), 0.02, 0.1, 1.0)
    assert away > objective(sides["users"], sides["items"], blocks(), 0.02, 0.1, 1.0) + 1e-2


def test_a_fold_in_is_the_solve_of_a_user() -> None:
    users, items, weights = blocks()
    factors = fitted(400)  # the users' vectors belong to the item vectors before the last half sweep
    for user in (0, 7, 39):
        mine = users == user
        found = ials.fold_in(factors, items[mine], weights[mine])
        np.testing.assert_allclose(found, factors.users[user], atol=1e-5)
    indptr = np.searchsorted(users, np.arange(N_USERS + 1))
    np.testing.assert_allclose(ials.fold_in_many(factors, indptr, items, weights), factors.users, atol=1e-5)


def test_a_fold_in_solves_its_normal_equations() -> None:
    factors, rows, weights = fitted(2), np.array([3, 8]), np.array([1.0, 0.25])
    h = factors.items.astype(np.float64)
    normal = 0.1 * h.T @ h + (h[rows].T * weights) @ h[rows] + 0.02 * (1.25 + 0.1 * N_ITEMS) * np.eye(5)
    expected = np.linalg.solve(normal, weights @ h[rows])
    np.testing.assert_allclose(ials.fold_in(factors, rows, weights), expected, rtol=1e-4)
    assert ials.fold_in(factors, rows, weights).dtype == np.float32
    assert not ials.fold_in(factors, [], []).any()


def test_the_order_of_events_and_the_size_of_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    events = blocks()
    shuffled = np.random.default_rng(3).permutation(len(events[0]))
    again = tuple(column[shuffled] for column in events)
    args = {"dim": 5, "iterations": 3, "dtype": np.float64}
    whole = ials.fit(*events, N_USERS, N_ITEMS, **args)
    np.testing.assert_allclose(ials.fit(*again, N_USERS, N_ITEMS, **args).items, whole.items, rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(ials, "MAX_CELLS", 1)
    np.testing.assert_allclose(ials.fit(*events, N_USERS, N_ITEMS, **args).items, whole.items, rtol=1e-5, atol=1e-7)


def test_events_of_one_user_with_one_item_add_up() -> None:
    taken = Sparse.of([1, 0, 1], [2, 0, 2], [0.5, 1.0, 0.25], 3, 4)
    assert taken.indptr.tolist() == [0, 1, 2, 2]
    assert taken.columns.tolist() == [0, 2]
    assert taken.weights.tolist() == [1.0, 0.75]
    assert taken.row_sums().tolist() == [1.0, 0.75, 0.0]
    assert taken.transposed().row_sums().tolist() == [1.0, 0.0, 0.75, 0.0]


def test_factors_find_the_blocks_and_float32_is_enough() -> None:
    factors = ials.fit(*blocks(), N_USERS, N_ITEMS, dim=8, l2=0.2, alpha=0.1, iterations=15)
    assert well_ordered(factors.users, factors.items) > 0.99
    exact = ials.fit(*blocks(), N_USERS, N_ITEMS, dim=8, l2=0.2, alpha=0.1, iterations=15, dtype=np.float64)
    np.testing.assert_allclose(factors.users @ factors.items.T, exact.users @ exact.items.T, atol=1e-3)


def test_the_typical_kernel_is_the_fold_in_of_a_typical_user() -> None:
    """A user of one item, were the normal matrix the mean user's, would score as V Vᵀ says."""
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)  # everybody took everything: all are typical
    factors = ials.fit(users, items, np.ones(len(users)), N_USERS, N_ITEMS, dim=3, iterations=3, dtype=np.float64)
    V = ials.typical_kernel(factors, Sparse.of(users, items, np.ones(len(users)), N_USERS, N_ITEMS))
    whole = ials.fold_in(factors, np.arange(N_ITEMS), np.ones(N_ITEMS)) @ factors.items.T
    np.testing.assert_allclose(V.sum(0) @ V.T, whole, rtol=1e-4)


def test_the_same_seed_gives_the_same_factors() -> None:
    np.testing.assert_array_equal(fitted(3).items, fitted(3).items)
    assert not np.allclose(fitted(3).items, fitted(3, seed=1).items, atol=1e-2)


def test_it_needs_no_torch() -> None:
    script = "import sys, edgerec_exporters.spaces.ials; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("events", "changes", "reason"),
    [
        (([0], [0], [1.0, 2.0]), {}, "differ in length"),
        (([0], [9], [1.0]), {}, "does not exist"),
        (([-1], [0], [1.0]), {}, "does not exist"),
        (([0], [0], [np.nan]), {}, "finite"),
        (([0], [0], [-1.0]), {}, "not negative"),
        (([0], [0], [1.0]), {"l2": 0.0}, "l2 > 0"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(events: tuple, changes: dict, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        ials.fit(*events, 2, 2, **changes)


# the graph


def dense(events: Events) -> torch.Tensor:
    """Â of users and items together, float64 (n_users + n_items,) squared."""
    whole = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    users, items = torch.from_numpy(events[0]), torch.from_numpy(events[1]) + N_USERS
    whole[users, items] = whole[items, users] = torch.from_numpy(events[2])
    root = whole.sum(1).clamp(min=1e-30).rsqrt()
    return whole * root[:, None] * root


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_and_its_gradient_are_those_of_dense_matrices(layers: int) -> None:
    torch.manual_seed(0)
    start = torch.randn(N_USERS + N_ITEMS, 4, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(N_USERS + N_ITEMS, 4, dtype=torch.float64)
    adjacency = dense(blocks())
    smooth, layer = start, start
    for _ in range(layers):
        layer = adjacency @ layer
        smooth = smooth + layer
    expected = smooth / (layers + 1)
    ((expected**2 * towards).sum()).backward()

    graph = Graph.of(Sparse.of(*blocks(), N_USERS, N_ITEMS))
    users = start.detach()[:N_USERS].float().requires_grad_()
    items = start.detach()[N_USERS:].float().requires_grad_()
    found = torch.cat(lightgcn.propagate(users, items, graph, layers))
    (found**2 * towards.float()).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([users.grad, items.grad]).double(), start.grad, rtol=1e-4, atol=1e-5)


RECIPE = GraphRecipe(layers=2, epochs=30, batch_size=16, n_negatives=12, learning_rate=0.05)


def graph_vectors(seed: int = 0, recipe: GraphRecipe = RECIPE) -> lightgcn.GraphVectors:
    return lightgcn.fit(*blocks(), N_USERS, N_ITEMS, dim=8, recipe=recipe, seed=seed)


def test_the_graph_finds_the_blocks() -> None:
    found = graph_vectors()
    assert found.losses[-1] < found.losses[0] - 0.5
    assert well_ordered(found.users, found.items) > 0.99
    assert found.items.shape == (N_ITEMS, 8)
    assert found.users.shape == (N_USERS, 8)


def test_the_same_seed_gives_the_same_vectors() -> None:
    few = GraphRecipe(epochs=2, batch_size=16, n_negatives=12)
    np.testing.assert_array_equal(graph_vectors(3, few).items, graph_vectors(3, few).items)
    assert not np.array_equal(graph_vectors(3, few).items, graph_vectors(4, few).items)


def test_a_graph_without_edges_is_refused() -> None:
    with pytest.raises(TrainingError, match="no edge"):
        lightgcn.fit([], [], [], 2, 2)


# as spaces for an encoder


def shop() -> Baskets:
    """The blocks' events, one a day and user, and an item that nobody took."""
    users, items, _ = blocks()
    day = np.arange(len(users), dtype=np.float64)
    return Baskets.of(
        Interactions(
            user=users.astype(np.int32),
            item=items.astype(np.int32),
            at=START + day * DAY,
            group=np.arange(len(users)),
            kind=np.zeros(len(users), np.int64),
            value=np.ones(len(users), np.float32),
            n_users=N_USERS,
            items=[f"i{row}" for row in range(N_ITEMS + 1)],
            titles=[""] * (N_ITEMS + 1),
            attributes=[{}] * (N_ITEMS + 1),
        )
    )


SPACE = SpaceRecipe(half_life_days=300.0, lightgcn=RECIPE)


@pytest.mark.parametrize("name", SPACES)
def test_what_shares_users_is_near_in_the_space(name: str) -> None:
    baskets = shop()
    V = item_space(name, baskets, START + 200 * DAY, 8, SPACE, seed=1)
    same = np.arange(N_ITEMS)[:, None] % N_BLOCKS == np.arange(N_ITEMS) % N_BLOCKS
    kernel = (V @ V.T)[:N_ITEMS, :N_ITEMS]
    np.fill_diagonal(same, False)
    assert kernel[same].mean() > 2 * abs(kernel[~same & ~np.eye(N_ITEMS, dtype=bool)].mean())
    assert not V[N_ITEMS].any()
    assert V.dtype == np.float32
    assert np.square(V).sum(1).mean() == pytest.approx(MEAN_SQUARED_NORM, rel=1e-4)
    np.testing.assert_array_equal(V, item_space(name, baskets, START + 200 * DAY, 8, SPACE, seed=1))


def test_the_newest_event_of_a_user_with_an_item_says_what_it_weighs() -> None:
    users, items, at = np.array([0, 0, 0, 1]), np.array([2, 2, 1, 2]), START + np.array([0.0, 10, 20, 30]) * DAY
    data = Interactions(
        user=users.astype(np.int32),
        item=items.astype(np.int32),
        at=at,
        group=np.arange(4),
        kind=np.zeros(4, np.int64),
        value=np.ones(4, np.float32),
        n_users=2,
        items=["a", "b", "c"],
        titles=["a", "b", "c"],
        attributes=[{}] * 3,
    )
    found = newest_events(Baskets.of(data), START + 30 * DAY, 10.0)
    assert sorted(zip(*(column.tolist() for column in found), strict=True)) == [(0, 1, 0.5), (0, 2, 0.25), (1, 2, 1.0)]


def test_an_unknown_space_is_named() -> None:
    with pytest.raises(TrainingError, match="no item space 'nope'"):
        item_space("nope", shop(), START, 8, SPACE)


# in training


@pytest.mark.parametrize("name", SPACES)
def test_training_keeps_the_vectors_of_the_space_or_goes_on_from_them(name: str) -> None:
    recipe = replace(small_recipe(name), space=SPACE)
    baskets, data = Baskets.of(train_worker.shop()), train_worker.shop()
    space = item_space(name, baskets, train_worker.CUTOFF, 8, SPACE, seed=2)
    fit = TasteFit(recipe, name, 2, torch.device("cpu"), lambda what, done, total: None)
    found = {}
    for fixed in (True, False):
        taste, _, learned = fit.fit(data, baskets, train_worker.CUTOFF, "training", learned=Learned(2, fixed))
        assert learned.epochs == 2
        found[fixed] = taste.vectors.detach().numpy()
    np.testing.assert_array_equal(found[True], space)
    assert not np.allclose(found[False], space, atol=1e-4)
    np.testing.assert_allclose(found[False], space, atol=0.2)  # it started there

    judged = []

    def judge(taste: Taste) -> float:
        """Likes fixed vectors better."""
        judged.append(not taste.vectors.requires_grad)
        return 0.1 + 0.5 * judged[-1]

    _, _, learned = fit.fit(data, baskets, train_worker.CUTOFF, "choosing", judge=judge)
    assert set(judged) == {True, False}
    assert learned.fixed


def test_a_model_over_a_space_comes_back_from_its_file_and_says_what_became_of_the_vectors(tmp_path: Path) -> None:
    trained = train(train_worker.shop(), model="ials", recipe=small_recipe("ials"), seed=3, device="cpu")
    trained.save(tmp_path / "ials.model")
    again = load_trained(tmp_path / "ials.model")
    assert again.model == "ials"
    assert again.metrics["item_vectors"] in ("fixed", "trained")
    assert again.metrics["validation"]["sources"]["taste"]["novel"] > 0.4
    np.testing.assert_array_equal(again.vectors, trained.vectors)
