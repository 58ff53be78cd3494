"""Whether bytes are a delta that this gateway takes: its form, its blocks, its bundle version, its length."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np

from edgerec.bundle.federated import RING_WIDTH, BlockSpec, payload_size
from edgerec.deltas import DeltaError
from edgerec.federation.encoding import OPEN, SEED, SEED_BYTES, SHARE, Payload, check_layout, decode, parse
from edgerec.types import Float32
from edgerec_exporters.gateway.policy import SPLIT_MODE
from edgerec_exporters.gateway.refusal import Refused
from edgerec_exporters.gateway.store import OpenBundle

MARGIN = 1e-5
"""Relative, of a norm that the device held in float32; rounding to units keeps it within the bound."""
_SURE = 5.0
"""Standard deviations of a norm of Gaussian noise: beyond it lies less than one device in 250,000."""


class Validator:
    """Checks payloads against the bundles that are open. `local_noise`: the multiplier of the noise that devices add
    themselves, by which deltas are longer than their bounds; 0 for none.
    """

    def __init__(self, bundles: Mapping[int, OpenBundle], mode: str, *, local_noise: float = 0.0) -> None:
        self.kinds = (SHARE, SEED) if mode == SPLIT_MODE else (OPEN,)
        self._bundles = bundles
        self._local_noise = local_noise

    @property
    def versions(self) -> list[int]:
        """Bundle versions that are open, ascending."""
        return sorted(self._bundles)

    def sizes(self) -> dict[int, dict[int, int]]:
        """Bundle version → kind → bytes of a payload."""
        return {
            version: {kind: _size(kind, self._bundles[version].specs) for kind in self.kinds}
            for version in self.versions
        }

    def largest(self) -> int:
        """Bytes of the largest payload that can be sound."""
        return max(size for by_kind in self.sizes().values() for size in by_kind.values())

    def check(self, delta_id: str, body: bytes) -> Payload:
        """The payload, sound. Raises Refused: 426 for a bundle version that is not open, else 422."""
        try:
            found = parse(body)
            bundle = self._bundles.get(found.bundle_version)
            if bundle is None:
                raise Refused(426, "bundle_version", "the delta is of a bundle version that is not open here")
            check_layout(found, bundle.specs)
            if found.id != delta_id:
                raise Refused(422, "id", "the delta has another id than its address")
            if found.kind not in self.kinds:
                raise Refused(422, "kind", "this gateway takes deltas in one way only: whole, or in shares")
            if found.kind == OPEN:
                self._check_length(decode(body).blocks, bundle.specs)
        except DeltaError as error:
            raise Refused(422, "form", str(error)) from None
        return found

    def _check_length(self, blocks: Mapping[str, Float32], specs: tuple[BlockSpec, ...]) -> None:
        for spec in specs:
            # No dot product: BLAS would wake all cores for it, which takes longer than the rest of the request.
            length = sqrt(float(np.square(blocks[spec.name], dtype=np.float64).sum()))
            limit = spec.bound * (1 + MARGIN)
            if self._local_noise:  # then rounding to units may make it longer, too
                deviation = sqrt((self._local_noise * spec.bound) ** 2 + spec.unit**2 / 4)
                limit += deviation * (sqrt(spec.size) + _SURE)
            if not length <= limit:
                raise Refused(422, "norm", f"block '{spec.name}' is longer than its bound")


def _size(kind: int, specs: tuple[BlockSpec, ...]) -> int:
    if kind == SEED:
        return payload_size(specs, 0) + SEED_BYTES
    return payload_size(specs, RING_WIDTH) if kind == SHARE else payload_size(specs)
