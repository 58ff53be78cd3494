"""What a round may be refused for. The tree of all errors is drawn in `edgerec.errors`."""

from __future__ import annotations

from edgerec.deltas import DeltaError


class RoundRefused(DeltaError):
    """A round that cannot be opened, closed or answered as asked. Nothing was changed."""


class UnknownRound(RoundRefused):
    """There is no round of that number."""


class TooFewDevices(RoundRefused):
    """Fewer deltas than the minimum cohort. The round stays open, and may be closed later."""
