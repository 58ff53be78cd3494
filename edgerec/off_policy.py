"""What another policy would have earned, from pages that this one showed by chance: IPS, SNIPS, doubly robust.

A page's places are filled one after the other, so weights multiply down the page (reward interaction IPS: McInerney et
al. 2020, "Counterfactual evaluation of slate recommendations with sequential reward interactions"):

    W_k = Π_{j <= k} π(a_j | a_1 … a_{j-1}) / μ(a_j | a_1 … a_{j-1})          π the policy in question, μ the one logged

    IPS    mean over pages of Σ_k W_k r_k
    SNIPS  Σ_k (Σ_pages W_k r_k / Σ_pages W_k)                        Swaminathan & Joachims 2015, place by place
    DR     mean over pages of Σ_k W_{k-1} E_π[q_k] + W_k (r_k - q_k)  Kiyohara et al. 2022, cascade doubly robust

q predicts a place's reward from the item's score s and the place: least squares on (1, d, s, s d), d = 1/log2(k + 1),
fitted on the other half of the pages (cross-fitting). It need not be right: it only takes variance away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerec.records import record
from edgerec.types import Bools, Float64, Int64

Z95 = 1.959964
_RIDGE = 1e-3
_RESAMPLES = 1000


@record
class LoggedPage:
    """One page of k places, arrays float64 (k,).

    `reward`: what each place earned · `logged`: the propensity it was logged with · `target`: the probability with
    which the policy in question would have filled it so, given the places above · `score`: that of the item that stood
    there · `target_score`: that of the policy's choice, in expectation; NaN where it has nothing left to choose.
    """

    reward: Float64
    logged: Float64
    target: Float64
    score: Float64
    target_score: Float64


@record
class Estimate:
    """An expected reward per page and its 95 % interval."""

    value: float
    ci95: tuple[float, float]


@record
class Estimates:
    """`logged`: what the pages earned · `ips`, `snips`, `dr`: what the policy would have · `effective_pages`: as many
    pages as the weights of whole pages are worth, (ΣW)² / ΣW² · `largest_weight`: of a whole page."""

    pages: int
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate
    effective_pages: float
    largest_weight: float


def estimates(pages: Sequence[LoggedPage]) -> Estimates:
    """All estimators on the same pages. Raises ValueError where there are fewer than two, or a propensity is not in
    (0, 1]."""
    if len(pages) < 2:
        raise ValueError("at least two pages are needed")
    if not all(((page.logged > 0) & (page.logged <= 1)).all() for page in pages):
        raise ValueError("logged propensities must lie in (0, 1]")
    reward, target = _padded(pages, "reward"), _padded(pages, "target")
    score, target_score = _padded(pages, "score"), _padded(pages, "target_score")
    there = _padded(pages, "logged") > 0
    logged = np.where(there, _padded(pages, "logged"), 1.0)
    weight: Float64 = np.where(there, np.cumprod(np.where(there, target / logged, 1.0), axis=1), 0.0)
    above = np.concatenate((np.ones((len(pages), 1)), weight[:, :-1]), axis=1) * there
    q, q_target = _predicted(reward, score, target_score, there)
    whole = np.array([row[mask][-1] if mask.any() else 1.0 for row, mask in zip(weight, there, strict=True)])
    square = float(np.square(whole).sum())
    return Estimates(
        len(pages),
        _mean(reward.sum(axis=1)),
        _mean((weight * reward).sum(axis=1)),
        _self_normalised(weight, reward),
        _mean((above * q_target + weight * (reward - q)).sum(axis=1)),
        float(whole.sum()) ** 2 / square if square else 0.0,
        float(whole.max()),
    )


def _padded(pages: Sequence[LoggedPage], name: str) -> Float64:
    """float64 (n_pages, longest page); 0 beyond a page's end."""
    out = np.zeros((len(pages), max(len(page.reward) for page in pages)))
    for line, page in zip(out, pages, strict=True):
        values = getattr(page, name)
        line[: len(values)] = values
    return out


def _mean(values: Float64) -> Estimate:
    mean = float(values.mean())
    margin = Z95 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, (mean - margin, mean + margin))


def _self_normalised(weight: Float64, reward: Float64) -> Estimate:
    """The interval is that of a bootstrap over pages, with fixed seed."""
    rng = np.random.default_rng(0)
    n = len(weight)
    resamples = (rng.integers(0, n, n) for _ in range(_RESAMPLES))
    drawn = [_snips(weight[rows], reward[rows]) for rows in resamples]
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return Estimate(_snips(weight, reward), (low, high))


def _snips(weight: Float64, reward: Float64) -> float:
    total = weight.sum(axis=0)
    return float(((weight * reward).sum(axis=0)[total > 0] / total[total > 0]).sum())


def _predicted(reward: Float64, score: Float64, target_score: Float64, there: Bools) -> tuple[Float64, Float64]:
    """q of what stood in each place, and of what the policy would have put there; both float64 (n, k)."""
    half: Int64 = np.arange(len(reward)) % 2
    q, q_target = np.zeros_like(reward), np.zeros_like(reward)
    for fold in (0, 1):
        fit, use = half != fold, half == fold
        x = _features(score[fit])[there[fit]]
        gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
        coefficients = np.linalg.solve(gram, x.T @ reward[fit][there[fit]])
        q[use] = _features(score[use]) @ coefficients * there[use]
        chosen = there[use] & ~np.isnan(target_score[use])
        q_target[use] = np.where(chosen, _features(np.nan_to_num(target_score[use])) @ coefficients, 0.0)
    return q, q_target


def _features(score: Float64) -> Float64:
    """(1, d, s, s d), float64 (n, k, 4), from scores (n, k)."""
    discount = np.broadcast_to(1.0 / np.log2(np.arange(score.shape[1]) + 2.0), score.shape)
    return np.stack((np.ones_like(score), discount, score, score * discount), axis=-1)
