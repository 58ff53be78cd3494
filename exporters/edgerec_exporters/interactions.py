"""What training reads: plain columns of who took what, when, and what the items are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import EventKind
from edgerec.errors import TrainingError

KNOWN_KINDS: Mapping[str, EventKind] = {
    "purchase": EventKind(1.0, consumes=True),
    "rating": EventKind(1.0, consumes=True),
    "click": EventKind(0.3),
    "dislike": EventKind(-1.0),
    "like": EventKind(0.7),
    "dwell": EventKind(0.3),
    "view": EventKind(0.1),
    "skip": EventKind(-0.3, hides=False),
    "impression": EventKind(0.0),
}
"""A bundle understands these beside the kinds of its data: apps see clicks where a shop's files hold purchases. A
skipped item counts against its like, but is not hidden; an impression, which pages log by themselves, teaches nothing.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Columns of events, all (n_events,), ordered by basket and baskets by time.

    `user`, `item` int32 rows · `at` float64 POSIX seconds UTC · `group` int64 number of the basket · `kind` int64
    index into `kinds` · `value` float32, NaN where there is none · `items`, `titles`, `attributes` per item.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    group: NDArray[np.int64]
    kind: NDArray[np.int64]
    value: NDArray[np.float32]
    n_users: int
    items: Sequence[str]
    titles: Sequence[str]
    attributes: Sequence[Mapping[str, Any]]
    kinds: Sequence[str] = ("purchase",)
    name: str = "data"

    def __post_init__(self) -> None:
        columns = (self.user, self.item, self.at, self.group, self.kind, self.value)
        described = (self.titles, self.attributes)
        if any(len(c) != len(self.item) for c in columns) or any(len(d) != self.n_items for d in described):
            raise TrainingError("the columns of the data set differ in length")
        if len(self.item) and not (_within(self.user, self.n_users) and _within(self.item, self.n_items)):
            raise TrainingError("an event names a user or an item that does not exist")
        if not np.isfinite(self.at).all():
            raise TrainingError("an event has no finite time")

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self.items)

    def before(self, at: float) -> Interactions:
        """The baskets that begin before `at`, POSIX seconds."""
        begins = np.full(int(self.group.max(initial=-1)) + 1, np.inf)
        np.minimum.at(begins, self.group, self.at)
        return self._select(begins[self.group] < at)

    def without(self, groups: NDArray[np.int64]) -> Interactions:
        """All but the baskets of these numbers."""
        return self._select(~np.isin(self.group, groups))

    def _select(self, keep: NDArray[np.bool_]) -> Interactions:
        names = ("user", "item", "at", "group", "kind", "value")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    @property
    def event_kinds(self) -> dict[str, EventKind]:
        """The data's kinds in the order of their codes, then the other known ones.

        Where no kind of the data is known to consume, all of them do: else nothing would ever count as seen.
        """
        known = [KNOWN_KINDS.get(name, EventKind(1.0)) for name in self.kinds]
        if not any(kind.consumes for kind in known):
            known = [replace(kind, consumes=kind.weight > 0) for kind in known]
        return {**dict(zip(self.kinds, known, strict=True)), **_others(self.kinds)}

    @classmethod
    def from_dataset(cls, dataset: Any) -> Interactions:
        """The columns of an `edgerec_tools.datasets.Dataset`."""
        columns = {name: np.asarray(values) for name, values in dataset.attributes.items()}
        attributes = [
            {name: values[row].item() for name, values in columns.items() if _given(values[row])}
            for row in range(dataset.n_items)
        ]
        return cls(
            user=dataset.user,
            item=dataset.item,
            at=dataset.at,
            group=dataset.group,
            kind=dataset.kind.astype(np.int64),
            value=dataset.value,
            n_users=dataset.n_users,
            items=dataset.items,
            titles=dataset.titles,
            attributes=attributes,
            kinds=dataset.kinds,
            name=dataset.name,
        )


def _others(kinds: Sequence[str]) -> dict[str, EventKind]:
    return {name: kind for name, kind in KNOWN_KINDS.items() if name not in kinds}


def _within(rows: NDArray[Any], size: int) -> bool:
    return int(rows.min()) >= 0 and int(rows.max()) < size


def _given(value: Any) -> bool:
    return bool(np.isfinite(value)) if isinstance(value, np.floating) else bool(value)
