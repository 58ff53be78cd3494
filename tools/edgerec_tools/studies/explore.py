"""What exploration is worth: cumulative regret of one user with a known linear taste, shown one item at a time.

    python -m edgerec_tools.studies.explore --plot docs/results/exploration.svg

A synthetic catalogue; a user likes item i with probability σ(slope · z_i), where z_i is a linear function of its
vector, standardised over the catalogue, and dislikes it otherwise. Every policy learns from the same kind of answers by
the plugin `bandit` and ranks by its scores, standardised as in a blend. `greedy` shows the best; `linucb` adds the
plugin's own bonus; the others put a reranker behind `greedy`. Regret is the probability of a like that the best item
would have had more. Policies meet the same users.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from edgerec.interfaces import Reranker
from edgerec.types import Event, LearningBatch, Model, Profile, Replayed, Request, Slate, State
from edgerec_plugins.bandit import BanditSource, BanditUpdater
from edgerec_plugins.explore import Epsilon, Softmax, Thompson
from edgerec_tools import intervals
from edgerec_tools.progress import bars
from edgerec_tools.studies.plots import COLOURS, panels

DIM = 16
REQUEST = Request("default", "show", 0.0)

Float64 = NDArray[np.float64]


class Policy(NamedTuple):
    """How the next item is chosen: LinUCB's alpha, and the reranker behind it."""

    name: str
    alpha: float = 0.0
    reranker: Reranker | None = None


class User(NamedTuple):
    """`likes` float64 (n_items,): the probability of a like."""

    model: Model
    likes: Float64


