"""Rerankers that try things out: `epsilon`, `softmax`, `thompson`. Each logs the propensity of every place it fills.

The first `pool` candidates of the slate are considered, s_i are their scores, and the page is filled place by place.
A propensity is the probability, over what chance could have drawn, that the item takes its place given those before it,
C being the candidates that are left there:

    epsilon    with probability ε one of C, each as likely, else the first of C    ε / |C| + (1 - ε) [i is the first]
    softmax    i of C with probability e^(s_i / τ) / Σ_{j in C} e^(s_j / τ)        the same; it is Plackett & Luce's
    thompson   the best of C under s_i + u·x_i for a u drawn anew at each place    estimated, see below

`softmax` draws by adding Gumbel noise once and sorting, which is the same (Kool, van Hoof & Welling 2019, appendix A).

`thompson` takes the score for the mean of what the item is worth, and lets chance speak where the user's past does not
(Thompson 1933; Agrawal & Goyal 2013, for linear pay-offs): u is drawn from the posterior of a Bayesian linear model,

    u ~ N(0, (I / scale² + Σ_k x_k x_kᵀ / noise²)⁻¹)        k: the user's last `history` events

where x are item vectors, divided by the root of the mean squared length of the pool's. So `scale` is how far a new
user's average candidate moves, in the units of the slate's scores, and `noise` how little one event tells. A place's
propensity has no closed form: it is (c + 1) / (R + 1), c of R further draws putting the same item there. If the true
propensity is p, the mean of the inverse is (1 - (1 - p)^(R+1)) / p: inverse propensity weights are as good as unbiased.

Put them last: what another reranker moves afterwards stands where its propensity does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import RerankerFactory, Settings
from edgerec.types import Float64, Int32, Int64, Model, Profile, Request, Reranking, Slate
from edgerec_plugins.settings import SettingsReader


class Epsilon:
    """Reranker `epsilon`: ε-greedy, at each place on its own."""

    name = "epsilon"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.epsilon = take.number("epsilon", 0.1, 0, 1)
        self.pool = take.whole("pool", 100, 1, 10_000)
        take.done()

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        chance = chance_of(slate, self.name)
        left = list(range(pool_size(slate, self.pool)))
        n = min(slate.n, len(left))
        explores = (chance.random(n) < self.epsilon).tolist()
        chosen, propensity = [], []
        for explore in explores:
            place = int(chance.integers(len(left))) if explore else 0
            propensity.append(self.epsilon / len(left) + (1 - self.epsilon) * (place == 0))
            chosen.append(left.pop(place))
        return Reranking(slate.rows[chosen], np.array(propensity))

    def probabilities(self, slate: Slate, left: Int64, request: Request, profile: Profile, model: Model) -> Float64:
        """How probably each candidate that is left takes the next place (`edgerec.interfaces.ChancePolicy`)."""
        chances = np.where(left < pool_size(slate, self.pool), self.epsilon, 0.0)
        chances /= max(np.count_nonzero(chances), 1)
        chances[:1] += 1 - self.epsilon
        return chances


class Softmax:
    """Reranker `softmax`: Plackett–Luce sampling at temperature τ, in the units of the slate's scores."""

    name = "softmax"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.temperature = take.number("temperature", 0.1, 1e-6, 1e6)
        self.pool = take.whole("pool", 100, 1, 10_000)
        take.done()

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        m = pool_size(slate, self.pool)
        logits = slate.scores[:m] / self.temperature
        order = np.argsort(-(logits + chance_of(slate, self.name).gumbel(size=m)), kind="stable")
        logits = logits[order]
        of_the_rest = np.logaddexp.accumulate(logits[::-1])[::-1]
        n = min(slate.n, m)
        return Reranking(slate.rows[order[:n]], np.exp(logits[:n] - of_the_rest[:n]))

    def probabilities(self, slate: Slate, left: Int64, request: Request, profile: Profile, model: Model) -> Float64:
        """How probably each candidate that is left takes the next place (`edgerec.interfaces.ChancePolicy`)."""
        logits = np.where(left < pool_size(slate, self.pool), slate.scores[left] / self.temperature, -np.inf)
        chances: Float64 = np.exp(logits - np.logaddexp.reduce(logits))
        return chances


class Thompson:
    """Reranker `thompson`: Thompson sampling on the posterior of the user's taste, a draw for each place."""

    name = "thompson"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.scale = take.number("scale", 0.3, 0, 1e3)
        self.noise = take.number("noise", 0.3, 0, 1e6, above_low=True)
        self.history = take.whole("history", 200, 0, 10_000)
        self.draws = take.whole("draws", 200, 1, 100_000)
        self.pool = take.whole("pool", 50, 1, 10_000)
        take.done()

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        m = pool_size(slate, self.pool)
        n = min(slate.n, m)
        if not self.scale or not n:
            return Reranking(slate.rows[:n], np.ones(n))
        arms, past = self._vectors(slate.rows[:m], profile, model)
        normal = chance_of(slate, self.name).standard_normal((n + self.draws, model.dim))
        return self._filled(slate, slate.scores[:m] + self._tastes(past, normal) @ arms.T, n)

    def _vectors(self, rows: Int32, profile: Profile, model: Model) -> tuple[Float64, Float64]:
        """x of the pool, float64 (m, dim), and of the history, float64 (H, dim)."""
        arms = model.vectors[rows].astype(np.float64)
        size = np.sqrt(np.square(arms).sum(axis=1).mean()) or 1.0
        past = profile.rows[max(len(profile.rows) - self.history, 0) :]
        return arms / size, model.vectors[past] / size

    def _tastes(self, past: Float64, normal: Float64) -> Float64:
        """Draws of u from standard normal ones, both float64 (draws, dim)."""
        precision = past.T @ past / self.noise**2
        precision.flat[:: len(precision) + 1] += self.scale**-2
        tastes: Float64 = np.linalg.solve(np.linalg.cholesky(precision).T, normal.T).T
        return tastes

    @staticmethod
    def _filled(slate: Slate, worth: Float64, n: int) -> Reranking:
        """The page from the candidates' worth under every draw, float64 (n + R, m), which is overwritten.

        Draw k fills place k; the last R tell how likely that was.
        """
        best = worth.argmax(axis=1)
        chosen, propensity = np.empty(n, np.int64), np.empty(n)
        for place in range(n):
            chosen[place] = item = best[place]
            agree = best == item
            propensity[place] = (np.count_nonzero(agree[n:]) + 1) / (len(best) - n + 1)
            worth[:, item] = -np.inf
            best[agree] = worth[agree].argmax(axis=1)
        return Reranking(slate.rows[chosen], propensity)


def pool_size(slate: Slate, pool: int) -> int:
    """How many candidates are considered: never fewer than the page has places."""
    return min(len(slate.rows), max(pool, slate.n))


def chance_of(slate: Slate, name: str) -> np.random.Generator:
    """The page's own random numbers, other ones for every reranker."""
    return np.random.default_rng([slate.seed & 0xFFFF_FFFF_FFFF_FFFF, crc32(name.encode())])


@hookimpl
def edgerec_rerankers() -> Mapping[str, RerankerFactory]:
    return {each.name: each for each in (Epsilon, Softmax, Thompson)}
