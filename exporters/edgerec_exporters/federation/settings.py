"""What an operator decides about rounds: read from TOML or a mapping, checked, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from edgerec.config import read_toml
from edgerec.errors import ConfigError
from edgerec_exporters.federation.growth import Growth
from edgerec_plugins.settings import SettingsReader

MODES = ("open", "split")
SERVERS = ("none", "fedadam")
KINDS = ("none", "central", "local")
SUMS = ("mean", "bounded_mean")
"""Rules whose result is a sum over devices, one share of it for each."""
LIMITS: Mapping[str, tuple[float, float]] = {"item_counts": (0.0, 1.0), "pair_sketch": (-2.0, 2.0)}
"""By kind of block: between what an honest device's value lies, for `bounded_mean`; others go by their bound."""


@dataclass(frozen=True, slots=True)
class PrivacySettings:
    """User-level differential privacy. `kind`: "central", the server adds noise to the sum; "local", devices did.

    `epsilon`, `delta`: what one enrolled key may lose within `period_days`, in at most `most_rounds` rounds ·
    `multiplier`: the noise's standard deviation over the sensitivity, all blocks of a round together; None: the least
    that lets a key take part in `most_rounds` rounds · `shares`: block → how much of a round's loss it may cost, in
    proportion; empty: see `share_of`.
    """

    kind: str = "none"
    epsilon: float = 8.0
    delta: float = 1e-5
    most_rounds: int = 52
    period_days: float = 365.0
    multiplier: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"round.privacy.kind = {self.kind!r}", hint=f"one of {', '.join(KINDS)}")
        if bad := [name for name, share in self.shares.items() if not 0 < share <= 1]:
            raise ConfigError(f"round.privacy.shares: {bad[0]} must be more than 0 and at most 1")

    def share_of(self, bounds: Mapping[str, float]) -> dict[str, float]:
        """Block → its share of a round's privacy loss, adding up to 1; `bounds`: by block. Without `shares` all have
        the same, but for local noise: there the devices' filter `noise` gives every value the same standard deviation,
        which is a share in proportion to the bound squared. Raises ConfigError for other names.
        """
        shares = self.shares or {name: bound**2 if self.kind == "local" else 1.0 for name, bound in bounds.items()}
        if set(shares) != set(bounds):
            raise ConfigError(
                f"round.privacy.shares names {', '.join(sorted(shares))}", hint=f"the blocks: {', '.join(bounds)}"
            )
        whole = sum(shares.values())
        return {name: shares[name] / whole for name in bounds}


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """How deltas become a result. Impossible combinations raise ConfigError.

    `aggregator`, `constants`: an aggregator that a plugin registers, or "bounded_mean" · `mode`: "open", one gateway
    sees single deltas, or "split", only sums are seen · `least_cohort`: devices without which there is no result ·
    `most_weight`: what the weight of a device counts at most, where weights are given · `bucket`: devices per random
    group, whose means a robust rule sees · `server`, `server_constants`: what is done with the mean · `most_lag`:
    how many versions older than the bundle a delta may be · `shrink`: noisy counts are drawn towards 0 by so many of
    the noise's standard deviations · `growth`: how far a round may move an item, None: as far as it likes.
    """

    aggregator: str = "mean"
    constants: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "open"
    least_cohort: int = 50
    most_weight: float = 1.0
    bucket: int = 1
    server: str = "none"
    server_constants: Mapping[str, float] = field(default_factory=dict)
    most_lag: int = 2
    shrink: float = 0.0
    growth: Growth | None = None
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, MODES), ("server", self.server, SERVERS)):
            if value not in known:
                raise ConfigError(f"round.{name} = {value!r}", hint=f"one of {', '.join(known)}")
        self._check_split()
        self._check_privacy()

    @property
    def robust(self) -> bool:
        """Whether the rule looks at devices one by one, and its result is no sum over them."""
        return self.aggregator not in SUMS

    def _check_split(self) -> None:
        if self.mode == "split" and (self.aggregator != "mean" or self.bucket != 1):
            rule = self.aggregator if self.aggregator != "mean" else "bucketing"
            raise ConfigError(
                f"round.mode = 'split' with {rule}: nobody sees single deltas, so none can be left out",
                hint="mode = 'open', or aggregator = 'mean' without buckets",
            )
        if self.bucket > 1 and not self.robust:
            raise ConfigError(f"round.bucket = {self.bucket} changes nothing for {self.aggregator}", hint="bucket = 1")

    def _check_privacy(self) -> None:
        kind = self.privacy.kind
        if kind == "central" and self.robust:
            raise ConfigError(
                f"central privacy with {self.aggregator}: what one device can change of its result has no bound",
                hint="aggregator = 'mean' or 'bounded_mean', or kind = 'local'",
            )
        if kind == "local" and self.aggregator == "bounded_mean":
            raise ConfigError("bounded_mean with local privacy: it would cut the devices' noise", hint="kind='central'")