WHOLE = {"pool": 10_000}
POLICIES = (
    Policy("greedy"),
    *(Policy(f"epsilon {rate:g}", reranker=Epsilon({"epsilon": rate, **WHOLE})) for rate in (0.05, 0.1, 0.3)),
    *(Policy(f"softmax {tau:g}", reranker=Softmax({"temperature": tau, **WHOLE})) for tau in (0.05, 0.1, 0.3)),
    *(
        Policy(
            f"thompson {scale:g}/{noise:g}", reranker=Thompson({"scale": scale, "noise": noise, "draws": 1, **WHOLE})
        )
        for scale, noise in ((0.3, 1.0), (1.0, 1.0), (3.0, 1.0), (0.3, 0.3), (1.0, 0.3), (3.0, 0.3))
    ),
    *(Policy(f"linucb {alpha:g}", alpha) for alpha in (0.25, 0.5, 1.0)),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--users", type=click.IntRange(min=1), default=100, show_default=True, help="So many, a seed for each.")
@click.option("--rounds", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--items", type=click.IntRange(min=2), default=300, show_default=True)
@click.option("--slope", default=1.5, show_default=True, help="How sure a user is of what they like.")
@click.option("--plot", type=click.Path(path_type=Path), help="An SVG file for the regret curves.")
def study(users: int, rounds: int, items: int, slope: float, plot: Path | None) -> None:
    """Prints a Markdown table: regret after all rounds, the difference to greedy, regret a round in the last fifth."""
    curves: dict[str, Float64] = {}
    with bars() as progress:
        for done, policy in enumerate(POLICIES, 1):
            lives = [regret(policy, user_of(seed, items, slope), rounds, seed) for seed in range(users)]
            curves[policy.name] = np.cumsum(lives, axis=1)
            progress("policies", done, len(POLICIES))
    numbers = np.arange(users)
    late = max(rounds // 5, 1)
    click.echo("| policy | regret | − greedy | a round, at the end |\n| --- | --- | --- | --- |")
    for name, curve in curves.items():
        total = intervals.bootstrap_mean(numbers, curve[:, -1])
        less = intervals.bootstrap_difference(numbers, curve[:, -1], curves["greedy"][:, -1])
        end = (curve[:, -1] - curve[:, -late - 1]).mean() / late if late < rounds else curve[:, -1].mean() / rounds
        click.echo(f"| {name} | {_shown(total)} | {_shown(less, '+')} | {end:.3f} |")
    if plot:
        _plot(plot, curves)


def _shown(one: intervals.Interval, sign: str = "") -> str:
    return f"{one.value:{sign}.1f} [{one.low:{sign}.1f}, {one.high:{sign}.1f}]"


def user_of(seed: int, items: int, slope: float) -> User:
    """A catalogue whose vectors vary more in some directions than in others, and a user's taste for it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(items, DIM)) / np.sqrt(1 + np.arange(DIM) / 4)
    taste = vectors @ rng.normal(size=DIM)
    likes = 1 / (1 + np.exp(-slope * (taste - taste.mean()) / taste.std()))
    zeros = np.zeros(items, np.float32)
    return User(Model(vectors.astype(np.float32), zeros, zeros), likes)


def regret(policy: Policy, user: User, rounds: int, seed: int) -> Float64:
    """What each round's item falls short of the best, float64 (rounds,)."""
    answers = np.random.default_rng([seed, 1]).random(rounds)
    updater, source = BanditUpdater({"dim": DIM}), BanditSource({"alpha": policy.alpha})
    state, shown = updater.initial(user.model), list[int]()
    for n in range(rounds):
        item = _next(policy, source, _profile(shown, state), user.model, seed * rounds + n)
        liked = answers[n] < user.likes[item]
        state = updater.update(state, _batch(item, 1.0 if liked else -1.0, user.model))
        shown.append(item)
    found: Float64 = user.likes.max() - user.likes[shown]
    return found


def _next(policy: Policy, source: BanditSource, profile: Profile, model: Model, seed: int) -> int:
    scores = source.score(REQUEST, profile, model).standardised(model.n_items).astype(np.float64)
    order = np.argsort(-scores, kind="stable").astype(np.int32)
    if policy.reranker is None:
        return int(order[0])
    slate = Slate(order, scores[order], 1, seed)
    return int(policy.reranker.rerank(slate, REQUEST, profile, model).rows[0])


def _profile(shown: list[int], state: State) -> Profile:
    count, nothing = len(shown), np.zeros(DIM, np.float32)
    whole = np.zeros(count, np.int64)
    rows = np.array(shown, np.int32)
    return Profile(
        rows, np.zeros(count), whole, whole, np.zeros(count, np.bool_), nothing, nothing, {BanditUpdater.name: state}
    )


def _batch(item: int, weight: float, model: Model) -> LearningBatch:
    query = np.zeros((1, DIM), np.float32)
    return LearningBatch(
        events=(Event(str(item)),),
        rows=np.array([item], np.int32),
        weight=np.array([weight], np.float32),
        value=np.array([np.nan], np.float32),
        query=query,
        replayed=Replayed(np.empty(0, np.int32), np.empty(0, np.float32), query[:0]),
        negatives=np.zeros((1, 0), np.int32),
        now=0.0,
        model=model,
    )


def _plot(path: Path, curves: dict[str, Float64]) -> None:
    """Mean regret of greedy, and of every policy's best setting, with the interval over users."""
    best: dict[str, str] = {}
    for name, curve in curves.items():
        kind = name.split()[0]
        if kind not in best or curve[:, -1].mean() < curves[best[kind]][:, -1].mean():
            best[kind] = name
    with panels(path, ("cumulative regret, mean and 95 % interval",)) as (panel,):
        for colour, name in zip(COLOURS, best.values(), strict=True):
            curve = curves[name]
            rounds = np.arange(0, curve.shape[1], 10)  # a point for each of them would make a large file
            mean, error = curve.mean(axis=0)[rounds], 1.96 * curve.std(axis=0)[rounds] / len(curve) ** 0.5
            panel.plot(rounds + 1, mean, color=colour, label=name)
            panel.fill_between(rounds + 1, mean - error, mean + error, color=colour, alpha=0.15, lw=0)
        panel.set_xlabel("round")
        panel.legend()


if __name__ == "__main__":
    study()
