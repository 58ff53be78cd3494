"""How a simulated fleet holds its rounds: how often, how privately, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec.bundle.federated import ITEM_COUNTS, BlockSpec
from edgerec.errors import RequestError

if TYPE_CHECKING:
    from edgerec_exporters.federation.settings import RoundSettings

EVERY = {"daily": 1.0, "twice-weekly": 3.5, "weekly": 7.0, "fortnightly": 14.0}
BUDGET = {"kind": "central", "epsilon": 8.0, "delta": 1e-5, "most_rounds": 2}
"""Of the arm federated+dp: fewer rounds of a device with less noise do better than many: docs/results/."""
COUNTS_SHARE = 0.98
"""Of a round's privacy loss, what the counts may cost: the other blocks are of little use under noise."""


@dataclass(frozen=True, slots=True)
class Federate:
    """`every_days`: from one round to the next · `settings`: the server's · `dp`: constants of privacy for the arm with
    a budget. Shares, of the devices: `available` ones sync in a round, the others send it all the next time · `hostile`
    ones send what `attack` says, to promote the item of rank `target` by popularity · `held_out` ones send nothing, and
    judge candidates · `staged` ones run a candidate for a round before the others. Of the deltas: `dropout` are lost
    for good · `stragglers` come a round late.
    """

    every_days: float = 7.0
    available: float = 1.0
    dropout: float = 0.0
    stragglers: float = 0.0
    hostile: float = 0.0
    held_out: float = 0.0
    staged: float = 0.0
    attack: str = "promotion"
    target: int = 50
    settings: RoundSettings | None = None
    dp: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.every_days > 0:
            raise RequestError(f"a round every {self.every_days:g} days", hint="more than 0, or weekly, daily, …")
        for name in ("available", "dropout", "stragglers", "hostile", "held_out", "staged"):
            if not 0 <= getattr(self, name) <= 1:
                raise RequestError(f"--{name} {getattr(self, name):g} is no share", hint="0 … 1")


def every_days(text: str) -> float:
    """Days between rounds, from a name of EVERY or a number. Raises RequestError."""
    if text in EVERY:
        return EVERY[text]
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"--federate {text!r}", hint=f"{', '.join(EVERY)}, or a number of days") from None


def asked(
    every: str, epsilon: float | None, round_config: Path | None, *, attack: str, **shares: float
) -> tuple[Federate, list[str]]:
    """What a command line asks for, and the arms that this adds. Raises RequestError, ConfigError."""
    settings = None
    if round_config is not None:
        from edgerec_exporters.federation.settings import load_settings

        settings = load_settings(round_config)
    if shares["hostile"]:
        from edgerec_tools.studies.federated.attacks import TARGETED, UNTARGETED

        if attack not in (known := [*TARGETED, *UNTARGETED]):
            raise RequestError(f"--attack {attack!r}", hint=f"one of {', '.join(known)}")
    budget = {} if epsilon is None else {"epsilon": epsilon}
    options = Federate(every_days(every), attack=attack, settings=settings, dp=budget, **shares)
    return options, ["federated", *(["federated+dp"] if epsilon is not None else [])]


def round_settings(options: Federate, blocks: Sequence[BlockSpec], *, private: bool) -> RoundSettings:
    """The server's settings of an arm: without privacy, or with a budget for the whole replay."""
    from edgerec_exporters.federation.accountant import with_multiplier
    from edgerec_exporters.federation.growth import Growth
    from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings

    # what held against hostile devices: docs/results/attacks.md
    settings = options.settings or RoundSettings(aggregator="bounded_mean", least_cohort=10, growth=Growth())
    if not private:
        return replace(settings, privacy=PrivacySettings())
    counts = [block.kind == ITEM_COUNTS for block in blocks]
    rest = (1 - COUNTS_SHARE) / max(counts.count(False), 1)
    shares = {block.name: COUNTS_SHARE if own else rest for block, own in zip(blocks, counts, strict=True)}
    privacy = PrivacySettings(**{**BUDGET, "shares": shares, **options.dp})
    return with_multiplier(replace(settings, growth=None, privacy=privacy))