def load_settings(source: RoundSettings | Mapping[str, Any] | str | Path | None) -> RoundSettings:
    """Checked settings from a TOML file or a mapping with the section [round]; None: the defaults.

    Raises ConfigError for unknown names and impossible values.
    """
    if isinstance(source, RoundSettings):
        return source
    data = {} if source is None else source if isinstance(source, Mapping) else read_toml(Path(source))
    if unknown := sorted(set(data) - {"round"}):
        raise ConfigError(f"unknown section {unknown[0]!r}", hint="the settings of rounds are in [round]")
    sections = dict(_section(data, "round"))
    privacy = _privacy(_section(sections, "privacy"))
    constants, server_constants = _section(sections, "constants"), _section(sections, "fedadam")
    growth = _growth(sections)
    for name in ("privacy", "constants", "fedadam", "growth"):
        sections.pop(name, None)
    take = SettingsReader("round", sections)
    aggregator = sections.get("aggregator", "mean")
    if not isinstance(aggregator, str):
        raise ConfigError(f"round: 'aggregator' cannot be {aggregator!r}", hint="it must be an aggregator's name")
    read = RoundSettings(
        aggregator=take.choice("aggregator", "mean", {aggregator, "mean"}),
        constants=dict(constants),
        mode=take.choice("mode", "open", MODES),
        least_cohort=take.whole("least_cohort", 50, 1, 10**9),
        most_weight=take.number("most_weight", 1.0, 0, 1e6, above_low=True),
        bucket=take.whole("bucket", 1, 1, 10**6),
        server=take.choice("server", "none", SERVERS),
        server_constants={str(name): cast(float, value) for name, value in server_constants.items()},
        most_lag=take.whole("most_lag", 2, 0, 10**6),
        shrink=take.number("shrink", 0.0, 0, 100),
        growth=growth,
        privacy=privacy,
    )
    take.done()
    return read


def _privacy(section: Mapping[str, Any]) -> PrivacySettings:
    take = SettingsReader("round.privacy", {name: value for name, value in section.items() if name != "shares"})
    shares = SettingsReader("round.privacy.shares", _section(section, "shares"))
    multiplier = take.number("multiplier", 0.0, 0, 1000)
    read = PrivacySettings(
        kind=take.choice("kind", "none", KINDS),
        epsilon=take.number("epsilon", 8.0, 0, 1000, above_low=True),
        delta=take.number("delta", 1e-5, 0, 0.1, above_low=True),
        most_rounds=take.whole("most_rounds", 52, 1, 100_000),
        period_days=take.number("period_days", 365.0, 0, 36_525, above_low=True),
        multiplier=multiplier or None,
        shares={name: shares.number(name, 1.0, 0, 1, above_low=True) for name in _section(section, "shares")},
    )
    take.done()
    return read


def _growth(sections: Mapping[str, Any]) -> Growth | None:
    if "growth" not in sections:
        return None
    take, default = SettingsReader("round.growth", _section(sections, "growth")), Growth()
    read = Growth(
        floor=take.number("floor", default.floor, 0, 1),
        most=take.number("most", default.most, 0, 1e6),
        least=take.number("least", default.least, 0, 1e6),
    )
    take.done()
    return read


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"'{name}' must be a section", hint=f"write [{name}] and its keys below")
    return section
