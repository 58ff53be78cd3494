"""Plugin `safety`: two vetoes.

A bundle is not installed if it lacks more than `most_missing` (0.5) of the items in the user's history, where that has
at least `min_items` (10): what the device knows of its user would be lost. 1 switches it off.

With `forward = true` a step is not taken if every item that it was told to like lost against its drawn negatives, by
u · (v_item - mean v_negative): an updater, somebody's own perhaps, that learns backwards.
"""

from __future__ import annotations

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings
from edgerec.types import BundleReview, LearningBatch, State
from edgerec_plugins.settings import SettingsReader


class _Limits:
    def __init__(self, settings: Settings) -> None:
        take = SettingsReader("safety", settings)
        self.most_missing = take.number("most_missing", 0.5, 0, 1)
        self.min_items = take.whole("min_items", 10, 1, 1_000_000)
        self.forward = take.flag("forward", False)
        take.done()


@hookimpl
def edgerec_review_bundle(review: BundleReview, settings: Settings) -> str | None:
    limits = _Limits(settings)
    if review.n_history < limits.min_items or review.n_missing <= limits.most_missing * review.n_history:
        return None
    return f"it lacks {review.n_missing} of the {review.n_history} items that the user has to do with"


@hookimpl
def edgerec_review_update(before: State, after: State, batch: LearningBatch, settings: Settings) -> str | None:
    if not settings or not _Limits(settings).forward or not {"u"} <= set(before) & set(after):
        return None
    liked = (batch.rows >= 0) & (batch.weight > 0)
    if not liked.any():
        return None
    vectors = batch.model.vectors
    ahead = vectors[batch.rows[liked]] - vectors[batch.negatives[liked]].mean(axis=1)
    lost = ahead @ (after["u"] - before["u"]) < 0
    return "every item that was liked lost ground" if lost.all() else None
