"""What a gateway counts, for Prometheus: nothing that tells one device from another."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """One gateway's counters, in a registry of their own. `waiting`: how many deltas wait, asked at every scrape."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "edgerec_gateway_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.refused = Counter("edgerec_gateway_refused", "Requests refused.", ("reason",), registry=self.registry)
        self.deltas = Counter("edgerec_gateway_deltas", "Deltas acknowledged.", ("outcome",), registry=self.registry)
        self.enrolments = Counter("edgerec_gateway_enrolments", "Keys enrolled.", registry=self.registry)
        self.bytes = Counter("edgerec_gateway_body_bytes", "Bytes of bodies read.", registry=self.registry)
        self.seconds = Histogram(
            "edgerec_gateway_request_seconds", "Time per request.", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "edgerec_gateway_writes_per_commit",
            "Requests that shared a transaction.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        gauge = Gauge("edgerec_gateway_waiting", "Deltas that wait for a round.", registry=self.registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
