"""Delta filters `clip`, `sample` and `noise`: what one user can change is bounded, thinned, then hidden.

`clip` scales a delta down to an L2 norm of at most `bound`: over the whole delta, or with `per = "block"` each block to
`bound` of its own. `noise` adds independent Gaussian noise of standard deviation σ = multiplier · bound to every value,
`bound` being the norm that an earlier filter holds. That is the Gaussian mechanism (Dwork & Roth 2014, theorem A.1) as
DP-FedAvg uses it (McMahan et al. 2018): one user's presence moves the delta by at most `bound`, and `multiplier` is the
noise multiplier that an accountant asks for. With `per = "block"` every block is a mechanism of its own, and k blocks
together have the multiplier divided by √k.

`sample` keeps each value with the probability `share` and drops it otherwise; what is kept is divided by `share`, so
that the mean over many devices stays. A delta then tells less of its user; it proves nothing by itself.

Chance comes from the `SecureChance` that is passed in, never from a seed; what is assumed of the operating system's
is said at `edgerec.deltas.SystemChance`. All refuse a delta that is not finite, and `noise` one that is longer
than its bound: it would be sent with less privacy than promised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgerec.deltas import Delta, DeltaError, sound
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import DeltaFilterFactory, SecureChance, Settings
from edgerec.records import changed
from edgerec.types import Float32
from edgerec_plugins.settings import SettingsReader

PER = ("block", "delta")
MAX_BOUND = 1e6
_LARGEST = float(np.finfo(np.float32).max)
MARGIN = 1e-12
"""Relative; more than the rounding of a norm in float64."""


class Clip:
    name = "clip"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("clip", settings)
        self.bound = take.number("bound", 1.0, 0, MAX_BOUND, above_low=True)
        self.per = take.choice("per", "delta", PER)
        take.done()

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        """Raises DeltaError for a delta that is not finite. The norm of what it gives never exceeds the bound."""
        blocks: dict[str, Float32] = {}
        for part in _parts(sound(delta), self.per):
            length = part.length()
            scale = 1.0 if length <= self.bound else self.bound / length * (1 - MARGIN)
            blocks |= {name: _scaled(block, scale) for name, block in part.blocks.items()}
        return changed(delta, blocks=blocks)


class Noise:
    name = "noise"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("noise", settings)
        self.multiplier = take.number("multiplier", 1.0, 0, 1000, above_low=True)
        self.bound = take.number("bound", 1.0, 0, MAX_BOUND, above_low=True)
        self.per = take.choice("per", "delta", PER)
        take.done()

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        """Raises DeltaError for a delta that is not finite, or longer than the bound."""
        for part in _parts(sound(delta), self.per):
            if (length := part.length()) > self.bound:
                raise DeltaError(
                    f"noise: a {self.per} of length {length:.3g}, more than {self.bound:g}",
                    hint="put clip, with the same bound, before noise",
                )
        sigma = self.multiplier * self.bound
        drawn = chance.normal(sum(map(len, delta.blocks.values())))
        blocks: dict[str, Float32] = {}
        for name, block in delta.blocks.items():
            now, drawn = drawn[: len(block)], drawn[len(block) :]
            blocks[name] = (block + sigma * now).astype(np.float32)
        return changed(delta, blocks=blocks)


class Sample:
    name = "sample"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("sample", settings)
        self.share = take.number("share", 0.5, 0, 1, above_low=True)
        take.done()

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        """Raises DeltaError for a delta that is not finite. It can make a delta longer: put `clip` behind it."""
        blocks = {}
        for name, block in sound(delta).blocks.items():
            kept = chance.uniform(len(block)) < self.share
            made = np.where(kept, block / np.float64(self.share), 0)
            blocks[name] = np.clip(made, -_LARGEST, _LARGEST).astype(np.float32)
        return changed(delta, blocks=blocks)


def _parts(delta: Delta, per: str) -> Iterator[Delta]:
    """What the bound holds for: the delta, or each of its blocks."""
    if per == "delta":
        yield delta
    else:
        for name, block in delta.blocks.items():
            yield changed(delta, blocks={name: block})


def _scaled(block: Float32, scale: float) -> Float32:
    """`scale` times the block, rounded towards 0, so that rounding makes nothing longer."""
    if scale == 1:
        return block.copy()
    exact = block * np.float64(scale)
    rounded = exact.astype(np.float32)
    return np.where(np.abs(rounded) > np.abs(exact), np.nextafter(rounded, np.float32(0)), rounded)


@hookimpl
def edgerec_delta_filters() -> Mapping[str, DeltaFilterFactory]:
    return {one.name: one for one in (Clip, Sample, Noise)}
