"""What is held out for choosing: the last period before the cut-off, or each user's last event."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_exporters.examples import Baskets
from edgerec_exporters.interactions import Interactions

Rows = NDArray[np.int64]
HOLD_OUT = ("period", "last")


@dataclass(frozen=True, slots=True, eq=False)
class HoldOut:
    """`rest`: what the trial may learn from, up to `until` (POSIX seconds) · `judged` int64: numbers of the baskets
    of `baskets`, all the data's, that it is asked for, each from its user's earlier ones · `told`: for the metrics ·
    `cold` int64: rows of users of whom the trial sees nothing."""

    rest: Interactions
    until: float
    baskets: Baskets
    judged: Rows
    told: dict[str, Any]
    cold: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def without(self, users: Rows) -> HoldOut:
        """The same, with these users held out altogether."""
        groups = self.baskets.group[np.isin(self.baskets.user, users)]
        judged = self.judged[~np.isin(self.baskets.user[self.judged], users)]
        return replace(self, rest=self.rest.without(groups), judged=judged, cold=users)


def hold_out_period(data: Interactions, since: float) -> HoldOut:
    """Every basket from `since` (POSIX seconds) on whose user has a past."""
    baskets = Baskets.of(data)
    return HoldOut(data.before(since), since, baskets, baskets.with_past(since=since), {"validated_from": iso(since)})


def hold_out_last(data: Interactions) -> HoldOut:
    """The last basket of each user who has two; ties as the data have them."""
    baskets = Baskets.of(data)
    judged = last_of_each_user(baskets, baskets.with_past())
    rest = data.without(baskets.group[judged])
    return HoldOut(rest, float(data.at.max()) + 1, baskets, judged, {"validated_on": "each user's last event"})


def last_of_each_user(baskets: Baskets, chosen: Rows) -> Rows:
    """The last of the chosen baskets of each user, by user."""
    ordered = np.sort(chosen)  # by user, then time
    users = baskets.user[ordered]
    return ordered[np.append(users[1:] != users[:-1], True)] if len(ordered) else ordered


def iso(at: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(float(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
