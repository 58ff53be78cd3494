"""Every source's scores for one profile, as serving and learning both read them."""

from __future__ import annotations

from collections.abc import Callable

from edgerec.records import field, record
from edgerec.types import Float32, Float64, Int64


@record
class ScoreTable:
    """Every source's scores for one profile, and what standardises them: (scores − mean) · scale.

    `scores` float32 (S, n_items) in the order of `names`, taste (row `taste`) under u = 0; where there is a user
    vector, a row S more: taste under the user's own u · `mean`, `scale` float64, one per row; `scale` 0 where a source
    says nothing · `extra` float64 (S,): weights on top of the blend's while little is known of the user · `failed`:
    sources that gave nothing usable; their rows are 0 · `pending`: what fills in row S; `complete` runs it.
    """

    names: tuple[str, ...]
    scores: Float32
    mean: Float64
    scale: Float64
    taste: int
    extra: Float64
    failed: tuple[str, ...] = ()
    pending: list[Callable[[], object]] = field(default_factory=list)

    @property
    def impersonal(self) -> bool:
        """Whether there is no user vector, so that taste's own row serves with and without it."""
        return len(self.scores) == len(self.names)

    def complete(self) -> None:
        """Makes sure of row S: a pass over all vectors, which a page that serves without u need not wait for."""
        for fill in tuple(self.pending):  # two threads that both run it write the same
            fill()
        self.pending.clear()

    def z(self, rows: Int64, *, personal: bool = False) -> Float64:
        """Standardised scores of some items, float64 (S, …) for catalogue rows int64 (…).

        `personal`: taste under the user's own u.
        """
        n = len(self.names)
        shape = (n,) + (1,) * rows.ndim
        z = self.scores[:n].take(rows, axis=1) - self.mean[:n].reshape(shape)
        z *= self.scale[:n].reshape(shape)
        if personal and not self.impersonal:
            self.complete()
            z[self.taste] = (self.scores[n].take(rows) - self.mean[n]) * self.scale[n]
        return z
