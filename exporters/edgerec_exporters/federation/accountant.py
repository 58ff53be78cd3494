"""What rounds cost in user-level differential privacy, by Google's dp-accounting.

Adjacent are fleets with and without all that one enrolled key sent. Every round is one Gaussian mechanism: all blocks
together have the noise multiplier z, so a round costs the Rényi divergence α / 2z² at every order α, and the rounds
that a key took part in cost α / 2 · Σ 1/z². What is kept of a round is therefore one number, its *loss* 1/z². The
discrete Gaussian's divergence is at most the Gaussian's, in any dimension (Canonne, Kamath & Steinke 2020, theorem 14).
Nobody draws which devices take part, so nothing is claimed for sampling.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf, sqrt
from typing import Any

from edgerec.errors import ConfigError, MissingDistribution
from edgerec_exporters.federation.settings import RoundSettings

SLACK = 1e-9
"""Relative: what rounding may add to a sum of losses."""
_TOLERANCE = 1e-6


def epsilon_of(loss: float, delta: float) -> float:
    """ε at δ of mechanisms whose losses 1/z² add up to `loss`; 0 for none. Raises MissingDistribution."""
    if loss <= 0:
        return 0.0
    dp = _library()
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(dp.GaussianDpEvent(1 / sqrt(loss)))
    return float(accountant.get_epsilon(delta))


def noise_multiplier_for(epsilon: float, delta: float, participations: int = 1) -> float:
    """The least z with which so many rounds cost a key at most (ε, δ). Raises ConfigError, MissingDistribution."""
    if not 0 < epsilon < inf or not 0 < delta < 1 or participations < 1:
        raise ConfigError(
            f"a budget of ε = {epsilon}, δ = {delta} for {participations} rounds", hint="ε > 0, 0 < δ < 1"
        )
    return _least_multiplier(epsilon, delta) * sqrt(participations)


def most_loss(epsilon: float, delta: float) -> float:
    """The largest sum of losses 1/z² that costs at most (ε, δ)."""
    return 1 / _least_multiplier(epsilon, delta) ** 2


@lru_cache(maxsize=64)
def _least_multiplier(epsilon: float, delta: float) -> float:
    dp = _library()
    return float(
        dp.calibrate_dp_mechanism(
            dp.rdp.RdpAccountant,
            dp.GaussianDpEvent,
            epsilon,
            delta,
            dp.LowerEndpointAndGuess(0.0, 1.0),
            tol=_TOLERANCE,
        )
    )


def with_multiplier(settings: RoundSettings) -> RoundSettings:
    """The settings with their noise multiplier found, where there is privacy and none was given."""
    privacy = settings.privacy
    if privacy.kind == "none" or privacy.multiplier is not None:
        return settings
    found = noise_multiplier_for(privacy.epsilon, privacy.delta, privacy.most_rounds)
    return replace(settings, privacy=replace(privacy, multiplier=found))


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ModuleNotFoundError:
        raise MissingDistribution(
            "a privacy budget needs dp-accounting", hint="pip install 'edgerec-exporters[federation]'"
        ) from None
    return dp_accounting
