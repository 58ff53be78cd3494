"""The arms of a simulation: configurations of one runtime over one bundle, and the central reference arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgerec import Config
from edgerec.errors import RequestError
from edgerec_tools import central

NO_UPDATER = "none"
CENTRAL = "central"
DEFAULT = ("popular", "frozen", "fresh", "foldin", "personalised")
REFERENCES = ("frozen", "fresh")
"""The arms that every other arm is compared with."""
STANDARD = "personalised"
"""The arm that one under another updater is compared with as well."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One configuration of the runtime under trial. `against`: arms that it is compared with besides `REFERENCES` ·
    `rounds`: whether its devices take part in rounds, and under a privacy budget ("dp"); empty: they do not."""

    name: str
    title: str
    config: Config
    against: tuple[str, ...] = ()
    rounds: str = ""

    @property
    def learns(self) -> bool:
        """Whether recording changes anything but the history."""
        return self.config.learn_blend or self.config.updater != NO_UPDATER


def _frozen(cutoff: float) -> Config:
    # An event at the very cut-off belongs to the replay.
    return Config(updater=NO_UPDATER, learn_blend=False, history_until=math.nextafter(cutoff, -math.inf))


_Configure = Callable[[float], Config]
_ARMS: dict[str, tuple[str, _Configure]] = {
    "popular": (
        "popularity alone",
        lambda _: Config(updater=NO_UPDATER, learn_blend=False, weights={"popular": 1.0}),
    ),
    "frozen": ("history and habits as of the cut-off", _frozen),
    "fresh": ("live history, nothing learned", lambda _: Config(updater=NO_UPDATER, learn_blend=False)),
    "foldin": (
        "live history, exact ridge user vector, always served",
        # a baseline is compared as it is, not where a guard lets it through
        lambda _: Config(updater="foldin", learn_blend=False, guard=False),
    ),
    "personalised": ("live history, learned user vector and blend, guarded", lambda _: Config()),
    "personalised-sgd": ("personalised without a user vector", lambda _: Config(updater=NO_UPDATER)),
    "personalised-blend": ("personalised without learning the blend", lambda _: Config(learn_blend=False)),
    "personalised-habit": (
        "personalised without habits",
        lambda _: Config(disabled_sources=("habit", "repeat")),
    ),
}
FEDERATED = "federated"
_ROUNDS = {
    FEDERATED: Arm(FEDERATED, "personalised, with deltas and the bundles they bring", Config(), (STANDARD,), "open"),
    f"{FEDERATED}+dp": Arm(
        f"{FEDERATED}+dp", "federated under a privacy budget", Config(), (STANDARD, FEDERATED), "dp"
    ),
}
CENTRAL_ARMS = {f"{CENTRAL}/{name}": title for name, title in central.ARMS.items()}


def choose(wanted: Iterable[str], cutoff: float, updater: str | None = None) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The device arms, and the names within `central.ARMS` of the central ones, each once, in the order given.

    `wanted` may hold "all" and "central" beside single names. `updater` adds the arm `personalised` under that
    updater, named after it and compared with it. `cutoff`: POSIX seconds. Raises RequestError for an unknown name, or
    for none.
    """
    names = dict.fromkeys(name for entry in wanted for name in _expanded(entry))
    device = [Arm(name, _ARMS[name][0], _ARMS[name][1](cutoff)) for name in names if name in _ARMS]
    device += [_ROUNDS[name] for name in names if name in _ROUNDS]
    if updater is not None:
        name = updater if updater not in _ARMS else f"personalised+{updater}"
        title = f"personalised by the updater {updater}"
        device.append(Arm(name, title, Config(updater=updater), against=(STANDARD,)))
    if not device and not names:
        raise RequestError("no arm was chosen", hint=f"arms: {', '.join(known())}")
    return tuple(device), tuple(name.partition("/")[2] for name in names if name in CENTRAL_ARMS)


def known() -> list[str]:
    """Every name that `choose` takes."""
    return [*_ARMS, *_ROUNDS, *CENTRAL_ARMS, CENTRAL, "all"]


def _expanded(entry: str) -> list[str]:
    if entry == "all":
        return [*_ARMS, *CENTRAL_ARMS]
    if entry == CENTRAL:
        return list(CENTRAL_ARMS)
    if entry not in _ARMS and entry not in _ROUNDS and entry not in CENTRAL_ARMS:
        raise RequestError(f"there is no arm {entry!r}", hint=f"arms: {', '.join(known())}")
    return [entry]
