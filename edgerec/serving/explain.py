"""Why an item stands where it stands: which past events moved its score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgerec.history import History
from edgerec.records import changed

ScoreOf = Callable[[History], float]
"""The blended score of the item in question, under another history."""


def without(history: History, place: int) -> History:
    """The history as if the event at that place had not happened (what is seen stays seen)."""
    return changed(
        history,
        rows=np.delete(history.rows, place),
        at=np.delete(history.at, place),
        kinds=np.delete(history.kinds, place),
        groups=np.delete(history.groups, place),
        consumes=np.delete(history.consumes, place),
    )


def influences(
    history: History, score: float, score_of: ScoreOf, *, last: int, keep: int
) -> Sequence[tuple[int, float]]:
    """(place in the history, effect) of the events that moved the score most, by leaving each of the `last` out.

    The effect is the score with the event minus the score without it, the user vector held fixed.
    """
    places = range(max(0, len(history.rows) - last), len(history.rows))
    effects = [(place, score - score_of(without(history, place))) for place in places]
    effects.sort(key=lambda pair: -abs(pair[1]))
    return effects[:keep]
