"""What is checked: an implementation of one of the interfaces, and how each kind is put to work."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from edgerec.checks.cases import Case, case_of, with_states
from edgerec.checks.comparing import Call, direct, fingerprint
from edgerec.checks.uploads import FixedChance, deltas_of, devices_of
from edgerec.errors import PluginError
from edgerec.interfaces import (
    Aggregator,
    CandidateSource,
    DeltaFilter,
    EventFilter,
    Reranker,
    Settings,
    Transport,
    Updater,
)
from edgerec.records import record


def _learn(one: Updater, case: Case, call: Call) -> None:
    state = call(one.initial, case.model)
    for batch in case.stream:
        state = call(one.update, state, batch)
        call(one.user_vector, state)


def _score(one: CandidateSource, case: Case, call: Call) -> None:
    for moment in case.moments:
        call(one.score, moment.request, moment.profile, case.model)


def _rerank(one: Reranker, case: Case, call: Call) -> None:
    for moment in case.moments:
        for slate in case.slates:
            call(one.rerank, slate, moment.request, moment.profile, case.model)


def _review(one: EventFilter, case: Case, call: Call) -> None:
    for place in range(1, len(case.arrivals)):
        call(one.review, case.arrivals[place], case.arrivals[:place])


def _filter(one: DeltaFilter, case: Case, call: Call) -> None:
    chance = FixedChance()
    for delta in deltas_of(case):
        call(one.filter, delta, chance)


def _send(one: Transport, case: Case, call: Call) -> None:
    def send(payload: bytes, delta_id: str) -> None:
        one.send(payload, delta_id=delta_id)

    call(send, b"a delta", "delta-0")


def _aggregate(one: Aggregator, case: Case, call: Call) -> None:
    rows = devices_of(case, one.least)
    for few in (rows, rows[: one.least]):
        call(one.aggregate, few)


@record
class Kind:
    """An interface. `method`: the one that tells it from the others · `members`: all that it asks for · `work`: makes
    every sort of call of an implementation."""

    hook: str
    method: str
    members: Mapping[str, type[Any] | None]
    work: Callable[[Any, Case, Call], None]


KINDS: Mapping[str, Kind] = {
    "updater": Kind(
        "edgerec_updaters",
        "update",
        {"name": str, "schema": int, "item_space": bool}
        | dict.fromkeys(("initial", "update", "user_vector", "migrate"), None),
        _learn,
    ),
    "source": Kind("edgerec_sources", "score", {"name": str, "score": None}, _score),
    "reranker": Kind("edgerec_rerankers", "rerank", {"name": str, "rerank": None}, _rerank),
    "filter": Kind("edgerec_event_filters", "review", {"name": str, "review": None}, _review),
    "delta_filter": Kind("edgerec_delta_filters", "filter", {"name": str, "filter": None}, _filter),
    "transport": Kind("edgerec_transports", "send", {"name": str, "send": None}, _send),
    "aggregator": Kind("edgerec_aggregators", "aggregate", {"name": str, "least": int, "aggregate": None}, _aggregate),
}


@record
class Subject:
    """An implementation under trial. `updater` makes the updater whose state a source reads, None where it has none."""

    kind: str
    factory: Callable[[Settings], Any]
    settings: Settings
    updater: Callable[[], Updater] | None = None

    def make(self) -> Any:
        """A new one, without a past."""
        return self.factory(self.settings)

    def case(self, n_items: int | None = None, dim: int | None = None) -> Case:
        """What it is tried on: the usual size, or another."""
        made = case_of() if n_items is None or dim is None else case_of(n_items, dim)
        return with_states(made, self.updater)

    def work(self, one: Any, case: Case, call: Call = direct) -> None:
        """Makes every sort of call."""
        KINDS[self.kind].work(one, case, call)

    def trace(self, one: Any, case: Case) -> list[Any]:
        """Fingerprints of all results, in the order of the calls."""
        prints = []

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            result = function(*arguments)
            prints.append(fingerprint(result))
            return result

        self.work(one, case, call)
        return prints


def factory_of(given: object) -> Callable[[Settings], Any]:
    """What makes new ones: the class or factory itself, called with settings where it takes them; copies of an object.

    Raises PluginError for something that is none of these.
    """
    if isinstance(given, type) or (callable(given) and not _kinds_of(given)):
        return _called(given)
    if _kinds_of(given):
        return lambda settings: copy.deepcopy(given)
    raise PluginError(
        f"{given!r} cannot be checked", hint="give a class, a function that makes one, or an implementation"
    )


def kind_of(given: object, factory: Callable[[Settings], Any], settings: Settings) -> str:
    """Which interface an implementation is for. Raises PluginError where it is not to be seen, or not alone."""
    found = _kinds_of(given) or _kinds_of(factory(settings))
    if len(found) != 1:
        fits = f"fits {' and '.join(found)}" if found else "has none of the methods of an interface"
        raise PluginError(f"{given!r} {fits}", hint=f"say kind={' or kind='.join(map(repr, found or KINDS))}")
    return found[0]


def _kinds_of(given: object) -> list[str]:
    return [name for name, kind in KINDS.items() if callable(getattr(given, kind.method, None))]


def _called(make: Callable[..., Any]) -> Callable[[Settings], Any]:
    wants = _wants_settings(make)
    return lambda settings: make(settings) if wants or settings else make()


def _wants_settings(make: Callable[..., Any]) -> bool:
    """Whether it cannot be called without an argument, or has one called `settings`."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return True
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(one.name == "settings" or (one.default is one.empty and one.kind not in stars) for one in parameters)
