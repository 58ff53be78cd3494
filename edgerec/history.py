"""A user's past as arrays: what sources read, what is seen, what is hidden. Immutable; it grows by copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import Manifest
from edgerec.records import changed, locked, record
from edgerec.types import Bools, Float32, Float64, Int32, Int64, Profile, State

Happening = tuple[int, str, float, str | None]
"""(catalogue row, event kind, POSIX seconds, group) of one event whose item is known."""


@record
class History:
    """Events of `history_kinds` as in `Profile`, and two masks over the catalogue, bool (n_items,).

    `seen`: items with an event of a kind that consumes. `disliked`: items whose newest judgement is a kind of
    negative weight.
    """

    manifest: Manifest
    rows: Int32
    at: Float64
    kinds: Int64
    groups: Int64
    consumes: Bools
    seen: Bools
    disliked: Bools
    until: float | None = None

    @classmethod
    def empty(cls, manifest: Manifest, until: float | None = None) -> History:
        """The history of a new user. Events later than `until` will count as seen but not enter the arrays."""
        masks = np.zeros(manifest.n_items, np.bool_)
        return cls(
            manifest,
            np.empty(0, np.int32),
            np.empty(0, np.float64),
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            np.empty(0, np.bool_),
            masks,
            masks,
            until,
        )

    def extended(self, happenings: Sequence[Happening]) -> History:
        """This history with more events, in order of arrival; late ones are sorted in by time."""
        seen, disliked = self._masks(happenings)
        kept = [h for h in happenings if self._read_by_sources(h)]
        if not kept:
            return changed(self, seen=seen, disliked=disliked)
        names, specs, old = self.manifest.kinds, self.manifest.event_kinds, len(self.rows)
        rows, at, kinds, consumes = zip(
            *[(row, at, names.index(kind), specs[kind].consumes) for row, kind, at, _ in kept], strict=True
        )
        grown: tuple[Any, ...] = (
            _appended(self.rows, rows),
            _appended(self.at, at),
            _appended(self.kinds, kinds),
            _appended(self.groups, self._group_codes(kept)),
            _appended(self.consumes, consumes),
        )
        times = grown[1][max(old - 1, 0) :].tolist()
        if any(later < earlier for earlier, later in itertools.pairwise(times)):
            order = np.argsort(grown[1], kind="stable")
            grown = tuple(array[order] for array in grown)
        new_rows, new_at, new_kinds, new_groups, new_consumes = grown
        return History(self.manifest, new_rows, new_at, new_kinds, new_groups, new_consumes, seen, disliked, self.until)

    def _read_by_sources(self, happening: Happening) -> bool:
        _, kind, at, _ = happening
        return kind in self.manifest.history_kinds and (self.until is None or at <= self.until)

    def _masks(self, happenings: Iterable[Happening]) -> tuple[Bools, Bools]:
        seen, disliked = self.seen, self.disliked
        for row, kind, _, _ in happenings:
            spec = self.manifest.event_kinds[kind]
            if spec.consumes and not seen[row]:
                seen = seen.copy() if seen is self.seen else seen
                seen[row] = True
            if spec.dislikes and not disliked[row]:
                disliked = disliked.copy()
                disliked[row] = True
            elif spec.weight > 0 and spec.consumes and disliked[row]:
                disliked = disliked.copy()
                disliked[row] = False
        return seen, disliked

    def _group_codes(self, happenings: Sequence[Happening]) -> list[int]:
        """A code per event: equal within a group, and one of its own for an event without a group."""
        # The hash of a str differs between processes; codes are only ever compared within one.
        start = len(self.rows)
        return [start + n if h[3] is None else -1 - (hash(h[3]) & 0x7FFFFFFFFFFFFFFE) for n, h in enumerate(happenings)]

    def profile(self, query: Float32, user_vector: Float32, states: dict[str, State] | None = None) -> Profile:
        """The snapshot that sources and plugins see; whoever is shown it cannot change it."""
        arrays = (self.rows, self.at, self.kinds, self.groups, self.consumes, query, user_vector)
        rows, at, kinds, groups, consumes, query, user_vector = [locked(array) for array in arrays]
        return Profile(rows, at, kinds, groups, consumes, query, user_vector, states or {})

    def window(self, length: int) -> tuple[Int32, Float32, Int64]:
        """The encoder's view of the last `length` events: rows, age in days (float32), kinds."""
        at = self.at[-length:]
        age = ((at[-1] - at) / 86400.0).astype(np.float32) if len(at) else np.empty(0, np.float32)
        return self.rows[-length:], age, self.kinds[-length:]


def _appended(array: NDArray[Any], values: Sequence[Any]) -> NDArray[Any]:
    """A longer copy of the array."""
    grown = np.empty(len(array) + len(values), array.dtype)
    grown[: len(array)] = array
    grown[len(array) :] = values
    return grown
