"""The noise of rounds against the exact distribution: thresholds that chance crosses once in a billion runs."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgerec.errors import ConfigError, MissingDistribution
from edgerec_exporters.federation.noise import discrete_gaussian

N = 20_000


def exact(sigma: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Whole numbers that hold all but 1e-30 of the mass, and their probabilities, in float64."""
    k = np.arange(-int(12 * sigma) - 3, int(12 * sigma) + 4)
    weight = np.exp(-(k.astype(np.float64) ** 2) / (2 * sigma**2))
    return k, weight / weight.sum()


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.7, 60.0])
def test_frequencies_are_those_of_the_exact_distribution(sigma: float) -> None:
    """Pearson's χ² over cells that expect at least 20 each; its 1 − 1e-9 quantile by Wilson & Hilferty (1931)."""
    drawn = discrete_gaussian(sigma, N)
    assert drawn.dtype == np.int64
    k, probability = exact(sigma)
    edges, mass = [-np.inf], 0.0
    for value, share in zip(k, probability, strict=True):
        mass += share
        if mass * N >= 20 and probability[k > value].sum() * N >= 20:
            edges.append(value + 0.5)
            mass = 0.0
    edges.append(np.inf)
    chi = 0.0
    for low, high in pairwise(edges):
        expected = N * probability[(k > low) & (k < high)].sum()
        chi += (((drawn > low) & (drawn < high)).sum() - expected) ** 2 / expected
    freedom = len(edges) - 2
    most = freedom * (1 - 2 / (9 * freedom) + 5.998 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi < most, f"χ² = {chi:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize("sigma", [0.4, 3.7, 60.0, 5000.0])
def test_mean_and_variance(sigma: float) -> None:
    drawn = discrete_gaussian(sigma, N).astype(np.float64)
    k, probability = exact(sigma)
    variance = float(probability @ k.astype(np.float64) ** 2)
    assert variance <= sigma**2 * (1 + 1e-9)
    assert abs(drawn.mean()) < 6.1 * (variance / N) ** 0.5
    spread = float(probability @ (k.astype(np.float64) ** 2 - variance) ** 2) ** 0.5
    assert abs((drawn**2).mean() - variance) < 6.1 * spread / N**0.5


def test_numbers_next_to_each_other_know_nothing_of_each_other() -> None:
    drawn = discrete_gaussian(5.0, N).astype(np.float64)
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]) < 6.1 / N**0.5


def test_every_call_draws_anew() -> None:
    assert not np.array_equal(discrete_gaussian(1000.0, 50), discrete_gaussian(1000.0, 50))
    assert discrete_gaussian(3.0, 0).shape == (0,)


def test_a_round_of_16_000_numbers_is_drawn_within_two_seconds() -> None:
    discrete_gaussian(1.0, 1)  # the library is loaded
    started = time.process_time()
    discrete_gaussian(300.25, 16_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 2.0**53])
def test_an_impossible_deviation_is_an_error(sigma: float) -> None:
    with pytest.raises(ConfigError, match="standard deviation"):
        discrete_gaussian(sigma, 3)


def test_without_opendp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opendp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opendp", None)
    with pytest.raises(MissingDistribution, match=r"edgerec-exporters\[federation\]"):
        discrete_gaussian(1.0, 3)
