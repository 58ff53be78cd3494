"""Discrete Gaussian noise, whole numbers, from a secure generator and never from a seed.

The sampler is OpenDP's: exact, without floating point, after Canonne, Kamath & Steinke (2020), algorithm 3. Its chance
comes from OpenSSL's generator, which the operating system seeds.
"""

from __future__ import annotations

import math

import numpy as np

from edgerec.errors import ConfigError, MissingDistribution
from edgerec.types import Int64

MOST_SIGMA = 2.0**52


def discrete_gaussian(sigma: float, n: int) -> Int64:
    """n independent whole numbers, int64 (n,), each k with a probability in proportion to exp(−k² / 2σ²).

    Their variance is at most σ². Raises ConfigError for a σ that is not in 0 … 2⁵², MissingDistribution without OpenDP.
    """
    if not math.isfinite(sigma) or not 0 < sigma <= MOST_SIGMA:
        raise ConfigError(f"noise of standard deviation {sigma!r}", hint="a number above 0 and up to 2^52, in units")
    try:
        from opendp.domains import atom_domain, vector_domain
        from opendp.measurements import make_gaussian
        from opendp.metrics import l2_distance
        from opendp.mod import enable_features
    except ModuleNotFoundError:
        raise MissingDistribution("noise needs OpenDP", hint="pip install 'edgerec-exporters[federation]'") from None
    enable_features("contrib")
    mechanism = make_gaussian(vector_domain(atom_domain(T=int)), l2_distance(T=float), scale=float(sigma))
    return np.array(mechanism([0] * n), np.int64)
